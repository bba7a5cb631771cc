"""Scores of pairs by an embedder: the cosine of its own vectors, once each, also after a worker's death."""

from pathlib import Path

import pytest
import torch

from common.wire import Delta, Failed, Finished, GenerationRequest, LoggedChoice, SamplingParams
from tests.models import save_encoder, save_pooling
from tests.worker.embedding.test_embedder import TEXTS, embedder, request, run, vectors
from worker.embedding.similarity import PairScores

PAIRS = ((0, 1), (0, 2), (2, 2), (2, 1))


def scored(pairs: tuple[tuple[int, int], ...] = PAIRS) -> GenerationRequest:
    plain = request("a", TEXTS)
    return GenerationRequest(
        "a", "bert", plain.prompt_ids, SamplingParams(0, 0), input_lengths=plain.input_lengths, pairs=pairs
    )


@pytest.mark.parametrize("step_tokens", [1, 4096])
def test_a_score_is_the_cosine_of_the_vectors_that_the_model_gives(tmp_path: Path, step_tokens: int) -> None:
    folder = save_pooling(save_encoder(tmp_path), is_unit=False, pooling_mode_mean_tokens=True)
    engine = embedder(folder, step_tokens=step_tokens)
    engine.add(request("v", TEXTS))
    own = vectors(run(engine), "v")
    engine.add(scored())
    events = run(engine)
    found = vectors(events, "a")
    for number, (first, second) in enumerate(PAIRS):
        cosine = torch.dot(own[first], own[second]) / own[first].norm() / own[second].norm()
        assert found[number].item() == pytest.approx(cosine.item(), abs=1e-6)
    assert len(events) == len(PAIRS) + 1 and events[-1] == ("a", Finished(sum(map(len, TEXTS)), 0))


def test_only_what_the_missing_scores_need_is_embedded_again(tmp_path: Path) -> None:
    engine = embedder(save_encoder(tmp_path))
    logged = {number: LoggedChoice((), "x", "stop") for number in (1, 2, 3)}
    engine.add(scored(), logged)
    assert len(engine._waiting) == 2
    assert [event.index for _, event in run(engine) if isinstance(event, Delta)] == [0]
    engine.add(scored(), logged | {0: LoggedChoice((), "x", "stop")})
    assert [type(event) for _, event in run(engine)] == [Finished]


def test_a_pair_is_given_out_when_its_second_vector_comes() -> None:
    scores = PairScores(((0, 1), (2, 0)), logged=())
    assert scores.add(1, torch.tensor([1.0, 0.0])) == []
    [(number, score)] = scores.add(0, torch.tensor([3.0, 4.0]))
    assert number == 0 and score.tolist() == pytest.approx([0.6])
    [(number, score)] = scores.add(2, torch.tensor([0.0, 0.0]))  # a text without direction is like no other
    assert number == 1 and score.tolist() == [0.0]


def test_a_score_is_never_above_one() -> None:
    vector = torch.randn(8, generator=torch.Generator().manual_seed(0))
    assert torch.nn.functional.cosine_similarity(vector, vector, dim=0) > 1  # by rounding
    [(_, score)] = PairScores(((0, 0),), logged=()).add(0, vector)
    assert score.tolist() == [1.0]


def test_a_pair_of_an_unknown_input_is_refused(tmp_path: Path) -> None:
    engine = embedder(save_encoder(tmp_path))
    engine.add(scored(((0, 3),)))
    assert run(engine) == [("a", Failed("invalid_request", "A pair names an input that is not there."))]
