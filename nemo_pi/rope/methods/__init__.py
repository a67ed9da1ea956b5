"""Ways of extending a window: one file and one class each, and the registry that knows them by name."""
