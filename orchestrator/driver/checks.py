"""What of a sweep would fail whatever the data: found out before anything is computed or written."""

from __future__ import annotations

from collections.abc import Sequence

from attack_core.attacks.registry import AnyAttack
from defenses.chain import Chain
from fl_core.base.errors import InputError
from fl_core.models.zoo import build_model, check_batch
from orchestrator.config.parse import cell_settings
from orchestrator.config.sweep import AttackerConfig, CellConfig, SweepConfig


def check_sweep(sweep: SweepConfig, cells: Sequence[CellConfig]) -> None:
    """Raise `InputError` for a library that is missing, a batch that no network takes, an attack that fits no cell.

    An attack that fits one cell and not another is run: its trials in the other fail as rows.
    """
    settings = [cell_settings(sweep, cell) for cell in cells]
    for cell, own in zip(cells, settings, strict=True):
        for defense in cell.defense:
            defense.check_library()
        # No batch has more images; that some have fewer is known once the data are.
        check_batch(Chain(defenses=cell.defense).on_model(own.model), own.federation.local.batch_size)
    for attacker in sweep.attackers:
        for place, attack in _attacks(attacker).items():
            _check_fit(place, attack, cells, settings)


def _attacks(attacker: AttackerConfig) -> dict[str, AnyAttack]:
    """The attacks that an attacker may run, by their place in the sweep file."""
    place = f"attackers.{attacker.name}"
    if not attacker.families:
        return {f"{place}.attack": attacker.attack}
    return {f"{place}.families.{name}.attack": family.attack for name, family in attacker.families.items()}


def _check_fit(
    place: str, attack: AnyAttack, cells: Sequence[CellConfig], settings: Sequence[SweepConfig]
) -> None:
    reasons: list[InputError] = []
    for cell, own in zip(cells, settings, strict=True):
        chain = Chain(defenses=cell.defense)
        try:
            attack.check_network(build_model(chain.on_model(own.model)))
            if own.capture.signal in ("gradients", "one_step_update") and chain.summing is None:
                attack.check_images(own.federation.local.batch_size)
        except InputError as reason:
            reasons.append(reason)
    if len(reasons) == len(cells):
        raise InputError(f"{place}: {reasons[0]}") from reasons[0]
