"""A defense of the user's own: a class in a file that the sweep names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from defenses.mechanism.base import Mechanism, Privacy, Stage, Unit
from fl_core.base.own_code import in_a_file
from fl_core.base.own_object import OwnObject
from fl_core.base.types import ClientUpdate, ModelState
from fl_core.federation.aggregation import Reduction
from fl_core.federation.client import Batch, GradientRule, Recording
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Fact

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl_core.base.rng import Random


@dataclass(frozen=True, kw_only=True)
class OwnDefense(OwnObject, Mechanism):
    """Every hook is that of the user's class, and what it returns is checked.

    Raises `OwnCodeFailed`, with the place in the file, where a hook raises something or returns what does not fit.
    """

    kind: Literal["own"] = "own"

    @property
    def label(self) -> str:
        """See `Mechanism.label`."""
        return self.code.place

    @property
    def stage(self) -> Stage:  # type: ignore[override]  # the class's own, where others are known by theirs
        """See `Mechanism.stage`."""
        found: Stage = self.get("stage")
        return found

    @property
    def protects(self) -> Unit | None:  # type: ignore[override]  # see `stage`
        """See `Mechanism.protects`."""
        found: Unit | None = self.get("protects")
        return found

    @property
    def is_per_example(self) -> bool:  # type: ignore[override]  # see `stage`
        """See `Mechanism.is_per_example`."""
        return bool(self.get("is_per_example"))

    @property
    def has_error_feedback(self) -> bool:
        """See `Mechanism.has_error_feedback`."""
        return bool(self.get("has_error_feedback"))

    def check_library(self) -> None:
        """See `Mechanism.check_library`."""
        self.ask("check_library")

    def incompatibility(self, chain: tuple[Mechanism, ...]) -> str | None:
        """See `Mechanism.incompatibility`."""
        found = self.ask("incompatibility", chain)
        return None if found is None else str(found)

    def on_model(self, model: ModelConfig) -> ModelConfig:
        """See `Mechanism.on_model`."""
        found = self.ask("on_model", model)
        self._require(found, ModelConfig, "on_model")
        return found  # type: ignore[no-any-return]  # checked

    def on_batch(self, batch: Batch, random: Random, plan: FederationConfig, classes: int) -> Batch:
        """See `Mechanism.on_batch`."""
        import torch

        found = self.ask("on_batch", batch, random, plan, classes)
        pair = (
            isinstance(found, tuple)
            and len(found) == 2
            and all(isinstance(part, torch.Tensor) for part in found)
        )
        self.require(pair, "must return a pair of tensors from on_batch, images and labels")
        images, labels = found
        fits = images.shape[1:] == batch[0].shape[1:] and images.dtype == batch[0].dtype and len(images) > 0
        self.require(
            fits,
            f"returned images of shape {tuple(images.shape)} and {images.dtype} from on_batch: must be like "
            f"{tuple(batch[0].shape)} and {batch[0].dtype} but for their number",
        )
        ends = [(len(images),)] if labels.dtype == torch.int64 else [(len(images), classes)]
        self.require(
            tuple(labels.shape) in ends,
            f"returned labels of shape {tuple(labels.shape)} and {labels.dtype} from on_batch: must be {len(images)} "
            f"whole numbers, or as many rows of {classes} probabilities",
        )
        return images, labels

    def on_gradient(self, rule: GradientRule, random: Random, plan: FederationConfig) -> GradientRule:
        """See `Mechanism.on_gradient`."""
        found = self.ask("on_gradient", rule, random, plan)
        plain = found is rule
        if plain:  # Other defenses look whether it is the plain one.
            return rule
        self.require(
            callable(found), "must return a function from on_gradient, which takes a batch's gradient"
        )
        own: GradientRule = (
            _RecordingRule(self, found) if isinstance(found, Recording) else _Rule(self, found)
        )
        return own

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """See `Mechanism.on_update`."""
        before = {name: value._version for name, value in update.tensors.items()}
        found = self.ask("on_update", update, random, plan)
        for name, version in before.items():
            # Others read the same tensors.
            self.require(
                update.tensors[name]._version == version,
                f"changed {name} in place in on_update: must make new tensors, such as `tensor + noise`",
            )
        self._require(found, ClientUpdate, "on_update")
        self.check_tensors(found.tensors, update.tensors, "on_update")
        return found  # type: ignore[no-any-return]  # checked

    def on_sum(self, reduction: Reduction[Any], *, seed: int, plan: FederationConfig) -> Reduction[Any]:
        """See `Mechanism.on_sum`."""
        found: Reduction[Any] = self.ask("on_sum", reduction, seed=seed, plan=plan)
        return found

    def check_shares(self, *, absent: int, colluders: int, opens_single: bool) -> None:
        """See `Mechanism.check_shares`."""
        self.ask("check_shares", absent=absent, colluders=colluders, opens_single=opens_single)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        found = self.ask("facts", plan)
        self._require(found, tuple, "facts")
        for fact in found:
            self._require(fact, Fact, "facts")
            # Facts travel with what clients release, to workers that have no such class.
            self.require(
                not in_a_file(type(fact)),
                f"states a {type(fact).__name__}, a fact of its own: must be made of those of fl_core.threat.facts",
            )
        return found  # type: ignore[no-any-return]  # checked

    def privacy(self, plan: FederationConfig) -> Privacy | None:
        """See `Mechanism.privacy`."""
        found = self.ask("privacy", plan)
        self.require(
            found is None or isinstance(found, Privacy), "must return a Privacy or None from privacy"
        )
        return found  # type: ignore[no-any-return]  # checked

    def check_tensors(self, found: Any, like: Any, hook: str) -> None:
        """Raise `OwnCodeFailed` unless the tensors `found` have names, shapes, types and devices of those of `like`."""
        import torch

        self.require(
            isinstance(found, Mapping),
            f"returned {type(found).__name__} from {hook}: must be tensors by name",
        )
        self.require(
            found.keys() == like.keys(),
            f"returned other tensors from {hook} than it was given: must be {', '.join(like)}",
        )
        for name, value in like.items():
            new = found[name]
            kept = isinstance(new, torch.Tensor) and (new.shape, new.dtype, new.device) == (
                value.shape,
                value.dtype,
                value.device,
            )
            is_now = (
                f"{tuple(new.shape)} in {new.dtype}" if isinstance(new, torch.Tensor) else type(new).__name__
            )
            self.require(
                kept,
                f"made {name} {is_now} in {hook}: must stay {tuple(value.shape)} in {value.dtype} on {value.device}",
            )

    def _require(self, found: object, kind: type, hook: str) -> None:
        self.require(
            isinstance(found, kind),
            f"returned {type(found).__name__} from {hook}: must be {kind.__name__}",
        )


@dataclass(frozen=True)
class _Rule:
    """A user's own rule for the gradient of a batch; a `GradientRule`."""

    defense: OwnDefense
    rule: GradientRule

    def __call__(self, model: nn.Module, state: ModelState, batch: Batch) -> dict[str, Tensor]:
        """What the rule says, checked."""
        with self.defense.code.blamed("in the rule of on_gradient"):
            found = self.rule(model, state, batch)
        self.defense.check_tensors(found, state.parameters, "on_gradient")
        return found


class _RecordingRule(_Rule):
    """A user's own rule that notes what it does; a `Recording`."""

    def noted(self, update: ClientUpdate, *, unit: float) -> ClientUpdate:
        """See `Recording.noted`."""
        with self.defense.code.blamed("in noted"):
            found: ClientUpdate = self.rule.noted(update, unit=unit)  # type: ignore[union-attr]  # a `Recording`
        return found
