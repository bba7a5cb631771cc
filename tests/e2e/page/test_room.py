"""What is sent is sized against the model's context first: told, and never cut without a word."""

import pytest

from tests.e2e.page.talk import ANSWER, ask, say, until_done
from tests.e2e.page.test_composer import attach

NOTE = "#size-note"
SMALL = {"id": "small", "max_model_len": 1000}


def tokens(body):
    return sum(8 + len(message["content"]) // 5 for message in body["messages"])


def of(number, word="word"):
    """A text of so many tokens, in two words: the answer says them one by one."""
    return f"{word} ".ljust(number * 5, "x")


@pytest.fixture
def small(page, backend):
    backend.models = [SMALL, {"id": "large", "max_model_len": 9000}]
    backend.count = tokens
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    return page


def press(page, button):
    page.click(f"{NOTE} button:text-is('{button}')")


def until_told(page, text):
    page.wait_for_selector(f"{NOTE}:has-text('{text}')")


def starts(backend):
    """The messages of the last request, by their first word."""
    return [message["content"].split()[0] for message in backend.bodies[-1]["messages"]]


def test_a_message_that_does_not_fit_stays_in_the_box_until_a_model_holds_it(small, backend):
    small.fill("#text", "short")
    assert not small.is_visible(NOTE)
    say(small, of(2000))
    until_told(small, "This needs about 2,500 tokens; small holds 1,000.")
    assert small.inner_text("#announcement").startswith("This needs about 2,500")
    assert (backend.bodies, small.input_value("#text")) == ([], of(2000))
    press(small, "Use large")
    assert small.evaluate("document.activeElement.id") == "text"
    small.press("#text", "Enter")
    until_done(small)
    assert (backend.bodies[-1]["model"], small.is_visible(NOTE)) == ("large", False)


def test_tokens_are_counted_by_the_server_where_a_guess_is_not_enough(small, backend):
    small.fill("#text", of(900))  # the guess is 1,100
    until_told(small, "908 of 1,000 tokens with this message; 92 are left for the answer.")
    backend.count = lambda body: 1200
    small.fill("#text", of(840))
    until_told(small, "This needs 1,200 tokens; small holds 1,000.")
    assert small.locator(f"{NOTE} button").all_inner_texts() == ["Use large"]


def test_without_a_count_it_is_a_guess_that_may_be_wrong(small, backend):
    small.route("**/tokenize", lambda route: route.abort())
    say(small, of(850))
    until_told(small, "This needs about 1,100 tokens; small holds 1,000.")
    press(small, "Send anyway")
    until_done(small)
    assert starts(backend) == ["word"]
    backend.models = [{"id": "small"}]  # and does not say what it holds
    small.reload()
    small.wait_for_selector("#model option", state="attached")
    ask(small, of(2000))
    assert len(backend.bodies) == 2


def test_the_oldest_messages_are_left_out_once_that_is_chosen(small, backend):
    for word in ("one", "two"):
        ask(small, of(190, word))
    say(small, of(250, "three"))
    press(small, "Leave out the oldest messages")
    small.wait_for_selector(f"{ANSWER} .status:has-text('2 oldest messages left out')")
    until_done(small)
    assert starts(backend) == ["two", "You", "three"]
    ask(small, of(200, "four"))
    assert starts(backend) == ["three", "You", "four"]
    backend.refusals.append((400, {"message": "Too long.", "code": "context_length_exceeded"}))
    ask(small, of(200, "five"))
    assert [len(body["messages"]) for body in backend.bodies[-2:]] == [3, 1]
    small.reload()
    small.wait_for_selector(f"{ANSWER} .status:has-text('8 oldest messages left out')")


def test_a_refused_answer_offers_to_leave_out_the_oldest_messages(small, backend):
    ask(small, of(300, "one"))
    backend.refusals.append((400, {"message": "Too long.", "code": "context_length_exceeded"}))
    say(small, "two")
    small.click(f"{ANSWER} button:text-is('Leave out the oldest messages')")
    small.wait_for_selector(f"{ANSWER}:has-text('You said: two')")
    until_done(small)
    assert small.input_value("#option-overflow") == "leave out the oldest"


def test_what_a_chat_no_longer_holds_is_sent_in_a_new_one(small, backend):
    for word in ("one", "two"):
        ask(small, of(190, word))
    attach(small, {"name": "a.txt", "mimeType": "text/plain", "buffer": of(100).encode()})
    say(small, of(190, "three"))
    press(small, "Send in a new chat")
    small.wait_for_selector(".message.assistant[aria-busy=false] >> nth=0")
    until_done(small)
    assert small.locator(".message").count() == 2
    content = backend.bodies[-1]["messages"][0]["content"]
    assert content.startswith("File a.txt") and "three" in content


def test_a_file_that_is_too_long_is_shortened_and_says_so(small, backend):
    attach(small, {"name": "long.txt", "mimeType": "text/plain", "buffer": of(2000).encode()})
    until_told(small, "This needs about 2,500 tokens; small holds 1,000.")
    press(small, "Shorten long.txt")
    small.click("#toast >> text=Undo")
    until_told(small, "This needs about 2,500 tokens; small holds 1,000.")
    press(small, "Shorten long.txt")
    small.wait_for_selector("#tray :text-matches('long.txt · the first 2,[0-9]+ of 10,000 characters')")
    say(small, "What is this?")
    until_done(small)
    assert "(long.txt goes on; these are 2" in backend.bodies[-1]["messages"][0]["content"]
    assert tokens(backend.bodies[-1]) < 1000
