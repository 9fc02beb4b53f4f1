"""The version, completion for shells, and a schema of sweep files for editors."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from typer.completion import (  # type: ignore[attr-defined]  # imported there for its own options
    completion_init,
    shell_completion,
)

from orchestrator.io.provenance import provenance

PROGRAM = "gradsweep"
_VARIABLE = "_GRADSWEEP_COMPLETE"


class Shell(StrEnum):
    """The shells that there is a completion for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def schema(
    out: Annotated[Path | None, typer.Option(help="File to write to, in place of printing.")] = None,
) -> None:
    """Print the JSON schema of sweep files, for editors (see docs/sweep-file.md)."""
    from orchestrator.io.files import write_atomically
    from orchestrator.reference.schema import sweep_schema

    text = json.dumps(sweep_schema(), indent=2)
    if out is None:
        typer.echo(text)
    else:
        write_atomically(out, f"{text}\n".encode())


def completion(
    context: typer.Context, shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish.")]
) -> None:
    """Print the script that completes gradsweep's commands and flags in a shell; `eval` it where the shell starts."""
    kind = shell_completion.get_completion_class(shell.value)
    if kind is None:
        raise AssertionError(f"typer completes no {shell.value}")
    typer.echo(kind(context.find_root().command, {}, PROGRAM, _VARIABLE).source().strip())


def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, with the commit where it is known, and end.")
    ] = False,
) -> None:
    """Gradient-inversion sweeps."""
    if version:
        typer.echo(version_line())
        raise typer.Exit


def version_line() -> str:
    """`gradsweep 0.1.0 (commit ...)`; without the commit outside of a checkout."""
    try:
        number = version(PROGRAM)
    except PackageNotFoundError:
        number = "of a checkout that is not installed"
    commit = provenance()["git_commit"]
    return f"{PROGRAM} {number}{f' (commit {commit})' if commit else ''}"


# Typer's own completions, which the printed scripts ask for, in place of those of the library below it.
completion_init()
