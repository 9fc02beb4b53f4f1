"""The command line `gradsweep`: thin commands over the package.

What a command works with is imported where it is called: help, completion and a mistyped flag wait for no library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from fl_core.base.errors import InputError, first_line, one_line
from orchestrator.cli import cluster as cli_cluster
from orchestrator.cli import shell as cli_shell
from orchestrator.cli import suite as cli_suite
from orchestrator.cli.arguments import (
    Cached,
    Cells,
    Finished,
    Folders,
    KeepGoing,
    Override,
    SweepFile,
    Where,
    check_choices,
)
from orchestrator.cli.auditing import command as cli_audit
from orchestrator.cli.results import cache as cli_cache
from orchestrator.cli.results import compare as cli_compare
from orchestrator.cli.results import folders as cli_folders
from orchestrator.execute.lifelines import RayLost
from orchestrator.runtime.stop import EXIT_CODE, Stop, Stopped, farewell
from orchestrator.runtime.terminal import console as terminal
from orchestrator.runtime.terminal import outlet

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Gradient-inversion sweeps.",
)
data = typer.Typer(help="Data sets: check your own, write synthetic faces.")
app.add_typer(data, name="data")
app.add_typer(cli_cluster.jobs, name="jobs")
app.add_typer(cli_cluster.slurm, name="slurm")
app.command()(cli_cluster.submit)
app.command()(cli_audit.audit)
app.command()(cli_suite.suite)
app.command()(cli_suite.analyze)
app.command()(cli_compare.compare)
app.command()(cli_cache.cache)
app.command()(cli_shell.schema)
app.command()(cli_shell.completion)
cli_folders.add(app)
app.callback(invoke_without_command=True)(cli_shell.options)

BAD_INPUT, SOME_FAILED, INTERRUPTED = 2, 1, 130


@app.command()
def sweep(
    file: SweepFile,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/NAME")] = None,
    address: Where = "local",
    override: Override = None,
    cells: Cells = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long it would take, and end.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option(help="With --dry-run: measure each kind of cell for some seconds.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", help="Start what is slow without asking.")] = False,
    keep_going: KeepGoing = False,
    cache: Cached = None,
) -> None:
    """Run a sweep, or resume it: trials that are finished in the results folder are not repeated."""
    from orchestrator.config.parse import load_sweep

    config = load_sweep(file, [*(override or []), *(["execution.allow_slow=true"] if yes else [])])
    check_choices(config, cells=cells, address=address, cache=None if dry_run else cache)
    from orchestrator.cli import sweeps  # With Ray, pandas and matplotlib, for which a refusal does not wait.

    if dry_run:
        sweeps.show_plan(config, terminal(), cells=cells or [], address=address, calibrate=calibrate)
        return
    failed = sweeps.run_here(
        config,
        out,
        terminal(),
        cells=cells or [],
        address=address,
        keep_going=keep_going,
        cache=cache,
    )
    raise typer.Exit(SOME_FAILED if failed else 0)


@app.command()
def report(folder: Finished) -> None:
    """Print the summary of a results folder and write its report.html, figures and summary.parquet."""
    from orchestrator.cli.results.reporting import report_on

    report_on(folder, terminal())


@app.command()
def merge(
    folders: Folders,
    out: Annotated[Path, typer.Option(help="New results folder.")],
) -> None:
    """Unite results folders of one sweep, such as those of a job array, in a new one, and report on it."""
    from orchestrator.results.folder import mergeable

    mergeable(folders, out)
    from orchestrator.cli.results import reporting

    reporting.merge(folders, out, terminal())


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run one experiment (the flags of run_experiment.py; see `gradsweep run --help`)."""
    from orchestrator.cli import experiment

    with Stop().listening() as stop:
        raise typer.Exit(experiment.run(experiment.parse(context.args), terminal(), stop))


@app.command()
def doctor() -> None:
    """Say what this installation can do: devices, versions, Ray, LPIPS weights, data."""
    from orchestrator.cli.doctor import table

    terminal().print(table())


@data.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    num: Annotated[int, typer.Option(help="How many faces.", min=1)],
    seed: Annotated[int, typer.Option(help="The same seed gives the same faces.")] = 0,
) -> None:
    """Write synthetic faces in CelebA's layout."""
    from orchestrator.cli import pictures

    pictures.synthesise(out, terminal(), num=num, seed=seed)


@data.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder or file that data.root would name.")],
    kind: Annotated[str, typer.Option(help="What data.kind would say.")] = "celeba",
    name: Annotated[str | None, typer.Option(help="The set's name, for torchvision.")] = None,
    size: Annotated[str, typer.Option(help="The size that a network takes, channels first.")] = "3x64x64",
) -> None:
    """Decode every picture and read every table; print all problems at once, and what the data set holds."""
    from orchestrator.cli import pictures

    problems = pictures.check(folder, terminal(), kind=kind, name=name, size=size)
    raise typer.Exit(BAD_INPUT if problems else 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, this process's own where none is given, and end the process with its exit code.

    That is 2 where standard output did not take all that was printed.
    """
    output, _ = outlet("stdout"), outlet("stderr")
    code = execute(sys.argv[1:] if arguments is None else arguments)
    if output is not None:
        sys.stdout.flush()
        if output.refusal:
            _say(f"Standard output took no more ({output.refusal}); what was written to files is whole.")
            code = code or BAD_INPUT
    sys.exit(code)


def execute(arguments: Sequence[str]) -> int:
    """Run one command line; bad input gives one line on stderr and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        code = int(app(args=list(arguments) or ["--help"], standalone_mode=False) or 0)
        if code == INTERRUPTED:
            _say("interrupted; run the same command again to resume.")
        return code
    except Stopped as stopped:
        _say(farewell(str(stopped)))
        return EXIT_CODE
    except RayLost as lost:
        _say(f"{lost}; run the same command again to resume.")
        return EXIT_CODE
    except InputError as error:
        _say(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        # A folder that may not be entered, a name that is too long: whichever command came upon it.
        _say(str(InputError(f"Cannot use {error.filename}: {error.strerror}.")))
    except TyperException as error:
        _say(one_line(f"{error.format_message()} (see --help)"))
    except (MemoryError, RuntimeError) as error:
        from fl_core.base.device import out_of_memory

        # In a trial it is that trial's failure; here it is the network or the data that the machine can't hold.
        if not out_of_memory(error):
            raise
        _say(one_line(f"Memory ran out ({first_line(error)}); take a smaller network or smaller images."))
    return BAD_INPUT


def _say(text: str) -> None:
    terminal(stderr=True).print(f"gradsweep: {text}", soft_wrap=True)
