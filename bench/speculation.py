"""Gain and cost of prompt lookup by kind of text: `python -m bench.speculation [--drafts 0 4 8] [--streams 1 16]`.

The demo model answers held-out questions of some skills, greedily: some answers repeat what stands in the prompt, some
do not. Random weights would not do here: what they say repeats nothing. Tokens/s of the engine alone, prompts included,
and tokens that a stream gets of one step.
"""

import argparse
import time
from collections.abc import Iterator
from random import Random

from bench.engine import loaded_again
from bench.report import load_average, machine, table
from common.wire import Delta, GenerationRequest, SamplingParams
from demo.corpus import evaluation_dialogue, render_prompt
from demo.train import MODEL_FOLDER
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, LoadedModel

SKILLS = ("repeat", "tool result", "JSON", "stories")
ROUNDS = 4  # questions a stream asks, one after the other


def questions(loaded: LoadedModel, skill: str, count: int) -> list[tuple[int, ...]]:
    rng = Random(skill)
    texts = [render_prompt(evaluation_dialogue(rng, skill)) for _ in range(count)]
    return [tuple(loaded.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]


def run(engine: Engine, prompts: list[tuple[int, ...]], streams: int, tag: str) -> tuple[float, float]:
    """Tokens/s, and tokens per row of the log."""
    sampling = SamplingParams(max_tokens=400, seed=0, temperature=0.0)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, nargs="+", default=[0, 4, 8])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--repeat", type=int, default=3, help="runs; the median counts")
    args = parser.parse_args()
    print(machine())
    columns = ["drafts", "streams", "skill", "tokens/s", "tokens per step", "load average"]
    print(table(columns, list(rows(args.drafts, args.streams, args.repeat))))


if __name__ == "__main__":
    main()
