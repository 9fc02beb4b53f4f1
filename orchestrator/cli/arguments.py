"""Arguments of several commands. What they name is looked at before the command imports what it works with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.config.plain_yaml import read_override, read_sweep_text
from orchestrator.io.places import check_folder_there


def results_folder(folder: Path) -> Path:
    """A results folder that an argument names; raises `InputError` where it is not there."""
    check_folder_there(folder)
    return folder


def _all_there(folders: list[Path]) -> list[Path]:
    for folder in folders:
        check_folder_there(folder)
    return folders


def _readable(file: Path) -> Path:
    read_sweep_text(file)
    return file


def overriding(texts: list[str] | None) -> list[str] | None:
    """What `--set` is given; raises `InputError` for a text that is no key=value."""
    for text in texts or ():
        read_override(text)
    return texts


Folder = Annotated[Path, typer.Argument(help="Results folder.", callback=results_folder)]
Folders = Annotated[list[Path], typer.Argument(help="Results folders of one sweep.", callback=_all_there)]
SweepFile = Annotated[Path, typer.Argument(help="Sweep file (YAML).", callback=_readable)]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="key=value with a dotted key.", callback=overriding)
]
Cells = Annotated[
    list[str] | None, typer.Option(help="Only cells whose name matches this pattern; may be repeated.")
]
Where = Annotated[str, typer.Option(help="local, serial, auto, or a Ray cluster's HOST:PORT.")]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Go on where 20 trials in a row fail for one reason.")
]

Cached = Annotated[
    Path | None, typer.Option(help="Folder that sweeps share: take from it what others computed.")
]
