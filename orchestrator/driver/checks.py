"""Checks before a sweep starts: settings that would fail whatever the data are."""

from __future__ import annotations

from collections.abc import Sequence

from attack_core.attacks.registry import AnyAttack
from defenses.chain import AnyDefense, Chain
from defenses.inputs.ats import ATS
from defenses.mechanism.own import OwnDefense
from fl_core.base.errors import InputError
from fl_core.models.build import build_model, check_batch
from orchestrator.config.sweep import AttackerConfig, StudyConfig, SweepConfig
from orchestrator.study.search import check_sampler


def check_sweep(attackers: Sequence[AttackerConfig], cells: Sequence[SweepConfig]) -> None:
    """Raise `InputError` for a library that is missing, a batch that no network takes, an attack that fits no cell.

    `cells` are the settings of each cell. An attack that fits one cell and not another is run: its trials in the other
    fail as rows.
    """
    for own in cells:
        for defense in own.cell.defense:
            defense.check_library()
            _check_shape(own, defense)
            if isinstance(defense, OwnDefense):
                # Asked for only when there are rows; what fails must fail now.
                defense.facts(own.federation)
                defense.privacy(own.federation)
        # No batch has more images; that some have fewer is known once the data are.
        model = Chain(defenses=own.cell.defense).on_model(own.model)
        check_batch(model, own.federation.local.batch_size)
        own.threat.check_statistics(model)
    for attacker in attackers:
        if attacker.searches and cells:
            check_sampler(attacker.study(cells[0].study))
            _check_shortened(attacker, cells[0].study)
        for place, attack in _attacks(attacker).items():
            _check_fit(place, attack, cells)


def _check_shortened(attacker: AttackerConfig, study: StudyConfig) -> None:
    """Raise `InputError` where halving would shorten an attack that has no iterations."""
    if study.halving is None:
        return
    for place, attack in _attacks(attacker).items():
        try:
            attack.shortened(study.halving.iterations)
        except InputError as reason:
            raise InputError(f"study.halving does not go with {place}: {reason}") from reason


def _check_shape(own: SweepConfig, defense: AnyDefense) -> None:
    """Raise `InputError` where a defense turns or shears pictures that are no squares."""
    shape = own.model.shape
    turns = isinstance(defense.itself if isinstance(defense, OwnDefense) else defense, ATS)
    if turns and shape.height != shape.width:
        raise InputError(
            f"cells.{own.cell.name}: {defense.label} turns and moves square pictures, and model.image_size asks for "
            f"{shape}; use a square size."
        )


def _attacks(attacker: AttackerConfig) -> dict[str, AnyAttack]:
    """The attacks that an attacker may run, by their place in the sweep file."""
    place = f"attackers.{attacker.name}"
    if not attacker.families:
        return {f"{place}.attack": attacker.attack}
    return {f"{place}.families.{name}.attack": family.attack for name, family in attacker.families.items()}


def _check_fit(place: str, attack: AnyAttack, cells: Sequence[SweepConfig]) -> None:
    reasons: list[InputError] = []
    for own in cells:
        chain = Chain(defenses=own.cell.defense)
        try:
            attack.check_network(build_model(chain.on_model(own.model)))
            if own.capture.signal in ("gradients", "one_step_update") and chain.summing is None:
                attack.check_images(own.federation.local.batch_size)
        except InputError as reason:
            reasons.append(reason)
    if len(reasons) == len(cells):
        raise InputError(f"{place}: {reasons[0]}") from reasons[0]
