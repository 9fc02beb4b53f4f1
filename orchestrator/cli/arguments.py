"""Arguments of several commands. What they name is looked at before the command imports what it works with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.config.plain_yaml import read_override, read_sweep_text
from orchestrator.io.places import check_folder_there
from orchestrator.results.there import check_begun, check_results

if TYPE_CHECKING:
    from orchestrator.config.sweep import SweepConfig


def results_folder(folder: Path) -> Path:
    """A results folder that an argument names; raises `InputError` where it is not there."""
    check_folder_there(folder)
    return folder


def finished_folder(folder: Path) -> Path:
    """A results folder that has trials; raises `InputError` where it has none."""
    check_results(folder)
    return folder


def _begun_folder(folder: Path) -> Path:
    check_begun(folder)
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


def check_choices(
    config: SweepConfig, *, cells: Sequence[str] | None, address: str, cache: Path | None = None
) -> None:
    """Raise `InputError` for what a sweep would be refused for, as far as no library is needed to tell.

    These are patterns that match no cell, an address, a device and a cache that are none, and data that are not there.
    """
    from fl_core.base.device import check_device
    from orchestrator.capture.places import check_data
    from orchestrator.config.parse import cell_settings
    from orchestrator.execute.address import named_address
    from orchestrator.io.cache import check_cache

    if cache is not None:
        check_cache(cache)
    chosen = [cell_settings(config, cell) for cell in config.matching_cells(cells or ["*"])]
    named_address(address)
    check_data(config.data, chosen)
    for settings in chosen:
        check_device(settings.execution.device)


Folder = Annotated[Path, typer.Argument(help="Results folder.", callback=results_folder)]
Finished = Annotated[Path, typer.Argument(help="Results folder.", callback=finished_folder)]
Begun = Annotated[Path, typer.Argument(help="Results folder.", callback=_begun_folder)]
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
