"""openai and anthropic while the API is deployed in mid-stream: each raises, and none ends as if all had come."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Event
from typing import Any

import anthropic
import openai
from checks import HELLO, KEY, MODEL, URL, restarted, run

LONG = 6000  # two minutes of the paced model: no answer ends by itself
AT = 8  # events that come before the restart
MESSAGES: Any = [{"role": "user", "content": HELLO}]
Ask = Callable[[], Iterable[Any]]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
claude = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)


def chat() -> Iterable[Any]:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=LONG, stream=True)


def chat_helper() -> Iterable[Any]:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, max_tokens=LONG) as stream:
        yield from stream


def completion() -> Iterable[Any]:
    return client.completions.create(model=MODEL, prompt=HELLO, max_tokens=LONG, stream=True)


def response() -> Iterable[Any]:
    return client.responses.create(model=MODEL, input=HELLO, max_output_tokens=LONG, stream=True)


def response_helper() -> Iterable[Any]:
    with client.responses.stream(model=MODEL, input=HELLO, max_output_tokens=LONG) as stream:
        yield from stream


def background_response() -> Iterable[Any]:
    return client.responses.create(model=MODEL, input=HELLO, max_output_tokens=LONG, stream=True, background=True)


def message() -> Iterable[Any]:
    return claude.messages.create(model=MODEL, messages=MESSAGES, max_tokens=LONG, stream=True)


def message_helper() -> Iterable[Any]:
    with claude.messages.stream(model=MODEL, messages=MESSAGES, max_tokens=LONG) as stream:
        yield from stream


STREAMS: tuple[Ask, ...] = (
    chat, chat_helper, completion, response, response_helper, background_response, message, message_helper,
)  # fmt: skip


@cache
def ends(signal_name: str) -> dict[Ask, tuple[int, Exception | None]]:
    """All streams are open when the API is restarted: how many events each brought, and what it raised."""
    begun = {ask: Event() for ask in STREAMS}
    with restarted(signal_name) as restart, ThreadPoolExecutor(len(STREAMS)) as pool:
        reading = {ask: pool.submit(read, ask, begun[ask]) for ask in STREAMS}
        for event in begun.values():
            event.wait(60)
        restart()
        return {ask: read.result(60) for ask, read in reading.items()}


def read(ask: Ask, begun: Event) -> tuple[int, Exception | None]:
    num_seen = 0
    try:
        for num_seen, _ in enumerate(ask(), 1):
            if num_seen == AT:
                begun.set()
    except Exception as error:
        return num_seen, error
    finally:
        begun.set()
    return num_seen, None


def raises(ask: Ask, signal_name: str) -> None:
    num_seen, error = ends(signal_name)[ask]
    assert error is not None, f"the stream ended after {num_seen} events as if it were over"
    if isinstance(error, anthropic.APIStatusError):
        assert error.body["error"]["type"] == "overloaded_error" and "restarting" in str(error), error  # type: ignore[index]
    else:
        assert isinstance(error, openai.APIError) and error.code == "server_restarting", error
    assert num_seen >= AT, f"it raised after {num_seen} events already"


def a_background_response_goes_on_after_its_last_event(signal_name: str) -> None:
    """OpenAI's own way to resume: the sequence_number of the last event that came."""
    seen: list[Any] = []
    with restarted(signal_name) as restart:
        try:
            for event in client.responses.create(
                model=MODEL, input=HELLO, max_output_tokens=300, stream=True, background=True
            ):
                seen.append(event)
                if len(seen) == AT:
                    restart()
        except openai.APIError:
            pass
    seen += client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.incomplete", seen[-1].type  # its length was bounded
    deltas = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert "".join(deltas) == seen[-1].response.output_text


def checks() -> Iterable[Callable[[], None]]:
    for signal_name in ("SIGHUP", "SIGTERM"):
        for ask in STREAMS:
            check = partial(raises, ask, signal_name)
            check.__name__ = f"{ask.__name__}_raises_at_{signal_name}"  # type: ignore[attr-defined]
            yield check
        check = partial(a_background_response_goes_on_after_its_last_event, signal_name)
        check.__name__ = f"a_background_response_goes_on_after_{signal_name}"  # type: ignore[attr-defined]
        yield check


run(*checks())
