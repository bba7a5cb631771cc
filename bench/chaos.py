"""Random faults under load, with a verdict.

python -m bench.chaos --seconds 600 --clients 64
python -m bench.chaos --seconds 105 --rounds 12 --pause 0.3      1,000 faults over 1,000,000 deltas
python -m bench.chaos --only kill_worker,pause_worker
python -m bench.chaos --demo --faults 50 --clients 6
python -m bench.chaos --keys 2 --seqs 6                 few places and two keys: jobs make room all the time
python -m bench.chaos --broken no_gap_fill        must turn red
python -m bench.chaos --streams 2000 --queued 10000     no faults: how much memory that takes
"""

import argparse
import sys
from dataclasses import replace

from tests.chaos.bounded import TooLong, bounded
from tests.chaos.campaign import Plan, run
from tests.chaos.checker import Report
from tests.chaos.crowd import crowd
from tests.chaos.demo import OPTIONS, DemoModel
from tests.chaos.harness import Options, ValkeyEnded

SPARE_S = 420.0  # to start the service, to undo the faults, for the last clients, and to judge: far more than they take


def plan_of(args: argparse.Namespace) -> Plan:
    broken = tuple(name for name in args.broken.split(",") if name)
    plain = Options(num_apis=2, num_workers=2, step_s=args.step, mutations=broken)
    options = replace(OPTIONS if args.demo else plain, max_num_seqs=args.seqs)
    plan = Plan(
        args.seconds, args.seed, args.clients, args.keys, most_faults=args.faults, pause_s=args.pause, options=options
    )
    if args.demo:
        plan.model = DemoModel()
    if args.only:
        plan.faults = {name: fault for name, fault in plan.faults.items() if name in args.only.split(",")}
        plan.with_clock, plan.with_disk = "jump_clocks" in args.only, "fill_disk" in args.only
    return plan


def bounded_run(plan: Plan) -> Report:
    """Run with a time limit. Raises TooLong."""
    with bounded(plan.seconds + SPARE_S, lambda: plan.doing()):
        return run(plan)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.chaos")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=1, help="so many times, each with a new service and seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--keys", type=int, default=1, choices=[1, 2])
    parser.add_argument("--seqs", type=int, default=64, help="places of each of the two workers")
    parser.add_argument("--faults", type=int, default=10**9, help="at most so many a round")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two faults, on average")
    parser.add_argument("--step", type=float, default=0.01, help="seconds a step of the weightless engine takes")
    parser.add_argument("--only", default="", help="comma separated names of faults")
    parser.add_argument("--broken", default="", help="comma separated names of mutations (tests/chaos/mutations.py)")
    parser.add_argument("--demo", action="store_true", help="the demo model instead of the weightless engine")
    parser.add_argument("--streams", type=int, default=0, help="instead of faults: so many open streams")
    parser.add_argument("--queued", type=int, default=0, help="jobs in the queue besides")
    args = parser.parse_args()
    if args.streams or args.queued:
        return crowd(args.streams, args.queued)
    report = Report()
    for number in range(1, args.rounds + 1):
        try:
            report.add(bounded_run(plan_of(args)))
        except (TooLong, TimeoutError, ValkeyEnded) as error:
            print(f"{report}\nround {number} of {args.rounds}, seed {args.seed}, has no verdict: {error}")
            return 1
        if number < args.rounds:
            print(f"after round {number} of {args.rounds}:\n{report}\n", flush=True)
        args.seed += 1
    print(report)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
