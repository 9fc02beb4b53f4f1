"""How good a reconstruction is without the truth: what the same attack reaches on simulated clients.

The simulated clients use the same network at the same weights, as many images and steps, the same noise and defenses.
Their reconstructions' PSNR, related to what an attacker sees (the loss that the answer leaves), predict that of the
answer in question. The interval is a conformal one (Vovk et al. 2005; Lei et al. 2018, arXiv:1604.04173): it covers as
promised where the images in question are drawn as the public ones are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import kendalltau, theilslopes
from torch import Tensor

from attack_core.attacks.registry import AnyAttack
from attack_core.base.types import AttackFailed, Reconstruction
from attack_core.metrics.metrics import EXACT_DB, assign, psnr
from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed, generator
from fl_core.federation.client import LocalTraining
from orchestrator.audit.pictures import PictureSet
from orchestrator.library.invert import case_at
from orchestrator.library.known import Known
from orchestrator.library.network import Subject
from orchestrator.library.simulate import client_signal


@dataclass(frozen=True, kw_only=True)
class CalibrationLimits:
    """How predictions are made."""

    level: float = 0.9
    """The share of answers whose PSNR the interval is meant to hold."""
    related: float = 0.05
    """The loss is used where it is related to PSNR at this level of significance (Kendall's tau), else PSNR alone."""
    least: int = 5
    """So many simulated answers of the same outcome are needed to leave the others out."""
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
class Simulated:
    """One simulated image: the client's number, what came out, the loss of the client's answer, and the PSNR in dB."""

    client: int
    outcome: str
    loss: float
    psnr: float
    prior: float
    """The PSNR of the mean public image."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A prediction of PSNR in dB, and an interval that holds the PSNR with probability `level`."""

    psnr: float
    low: float
    high: float
    level: float


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
        """What the attack reaches, in dB, on average."""
        return sum(each.psnr for each in self.simulated) / len(self.simulated)

    def unlike(self, outcome: str, loss: float, limits: CalibrationLimits = CALIBRATION_LIMITS) -> str:
        """Why the simulated answers say nothing of an answer with this outcome and loss; empty where they do."""
        same = [each.loss for each in self.simulated if each.outcome == outcome]
        if not same:
            seen = ", ".join(sorted({each.outcome for each in self.simulated}))
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

    def expected(self, outcome: str, loss: float, limits: CalibrationLimits = CALIBRATION_LIMITS) -> Expected:
        """The PSNR of an answer's images, by its outcome and its loss."""
        same = [each for each in self.simulated if each.outcome == outcome]
        if len(same) < limits.least:
            same = list(self.simulated)
        sizes, values = [_size(each.loss) for each in same], [each.psnr for each in same]
        slope = _slope(sizes, values, limits)
        leftover = sorted(value - slope * size for value, size in zip(values, sizes, strict=True))
        middle, low, high, level = _quantiles(leftover, limits.level)
        at = slope * min(max(_size(loss), min(sizes)), max(sizes))
        return Expected(psnr=middle + at, low=low + at, high=high + at, level=level)


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
    images, count = setting.network.image.check(public.images, "public images"), setting.examples
    if len(images) < count + 1:
        raise InputError(
            f"{public.source}: {count} images behind the signal need {count + 1} public ones to calibrate with."
        )
    found: list[Simulated] = []
    order = torch.randperm(len(images), generator=generator("audit order", seed))
    for client in range(clients):
        draws = generator("audit", seed, client)
        chosen = order.roll(-client * count)[:count] if len(images) > count else order[:count]
        rest = torch.ones(len(images), dtype=torch.bool).index_fill(0, chosen, False)
        labels = _labels(public, chosen, setting.network.classes, draws)
        mean = images[rest].mean(0, keepdim=True)
        for answer, prior in _attacked(
            setting, images[chosen], labels, mean, seed=derive_seed("audit", seed, client)
        ):
            found += [
                Simulated(client=client, outcome=answer.outcome, loss=answer.loss, psnr=value, prior=level)
                for value, level in zip(scored(answer.images, images[chosen]), prior, strict=True)
            ]
        if progress:
            progress(client + 1, clients)
    if not found:
        raise InputError(
            "Every simulated attack ended in numbers that are not finite; nothing can be calibrated."
        )
    return Calibration(simulated=tuple(found))


def scored(images: Tensor, truth: Tensor) -> list[float]:
    """PSNR in dB of each true image (N, C, H, W), all in [-1, 1], beside the reconstruction that stands for it."""
    chosen = assign(images.cpu(), truth.cpu())
    values = [
        psnr(images[j : j + 1].cpu(), truth[i : i + 1].cpu()) for i, j in enumerate(chosen) if j is not None
    ]
    return [min(float(value), EXACT_DB) for value in values]


def _attacked(
    setting: Setting, images: Tensor, labels: Tensor, mean: Tensor, *, seed: int
) -> list[tuple[Reconstruction, list[float]]]:
    """The attack's answer on one simulated client, and what the mean image reaches; nothing where it failed."""
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
    case = case_at(setting.network, sent, attack=setting.attack, known=known)
    try:
        answer = case.run(seed)
    except AttackFailed:
        return []
    return [(answer, scored(mean.expand(len(answer.images), -1, -1, -1), images))]


def _labels(public: PictureSet, chosen: Tensor, classes: int, draws: torch.Generator) -> Tensor:
    if public.labels is not None and len(public.classes) == classes:
        return public.labels[chosen]
    return torch.randint(classes, (len(chosen),), generator=draws)


def _size(loss: float) -> float:
    """The loss as it is related to PSNR: in tens of decibels."""
    return 10.0 * math.log10(max(loss, 1e-15)) if math.isfinite(loss) else 0.0


def _slope(sizes: Sequence[float], values: Sequence[float], limits: CalibrationLimits) -> float:
    """How PSNR falls with the loss; 0 where they are not related."""
    if len(set(sizes)) < limits.least or len(set(values)) < 2:
        return 0.0
    tau = kendalltau(sizes, values)
    if not tau.pvalue < limits.related or tau.statistic >= 0:
        return 0.0
    return min(0.0, float(theilslopes(values, sizes)[0]))


def _quantiles(values: Sequence[float], level: float) -> tuple[float, float, float, float]:
    """Median, the ends of an interval for one more value of the same kind, and the probability that it holds that.

    The probability is `level`. With too few values for that the interval is their whole range, which holds one more
    with probability (n - 1) / (n + 1).
    """
    count = len(values)
    outside = (1.0 - level) / 2.0 * (count + 1)
    rank = max(1, math.floor(outside))
    middle = (values[(count - 1) // 2] + values[count // 2]) / 2.0
    held = min(level, (count - 1) / (count + 1))
    return middle, values[rank - 1], values[count - rank], held
