"""How long the work of a sweep takes on this machine, measured on one victim of each kind of cell."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Self

import torch

from attack_core.attacks.loading import load
from defenses.chain import Chain
from fl_core.base.device import cpu_threads
from fl_core.base.errors import InputError, NotSummable
from fl_core.base.own_code import OwnCodeFailed
from fl_core.data.dataset import ImageDataset
from orchestrator.capture.datasets import planned_data
from orchestrator.capture.priors import Priors
from orchestrator.capture.store import CaptureStore
from orchestrator.config.sweep import AttackerConfig, SweepConfig
from orchestrator.io.identity import content_hash
from orchestrator.trial.cell import Cell
from orchestrator.trial.run import run_trial
from orchestrator.trial.spec import TrialInput, TrialSpec
from orchestrator.trial.utility import UtilitySpec, run_utility, utility_specs

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How much of an attack is run to learn how long all of it takes."""

    first: float = 1 / 64
    """The share of its iterations that is run first: 31 of the original's 2,000."""
    growth: float = 4.0
    """How much larger each further share is; two shares tell the cost of an iteration from the cost of a start."""
    seconds: float = 3.0
    """A further share is run where it is expected to take no longer than this."""
    longest: float = 30.0
    """A first share that took longer is not run again to be without its imports: they are little beside it."""


DEFAULT = Calibration()


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What a kind of cell costs on one worker: seconds, and bytes on disk.

    `weights` is the training before the captured round, `capture` one victim's signal, `capture_bytes` its size,
    `trials` one attack on it with its scores, by attacker. Where an attack cannot be run on such a signal, that is what
    its refusal takes.
    """

    weights: float
    capture: float
    capture_bytes: int
    trials: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Paces:
    """The pace of each cell, by its name, and the seconds of each accuracy run, by the hash of its spec."""

    cells: Mapping[str, Pace]
    utility: Mapping[str, float]


def measure(
    attackers: Sequence[AttackerConfig], cells: Sequence[SweepConfig], say: Say, *, how: Calibration = DEFAULT
) -> Paces:
    """Capture and attack one victim of each kind of cell, in a folder that is removed afterwards.

    `cells` are the settings of each cell, definite for this machine. Cells are of one kind where they differ in nothing
    but the numbers of their defenses and attackers' luck. `say` is told what is being measured. Raises `InputError` for
    what the sweep itself would be refused for.
    """
    paces: dict[str, Pace] = {}
    utility: dict[str, float] = {}
    trainings: dict[str, float] = {}
    datasets: dict[str, ImageDataset] = {}
    for settings in cells:
        key = content_hash({"data": settings.data, "shape": settings.model.shape})
        if key not in datasets:
            datasets[key] = planned_data(settings.data, settings.model.shape)
        kind = _kind(settings)
        if kind not in paces:
            say(f"measuring {settings.cell.name}")
            paces[kind] = _pace(attackers, settings, datasets[key], how)
        if settings.utility is not None and kind not in trainings:
            say(f"measuring the training of {settings.cell.name}")
            trainings[kind] = _round_seconds(settings, datasets[key], how)
        for spec in accuracy_runs(settings, datasets[key]):
            utility[content_hash(spec)] = trainings[kind] * spec.federation.rounds
    return Paces(cells={each.cell.name: paces[_kind(each)] for each in cells}, utility=utility)


def accuracy_runs(settings: SweepConfig, dataset: ImageDataset) -> list[UtilitySpec]:
    """The accuracy runs of a cell at all of its seeds; cells share those that are equal."""
    if settings.utility is None:
        return []
    chain = Chain(defenses=settings.cell.defense)
    return [
        spec
        for seed in settings.replicates
        for spec in utility_specs(
            fingerprint=dataset.fingerprint,
            settings=replace(settings, seed=seed),
            wanted=settings.utility,
            defense=chain,
        )
    ]


def _kind(settings: SweepConfig) -> str:
    """The same for cells of one kind."""
    return content_hash(
        {
            "defense": [defense.label for defense in settings.cell.defense],
            **{
                name: getattr(settings, name)
                for name in ("data", "model", "federation", "capture", "threat", "utility", "execution")
            },
        }
    )


def _pace(
    attackers: Sequence[AttackerConfig], settings: SweepConfig, dataset: ImageDataset, how: Calibration
) -> Pace:
    """Time the weights, one capture and the attacks of one cell."""
    load()
    # One round of training stands for all of them: an attack on later weights takes as long.
    asked = settings.capture
    timed = replace(asked, round=min(asked.round, 1))
    rounds = (asked.rounds.stop - 1) / max(timed.rounds.stop - 1, 1)
    settings = replace(settings, capture=timed)
    with tempfile.TemporaryDirectory(prefix="gradsweep-") as name, cpu_threads(settings.execution.threads):
        folder = Path(name)
        device = torch.device(settings.execution.device)
        store = CaptureStore(folder, device=device, progress=lambda _: None)
        with _Timer(settings) as learned:
            found = Priors(folder, opened=planned_data, progress=lambda _: None)
            priors = found.by_attacker(settings, dataset, settings.attackers)
        with _Timer(settings) as weights:
            cell = Cell.prepare(settings, dataset, store, priors=priors)
        before = learned.seconds + weights.seconds * rounds
        victim = len(cell.victims) - 1
        trials = dict.fromkeys((attacker.name for attacker in attackers), 0.0)
        try:
            with _Timer(settings) as captured:
                capture = cell.source.get(cell.victims[victim])
        except (NotSummable, OwnCodeFailed):
            # Its trials end with a line of their own, as soon as they begin.
            return Pace(weights=before, capture=captured.seconds, capture_bytes=0, trials=trials)
        size = sum(file.stat().st_size for file in (folder / capture.key).iterdir())
        data = TrialInput(
            state=cell.source.weights.state,
            record=capture.record,
            truth=capture.truth,
            mean_image=cell.public_mean,
            public=cell.public_answers(victim, len(capture.truth.ids)),
            later=cell.source.weights.later,
        )
        for attacker in attackers:
            own = cell.priors.get(attacker.name)
            data = replace(data, prior=None if own is None else own.prior)
            specs = [
                cell.trial(attacker, phase="tune", suggestion=None, params=params, victim=victim)
                for params in attacker.space.middles()
            ]
            trials[attacker.name] = fmean(_trial_seconds(spec, data, how, _Timer(settings)) for spec in specs)
    return Pace(weights=before, capture=captured.seconds, capture_bytes=size, trials=trials)


def _trial_seconds(spec: TrialSpec, data: TrialInput, how: Calibration, timer: _Timer) -> float:
    """The seconds of a whole trial."""

    def run(share: float) -> bool:
        try:
            attack, whole = spec.attack.shortened(share), share == 1.0
        except InputError:
            attack, whole = spec.attack, True
        run_trial(replace(spec, attack=attack), data)
        return whole

    return _of_the_whole(run, how, timer)


def _round_seconds(settings: SweepConfig, dataset: ImageDataset, how: Calibration) -> float:
    """The seconds of one round of an accuracy run, with its evaluation."""
    spec = accuracy_runs(settings, dataset)[0]
    least = spec.federation.clients / spec.train
    held_out = spec.valid or len(dataset.split("valid"))

    def run(share: float) -> bool:
        share = max(share, min(1.0, least))
        part = replace(
            spec,
            federation=replace(spec.federation, rounds=1),
            train=math.ceil(spec.train * share),
            valid=math.ceil(held_out * share),
        )
        with suppress(OwnCodeFailed):
            run_utility(part, dataset)
        return share == 1.0

    return _of_the_whole(run, how, _Timer(settings))


def _of_the_whole(run: Callable[[float], bool], how: Calibration, timer: _Timer) -> float:
    """The seconds of a job of which `run` does a share, and says whether that was all of it.

    A job that is short is run as it is; else the line through two shares goes on to the whole. The first share is run
    twice, since a first run also imports and decodes, unless that took long.
    """
    share, spent = how.first, [(0.0, 0.0)]
    with timer:
        run(share)
    if timer.seconds > how.longest:
        spent.append((share, timer.seconds))
        share *= how.growth
    while len(spent) < _TWO_SHARES or spent[-1][1] * how.growth <= how.seconds:
        with timer:
            whole = run(share)
        if whole:
            return timer.seconds
        spent.append((share, timer.seconds))
        share = min(1.0, share * how.growth)
    (lower, before), (upper, seconds) = spent[-2:]
    return seconds + max(0.0, (seconds - before) / (upper - lower)) * (1.0 - upper)


_TWO_SHARES = 3
"""Points of a line through two shares: the origin is the first."""


class _Timer:
    """The seconds between its entry and its exit: of CPU, a thread, on the CPU; of the clock on another device.

    So what else a machine is busy with counts for nothing.
    """

    def __init__(self, settings: SweepConfig) -> None:
        on_cpu = settings.execution.device == "cpu"
        self._clock = time.process_time if on_cpu else time.perf_counter
        self._threads = settings.execution.threads if on_cpu else 1
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._begin = self._clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = (self._clock() - self._begin) / self._threads
