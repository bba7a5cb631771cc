"""Dispatchers with one mechanism broken: `python -m tests.dispatcher.broken.NAME` runs as dispatcher.main does."""
