"""Answers of 20,000 tokens with code, lists and tables, and of 800 formulas: the page stays quick while they stream."""

import json

import pytest

from tests.e2e.fake_backend import LONG, fake_backend, words
from tests.e2e.page.talk import ANSWER, ask, say, until_done

FRAME_MS = 50
ROUNDS = 3
LEFT = "({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight"  # below what is shown
SET = "!document.querySelector('code.math') && document.querySelector('.katex')"  # no formula waits

MATRIX = r"\begin{pmatrix} a_{NUMBER} & b \\ c & d \end{pmatrix} \int_0^\infty e^{-x^2} dx = \frac{\sqrt{\pi}}{2}"
PART = r"""Part NUMBER: $x_{NUMBER}^2 + \frac{a}{b}$ and \(\sum_{i=0}^{NUMBER} i^2\), $\sqrt{NUMBER}$,
$\alpha_{NUMBER}$, $f'(NUMBER)$, $\hat{y}_{NUMBER}$ and $\vec{v}$.

$$MATRIX$$

"""
FORMULAS = "".join(PART.replace("MATRIX", MATRIX).replace("NUMBER", str(number)) for number in range(100))


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
        assert page.locator("#scroller").evaluate(LEFT) > 50
        page.click("#jump")
        assert page.locator("#scroller").evaluate(LEFT) < 2


def tasks_of_an_answer(browser, backend, question, is_drawn):
    """CPU time in ms of each task from the question to the whole answer, on a page that was just opened."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    try:
        say(page, question)
        until_done(page)
        page.wait_for_function(is_drawn)
    finally:
        trace = browser.stop_tracing()
    tasks = main_thread_tasks(trace)
    assert page.inner_text(f"{ANSWER} .status").split(" tokens")[0].replace(",", "").isdigit()
    assert page.locator("#scroller").evaluate(LEFT) < 2
    context.close()
    return tasks


@pytest.mark.parametrize(
    ("text", "is_drawn"),
    [
        (LONG, f"() => document.querySelectorAll('.code').length === {LONG.count('```') // 2} && {SET}"),
        (FORMULAS, f"() => document.querySelectorAll('.formula').length === 800 && {SET}"),
    ],
    ids=["code", "formulas"],
)
def test_no_task_of_a_long_answer_holds_up_a_frame(browser, backend, text, is_drawn):
    """What the page does takes its time in every round; what a busy machine adds, its caches above all, does not."""
    backend.scripts["Go on."] = lambda: words(text)
    for _ in range(ROUNDS):
        tasks = tasks_of_an_answer(browser, backend, "Go on.", is_drawn)
        print(f"{len(tasks)} tasks, the longest {max(tasks):.0f} ms of CPU time, {sum(tasks):.0f} ms in all")
        slow = sorted(task for task in tasks if task > FRAME_MS)
        if not slow:
            return
    raise AssertionError(slow)
