"""Embedder: transformers' own vectors in any batch, once and in order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from api.embeddings.vectors import numbers
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice, SamplingParams
from tests.models import save_encoder, save_pooling
from worker.embedding.embedder import Embedder
from worker.embedding.encoder_model import load_encoder
from worker.embedding.inputs import EncoderInput
from worker.embedding.pooling import mode_of
from worker.models.loader import EngineConfig

TEXTS = [[1, 40, 50, 60, 2], [1, 70, 2], [1, *range(10, 40), 2]]


def embedder(folder: Path, **options: Any) -> Embedder:
    config = EngineConfig(device="cpu", threads=1)
    return Embedder(load_encoder(str(folder), ("bert",), config, lambda what, share: None), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("bert"))


def request(job_id: str, texts: list[list[int]]) -> GenerationRequest:
    ids = tuple(token_id for text in texts for token_id in text)
    return GenerationRequest(job_id, "bert", ids, SamplingParams(0, 0), input_lengths=tuple(map(len, texts)))


def run(engine: Embedder) -> list[tuple[str, Event]]:
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def vectors(events: list[tuple[str, Event]], job_id: str) -> Mapping[int, torch.Tensor]:
    return {
        event.index: torch.tensor(numbers(event.text))
        for name, event in events
        if name == job_id and isinstance(event, Delta)
    }


def states(folder: Path, ids: list[int]) -> torch.Tensor:
    """The vector of one text by transformers alone."""
    with torch.inference_mode():
        found: torch.Tensor = AutoModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0]
    return found


def test_a_vector_is_the_unit_mean_of_transformers_own_states(folder: Path) -> None:
    engine = embedder(folder)
    engine.add(request("a", TEXTS))
    events = run(engine)
    for index, vector in vectors(events, "a").items():
        mean = states(folder, TEXTS[index]).mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)
    assert events[-1] == ("a", Finished(sum(map(len, TEXTS)), 0)) and len(events) == 4


@pytest.mark.parametrize(
    ("switch", "is_unit"), [("cls_token", True), ("max_tokens", False), ("lasttoken", False), ("mean_tokens", False)]
)
def test_pooling_follows_the_models_files(tmp_path: Path, switch: str, is_unit: bool) -> None:
    folder = save_pooling(save_encoder(tmp_path), is_unit=is_unit, **{f"pooling_mode_{switch}": True})
    engine = embedder(folder)
    engine.add(request("a", TEXTS))
    for index, vector in vectors(run(engine), "a").items():
        own = states(folder, TEXTS[index])
        expected = {"cls_token": own[0], "max_tokens": own.amax(0), "lasttoken": own[-1]}.get(switch, own.mean(0))
        assert torch.allclose(vector, expected / expected.norm() if is_unit else expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [{}, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, {"pooling_mode": "weightedmean"}],
)
def test_an_unknown_pooling_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pooling is none of"):
        mode_of(config)
    assert mode_of({"pooling_mode": "mean"}) == "mean"


def test_a_text_has_the_same_vector_alone_and_in_a_batch(folder: Path) -> None:
    together, alone = embedder(folder), embedder(folder, step_tokens=1)
    for engine in (together, alone):
        for job_id, texts in (("a", TEXTS), ("b", TEXTS[::-1])):
            engine.add(request(job_id, texts))
    first, second = run(together), run(alone)
    assert [name for name, _ in second] == ["a", "b"] * 2 + ["a", "a", "b", "b"]  # in turns
    assert sorted(name for name, _ in first) == ["a"] * 4 + ["b"] * 4
    for job_id in ("a", "b"):
        for index, vector in vectors(first, job_id).items():
            assert torch.allclose(vector, vectors(second, job_id)[index], atol=1e-5)


def test_a_successor_embeds_only_what_is_not_logged(folder: Path) -> None:
    engine = embedder(folder)
    engine.add(request("a", TEXTS), {0: LoggedChoice((), "x", "stop"), 2: LoggedChoice((), "y", "stop")})
    events = run(engine)
    assert [getattr(event, "index", None) for _, event in events] == [1, None]
    engine.add(request("a", TEXTS), {index: LoggedChoice((), "x", "stop") for index in range(3)})
    assert run(engine) == [("a", Finished(sum(map(len, TEXTS)), 0))]


def test_texts_of_like_length_are_embedded_together(folder: Path) -> None:
    """So that little of a step is padding."""
    engine = embedder(folder, step_tokens=40)
    engine.add(request("a", [[5] * length for length in (20, 2, 18, 3, 19, 2)]))
    first = vectors(engine.step(), "a")
    assert sorted(first) == [1, 3, 5]
    assert sorted(vectors(run(engine), "a")) == [0, 2, 4]


def test_one_bad_text_fails_its_own_request_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = embedder(folder)
    forward = engine._loaded

    def breaks(batch: Sequence[EncoderInput]) -> torch.Tensor:
        if any(77 in text.token_ids for text in batch):
            raise RuntimeError("odd")
        return forward(batch)

    monkeypatch.setattr(engine, "_loaded", breaks)
    engine.add(request("good", TEXTS))
    engine.add(request("bad", [[77], [5]]))
    events = run(engine)
    assert len(vectors(events, "good")) == 3
    assert [type(event) for name, event in events if name == "bad"] == [Failed]
    assert not engine.has_work and engine.stats().num_running == 0


def test_suspects_run_without_others_and_a_cancelled_request_gets_no_more_events(folder: Path) -> None:
    engine = embedder(folder)
    engine.add(request("other", [[5]]))
    engine.add(request("suspect", [[6]]), is_suspect=True)
    engine.add(request("gone", [[7]]))
    engine.cancel("gone")
    assert {name for name, _ in engine.step()} == {"suspect"}
    assert {name for name, _ in engine.step()} == {"other"} and not engine.has_work


def test_a_request_that_an_encoder_cannot_serve_is_refused(folder: Path) -> None:
    engine = embedder(folder)
    engine.add(GenerationRequest("chat", "bert", (1, 2), SamplingParams(5, 0)))
    engine.add(request("long", [[1] * 65]))
    engine.add(request("odd", [[5000]]))
    assert [event.code for _, event in run(engine) if isinstance(event, Failed)] == ["invalid_request"] * 3


def test_flex_inputs_go_after_all_others_and_are_charged_for_their_time(folder: Path) -> None:
    engine = embedder(folder, step_tokens=100)
    engine.add(replace(request("batch", [TEXTS[1]] * 100), is_flex=True))
    engine.step()
    engine.add(request("first", [TEXTS[1]] * 30))
    engine.add(replace(request("late", [TEXTS[1]] * 100), is_flex=True))
    assert engine.has_room(1, 1) and not engine.has_room(1, 1, is_flex=True)
    order = [job_id for job_id, _ in run(engine)]
    assert order[:31] == ["first"] * 31 and order.count("batch") > 50
    charged = engine.take_gpu_us()
    assert charged["batch"] > charged["first"] > 0 and charged["late"] > 0


def test_a_list_of_a_thousand_texts_keeps_no_other_request_out(folder: Path) -> None:
    engine = embedder(folder, step_tokens=100)
    engine.add(request("long", [TEXTS[1]] * 1000))
    assert engine.has_room(1, 1)
    engine.add(request("short", TEXTS[:1]))
    assert [job_id for job_id, _ in engine.step()].count("short") == 2  # its vector and its end
    engine.add(request("second", [TEXTS[1]] * 1000))
    assert not engine.has_room(1, 1)
    assert engine.has_room(1, 1, without=["second"])
    assert vectors(run(engine), "long").keys() >= set(range(990, 1000))
