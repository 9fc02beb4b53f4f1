"""Search spaces: typed ranges that Optuna draws from, addressed by dotted paths into an attack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import optuna

from fl_core.types import Config, require

Scalar = float | int | str | bool | None
Params = dict[str, Scalar]


@dataclass(frozen=True, kw_only=True)
class FloatRange(Config):
    """A real number from `low` to `high`, on a logarithmic scale if `log`."""

    kind: Literal["float"]
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        require(self.low <= self.high, self, "low", f"at most high = {self.high}")
        require(not self.log or self.low > 0, self, "low", "more than 0 on a logarithmic scale")

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` lies in the range."""
        return isinstance(value, float | int) and self.low <= value <= self.high

    def examples(self) -> list[Scalar]:
        """Values that the attack must accept for the space to be valid."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class IntRange(Config):
    """A whole number from `low` to `high`, both included."""

    kind: Literal["int"]
    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        require(self.low <= self.high, self, "low", f"at most high = {self.high}")
        require(not self.log or self.low > 0, self, "low", "more than 0 on a logarithmic scale")

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` is a whole number in the range."""
        return isinstance(value, int) and self.low <= value <= self.high

    def examples(self) -> list[Scalar]:
        """See `FloatRange.examples`."""
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Choice(Config):
    """One of several values."""

    kind: Literal["choice"]
    choices: tuple[bool | int | float | str | None, ...]

    def __post_init__(self) -> None:
        require(len(self.choices) >= 1, self, "choices", "at least one value")
        require(
            len(set(map(repr, self.choices))) == len(self.choices), self, "choices", "values without repeats"
        )

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draw a value."""
        return trial.suggest_categorical(name, self.choices)

    def allows(self, value: Scalar) -> bool:
        """Whether `value` is one of the choices."""
        return value in self.choices

    def examples(self) -> list[Scalar]:
        """See `FloatRange.examples`."""
        return list(self.choices)


Parameter = FloatRange | IntRange | Choice


def suggest(trial: optuna.Trial, space: Mapping[str, Parameter]) -> Params:
    """One value for each parameter, drawn in the order of names, so that a file's order of keys changes nothing."""
    return {name: parameter.suggest(trial, name) for name, parameter in sorted(space.items())}
