"""Four models of which one fits at a time: mixed jobs, forced swaps, kill -9, and a verdict.

python -m bench.shelf                        # 400 jobs of 8 keys, a swap every 5 s, 20 kills of the worker
python -m bench.shelf --kills 0 --others 0   # swaps only
python -m bench.shelf --together             # two models that fit together: no swap after both are loaded
python -m bench.shelf --memory 100           # memory of the service after each tenth of 100 swaps
python -m bench.shelf --peer llama-server    # the same plan on llama.cpp's router, and here, without kills and with one
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from bench.models import config_with, save_as, train_tokenizer
from bench.report import DEFAULT_FOLDER, load_average, machine, table
from bench.shelf_memory import swaps_and_memory
from bench.shelf_peer import beside
from tests.chaos.shelf_load import plan
from tests.chaos.shelf_run import Outcome, Trouble, run, settings_of
from tests.chaos.shelf_service import undisturbed

NAMES = ("ant", "bee", "cat", "dog")
SHAPE = (640, 2048, 8, 10, 2, 64)  # 50 million parameters, 200 MB in float32
SMALL = (192, 512, 6, 6, 2, 32)  # 6 million


def saved(folder: Path, shape: tuple[int, int, int, int, int, int]) -> dict[str, Path]:
    """Models of one shape with different weights. Those that are there are kept."""
    folders = {name: folder / name for name in NAMES}
    missing = [name for name in NAMES if not (folders[name] / "tokenizer_config.json").exists()]
    tokenizer = train_tokenizer() if missing else None
    for name in missing:
        assert tokenizer is not None
        save_as(folders[name], config_with(*shape), tokenizer, torch.float32, NAMES.index(name), sharpness=6.0)
    return folders


def show(outcome: Outcome) -> bool:
    print(table(["", ""], outcome.rows()))
    for sentence in outcome.verdict.all[:40]:
        print(f"  ! {sentence}")
    late = outcome.watch.longest_wait_s() > outcome.bound_s
    if late:
        print("  ! a model waited longer for its turn than OMNI_MAX_SWAP_WAIT and one swap")
    return outcome.verdict.is_clean and not late


def one_at_a_time(args: argparse.Namespace, models: Mapping[str, Path], folder: Path) -> bool:
    asks, texts = undisturbed(models, plan(list(models), args.jobs, args.seconds, args.seed))
    trouble = Trouble(args.kills, args.others, args.swap_every, args.seconds, args.seed)
    settings = settings_of(1, args.max_swap_wait, OMNI_THREADS=str(args.threads))
    outcome = run(folder / "run", models, asks, texts, trouble, settings, breaks=args.breaks)
    return show(outcome)


def together(args: argparse.Namespace, models: Mapping[str, Path], folder: Path) -> bool:
    """No swap once both are loaded, whatever comes."""
    two = dict(list(models.items())[:2])
    asks, texts = undisturbed(two, plan(list(two), args.jobs, args.seconds, args.seed))
    trouble = Trouble(seconds=args.seconds)
    outcome = run(folder / "run", two, asks, texts, trouble, {"OMNI_MAX_NUM_SEQS": "8"})
    is_clean = show(outcome)
    loaded = [sorted(names) for _, names in outcome.watch.loaded]
    print(f"loaded, in order: {loaded}")
    return is_clean and num_swaps_after_both(outcome, two) == 0


def num_swaps_after_both(outcome: Outcome, models: Mapping[str, Path]) -> int:
    """How often the loaded models changed after all of them were loaded; -1 if they never were."""
    sets = [names for _, names in outcome.watch.loaded]
    return len(sets) - 1 - sets.index(frozenset(models)) if frozenset(models) in sets else -1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.shelf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=240.0, help="over which the jobs come")
    parser.add_argument("--kills", type=int, default=20, help="kill -9 of the worker")
    parser.add_argument("--others", type=int, default=4, help="kill -9 of its template and of the keeper")
    parser.add_argument("--swap-every", type=float, default=5.0)
    parser.add_argument("--max-swap-wait", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="models of 6 million parameters")
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "shelf", help="where the models are kept")
    parser.add_argument(
        "--breaks", default="", help="mutations of the worker (tests/chaos/mutations.py): must turn red"
    )
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--memory", type=int, default=0, metavar="SWAPS")
    parser.add_argument("--peer", default="", metavar="LLAMA_SERVER")
    parser.add_argument("--gguf", type=Path, default=None, help="folder of the same models as GGUF, for --peer")
    args = parser.parse_args()
    is_small = args.small or args.together
    models = saved(args.models / ("small" if is_small else "large"), SMALL if is_small else SHAPE)
    print(f"{machine()}; load average {load_average()}\n")
    with tempfile.TemporaryDirectory(prefix="omni-shelf-") as folder:
        if args.memory:
            is_good = swaps_and_memory(args, models, Path(folder))
        elif args.together:
            is_good = together(args, models, Path(folder))
        elif args.peer:
            is_good = beside(args, models, Path(folder))
        else:
            is_good = one_at_a_time(args, models, Path(folder))
    print(f"\n{'holds' if is_good else 'does not hold'}; load average {load_average()}")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
