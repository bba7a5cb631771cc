"""The states of an answer, and what answers hold."""

from tests.e2e.looks.chat import say, start, talk
from tests.e2e.looks.visit import Visit
from tests.e2e.page.talk import ANSWER, until_done, wait_for_words

# An answer


def queued(visit: Visit) -> None:
    hold(visit, "How does a binary search work?", 0, ".status:has-text('number 3')")


def model_away(visit: Visit) -> None:
    start(visit)
    say(visit.page, "away")
    visit.page.wait_for_selector(f"{ANSWER} .status:has-text('loaded')")


def paused_for_another_model(visit: Visit) -> None:
    start(visit)
    say(visit.page, "pause")
    visit.page.wait_for_selector(f"{ANSWER} .status:has-text('Paused')")


def hold(visit: Visit, question: str, frames: int, shown: str) -> None:
    start(visit)
    visit.backend.holds[question] = frames
    say(visit.page, question)
    visit.page.wait_for_selector(f"{ANSWER} {shown}")


def streaming_words(visit: Visit) -> None:
    hold(visit, "How does a binary search work?", 20, ".body:has-text('list')")


def streaming_code(visit: Visit) -> None:
    hold(visit, "How does a binary search work?", 90, ".code:has-text('middle')")


def streaming_a_thought(visit: Visit) -> None:
    hold(visit, "What is 17 + 25?", 16, ".fold:visible")


def streaming_a_thought_opened(visit: Visit) -> None:
    streaming_a_thought(visit)
    visit.page.click(f"{ANSWER} summary:has-text('Reasoning')")


def done(visit: Visit) -> None:
    talk(visit, "How does a binary search work?")


def thought(visit: Visit) -> None:
    talk(visit, "What is 17 + 25?")
    visit.page.click(f"{ANSWER} summary:has-text('Reasoning')")


def several_turns(visit: Visit) -> None:
    start(visit)
    for text in (
        "What is 17 + 25?",
        "Hello, how are you?",
        "It is 21 °C",
        "And a longer message of mine, which goes over\nmore than one line.\n\n- It has a list\n- of two",
    ):
        say(visit.page, text)
        until_done(visit.page)


def failed(visit: Visit) -> None:
    talk(visit, "How do I bake sourdough?")


def cut_at_the_limit(visit: Visit) -> None:
    start(visit)
    say(visit.page, "cut")
    until_done(visit.page)


def stopped(visit: Visit) -> None:
    start(visit)
    say(visit.page, "slow")
    wait_for_words(visit.page, 12)
    visit.page.keyboard.press("Escape")
    until_done(visit.page)


def refuse(visit: Visit, status: int, error: dict[str, object]) -> None:
    start(visit)
    visit.backend.refusals.append((status, error))
    say(visit.page, "Why is the sky blue?")
    visit.page.wait_for_selector(f"{ANSWER} .notice:visible")


def full_429(visit: Visit) -> None:
    refuse(visit, 429, {"message": "256 jobs wait, which is all that OMNI_MAX_QUEUE allows.", "retry_after": 240})


def away_503(visit: Visit) -> None:
    refuse(visit, 503, {"message": "No worker is ready.", "retry_after": 240})


def refused_for_long(visit: Visit) -> None:
    refuse(
        visit,
        429,
        {"message": "This key's tokens of today are used.", "code": "rate_limit_exceeded", "retry_after": 3600},
    )


def too_long(visit: Visit) -> None:
    message = "This request needs 41,000 tokens; the model's context has 32,768."
    refuse(visit, 400, {"message": message, "code": "context_length_exceeded"})


def reconnecting(visit: Visit) -> None:
    start(visit)
    visit.page.route("**/v1/chat/completions/*", lambda route: route.abort())
    say(visit.page, "drop")
    visit.page.wait_for_selector(f"{ANSWER} .status:has-text('Reconnecting')")


def variants(visit: Visit) -> None:
    talk(visit, "What is 17 + 25?")
    visit.page.click(f"{ANSWER} [aria-label=Regenerate]")
    visit.page.wait_for_selector(".variants")
    until_done(visit.page)


def scrolled_up(visit: Visit) -> None:
    done(visit)
    say(visit.page, "Compare the inner planets")
    visit.page.wait_for_selector(".message.assistant >> nth=1")
    until_done(visit.page)
    visit.page.evaluate("document.querySelector('#scroller').scrollTop = 100")
    visit.page.wait_for_selector("#jump:visible")


# What answers hold


def code(visit: Visit) -> None:
    talk(visit, "Show me the command and the query")
    visit.page.wait_for_selector(".hljs-keyword")


def table(visit: Visit) -> None:
    talk(visit, "Compare the inner planets")


def formulas(visit: Visit) -> None:
    talk(visit, "The roots of a quadratic equation, and the normal distribution")
    visit.page.wait_for_selector(".katex >> nth=4")


def scripts(visit: Visit) -> None:
    talk(visit, "Other scripts")


def markdown_and_html(visit: Visit) -> None:
    start(visit)
    say(visit.page, "markdown")
    until_done(visit.page)


def json_answer(visit: Visit) -> None:
    start(visit)
    visit.page.click("#open-panel")
    visit.page.click("#panel summary:has-text('Answer as JSON')")
    visit.page.fill("#option-schema", "{}")
    visit.page.click("#close-panel")
    say(visit.page, "Facts about Paris as JSON")
    until_done(visit.page)
    visit.page.wait_for_selector(f"{ANSWER} .hljs-attr")


def tool_calls(visit: Visit) -> None:
    talk(visit, "What is the weather in Paris, and what time is it?")
    visit.page.click(f"{ANSWER} summary:has-text('get_weather')")


def tool_results(visit: Visit) -> None:
    tool_calls(visit)
    visit.page.fill("[aria-label='Result of get_weather']", "21 °C, light wind")
    visit.page.click(f"{ANSWER} button:text-is('Send result') >> nth=0")
    visit.page.click(".message.assistant summary:has-text('get_time')")
    visit.page.fill("[aria-label='Result of get_time']", "14:05")
    visit.page.click("button:text-is('Send result'):visible")
    visit.page.wait_for_selector(".message.assistant >> nth=1")
    until_done(visit.page)


ANSWERING = (
    queued, model_away, paused_for_another_model, streaming_words, streaming_code, streaming_a_thought,
    streaming_a_thought_opened, done, thought, several_turns, failed, cut_at_the_limit, stopped,
    full_429, away_503, refused_for_long, too_long, reconnecting, variants, scrolled_up,
    code, table, formulas, scripts, markdown_and_html, json_answer, tool_calls, tool_results,
)  # fmt: skip
