"""One Optuna study, asked and told in a fixed order so that the number of workers changes nothing.

Suggestion n comes from a sampler seeded by (study, n) and is asked when exactly the results up to n - lag have
been told, in order. Results that come back early wait.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from fl_core.errors import InputError
from fl_core.rng import derive_seed
from orchestrator.config import StudyConfig
from orchestrator.space import Params, Space


@dataclass(frozen=True)
class Suggestion:
    """One set of attacker hyperparameters and its number in the study."""

    number: int
    params: Params


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
    ) -> None:
        """`recorded` suggestions, from an earlier run of the same study, are asked again as they were."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name = name
        self._space, self._config, self._seed = space, config, seed
        self._study = optuna.create_study(study_name=name, direction="maximize")
        self._grid = space.grid() if config.sampler == "grid" else None
        self._recorded = dict(recorded or {})
        self._asked: list[optuna.Trial] = []
        self._params: list[Params] = []
        self._results: dict[int, float | None] = {}
        self._told = 0

    @property
    def budget(self) -> int:
        """How many suggestions the study makes in all."""
        return len(self._grid) if self._grid is not None else self._config.suggestions

    @property
    def done(self) -> bool:
        """Whether every suggestion has been told."""
        return self._told == self.budget

    def next(self) -> Suggestion | None:
        """The next suggestion, or None while the lag forbids it or the budget is spent."""
        number = len(self._asked)
        if number >= self.budget or self._told < number - self._config.lag + 1:
            return None
        self._study.sampler = self._sampler(number)
        fixed = self._grid[number] if self._grid is not None else self._recorded.get(number)
        if fixed is not None:
            self._check(number, fixed)
            self._study.enqueue_trial(dict(fixed))
        trial = self._study.ask()
        params = self._space.suggest(trial)
        self._asked.append(trial)
        self._params.append(params)
        self._tell_in_order()
        return Suggestion(number, params)

    def record(self, number: int, value: float | None) -> None:
        """Take a result (mean PSNR in dB; None for a failure); tell Optuna whatever is now in order."""
        if number in self._results or not 0 <= number < len(self._asked):
            raise ValueError(f"Study {self.name} has no open suggestion {number}.")
        self._results[number] = value if value is not None and math.isfinite(value) else None
        self._tell_in_order()

    def params(self, number: int) -> Params:
        """The parameters of a suggestion that has been asked."""
        return self._params[number]

    def best(self) -> tuple[int, float] | None:
        """The number and value of the best suggestion told so far; the earlier of equals."""
        told = [(n, value) for n, value in self._results.items() if value is not None]
        return max(told, key=lambda pair: (pair[1], -pair[0]), default=None)

    def _check(self, number: int, fixed: Params) -> None:
        if not self._space.allows(fixed):
            raise InputError(
                f"Study {self.name}: suggestion {number} is recorded as {fixed}, outside the search space now; "
                "use another --out folder."
            )

    def _tell_in_order(self) -> None:
        while self._told in self._results:
            # Ask everything that the lag allows before one more result becomes known.
            if len(self._asked) < min(self.budget, self._told + self._config.lag):
                return
            value = self._results[self._told]
            if value is None:
                # TPE forgets trials that are told as failed and keeps coming back to where they were; a pruned
                # one without values ranks below every finished one.
                self._study.tell(self._asked[self._told], state=TrialState.PRUNED)
            else:
                self._study.tell(self._asked[self._told], value)
            self._told += 1

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed("study", self.name, self._seed, number) % 2**32
        if self._config.sampler == "tpe":
            same = None if self._space.families or not self._asked else self._asked[0].distributions
            return _TPE(same, seed=seed, startup=self._config.startup)
        return optuna.samplers.RandomSampler(seed=seed)
