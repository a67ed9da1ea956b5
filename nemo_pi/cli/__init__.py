"""Command lines: flags and overrides in, one message for a user's mistake out."""
