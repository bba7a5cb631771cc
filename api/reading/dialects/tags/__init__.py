"""Dialects that write each parameter of a call between tags."""
