"""RemoteEngine against a server that speaks vLLM's wire and dies on command."""

import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from common.settings import read_settings
from common.wire import Delta, Event, Failed, Finished, LoggedChoice
from tests.fake_vllm import FakeVllm, next_token
from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.remote.client import Away, VllmClient
from worker.remote.engine import RemoteEngine
from worker.remote.loader import connect_engine

DEADLINE_S = 20.0
PROMPT = prompt_of(5)
JSON_OBJECT = (
    '{"grammars": [{"lark_grammar": "start: \\"{\\\\\\"name\\\\\\": \\\\\\"\\" /[^\\"]{3,8}/ \\"\\\\\\"}\\""}]}'
)


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    fake = FakeVllm()
    yield fake
    fake.die()


class Remote:
    """A RemoteEngine on the tiny Llama's tokenizer, and the events of each request."""

    def __init__(self, engine: RemoteEngine) -> None:
        self.engine = engine
        self.events: dict[str, list[Event]] = {}

    def add(self, request_id: str = "r", prompt: list[int] = PROMPT, **sampling: Any) -> None:
        self.engine.add(Bench.request(request_id, prompt, **sampling))

    def step(self) -> None:
        for request_id, event in self.engine.step():
            self.events.setdefault(request_id, []).append(event)

    def finish(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.engine.has_work:
            assert time.monotonic() < deadline
            self.step()

    def deltas(self, request_id: str = "r", index: int = 0) -> list[Delta]:
        return [event for event in self.events[request_id] if isinstance(event, Delta) and event.index == index]

    def token_ids(self, request_id: str = "r", index: int = 0) -> list[int]:
        return [token_id for delta in self.deltas(request_id, index) for token_id in delta.token_ids]

    def text(self, request_id: str = "r") -> str:
        return "".join(delta.text for delta in self.deltas(request_id))

    def end(self, request_id: str = "r") -> Event:
        return self.events[request_id][-1]


@pytest.fixture
def remote(server: FakeVllm, model_folder: ModelFolder) -> Iterator[Remote]:
    settings = read_settings(
        {"OMNI_MODEL": str(model_folder()), "OMNI_ENGINE": f"vllm+{server.url}", "OMNI_MAX_NUM_SEQS": "8"}
    )
    engine = connect_engine(settings, lambda stage, share: None)
    engine.warm_up(lambda stage, share: None)
    server.asked.clear()
    yield Remote(engine)
    engine.watch.stop()


def expected(server: FakeVllm, num_tokens: int) -> list[int]:
    """The tokens of an uninterrupted answer to the first question."""
    generated: list[int] = []
    for _ in range(num_tokens):
        generated.append(next_token(server.asked[0], generated))
    return generated


def test_tokens_text_and_ends_are_ours(remote: Remote, server: FakeVllm) -> None:
    remote.add(max_tokens=12, ignore_eos=True)
    remote.finish()
    assert remote.token_ids() == expected(server, 12)
    assert remote.deltas()[-1].finish_reason == "length"
    assert remote.end() == Finished(len(PROMPT), 12)
    tokenizer = remote.engine.admission._spelling._tokenizer
    whole = tokenizer.decode([*PROMPT, *remote.token_ids()])
    assert whole.endswith(remote.text()) and remote.text()


def test_the_card_is_the_folders_and_no_longer_than_the_server_allows(remote: Remote) -> None:
    assert remote.engine.card.max_model_len == 200
    assert remote.engine.card.eos_token_ids == (0,)


def test_the_parameters_of_a_request_reach_the_server(remote: Remote, server: FakeVllm) -> None:
    asked = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 0.2}
    asked |= {"frequency_penalty": 0.3, "repetition_penalty": 1.1, "max_tokens": 9}
    remote.add(**asked, logit_bias=((5, 2.0),), stop_token_ids=(9,), min_tokens=4, logprobs=2, seed=11)
    remote.finish()
    [body] = server.asked
    assert asked.items() <= body.items()
    assert (body["logit_bias"], body["stop_token_ids"], body["min_tokens"], body["logprobs"]) == (
        {"5": 2.0},
        [0, 9],
        4,
        2,
    )
    assert 0 <= body["seed"] < 2**63


def test_choices_of_one_request_are_streams_of_their_own(remote: Remote, server: FakeVllm) -> None:
    remote.add(n=3, temperature=1.0, max_tokens=6, ignore_eos=True)
    remote.finish()
    assert len({body["seed"] for body in server.asked}) == 3
    assert len({tuple(remote.token_ids(index=index)) for index in range(3)}) == 3
    assert remote.end() == Finished(len(PROMPT), 18)


def test_logprobs_come_with_their_tokens(remote: Remote) -> None:
    remote.add(max_tokens=3, ignore_eos=True, logprobs=2)
    remote.finish()
    for delta in remote.deltas():
        [logprob] = delta.logprobs
        assert logprob.token_id == delta.token_ids[0] == logprob.top[0][0]
        assert len(logprob.top) == 2 and logprob.top[0][1] == logprob.logprob > logprob.top[1][1]


def test_a_stop_string_ends_the_stream_at_the_server_too(remote: Remote, server: FakeVllm) -> None:
    remote.add("first", max_tokens=30, ignore_eos=True)
    remote.finish()
    stop = remote.text("first")[4:6]
    server.step_s = 0.02
    remote.add("second", max_tokens=30, ignore_eos=True, stop=(stop,))
    remote.finish()
    assert remote.text("second") == remote.text("first")[: remote.text("first").index(stop)]
    assert remote.deltas("second")[-1].finish_reason == "stop"
    assert len(remote.engine.streams) == 0


def test_a_cancelled_request_gets_no_more_events(remote: Remote, server: FakeVllm) -> None:
    server.step_s = 0.02
    remote.add(max_tokens=100, ignore_eos=True)
    while not remote.events:
        remote.step()
    remote.engine.max_num_seqs = 1
    assert not remote.engine.has_room(1, 1) and remote.engine.has_room(1, 1, without=["r"])
    remote.engine.cancel("r")
    assert not remote.engine.has_work and remote.engine.has_room(1, 8)


def test_a_flex_request_has_room_only_while_no_other_runs(remote: Remote) -> None:
    assert remote.engine.has_room(1, 1, is_flex=True) and not remote.engine.paces_flex
    remote.add(max_tokens=4, ignore_eos=True)
    assert not remote.engine.has_room(1, 1, is_flex=True) and remote.engine.has_room(1, 1)
    remote.finish()
    assert remote.engine.has_ample_room(is_flex=True)


@pytest.mark.parametrize("penalties", [{}, {"frequency_penalty": 1.5}, {"presence_penalty": 1.5}])
def test_an_answer_is_the_same_when_the_server_dies_in_the_middle(
    remote: Remote, server: FakeVllm, penalties: dict[str, float]
) -> None:
    server.tokens_to_death = 6
    remote.add(max_tokens=16, ignore_eos=True, **penalties)
    while not server.died.is_set() or remote.engine.state == "ready":
        remote.step()
    assert not remote.engine.has_room(1, 1)
    server.revive()
    remote.finish()
    assert remote.token_ids() == expected(server, 16)
    assert server.asked[1]["prompt"] == PROMPT + remote.token_ids()[:5]
    assert remote.end() == Finished(len(PROMPT), 16)


def test_a_job_of_a_dead_worker_is_resumed_from_its_log(remote: Remote, server: FakeVllm) -> None:
    remote.add("whole", max_tokens=12, ignore_eos=True)
    remote.finish()
    logged = remote.deltas("whole")[:7]
    choice = LoggedChoice(tuple(remote.token_ids("whole")[:7]), "".join(delta.text for delta in logged))
    remote.engine.add(Bench.request("rest", PROMPT, max_tokens=12, ignore_eos=True), {0: choice})
    remote.finish()
    assert remote.token_ids("rest") == remote.token_ids("whole")[7:]
    assert remote.end("rest") == Finished(len(PROMPT), 12)


def test_a_grammar_holds_with_and_without_a_death(remote: Remote, server: FakeVllm) -> None:
    for name, tokens_to_death in (("whole", None), ("broken", 4)):
        server.tokens_to_death = tokens_to_death
        remote.add(name, max_tokens=60, grammar=JSON_OBJECT)
        if tokens_to_death:
            while not server.died.is_set():
                remote.step()
            server.revive()
        remote.finish()
    assert remote.text("whole").startswith('{"name": "') and remote.text("whole").endswith('"}')
    assert remote.text("broken") == remote.text("whole")
    assert remote.deltas("whole")[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        (400, "invalid_request", "not today"),
        (401, "backend_error", "key"),
        ("{not json", "backend_error", "not JSON"),
        ({"choices": [{"text": "words"}]}, "backend_error", "token_ids"),
        ({"choices": [{"token_ids": [100_000]}]}, "backend_error", "does not have"),
        ({"choices": []}, "backend_error", "without a token"),
        ({"choices": [None]}, "backend_error", "not objects"),
        ({"choices": {"text": "words"}}, "backend_error", "not objects"),
    ],
)
def test_a_bad_answer_fails_one_job_with_its_reason(
    remote: Remote, server: FakeVllm, fault: Any, code: str, part: str
) -> None:
    server.faults.append(fault)
    remote.add("bad", max_tokens=4, ignore_eos=True)
    remote.add("good", max_tokens=4, ignore_eos=True)
    remote.finish()
    ends = {type(remote.end(name)): remote.end(name) for name in ("bad", "good")}
    assert ends[Finished] == Finished(len(PROMPT), 4)
    failed = ends[Failed]
    assert isinstance(failed, Failed) and failed.code == code and part in failed.message


def test_a_fault_in_the_reading_of_an_answer_ends_its_job(
    remote: Remote, server: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'get'")

    monkeypatch.setattr("worker.remote.client.read_chunk", fail)
    remote.add(max_tokens=4, ignore_eos=True)
    remote.finish()
    failed = remote.end()
    assert isinstance(failed, Failed) and failed.code == "backend_error"


def test_an_error_of_the_server_itself_is_tried_again(remote: Remote, server: FakeVllm) -> None:
    server.faults += [503, {"error": {"message": "EngineCore encountered an issue", "code": 500}}]
    remote.add(max_tokens=4, ignore_eos=True)
    remote.finish()
    assert remote.end() == Finished(len(PROMPT), 4)


def test_a_request_that_kills_the_server_three_times_fails_and_others_finish(remote: Remote, server: FakeVllm) -> None:
    for request_id in ("poison", "mate"):
        remote.add(request_id, prompt_of(5 if request_id == "mate" else 20), max_tokens=4, ignore_eos=True)
    deadline = time.monotonic() + DEADLINE_S
    server.kills_length = 20  # more than the mate's ever has, also when it is asked again from its last token
    while remote.engine.has_work:
        assert time.monotonic() < deadline
        remote.step()
        if server.died.is_set():
            server.revive()
    assert isinstance(remote.end("poison"), Failed) and "3 times" in str(remote.end("poison"))
    assert remote.end("mate") == Finished(5, 4)


@pytest.mark.parametrize("length", ["200", 1.5, [200]])
def test_a_server_whose_longest_sequence_is_no_number_is_away(monkeypatch: pytest.MonkeyPatch, length: object) -> None:
    body = orjson.dumps({"data": [{"id": "m", "max_model_len": length}]})
    monkeypatch.setattr(VllmClient, "_get", lambda *_: (200, body))
    with pytest.raises(Away, match="max_model_len"):
        VllmClient("http://vllm").served()


def test_a_server_whose_engine_is_dead_is_away(remote: Remote, server: FakeVllm) -> None:
    server.is_sick = True
    remote.engine.watch.check()
    assert remote.engine.state == "away" and not remote.engine.has_room(1, 1)
    server.is_sick = False
    remote.engine.watch.check()
    assert remote.engine.state == "ready"
