"""The command line `gradsweep`: thin commands over the package."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, track
from typer.exceptions import TyperException

from fl_core.base.device import out_of_memory
from fl_core.base.errors import InputError, first_line, one_line
from fl_core.base.shape import ImageShape
from fl_core.data.check import check_pictures, described
from fl_core.data.kinds.celeba import check_celeba
from fl_core.data.places import expanded
from fl_core.data.synthetic.faces import write_faces
from orchestrator.capture.datasets import data_line, planned_data
from orchestrator.cli import audit as cli_audit
from orchestrator.cli import cluster as cli_cluster
from orchestrator.cli import doctor as health
from orchestrator.cli import experiment
from orchestrator.cli import folders as cli_folders
from orchestrator.cli import shell as cli_shell
from orchestrator.cli.printed import report_on, told
from orchestrator.config.parse import load_sweep
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import DataConfig
from orchestrator.driver.merge import merge_folders
from orchestrator.driver.plan import cells_table, check_plan, plan_table
from orchestrator.driver.refine import run_refined
from orchestrator.driver.streak import FAILURES
from orchestrator.driver.sweep import resolve, run_sweep
from orchestrator.execute.lifelines import RayLost
from orchestrator.runtime.progress import ConsoleReporter
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
app.command()(cli_shell.schema)
app.command()(cli_shell.completion)
cli_folders.add(app)
app.callback(invoke_without_command=True)(cli_shell.options)

BAD_INPUT, INTERRUPTED = 2, 130

Folder = Annotated[Path, typer.Argument(help="Results folder.")]


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (YAML).")],
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/NAME")] = None,
    address: Annotated[
        str, typer.Option(help="local, serial, auto, or a Ray cluster's HOST:PORT.")
    ] = "local",
    override: Annotated[list[str] | None, typer.Option("--set", help="key=value with a dotted key.")] = None,
    cells: Annotated[
        list[str] | None, typer.Option(help="Only cells whose name matches this pattern; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print what would run, and end.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Start what is slow without asking.")] = False,
    keep_going: cli_folders.KeepGoing = False,
) -> None:
    """Run a sweep, or resume it: trials that are finished in the results folder are not repeated."""
    config = load_sweep(file, [*(override or []), *(["execution.allow_slow=true"] if yes else [])])
    console = terminal()
    patterns = cells or ["*"]
    if dry_run:
        check_plan(config, patterns)
        console.print(data_line(to_plain(resolve(config))), soft_wrap=True)
        console.print(cells_table(config, patterns, width=console.width))
        console.print("", plan_table(config, patterns, width=console.width))
        return
    folder = out or Path("results") / config.name
    with Stop().listening() as stop:
        run = partial(
            run_sweep,
            out=folder,
            address=address,
            reporter=ConsoleReporter(console),
            cells=patterns,
            stop=stop,
            patience=None if keep_going else FAILURES,
        )
        # Thresholds look at all their cells; a part of them is run as it is.
        outcome = run_refined(config, folder, run) if patterns == ["*"] else run(config)
        report_on(folder, console)
    raise typer.Exit(told(outcome, folder, console))


@app.command()
def report(folder: Folder) -> None:
    """Print the summary of a results folder and write its report.html, figures and summary.parquet."""
    report_on(folder, terminal())


@app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Results folders of one sweep.")],
    out: Annotated[Path, typer.Option(help="New results folder.")],
) -> None:
    """Unite results folders of one sweep, such as those of a job array, in a new one, and report on it."""
    merged = merge_folders(folders, out)
    console = terminal()
    report_on(out, console)
    console.print(f"{merged.trials} trials of {len(folders)} folders, {merged.failed} failed.")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Run one experiment (the flags of run_experiment.py; see `gradsweep run --help`)."""
    with Stop().listening() as stop:
        raise typer.Exit(experiment.run(experiment.parse(context.args), terminal(), stop))


@app.command()
def doctor() -> None:
    """Say what this installation can do: devices, versions, Ray, LPIPS weights, data."""
    terminal().print(health.table())


@data.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    num: Annotated[int, typer.Option(help="How many faces.", min=1)],
    seed: Annotated[int, typer.Option(help="The same seed gives the same faces.")] = 0,
) -> None:
    """Write synthetic faces in CelebA's layout."""
    console, out = terminal(), expanded(out)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("faces", total=num)
        write_faces(out, num=num, seed=seed, progress=lambda done, _: bar.update(task, completed=done))
    console.print(f"{num} faces in {out}", soft_wrap=True)


@data.command()
def check(
    folder: Annotated[Path, typer.Argument(help="The folder or file that data.root would name.")],
    kind: Annotated[str, typer.Option(help="celeba, folder, arrays, parquet or torchvision.")] = "celeba",
    name: Annotated[str | None, typer.Option(help="The set's name, for torchvision.")] = None,
    size: Annotated[str, typer.Option(help="The size that a network takes, channels first.")] = "3x64x64",
) -> None:
    """Decode every picture and read every table; print all problems at once, and what the data set holds."""
    console, folder = terminal(), expanded(folder)
    problems = 0
    if kind == "celeba":
        found, held = check_celeba(folder), []
    else:
        data = build(
            DataConfig, {"kind": kind, "root": str(folder), "name": name}, where="gradsweep data check"
        )
        dataset = planned_data(data, ImageShape.parse(size))
        found, held = check_pictures(dataset), described(dataset)
    for problem in track(found, description="checking", console=console, transient=True):
        problems += 1
        console.print(problem, soft_wrap=True, markup=False)
    for line in held:
        console.print(line, soft_wrap=True, markup=False)
    console.print(
        f"{problems} problems in {folder}" if problems else f"{folder} is fine", soft_wrap=True, markup=False
    )
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
        # In a trial it is that trial's failure; here it is the network or the data that the machine can't hold.
        if not out_of_memory(error):
            raise
        _say(one_line(f"Memory ran out ({first_line(error)}); take a smaller network or smaller images."))
    return BAD_INPUT


def _say(text: str) -> None:
    terminal(stderr=True).print(f"gradsweep: {text}", soft_wrap=True)
