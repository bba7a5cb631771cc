"""Variants of a message: nothing that was said is lost."""

import pytest

from tests.e2e.page.talk import ANSWER, answer, ask, say, until_done, wait_for_words

USER = ".message.user >> nth=0"


def edit(page, text):
    page.click(f"{USER} >> [aria-label^=Edit]")
    page.fill("[aria-label='Edit message']", text)
    page.press("[aria-label='Edit message']", "Control+Enter")


def place(page, message):
    return page.inner_text(f"{message} >> .variants span")


def test_an_edit_leaves_the_old_way_and_all_that_followed_it(chat, backend):
    ask(chat, "one")
    ask(chat, "two")
    edit(chat, "three")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: three')")
    until_done(chat)
    assert chat.locator(".message").count() == 2
    assert place(chat, USER) == "2/2"
    chat.click("[aria-label='Previous variant']")
    assert (place(chat, USER), chat.locator(".message").count(), answer(chat)) == ("1/2", 4, "You said: two")
    assert chat.evaluate("document.activeElement.ariaLabel") == "Next variant"  # there is no previous one
    ask(chat, "four")
    assert [message["content"] for message in backend.bodies[-1]["messages"]] == [
        "one", "You said: one", "two", "You said: two", "four"
    ]  # fmt: skip
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: four')")
    chat.click("[aria-label='Next variant']")
    assert answer(chat) == "You said: three"


def test_a_regenerated_answer_stands_beside_the_first(chat):
    say(chat, "slow")
    wait_for_words(chat, 3)
    chat.keyboard.press("Escape")
    until_done(chat)
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    until_done(chat)
    assert place(chat, ANSWER) == "2/2"
    assert chat.evaluate("document.activeElement.id") == "text"
    chat.click("[aria-label='Previous variant']")
    assert "Stopped" in chat.inner_text(f"{ANSWER} .status")


def test_an_answer_goes_on_in_the_variant_that_is_not_shown(chat):
    ask(chat, "hello")
    edit(chat, "slow")
    wait_for_words(chat, 3)
    chat.click("[aria-label='Previous variant']")
    assert answer(chat) == "You said: hello"
    chat.click("[aria-label='Next variant']")
    until_done(chat)
    assert answer(chat).endswith("w79")


def test_a_stopped_answer_is_continued_in_place(chat, backend):
    say(chat, "slow")
    wait_for_words(chat, 3)
    chat.keyboard.press("Escape")
    until_done(chat)
    begun = answer(chat)
    chat.click("text=Continue")
    chat.wait_for_selector(f"{ANSWER}[aria-busy=false]:has-text('and so on.')")
    assert answer(chat) == f"{begun} and so on."
    body = backend.bodies[-1]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert [(message["role"], message["content"].strip()) for message in body["messages"]] == [
        ("user", "slow"),
        ("assistant", begun),
    ]
    assert not chat.is_visible("text=Continue")
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('and so on.')")


def test_reasoning_that_was_stopped_is_continued(chat, backend):
    say(chat, "muse")
    chat.wait_for_selector(f"{ANSWER} .fold:visible")
    chat.keyboard.press("Escape")
    until_done(chat)
    chat.click("text=Continue")
    chat.wait_for_selector(f"{ANSWER}[aria-busy=false]:has-text('and so on.')")
    final = backend.bodies[-1]["messages"][-1]
    assert (final["role"], final["content"]) == ("assistant", "") and final["reasoning_content"].startswith("Hm. Hm.")


@pytest.mark.parametrize("script", ["fail", "hello"])
def test_a_refused_request_leaves_no_variant_unless_there_is_text(chat, backend, script):
    if script == "hello":
        backend.refusals.append((400, {"message": "Too long.", "code": "context_length_exceeded"}))
    say(chat, script)
    chat.wait_for_selector(f"{ANSWER} .notice:visible")
    chat.click("button:text-is('Try again')")
    chat.wait_for_function(
        "number => document.querySelectorAll('.variants').length === number", arg=int(script == "fail")
    )
    until_done(chat)
