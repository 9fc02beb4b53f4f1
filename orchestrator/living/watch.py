"""A running sweep seen from another terminal: a table that is renewed in place, or a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.living.status import Status, read_status
from orchestrator.report.terminal import figure_table, number
from orchestrator.runtime.progress import clock

TERMINAL_SECONDS, LOG_SECONDS = 2.0, 30.0
"""How often the table is renewed on a terminal, and a line is printed elsewhere."""

_SHARE = 5
"""At least so many times as long as the folder took to read nothing is read again: large folders take seconds."""

NAMED = 5
"""Kinds of failures that are shown."""


def watch_sweep(
    folder: Path,
    console: Console,
    *,
    every: float | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """Show the sweep until nobody works on it any more; its last state. Ctrl-C ends the watching, not the sweep.

    `every` is in seconds, None for `TERMINAL_SECONDS` or `LOG_SECONDS`. Raises `InputError` as `read_status` does.
    """
    wait = every if every is not None else TERMINAL_SECONDS if console.is_terminal else LOG_SECONDS
    status = read_status(folder)
    if not console.is_terminal:
        while not status.over:
            console.print(line(status), soft_wrap=True)
            status = _next(folder, wait, sleep)
        show(status, console)
        return status
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not status.over:
            live.update(Group(*page(status, width=console.width)), refresh=True)
            status = _next(folder, wait, sleep)
    show(status, console)
    return status


def show(status: Status, console: Console) -> None:
    """Print the whole state; commands in it are not broken into lines."""
    for part in page(status, width=console.width):
        console.print(part, soft_wrap=isinstance(part, Text))


def page(status: Status, *, width: int) -> list[Text | Table]:
    """The whole state: a table of cells and attackers, totals, failures, and what resumes the sweep."""
    parts: list[Text | Table] = [Text(_head(status))]
    if status.cells:
        columns = {
            "tuning": [_count(cell.tuning.done, cell.tuning.planned) for cell in status.cells],
            "best dB": [number(cell.best_tuning_psnr) for cell in status.cells],
            "test": [_count(cell.test.done, cell.test.planned) for cell in status.cells],
            "mean dB": [number(cell.mean_test_psnr) for cell in status.cells],
            "failed": [str(cell.failed) if cell.failed else "" for cell in status.cells],
        }
        names = [cell.name for cell in status.cells]
        parts += [Text(""), figure_table(None, "cell / attacker", names, columns, width=width), Text("")]
    parts.append(Text(_pace(status)))
    for failure in status.failures[:NAMED]:
        where = ", ".join(failure.cells[:3]) + (" ..." if len(failure.cells) > 3 else "")
        parts.append(Text(f"{failure.count} failed in {where}: {failure.error} (such as {failure.trial})"))
    if len(status.failures) > NAMED:
        parts.append(Text(f"{len(status.failures) - NAMED} other kinds of failures"))
    outlook = _outlook(status)
    return [*parts, *([Text(outlook)] if outlook else [])]


def line(status: Status) -> str:
    """The state in one line, for a log."""
    known = [cell for cell in status.cells if cell.best_tuning_psnr is not None]
    best = max(known, key=lambda cell: cell.best_tuning_psnr or 0.0, default=None)
    found = f", best {best.name} {number(best.best_tuning_psnr)} dB" if best else ""
    return f"{time.strftime('%H:%M:%S')} {status.state}: {_pace(status)}{found}"


def _next(folder: Path, wait: float, sleep: Callable[[float], None]) -> Status:
    sleep(wait)
    begun = time.monotonic()
    status = read_status(folder)
    if not status.over:
        sleep(max(0.0, _SHARE * (time.monotonic() - begun) - wait))
    return status


def _head(status: Status) -> str:
    driver = status.driver
    by = ""
    if driver is not None and status.state in ("starting", "running", "dead"):
        process = "?" if driver.process is None else driver.process
        by = f" (process {process} on {driver.host}, since {driver.since or '?'})"
    return f"{status.sweep or 'A sweep'} in {status.folder}: {status.state}{by}"


def _pace(status: Status) -> str:
    done, planned = status.trials.done, status.trials.planned
    parts = [f"{done}/{planned} trials" if planned is not None else f"{done} trials"]
    if status.failed:
        parts.append(f"{status.failed} failed")
    if status.rate_per_minute is not None:
        parts.append(f"{status.rate_per_minute:.1f}/min")
    if status.state == "running":
        left = "?" if status.seconds_left is None else clock(status.seconds_left)
        parts.append(f"{left} left")
    return ", ".join(parts)


def _outlook(status: Status) -> str | None:
    """What is to be done where nobody works on the sweep."""
    if status.state == "dead" and status.driver is not None:
        silent = clock(status.driver.silent_seconds)
        return (
            f"The driver is gone; its last sign of life is {silent} old. `{status.resume}`, or the command that "
            "started the sweep, goes on."
        )
    if status.state == "stopped":
        return f"No driver works on it. `{status.resume}`, or the command that started the sweep, goes on."
    if status.state == "finished" and status.failed:
        return f"`gradsweep retry {status.folder}` runs what failed again."
    return None


def _count(done: int, planned: int | None) -> str:
    return f"{done}/?" if planned is None else f"{done}/{planned}"
