"""Random faults under load, with a verdict.

python -m bench.chaos --seconds 600 --clients 64
python -m bench.chaos --streams 2000 --queued 10000     how much memory that takes
"""

import argparse
import sys

from tests.chaos.campaign import Plan, run
from tests.chaos.harness import Options


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.chaos")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--faults", type=int, default=10**9, help="at most so many")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two faults, on average")
    parser.add_argument("--step", type=float, default=0.01, help="seconds a step of the weightless engine takes")
    parser.add_argument("--only", default="", help="comma separated names of faults")
    args = parser.parse_args()
    options = Options(num_apis=2, num_workers=2, step_s=args.step)
    plan = Plan(args.seconds, args.seed, args.clients, most_faults=args.faults, pause_s=args.pause, options=options)
    if args.only:
        plan.faults = {name: fault for name, fault in plan.faults.items() if name in args.only.split(",")}
        plan.with_clock, plan.with_disk = "jump_clocks" in args.only, "fill_disk" in args.only
    report = run(plan)
    print(report)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
