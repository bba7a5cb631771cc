"""The chat page and the board against the whole real service."""

import json
import re

import pytest

from tests.service import RunningService

ANSWER = ".message.assistant:last-child"
STORY = "Tell me a long story about a fox."
LENGTH = {"ignore_eos": True, "max_tokens": 600}  # long enough to do something meanwhile, whatever the model says


@pytest.fixture
def chat(page, service: RunningService):
    page.set_default_timeout(20_000)
    page.route("**/v1/chat/completions", lengthen)
    page.goto(service.url)
    page.wait_for_selector("#model option", state="attached")
    page.evaluate("document.querySelector('#model').value = 'omni-demo'")
    page.dispatch_event("#model", "change")
    return page


def lengthen(route):
    route.continue_(post_data=json.dumps(json.loads(route.request.post_data) | LENGTH))


def say(page, text):
    page.fill("#text", text)
    page.press("#text", "Enter")


def wait_for_text(page, length):
    page.wait_for_function(
        "([selector, length]) => document.querySelector(selector)?.textContent.length >= length",
        arg=[f"{ANSWER} .body", length],
    )


def until_done(page):
    page.wait_for_selector(f"{ANSWER}[aria-busy=false]")


def ask_again(page, service):
    """The same request over plain HTTP: what the page should have shown."""
    conversation = page.evaluate("JSON.parse(localStorage['omni.chat.' + JSON.parse(localStorage['omni.open'])])")
    job_id = conversation["messages"][-1]["job"]
    with service.http() as http:
        return http.get(f"/v1/chat/completions/{job_id}").json()


def test_one_types_and_tokens_arrive(chat, service):
    say(chat, STORY)
    chat.wait_for_selector(f"{ANSWER}.running .body:not(:empty)")
    until_done(chat)
    whole = ask_again(chat, service)
    shown = chat.evaluate("JSON.parse(localStorage['omni.chat.' + JSON.parse(localStorage['omni.open'])]).messages[1]")
    assert shown["content"] == whole["choices"][0]["message"]["content"]
    assert shown["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first token after", chat.inner_text(f"{ANSWER} .status"))


def test_stop_cancels_the_job(chat, service):
    say(chat, STORY)
    wait_for_text(chat, 10)
    chat.click("#stop")
    until_done(chat)
    assert "Stopped" in chat.inner_text(f"{ANSWER} .status")
    with service.http() as http:
        [newest, *_] = http.get("/v1/jobs").json()["data"]
        chat.wait_for_timeout(1000)
        assert http.get(f"/v1/jobs/{newest['id']}").json()["state"] == "cancelled"


def test_a_reload_in_mid_answer_goes_on_where_it_was(chat, service):
    say(chat, STORY)
    wait_for_text(chat, 10)
    chat.reload()
    until_done(chat)
    shown = chat.evaluate("JSON.parse(localStorage['omni.chat.' + JSON.parse(localStorage['omni.open'])]).messages[1]")
    assert shown["resumed"] is True
    assert shown["content"] == ask_again(chat, service)["choices"][0]["message"]["content"]


def test_the_server_words_its_refusals(chat):
    say(chat, "hello " * 3000)
    notice = chat.wait_for_selector(f"{ANSWER} .notice:visible").inner_text()
    assert "tokens" in notice and "Start a new chat" in notice


def test_a_waiting_job_is_cancelled_on_the_board(page, service):
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": STORY}], "background": True} | LENGTH
    with service.http() as http:
        jobs = [http.post("/v1/chat/completions", json=body).json()["id"] for _ in range(64)]
        page.goto(f"{service.url}/board")
        page.wait_for_selector("#waiting button")
        assert page.locator(".worker .state").inner_text() == "ready"
        button = page.locator("#waiting button").last
        name = button.get_attribute("aria-label").removeprefix("Cancel ")
        button.click()
        page.wait_for_selector(f"#announcement:has-text('{name} is cancelled.')", state="attached")
        page.wait_for_selector(f"[aria-label='Cancel {name}']", state="detached")
        assert http.get(f"/v1/jobs/{name}").json()["state"] == "cancelled"
        for job in jobs:
            http.delete(f"/v1/jobs/{job}")
        page.wait_for_selector("#no-waiting:visible")
        page.wait_for_selector("#no-running:visible")
