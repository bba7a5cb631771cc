"""A DeepSeek-V3.2 of the released form with its MTP layer, made small: the part `mtp` of bench.gpu.

In fp8 blocks; its layers change little, so that the MTP layer mostly guesses right. In float32 the tokens with drafts
have to be those without; in bf16 the speed of drafting, verifying and accepting is measured.
"""

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.gpu_bench import Bench
from bench.gpu_checks import run, verdict
from bench.gpu_drafts import tokens_per_second
from common.wire import SamplingParams
from worker.drafting.heads import HeadGuesser
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load

NUM_AHEAD = 2
GAIN = 0.04  # see save_deepseek()
NUM_TOKENS = 48
FREE = SamplingParams(max_tokens=NUM_TOKENS, seed=0, temperature=0.0, ignore_eos=True)
LENGTHS = (5, 700, 64, 300)
SLICE: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 1024, "intermediate_size": 2048, "moe_intermediate_size": 512, "n_routed_experts": 16,
        "num_attention_heads": 32, "num_key_value_heads": 32, "kv_lora_rank": 512, "q_lora_rank": 768,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "index_head_dim": 128, "index_topk": 512,
        "num_hidden_layers": 4, "vocab_size": 320,
    }
)  # fmt: skip


def drafts(bench: Bench) -> None:
    """Exact in float32; then the speed in bf16."""
    from tests.deepseek import save_deepseek  # here, as a machine may lack what tests need

    bench.release()
    report, sizes = bench.report, bench.sizes
    with tempfile.TemporaryDirectory() as place:
        changes = dict(SLICE) if bench.shape == "8b" else {}
        folder = save_deepseek(Path(place), mtp="agreeing", layer_gain=GAIN, **changes)
        report.columns("", "measured", "bound", "")
        same_tokens(bench, folder)
        plain, guessing = (engine_of(bench, folder, "bfloat16", speculate=num) for num in (0, NUM_AHEAD))
        report.columns("streams", "tokens/s", "with drafts", "times as fast", "accepted", "of drafted")
        for batch in sizes.few:
            before = tokens_per_second(bench, plain, batch)
            drafted, accepted = guessing.drafter.num_drafted, guessing.drafter.num_accepted
            after = tokens_per_second(bench, guessing, batch)
            drafted, accepted = guessing.drafter.num_drafted - drafted, guessing.drafter.num_accepted - accepted
            report.row(batch, before, after, after / before, accepted, drafted)
            report.number(f"mtp/{batch}/times as fast", after / before, accepted=accepted, drafted=drafted)


def same_tokens(bench: Bench, folder: Path) -> None:
    """Prompts of mixed lengths together, over as many tokens as a query chooses and beyond."""
    lengths = LENGTHS if bench.shape == "8b" else (5, 50)
    rng = random.Random(1)
    prompts = [[rng.randrange(4, 300) for _ in range(length)] for length in lengths]
    answers = []
    for num in (0, NUM_AHEAD):
        engine = engine_of(bench, folder, "float32", speculate=num)
        answers.append(run(engine, prompts, NUM_TOKENS, FREE))  # tokens after a least number are not drafted
        assert bool(engine.drafter.num_drafted) == bool(num)
        shares = f"{engine.drafter.num_accepted} of {engine.drafter.num_drafted} guesses right"
        del engine
        bench.free()
    equal = sum(a == b for got, want in zip(*answers, strict=True) for a, b in zip(got, want, strict=True))
    total = NUM_TOKENS * len(prompts)
    bench.report.row(f"tokens as without drafts, {shares}", equal, total, verdict(equal == total))
    bench.report.number("mtp/float32/equal share", equal / total)
    assert equal == total, "drafts change the tokens"


def engine_of(bench: Bench, folder: Path, dtype: str, speculate: int) -> Engine:
    """A warm engine of the checkpoint, and a line on what runs its layers and its MTP layer."""
    config = EngineConfig(
        device=str(bench.device), dtype=dtype, speculate=speculate, max_num_seqs=max(4, *bench.sizes.few),
        max_model_len=bench.sizes.max_model_len, kv_memory_bytes=2**28 if bench.shape == "tiny" else 2**33,
    )  # fmt: skip
    engine = Engine(load(str(folder), ("mtp",), config, lambda stage, share: None), config)
    engine.warm_up(lambda stage, share: None)
    guesser: Any = engine.drafter.guesser
    told = type(engine.runner).__name__
    if speculate:
        assert isinstance(guesser, HeadGuesser), f"{type(guesser).__name__} drafts, not the MTP layer"
        own: Any = getattr(guesser.head, "own", None)
        num_recorded = len(guesser.recorded.recorded_sizes) if guesser.recorded is not None else 0
        told += f"; MTP layer by {type(own).__name__}, guesses recorded for {num_recorded} numbers of sequences"
    bench.report.say(f"{dtype}: {told}\n")
    return engine
