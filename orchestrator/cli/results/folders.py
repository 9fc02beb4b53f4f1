"""Commands on a results folder that is there: status, watch, show, replay, retry, export."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

import typer

from fl_core.base.errors import InputError
from orchestrator.cli.arguments import Begun, Cached, Cells, Finished, Folder, KeepGoing, Where, check_choices
from orchestrator.runtime.logs import errors_alone

Trial = Annotated[
    str, typer.Argument(help="A trial's id, its first digits, or CELL/ATTACKER/VICTIM for a test victim.")
]
DataRoot = Annotated[str | None, typer.Option(help="Where the data lie now.", show_default="where they lay")]
SOME_FAILED = 1
UNFINISHED = 75
"""The exit code where trials are left and nobody works on them: as of a sweep that was told to stop."""


def add(app: typer.Typer) -> None:
    """Put the commands of this file into the command line."""
    for command in (status, watch, show, replay, retry, export):
        app.command()(command)


def status(
    folder: Begun,
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, for scripts; docs/living.md has the keys.")
    ] = False,
) -> None:
    """Say how a sweep stands: trials done, best so far, failures, and whether a driver works on it."""
    from orchestrator.living.status import read_status
    from orchestrator.living.watch import show
    from orchestrator.runtime.terminal import console as terminal

    with _quietly():
        found = read_status(folder)
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=1, allow_nan=False))
    else:
        show(found, terminal())


def watch(
    folder: Begun,
    every: Annotated[
        float | None,
        typer.Option(help="Seconds between two looks.", min=0.5, show_default="2, in a log 30"),
    ] = None,
) -> None:
    """Watch a sweep from another terminal until it ends. Exit code 75: trials are left, and no driver works on them."""
    from orchestrator.living.watch import watch_sweep
    from orchestrator.runtime.terminal import console as terminal

    with _quietly():
        try:
            last = watch_sweep(folder, terminal(), every=every)
        except KeyboardInterrupt:
            return
    raise typer.Exit(0 if last.state == "finished" else UNFINISHED)


def show(
    folder: Finished,
    trial: Trial,
    picture: Annotated[
        Path | None, typer.Option(help="Write originals and reconstructions to this PNG file.")
    ] = None,
) -> None:
    """Show one trial: settings, figures, cost, convergence, pictures, and the command that runs it again."""
    from orchestrator.living.find import find_trial
    from orchestrator.living.page import pictures, save_pictures, show_trial
    from orchestrator.runtime.terminal import console as terminal

    console = terminal()
    with _quietly():
        rows = find_trial(folder, trial)
        show_trial(folder, rows, console)
        kept = pictures(folder, rows[0]["trial_id"])
    if picture is not None:
        if not kept:
            raise InputError(f"{folder} keeps no pictures of trial {trial}; nothing is written to {picture}.")
        save_pictures(picture, kept)


def replay(
    folder: Finished,
    trial: Trial,
    data_root: DataRoot = None,
) -> None:
    """Run one trial again and compare. Exit code 0: the same figures to the last digit. 1: others, which are listed."""
    from orchestrator.living.replay import replay_trial
    from orchestrator.living.replay_page import show_replayed
    from orchestrator.runtime.terminal import console as terminal

    console = terminal()
    with _quietly():
        done = replay_trial(
            folder, trial, data_root=data_root, say=lambda text: console.print(text, soft_wrap=True)
        )
    show_replayed(done, console)
    raise typer.Exit(0 if done.same else 1)


def retry(
    folder: Folder,
    failed: Annotated[
        bool, typer.Option("--failed/--all", help="Which finished trials run again: failed ones, or all.")
    ] = True,
    cells: Cells = None,
    address: Where = "local",
    data_root: DataRoot = None,
    workers: Annotated[
        int | None, typer.Option(help="Workers now.", min=1, show_default="as the sweep had it")
    ] = None,
    keep_going: KeepGoing = False,
    cache: Cached = None,
) -> None:
    """Run failed trials again and finish what is left, with the settings that the folder notes."""
    if cache is not None and not failed:
        raise InputError(
            "--cache does not go with --all: finished trials would be taken from it in the place of running again."
        )
    from orchestrator.results.folder import noted_sweep

    check_choices(noted_sweep(folder, data_root), cells=cells, address=address, cache=cache)
    from orchestrator.cli.results.reporting import report_on
    from orchestrator.cli.sweeps import print_end, print_used, shared_cache
    from orchestrator.driver.streak import FAILURES
    from orchestrator.living.retry import retry_trials
    from orchestrator.runtime.progress import ConsoleReporter
    from orchestrator.runtime.stop import Stop
    from orchestrator.runtime.terminal import console as terminal

    console, reporter = terminal(), ConsoleReporter(terminal())
    shared = shared_cache(cache, reporter)
    with Stop().listening() as stop:
        outcome = retry_trials(
            folder,
            address=address,
            reporter=reporter,
            cells=cells or ["*"],
            failed=failed,
            stop=stop,
            patience=None if keep_going else FAILURES,
            data_root=data_root,
            workers=workers,
            cache=shared,
        )
        report_on(folder, console)
    print_used(shared, outcome, console)
    print_end(outcome, folder, console)
    raise typer.Exit(SOME_FAILED if outcome.failed else 0)


def export(
    folder: Finished,
    csv: Annotated[bool, typer.Option("--csv", help="CSV files: trials, studies, summary.")] = False,
    hf: Annotated[
        bool, typer.Option("--hf", help="A data set of Hugging Face: Parquet and a README.")
    ] = False,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Runs that `mlflow ui` reads.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="New folder.", show_default="the folder's name with -csv and so on")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="With --hf: originals and reconstructions too.")
    ] = False,
) -> None:
    """Write the results for other tools; the results folder stays as it is."""
    forms: dict[Literal["csv", "hf", "mlflow"], bool] = {"csv": csv, "hf": hf, "mlflow": mlflow}
    wanted = [form for form, given in forms.items() if given]
    if len(wanted) != 1:
        raise InputError(f"gradsweep export {folder}: give one of --csv, --hf and --mlflow.")
    if pictures and wanted != ["hf"]:
        raise InputError(
            "--pictures goes with --hf alone: neither CSV files nor MLflow's runs hold pictures here."
        )
    from orchestrator.exports.export import export_results

    place = out or folder.with_name(f"{folder.resolve().name}-{wanted[0]}")
    with _quietly():
        export_results(folder, wanted[0], place, pictures=pictures)
    typer.echo(str(place))


def _quietly() -> AbstractContextManager[None]:
    """Without warnings of a last line in the log that is being written at this moment."""
    return errors_alone("orchestrator.results.journal")
