"""The commands that reach beyond this machine: `submit`, `jobs`, `slurm`."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import orchestrator
from fl_core.base.errors import InputError
from orchestrator.cli.arguments import Cells, Override, SweepFile

if TYPE_CHECKING:
    from orchestrator.cluster.submit import Jobs, JobState

jobs = typer.Typer(help="Jobs that were submitted to a Ray cluster.", no_args_is_help=True)
slurm = typer.Typer(help="Batch scripts for Slurm.", no_args_is_help=True)

STILL_RUNNING = 3
"""Exit code where this command ended before the job did."""

Address = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, such as http://127.0.0.1:8265."
    ),
]
NoToken = Annotated[
    bool, typer.Option("--no-token", help="The cluster asks for none: anybody may run jobs on it.")
]
Job = Annotated[str, typer.Argument(help="The job's id, as `submit` printed it.")]


def submit(
    file: SweepFile,
    address: Address,
    out: Annotated[
        str, typer.Option(help="Results folder on the cluster: a full path that its head can write.")
    ],
    override: Override = None,
    cells: Cells = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-wait", help="Show the job's output until it ends.")
    ] = True,
    python: Annotated[
        str, typer.Option(help="The cluster's Python, with the packages installed.")
    ] = "python",
    no_token: NoToken = False,
) -> None:
    """Run a sweep on a Ray cluster as a job; the exit code is the sweep's. The same --out resumes it."""
    from orchestrator.cluster.access import sendable

    sendable(file, out=out, overrides=override or []).matching_cells(cells or ["*"])
    there = _connect(address, no_token=no_token)
    job = there.submit(file, out=out, overrides=override or [], cells=cells or [], python=python)
    typer.echo(f"submitted {job}; results in {out} on the cluster")
    if follow:
        raise typer.Exit(_follow(there, job, address))
    typer.echo(_how_to_go_on(job, address))


@jobs.command("follow")
def follow_job(job: Job, address: Address, no_token: NoToken = False) -> None:
    """Show a job's output until it ends; the exit code is the job's."""
    raise typer.Exit(_follow(_connect(address, no_token=no_token), job, address))


@jobs.command()
def status(job: Job, address: Address, no_token: NoToken = False) -> None:
    """Say how a job stands; the exit code is the job's, 3 while it runs."""
    raise typer.Exit(_say(job, _connect(address, no_token=no_token).state(job)))


@jobs.command()
def stop(job: Job, address: Address, no_token: NoToken = False) -> None:
    """Stop a job; what is finished stays, and submitting the sweep again resumes it."""
    there = _connect(address, no_token=no_token)
    state = there.stop(job)
    _say(job, state)
    raise typer.Exit(STILL_RUNNING if state.exit_code is None else 0)


@slurm.command("cells")
def list_cells(file: SweepFile) -> None:
    """Print the names of a sweep's cells, one a line: the elements of its job array, from 0."""
    from orchestrator.config.parse import load_sweep

    for cell in load_sweep(file).cells:
        typer.echo(cell.name)


@slurm.command("render")
def render_script(
    file: SweepFile,
    results: Annotated[str, typer.Argument(help="Results folder, as the cluster sees it.")],
    flags: Annotated[list[str] | None, typer.Argument(help="After --: flags of `gradsweep sweep`.")] = None,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 1,
    cpus: Annotated[int, typer.Option(help="CPUs of each node.")] = 8,
    gpus: Annotated[int, typer.Option(help="GPUs of each node.")] = 0,
    memory: Annotated[str | None, typer.Option(help="Memory of each node, such as 64G.")] = None,
    time: Annotated[str, typer.Option(help="Time limit: HH:MM:SS or D-HH:MM:SS.")] = "08:00:00",
    notice: Annotated[int, typer.Option(help="Seconds before the limit at which the sweep stops.")] = 120,
    partition: Annotated[str | None, typer.Option(help="Partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Account.")] = None,
    qos: Annotated[str | None, typer.Option(help="Quality of service.")] = None,
    name: Annotated[str, typer.Option(help="Name of the job.")] = "gradsweep",
    image: Annotated[str | None, typer.Option(help="Apptainer image to run in.")] = None,
    array: Annotated[
        bool, typer.Option("--array", help="One element for each cell, merged afterwards.")
    ] = False,
    at_once: Annotated[int | None, typer.Option(help="At most so many elements at a time.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="So many jobs join the sweep's when they start, and leave when they end; needs --out."
        ),
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="The checkout on the cluster.", show_default="this one")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="the terminal")] = None,
) -> None:
    """Print a batch script for `sbatch`, with everything filled in and checked."""
    from orchestrator.capture.places import check_data
    from orchestrator.cluster.slurm import SlurmJob, render, render_workers
    from orchestrator.config.parse import cell_settings, load_sweep
    from orchestrator.io.files import write_atomically

    sweep = load_sweep(file, _overrides(flags or []))
    try:
        check_data(sweep.data, [cell_settings(sweep, cell) for cell in sweep.cells])
    except InputError as error:
        typer.echo(
            f"note: the job will need its data where it runs, and here they are not: {error}", err=True
        )
    job = SlurmJob(
        name=name,
        nodes=nodes,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        time=time,
        notice=notice,
        partition=partition,
        account=account,
        qos=qos,
        image=image,
        array=len(sweep.cells) if array else None,
        at_once=at_once,
        workers=workers,
    )
    if workers is not None and out is None:
        raise InputError("--workers makes two scripts: name the first one with --out, such as --out job.sh.")
    here = Path(orchestrator.__file__).resolve().parents[1]
    home = home or here
    script = render(job, home=home, sweep=str(file), results=results, flags=tuple(flags or ()))
    if out is None:
        typer.echo(script, nl=False)
        return
    write_atomically(out, script.encode())
    if workers is None:
        typer.echo(f"{out} is written: sbatch {out}")
        return
    second = out.with_name(f"{out.stem}-workers{out.suffix}")
    write_atomically(second, render_workers(job, home=home).encode())
    typer.echo(
        f"{out} and {second} are written:\n"
        f"head=$(sbatch --parsable {shlex.quote(str(out))})\n"
        f"sbatch --dependency=after:$head {shlex.quote(str(second))} $head"
    )


def _overrides(flags: Sequence[str]) -> list[str]:
    """What the flags `--set KEY=VALUE` and `--set=KEY=VALUE` put in."""
    apart = [value for flag, value in itertools.pairwise(flags) if flag == "--set"]
    return apart + [flag.removeprefix("--set=") for flag in flags if flag.startswith("--set=")]


def _connect(address: str, *, no_token: bool) -> Jobs:
    from orchestrator.cluster.access import dashboard, find_token

    token = None if no_token else find_token(os.environ)
    dashboard(address)
    from orchestrator.cluster.submit import Jobs  # With Ray, for which a refusal does not wait.

    return Jobs(address, token)


def _follow(there: Jobs, job: str, address: str) -> int:
    """Show the output; leaving early, by Ctrl-C or a lost cluster, leaves the job alone and says so."""
    try:
        return _say(job, there.follow(job, _put))
    except KeyboardInterrupt:
        typer.echo(f"\nno longer following; the job goes on. {_how_to_go_on(job, address)}", err=True)
        return STILL_RUNNING
    except InputError:
        typer.echo(f"no longer following {job}. {_how_to_go_on(job, address)}", err=True)
        raise


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(job: str, state: JobState) -> int:
    code = STILL_RUNNING if state.exit_code is None else state.exit_code
    ended = "" if state.exit_code is None else f", exit code {code}"
    typer.echo(f"{job}: {state.status.lower()}{ended}")
    if state.exit_code and state.message:
        typer.echo(state.message.strip().splitlines()[0], err=True)
    return code


def _how_to_go_on(job: str, address: str) -> str:
    return f"gradsweep jobs follow|status|stop {job} --address {address}"
