"""What a step of each variant costs, and how many steps cost the same: where the numbers of a study come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments import command
from experiments.study.tables import NONE

STEPS = "--trainer.max_steps="


def planned_steps(flags: Sequence[str]) -> int | None:
    """Return the steps that a study's flags ask for before those of the timing, None if only a config does."""
    given = [flag.removeprefix(STEPS) for flag in flags if flag.startswith(STEPS)][:-1]
    return int(given[-1]) if given and given[-1].isdigit() else None


def timing_text(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of timing runs, each with the steps that cost as much as the dearest planned training."""
    rates = {
        result["variant"]: rate
        for result in results
        if (rate := (result.get("training") or {}).get("cpu_seconds_per_step")) is not None
    }
    planned = {result["variant"]: planned_steps(result["flags"]) for result in results}
    costs = {name: rates[name] * steps for name, steps in planned.items() if steps is not None and name in rates}
    dearest = max(costs, key=lambda name: costs[name], default=None)
    rows = []
    for name, rate in rates.items():
        steps = planned[name]
        cells = [f"{1000 * rate:.1f}", NONE if steps is None else f"{steps:,}"]
        cells.append(f"{costs[name]:.0f}" if name in costs else NONE)
        cells.append(NONE if dearest is None else f"{costs[dearest] / rate:,.0f}")
        rows.append([name, *cells])
    header = ["", "CPU ms a step", "planned steps", "CPU seconds", f"steps that cost as much as {dearest or NONE}"]
    machines = " and ".join(dict.fromkeys(result["machine"] for result in results))
    return command.table(header, rows) + f"\nOn {machines}.\n"
