"""Dialects that write a call as a JSON object, or its arguments as one."""
