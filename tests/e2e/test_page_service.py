"""The chat page and the board against the whole real service."""

import json
import re
from contextlib import contextmanager

import psutil
import pytest

from tests.service import RunningService

ANSWER = ".message.assistant:last-child"
STORY = "Tell me a long story about a fox."
LENGTH = {"ignore_eos": True, "max_tokens": 800}  # a long answer of any text


@pytest.fixture
def chat(page, service: RunningService):
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


@contextmanager
def worker_halted(service):
    """Suspend the worker, so that an answer stays unfinished on a machine of any speed."""
    processes = psutil.Process(service.processes["worker"].pid).children(recursive=True)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def kept(page):
    """The answer in the page's storage."""
    page.wait_for_timeout(500)  # it is written a moment after it changed
    return page.evaluate(
        """async () => {
            const { Database } = await import("/static/chat/database.js");
            const { recall } = await import("/static/chat/recall.js");
            return (await (await Database.open()).messagesOf(recall("open"))).at(-1);
        }"""
    )


def whole(service, answer):
    """The same answer by plain HTTP."""
    with service.http() as http:
        return http.get(f"/v1/chat/completions/{answer['job']}").json()


def test_a_typed_message_is_answered_token_by_token(chat, service):
    say(chat, STORY)
    chat.wait_for_selector(f"{ANSWER}.running .body:not(:empty)")
    until_done(chat)
    shown, meant = kept(chat), whole(service, kept(chat))
    assert shown["content"] == meant["choices"][0]["message"]["content"]
    assert shown["usage"]["completion_tokens"] == meant["usage"]["completion_tokens"]
    assert re.search(r"\d+ tokens · [\d.]+ tokens/s · first token after", chat.inner_text(f"{ANSWER} .status"))


def test_stop_cancels_the_job(chat, service):
    say(chat, STORY)
    wait_for_text(chat, 10)
    with worker_halted(service):
        chat.click("#stop")
    until_done(chat)
    assert "Stopped" in chat.inner_text(f"{ANSWER} .status")
    with service.http() as http:
        assert http.get(f"/v1/jobs/{kept(chat)['job']}").json()["state"] == "cancelled"


def test_a_reload_in_mid_answer_continues_where_it_was(chat, service):
    say(chat, STORY)
    wait_for_text(chat, 10)
    with worker_halted(service):
        chat.reload()
    until_done(chat)
    shown = kept(chat)
    assert shown["resumed"] is True
    assert shown["content"] == whole(service, shown)["choices"][0]["message"]["content"]


def test_refusals_show_the_server_message(chat):
    say(chat, "hello " * 3000)
    chat.wait_for_selector("#size-note:has-text('This needs about')")
    chat.click("#size-note button:text-is('Send anyway')")
    notice = chat.wait_for_selector(f"{ANSWER} .notice:visible").inner_text()
    assert "tokens" in notice and "start a new chat" in notice


def test_a_message_near_the_limit_is_counted_by_the_server(chat, service):
    with service.http() as http:
        limit = http.get("/v1/models").json()["data"][0]["max_model_len"]
        text = "hello " * (limit // 2)
        chat.fill("#text", text)
        chat.wait_for_selector("#size-note:has-text('tokens'):not(:has-text('about'))")
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": text}]}
        answer = http.post("/tokenize", json=body)
    told = f"{answer.json()['count']:,}" if answer.is_success else "too many"
    assert f"{told} " in chat.inner_text("#size-note")


def test_a_waiting_job_is_cancelled_on_the_board(page, service):
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": STORY}], "background": True} | LENGTH
    with service.http() as http:
        jobs = [http.post("/v1/chat/completions", json=body).json()["id"] for _ in range(290)]  # more than run together
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


def kill_api(service):
    """By SIGKILL: after SIGTERM it would first finish an answer that is as short as this one."""
    parent = psutil.Process(service.processes["api"].pid)
    for process in (parent, *parent.children(recursive=True)):
        process.kill()
    service.processes["api"].wait(5)


def test_an_answer_outlives_the_api_process(page, service, tmp_path):
    """The page reconnects by itself and continues the text."""
    own = RunningService(tmp_path, {"REDIS_URL": service.redis_url}).start("api")
    own.wait_healthy()
    try:
        page.route("**/v1/chat/completions", lengthen)
        page.goto(own.url)
        page.wait_for_selector("#model option", state="attached")
        say(page, STORY)
        wait_for_text(page, 10)
        with worker_halted(service):
            kill_api(own)
            page.wait_for_selector(f"{ANSWER} .status:has-text('Connection lost')")
        own.spawn("api")
        until_done(page)
        shown = kept(page)
        assert shown["usage"]["completion_tokens"] == LENGTH["max_tokens"]
        assert shown["content"] == whole(own, shown)["choices"][0]["message"]["content"]
    finally:
        own.stop()
