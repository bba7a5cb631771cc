"""Vision models: the engine gives the tokens of transformers' generate(), alone and in a batch."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.errors import InvalidRequest
from common.images import decoded
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice, SamplingParams
from tests.pictures import announced, cut, data_url
from tests.vision_models import VISION_FAMILIES, save_vision_model
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load
from worker.models.vision import PositionShifts
from worker.runners.base import ModelRunner
from worker.runners.image_prompts import ImagePromptRunner
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.sequential import SequentialRunner

QUESTION = "what is it, and what is it that is beside it?"
WIDE, TALL = data_url("red", (84, 40)), data_url("#00ff88", (40, 112))
NUM_TOKENS = 10
SMALL = EngineConfig(device="cpu", threads=1, max_num_seqs=4, max_step_tokens=16, kv_memory_bytes=2**24)


class Bench:
    """One model, in our engine and in transformers."""

    def __init__(self, folder: Path, config: EngineConfig = SMALL) -> None:
        self.folder = folder
        loaded = load(str(folder), ("tiny",), config, lambda what, share: None)
        self.images = loaded.images
        self.engine = Engine(loaded, config)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.model.generation_config.eos_token_id = None

    def conversation(self, *images: str) -> str:
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": QUESTION}]
        messages = [{"role": "user", "content": parts}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def request(self, job_id: str, *images: str, n: int = 1, max_tokens: int = NUM_TOKENS) -> GenerationRequest:
        ids = self.processor.tokenizer(self.conversation(*images), add_special_tokens=False).input_ids
        sampling = SamplingParams(max_tokens, 0, n=n, temperature=0.0, ignore_eos=True)
        return GenerationRequest(job_id, "tiny", tuple(ids), sampling, images=images)

    def batch(self, *images: str) -> dict[str, Any]:
        """The inputs that the model's processor makes of the conversation."""
        read = {"images": [decoded(url) for url in images]} if images else {}
        options = {"return_tensors": "pt", "add_special_tokens": False}
        return dict(self.processor(text=[self.conversation(*images)], **options, **read))

    def expected(self, *images: str, max_tokens: int = NUM_TOKENS) -> list[int]:
        batch = self.batch(*images)
        with torch.inference_mode():
            ids = self.model.generate(**batch, do_sample=False, max_new_tokens=max_tokens)
        return [int(token_id) for token_id in ids[0, batch["input_ids"].shape[1] :]]

    def run(self) -> list[tuple[str, Event]]:
        events = []
        while self.engine.has_work:
            events += self.engine.step()
        return events


@pytest.fixture(scope="module", params=VISION_FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def bench(folder: Path) -> Bench:
    return Bench(folder)


def tokens(events: list[tuple[str, Event]], job_id: str, index: int = 0) -> list[int]:
    deltas = [event for name, event in events if name == job_id and isinstance(event, Delta) and event.index == index]
    return [token_id for delta in deltas for token_id in delta.token_ids]


def cached_tokens(events: list[tuple[str, Event]], job_id: str) -> int:
    (finished,) = [event for name, event in events if name == job_id and isinstance(event, Finished)]
    return finished.cached_tokens


def test_a_vision_model_runs_many_sequences_in_a_step(bench: Bench) -> None:
    assert isinstance(bench.engine.runner, ImagePromptRunner)


@pytest.mark.usefixtures("kernels")
def test_its_text_is_computed_by_the_c_kernels_where_they_fit(tmp_path: Path) -> None:
    runner = Bench(save_vision_model(tmp_path, "llava_wide")).engine.runner
    assert isinstance(runner, ImagePromptRunner) and isinstance(runner.inner, NativeDecoderRunner)


def test_the_pass_that_reads_images_gets_the_inputs_of_the_models_processor(bench: Bench) -> None:
    assert bench.images is not None
    request = bench.images.expanded(bench.request("a", TALL, WIDE))
    batch = bench.batch(TALL, WIDE)
    assert list(request.prompt_ids) == batch.pop("input_ids")[0].tolist()
    del batch["attention_mask"]
    given = bench.images.inputs(request.images, request.prompt_ids, bench.model)
    assert given.keys() == batch.keys()
    assert all(torch.equal(torch.as_tensor(given[name]), torch.as_tensor(batch[name])) for name in batch)


def test_a_batch_with_and_without_images_gets_the_tokens_of_generate(bench: Bench) -> None:
    cases = {"one": (WIDE,), "two": (TALL, WIDE), "none": ()}
    events = []
    for job_id, images in cases.items():  # staggered: some decode while others are read
        bench.engine.add(bench.request(job_id, *images))
        events += bench.engine.step()
    events += bench.run()
    for job_id, images in cases.items():
        assert tokens(events, job_id) == bench.expected(*images)


def test_a_prefix_is_shared_only_with_the_same_images(folder: Path) -> None:
    bench = Bench(folder)
    found = {}
    for job_id, image in {"first": WIDE, "same": WIDE, "other": data_url("blue", (84, 40))}.items():
        bench.engine.add(bench.request(job_id, image))
        events = bench.run()
        assert tokens(events, job_id) == bench.expected(image)
        found[job_id] = cached_tokens(events, job_id)
    assert found["first"] == found["other"] == 0 < found["same"]


def test_a_cached_prefix_whose_shift_is_unknown_is_read_again(folder: Path) -> None:
    bench = Bench(folder, replace(SMALL, speculate=2))
    for job_id in ("first", "same"):
        bench.engine.add(bench.request(job_id, WIDE))
        assert tokens(bench.run(), job_id) == bench.expected(WIDE)
        assert isinstance(bench.engine.runner, ImagePromptRunner)
        bench.engine.runner.shifts.clear()


@pytest.mark.parametrize("changes", [{}, {"overlap": True}, {"speculate": 3}], ids=str)
def test_choices_of_one_request_share_their_images(folder: Path, changes: dict[str, Any]) -> None:
    bench = Bench(folder, replace(SMALL, **changes))
    bench.engine.add(bench.request("both", WIDE, n=2))
    bench.engine.add(bench.request("text"))
    events = bench.run()
    for index in range(2):
        assert tokens(events, "both", index) == bench.expected(WIDE)
    assert tokens(events, "text") == bench.expected()


@pytest.mark.parametrize("overlap", [False, True], ids=["in-turn", "overlapped"])
def test_preempted_sequences_are_read_again(folder: Path, overlap: bool) -> None:
    bench = Bench(folder, replace(SMALL, overlap=overlap))
    requests = [bench.request(job_id, image, max_tokens=50) for job_id, image in {"wide": WIDE, "tall": TALL}.items()]
    assert bench.images is not None
    lengths = [len(bench.images.expanded(request).prompt_ids) for request in requests]
    cache = bench.engine.runner.kv_cache
    num_needed = sum(cache.num_blocks_for(length) for length in lengths)
    bench.engine.scheduler.forecast.answers.share = 0.0
    taken = cache.pool.allocate(cache.pool.num_free - num_needed - 3)  # both prompts fit, both answers do not
    for request in requests:
        bench.engine.add(request)
    events = bench.run()
    assert bench.engine.scheduler.num_preemptions > 0
    for job_id, image in {"wide": WIDE, "tall": TALL}.items():
        assert tokens(events, job_id) == bench.expected(image, max_tokens=50)
    cache.pool.free(taken)


def test_a_model_that_fails_the_image_probe_runs_one_sequence_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ImagePromptRunner, "keep", forget)
    bench = Bench(folder)
    assert isinstance(bench.engine.runner, SequentialRunner)
    assert "runs one sequence at a time: its logits differ" in caplog.text
    bench.engine.add(bench.request("a", TALL))
    assert tokens(bench.run(), "a") == bench.expected(TALL)


def test_a_model_whose_processor_needs_a_missing_package_is_served_without_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Bench(folder)
    monkeypatch.setattr("worker.models.vision.AutoProcessor.from_pretrained", missing)
    loaded = load(str(folder), ("tiny",), SMALL, lambda what, share: None)
    assert loaded.images is None and "served without images (pip install torchvision" in caplog.text
    engine = Engine(loaded, SMALL)
    assert isinstance(engine.runner, ModelRunner) and not engine.card.accepts_images
    engine.add(whole.request("text"))
    engine.add(whole.request("image", WIDE))
    events = []
    while engine.has_work:
        events += engine.step()
    assert tokens(events, "text") == whole.expected()
    (refused,) = [event for job_id, event in events if job_id == "image"]
    assert isinstance(refused, Failed) and refused.message == "This model does not take images."


def missing(*_: Any, **__: Any) -> None:
    """As transformers does where a package is not installed."""
    raise ImportError("it requires the Torchvision library")


def forget(*_: Any) -> None:
    """Keeps nothing."""


def test_image_tokens_are_counted(bench: Bench) -> None:
    bench.engine.add(bench.request("a", WIDE))
    [(_, finished)] = [item for item in bench.run() if isinstance(item[1], Finished)]
    assert isinstance(finished, Finished) and finished.prompt_tokens > len(bench.request("a", WIDE).prompt_ids)


def test_a_restarted_worker_continues_from_the_logged_tokens(bench: Bench) -> None:
    bench.engine.add(bench.request("a", TALL))
    deltas = [event for _, event in bench.run() if isinstance(event, Delta)]
    shown = deltas[:3]
    logged = LoggedChoice(
        tuple(token_id for delta in shown for token_id in delta.token_ids), "".join(delta.text for delta in shown)
    )
    bench.engine.add(bench.request("a", TALL), {0: logged})
    assert [delta for _, delta in bench.run() if isinstance(delta, Delta)] == deltas[3:]


def test_an_unreadable_image_fails_only_its_own_request(bench: Bench) -> None:
    bench.engine.add(bench.request("good"))
    bench.engine.add(bench.request("cut", cut(WIDE)))
    more = bench.request("more", WIDE)
    bench.engine.add(GenerationRequest("more", "tiny", more.prompt_ids, more.sampling, images=(WIDE, TALL)))
    failed = {name: event.code for name, event in bench.run() if isinstance(event, Failed)}
    assert failed == {"cut": "invalid_request", "more": "invalid_request"}


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,*",
        "data:text/html;base64,AAAA",
        data_url(form="BMP"),
        announced(8192, 4096),
        "data:image/png;base64," + "A" * (6 * 2**20),
    ],
)
def test_anything_but_a_bounded_inline_image_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        decoded(url)


def test_position_shifts_belong_to_sequences_not_to_the_model() -> None:
    inner = SimpleNamespace(rope_deltas=None)
    shifts = PositionShifts(SimpleNamespace(model=inner))
    first, second = object(), object()
    for sequence, shift in ((first, 3), (second, 5)):
        shifts.restore(sequence, is_first=True)  # type: ignore[arg-type]
        assert inner.rope_deltas is None
        inner.rope_deltas = shift
        shifts.save(sequence)  # type: ignore[arg-type]
    shifts.restore(first, is_first=False)  # type: ignore[arg-type]
    assert inner.rope_deltas == 3
