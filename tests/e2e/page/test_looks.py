"""In the states of the pages axe finds nothing, and nothing is cut off, covered or out of the page."""

import pytest

from tests.e2e.looks import answering, chat, pages
from tests.e2e.looks.visit import SCHEMES, faults, settle, visit

# `python -m tests.e2e.looks` holds all states to it, on a desk and on a phone. Here are those with parts of their own.
ON_A_DESK = (
    chat.wrong_key, chat.editing_an_answer, chat.settings_unfolded, chat.folder_to_choose, chat.found, chat.deleted,
    answering.streaming_code, answering.full_429, answering.formulas, answering.tool_results,
    pages.board_busy, pages.batches_many,
)  # fmt: skip
ON_A_PHONE = (
    chat.empty, chat.too_long, chat.files_sent, chat.keys, chat.menu_of_a_chat, answering.failed,
    answering.table, answering.variants,
    pages.board_of_twelve_models, pages.board_without_key,
)  # fmt: skip
STATES = [(reach, "desk") for reach in ON_A_DESK] + [(reach, "phone") for reach in ON_A_PHONE]


@pytest.mark.parametrize(("reach", "size"), STATES, ids=[f"{reach.__name__}-{size}" for reach, size in STATES])
def test_a_state_has_no_fault(browser, reach, size):
    with visit(browser, size, reach) as page:
        for scheme in SCHEMES:
            settle(page, scheme)
            assert faults(page, only_colours=scheme != SCHEMES[0]) == [], scheme


SPOIL = """(rules) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(rules);
    document.adoptedStyleSheets = [sheet];
}"""
SPOILT = {
    "too wide": "body { min-width: 3000px }",
    "out of the page": "#text { position: fixed; left: -5000px }",
    "cut off": ".suggestions button { width: 20px; white-space: nowrap }",
    "covered by": "#attach { pointer-events: none }",
    "color-contrast": ".welcome p { color: #ddd }",
}


def test_each_kind_of_fault_is_found(chat):
    for fault, rules in SPOILT.items():
        chat.evaluate(SPOIL, rules)
        assert any(fault in told for told in faults(chat)), fault
