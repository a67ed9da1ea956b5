"""Strangers' files, read in amounts known beforehand whatever they claim: bytes, JSON, YAML."""
