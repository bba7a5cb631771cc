"""Checks of a request before its handler runs, and the errors that refuse it."""
