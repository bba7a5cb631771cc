"""Kimi K3: `<|open|>call` with `argument` elements, which name the type of their values."""

import re

from api.reading.dialects.tags.tag_dialect import tag_dialect
from api.reading.dialects.tags.tag_form import NUMBER, Tag, TagForm, Writing

OPEN, CLOSE, SEP = "<|open|>", "<|close|>", "<|sep|>"
CALL, ARGUMENT = f"{OPEN}call ", f"{OPEN}argument "


def _type_name(found: str) -> str:
    return "number" if found == "integer" else found


FORM = TagForm(
    opening=f"{OPEN}tools{SEP}",
    closing=f"{CLOSE}tools{SEP}",
    call=Tag(CALL, SEP, re.compile(rf'{re.escape(CALL)}tool="(?P<name>[^"]+)"(?: index="\d+")?{re.escape(SEP)}')),
    call_end=f"{CLOSE}call{SEP}",
    parameter=Tag(
        ARGUMENT,
        SEP,
        re.compile(rf'{re.escape(ARGUMENT)}key="(?P<name>[^"]+)"(?: type="(?P<type>[a-z]+)")?{re.escape(SEP)}'),
    ),
    parameter_end=f"{CLOSE}argument{SEP}",
    type_name=_type_name,
    writing=Writing(
        call=f'{CALL}tool="{{name}}" index="{NUMBER}"{SEP}',
        parameter=f'{ARGUMENT}key="{{name}}" type="{{type}}"{SEP}',
        call_end=f"{CLOSE}call{SEP}",
        block_end=f"{CLOSE}tools{SEP}",
        unnameable='"&\n',  # the templates escape these
    ),
)


def _detect(template: str, _: str) -> bool:
    return OPEN in template and "'argument'" in template


KIMI_K3 = tag_dialect("kimi_k3", FORM, _detect, further_marks=(OPEN, CLOSE, SEP))
