"""python -m evertalk.sim: many seeds, or one with its trace; exit code 0 only without violations."""

from __future__ import annotations

import argparse
import os
import sys

from evertalk.sim.many import run_many
from evertalk.sim.plan import Plan, plan_of
from evertalk.sim.run import run
from evertalk.sim.shrink import shrink


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evertalk.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--start", type=int, default=1, help="the first of them")
    parser.add_argument("--procs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="one seed only, with its trace")
    parser.add_argument("--shrink", action="store_true", help="with --seed: look for a smaller schedule that fails too")
    chosen = parser.parse_args()
    if chosen.seed is None:
        return 1 if run_many(chosen.start, chosen.seeds, chosen.procs).failed else 0
    return _one(plan_of(chosen.seed), chosen.shrink)


def _one(plan: Plan, smaller: bool) -> int:
    if smaller:
        plan = shrink(plan)
    print(plan.shape)
    for part in (*plan.users, plan.talks, *plan.acts, *plan.faults):
        print(part)
    outcome = run(plan, trace=True)
    print("\n".join(outcome.log))
    for violation in outcome.violations:
        print(violation)
    print(f"trace {outcome.trace}")
    print(f"1 seeds, {len(outcome.violations)} violations")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of names have an order of their own in every process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "evertalk.sim", *sys.argv[1:]])
    sys.exit(main())
