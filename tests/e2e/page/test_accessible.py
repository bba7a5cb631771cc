"""The pages for everyone: the focus is never lost, 200 % and reduced motion work. test_looks.py has what axe finds."""

import pytest

from tests.e2e.fake_backend import fake_backend
from tests.e2e.test_page import ANSWER, BOARD, say, until_done, wait_for_words

KEPT = "document.activeElement && document.activeElement !== document.body"


@pytest.fixture
def backend():
    with fake_backend() as backend:
        backend.board = BOARD
        yield backend


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
