"""Dialects that write calls as code: Python, or a notation of their own."""
