"""Speculation with a draft that is accepted: the part `drafts` of bench.gpu.

The model's later layers add nothing (their output weights are 0) but cost what they always cost; the draft model is its
first layers. So both choose the same tokens, but for rounding, and what is measured is the speed of drafting, verifying
and accepting, not how well a real draft model guesses.
"""

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from bench.gpu_bench import Bench
from bench.gpu_model import as_loaded, random_model
from bench.roofline import decoding
from common.wire import Delta
from worker.engine.engine import Engine

NUM_DRAFT_LAYERS = 2
NUM_AHEAD = 5  # tokens drafted at most
SHM = Path("/dev/shm")


def drafts(bench: Bench) -> None:
    report = bench.report
    bench.release()
    model, draft = pair(bench)
    with tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None) as folder:
        save(draft, bench.device, folder)
        del draft
        bench.free()
        plain = bench.engine_of(copy_of(model, bench), max_num_seqs=max(bench.sizes.few))
        before = {batch: tokens_per_second(bench, plain, batch) for batch in bench.sizes.few}
        del plain
        bench.free()
        engine = bench.engine_of(model, max_num_seqs=max(bench.sizes.few), draft_model=folder, speculate=NUM_AHEAD)
        guesser = type(engine.drafter.guesser).__name__
        report.say(f"{guesser}: {NUM_DRAFT_LAYERS} layers draft at most {NUM_AHEAD} tokens\n")
        report.columns("streams", "tokens/s", "with drafts", "times as fast", "predicted", "accepted", "of drafted")
        for batch in bench.sizes.few:
            drafted, accepted = engine.drafter.num_drafted, engine.drafter.num_accepted
            after = tokens_per_second(bench, engine, batch)
            drafted, accepted = engine.drafter.num_drafted - drafted, engine.drafter.num_accepted - accepted
            gain, key = after / before[batch], f"draft/{batch}"
            report.row(batch, before[batch], after, gain, report.predicted(f"{key}/times as fast"), accepted, drafted)
            report.number(f"{key}/times as fast", gain, accepted=accepted, drafted=drafted)
            report.number(f"{key}/tokens/s", after)


def pair(bench: Bench) -> tuple[Any, Any]:
    """The model, and the draft model: its first layers."""
    model = bench.model()
    draft = random_model(bench.shape, bench.device, torch.bfloat16, NUM_DRAFT_LAYERS)
    weights = model.state_dict()
    draft.load_state_dict({name: weights[name] for name in draft.state_dict()})
    for layer in model.model.layers[NUM_DRAFT_LAYERS:]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return model, draft


def copy_of(model: Any, bench: Bench) -> Any:
    """An engine takes a model's weights away, and another is to have the same."""
    made = copy.deepcopy(model)
    bench.synchronize()
    return made


def save(draft: Any, device: torch.device, folder: str) -> None:
    """As a folder that OMNI_DRAFT_MODEL names."""
    draft.save_pretrained(folder)
    tokenizer = as_loaded(draft, device, 1).tokenizer
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def tokens_per_second(bench: Bench, engine: Engine, batch: int) -> float:
    """Of decode steps of so many streams, after a few to get going."""
    num_steps = bench.sizes.steps
    num_tokens = 0
    with decoding(engine, batch, bench.sizes.context, (NUM_AHEAD + 1) * 2 * num_steps):
        for _ in range(num_steps):
            engine.step()
        bench.synchronize()
        started = time.perf_counter()
        for _ in range(num_steps):
            num_tokens += sum(len(event.token_ids) for _, event in engine.step() if isinstance(event, Delta))
        bench.synchronize()
        return num_tokens / (time.perf_counter() - started)
