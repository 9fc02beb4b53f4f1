"""DESIGN rule 6: whoever knows of a defense does no worse than the mean public image, paired over victims."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.evidence.likelihood_ratio import explains_more
from attack_core.inversion.continuation import Continuation
from attack_core.matching.presets import soft_matching
from defenses.chain import AnyDefense
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.compression.soteria import Soteria
from defenses.dp.local import DPUpdate
from defenses.dp.sgd import DPSGD
from defenses.inputs.ats import ATS
from defenses.inputs.mixing import InstaHide, MixUp
from defenses.inputs.precode import Precode
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.data.dataset import ImageDataset
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import InTheClear
from tests.support.defended import attacked, of_mean, seen

AUTO = Auto(
    analytic=Analytic(inversion=Continuation(evaluations=30), refine="never"),
    fallback=replace(soft_matching(), iterations=8),
)
MLP = ModelConfig(kind="mlp")
LENET = ModelConfig(kind="lenet")
VICTIMS = 4


def upper_bound(gains: list[float]) -> float:
    """Of the 95% interval of the mean (Student's t with 3 degrees of freedom)."""
    return statistics.mean(gains) + 3.18 * statistics.stdev(gains) / math.sqrt(len(gains))


@pytest.mark.parametrize(
    ("defense", "batch", "model"),
    [
        (Prune(ratio=0.9), 1, MLP),
        (Prune(ratio=0.9), 1, LENET),
        (Quantise(bits=1), 1, LENET),
        (Soteria(ratio=0.8), 1, LENET),
        (Precode(size=16), 1, MLP),
        (Precode(size=16), 2, LENET),
        (MixUp(), 2, LENET),
        (MixUp(), 3, MLP),
        (InstaHide(images=2), 2, MLP),
        (Prune(ratio=0.999), 1, MLP),
        (Quantise(bits=1), 2, MLP),
        (SignOnly(), 1, LENET),
        (ClipOnly(max_norm=0.1), 1, LENET),
        (NoiseOnly(sigma=0.01), 1, LENET),
        (NoiseOnly(sigma=0.01), 2, LENET),
        (NoiseOnly(sigma=0.1), 1, MLP),
        (DPUpdate(), 1, MLP),
        (DPSGD(), 2, MLP),
        (ATS(policy=("turn", "negate")), 1, MLP),
    ],
)
def test_who_knows_of_a_defense_does_no_worse_than_the_mean_image(
    faces: ImageDataset, defense: AnyDefense, batch: int, model: ModelConfig
) -> None:
    """After searches that are far too short to find anything, where there is one."""
    gains = []
    for victim in range(VICTIMS):
        told, truth = seen(faces, defense, batch=batch, model=model, victim=victim)
        gains.append(attacked(told, truth, AUTO) - of_mean(told, truth))
    assert upper_bound(gains) >= 0.0, gains


def test_what_hardly_anything_was_seen_of_is_answered_with_the_prior(faces: ImageDataset) -> None:
    """As with selective encryption that leaves a few numbers of the convolutions; the generic attacker is as it was."""
    plain, truth = seen(faces, model=LENET)
    masks = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in plain.tensors.items()}
    first = next(iter(masks))
    masks[first].view(-1)[:40] = True
    left = {name: value * masks[name] for name, value in plain.tensors.items()}
    told = replace(plain, tensors=left, facts=(InTheClear(masks=masks),))
    assert attacked(told, truth, AUTO) == pytest.approx(of_mean(told, truth))
    assert attacked(replace(told, facts=()), truth, AUTO) != pytest.approx(of_mean(told, truth))


def test_a_fit_to_nothing_is_no_explanation(faces: ImageDataset) -> None:
    observation, _ = seen(faces, model=LENET)
    numbers = sum(int(value.count_nonzero()) for value in observation.tensors.values())
    bar = math.exp(-3 * 16 * 16 / numbers)
    assert explains_more(0.99 * bar, 1.0, observation)
    assert not explains_more(1.01 * bar, 1.0, observation)
    few = {name: torch.zeros_like(value) for name, value in observation.tensors.items()}
    next(iter(few.values())).view(-1)[:5] = 1.0
    assert not explains_more(0.4, 1.0, replace(observation, tensors=few))
