"""What a defense costs: the accuracy of a federation trained with it, in a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from defenses.chain import Chain
from fl_core.base.errors import NotSummable
from fl_core.base.rng import derive_seed, generator
from fl_core.data.dataset import ImageDataset
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.simulator import ClientWork, InProcess, Simulator
from fl_core.federation.training import train
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from orchestrator.config.sweep import SweepConfig, UtilityConfig
from orchestrator.results.utility_files import UtilityResult


@dataclass(frozen=True, kw_only=True)
class UtilitySpec:
    """A utility run as pure data: everything that its figures depend on."""

    data: str
    model: ModelConfig
    federation: FederationConfig
    defense: Chain
    seed: int
    train: int
    valid: int | None
    device: str
    threads: int


def run_utility(
    spec: UtilitySpec,
    dataset: ImageDataset,
    *,
    simulator: Callable[[ClientWork], Simulator] = InProcess,
    progress: Callable[[int, float], None] | None = None,
) -> UtilityResult:
    """Train with the defense for all planned rounds and measure after each.

    `simulator` says where the clients run; `progress` is called with each finished round's number and accuracy.
    """
    torch.set_num_threads(spec.threads)
    federation, seed = federation_of(spec, dataset), derive_seed("training", spec.seed)
    state = initial_state(federation.model, generator("model", spec.seed))
    held_out = dataset.split("valid", spec.valid)
    clients = simulator(
        ClientWork(
            federation=federation,
            defense=spec.defense.clients(seed=seed, plan=spec.federation),
            reduction=spec.defense.reduction(seed=seed, plan=spec.federation),
        )
    )
    correct, refused, not_finite = [], False, 0
    try:
        for result in train(clients, state, rounds=spec.federation.rounds):
            state = result.state
            not_finite += result.not_finite
            correct.append(clients.correct(state, held_out))
            if progress:
                progress(result.round, correct[-1] / len(held_out))
    except NotSummable:
        refused = True
        correct = correct or [clients.correct(state, held_out)]
    labels = dataset.labels[held_out]
    from scipy.stats import binomtest  # seconds of imports, which trials do not need

    interval = binomtest(correct[-1], len(held_out)).proportion_ci(method="exact")
    return UtilityResult(
        accuracy=correct[-1] / len(held_out),
        low=float(interval.low),
        high=float(interval.high),
        majority=float(torch.bincount(labels).max()) / len(held_out),
        images=len(held_out),
        per_round=tuple(count / len(held_out) for count in correct),
        diverged=refused or not all(bool(torch.isfinite(value).all()) for value in state.parameters.values()),
        not_finite=not_finite,
    )


def federation_of(spec: UtilitySpec, dataset: ImageDataset) -> Federation:
    """The federation that a utility run trains; raises `InputError` where the data do not suffice."""
    return Federation(
        config=spec.federation,
        model=spec.defense.on_model(spec.model),
        dataset=dataset,
        train=dataset.split("train", spec.train),
        seed=spec.seed,
        device=torch.device(spec.device),
    )


def utility_specs(
    *, fingerprint: str, settings: SweepConfig, wanted: UtilityConfig, defense: Chain
) -> tuple[UtilitySpec, ...]:
    """The runs that measure `defense` in the federation of `settings`, with the utility settings put in; one a seed.

    Secure sums are exact, so that their cut into chunks changes no bit: with one client each, all workers take part.
    """
    federation = settings.federation
    chunk = federation.chunk if defense.summing is None else 1
    local = replace(federation.local, batch_size=wanted.batch_size, lr=wanted.lr or federation.local.lr)
    first = UtilitySpec(
        data=fingerprint,
        model=settings.model,
        federation=replace(federation, local=local, chunk=chunk),
        defense=defense,
        seed=settings.seed,
        train=wanted.train,
        valid=settings.data.valid,
        device=settings.execution.device,
        threads=settings.execution.threads,
    )
    further = (derive_seed("utility", settings.seed, number) for number in range(1, wanted.seeds))
    return (first, *(replace(first, seed=seed) for seed in further))
