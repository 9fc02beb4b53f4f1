"""What a running sweep says: trials done, best PSNR, rate, time left."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console


class Reporter(Protocol):
    """Told what happens; says it to a person, or to nobody."""

    def message(self, text: str) -> None:
        """A line of its own."""

    def start(self, total: int, done: int) -> None:
        """Work begins: jobs in all, and how many of them an earlier run finished."""

    def expect(self, total: int) -> None:
        """As far as is known now there are so many jobs in all."""

    def job_done(self, study: str, psnr: float | None) -> None:
        """A job has finished; `psnr` in dB where it was a trial that has one."""

    def tick(self) -> None:
        """Called about once a second while jobs run."""

    def iteration(self, done: int, planned: int, loss: float) -> None:
        """An attack in this process has done so many of its iterations, with this best loss."""


class Silent:
    """Says nothing."""

    def message(self, text: str) -> None:
        """See `Reporter.message`."""

    def start(self, total: int, done: int) -> None:
        """See `Reporter.start`."""

    def expect(self, total: int) -> None:
        """See `Reporter.expect`."""

    def job_done(self, study: str, psnr: float | None) -> None:
        """See `Reporter.job_done`."""

    def tick(self) -> None:
        """See `Reporter.tick`."""

    def iteration(self, done: int, planned: int, loss: float) -> None:
        """See `Reporter.iteration`."""


class ConsoleReporter:
    """One line, renewed in place on a terminal, printed every `every` seconds elsewhere."""

    def __init__(self, console: Console, *, every: float = 10.0) -> None:
        self._console, self._every = console, every
        self._total = self._done = self._resumed = 0
        self._best: dict[str, float] = {}
        self._within, self._fraction = "", 0.0
        self._began = self._said = time.monotonic()
        self._status = console.status("", spinner="line") if console.is_terminal else None

    def message(self, text: str) -> None:
        """See `Reporter.message`."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def start(self, total: int, done: int) -> None:
        """See `Reporter.start`."""
        self._total, self._done, self._resumed = total, done, done
        self._began = time.monotonic()
        if done:
            self.message(f"{done} of {total} jobs are already done")
        if self._status is not None and done < total:
            self._status.start()

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

    def tick(self) -> None:
        """See `Reporter.tick`."""
        self._say(force=False)

    def iteration(self, done: int, planned: int, loss: float) -> None:
        """See `Reporter.iteration`."""
        self._within = f"  now: iteration {done}/{planned}, loss {loss:.3g}"
        self._fraction = done / planned
        self._say(force=False)

    def _say(self, *, force: bool) -> None:
        now = time.monotonic()
        if self._status is not None:
            if force or now - self._said >= 0.2:
                self._said = now
                self._status.update(self._line(now))
            if force:
                self._status.stop()
        if force or (self._status is None and now - self._said >= self._every):
            self._said = now
            self.message(self._line(now))

    def _line(self, now: float) -> str:
        fresh, passed = self._done + self._fraction - self._resumed, now - self._began
        rate = fresh / passed if passed > 0 else 0.0
        left = (self._total - self._done - self._fraction) / rate if rate > 0 else None
        best = "  ".join(f"{study} {psnr:.1f} dB" for study, psnr in sorted(self._best.items()))
        return (
            f"{self._done}/{self._total} jobs  {rate * 60:.0f}/min  {_clock(passed)} passed, "
            f"{'?' if left is None else _clock(left)} left  best: {best or '-'}{self._within}"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
