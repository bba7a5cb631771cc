"""The pages for everyone: axe finds nothing in any state, the focus is never lost, 200 % and reduced motion work."""

import json
from pathlib import Path

import pytest

from tests.e2e.fake_backend import fake_backend
from tests.e2e.test_page import ANSWER, BOARD, say, until_done, wait_for_words
from tests.e2e.test_page_models import FIVE

AXE = Path(__file__).parents[1] / "vendor" / "axe.min.js"
FORMULAS = "```math\nx^2\n```\n\n$y$ and a table\n\n| a | b |\n|--|--:|\n| 1 | 2 |\n\n- [x] done\n"
KEPT = "document.activeElement && document.activeElement !== document.body"


@pytest.fixture
def backend():
    with fake_backend() as backend:
        backend.board = BOARD
        yield backend


def faults(page):
    """What axe finds, in short."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text() + "; 0")
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [(one["id"], [node["html"][:150] for node in one["nodes"]][:3]) for one in found]


@pytest.fixture(params=["light", "dark"])
def scheme(request, page):
    page.emulate_media(color_scheme=request.param, reduced_motion="reduce")


def test_axe_finds_nothing_in_the_chat(chat, scheme, backend):
    assert faults(chat) == [], "empty"
    for text in ("markdown", "reason", "tool", "fail"):
        say(chat, text)
        until_done(chat)
        for summary in chat.locator(f"{ANSWER} summary:visible").all():
            summary.click()
        assert faults(chat) == [], text
    chat.click("#open-panel")
    for summary in chat.locator("#panel summary:visible").all():
        summary.click()
    assert faults(chat) == [], "settings"
    chat.click("#close-panel")
    chat.click(".message.user >> nth=0 >> [aria-label^=Edit]")
    assert faults(chat) == [], "editing"
    chat.keyboard.press("Escape")
    refusal = {"message": "The day's share is used.", "code": "rate_limit_exceeded", "retry_after": 3600}
    backend.refusals.append((429, refusal))  # too far away to be tried again
    say(chat, "refused")
    chat.wait_for_selector(f"{ANSWER} .notice:visible")
    assert faults(chat) == [], "refused"
    say(chat, "slow")
    wait_for_words(chat, 5)
    assert faults(chat) == [], "streaming"


def test_axe_finds_nothing_in_formulas_tables_and_lists(chat, scheme):
    chat.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const body = document.createElement("div");
            body.className = "body drawn";
            document.querySelector("#messages").replaceChildren(body);
            new MarkdownView(body).update(text);
        }""",
        FORMULAS,
    )
    chat.wait_for_selector(".katex")
    assert faults(chat) == []


@pytest.mark.parametrize("state", ["one model", "many models", "no admin"])
def test_axe_finds_nothing_on_the_board(page, scheme, backend, state):
    backend.board = BOARD | ({"shelves": [FIVE]} if state == "many models" else {})
    page.goto(backend.url + "/board")
    if state == "no admin":
        page.evaluate("localStorage.setItem('omni.admin_key', '\"sk-wrong\"')")
        page.reload()
        page.wait_for_selector("#key-form:visible")
    else:
        page.wait_for_selector(".worker, .shelf")
    assert faults(page) == []


def test_axe_finds_nothing_on_the_page_of_batches(page, scheme, backend):
    counts = {"total": 10, "completed": 3, "failed": 1}
    batch = {
        "id": "batch_a",
        "status": "in_progress",
        "endpoint": "/v1/embeddings",
        "input_file_id": "f",
        "errors": None,
    }
    batch |= {
        "request_counts": counts,
        "created_at": 1000,
        "expires_at": 9e9,
        "output_file_id": "o",
        "error_file_id": "e",
    }
    ended = batch | {
        "id": "batch_b",
        "status": "failed",
        "errors": {"data": [{"message": "Line 1: no JSON", "line": 1}]},
    }
    answer = {"object": "list", "data": [batch, ended], "last_id": None, "has_more": False}
    page.route("**/v1/batches*", lambda route: route.fulfill(body=json.dumps(answer), content_type="application/json"))
    page.route("**/v1/messages/batches*", lambda route: route.fulfill(json=answer | {"data": []}))
    page.goto(backend.url + "/batches")
    page.wait_for_selector(".batch >> nth=1")
    assert faults(page) == []


# Focus


def test_the_focus_is_never_lost(chat):
    for text in ("one", "two"):
        say(chat, text)
        until_done(chat)
    chat.focus(f"{ANSWER} [aria-label=Regenerate]")
    chat.keyboard.press("Enter")
    chat.wait_for_function(KEPT)
    until_done(chat)
    assert chat.evaluate(KEPT)
    chat.focus(".message.user >> nth=0 >> [aria-label^=Edit]")
    chat.keyboard.press("Enter")
    chat.fill("[aria-label='Edit message']", "three")
    chat.press("[aria-label='Edit message']", "Control+Enter")
    chat.wait_for_function(KEPT)
    until_done(chat)
    chat.click("#new-chat")
    say(chat, "slow")
    wait_for_words(chat, 2)
    chat.focus("#conversations button >> nth=0")
    name = chat.evaluate("document.activeElement.textContent")
    until_done(chat)  # the list is drawn anew when an answer ends
    assert chat.evaluate("document.activeElement.textContent") == name
    chat.focus("#conversations button.title >> nth=-1")
    chat.keyboard.press("Enter")
    chat.wait_for_function(f"{KEPT} && document.activeElement.closest('#conversations, #composer')")


def test_a_rebuilt_and_a_removed_element_hand_on_the_focus(chat):
    places = chat.evaluate(
        """async () => {
            const { keepFocus } = await import("/static/chat/focus.js");
            const item = (name) => `<li><button>${name}</button></li>`;
            document.body.innerHTML = `<input id='home'><ul>${item("a")}${item("b")}</ul>`;
            keepFocus(document.querySelector("#home"));
            const [list, places] = [document.querySelector("ul"), []];
            const seen = async (change) => {
                change();
                await new Promise((resolve) => setTimeout(resolve));
                places.push(document.activeElement.id || document.activeElement.textContent);
            };
            list.lastChild.firstChild.focus();
            await seen(() => (list.innerHTML = list.innerHTML));
            await seen(() => list.lastChild.remove());
            await seen(() => list.remove());
            return places;
        }"""
    )
    assert places == ["b", "a", "home"]


# Zoom


@pytest.mark.parametrize("path", ["/", "/board", "/batches"])
def test_at_200_percent_nothing_is_cut_off(browser, backend, path):
    context = browser.new_context(viewport={"width": 640, "height": 400}, device_scale_factor=2)
    page = context.new_page()
    page.goto(backend.url + path)
    page.wait_for_selector({"/": "#model option", "/board": ".worker", "/batches": "#file"}[path], state="attached")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if path == "/":
        say(page, "markdown")
        until_done(page)
        for part in ("#text", "#send", "#model", "#open-panel"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 640 and box["y"] + box["height"] <= 400, part
    context.close()


def test_with_reduced_motion_nothing_moves(chat):
    chat.emulate_media(reduced_motion="reduce")
    say(chat, "slow")
    wait_for_words(chat, 3)
    assert chat.evaluate("document.getAnimations().length") == 0
