"""Captures as handles that workers share: each is made and sent once for all trials on it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fl_core.base.types import ModelState
from fl_core.threat.record import RoundRecord
from orchestrator.execute.execute import Executor
from orchestrator.runtime.stop import Stop
from orchestrator.trial.cell import Cell
from orchestrator.trial.rows import Released
from orchestrator.trial.spec import TrialInput, TrialSpec


@dataclass(frozen=True, kw_only=True)
class SharedInput:
    """The executor's handles on the parts of a `TrialInput`, and what rows say of the capture."""

    state: Any
    record: Any
    truth: Any
    mean_image: Any
    public: Any
    later: Any
    prior: Any
    released: Released

    @property
    def parts(self) -> tuple[Any, ...]:
        """The handles in the order in which `TrialInput` takes their values."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(TrialInput))


def shared_parts(inputs: Sequence[SharedInput]) -> tuple[list[tuple[int, ...]], list[Any]]:
    """Each handle once, and for each input where among them its parts are."""
    found: dict[int, tuple[int, Any]] = {}
    places = [
        tuple(found.setdefault(id(part), (len(found), part))[0] for part in own.parts) for own in inputs
    ]
    return places, [part for _, part in found.values()]


class SharedCaptures:
    """Weights and mean images are shared once for all captures, a capture for as long as trials come to it.

    `attacked` names each test victim's capture once for every attacker. With `keep` false a capture leaves the disk
    when all of them are done with it, so that a sweep never holds more than the few that it works on.
    """

    def __init__(self, stop: Stop, *, attacked: Iterable[str], keep: bool) -> None:
        self._stop = stop
        self._left, self._keep = Counter(attacked), keep
        self._shared: dict[tuple[str, int], SharedInput] = {}
        self._states: dict[tuple[str, frozenset[str]], tuple[Any, Any]] = {}
        self._means: dict[str, Any] = {}
        self._priors: dict[str, Any] = {}

    def of(self, cell: Cell, spec: TrialSpec, executor: Executor) -> SharedInput:
        """The input of a trial of the cell; makes the capture where there is none."""
        key = (spec.capture, spec.victim)
        if key not in self._shared:
            victim = cell.victims[spec.victim]
            with self._stop.window():
                capture = cell.source.get(victim)
            weights = cell.source.weights
            # The same numbers may be trained in one cell and frozen in another.
            same = weights.hash, frozenset(weights.state.parameters)
            if same not in self._states:
                self._states[same] = executor.share(weights.state), executor.share(weights.later)
            if cell.config.name not in self._means:
                self._means[cell.config.name] = executor.share(cell.public_mean)
            state, later = self._states[same]
            self._shared[key] = SharedInput(
                state=state,
                record=executor.share(_light(capture.record)),
                truth=executor.share(capture.truth),
                mean_image=self._means[cell.config.name],
                public=executor.share(cell.public_answers(spec.victim, len(capture.truth.ids))),
                later=later,
                prior=None,
                released=Released.of(capture, victim),
            )
        shared, learned = self._shared[key], cell.priors.get(spec.attacker)
        if learned is None:
            return shared
        if learned.column not in self._priors:
            self._priors[learned.column] = executor.share(learned.prior)
        return dataclasses.replace(shared, prior=self._priors[learned.column])

    def tested(self, cell: Cell, spec: TrialSpec) -> None:
        """Let go of the capture of a test trial that has its rows; another may still run on it, or share it anew."""
        self._shared.pop((spec.capture, spec.victim), None)
        self._left[spec.capture] -= 1
        if not self._keep and self._left[spec.capture] == 0:
            cell.source.discard(spec.capture)


def _light(record: RoundRecord) -> RoundRecord:
    """The record without weights, which many captures share."""
    nothing = ModelState(parameters={})
    return dataclasses.replace(record, state=nothing, later=tuple(_light(each) for each in record.later))
