"""Two tabs of one browser: one reads an answer, the other follows it, stops it, goes on with it or deletes its chat."""

import pytest

from tests.e2e.page.talk import ANSWER, answer, ask, choose, more, say, titles, until_done, wait_for_words


@pytest.fixture
def second(chat, backend):
    """Opens a second tab, whose errors fail the test, too."""

    def open_tab():
        tab = chat.context.new_page()
        tab.on("pageerror", lambda error: chat.complaints.append(str(error)))
        tab.goto(backend.url)
        tab.wait_for_selector("#model option", state="attached")
        return tab

    return open_tab


def requests_for_answers(backend):
    return [line for line in backend.log if "chat/completions" in line]


def test_one_tab_reads_an_answer_and_the_other_shows_it(chat, second, backend):
    say(chat, "pause")
    tab = second()
    wait_for_words(tab, 9)
    assert tab.is_visible("#stop")
    backend.goes_on.set()
    until_done(chat)
    until_done(tab)
    assert answer(tab).endswith("w79") and tab.is_visible("#send")
    assert requests_for_answers(backend) == ["POST /v1/chat/completions"]


def test_the_other_tab_stops_it(chat, second, backend):
    say(chat, "pause")
    wait_for_words(chat, 3)
    tab = second()
    wait_for_words(tab, 3)
    tab.click("#stop")
    for page in (chat, tab):
        until_done(page)
        assert "Stopped" in page.inner_text(f"{ANSWER} .status")
    assert "DELETE /v1/jobs/chatcmpl-1" in backend.log


def test_the_other_tab_goes_on_when_the_first_is_closed(chat, second, backend):
    tab = second()
    say(chat, "pause")
    wait_for_words(chat, 3)
    chat.wait_for_selector(f"{ANSWER} .status:has-text('Paused')")
    tab.click("#conversations .title >> text=pause")
    chat.close()
    backend.goes_on.set()
    until_done(tab)
    assert answer(tab).endswith("w79")
    assert len(requests_for_answers(backend)) == 2 and "starting_after=" in backend.log[-1]


def test_a_chat_that_is_deleted_in_another_tab_while_it_answers_stays_deleted(chat, second, backend):
    ask(chat, "first")
    chat.click("#new-chat")
    say(chat, "pause")
    wait_for_words(chat, 3)
    tab = second()
    wait_for_words(tab, 3)
    choose(tab, "pause", "Delete")
    for page in (chat, tab):
        page.wait_for_selector(f"{ANSWER}:has-text('You said: first')")
    ask(chat, "second")
    assert "DELETE /v1/jobs/chatcmpl-2" in backend.log
    for page in (chat, tab):
        page.reload()
        page.wait_for_selector(f"{ANSWER}:has-text('You said: second')")
        assert titles(page) == ["first"]


def test_a_chat_that_is_brought_back_is_there_in_both(chat, second):
    ask(chat, "first")
    tab = second()
    choose(tab, "first", "Delete")
    chat.wait_for_selector(".welcome")
    tab.click("#toast >> text=Undo")
    chat.click("#conversations .title >> text=first")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: first')")
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: first')")


def test_a_deleted_variant_goes_in_both(chat, second):
    ask(chat, "first")
    tab = second()
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    tab.wait_for_selector(f"{ANSWER}[aria-busy=false] .variants")
    more(tab, ANSWER, "Delete this variant (1 message)")
    for page in (chat, tab):
        page.wait_for_function("() => document.querySelectorAll('.variants').length === 0")
        assert page.locator(".message").count() == 2
