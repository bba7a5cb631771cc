"""Every sampling parameter reaches a vLLM server, or is applied here."""

from dataclasses import fields
from typing import Any

import pytest

from common.wire import SamplingParams
from worker.remote.sequence import RemoteSequence
from worker.remote.wire import completion_body
from worker.runners.probe import probe_sequence
from worker.state.sequence import Sequence

# another value than the default of each parameter that is sent with the question
SENT: tuple[tuple[str, Any], ...] = (
    ("max_tokens", 7),
    ("seed", 5),
    ("temperature", 0.5),
    ("top_p", 0.9),
    ("top_k", 7),
    ("min_p", 0.1),
    ("presence_penalty", 0.2),
    ("frequency_penalty", 0.3),
    ("repetition_penalty", 1.1),
    ("logit_bias", ((5, 2.0),)),
    ("min_tokens", 2),
    ("logprobs", 2),
)
APPLIED_HERE = (
    "stop",  # worker/state/stopping.py: the server's text is not read
    "stop_token_ids",  # part of Sequence.stop_token_ids, which are sent
    "ignore_eos",  # leaves the model's end tokens out of Sequence.stop_token_ids
    "grammar",  # worker/remote/sequence.py: as allowed tokens, or by rejection
    "n",  # a sequence each
    "skip_special_tokens",  # worker/state/detokenizer.py
)


def sequence_with(**sampling: Any) -> Sequence:
    sequence = probe_sequence([4, 5, 6])
    sequence.sampling = SamplingParams(**({"max_tokens": 9, "seed": 0} | sampling))
    sequence.stop_token_ids = frozenset({1})
    return sequence


def body_of(sequence: Sequence) -> dict[str, Any]:
    question = RemoteSequence(sequence, vocab_size=32).question(max_model_len=100)
    return completion_body("served", sequence, question)


def test_each_parameter_has_its_place() -> None:
    assert sorted(name for name, _ in SENT) + sorted(APPLIED_HERE) == sorted(
        (field.name for field in fields(SamplingParams)), key=lambda name: (name in APPLIED_HERE, name)
    )


@pytest.mark.parametrize(("name", "value"), SENT)
def test_a_parameter_that_is_sent_changes_the_question(name: str, value: Any) -> None:
    assert body_of(sequence_with(**{name: value})) != body_of(sequence_with())


def test_the_stop_tokens_of_the_sequence_are_the_servers() -> None:
    assert body_of(sequence_with())["stop_token_ids"] == [1]
