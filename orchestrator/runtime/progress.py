"""The progress of a running sweep: trials done, best PSNR, rate, time left."""

from __future__ import annotations

import atexit
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

ENOUGH = 3
"""Jobs that must be done before their pace says anything of the others, and a tenth where that is fewer."""


class Reporter(Protocol):
    """Told what happens; says it to a person, or to nobody."""

    def message(self, text: str) -> None:
        """A line of its own."""

    def start(self, total: int, done: int, best: Mapping[str, float]) -> None:
        """Jobs in all, how many of them an earlier run finished, and the best PSNR of each study there, in dB."""

    def expect(self, total: int) -> None:
        """As far as is known now there are so many jobs in all."""

    def job_done(self, study: str, psnr: float | None) -> None:
        """A job has finished; `psnr` in dB where it was a trial that has one."""

    def tick(self, workers: int) -> None:
        """Called about once a second while jobs run, on so many workers."""

    def iteration(self, done: int, planned: int, loss: float) -> None:
        """An attack in this process has done so many of its iterations, with this best loss."""


class Silent:
    """Says nothing."""

    def message(self, text: str) -> None:
        """See `Reporter.message`."""

    def start(self, total: int, done: int, best: Mapping[str, float]) -> None:
        """See `Reporter.start`."""

    def expect(self, total: int) -> None:
        """See `Reporter.expect`."""

    def job_done(self, study: str, psnr: float | None) -> None:
        """See `Reporter.job_done`."""

    def tick(self, workers: int) -> None:
        """See `Reporter.tick`."""

    def iteration(self, done: int, planned: int, loss: float) -> None:
        """See `Reporter.iteration`."""


class ConsoleReporter:
    """Bars on a terminal: of all jobs, and of an attack in this process. Elsewhere a line every 30 seconds."""

    def __init__(self, console: Console, *, every: float = 30.0) -> None:
        self._console, self._every = console, every
        self._total = self._done = self._resumed = 0
        self._workers = 1
        self._best: dict[str, float] = {}
        self._within, self._fraction = "", 0.0
        self._said = time.monotonic()
        self._began: float | None = None
        self._bars = _Bars(console) if console.is_terminal else None

    def message(self, text: str) -> None:
        """See `Reporter.message`."""
        self._console.print(text, soft_wrap=True)

    def start(self, total: int, done: int, best: Mapping[str, float]) -> None:
        """See `Reporter.start`."""
        self._total, self._done, self._resumed = total, done, done
        self._best |= best
        self._began = None
        if done:
            self.message(f"{done} of {total} jobs are already done")
        if self._bars is not None and done < total:
            self._bars.start()

    def expect(self, total: int) -> None:
        """See `Reporter.expect`."""
        self._total = total

    def job_done(self, study: str, psnr: float | None) -> None:
        """See `Reporter.job_done`."""
        self._done += 1
        self._within, self._fraction = "", 0.0
        if psnr is not None and psnr > self._best.get(study, float("-inf")):
            self._best[study] = psnr
        self._say(force=self._done == self._total)

    def tick(self, workers: int) -> None:
        """See `Reporter.tick`."""
        self._workers = workers
        self._say(force=False)

    def iteration(self, done: int, planned: int, loss: float) -> None:
        """See `Reporter.iteration`."""
        self._within = f"iteration {done}/{planned}, loss {loss:.3g}"
        self._fraction = done / planned
        self._say(force=False)

    def _say(self, *, force: bool) -> None:
        now = time.monotonic()
        if (
            self._began is None
        ):  # What came before, captures and the start of Ray, is no part of the jobs' pace.
            self._began = now
        due = force or now - self._said >= (self._every if self._bars is None else _SHOWN_EVERY)
        if not due:
            return
        self._said = now
        line = progress_line(
            done=self._done + self._fraction,
            resumed=self._resumed,
            total=self._total,
            passed=now - self._began,
            workers=self._workers,
            best=self._best,
        )
        if self._bars is not None:
            self._bars.show(
                line, (self._done + self._fraction) / max(1, self._total), self._within, self._fraction
            )
            if force:
                self._bars.stop()
        if force or self._bars is None:
            self.message(line + (f"  now: {self._within}" if self._within else ""))


_SHOWN_EVERY = 0.2
"""Seconds between two states of the bars."""


class _Bars:
    """A bar of all jobs with the line of figures, and below it one of an attack in this process, while there is one."""

    def __init__(self, console: Console) -> None:
        words = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
        self._progress = Progress(
            BarColumn(bar_width=20), words, console=console, transient=True, auto_refresh=False
        )
        self._jobs = self._progress.add_task("", total=1.0)
        self._attack = self._progress.add_task("", total=1.0, visible=False)
        atexit.register(self.stop)  # Whatever ends the command, the terminal has its cursor back.

    def start(self) -> None:
        """Show them."""
        self._progress.start()

    def stop(self) -> None:
        """Take them away."""
        self._progress.stop()

    def show(self, line: str, share: float, within: str, fraction: float) -> None:
        """Renew both; `share` and `fraction` from 0 to 1, `within` is empty where no attack tells how far it is."""
        self._progress.update(self._jobs, completed=share, description=line)
        self._progress.update(self._attack, completed=fraction, description=within, visible=bool(within))
        self._progress.refresh()


def progress_line(
    *, done: float, resumed: int, total: int, passed: float, workers: int, best: Mapping[str, float]
) -> str:
    """How far the jobs are, `resumed` of them from an earlier run, after `passed` seconds of this one.

    The time left is told once the jobs of this run say something of it: `ENOUGH` of them or a tenth of all, and one
    from each worker, for as long as the first ones run nothing is known of any.
    """
    fresh, left = done - resumed, total - done
    rate = fresh / passed if passed > 0 else 0.0
    enough = max(min(ENOUGH, (total - resumed) / 10), workers if workers > 1 else 0)
    time_left = clock(left / rate) if rate > 0 and fresh >= enough else "?"
    found = "  ".join(f"{study} {psnr:.1f} dB" for study, psnr in sorted(best.items()))
    return (
        f"{int(done)}/{total} jobs  {rate * 60:.0f}/min  {clock(passed)} passed, {time_left} left  "
        f"best: {found or '-'}"
    )


def duration(seconds: float) -> str:
    """In words: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, such as `1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
