"""The engine's tokens against the model's own: the parts `bf16` and `float32` of bench.gpu."""

import random
from typing import Any

import torch

from bench.gpu_bench import Bench, why_fallback
from bench.gpu_model import SHAPES, as_loaded, random_model
from common.wire import Delta, GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig

NUM_TOKENS = {"8b": 24, "tiny": 6}
LENGTHS = {"8b": (5, 700, 64, 300), "tiny": (5, 40)}
NUM_LAYERS = 2
MAX_GAP = {torch.float32: 1e-3, torch.bfloat16: 0.15}  # of the logits' spread, below the likeliest token's


def in_bf16(bench: Bench) -> None:
    tokens(bench, torch.bfloat16)


def in_float32(bench: Bench) -> None:
    tokens(bench, torch.float32)


def tokens(bench: Bench, dtype: torch.dtype) -> None:
    """Greedy answers of the engine, prompts of mixed lengths together: is each token the model's own choice?

    In bf16 two tokens may be as likely as makes no difference; so the measure is how far below the likeliest a chosen
    one lies, by a float32 model with the same weights. In float32 the tokens must be those of generate() as well.
    """
    shape, device, report = bench.shape, bench.device, bench.report
    rng = random.Random(1)
    prompts = [[rng.randrange(1, SHAPES[shape]["vocab_size"]) for _ in range(length)] for length in LENGTHS[shape]]
    loaded = as_loaded(random_model(shape, device, dtype, NUM_LAYERS), device, 2048)
    engine = Engine(loaded, EngineConfig(max_num_seqs=8, max_step_tokens=256))
    engine.warm_up(lambda stage, share: None)
    report.fallback = why_fallback(engine)
    report.say(f"{type(engine.runner).__name__}{f', FALLBACK: {report.fallback}' if report.fallback else ''}\n")
    answers = run(engine, prompts, NUM_TOKENS[shape])
    model = random_model(shape, device, dtype, NUM_LAYERS).float()
    name = str(dtype).removeprefix("torch.")
    report.columns("", "measured", "bound", "")
    worst = max(gap(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))
    is_right = worst <= MAX_GAP[dtype]
    report.row("below the likeliest, of the logits' spread", f"{worst:.5f}", f"{MAX_GAP[dtype]:g}", verdict(is_right))
    report.number(f"tokens/{name}/gap", worst)
    if dtype == torch.float32:
        expected = [generate(model, prompt, NUM_TOKENS[shape]) for prompt in prompts]
        equal = sum(a == b for got, want in zip(answers, expected, strict=True) for a, b in zip(got, want, strict=True))
        total = NUM_TOKENS[shape] * len(prompts)
        report.row("tokens as generate()", equal, total, verdict(equal == total))
        report.number(f"tokens/{name}/equal share", equal / total)
        is_right = is_right and equal == total
    assert is_right, "the engine's tokens are not the model's"


def verdict(is_right: bool) -> str:
    return "" if is_right else "WRONG"


@torch.inference_mode()
def gap(model: Any, prompt: list[int], answer: list[int]) -> float:
    """The most that a token of the answer lies below the likeliest, in standard deviations of the logits."""
    ids = torch.tensor([prompt + answer], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    chosen = logits.gather(1, ids[0, len(prompt) :, None])[:, 0]
    return float(((logits.amax(-1) - chosen) / logits.std(-1)).max())


def generate(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    inputs = torch.tensor([prompt], device=model.device)
    output = model.generate(
        inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False, pad_token_id=0
    )
    answer: list[int] = output[0, len(prompt) :].tolist()
    return answer


def run(
    engine: Engine, prompts: list[list[int]], num_tokens: int, sampling: SamplingParams | None = None
) -> list[list[int]]:
    """All prompts at once; greedy and without an end token if nothing else is said."""
    answers: list[list[int]] = [[] for _ in prompts]
    usual = SamplingParams(max_tokens=num_tokens, seed=0, temperature=0.0, min_tokens=num_tokens)
    waiting = list(enumerate(prompts))
    while waiting or engine.has_work:
        if waiting:  # one a step, so that some decode while others prefill
            at, prompt = waiting.pop(0)
            engine.add(GenerationRequest(str(at), "bench", tuple(prompt), sampling or usual))
        for request_id, event in engine.step():
            if isinstance(event, Delta):
                answers[int(request_id)] += event.token_ids
    return answers
