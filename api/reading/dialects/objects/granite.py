"""Granite 3: `<|tool_call|>` + a list of JSON calls. Granite 4 writes Hermes."""

from api.reading.dialects.objects.marked_lists import marked_lists

GRANITE3 = marked_lists("granite3", "available_tools<|end_of_role|>", ("<|tool_call|>", ""), ("<tool_call>", ""))
