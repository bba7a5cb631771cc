"""Where one is: each chat has an address and a draft of its own, also over a reload and in two tabs."""

from tests.e2e.page.talk import ANSWER, answer, ask, say, until_done, wait_for_words


def open_chat(page, title):
    page.click(f"#conversations .title >> text={title}")


def test_back_and_a_reload_show_the_chat_of_the_address(chat):
    for text in ("one", "two"):
        chat.click("#new-chat")
        ask(chat, text)
    two = chat.url
    assert "#/chat/" in two
    open_chat(chat, "one")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: one')")
    other = chat.context.new_page()
    other.goto(two)
    other.wait_for_selector(f"{ANSWER}:has-text('You said: two')")
    chat.reload()  # what another tab opened last is no matter
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: one')")
    chat.go_back()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: two')")
    chat.click("#new-chat")
    assert "#" not in chat.url
    chat.reload()
    chat.wait_for_selector(".welcome")
    chat.go_back()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: two')")
    chat.focus(".skip")
    chat.keyboard.press("Enter")
    assert answer(chat) == "You said: two"


def test_each_chat_keeps_what_was_typed_in_it(chat):
    ask(chat, "one")
    chat.fill("#text", "more of one")
    chat.click("#new-chat")
    assert chat.input_value("#text") == ""
    chat.fill("#text", "something new")
    chat.reload()
    chat.wait_for_function("() => document.querySelector('#text').value === 'something new'")
    open_chat(chat, "one")
    chat.wait_for_function("() => document.querySelector('#text').value === 'more of one'")
    chat.press("#text", "Enter")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: more of one')")
    until_done(chat)
    chat.reload()
    chat.wait_for_selector(ANSWER)
    assert chat.input_value("#text") == ""


def test_a_message_sent_while_an_answer_runs_follows_it(chat, backend):
    say(chat, "pause")
    wait_for_words(chat, 3)
    say(chat, "next")
    chat.wait_for_selector("#send-note:has-text('Sent as soon as the answer has ended.')")
    assert len(backend.bodies) == 1
    backend.goes_on.set()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: next')")
    assert backend.bodies[-1]["messages"][1]["content"].endswith("w79")
