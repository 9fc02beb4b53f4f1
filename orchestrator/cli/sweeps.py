"""What `gradsweep sweep` does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from orchestrator.capture.datasets import data_line
from orchestrator.cli.results.reporting import report_on
from orchestrator.config.plain import to_plain
from orchestrator.config.sweep import SweepConfig
from orchestrator.driver.plan import (
    cells_table,
    check_plan,
    cost_line,
    make_plan,
    measured,
    plan_table,
    victims_line,
)
from orchestrator.driver.refine import run_refined
from orchestrator.driver.streak import FAILURES
from orchestrator.driver.sweep import Outcome, resolve, run_sweep
from orchestrator.execute.execute import local_workers
from orchestrator.io.cache import Cache
from orchestrator.runtime.progress import ConsoleReporter, Reporter
from orchestrator.runtime.stop import Stop

ALL_CELLS = ["*"]


def run_here(
    config: SweepConfig,
    folder: Path | None,
    console: Console,
    *,
    cells: Sequence[str],
    address: str,
    keep_going: bool,
    cache: Path | None = None,
) -> int:
    """Run a sweep, or resume it, in `folder` (`results/NAME` if None) and report; how many trials failed.

    Failures of one kind in a row end it, unless it is to keep going. `cache` is a folder that sweeps share.
    Raises `InputError` for bad input, `Stopped` where the process is told to stop, `RayLost` with its cluster.
    """
    patterns = list(cells) or ALL_CELLS
    reporter = ConsoleReporter(console)
    shared = shared_cache(cache, reporter)
    out = folder or Path("results") / config.name
    with Stop().listening() as stop:
        run = partial(
            run_sweep,
            out=out,
            address=address,
            reporter=reporter,
            cells=patterns,
            stop=stop,
            cache=shared,
            patience=None if keep_going else FAILURES,
        )
        # Thresholds look at all their cells; a part of them is run as it is.
        outcome = run_refined(config, out, run) if patterns == ALL_CELLS else run(config)
        report_on(out, console)
    print_used(shared, outcome, console)
    print_end(outcome, out, console)
    return outcome.failed


def shared_cache(folder: Path | None, reporter: Reporter) -> Cache | None:
    """The cache in a folder, where one is given; raises `InputError` where it is none."""
    return None if folder is None else Cache(folder, reporter.message)


def print_used(cache: Cache | None, outcome: Outcome, console: Console) -> None:
    """Print what a sweep took from a cache, in a line; nothing without one."""
    if cache is None:
        return
    used = cache.used
    trainings = used["weights"] + used["accuracies"]
    console.print(
        f"From the cache: {used['trials']} of {outcome.trials} trials, {_count(used['captures'], 'capture')}, "
        f"{_count(trainings, 'training')}.",
        soft_wrap=True,
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_end(outcome: Outcome, folder: Path, console: Console) -> None:
    """Print the last line of a sweep, and what helps where failures stopped it."""
    console.print(f"{outcome.trials} trials, {outcome.fresh} of them run now, {outcome.failed} failed.")
    if outcome.stopped:
        again = f"gradsweep retry {shlex.quote(str(folder))}"
        console.print(
            f"{outcome.stopped}. The sweep stopped; mend that and run `{again}`, or go on with --keep-going.",
            soft_wrap=True,
        )


def show_plan(
    config: SweepConfig,
    console: Console,
    *,
    cells: Sequence[str],
    address: str,
    calibrate: bool,
) -> None:
    """Print what a sweep would run, and by a measurement how long; raises `InputError` for what could not run."""
    patterns = list(cells) or ALL_CELLS
    check_plan(config, patterns)
    console.print(data_line(to_plain(resolve(config))), soft_wrap=True)
    console.print(cells_table(config, patterns, width=console.width))
    plan = make_plan(config, patterns)
    if calibrate:
        with console.status("measuring") as status:
            plan = measured(plan, lambda text: status.update(escape(text)))
    console.print("", victims_line(plan), plan_table(plan, width=console.width), sep="\n", soft_wrap=True)
    if calibrate:
        execution = config.execution
        workers = local_workers(address, workers=execution.workers, threads=execution.threads)
        console.print("", cost_line(plan, workers), sep="\n", soft_wrap=True)
