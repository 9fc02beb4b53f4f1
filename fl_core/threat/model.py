"""The threat model: which view of a signal an honest-but-curious party has, and what else it knows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from fl_core.base.errors import InputError
from fl_core.base.types import LATER, Config, InUnits, Protection, Signal, require
from fl_core.models.config import ModelConfig
from fl_core.models.forward import changes_statistics

View = Literal["individual", "aggregate", "key_holder", "ciphertext", "public"]


SUMMED: tuple[View, ...] = ("aggregate", "public")
"""Views of a round's mean."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel(Config):
    """An honest-but-curious server, or whoever else sees the `view`.

    `view` is what it sees of the signal; unset, it is `aggregate` for `agg_update` and under a secure sum, and
    `individual` for the others. `public` is what everybody sees: the change of the global weights. `labels` says
    whether it knows the labels of the training images. `knows_defense` says whether it knows which defense is in
    force and with which parameters. `colluders` other clients of an aggregate give it their updates, which it takes
    out. `sees_statistics` says whether it sees how BatchNorm's running statistics changed, where clients send that.
    """

    view: View | None = None
    """What the attacker sees of the signal; null: what follows from signal and defense."""
    labels: Literal["unknown", "known"] = "unknown"
    """Whether the attacker knows the labels."""
    knows_defense: bool = True
    """Whether the attacker knows the defense and its parameters."""
    colluders: Annotated[int, InUnits("clients")] = 0
    """Other clients of an aggregate who give their updates to the attacker."""
    sees_statistics: bool = field(default=False, metadata=LATER)
    """Whether the attacker sees the change of BatchNorm's running statistics, which needs `batch_norm: train`."""

    def __post_init__(self) -> None:
        require(self.colluders >= 0, self, "colluders", "at least 0")

    def view_of(self, signal: Signal, protection: Protection | None = None) -> View:
        """The view in force for `signal` under what protects single updates.

        Raises `InputError` where the view contradicts either.
        """
        if self.view == "public" and signal != "agg_update":
            raise InputError(
                f"threat.view = 'public' does not go with signal {signal!r}: global weights become public, "
                "and nothing of a single client; use signal agg_update."
            )
        needed: View = "aggregate" if signal == "agg_update" or protection else "individual"
        if self.view is None:
            return needed
        if self.view == "key_holder" and protection != "encrypted":
            raise InputError(
                "threat.view = 'key_holder' needs a defense with a key that opens single updates: 'ckks' or 'paillier'."
            )
        if self.view == "ciphertext" and protection is None:
            raise InputError(
                "threat.view = 'ciphertext' needs a defense that hides updates: 'ckks', 'paillier' or 'masking'."
            )
        if protection is None and self.view not in (needed, "public"):
            raise InputError(
                f"threat.view = {self.view!r} does not go with signal {signal!r}: "
                "agg_update is seen as aggregate, every other signal as individual."
            )
        return self.view

    def check_statistics(self, model: ModelConfig) -> None:
        """Raise `InputError` where `sees_statistics` is true and a client's training changes no statistics."""
        if not self.sees_statistics:
            return

        from fl_core.models.build import build_model

        if changes_statistics(build_model(model)):
            return
        if changes_statistics(build_model(replace(model, batch_norm="train"))):
            raise InputError(
                f"threat.sees_statistics = true: {model.label} with model.batch_norm = 'eval' changes no statistics; "
                "set model.batch_norm to 'train', or threat.sees_statistics to false."
            )
        raise InputError(
            f"threat.sees_statistics = true: {model.label} has no BatchNorm layer that keeps running statistics; "
            "use a model that has, such as resnet18, or set threat.sees_statistics to false."
        )

    def check_colluders(self, view: View, clients: int) -> None:
        """Raise `InputError` where not one of an aggregate's `clients` would be left."""
        rule = f"less than the {clients} clients of an aggregate"
        require(view not in SUMMED or self.colluders < clients, self, "colluders", rule)
