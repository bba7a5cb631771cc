"""Guesses of the next tokens, which a step verifies: they change how fast an answer comes, not which."""
