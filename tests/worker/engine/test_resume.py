"""A request resumed at any point of its log gets the answer that it would have had."""

from dataclasses import replace

import pytest

from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice
from tests.worker.conftest import Bench, ModelFolder, prompt_of


@pytest.fixture(scope="module")
def bench(model_folder: ModelFolder) -> Bench:
    return Bench(model_folder())


def run(bench: Bench, request: GenerationRequest, logged: dict[int, LoggedChoice] | None = None) -> list[Event]:
    bench.engine.add(request, logged or {})
    events: list[Event] = []
    while bench.engine.has_work:
        events += [event for _, event in bench.engine.step()]
    return events


def log_of(events: list[Event]) -> dict[int, LoggedChoice]:
    """The logged choices that a successor reads from these events."""
    logged: dict[int, LoggedChoice] = {}
    for event in events:
        assert isinstance(event, Delta)
        before = logged.get(event.index, LoggedChoice())
        token_ids, text = before.token_ids + event.token_ids, before.text + event.text
        logged[event.index] = LoggedChoice(token_ids, text, event.finish_reason)
    return logged


CASES = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 1.5, "seed": 11},
    "truncated": {"temperature": 1.2, "top_p": 0.8, "top_k": 40, "seed": 3},
    "penalties": {"temperature": 0.0, "presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    "stop": {"temperature": 1.0, "seed": 2, "stop": ("zz", "ü", "the fox")},
    "min_tokens": {"temperature": 1.0, "logit_bias": ((0, 6.0),), "min_tokens": 9, "seed": 8},
    "choices": {"temperature": 1.0, "n": 3, "max_tokens": 6, "seed": 4},
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_after_any_event_the_rest_is_the_same(case: str, bench: Bench) -> None:
    request = bench.request("r", prompt_of(21), **({"max_tokens": 16} | CASES[case]))
    whole = run(bench, request)
    *deltas, end = whole
    assert isinstance(end, Finished)
    for cut in range(len(deltas) + 1):
        rest = run(bench, request, log_of(deltas[:cut]))
        assert log_of([*deltas[:cut], *rest[:-1]]) == log_of(deltas)
        assert isinstance(rest[-1], Finished)
        assert replace(rest[-1], cached_tokens=0) == replace(end, cached_tokens=0)


def test_a_resumed_request_counts_as_many_cached_tokens_as_a_new_one(bench: Bench) -> None:
    """A prompt of whole blocks: the resumed sequence finds also its last block, which a new one has to compute."""
    block_size = bench.engine.runner.kv_cache.block_size
    request = bench.request("r", prompt_of(2 * block_size), temperature=0.0, max_tokens=4)
    run(bench, request)
    *deltas, again = run(bench, request)
    resumed = run(bench, request, log_of(deltas[:2]))[-1]
    assert isinstance(again, Finished) and again.cached_tokens == block_size
    assert resumed == again


def test_a_character_cut_in_half_by_the_crash_comes_out_whole(bench: Bench) -> None:
    first, *others = bench.loaded.tokenizer.encode("🙈").ids
    logged = {0: LoggedChoice((first,), "")}
    bias = tuple((token_id, 100.0 - at) for at, token_id in enumerate(others))
    events = run(bench, bench.request("r", prompt_of(4), max_tokens=1 + len(others), logit_bias=bias), logged)
    assert isinstance(events[0], Delta) and first not in events[0].token_ids


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_an_answer_that_is_cut_inside_a_character_ends_with_one_u_fffd(num_tokens: int, bench: Bench) -> None:
    ids = bench.loaded.tokenizer.encode("a🙈").ids[: 1 + num_tokens]
    logged = {0: LoggedChoice(tuple(ids[:-1]), "a")}
    last, end = run(
        bench, bench.request("r", prompt_of(4), max_tokens=len(ids), logit_bias=((ids[-1], 100.0),)), logged
    )
    assert isinstance(last, Delta) and isinstance(end, Finished)
    assert (last.token_ids, last.text, last.finish_reason) == ((ids[-1],), "\ufffd", "length")
    whole = {0: LoggedChoice(tuple(ids), "a\ufffd", "length")}
    old = {0: LoggedChoice(tuple(ids), "a", "length")}  # of a version before
    for log in (whole, old):
        [end] = run(bench, bench.request("r", prompt_of(4), max_tokens=len(ids)), log)
        assert isinstance(end, Finished)


def test_a_log_with_the_replacement_characters_of_an_older_version_is_resumed(bench: Bench) -> None:
    ids = tuple(bench.loaded.tokenizer.encode("a🙈b").ids)
    request = bench.request("r", prompt_of(4), max_tokens=len(ids) + 2)
    [*_, end] = run(bench, request, {0: LoggedChoice(ids, "a\ufffd\ufffdb")})
    assert isinstance(end, Finished)
    [failed] = run(bench, request, {0: LoggedChoice(ids, "b\ufffd")})
    assert isinstance(failed, Failed) and failed.code == "resume_mismatch"


def test_a_log_that_another_model_wrote_is_refused(bench: Bench) -> None:
    failed = run(bench, bench.request("r", prompt_of(4)), {0: LoggedChoice((10, 11), "something else")})
    assert [type(event) for event in failed] == [Failed]
    assert isinstance(failed[0], Failed) and failed[0].code == "resume_mismatch"


def test_a_complete_answer_gets_only_its_terminal_event(bench: Bench) -> None:
    request = bench.request("r", prompt_of(4), max_tokens=5)
    *deltas, end = run(bench, request)
    assert run(bench, request, log_of(deltas)) == [end]
