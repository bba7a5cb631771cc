"""Logs as text_completion objects, streamed and folded."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from api.completions.chunks import CompletionChunks, CompletionMeta, ShownPrompt, TextCompletion
from api.schema.answers import TextAnswer
from common.wire import Delta, Event, Failed, Finished, TokenLogprob


def meta(**changes: Any) -> CompletionMeta:
    return CompletionMeta(**{"id": "cmpl-1", "model": "tiny", "created": 1} | changes)


class Unicode:
    """Token ids are code points."""

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]:
        return chr(token_id), []

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def chunks_of(meta: CompletionMeta, log: list[Event]) -> list[dict[str, Any]]:
    formatter = CompletionChunks(meta, Unicode())
    return [chunk for event in log for chunk in formatter.feed(event)]


def folded(meta: CompletionMeta, log: list[Event]) -> dict[str, Any]:
    formatter = TextCompletion(meta, Unicode())
    for event in log:
        formatter.feed(event)
    return formatter.body()


HI: list[Event] = [
    Delta(0, (72,), "H", (TokenLogprob(72, -0.5, ((72, -0.5), (74, -1.5))),)),
    Delta(0, (105,), "i", (TokenLogprob(105, -0.25, ((106, -0.1),)),), "stop"),
    Finished(3, 2, 1),
]


def test_a_stream_is_openais_transcript() -> None:
    assert chunks_of(meta(include_usage=True), HI) == [
        {
            "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny",
            "choices": [{"index": 0, "text": "H", "logprobs": None, "finish_reason": None}], "usage": None,
        },
        {
            "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny",
            "choices": [{"index": 0, "text": "i", "logprobs": None, "finish_reason": "stop"}], "usage": None,
        },
        {
            "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [],
            "usage": {
                "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
        },
    ]  # fmt: skip


def test_usage_is_streamed_only_on_request() -> None:
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks_of(meta(), HI))


def test_logprobs_have_the_older_format() -> None:
    answer = folded(meta(logprobs=True), HI)
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["H", "i"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"H": -0.5, "J": -1.5}, {"j": -0.1, "i": -0.25}],
        "text_offset": [0, 1],
    }
    assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks_of(meta(logprobs=True), HI)] == [
        [0],
        [1],
    ]


def test_an_echo_comes_first_and_once() -> None:
    echoed = meta(prompts=(ShownPrompt(echo="Say: "),))
    assert folded(echoed, HI)["choices"][0]["text"] == "Say: Hi"
    assert [chunk["choices"][0]["text"] for chunk in chunks_of(echoed, HI)] == ["Say: H", "i"]


def test_token_ids_are_shown_on_request() -> None:
    shown = meta(prompts=(ShownPrompt(ids=(9, 8)),))
    choice = folded(shown, HI)["choices"][0]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([9, 8], [72, 105])
    streamed = [chunk["choices"][0] for chunk in chunks_of(shown, HI)]
    assert [(part["prompt_token_ids"], part["token_ids"]) for part in streamed] == [([9, 8], [72]), (None, [105])]


def test_prompts_follow_one_another_and_choices_are_numbered_through() -> None:
    both = meta(n=2, include_usage=True, prompts=(ShownPrompt(),) * 2)
    log: list[Event] = [
        Delta(0, (65,), "A", (), "length"), Delta(1, (66,), "B", (), "stop"), Finished(1, 2),
        Delta(1, (68,), "D", (), "stop"), Delta(0, (67,), "C", (), "stop"), Finished(4, 2),
    ]  # fmt: skip
    answer = folded(both, log)
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [
        (0, "A", "length"), (1, "B", "stop"), (2, "C", "stop"), (3, "D", "stop"),
    ]  # fmt: skip
    assert answer["usage"]["total_tokens"] == 9
    assert [chunk["choices"][0]["index"] for chunk in chunks_of(both, log) if chunk["choices"]] == [0, 1, 3, 2]
    assert len([chunk for chunk in chunks_of(both, log) if not chunk["choices"]]) == 1


def test_a_failure_is_kept_for_the_error() -> None:
    formatter = TextCompletion(meta(), Unicode())
    formatter.feed(Failed("out_of_memory", "CUDA out of memory"))
    assert formatter.failed == Failed("out_of_memory", "CUDA out of memory")


deltas = st.builds(
    lambda index, text: Delta(index, tuple(map(ord, text)), text, tuple(TokenLogprob(ord(c), -1.0) for c in text)),
    st.integers(0, 1),
    st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=("Cs",)), max_size=4),
)
logs = st.lists(st.lists(deltas, max_size=5), min_size=1, max_size=3)


@settings(max_examples=60)
@given(logs, st.booleans(), st.booleans(), st.none() | st.text(max_size=4))
def test_a_stream_put_together_is_the_whole_answer(
    prompts: list[list[Delta]], logprobs: bool, with_ids: bool, echo: str | None
) -> None:
    shown = (ShownPrompt(echo, (1,) if with_ids else None),) * len(prompts)
    answer = meta(n=2, logprobs=logprobs, prompts=shown)
    log: list[Event] = []
    for prompt in prompts:
        log += [*prompt, Delta(0, (), "", (), "stop"), Delta(1, (), "", (), "stop"), Finished(1, 1)]
    whole = folded(answer, log)
    TextAnswer.model_validate(whole)
    again: dict[int, dict[str, Any]] = {}
    for chunk in chunks_of(answer, log):
        TextAnswer.model_validate(chunk)
        for part in chunk["choices"]:
            kept = again.setdefault(part["index"], {"text": "", "token_ids": [], "offsets": []})
            kept["text"] += part["text"]
            kept["token_ids"] += part.get("token_ids", [])
            kept["offsets"] += (part["logprobs"] or {}).get("text_offset", [])
    for choice in whole["choices"]:
        kept = again[choice["index"]]
        assert kept["text"] == choice["text"]
        assert kept["token_ids"] == choice.get("token_ids", [])
        assert kept["offsets"] == (choice["logprobs"] or {}).get("text_offset", [])
