"""Refusals of a chat request that was made of another endpoint's: they name the fields that were sent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from common.errors import InvalidRequest

RENUMBERED = ("messages", "tools")  # a system prompt becomes a message, and tools that are not ours are left out


@contextmanager
def named(sent: Mapping[str, str]) -> Iterator[None]:
    """In the block, refusals name `sent[field]` for the chat request's `field`."""
    try:
        yield
    except InvalidRequest as refused:
        if refused.param is not None:
            renamed = name_of(refused.param, sent)
            refused.message = refused.message.replace(f"'{refused.param}'", f"'{renamed}'")
            refused.param = renamed
        raise


def name_of(param: str, sent: Mapping[str, str]) -> str:
    known = max((name for name in sent if is_part(param, name)), key=len, default=None)
    if known is None:
        return param
    return sent[known] if known in RENUMBERED else sent[known] + param[len(known) :]


def is_part(param: str, name: str) -> bool:
    return param == name or param.startswith((f"{name}.", f"{name}["))
