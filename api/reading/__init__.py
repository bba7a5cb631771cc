"""Streaming parsers of an answer's text: reasoning, content and tool calls. Pure state machines, no I/O."""
