"""A runner that records programs that run often, and replays what was recorded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from attack_core.base.programs.program import Program, Values
from fl_core.base.device import out_of_memory
from fl_core.base.errors import InputError, first_line

Replay = Callable[[Values], Values]
"""A recorded program: from inputs of the recorded shapes to outputs that are the caller's to keep."""
Record = Callable[[Program, Values], Replay]
"""Records a program that has run before on inputs of these shapes.

Raises `InputError` where that cannot be done, since the program reads numbers for instance, or that memory has run out.
"""


@dataclass(frozen=True, kw_only=True)
class RecordingLimits:
    """When a program is recorded. Speed, memory and rounding alone depend on it."""

    after: int
    """So many runs come before: recording takes as long as many of them, and restarts that end make new programs."""
    kept: int = 16
    """So many programs are known at a time; the one that has not run for longest is forgotten."""


@dataclass
class _Ran:
    """A program that has run; it is kept, so that its key stays its own."""

    program: Program
    runs: int = 0
    replay: Replay | None = None


class Recorded:
    """A runner: programs that run often are recorded once and replayed. For the searches of one job, in one thread."""

    def __init__(self, record: Record, limits: RecordingLimits) -> None:
        self._record, self._limits = record, limits
        self._known: OrderedDict[Hashable, _Ran] = OrderedDict()

    def __call__(self, program: Program, inputs: Values) -> Values:
        """See `Runner`; raises what `Record` raises."""
        key = program.key, tuple(each.shape for each in inputs)
        known = self._known.setdefault(key, _Ran(program))
        self._known.move_to_end(key)
        if len(self._known) > self._limits.kept:
            self._known.popitem(last=False)
        known.runs += 1
        if known.runs <= self._limits.after:
            return program(*inputs)
        if known.replay is None:
            known.replay = self._record(program, inputs)
        return known.replay(inputs)


def not_recorded(what: str, error: Exception) -> Exception:
    """What to raise where `error` came of making `what` of a program: a lack of memory as it is, or an `InputError`."""
    first = _first(error)
    if isinstance(first, InputError) or out_of_memory(first):
        return first
    return refused(what, first_line(first))


def refused(what: str, why: str) -> InputError:
    """What to raise where `what` cannot be made of a program for a reason that lies in the network."""
    return InputError(
        f"This attack cannot {what} on this network: {why}; run it without, as by execution.programs: operations."
    )


def _first(error: BaseException) -> Exception:
    """The error that came first: ending a recording that failed raises another one."""
    while isinstance(error.__context__, Exception):
        error = error.__context__
    assert isinstance(error, Exception)
    return error
