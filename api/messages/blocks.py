"""Anthropic's content blocks that are text in another form, and those that only Anthropic's own servers read."""

from collections.abc import Iterable, Iterator, Sequence

from api.schema.messages import BlockSource, ContentBlock

OURS = ("text", "image", "tool_use", "tool_result", "thinking")
LEFT_OUT = ("redacted_thinking", "server_tool_use", "mcp_tool_use", "mcp_tool_listing", "fallback")
OF_A_SERVER_TOOL = "_tool_result"  # the end of such a block's type: web_search_tool_result and others
BILLING = "x-anthropic-billing-header:"  # Claude Code's first line of a system prompt: changes with each request


def readable(blocks: Iterable[ContentBlock]) -> Iterator[ContentBlock]:
    """Documents, search results and the like as text, without what was written for Anthropic's servers."""
    for block in blocks:
        if block.type in LEFT_OUT or block.type.endswith(OF_A_SERVER_TOOL):
            continue
        text = None if block.type in OURS else _text_of(block)
        yield block if text is None else ContentBlock(type="text", text=text)


def without_billing(system: str | Sequence[ContentBlock]) -> str | list[ContentBlock]:
    """A system prompt without that line, if it begins with it: no prefix would ever be cached."""
    if isinstance(system, str):
        return system.partition("\n")[2] if system.startswith(BILLING) else system
    text = "".join(block.text or "" for block in system[:1])
    rest = without_billing(text)
    if rest == text:
        return list(system)
    return [*([ContentBlock(type="text", text=rest)] if isinstance(rest, str) and rest else []), *system[1:]]


def referenced_tools(blocks: Iterable[ContentBlock]) -> Iterator[str]:
    """The names in tool_reference blocks, also in those inside tools' results."""
    for block in blocks:
        if block.type == "tool_reference" and block.tool_name:
            yield block.tool_name
        elif block.type == "tool_result" and isinstance(block.content, list):
            yield from referenced_tools(block.content)


def _text_of(block: ContentBlock) -> str | None:
    """None for a block that is not text, such as a PDF."""
    if block.type == "tool_reference":
        return f"Tool {block.tool_name} is available."
    if block.type == "compaction" and isinstance(block.content, str):
        return block.content
    if block.type == "search_result" and isinstance(block.source, str):
        return _titled(block, f"{block.source}\n{_joined(block.content) or ''}")
    if block.type == "document" and isinstance(block.source, BlockSource):
        source = block.source
        text = source.data if source.type == "text" else _joined(source.content) if source.type == "content" else None
        return None if text is None else _titled(block, text)
    return None


def _titled(block: ContentBlock, text: str) -> str:
    heads = [head for head in (block.title, block.context) if head]
    return "\n".join([*heads, text]) + "\n"


def _joined(content: object) -> str | None:
    """None if a block of it is not text."""
    if isinstance(content, str):
        return content
    texts = [getattr(block, "text", None) for block in content] if isinstance(content, list) else [None]
    return None if None in texts else "".join(text or "" for text in texts)
