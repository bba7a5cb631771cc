"""Streaming parsers of an answer's text: reasoning, content and tool calls. State machines without I/O."""
