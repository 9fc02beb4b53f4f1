"""One Optuna study, asked and told in a fixed order so that the number of workers changes nothing.

Suggestion n comes from a sampler seeded by the sweep's seed and n, and is asked when exactly the results up to n - lag
have been told, in order. Results that come back early wait. Studies of the same space so begin with the same
suggestions and differ by what they are told, not by luck: cells and attackers are compared with a handful of them.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed
from orchestrator.config.space import Params, Space
from orchestrator.config.sweep import StudyConfig
from orchestrator.results.winner import Measured, choose
from orchestrator.study.suggestion_run import Outcome

_FAILURE_SHARE = 0.01
"""Of a budget of time: what a failed suggestion costs at least, or a study in which all fail at once never ends."""


@dataclass(frozen=True)
class Suggestion:
    """One set of attacker hyperparameters and its number in the study.

    `reference` holds the values by victim of the best suggestion that was told when this one was asked: what
    pruning compares it with, whoever finishes when. None where none was.
    """

    number: int
    params: Params
    reference: tuple[float, ...] | None = None


class _TPE(optuna.samplers.TPESampler):
    """TPE that knows the parameters which every suggestion has, where it is given them.

    Optuna's own goes through all earlier suggestions at every ask to find out: a third of the time an ask takes.
    """

    def __init__(self, same: dict[str, BaseDistribution] | None, *, seed: int, startup: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup)
        self._same = same

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `optuna.samplers.BaseSampler`."""
        if self._same is None:
            return super().infer_relative_search_space(study, trial)
        return {name: kind for name, kind in sorted(self._same.items()) if not kind.single()}


class Study:
    """A study of one cell and attacker."""

    def __init__(
        self,
        name: str,
        space: Space,
        config: StudyConfig,
        *,
        seed: int,
        recorded: Mapping[int, Params] | None = None,
        start: Sequence[Params] = (),
    ) -> None:
        """`recorded` suggestions, from an earlier run of the same study, are asked again as they were.

        The first suggestions are those of `start`, where it has any.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name = name
        self._space, self._config, self._seed = space, config, seed
        self._study = optuna.create_study(study_name=name, directions=directions(config))
        first = space.grid() if config.sampler == "grid" else start
        # One that starts from another sweep's best draws other suggestions than that sweep did.
        self._kind = "warm study" if start else "study"
        self._limit = len(first) if config.sampler == "grid" else config.suggestions
        self._fixed = dict(enumerate(first)) | dict(recorded or {})
        self._asked: list[optuna.Trial] = []
        self._params: list[Params] = []
        # In a space of families only what they all have is known beforehand, and Optuna finds that out itself.
        self._same = None if space.families else space.distributions({})
        self._outcomes: dict[int, Outcome] = {}
        self._best: tuple[int, float, tuple[float, ...]] | None = None
        self._measured: list[Measured] = []
        self._told = 0
        self._spent = 0.0

    @property
    def told(self) -> int:
        """How many suggestions have been told: those from 0 to `told` - 1."""
        return self._told

    @property
    def expected(self) -> int:
        """How many suggestions the study makes in all; under a budget of time an estimate that gets better."""
        if self._config.time is None:
            return self._limit
        if self.done or not self._spent:
            return len(self._asked)
        left = max(0.0, self._config.time - self._spent) / self._spent * self._told
        return max(len(self._asked), self._told + round(left))

    @property
    def done(self) -> bool:
        """Whether every suggestion has been told."""
        return self._told == len(self._asked) and not self._affordable

    def next(self) -> Suggestion | None:
        """The next suggestion, or None while the lag forbids it or the budget is spent."""
        if not self._may_ask():
            return None
        number = len(self._asked)
        fixed = self._fixed.get(number)
        self._study.sampler = self._sampler(number, fixed)
        if fixed is not None:
            self._check(number, fixed)
            self._study.enqueue_trial(dict(fixed))
        reference = self._best[2] if self._best else None
        trial = self._study.ask()
        if fixed is not None and self._config.sampler == "cmaes":
            # Optuna samples at the first parameter that is not given: here there may be none, and a generation would be
            # missing from what the next one follows from.
            _ = trial.relative_params
        params = self._space.suggest(trial)
        self._asked.append(trial)
        self._params.append(params)
        self._tell_in_order()
        return Suggestion(number, params, reference)

    def record(self, number: int, outcome: Outcome) -> None:
        """Take how a suggestion ended; tell Optuna whatever is now in order."""
        if number in self._outcomes or not 0 <= number < len(self._asked):
            raise ValueError(f"Study {self.name} has no open suggestion {number}.")
        self._outcomes[number] = outcome
        self._tell_in_order()

    def params(self, number: int) -> Params:
        """The parameters of a suggestion that has been asked."""
        return self._params[number]

    def distributions(self, number: int) -> dict[str, BaseDistribution]:
        """What Optuna drew these parameters from."""
        return self._space.distributions(self._params[number])

    def outcome(self, number: int) -> Outcome:
        """How a suggestion ended that has been told."""
        return self._outcomes[number]

    def values(self, number: int) -> list[float] | None:
        """The values of the objectives of a suggestion that has been told, in their order; None where it has none."""
        outcome = self._outcomes[number]
        if outcome.value is None:
            return None
        return [outcome.value, self._work(outcome)] if self._config.weighs_work else [outcome.value]

    def best(self) -> tuple[int, float] | None:
        """The number and value of the suggestion that has won so far: see `orchestrator.results.winner`."""
        found = choose(self._measured, within=self._config.within or 0.0)
        return (found.suggestion, found.psnr) if found else None

    @property
    def _affordable(self) -> bool:
        if self._config.time is not None:
            return self._spent < self._config.time
        return len(self._asked) < self._limit

    def _may_ask(self) -> bool:
        return self._affordable and len(self._asked) < self._told + self._config.lag

    def _check(self, number: int, fixed: Params) -> None:
        if not self._space.allows(fixed):
            raise InputError(
                f"Study {self.name}: suggestion {number} is recorded as {fixed}, outside the search space now; "
                "use another --out folder."
            )

    def _tell_in_order(self) -> None:
        # Ask everything that the lag allows before one more result becomes known.
        while self._told in self._outcomes and not self._may_ask():
            outcome, trial = self._outcomes[self._told], self._asked[self._told]
            value = outcome.value
            if value is not None:
                measured = Measured(self._told, value, self._work(outcome))
                self._measured.append(measured)
                self._study.tell(trial, self._values(measured))
                if self._best is None or value > self._best[1]:
                    self._best = (self._told, value, outcome.found)
            else:
                # TPE forgets trials that are told as failed and keeps coming back to where they were; a pruned
                # one without values ranks below every other.
                if outcome.state == "pruned":
                    trial.report(statistics.fmean(outcome.found), step=len(outcome.values))
                self._study.tell(trial, state=TrialState.PRUNED)
            self._spent += self._cost(outcome)
            self._told += 1

    def _work(self, outcome: Outcome) -> float:
        """The second objective; 0 where it is none."""
        if not self._config.weighs_work:
            return 0.0
        if outcome.work is None:
            raise ValueError(f"Study {self.name}: a finished suggestion has no work.")
        return outcome.work

    def _values(self, measured: Measured) -> list[float]:
        """What Optuna is told. Work by its logarithm: a tenth less counts the same for cheap and dear attacks."""
        return [measured.psnr, math.log1p(measured.work)] if self._config.weighs_work else [measured.psnr]

    def _cost(self, outcome: Outcome) -> float:
        least = _FAILURE_SHARE * self._config.time if self._config.time and outcome.state == "failed" else 0.0
        return max(outcome.cost, least)

    def _sampler(self, number: int, fixed: Params | None) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self._kind, self._seed, number) % 2**32
        startup = self._config.startup
        match self._config.sampler:
            case "tpe" if fixed is None:
                # Before the first suggestion there is nothing that they all have.
                return _TPE(self._same if self._asked else None, seed=seed, startup=startup)
            case "gp" if fixed is None:
                return _quietly(optuna.samplers.GPSampler, seed=seed, n_startup_trials=startup)
            case "cmaes":
                # Recorded suggestions too: each generation is sampled from what the ones before it left.
                return _quietly(
                    optuna.samplers.CmaEsSampler,
                    seed=seed,
                    n_startup_trials=startup,
                    independent_sampler=optuna.samplers.RandomSampler(seed=seed),
                    warn_independent_sampling=False,
                )
        return optuna.samplers.RandomSampler(seed=seed)


def directions(config: StudyConfig) -> list[StudyDirection]:
    """Which way each objective is better, in their order."""
    return [
        StudyDirection.MINIMIZE if objective == "work" else StudyDirection.MAXIMIZE
        for objective in config.objectives
    ]


def check_sampler(config: StudyConfig) -> None:
    """Raise `InputError` where the library of the sampler is not installed."""
    if config.sampler == "cmaes" and find_spec("cmaes") is None:
        raise InputError("study.sampler = 'cmaes' needs the library cmaes: pip install \"gradsweep[sweep]\".")


def _quietly(
    kind: Callable[..., optuna.samplers.BaseSampler], **settings: Any
) -> optuna.samplers.BaseSampler:
    """A sampler that Optuna calls experimental: its suggestions are pinned with Optuna's version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(**settings)
