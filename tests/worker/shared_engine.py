"""Run by test_tensor_parallel.py under torchrun, once per rank: rank 0 prints what the engine generates, as JSON."""

import json
import os
import sys
from pathlib import Path

import torch

from tests.worker.conftest import Bench, prompt_of
from worker.models.loader import EngineConfig, load
from worker.ranks import Ranks
from worker.runners.tensor_parallel import follow

JOBS = {"short": (3, 5), "long": (40, 4), "middle": (17, 6)}  # prompt and completion, tokens


def answers(bench: Bench) -> dict[str, list[int]]:
    """Several prompts at once, longer than a step, then one whose prefix is in the cache."""
    for name, (num_prompt, num_tokens) in JOBS.items():
        bench.add(name, prompt_of(num_prompt), max_tokens=num_tokens, ignore_eos=True)
    bench.finish()
    bench.add("again", [*prompt_of(40), 9], max_tokens=4, ignore_eos=True)
    bench.finish()
    return {name: bench.token_ids(name) for name in (*JOBS, "again")}


def main() -> None:
    torch.set_num_threads(1)
    folder, size = Path(sys.argv[1]), int(os.environ["WORLD_SIZE"])
    ranks = Ranks(int(os.environ["RANK"]), size)
    ranks.join()
    config = EngineConfig(max_num_seqs=8, max_step_tokens=16, threads=1, num_ranks=size)
    if ranks.rank > 0:
        follow(load(str(folder), ("tiny",), config, lambda stage, share: None), config)
    bench = Bench(folder, config)
    print(json.dumps(answers(bench)), flush=True)
    os._exit(0)  # torchrun ends the others


if __name__ == "__main__":
    main()
