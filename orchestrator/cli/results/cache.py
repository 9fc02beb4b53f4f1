"""`gradsweep cache`: what the folder holds that sweeps share, and what of it goes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.io.cache_upkeep import Entry

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def cache(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that sweeps have as --cache.")],
    keep: Annotated[
        str | None,
        typer.Option(help="Remove what was unused for longest until so much is left, such as 20GB."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Remove what was unused for so long, such as 12h, 30d or 8w.")
    ] = None,
) -> None:
    """List what a shared cache holds; with --keep or --older-than remove entries. Sweeps may use it meanwhile."""
    most, longest = _bytes(keep), _seconds(older_than)
    from orchestrator.io.cache_upkeep import entries, outdated, remove
    from orchestrator.runtime.terminal import console as terminal

    console = terminal()
    found = entries(folder)
    if keep is not None or older_than is not None:
        gone = outdated(found, keep=most, older_than=longest)
        freed = remove(gone)
        console.print(f"{len(gone)} of {len(found)} entries removed, {freed / 1e6:,.1f} MB.")
        found = entries(folder)
    whole = [entry for entry in found if entry.whole]
    size = sum(entry.size for entry in found)
    console.print(f"{folder}: {len(whole)} entries, {size / 1e6:,.1f} MB", soft_wrap=True, markup=False)
    if found:
        console.print(_table(found))


def _table(found: Sequence[Entry]) -> Table:
    """One line for each code and kind; a code is named by the first digits of its folder."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("made by code", "kind"):
        table.add_column(heading)
    for heading in ("entries", "MB", "days since last use"):
        table.add_column(heading, justify="right")
    for code, kind in sorted({(entry.code, entry.kind) for entry in found}):
        mine = [entry for entry in found if (entry.code, entry.kind) == (code, kind)]
        size, last = sum(entry.size for entry in mine), min(entry.unused for entry in mine)
        figures = (f"{len(mine)}", f"{size / 1e6:,.1f}", f"{last / _SECONDS['d']:.1f}")
        table.add_row(*map(Text, (code[:8], kind, *figures)))
    return table


def _bytes(text: str | None) -> int | None:
    """`20GB` as a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?B?)", text.upper()) if text is not None else None
    if text is None:
        return None
    if found is None or found[2] not in _BYTES:
        raise _wrong("--keep", text, "a size such as 500MB or 20GB")
    return int(float(found[1]) * _BYTES[found[2]])


def _seconds(text: str | None) -> float | None:
    """`30d` as a number of seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([hdw])", text) if text is not None else None
    if text is None:
        return None
    if found is None:
        raise _wrong("--older-than", text, "a time such as 12h, 30d or 8w")
    return float(found[1]) * _SECONDS[found[2]]


def _wrong(flag: str, text: str, right: str) -> Exception:
    from fl_core.base.errors import InputError

    return InputError(f"{flag} {text!r}: must be {right}.")
