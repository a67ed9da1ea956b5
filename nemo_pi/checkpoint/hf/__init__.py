"""Hugging Face folders: their config.json, weights and side files, read and written."""
