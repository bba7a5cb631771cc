"""What each key used, and all that it owns."""
