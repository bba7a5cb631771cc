"""How much a caller's JSON may hold. Counted in its bytes, so that nothing is parsed that is too much."""

from common.errors import InvalidRequest

MAX_FIELDS = 65_536  # named fields, objects and lists: each costs a microsecond or more
MAX_VALUES = 400_000  # beside them: token ids, mostly


def bounded_marks(raw: bytes) -> bytes:
    """What stands outside of texts and names: numbers, and a mark for each value. Raises InvalidRequest for too many.

    Quick, so that it can be asked before anything is parsed.
    """
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    num_texts = plain.count(b'"') // 2
    if num_texts > MAX_VALUES + MAX_FIELDS:
        raise _too_many(num_texts, "texts", MAX_VALUES)
    marks = b"".join(plain.split(b'"')[::2])
    num_lists = marks.count(b"[")
    if (num_fields := marks.count(b":") + marks.count(b"{") + num_lists) > MAX_FIELDS:
        raise _too_many(num_fields, "named fields, objects and lists", MAX_FIELDS)
    if (num_values := marks.count(b",") + num_lists + 1) > MAX_VALUES:
        raise _too_many(num_values, "values", MAX_VALUES)
    return marks


def _too_many(number: int, what: str, most: int) -> InvalidRequest:
    return InvalidRequest(f"The body has {number} {what}; a request may have {most}.")
