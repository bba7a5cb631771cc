"""CrossEncoder: transformers' own scores of pairs in any batch, by the checkpoint's activation."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, Qwen2Config, XLMRobertaConfig

from api.embeddings.vectors import numbers
from common.model.frames import longest_first, pair_frame
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice, SamplingParams
from tests.models import save_cross_encoder, save_encoder
from worker.embedding.embedder import Embedder
from worker.embedding.encoder_model import load_encoder
from worker.models.loader import EngineConfig

QUERY = "the quick brown fox"
DOCUMENTS = ["jumps", "a stream of tokens, one at a time", "", "äöü ß 你好 🙂 12345", "over the lazy dog"]
KINDS = {"bert": BertConfig, "xlm-roberta": XLMRobertaConfig}


def engine_of(folder: Path, **options: Any) -> Embedder:
    config = EngineConfig(device="cpu", threads=1)
    engine = Embedder(load_encoder(str(folder), ("ranker",), config, lambda what, share: None), **options)
    engine.warm_up(lambda what, share: None)
    return engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_cross_encoder(tmp_path_factory.mktemp(kind), config) for kind, config in KINDS.items()}


def request(engine: Embedder, job_id: str, documents: Sequence[str]) -> GenerationRequest:
    """As the API makes it."""
    tokenizer = Tokenizer.from_str(engine.card.tokenizer)
    tokenizer.no_truncation()
    frame = pair_frame(tokenizer)
    inputs = []
    for document in documents:
        first, second = (tokenizer.encode(text, add_special_tokens=False).ids for text in (QUERY, document))
        ours, theirs = longest_first(len(first), len(second), engine.card.max_model_len - frame.size)
        inputs.append(frame.framed(first[:ours], second[:theirs]))
    ids = tuple(token_id for pair, _ in inputs for token_id in pair)
    lengths, starts = tuple(len(pair) for pair, _ in inputs), tuple(start for _, start in inputs)
    return GenerationRequest(job_id, "ranker", ids, SamplingParams(0, 0), input_lengths=lengths, second_starts=starts)


def events_of(engine: Embedder, *requests: GenerationRequest) -> list[tuple[str, Event]]:
    for each in requests:
        engine.add(each)
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def scores(events: list[tuple[str, Event]], job_id: str = "a") -> list[float]:
    found = {event.index: numbers(event.text) for name, event in events if name == job_id and isinstance(event, Delta)}
    assert all(len(vector) == 1 for vector in found.values())
    return [found[index][0] for index in range(len(found))]


def expected(folder: Path, documents: Sequence[str], **options: Any) -> torch.Tensor:
    """The logits of each pair alone, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    takes = {"input_ids", "attention_mask", *(["token_type_ids"] if model.config.type_vocab_size > 1 else [])}
    logits = []
    for document in documents:
        read = tokenizer([(QUERY, document)], return_tensors="pt", truncation=True, **options)
        with torch.inference_mode():
            logits.append(model(**{name: value for name, value in read.items() if name in takes}).logits[0, 0])
    return torch.stack(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_sigmoid_of_transformers_own_logit_in_any_batch(folders: dict[str, Path], kind: str) -> None:
    own = torch.sigmoid(expected(folders[kind], DOCUMENTS))
    for step_tokens in (1, 40, 4096):
        engine = engine_of(folders[kind], step_tokens=step_tokens)
        events = events_of(engine, request(engine, "a", DOCUMENTS), request(engine, "b", DOCUMENTS[::-1]))
        assert torch.tensor(scores(events)) == pytest.approx(own, abs=1e-5)
        assert torch.tensor(scores(events, "b")) == pytest.approx(own.flip(0), abs=1e-5)
        assert sum(isinstance(event, Finished) for _, event in events) == 2
    assert own.max() - own.min() > 0.01  # the scores differ, so that a mix-up would show


def test_the_types_of_the_texts_count(folders: dict[str, Path]) -> None:
    engine = engine_of(folders["bert"])
    ours = request(engine, "a", DOCUMENTS[:1])
    untyped = replace(ours, second_starts=ours.input_lengths)
    assert scores(events_of(engine, ours)) != pytest.approx(scores(events_of(engine, untyped)), abs=1e-4)


def test_a_long_pair_is_cut_as_transformers_cuts_it(folders: dict[str, Path]) -> None:
    documents = ["x y " * 100]
    engine = engine_of(folders["bert"])
    assert engine.card.max_model_len == 60
    own = torch.sigmoid(expected(folders["bert"], documents, max_length=60))
    assert torch.tensor(scores(events_of(engine, request(engine, "a", documents)))) == pytest.approx(own, abs=1e-5)


@pytest.mark.parametrize(
    "named",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_a_checkpoint_may_name_its_activation(tmp_path: Path, named: dict[str, Any]) -> None:
    folder = renamed(save_cross_encoder(tmp_path), **named)
    engine = engine_of(folder)
    own = expected(folder, DOCUMENTS)
    assert torch.tensor(scores(events_of(engine, request(engine, "a", DOCUMENTS)))) == pytest.approx(own, abs=1e-5)


def renamed(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_what_is_no_reranker_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = save_cross_encoder(tmp_path / "three", num_labels=3)
    with pytest.raises(ValueError, match=r"a classifier with 3 labels \(LABEL_0, LABEL_1, LABEL_2\); a reranker has"):
        engine_of(folder)
    odd = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}
    with pytest.raises(ValueError, match="activation torch.nn.modules.activation.Tanh; known here are Sigmoid"):
        engine_of(renamed(save_cross_encoder(tmp_path / "tanh"), **odd))
    headless = save_encoder(tmp_path / "headless")
    with pytest.raises(ValueError, match="weights are in no file, the first of them is classifier"):
        engine_of(renamed(headless, architectures=["BertForSequenceClassification"], id2label={"0": "LABEL_0"}))


def test_a_decoder_with_a_score_reads_its_last_token(tmp_path: Path) -> None:
    """As Qwen3's rerankers are, once they are converted for transformers' classification."""
    folder = save_cross_encoder(tmp_path, Qwen2Config, num_key_value_heads=2, pad_token_id=3)
    engine = engine_of(folder)
    own = torch.sigmoid(expected(folder, DOCUMENTS))
    assert torch.tensor(scores(events_of(engine, request(engine, "a", DOCUMENTS)))) == pytest.approx(own, abs=1e-5)


def test_a_successor_scores_only_what_is_not_logged(folders: dict[str, Path]) -> None:
    engine = engine_of(folders["bert"])
    engine.add(request(engine, "a", DOCUMENTS), {0: LoggedChoice((), "x", "stop"), 3: LoggedChoice((), "y", "stop")})
    events = events_of(engine)
    assert sorted(event.index for _, event in events if isinstance(event, Delta)) == [1, 2, 4]
    assert isinstance(events[-1][1], Finished) and len(events) == 4


def test_a_request_for_embeddings_is_refused(folders: dict[str, Path]) -> None:
    engine = engine_of(folders["bert"])
    plain = GenerationRequest("a", "ranker", (5, 6), SamplingParams(0, 0), input_lengths=(1, 1))
    assert events_of(engine, plain) == [
        ("a", Failed("invalid_request", "This model makes scores of pairs only.")),
    ]
