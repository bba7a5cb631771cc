"""What a reader of the chat page does and sees, for tests."""

from typing import Any

ANSWER = ".message.assistant:last-child"
ROWS = "#conversations .title"


def say(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.press("#text", "Enter")


def until_done(page: Any) -> None:
    page.wait_for_selector(f"{ANSWER}[aria-busy=false]")


def ask(page: Any, text: str) -> str:
    """Say something and wait for the whole answer."""
    num_before = page.locator(".message.assistant").count()
    say(page, text)
    page.wait_for_function("number => document.querySelectorAll('.message.assistant').length > number", arg=num_before)
    until_done(page)
    return answer(page)


def answer(page: Any) -> str:
    return page.inner_text(f"{ANSWER} .body")


def wait_for_words(page: Any, number: int) -> None:
    page.wait_for_function(
        "([selector, number]) => document.querySelector(selector)?.innerText.split(/\\s+/).length >= number",
        arg=[f"{ANSWER} .body", number],
    )


def titles(page: Any) -> list[str]:
    return page.locator(ROWS).all_inner_texts()


def more(page: Any, message: str, item: str) -> None:
    """An item of a message's menu."""
    page.focus(f"{message} >> [aria-label=More]")
    page.keyboard.press("Enter")
    page.click(f".menu >> text='{item}'")


def choose(page: Any, title: str, item: str) -> None:
    """An item of a conversation's menu, or of the menu of a folder."""
    button = page.locator(f"[aria-label='Actions for {title}'], [aria-label='Folder {title}']")
    button.focus()
    button.press("Enter")
    page.click(f".menu >> text='{item}'")
