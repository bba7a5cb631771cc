"""Requests inside an engine: each has a state until it is removed, and is settled once."""

from common.wire import Finished, GenerationRequest, SamplingParams
from worker.engine.requests import Requests


def request(request_id: str) -> GenerationRequest:
    return GenerationRequest(request_id, "tiny", (1, 2, 3), SamplingParams(max_tokens=1, seed=0))


def test_a_removed_request_leaves_nothing_but_its_counts() -> None:
    requests = Requests[str]()
    requests.admit(request("a"), "its state", is_suspect=True)
    assert requests.has_work and requests["a"] == "its state" and requests.suspects == {"a"}
    assert requests.remove("a") == "its state"
    assert not requests.has_work and "a" not in requests and not requests.suspects
    assert requests.num_prompt_tokens == 3


def test_a_settled_request_is_work_until_its_event_is_taken() -> None:
    requests = Requests[str]()
    requests.settle("a", Finished(3, 0))
    requests.settle("b", Finished(3, 1))
    requests.remove("b")
    assert requests.has_work
    assert requests.take_settled() == [("a", Finished(3, 0))]
    assert requests.take_settled() == [] and not requests.has_work
