"""The run as NeMo and Lightning know it: module, strategy, callbacks, loaders, folders, preflight."""
