"""Failures of one kind in a row: a cause that no further trial would mend."""

from __future__ import annotations

from fl_core.base.errors import alike

FAILURES = 20
"""So many trials in a row that fail for one reason stop a sweep, unless it is told to keep going."""


class Streak:
    """Counts trials that fail one after another with errors that differ in numbers alone; `limit` None: no end."""

    def __init__(self, limit: int | None) -> None:
        self._limit, self._count, self._kind = limit, 0, ""
        self.text: str | None = None

    def take(self, error: str | None, *, trial: str) -> None:
        """Note how a trial ended, None for one that did not fail; `text` says what happened once there are too many."""
        if error is None:
            self._count = 0
            return
        kind = alike(error)
        self._count = self._count + 1 if kind == self._kind else 1
        self._kind = kind
        if self._limit is not None and self._count >= self._limit and self.text is None:
            self.text = (
                f"{self._count} trials in a row failed for one reason: {error.rstrip('.')} (such as {trial})"
            )
