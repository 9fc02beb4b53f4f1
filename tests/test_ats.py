"""ATS: the policy's transforms, and the attacker that takes them back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attack_core.analytic import Analytic
from attack_core.augmented import straightened
from attack_core.auto import Auto
from attack_core.descent import Descent
from attack_core.matching import Matching
from attack_core.presets import soft_matching
from defenses.ats import ATS
from defenses.chain import AnyDefense, Chain
from defenses.compression import Prune
from defenses.dp_sgd import DPSGD
from defenses.mixing import MixUp
from defenses.precode import Precode
from defenses.soteria import Soteria
from fl_core.celeba import FaceDataset, open_celeba
from fl_core.errors import InputError
from fl_core.models import ModelConfig
from fl_core.rng import generator
from fl_core.server import FederationConfig
from fl_core.threat import Augmented
from fl_core.transforms import Transform, draws_of, taken_back, transformed
from fl_core.types import Signal
from tests.defended import attacked, of_mean, public_mean, seen
from tests.small import both, run_quietly, sweep

PLAN = FederationConfig(rounds=1)
SHORT = replace(soft_matching(), iterations=60)
AUTO = Auto(analytic=Analytic(inversion=Descent(evaluations=90), refine="never"), fallback=SHORT)
MLP = ModelConfig(kind="mlp")
KINDS: tuple[Transform, ...] = get_args(Transform)


@given(st.permutations(KINDS), st.integers(0, 10_000))
def test_every_draw_can_be_taken_back(policy: list[Transform], seed: int) -> None:
    """Exactly, for images that brightening keeps in range."""
    draws = generator("draws", seed)
    image = torch.rand(3, 8, 8, generator=draws) - 0.5
    drawn = [
        choices[int(torch.randint(len(choices), (), generator=draws))]
        for choices in (draws_of(kind, 8) for kind in policy)
    ]
    torch.testing.assert_close(taken_back(transformed(image, policy, drawn), policy, drawn), image)


def test_transforms_do_what_they_say() -> None:
    image = torch.arange(64.0).view(1, 8, 8) / 128
    assert torch.equal(transformed(image, ["mirror"], [(1,)]), image.flip(2))
    assert torch.equal(transformed(image, ["turn"], [(2,)]), image.flip(1, 2))
    assert torch.equal(transformed(image, ["shift"], [(1, 0)])[:, 1:], image[:, :-1])
    assert torch.equal(transformed(image, ["negate"], [(1,)]), -image)
    assert torch.equal(transformed(image, ["brighten"], [(0.4,)]), image + 0.4)
    assert float(transformed(image + 0.4, ["brighten"], [(0.4,)]).max()) == 1.0
    assert len(draws_of("shift", 16)) == 25


def test_each_image_has_draws_of_its_own_all_equally_likely() -> None:
    images = (torch.arange(64.0).view(1, 1, 8, 8) / 64).expand(400, 3, -1, -1)
    batch = (images, torch.zeros(400, dtype=torch.int64))
    turned, labels = ATS(policy=("turn",)).on_batch(batch, generator("defense", 0), PLAN, 2)
    again, _ = ATS(policy=("turn",)).on_batch(batch, generator("defense", 0), PLAN, 2)
    assert torch.equal(turned, again)
    assert torch.equal(labels, batch[1])
    counts = Counter(float(corner) for corner in turned[:, 0, 0, 0])
    assert len(counts) == 4
    # Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand; 40% instead of 25% for one would be.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 16.3
    assert sum((count - 100) ** 2 / 100 for count in (160, 80, 80, 80)) > 16.3


def test_what_it_tells_and_what_it_refuses() -> None:
    assert ATS(policy=("turn",)).facts(PLAN) == (Augmented(policy=("turn",)),)
    with pytest.raises(InputError, match=r"ATS.policy = \(\): must be at least one"):
        ATS(policy=())
    with pytest.raises(InputError, match="each transform at most once"):
        ATS(policy=("turn", "turn"))
    with pytest.raises(InputError, match="one change of what a client trains on"):
        Chain(defenses=(MixUp(), ATS()))
    with pytest.raises(InputError, match="fixed before its gradient is taken"):
        Chain(defenses=(Soteria(), ATS()))
    with pytest.raises(InputError, match="the network is fixed before"):
        Chain(defenses=(ATS(), Precode()))
    # Each example is still made of one image, so that bounding its gradient bounds what the image does.
    private = Chain(defenses=(ATS(), DPSGD(epsilon=1.0))).privacy(PLAN)
    assert private is not None
    assert private.unit == "example"


def test_faces_are_taken_back_by_what_the_mean_image_shows(faces_root: Path) -> None:
    """Without an attack in between; a mirrored face looks as much like the mean image."""
    faces = open_celeba(faces_root, image_size=32)
    images, labels = faces.batch(range(24))
    policy: tuple[Transform, ...] = ("turn", "shift", "negate")
    changed, _ = ATS(policy=policy).on_batch((images, labels), generator("defense", 0), PLAN, 2)
    back = straightened(changed, policy, public_mean(faces))
    exact = (back - images).abs().flatten(1).amax(1) < 1e-5
    assert int(((changed - images).abs().flatten(1).amax(1) < 1e-5).sum()) <= 2
    assert int(exact.sum()) >= 12


def test_an_attacker_that_knows_of_it_takes_it_back(faces_root: Path) -> None:
    known, ignored, mean = [], [], []
    faces, defense = open_celeba(faces_root, image_size=32), ATS(policy=("turn", "shift", "negate"))
    for victim in range(4):
        told, truth = seen(faces, defense, victim=victim, model=MLP)
        untold, _ = seen(faces, defense, victim=victim, model=MLP, told=False)
        known.append(attacked(told, truth, AUTO))
        ignored.append(attacked(untold, truth, AUTO))
        mean.append(of_mean(told, truth))
    assert sum(known) > sum(ignored) + 3.0
    assert sum(known) > sum(mean)


TURN = ATS(policy=("turn",))


@pytest.mark.parametrize(
    "chain", [(TURN, Prune(ratio=0.5)), (Precode(size=16), TURN), (TURN, DPSGD(epsilon=1.0))]
)
@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update"])
def test_every_signal_is_captured_and_attacked_in_chains(
    faces: FaceDataset, chain: tuple[AnyDefense, ...], signal: Signal
) -> None:
    gains = []
    for victim in range(3):
        told, truth = seen(faces, *chain, signal=signal, max_steps=1, victim=victim)
        attack = replace(AUTO, fallback=Matching(iterations=10, init="mean", lr=0.01))
        gains.append(attacked(told, truth, attack) - of_mean(told, truth))
    assert sum(gains) > -0.1, gains


def test_a_sweep_runs_through_it(faces_root: Path, tmp_path: Path) -> None:
    cells = [{"name": "ats", "defense": [{"kind": "ats", "policy": ["turn", "negate"]}]}]
    attack = {"kind": "auto", "fallback": {"iterations": 10}}
    changed = sweep(
        faces_root,
        cells=cells,
        victims={"tuning": 0, "test": 3},
        attackers=both(attack),
    )
    rows = run_quietly(changed, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert len(rows) == 2 * 3
