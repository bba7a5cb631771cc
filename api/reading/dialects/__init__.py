"""Tool-call dialects: one file per form in which models write calls, listed in known.py."""
