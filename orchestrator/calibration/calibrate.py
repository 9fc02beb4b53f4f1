"""How good a reconstruction is without the truth: what the same attack reaches on simulated clients.

The simulated clients use the same network at the same weights, as many images and steps, the same noise and defenses.
What an attacker sees of their answers, and the PSNR that they reached, predict that of the answer in question
(`orchestrator.calibration.prediction`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attack_core.attacks.registry import AnyAttack
from attack_core.base.types import AttackFailed, Reconstruction
from attack_core.metrics.metrics import assign, psnr
from fl_core.base.decibels import EXACT_DB
from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed, generator
from fl_core.federation.client import LocalTraining
from orchestrator.calibration.pictures import PictureSet
from orchestrator.calibration.prediction import EXACT, Expected, Simulated, predict
from orchestrator.calibration.seen import Seen, seen_of
from orchestrator.library.invert import case_at
from orchestrator.library.known import Known
from orchestrator.library.network import Subject
from orchestrator.library.simulate import client_signal


@dataclass(frozen=True, kw_only=True)
class CalibrationLimits:
    """When simulated answers say nothing of one."""

    unlike: float = 10.0
    """An answer that leaves more than so many times what any simulated one of its outcome leaves is unlike them."""
    explains: float = 0.01
    """A loss up to this is never unlike: that is what rounding and a stop of the search leave."""


CALIBRATION_LIMITS = CalibrationLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What simulated clients do and what their attacker knows: as in the audit."""

    network: Subject
    attack: AnyAttack
    known: Known
    examples: int
    local: LocalTraining | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Simulated answers, from which those in question are predicted."""

    simulated: tuple[Simulated, ...]

    @property
    def clients(self) -> int:
        """How many clients were simulated."""
        return len({each.client for each in self.simulated})

    @property
    def prior(self) -> float:
        """What the mean public image reaches, in dB, on average."""
        return sum(each.prior for each in self.simulated) / len(self.simulated)

    @property
    def mean(self) -> float:
        """What the attack reaches, in dB, on average; `EXACT` counts for all that is better."""
        return sum(min(each.psnr, EXACT) for each in self.simulated) / len(self.simulated)

    def expected(self, seen: Sequence[Seen]) -> tuple[Expected, ...]:
        """The PSNR of each image of an answer, by what is seen of it."""
        return tuple(predict(self.simulated, seen))

    def unlike(self, outcome: str, loss: float, limits: CalibrationLimits = CALIBRATION_LIMITS) -> str:
        """Why the simulated answers say nothing of an answer with this outcome and loss; empty where they do."""
        same = [each.seen.loss for each in self.simulated if each.seen.outcome == outcome]
        if not same:
            seen = ", ".join(sorted({each.seen.outcome for each in self.simulated}))
            return (
                f"the answer is of the kind {outcome!r}, those of all {self.clients} simulated clients are {seen}: the "
                "facts do not describe this signal"
            )
        finite = [value for value in same if math.isfinite(value)]
        if not finite or not math.isfinite(loss):
            return ""
        if loss <= max(limits.explains, limits.unlike * max(finite)):
            return ""
        return (
            f"the answer leaves {loss:.2g} of the signal unexplained, those of simulated clients at most "
            f"{max(finite):.2g}: the facts do not describe this signal"
        )


def calibrate(
    setting: Setting,
    public: PictureSet,
    *,
    clients: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Simulate so many clients that hold public pictures, attack each, and keep what was reached.

    Clients' pictures are drawn without replacement while there are enough. Those without classes get random ones. The
    mean image that an attack starts from is that of the other pictures. Raises `InputError` for too few pictures.
    """
    images = setting.network.image.check(public.images, "public images")
    found: list[Simulated] = []
    for client in range(clients):
        found += simulated_client(setting, public, images, client=client, seed=seed)
        if progress:
            progress(client + 1, clients)
    if not found:
        raise InputError(
            "Every simulated attack ended in numbers that are not finite; nothing can be calibrated."
        )
    return Calibration(simulated=tuple(found))


def simulated_client(
    setting: Setting, public: PictureSet, images: Tensor, *, client: int, seed: int
) -> list[Simulated]:
    """What the attack reaches on one simulated client, by image; nothing where it failed.

    `images` are the public ones (N, C, H, W) in [-1, 1].
    """
    count = setting.examples
    if len(images) < count + 1:
        raise InputError(
            f"{public.source}: {count} images behind the signal need {count + 1} public ones to calibrate with."
        )
    order = torch.randperm(len(images), generator=generator("audit order", seed))
    chosen = order.roll(-client * count)[:count]
    rest = torch.ones(len(images), dtype=torch.bool).index_fill(0, chosen, False)
    labels = _labels(public, chosen, setting.network.classes, generator("audit", seed, client))
    mean = images[rest].mean(0, keepdim=True)
    answer = _attacked(setting, images[chosen], labels, mean, seed=derive_seed("audit", seed, client))
    return [] if answer is None else beside_truth(answer, images[chosen], mean, client=client)


def beside_truth(answer: Reconstruction, truth: Tensor, mean: Tensor, *, client: int) -> list[Simulated]:
    """What is seen of a client's answer, and its PSNR; `truth` (N, C, H, W) and `mean` (1, C, H, W) in [-1, 1]."""
    pairs, seen = _pairs(answer.images, truth), seen_of(answer, mean)
    reached, prior = scored(answer.images, truth), scored(mean.expand(len(truth), -1, -1, -1), truth)
    return [
        Simulated(client=client, seen=seen[j], psnr=value, prior=prior[i])
        for (i, j), value in zip(pairs, reached, strict=True)
    ]


def scored(images: Tensor, truth: Tensor) -> list[float]:
    """PSNR in dB of each true image (N, C, H, W), all in [-1, 1], beside the reconstruction that stands for it."""
    values = [psnr(images[j : j + 1].cpu(), truth[i : i + 1].cpu()) for i, j in _pairs(images, truth)]
    return [min(float(value), EXACT_DB) for value in values]


def _pairs(images: Tensor, truth: Tensor) -> list[tuple[int, int]]:
    """The number of each true image with that of the reconstruction that stands for it."""
    return [(i, j) for i, j in enumerate(assign(images.cpu(), truth.cpu())) if j is not None]


def _attacked(
    setting: Setting, images: Tensor, labels: Tensor, mean: Tensor, *, seed: int
) -> Reconstruction | None:
    """The attack's answer on one simulated client; None where it failed."""
    sent = client_signal(
        setting.network,
        images,
        labels,
        local=setting.local,
        defenses=setting.known.defenses,
        seed=seed,
    )
    told = None if setting.known.labels is None else labels.tolist()
    known = replace(setting.known, examples=setting.examples, public=(mean + 1) / 2, labels=told)
    try:
        return case_at(setting.network, sent, attack=setting.attack.uncertified(), known=known).run(seed)
    except AttackFailed:
        return None


def _labels(public: PictureSet, chosen: Tensor, classes: int, draws: torch.Generator) -> Tensor:
    if public.labels is not None and len(public.classes) == classes:
        return public.labels[chosen]
    return torch.randint(classes, (len(chosen),), generator=draws)
