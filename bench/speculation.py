"""Gain and cost of speculation: `python -m bench.speculation [--drafts 0 4 8] [--streams 1 16]`.

Prompt lookup by kind of text: the demo model answers held-out questions of some skills, greedily; some answers repeat
what stands in the prompt, some do not. Random weights would not do here: what they say repeats nothing. Tokens/s of the
engine alone, prompts included, and tokens that a stream gets of one step.

A draft model against prompt lookup and none: `python -m bench.speculation --model FOLDER --draft FOLDER`, for example
of `python -m bench.draft_pair`. The ways take turns, so that other programs slow all of them.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product
from random import Random
from statistics import median

from tokenizers import Tokenizer

from bench.engine import loaded_again
from bench.models import texts
from bench.report import load_average, machine, table
from common.wire import Delta, GenerationRequest, SamplingParams
from demo.corpus import evaluation_dialogue, render_prompt
from demo.train import MODEL_FOLDER
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, LoadedModel

SKILLS = ("repeat", "tool result", "JSON", "stories")
ROUNDS = 4  # questions a stream asks, one after the other
GREEDY = SamplingParams(max_tokens=400, seed=0, temperature=0.0)
PROMPT, ANSWER = 100, 128  # tokens of a model's own texts
WAYS = ("none", "lookup", "draft model")


def questions(loaded: LoadedModel, skill: str, count: int) -> list[tuple[int, ...]]:
    rng = Random(skill)
    texts = [render_prompt(evaluation_dialogue(rng, skill)) for _ in range(count)]
    return [tuple(loaded.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


def run(
    engine: Engine,
    prompts: list[tuple[int, ...]],
    streams: int,
    tag: str,
    sampling: SamplingParams = GREEDY,
) -> tuple[float, float]:
    """Tokens/s, and tokens per row of the log."""
    waiting = [GenerationRequest(f"{tag}-{at}", "bench", ids, sampling, tag) for at, ids in enumerate(prompts)]
    num_tokens = num_rows = 0
    started = time.perf_counter()
    while waiting or engine.has_work:
        while waiting and len(engine.requests) < streams:
            engine.add(waiting.pop())
        for _, event in engine.step():
            if isinstance(event, Delta):
                num_tokens += len(event.token_ids)
                num_rows += 1
    return num_tokens / (time.perf_counter() - started), num_tokens / num_rows


def rows(drafts: list[int], streams: list[int], repeat: int) -> Iterator[tuple[object, ...]]:
    for num_drafts in drafts:
        config = EngineConfig(speculate=num_drafts, max_num_seqs=max(streams))
        loaded = loaded_again(str(MODEL_FOLDER), config)
        engine = Engine(loaded, config)
        engine.warm_up(lambda stage, share: None)
        for num_streams in streams:
            for skill in SKILLS:
                prompts = questions(loaded, skill, ROUNDS * num_streams)
                found = [run(engine, prompts, num_streams, f"{skill}-{num_streams}-{at}") for at in range(repeat)]
                tokens_s = sorted(found)[repeat // 2][0]
                yield num_drafts, num_streams, skill, round(tokens_s), round(found[0][1], 2), load_average()


def engines(args: argparse.Namespace) -> dict[str, Engine]:
    """One for each way."""
    plain = EngineConfig(max_num_seqs=max(args.streams), kv_memory_bytes=2**30, threads=args.threads)
    lookup = replace(plain, speculate=max(args.drafts))
    configs = (plain, lookup, replace(lookup, draft_model=args.draft))
    found = {}
    for way, config in zip(WAYS, configs, strict=True):
        found[way] = Engine(loaded_again(args.model, config), config)
        found[way].warm_up(lambda stage, share: None)
    return found


def compared(args: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """A row for each number of streams, temperature and way."""
    ways = engines(args)
    tokenizer = Tokenizer.from_str(next(iter(ways.values())).card.tokenizer)
    words = tokenizer.encode("\n".join(islice(texts(), 20)), add_special_tokens=False).ids
    for streams, temperature in product(args.streams, args.temperatures):
        sampling = SamplingParams(max_tokens=ANSWER, seed=1, temperature=temperature, ignore_eos=True)
        rng = Random(streams)
        starts = [rng.randrange(len(words) - PROMPT) for _ in range(streams)]
        prompts = [tuple(words[start : start + PROMPT]) for start in starts]
        found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
        for at, (way, engine) in product(range(args.repeat), ways.items()):
            before = engine.drafter.num_drafted, engine.drafter.num_accepted
            tokens_s, per_step = run(engine, prompts, streams, f"{way}-{streams}-{temperature}-{at}", sampling)
            drafted, accepted = (
                after - each
                for after, each in zip((engine.drafter.num_drafted, engine.drafter.num_accepted), before, strict=True)
            )
            found[way].append((tokens_s, per_step, accepted / max(1, drafted)))
        for way, results in found.items():
            tokens_s, per_step, acceptance = (median(numbers) for numbers in zip(*results, strict=True))
            gain = tokens_s / median(each[0] for each in found["none"])
            figures = f"{tokens_s:.1f}", f"{gain:.2f}", f"{per_step:.2f}", f"{acceptance:.2f}"
            yield streams, temperature, way, *figures, load_average()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeat", type=int, default=3, help="runs; the median counts")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--model", default="", help="a folder, to compare a draft model")
    parser.add_argument("--draft", default="", help="the folder of its draft model")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    args = parser.parse_args()
    print(machine())
    if args.model:
        columns = ["streams", "temperature", "drafts by", "tokens/s", "x none", "per step", "accepted", "load average"]
        print(table(columns, []), flush=True)
        for row in compared(args):
            print(f"| {' | '.join(map(str, row))} |", flush=True)
        return
    columns = ["drafts", "streams", "skill", "tokens/s", "tokens per step", "load average"]
    print(table(columns, list(rows(args.drafts, args.streams, args.repeat))))


if __name__ == "__main__":
    main()
