"""Grammars that constrain an answer's text, for llguidance, and the check that one is affordable."""
