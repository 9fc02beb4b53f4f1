"""Search spaces: typed ranges that Optuna draws from, addressed by dotted paths into an attack."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from fl_core.base.errors import InputError
from fl_core.base.types import Config, require

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

Scalar = float | int | str | bool | None
Params = dict[str, Scalar]

_WHOLE = range(-(2**63), 2**63)
"""Whole numbers that a column of the results can hold."""


@dataclass(frozen=True, kw_only=True)
class FloatRange(Config):
    """A real number from `low` to `high`, on a logarithmic scale if `log`."""

    kind: Literal["float"]
    """A real number."""
    low: float
    """The least value."""
    high: float
    """The greatest value."""
    log: bool = False
    """Whether it is drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        require(self.low <= self.high, self, "low", f"at most high = {self.high}")
        require(not self.log or self.low > 0, self, "low", "more than 0 on a logarithmic scale")

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def distribution(self) -> BaseDistribution:
        """What `suggest` draws from, in Optuna's words."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` lies in the range."""
        return isinstance(value, float | int) and self.low <= value <= self.high

    def examples(self) -> list[Scalar]:
        """Values that the attack must accept for the space to be valid."""
        return [self.low, self.high]

    def middle(self) -> Scalar:
        """The value that half of a random search stays below."""
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2


@dataclass(frozen=True, kw_only=True)
class IntRange(Config):
    """A whole number from `low` to `high`, both included."""

    kind: Literal["int"]
    """A whole number."""
    low: int
    """The least value."""
    high: int
    """The greatest value, included."""
    log: bool = False
    """Whether it is drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            require(getattr(self, name) in _WHOLE, self, name, "a whole number of at most 64 bits")
        require(self.low <= self.high, self, "low", f"at most high = {self.high}")
        require(not self.log or self.low > 0, self, "low", "more than 0 on a logarithmic scale")

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def distribution(self) -> BaseDistribution:
        """See `FloatRange.distribution`."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` is a whole number in the range."""
        return isinstance(value, int) and self.low <= value <= self.high

    def examples(self) -> list[Scalar]:
        """See `FloatRange.examples`."""
        return [self.low, self.high]

    def middle(self) -> Scalar:
        """See `FloatRange.middle`; rounded down."""
        return math.isqrt(self.low * self.high) if self.log else (self.low + self.high) // 2


@dataclass(frozen=True, kw_only=True)
class Choice(Config):
    """One of several values."""

    kind: Literal["choice"]
    """One of several values."""
    choices: tuple[bool | int | float | str | None, ...]
    """The values."""

    def __post_init__(self) -> None:
        require(len(self.choices) >= 1, self, "choices", "at least one value")
        # By value, as Optuna tells choices apart: 1, 1.0 and true are one.
        require(len(set(self.choices)) == len(self.choices), self, "choices", "values without repeats")
        whole = [value for value in self.choices if isinstance(value, int)]
        require(all(value in _WHOLE for value in whole), self, "choices", "numbers of at most 64 bits")

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_categorical(name, self.choices)

    def distribution(self) -> BaseDistribution:
        """See `FloatRange.distribution`."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` is one of the choices."""
        return value in self.choices

    def examples(self) -> list[Scalar]:
        """See `FloatRange.examples`."""
        return list(self.choices)

    def middle(self) -> Scalar:
        """The choice in the middle of those that are listed."""
        return self.choices[len(self.choices) // 2]


Parameter = FloatRange | IntRange | Choice


FAMILY = "family"
"""The name under which a search over families asks for one of them."""


@dataclass(frozen=True)
class Space:
    """What a study searches: `parameters` by name, or first one of `families` and then its own alone.

    In a suggestion the parameter at path `lr` of the family `dlg` has the name `dlg.lr`.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    families: Mapping[str, Mapping[str, Parameter]] = field(default_factory=dict)

    def every(self) -> dict[str, Parameter]:
        """All parameters by the name that suggestions give them, whichever family they belong to."""
        found = self._first()
        for family in self.families:
            found |= self._of(family)
        return found

    def suggest(self, trial: optuna.Trial) -> Params:
        """Draw one value for each parameter, in the order of names: a file's order of keys changes nothing."""
        params = {name: parameter.suggest(trial, name) for name, parameter in sorted(self._first().items())}
        own = self._of(params.get(FAMILY))
        return params | {name: parameter.suggest(trial, name) for name, parameter in sorted(own.items())}

    def distributions(self, params: Params) -> dict[str, BaseDistribution]:
        """What each value of a suggestion was drawn from."""
        return {name: parameter.distribution() for name, parameter in self._drawn(params).items()}

    def allows(self, params: Params) -> bool:
        """Whether a suggestion may be this one: the right names, every value in its range."""
        drawn = self._drawn(params)
        return params.keys() == drawn.keys() and all(
            parameter.allows(params[name]) for name, parameter in drawn.items()
        )

    def grid(self) -> list[Params]:
        """Every combination of choices, family after family; raises `InputError` where a parameter is a range."""
        if not self.families:
            return _combinations(self.parameters)
        return [
            {FAMILY: family, **combination}
            for family in self.families
            for combination in _combinations(self._of(family))
        ]

    def middles(self) -> list[Params]:
        """A suggestion in the middle of all ranges, one for each family."""
        if not self.families:
            return [_middle(self.parameters)]
        return [_middle(self._of(family)) | {FAMILY: family} for family in self.families]

    def _drawn(self, params: Params) -> dict[str, Parameter]:
        """The parameters that a suggestion of this family has."""
        return self._first() | self._of(params.get(FAMILY))

    def _first(self) -> dict[str, Parameter]:
        """What is drawn whatever else is drawn."""
        if not self.families:
            return dict(self.parameters)
        return {FAMILY: Choice(kind="choice", choices=tuple(sorted(self.families)))}

    def _of(self, family: Scalar) -> dict[str, Parameter]:
        """The parameters of one family, by their names in a suggestion; none without families."""
        own = self.families.get(str(family), {})
        return {f"{family}.{path}": parameter for path, parameter in own.items()}


def _middle(parameters: Mapping[str, Parameter]) -> Params:
    return {name: parameter.middle() for name, parameter in parameters.items()}


def of_family(params: Params) -> Params:
    """The chosen family's own parameters in a suggestion, by their paths into its attack."""
    prefix = f"{params[FAMILY]}."
    return {name.removeprefix(prefix): value for name, value in params.items() if name != FAMILY}


def _combinations(space: Mapping[str, Parameter]) -> list[Params]:
    for name, parameter in space.items():
        if not isinstance(parameter, Choice):
            raise InputError(f"A grid study needs choices, but {name!r} is a range.")
    options = [parameter.examples() for parameter in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*options)]
