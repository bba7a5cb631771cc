"""Correctness on a GPU: torch's paged kernel alone, then the engine against transformers."""

import random
from collections.abc import Sequence as Seq
from typing import Any

import torch

from bench.gpu_model import SHAPES, as_loaded, random_model
from bench.report import table
from common.wire import Delta, GenerationRequest, SamplingParams
from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.attention.varlen import VarlenAttention
from worker.engine.engine import Engine
from worker.kernels.elementwise import to_fp8
from worker.kernels.quantized import Fp8, Fp8Linear
from worker.models.loader import EngineConfig
from worker.runners.limits import block_size_for
from worker.runners.probe import probe_sequence
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence

NUM_TOKENS = 24
LENGTHS = (5, 700, 64, 300)
MAX_KERNEL_ERROR = 0.1  # of the outputs' spread, bf16 against float32
MAX_FP8_ERROR = 0.1  # of the outputs' spread: Hopper's fast sums keep fewer bits
FP8_SHAPES = ((6144, 4096), (4096, 14336))  # [out, in] of an 8B Llama
FP8_ROWS = (1, 7, 64, 700)
MAX_GAP = {torch.float32: 1e-3, torch.bfloat16: 0.15}  # of the logits' spread, below the likeliest token's

# (queries, keys) of each sequence in a step
STEPS = {
    "1 decodes": [(1, 4000)],
    "2 decode": [(1, 1000), (1, 3000)],
    "32 decode": [(1, 100 * at + 1) for at in range(32)],
    "prompt chunk": [(700, 1500)],
    "2 decode beside 2 chunks": [(1, 1000), (1, 60), (300, 300), (17, 900)],
}
HEADS = ((32, 8, 128), (32, 32, 128), (16, 2, 64), (8, 4, 256))  # of queries, of keys, width
WINDOWS = (None, 512)


def kernels(device: torch.device) -> None:
    """VarlenAttention in bf16 against PagedAttention in float32, over the same keys and values."""
    rows = []
    for heads, kv_heads, dim in HEADS:
        for window in WINDOWS:
            for name, step in STEPS.items():
                case = (f"{heads}/{kv_heads} x {dim}", window or "", name)
                try:
                    error = kernel_error(device, heads, LayerShape(kv_heads, dim, dim), window, step)
                    rows.append((*case, f"{error:.4f}", "" if error <= MAX_KERNEL_ERROR else "WRONG"))
                except RuntimeError as failure:
                    rows.append((*case, "", f"FAILED: {str(failure)[:120]}"))
    print(table(["heads / of keys x width", "window", "step", "largest error / spread", ""], rows))


@torch.inference_mode()
def kernel_error(
    device: torch.device, heads: int, shape: LayerShape, window: int | None, step: Seq[tuple[int, int]]
) -> float:
    torch.manual_seed(1)
    size = block_size_for(device)
    num_blocks = sum(-(-num_keys // size) for _, num_keys in step)
    cache = KVCache([shape], num_blocks, size, torch.bfloat16, device)
    for pool in (*cache.keys, *cache.values):
        pool.normal_()
    free = torch.randperm(num_blocks).tolist()
    exact = KVCache([shape], 1, size, torch.float32, device)
    exact.keys, exact.values = [cache.keys[0].float()], [cache.values[0].float()]
    rows = []
    for num_queries, num_keys in sorted(step, key=lambda row: (row[0] > 1, -row[1])):  # as a runner sorts them
        blocks = [free.pop() for _ in range(-(-num_keys // size))]
        sequence = probe_sequence([1] * num_keys)
        sequence.block_ids = blocks
        sequence.begin_at(num_keys - num_queries)
        rows.append(ScheduledSequence(sequence, num_queries))
    query = torch.randn(sum(num for num, _ in step), heads, shape.key_dim, device=device, dtype=torch.bfloat16)
    spec = AttentionSpec(shape.key_dim**-0.5, window)
    expected = PagedAttention(exact, rows, device).attend(0, query.float(), spec)
    got = VarlenAttention.of_rows(cache, rows, device).attend(0, query, spec)
    error = (got.float() - expected).abs().amax() / expected.std()
    return float(error.nan_to_num(float("inf")))


def fp8_products(device: torch.device) -> None:
    """Fp8Linear against the float32 product of the same rounded numbers."""
    Fp8().check("auto", device)
    torch.manual_seed(1)
    rows = []
    for num_out, num_in in FP8_SHAPES:
        weight = torch.randn(num_out, num_in, device=device, dtype=torch.bfloat16)
        linear = Fp8Linear(weight, None)
        for num_rows in FP8_ROWS:
            inputs = torch.randn(num_rows, num_in, device=device, dtype=torch.bfloat16)
            (left, left_scale), (right, right_scale) = to_fp8(inputs), to_fp8(weight)
            expected = (left.float() * left_scale) @ (right.float() * right_scale).T
            error = float((linear(inputs).float() - expected).abs().amax() / expected.std())
            rows.append((f"{num_in} to {num_out}", num_rows, f"{error:.4f}", "" if error <= MAX_FP8_ERROR else "WRONG"))
    print(table(["widths", "rows", "largest error / spread", ""], rows))


def tokens(shape: str, device: torch.device, dtype: torch.dtype) -> None:
    """Greedy answers of the engine, prompts of mixed lengths together: is each token the model's own choice?

    In bf16 two tokens may be as likely as makes no difference; so the measure is how far below the likeliest a chosen
    one lies, by a float32 model with the same weights. In float32 the tokens must be those of generate() as well.
    """
    rng = random.Random(1)
    prompts = [[rng.randrange(1, SHAPES[shape]["vocab_size"]) for _ in range(length)] for length in LENGTHS]
    loaded = as_loaded(random_model(shape, device, dtype, 2), device, 2048)
    engine = Engine(loaded, EngineConfig(max_num_seqs=8, max_step_tokens=256))
    engine.warm_up(lambda stage, share: None)
    answers = run(engine, prompts)
    model = random_model(shape, device, dtype, 2).float()
    worst = max(gap(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))
    verdict = "" if worst <= MAX_GAP[dtype] else "  WRONG"
    recorded = len(getattr(engine.runner, "steps", {}))
    print(f"{dtype} by {type(engine.runner).__name__}, {recorded} recorded steps: ", end="")
    print(f"tokens at most {worst:.4f} of the logits' spread below the likeliest{verdict}")
    if dtype == torch.float32:
        expected = [generate(model, prompt) for prompt in prompts]
        equal = sum(a == b for got, want in zip(answers, expected, strict=True) for a, b in zip(got, want, strict=True))
        total = NUM_TOKENS * len(prompts)
        print(f"{equal} of {total} tokens as generate(){'' if equal == total else '  WRONG'}")


@torch.inference_mode()
def gap(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The most that a token of the answer lies below the likeliest, in standard deviations of the logits."""
    ids = torch.tensor([prompt + answer], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return float(((logits.amax(-1) - chosen) / logits.std(-1)).max())


def generate(model: Any, prompt: list[int]) -> list[int]:
    inputs = torch.tensor([prompt], device=model.device)
    output = model.generate(
        inputs, max_new_tokens=NUM_TOKENS, min_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0
    )
    answer: list[int] = output[0, len(prompt) :].tolist()
    return answer


def run(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """All prompts at once, greedy, without an end token."""
    answers: list[list[int]] = [[] for _ in prompts]
    sampling = SamplingParams(max_tokens=NUM_TOKENS, seed=0, temperature=0.0, min_tokens=NUM_TOKENS)
    waiting = list(enumerate(prompts))
    while waiting or engine.has_work:
        if waiting:  # one a step, so that some decode while others prefill
            at, prompt = waiting.pop(0)
            engine.add(GenerationRequest(str(at), "bench", tuple(prompt), sampling))
        for request_id, event in engine.step():
            if isinstance(event, Delta):
                answers[int(request_id)] += event.token_ids
    return answers
