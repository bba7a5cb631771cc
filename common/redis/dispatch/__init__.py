"""The dispatcher's part of Redis: its wake-ups, and the secret by which the API knows it."""
