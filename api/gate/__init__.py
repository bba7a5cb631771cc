"""What happens to a request before its handler runs, and the errors that refuse it."""
