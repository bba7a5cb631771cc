"""A 20,000-token answer with code, lists, tables and formulas: the page stays quick while it streams."""

import json

from tests.e2e.fake_backend import LONG, fake_backend
from tests.e2e.page.talk import ANSWER, ask, say, until_done

FRAME_MS = 50


def main_thread_tasks(trace):
    """CPU time in ms of each task of the page's main thread: unlike its duration, it says nothing of a busy machine."""
    events = json.loads(trace)["traceEvents"]
    mains = {(one["pid"], one["tid"]) for one in events if one.get("args", {}).get("name") == "CrRendererMain"}
    tasks = {}
    for event in events:
        if event["name"].endswith("RunTask") and "tdur" in event:
            tasks.setdefault((event["pid"], event["tid"]), []).append(event["tdur"] / 1000)
    return max((tasks[main] for main in mains if main in tasks), key=sum)


def test_a_reader_who_turns_up_a_little_is_not_pulled_back(page):
    page.set_viewport_size({"width": 1000, "height": 400})
    with fake_backend() as backend:
        page.goto(backend.url)
        page.wait_for_selector("#model option", state="attached")
        ask(page, "markdown")
        say(page, "pause")
        page.wait_for_selector(f"{ANSWER} .status:has-text('Paused')")
        page.hover("#scroller")
        page.mouse.wheel(0, -30)
        page.wait_for_selector("#jump:visible")
        backend.goes_on.set()
        until_done(page)
        left = "({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight"
        assert page.locator("#scroller").evaluate(left) > 50
        page.click("#jump")
        assert page.locator("#scroller").evaluate(left) < 2


def test_no_task_of_a_long_answer_holds_up_a_frame(browser, page):
    with fake_backend() as backend:
        page.goto(backend.url)
        page.wait_for_selector("#model option", state="attached")
        browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
        page.fill("#text", "long")
        page.press("#text", "Enter")
        page.wait_for_selector(f"{ANSWER}[aria-busy=false]")
        page.wait_for_function(
            "number => document.querySelectorAll('.message.assistant .code').length === number",
            arg=LONG.count("```") / 2,
        )
        page.wait_for_selector(f"{ANSWER} .katex")
        page.wait_for_selector(f"{ANSWER} .hljs-keyword")
        tasks = main_thread_tasks(browser.stop_tracing())
        assert page.inner_text(f"{ANSWER} .status").split(" tokens")[0].replace(",", "").isdigit()
    slow = sorted(task for task in tasks if task > FRAME_MS)
    print(f"{len(tasks)} tasks, the longest {max(tasks):.0f} ms of CPU time, {sum(tasks):.0f} ms in all")
    assert not slow, slow
