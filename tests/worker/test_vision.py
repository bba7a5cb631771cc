"""Vision models: what our engine says of images is what transformers' generate() says, alone and beside others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from common.errors import InvalidRequest
from common.images import decoded
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice, SamplingParams
from tests.models import save_vision_model
from tests.pictures import cut, data_url
from worker.engine import Engine
from worker.loader import EngineConfig, load
from worker.vision import Positions

WIDE, TALL = data_url("red", (84, 40)), data_url("#00ff88", (40, 112))
NUM_TOKENS = 6


class Bench:
    """One model, in our engine and in transformers' hands."""

    def __init__(self, folder: Path) -> None:
        config = EngineConfig(device="cpu", threads=1, max_num_seqs=4, kv_memory_bytes=2**24)
        self.folder = folder
        self.engine = Engine(load(str(folder), ("tiny",), config, lambda what, share: None), config)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()

    def conversation(self, *images: str) -> str:
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": "what is it?"}]
        messages = [{"role": "user", "content": parts}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def request(self, job_id: str, *images: str) -> GenerationRequest:
        ids = self.processor.tokenizer(self.conversation(*images), add_special_tokens=False).input_ids
        sampling = SamplingParams(NUM_TOKENS, 0, temperature=0.0, ignore_eos=True)
        return GenerationRequest(job_id, "tiny", tuple(ids), sampling, images=images)

    def expected(self, *images: str) -> list[int]:
        read = {"images": [decoded(url) for url in images]} if images else {}
        batch = self.processor(text=[self.conversation(*images)], return_tensors="pt", add_special_tokens=False, **read)
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS}
        with torch.inference_mode():
            ids = self.model.generate(**batch, **options)
        return [int(token_id) for token_id in ids[0, batch["input_ids"].shape[1] :]]

    def run(self) -> list[tuple[str, Event]]:
        events = []
        while self.engine.has_work:
            events += self.engine.step()
        return events


@pytest.fixture(scope="module", params=["llava", "idefics3"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(save_vision_model(tmp_path_factory.mktemp(request.param), request.param))


def tokens(events: list[tuple[str, Event]], job_id: str) -> list[int]:
    return [id for name, event in events if name == job_id and isinstance(event, Delta) for id in event.token_ids]


def test_requests_with_and_without_images_say_beside_each_other_what_generate_says(bench: Bench) -> None:
    cases = {"one": (WIDE,), "two": (TALL, WIDE), "none": ()}
    bench.engine.add(bench.request("one", *cases["one"]))
    bench.engine.step()
    events = []
    for job_id in ("two", "none"):
        bench.engine.add(bench.request(job_id, *cases[job_id]))
    events = bench.run()
    for job_id in ("two", "none"):
        assert tokens(events, job_id) == bench.expected(*cases[job_id])
    assert tokens(events, "one") == bench.expected(WIDE)[1:]


def test_the_images_pixels_matter_and_their_tokens_are_counted(bench: Bench) -> None:
    bench.engine.add(bench.request("a", WIDE))
    [(_, finished)] = [item for item in bench.run() if isinstance(item[1], Finished)]
    assert isinstance(finished, Finished) and finished.prompt_tokens > len(bench.request("a", WIDE).prompt_ids)


def test_a_successor_goes_on_from_the_logged_tokens(bench: Bench) -> None:
    bench.engine.add(bench.request("a", TALL))
    deltas = [event for _, event in bench.run() if isinstance(event, Delta)]
    shown = deltas[:3]
    logged = LoggedChoice(
        tuple(token_id for delta in shown for token_id in delta.token_ids), "".join(delta.text for delta in shown)
    )
    bench.engine.add(bench.request("a", TALL), {0: logged})
    assert [delta for _, delta in bench.run() if isinstance(delta, Delta)] == deltas[3:]


def test_an_image_that_cannot_be_read_fails_its_own_request_only(bench: Bench) -> None:
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
        data_url(size=(8192, 4096), form="GIF"),
        "data:image/png;base64," + "A" * (6 * 2**20),
    ],
)
def test_what_is_no_bounded_image_in_the_request_itself_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        decoded(url)


def test_shifted_positions_belong_to_the_sequence_not_to_the_model() -> None:
    inner = SimpleNamespace(rope_deltas=None)
    positions = Positions(SimpleNamespace(model=inner))
    first, second = object(), object()
    for sequence, shift in ((first, 3), (second, 5)):
        positions.before(sequence, is_first=True)  # type: ignore[arg-type]
        assert inner.rope_deltas is None
        inner.rope_deltas = shift
        positions.after(sequence)  # type: ignore[arg-type]
    positions.before(first, is_first=False)  # type: ignore[arg-type]
    assert inner.rope_deltas == 3
