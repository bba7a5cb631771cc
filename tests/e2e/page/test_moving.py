"""Chats are moved to folders by pointer and by keyboard; a message goes with all that follows it, and comes back."""

import json

from tests.e2e.page.talk import ANSWER, ROWS, answer, ask, choose, more, titles, until_done
from tests.e2e.page.test_conversations import exported, talks, wait_for_titles

VARIANT = ".message:has(.variants)"
PLACES = """() => [...document.querySelectorAll('#conversations [data-place]')]
    .map(place => [place.dataset.place, ...[...place.querySelectorAll('.title')].map(title => title.innerText)])"""


def drag(page, title, target):
    page.hover(f"{ROWS}:has-text('{title}')")
    page.mouse.down()
    page.mouse.move(5, 5)
    page.wait_for_selector("#conversations.dragging")
    page.hover(target)
    page.hover(target)  # the first one only enters
    page.mouse.up()


def test_a_chat_is_dragged_to_a_new_folder_to_the_pinned_ones_and_out(chat):
    talks(chat, "one", "two", "three")
    drag(chat, "one", ".new-folder")
    chat.fill("dialog.ask input", "Work")
    chat.keyboard.press("Enter")
    chat.wait_for_selector("#toast:has-text('Moved to Work: “one”.')")
    chat.click(".fold-title")  # what is moved to a folded one is seen
    drag(chat, "two", ".fold-title")
    chat.wait_for_selector(f"{ROWS}:has-text('one'):visible")
    assert chat.evaluate(PLACES) == [["folder Work", "two", "one"], ["none", "three"], ["new"]]
    choose(chat, "three", "Pin")
    drag(chat, "one", "[data-place=pinned]")
    chat.wait_for_selector("#toast:has-text('Pinned “one”.')")
    assert chat.evaluate(PLACES) == [["pinned", "three", "one"], ["folder Work", "two"], ["new"]]
    chat.click("#toast >> text=Undo")
    chat.reload()
    chat.wait_for_selector(ROWS)
    assert chat.evaluate(PLACES) == [["pinned", "three"], ["folder Work", "two", "one"], ["new"]]
    drag(chat, "three", ".fold-title")
    assert chat.evaluate(PLACES) == [["folder Work", "three", "two", "one"], ["new"]]


def test_a_chat_is_moved_and_deleted_by_keys(chat):
    talks(chat, "one", "two")
    chat.focus(f"{ROWS} >> nth=0")
    chat.keyboard.press("m")
    chat.keyboard.type("Work")
    chat.keyboard.press("Enter")
    chat.wait_for_selector("#toast:has-text('Moved to Work')")
    assert chat.evaluate("document.activeElement.innerText") == "two"
    chat.keyboard.press("ArrowDown")
    chat.keyboard.press("m")
    assert chat.locator("dialog.ask .choices button").all_inner_texts() == ["Work"]
    chat.click("dialog.ask >> text=Work")
    chat.wait_for_selector("#toast:has-text('Moved to Work: “one”.')")
    chat.focus(f"{ROWS} >> nth=0")
    chat.keyboard.press("m")
    chat.click("dialog.ask >> text=No folder")
    chat.wait_for_selector("#toast:has-text('Moved out “two”.')")
    chat.keyboard.press("Delete")
    wait_for_titles(chat, "one")


def test_a_variant_is_deleted_with_what_follows_it_and_comes_back(chat, backend):
    ask(chat, "one")
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    chat.wait_for_selector(".variants")
    until_done(chat)
    ask(chat, "two")
    more(chat, VARIANT, "Delete this variant (3 messages)")
    chat.wait_for_selector("#toast:has-text('Deleted 3 messages.')")
    assert (chat.locator(".message").count(), chat.locator(".variants").count()) == (2, 0)
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: one')")
    assert chat.locator(".message").count() == 2
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    chat.wait_for_selector(".variants")
    until_done(chat)
    ask(chat, "three")
    more(chat, VARIANT, "Delete this variant (3 messages)")
    chat.click("#toast >> text=Undo")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: three')")
    text = exported(chat, "one", "Export as JSON").path().read_text()
    assert len(json.loads(text)["conversations"][0]["messages"]) == 5
    more(chat, ".message.user >> nth=0", "Delete from here on (5 messages)")  # all of it: the chat itself
    chat.wait_for_selector("#toast:has-text('Deleted “one”.')")
    chat.click("#toast >> text=Undo")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: three')")
    assert titles(chat) == ["one"]


def test_a_refused_regeneration_is_tried_again_in_its_place(chat, backend):
    ask(chat, "one")
    backend.refusals.append((400, {"message": "No.", "code": "invalid_request"}))
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    chat.click(f"{ANSWER} button:text-is('Try again')")
    chat.wait_for_selector(f"{ANSWER} .variants")
    until_done(chat)
    assert [message["content"] for message in backend.bodies[-1]["messages"]] == ["one"]
    assert (answer(chat), chat.locator(".message").count()) == ("You said: one", 2)
