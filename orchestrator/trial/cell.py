"""One cell of a sweep: its settings, its captures, its trials, and the columns that all its rows share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from attack_core.attacks.registry import AnyAttack
from attack_core.metrics.metrics import to_unit
from defenses.chain import Chain
from defenses.dp.information import least_mse, nats_of_one_image, spectrum
from defenses.dp.sgd import participations
from defenses.secure.exchange import dropouts
from fl_core.base.errors import InputError, listed
from fl_core.base.rng import derive_seed, generator
from fl_core.data.dataset import ImageDataset
from fl_core.federation.accuracy import count_correct
from fl_core.federation.federation import Federation
from fl_core.models.build import check_batch
from fl_core.threat.captures import Victim
from orchestrator.capture.priors import Learned
from orchestrator.capture.store import (
    CaptureSource,
    CaptureStore,
    captured_federation,
    check_batches,
    check_round,
    check_watched,
    victims_of,
)
from orchestrator.config.own import shown
from orchestrator.config.parse import suggested_attack
from orchestrator.config.space import Params
from orchestrator.config.sweep import AttackerConfig, CellConfig, SweepConfig
from orchestrator.io.cache import Entries
from orchestrator.io.identity import canonical
from orchestrator.results.schema import study_name
from orchestrator.results.store import Row
from orchestrator.trial.public import PublicAnswers, public_answers
from orchestrator.trial.spec import Phase, TrialSpec
from orchestrator.trial.utility import UtilitySpec, federation_of, utility_specs

_LEAST = 1e-15
"""A mean squared error below which nothing is told apart: the bound is then 150 dB."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell that is ready to run at one seed; `settings` are those of this cell and seed alone.

    `first` is the seed of the sweep, which `settings` have too where the sweep is not repeated. `priors` are the
    trained priors by attacker.
    """

    settings: SweepConfig
    chain: Chain
    dataset: ImageDataset
    source: CaptureSource
    first: int
    entries: Entries = field(default_factory=Entries)
    priors: Mapping[str, Learned] = field(default_factory=dict)

    @classmethod
    def prepare(
        cls,
        settings: SweepConfig,
        dataset: ImageDataset,
        store: CaptureStore,
        *,
        weights: str | None = None,
        first: int | None = None,
        entries: Entries | None = None,
        priors: Mapping[str, Learned] | None = None,
    ) -> Cell:
        """Validate threat, labels and victims and fix the weights; nothing is captured yet.

        `settings` are the sweep's as this cell has them (`cell_settings`). `weights` is the hash of those that the
        cell's finished trials attacked, where there are any. `first` is the sweep's first seed; None: this one.
        `entries` are what a cache has for the cell, `priors` the attackers' own.
        """
        chain = Chain(defenses=settings.cell.defense)
        check_cell(settings, chain, dataset)
        entries = entries or Entries()
        source = store.source(settings, chain, dataset, weights=weights, entries=entries)
        first = settings.seed if first is None else first
        return cls(
            settings=settings,
            chain=chain,
            dataset=dataset,
            source=source,
            first=first,
            entries=entries,
            priors=priors or {},
        )

    def study(self, attacker: AttackerConfig) -> str:
        """The name of an attacker's study of this cell at this seed."""
        return study_name(self.config.name, attacker.name, seed=self.settings.seed, first=self.first)

    @cached_property
    def config(self) -> CellConfig:
        """The cell as the sweep file has it."""
        return self.settings.cell

    @cached_property
    def victims(self) -> list[Victim]:
        """Tuning victims, then test victims."""
        return self.source.victims()

    @cached_property
    def public_mean(self) -> torch.Tensor:
        """The mean image (3, S, S) of the public images, which are no client's."""
        indices = self._public
        total = torch.zeros(self.dataset.image(indices[0]).shape)
        for index in indices:
            total += self.dataset.image(index)
        return total / len(indices)

    def public_answers(self, victim: int, count: int) -> PublicAnswers | None:
        """What anybody can answer for the `count` images of the victim at this position, the same in every cell.

        None for a single one, which the mean image stands for.
        """
        if count == 1:
            return None
        return public_answers(self._public_images(), count, generator("public", self.settings.seed, victim))

    @property
    def _public(self) -> Sequence[int]:
        return self.dataset.split("test")[: self.settings.data.public]

    def _public_images(self) -> torch.Tensor:
        """All public images (N, C, H, W)."""
        return torch.stack([self.dataset.image(index) for index in self._public])

    @cached_property
    def defense_name(self) -> str:
        """The chain's mechanisms, joined by +."""
        return "+".join(defense.label for defense in self.chain.defenses) or "none"

    def utility(self) -> tuple[UtilitySpec, ...]:
        """The runs that give this cell's accuracy; none where the sweep does not ask for it."""
        wanted = self.settings.utility
        if wanted is None:
            return ()
        return utility_specs(
            fingerprint=self.dataset.fingerprint,
            settings=self.settings,
            wanted=wanted,
            defense=self.chain,
        )

    def weights_accuracy(self) -> float | None:
        """How many of the validation images the attacked weights classify right, 0 to 1; None without images."""
        settings, device = self.settings, torch.device(self.settings.execution.device)
        try:
            held_out = self.dataset.split("valid", settings.data.valid)
        except InputError:
            return None  # Nothing but this figure needs them: an attack on initial weights does without.
        state, model = self.source.weights.state.to(device), self.source.federation.model
        return count_correct(model, state, self.dataset, held_out, device=device) / len(held_out)

    def trial(
        self, attacker: AttackerConfig, *, phase: Phase, suggestion: int | None, params: Params, victim: int
    ) -> TrialSpec:
        """The trial of `attacker` with `params` on the victim at position `victim`.

        In the phase `screen` the attack has the share of its iterations that `study.halving` names.
        """
        execution, threat = self.settings.execution, self.settings.threat
        final = phase == "test"
        return TrialSpec(
            cell=self.config.name,
            attacker=attacker.name,
            phase=phase,
            suggestion=suggestion,
            victim=victim,
            capture=self.source.key(self.victims[victim]),
            attack=self._attack(attacker, params, phase),
            threat=dataclasses.replace(threat, knows_defense=threat.knows_defense and attacker.uses_facts),
            # The same for every cell, attacker and suggestion: comparisons are paired by victim.
            seed=derive_seed("trial", self.settings.seed, victim),
            device=execution.device,
            threads=execution.threads,
            precision=execution.precision,
            programs=execution.programs,
            control=final and execution.controls,
            lpips=final and execution.lpips,
            images=execution.images == "all" or (final and execution.images == "test"),
            prior=self.priors[attacker.name].column if attacker.name in self.priors else None,
        )

    def _attack(self, attacker: AttackerConfig, params: Params, phase: Phase) -> AnyAttack:
        attack, halving = suggested_attack(attacker, params), self.settings.study.halving
        if phase != "screen":
            return attack
        if halving is None:
            raise InputError(
                f"{self.config.name}: the phase 'screen' is one of study.halving, which is null."
            )
        return attack.shortened(halving.iterations)

    @property
    def _weights_kind(self) -> str:
        capture = self.settings.capture
        return capture.weights if capture.rounds.stop > 1 else "initial"

    @cached_property
    def columns(self) -> Row:
        """What every row of the cell says of its setting."""
        settings = self.settings
        rounds = settings.federation.rounds
        privacy = self.chain.privacy(settings.federation)
        return {
            "sweep": settings.name,
            "cell": self.config.name,
            "sweep_seed": settings.seed,
            "data": f"{settings.data.kind}:{self.dataset.fingerprint}",
            "model": settings.model.label,
            "weights": f"{self._weights_kind}:{self.source.weights.hash}",
            "defense": self.defense_name,
            "defense_params": canonical([shown(defense) for defense in self.chain.defenses]),
            "differs": canonical(dict(self.config.differs)),
            "view": settings.threat.view_of(settings.capture.signal, self.chain.protection),
            "signal": settings.capture.signal,
            "batch_size": settings.federation.local.batch_size,
            "round": settings.capture.round,
            "watched": settings.capture.watched,
            "epsilon_watched": self.chain.epsilon_of(settings.federation, settings.capture.watched),
            "epsilon": privacy.epsilon if privacy else None,
            "epsilon_release": privacy.epsilon_release if privacy else None,
            "delta": privacy.delta if privacy else None,
            "dp_unit": privacy.unit if privacy else None,
            "dp_against": privacy.against if privacy else None,
            "adjacency": privacy.adjacency if privacy else None,
            "rounds": rounds,
            "sampling_rate": privacy.sampling_rate if privacy else None,
            "psnr_bound": self._psnr_bound,
        }

    @property
    def _psnr_bound(self) -> float | None:
        """What no attacker's mean squared error is better than, as PSNR in dB, for images like the public ones.

        None where no Gaussian mechanism bounds what a release tells (`defenses.dp.information`).
        """
        plan = self.settings.federation
        steps = (
            1 if self.settings.capture.signal in ("gradients", "one_step_update") else participations(plan)
        )
        numbers = sum(value.numel() for value in self.source.weights.state.parameters.values())
        nats = nats_of_one_image(self.chain.facts(plan), plan, numbers=numbers, steps=steps)
        if nats is None or len(self._public) < 2:
            return None
        variances = spectrum(to_unit(self._public_images()).flatten(1).double().numpy())
        return -10.0 * math.log10(max(least_mse(variances, nats), _LEAST))


def check_cell(settings: SweepConfig, chain: Chain, dataset: ImageDataset) -> None:
    """Raise `InputError` for a cell that cannot be run; `settings` as it has them. Nothing is trained or decoded."""
    _check_sum(settings, chain)
    _check_labels(settings, dataset)
    check_round(settings)
    check_watched(settings, chain)
    federation = captured_federation(settings, chain, dataset, device=torch.device("cpu"))
    _check_shares(settings, chain, federation)
    check_batches(settings, federation, victims_of(settings, chain, federation))
    _check_utility(settings, chain, dataset)


def _check_sum(settings: SweepConfig, chain: Chain) -> None:
    """Raise `InputError` for a view that the chain does not offer, and for rounds that it cannot sum."""
    clients = settings.federation.per_round
    view = settings.threat.view_of(settings.capture.signal, chain.protection)
    if chain.summing is not None:
        if settings.federation.participation != "fixed":
            raise InputError(
                f"federation.participation = 'poisson' does not go with {chain.summing.kind}: a secure sum is agreed "
                "between clients that are known to take part; use 'fixed'."
            )
        chain.summing.check_round(clients)
        clients -= dropouts(chain.summing.lost, clients)
    settings.threat.check_colluders(view, clients)


def _check_labels(settings: SweepConfig, dataset: ImageDataset) -> None:
    """Raise `InputError` for a label that the network has no output for."""
    largest, classes = int(dataset.labels.max()), settings.model.outputs
    if largest >= classes:
        raise InputError(
            f"model.classes = {classes}: {dataset.root} has labels from 0 to {largest}; must be at least {largest + 1}"
            f" ({listed(dataset.classes)})."
        )


def _check_utility(settings: SweepConfig, chain: Chain, dataset: ImageDataset) -> None:
    """Raise `InputError` where the data do not suffice for the utility run, or BatchNorm can't normalise a batch."""
    if settings.utility is None:
        return
    spec, *_ = utility_specs(fingerprint="", settings=settings, wanted=settings.utility, defense=chain)
    federation = federation_of(spec, dataset)
    if spec.model.batch_norm == "train":
        smallest = federation.smallest_batch(range(spec.federation.rounds))
        check_batch(federation.model, smallest or spec.federation.local.batch_size)


def _check_shares(settings: SweepConfig, chain: Chain, federation: Federation) -> None:
    """Raise `InputError` where noise that clients share out would not add up: shares that are missing or known."""
    clients, threat = settings.federation.per_round, settings.threat
    lost = 0 if chain.summing is None else dropouts(chain.summing.lost, clients)
    empty = sum(not share for share in federation.shares)
    view = threat.view_of(settings.capture.signal, chain.protection)
    for defense in chain.defenses:
        defense.check_shares(
            absent=min(lost + empty, clients), colluders=threat.colluders, opens_single=view == "key_holder"
        )
