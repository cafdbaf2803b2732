"""Loads and stores of tiles, past the caches and ahead of time."""
