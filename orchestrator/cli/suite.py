"""`gradsweep suite` and `gradsweep analyze`: suites of sweeps, and the tables of what they found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fl_core.data.places import expanded
from orchestrator.cli.arguments import Cached, Where, check_choices, overriding
from orchestrator.results.there import check_results
from orchestrator.runtime.terminal import console as terminal
from orchestrator.suites.catalog import SUITES, Suite, suite_of, sweep_file
from orchestrator.suites.variables import Variables

if TYPE_CHECKING:
    from orchestrator.config.sweep import SweepConfig
    from orchestrator.runtime.stop import Stop
    from orchestrator.suites.runs import Run

SOME_FAILED = 1

Name = Annotated[str, typer.Argument(help=f"{', '.join(SUITES)}.")]


def suite(
    name: Name,
    mode: Annotated[str | None, typer.Option(help="Only this part of base or phase1.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "--out-dir", envvar="OUT_DIR", help="Results folder [results/NAME]."),
    ] = None,
    device: Annotated[str | None, typer.Option(envvar="DEVICE", help="auto, cpu, cuda or mps.")] = None,
    seed: Annotated[int | None, typer.Option(envvar="SEED", help="Fixes everything random.")] = None,
    data_subset: Annotated[
        int | None, typer.Option(envvar="DATA_SUBSET", help="Images in all; a fifth is for validation.")
    ] = None,
    num_clients: Annotated[int | None, typer.Option(envvar="NUM_CLIENTS", help="Clients.")] = None,
    num_attack_clients: Annotated[
        int | None,
        typer.Option(envvar="NUM_ATTACK_CLIENTS", help="Attack the first so many clients (multi_client)."),
    ] = None,
    capture_client: Annotated[
        int | None, typer.Option(envvar="CAPTURE_CLIENT", help="The client that is attacked.")
    ] = None,
    target_client: Annotated[
        int | None, typer.Option(envvar="TARGET_CLIENT", help="Another name of --capture-client.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value with a dotted key; scale=small: minutes.", callback=overriding),
    ] = None,
    address: Where = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long it would take, and end.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option(help="With --dry-run: measure each kind of cell for some seconds.")
    ] = True,
    cache: Cached = None,
) -> None:
    """Run a suite (docs/suites.md), or resume it; each run gets a folder with picture and metrics."""
    chosen = suite_of(name)
    parts = chosen.chosen(mode)
    variables = Variables(
        device=device,
        seed=seed,
        data_subset=data_subset,
        num_clients=num_clients,
        num_attack_clients=num_attack_clients,
        capture_client=capture_client,
        target_client=target_client,
    )
    overrides = [*variables.overrides(chosen), *(override or [])]
    console = terminal()
    for unused in variables.unused(chosen):
        console.print(f"{unused} is set; the suite {name} has no use for it.", soft_wrap=True)
    from orchestrator.config.parse import load_sweep
    from orchestrator.runtime.stop import Stop

    # All of them before the first one runs: an override may fit one part and not the next.
    configs = {part: load_sweep(sweep_file(part), overrides) for part in parts}
    for config in configs.values():
        check_choices(config, cells=None, address=address, cache=None if dry_run else cache)
    if dry_run:
        from orchestrator.cli.sweeps import show_plan

        for part, config in configs.items():
            console.print(f"{part}:")
            show_plan(config, console, cells=[], address=address, calibrate=calibrate)
        return
    folder = expanded(out or Path("results") / name)
    failed = 0
    with Stop().listening() as stop:
        for part, config in configs.items():
            failed += _run(config, chosen.folder(part, folder), folder, part, address, console, stop, cache)
    _show(chosen, folder, console)
    raise typer.Exit(SOME_FAILED if failed else 0)


def analyze(
    name: Name,
    results_dir: Annotated[
        Path | None, typer.Option(help="The suite's results folder [results/NAME].")
    ] = None,
) -> None:
    """Print the runs of a suite and what they say together; write them to runs.csv in its results folder."""
    chosen, out = suite_of(name), expanded(results_dir or Path("results") / name)
    for folder in chosen.begun(out):
        check_results(folder)
    _show(chosen, out, terminal())


def _run(
    config: SweepConfig,
    folder: Path,
    out: Path,
    part: str,
    address: str,
    console: Console,
    stop: Stop,
    cache: Path | None,
) -> int:
    """Run one part in `folder`, write its runs' folders into `out`, and its report; how many trials failed."""
    from orchestrator.analysis.summary import summary_lines
    from orchestrator.cli.sweeps import print_used, shared_cache
    from orchestrator.driver.sweep import run_sweep
    from orchestrator.report.report import write_report
    from orchestrator.runtime.progress import ConsoleReporter
    from orchestrator.suites.folders import write_folders
    from orchestrator.suites.runs import runs_of

    reporter = ConsoleReporter(console)
    shared = shared_cache(cache, reporter)
    outcome = run_sweep(config, folder, address=address, reporter=reporter, stop=stop, cache=shared)
    print_used(shared, outcome, console)
    write_folders(runs_of(folder, out))
    lines = summary_lines(folder)
    console.print(f"{part}: {write_report(folder, lines, [])}", soft_wrap=True, highlight=False)
    return outcome.failed


def _show(suite: Suite, out: Path, console: Console) -> None:
    """Print the tables of a suite, and write its runs to a file."""
    from orchestrator.report.reader import Results
    from orchestrator.suites.ladder import rungs
    from orchestrator.suites.runs import means, runs_of_suite, write_table
    from orchestrator.suites.tables import SCALE, ladder_table, means_table, runs_table

    runs = runs_of_suite(suite, out)
    console.print(Results(runs[0].results, []).data, soft_wrap=True, highlight=False)
    console.print(runs_table(runs, width=console.width))
    if suite.clients is not None:
        console.print("", means_table(means(runs), width=console.width))
    if suite.ladder:
        found = rungs(Results(out, [run.line for run in runs]))
        console.print("", ladder_table(found, width=console.width))
    console.print(f"\n{SCALE}", soft_wrap=True, highlight=False)
    for lost in _lost(runs):
        console.print(lost, soft_wrap=True, markup=False)
    console.print(f"{write_table(out, runs)}", soft_wrap=True, highlight=False)


def _lost(runs: tuple[Run, ...]) -> list[str]:
    """Why runs have no figures."""
    return [f"{run.name} failed: {run.line.failure}" for run in runs if run.line.tests_failed]
