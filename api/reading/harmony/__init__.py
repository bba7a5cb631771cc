"""Harmony, the form of gpt-oss: an answer is several messages in channels, of which those to functions are calls."""
