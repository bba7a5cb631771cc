"""What is done to single messages: deleted in the middle, changed in their place, taken into a chat of their own."""

from tests.e2e.page.talk import ANSWER, answer, ask, more, titles, until_done
from tests.e2e.page.test_tabs import second  # noqa: F401

AREA = "[aria-label='Edit message']"


def texts(page):
    return page.locator(".message .body").all_inner_texts()


def sent(backend):
    return [message["content"] for message in backend.bodies[-1]["messages"]]


def wait_for_messages(page, *expected):
    page.wait_for_function(
        "texts => String([...document.querySelectorAll('.message .body')].map(one => one.innerText)) === String(texts)",
        arg=list(expected),
    )


def edit(page, message, text, how):
    page.focus(f"{message} >> [aria-label=Edit]")
    page.keyboard.press("Enter")
    page.fill(AREA, text)
    page.click(f".edit button:text-is('{how}')")


def test_a_message_in_the_middle_is_deleted_and_comes_back(chat, backend, second):  # noqa: F811
    for text in ("one", "two", "three"):
        ask(chat, text)
    tab = second()
    whole = texts(chat)
    more(chat, ".message.assistant >> nth=0", "Delete only this message")
    chat.wait_for_selector("#toast:has-text('Deleted 1 message.')")
    rest = ["one", "two", "You said: two", "three", "You said: three"]
    assert texts(chat) == rest
    assert chat.evaluate("document.activeElement.id") == "text"
    wait_for_messages(tab, *rest)
    chat.click("#toast >> text=Undo")
    assert texts(chat) == whole
    wait_for_messages(tab, *whole)
    more(chat, ".message.user >> nth=0", "Delete only this message")
    chat.reload()
    wait_for_messages(chat, *whole[1:])
    ask(chat, "four")
    assert sent(backend) == [*whole[1:], "four"]


def test_the_results_of_tools_go_with_their_call(chat, backend):
    ask(chat, "tool")
    chat.locator(".calls summary").click()
    chat.fill("textarea[aria-label='Result of get_weather']", "20 degrees")
    chat.click("text=Send result")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: 20 degrees')")
    until_done(chat)
    form = ".tool-result >> nth=0"
    assert not chat.is_visible(form)
    more(chat, ".message.tool", "Delete from here on (2 messages)")
    chat.wait_for_selector(form)  # another result may be sent
    chat.click("#toast >> text=Undo")
    chat.wait_for_selector(form, state="hidden")
    more(chat, ".message.assistant >> nth=0", "Delete only this message")
    chat.wait_for_selector("#toast:has-text('Deleted 2 messages.')")
    ask(chat, "and now?")
    assert sent(backend) == ["tool", "You said: 20 degrees", "and now?"]


def test_a_message_is_changed_in_its_place_an_answer_also_continued_and_restored(chat, backend):
    ask(chat, "one")
    edit(chat, ".message.user", "uno", "Save only")
    wait_for_messages(chat, "uno", "You said: one")
    assert (len(backend.bodies), chat.locator(".variants").count(), titles(chat)) == (1, 0, ["uno"])
    chat.click("#toast >> text=Undo")
    ask(chat, "two")
    first = ".message.assistant >> nth=0"
    edit(chat, first, "I say: **one**", "Save")
    wait_for_messages(chat, "one", "I say: one", "two", "You said: two")
    assert chat.inner_text(f"{first} >> .status").startswith("Edited · ")
    assert chat.evaluate("document.activeElement.ariaLabel") == "Edit"
    chat.click("#toast >> text=Undo")
    wait_for_messages(chat, "one", "You said: one", "two", "You said: two")
    edit(chat, ANSWER, "Two, you say", "Save")
    chat.click("text=Continue >> visible=true")
    chat.wait_for_selector(f"{ANSWER}[aria-busy=false]:has-text('Two, you say and so on.')")
    assert sent(backend) == ["one", "You said: one", "two", "Two, you say"]
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('Two, you say and so on.')")
    more(chat, ANSWER, "Restore the model's text")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: two')")
    assert "Edited" not in chat.inner_text(f"{ANSWER} .status")


def test_a_chat_goes_on_from_a_message_in_a_chat_of_its_own(chat, backend):
    for text in ("one", "two"):
        ask(chat, text)
    more(chat, ".message.assistant >> nth=0", "New chat from here")
    chat.wait_for_selector("#toast:has-text('A new chat, with what was said up to there in “one”.')")
    assert (texts(chat), titles(chat)) == (["one", "You said: one"], ["Branch of one", "one"])
    assert chat.evaluate("document.activeElement.id") == "text"
    ask(chat, "three")
    assert sent(backend) == ["one", "You said: one", "three"]
    chat.reload()
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: three')")
    chat.click("#conversations .title >> text='one'")
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: two')")
    assert (answer(chat), chat.locator(".message").count()) == ("You said: two", 4)
    more(chat, ".message.user >> nth=1", "New chat from here")
    wait_for_messages(chat, "one", "You said: one")
    assert chat.input_value("#text") == "two"
