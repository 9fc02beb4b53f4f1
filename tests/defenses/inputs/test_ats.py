"""ATS: the policy's transforms, and the attacker that takes them back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.input_inversion.augmented import invert_augmentation
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from attack_core.matching.presets import soft_matching
from attack_core.metrics.metrics import psnr
from defenses.chain import AnyDefense, Chain
from defenses.compression.compression import Prune
from defenses.compression.soteria import Soteria
from defenses.dp.sgd import DPSGD
from defenses.inputs.ats import ATS
from defenses.inputs.mixing import MixUp
from defenses.inputs.precode import Precode
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.shape import ImageShape
from fl_core.base.types import Signal
from fl_core.data.augmentation.policies import PUBLISHED, Published
from fl_core.data.augmentation.transforms import (
    Transform,
    draws_of,
    inverse_transformed,
    is_lossy,
    transformed,
)
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.rounds import FederationConfig
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Augmented
from orchestrator.io.identity import canonical
from tests.support.defended import attacked, of_mean, public_mean, seen
from tests.support.small import both, run_quietly, sweep

PLAN = FederationConfig(rounds=1)
SHORT = replace(soft_matching(), iterations=60)
AUTO = Auto(analytic=Analytic(inversion=Continuation(evaluations=90), refine="never"), fallback=SHORT)
MLP = ModelConfig(kind="mlp")
KINDS: tuple[Transform, ...] = ("mirror", "turn", "shift", "negate", "brighten")
PAPER: Published = "3-1-7+43-18-18"


@given(st.permutations(KINDS), st.integers(0, 10_000))
def test_every_draw_can_be_taken_back(policy: list[Transform], seed: int) -> None:
    """Exactly, for images that brightening keeps in range."""
    draws = generator("draws", seed)
    image = torch.rand(3, 8, 8, generator=draws) - 0.5
    drawn = [
        choices[int(torch.randint(len(choices), (), generator=draws))]
        for choices in (draws_of(kind, 8) for kind in policy)
    ]
    torch.testing.assert_close(inverse_transformed(transformed(image, policy, drawn), policy, drawn), image)


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
    turned, labels = ATS(policy=("turn",)).on_batch(batch, stream("defense", 0), PLAN, 2)
    again, _ = ATS(policy=("turn",)).on_batch(batch, stream("defense", 0), PLAN, 2)
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
    faces = open_celeba(faces_root, shape=ImageShape.square(32))
    images, labels = faces.batch(range(24))
    policy: tuple[Transform, ...] = ("turn", "shift", "negate")
    changed, _ = ATS(policy=policy).on_batch((images, labels), stream("defense", 0), PLAN, 2)
    back = invert_augmentation(changed, policy, public_mean(faces))
    exact = (back - images).abs().flatten(1).amax(1) < 1e-5
    assert int(((changed - images).abs().flatten(1).amax(1) < 1e-5).sum()) <= 2
    assert int(exact.sum()) >= 12


def test_an_attacker_that_knows_of_it_takes_it_back(faces_root: Path) -> None:
    known, ignored, mean = [], [], []
    faces, defense = (
        open_celeba(faces_root, shape=ImageShape.square(32)),
        ATS(policy=("turn", "shift", "negate")),
    )
    for victim in range(4):
        told, truth = seen(faces, defense, victim=victim, model=MLP)
        untold, _ = seen(faces, defense, victim=victim, model=MLP, told=False)
        known.append(attacked(told, truth, AUTO))
        ignored.append(attacked(untold, truth, AUTO))
        mean.append(of_mean(told, truth))
    assert sum(known) > sum(ignored) + 3.0
    assert sum(known) > sum(mean)


def by_pillow(image: Image.Image, draw: tuple[float, ...], policy: str) -> Image.Image:
    """A published policy as its authors compute it, which is with Pillow; a sign moves the frame, not the image."""
    step, third, most = 150 / 331 / 9, 0.5 * 6 / 9, 0.5 * 7 / 9
    part, *signs = draw
    name = policy.split("+")[int(part)]
    operations = {
        "3-1-7": [("x", 9 * step), ("contrast", third), ("y", 2 * step)],
        "43-18-18": [("y", 3 * step), ("contrast", most), ("contrast", most)],
    }[name]
    for (kind, size), sign in zip(operations, signs, strict=True):
        if kind == "contrast":
            image = ImageEnhance.Contrast(image).enhance(1 + sign * size)
            continue
        moved = -sign * size * image.size[0]
        frame = (1, 0, moved, 0, 1, 0) if kind == "x" else (1, 0, 0, 0, 1, moved)
        image = image.transform(image.size, Image.Transform.AFFINE, frame, fillcolor=(0, 0, 0))
    return image


@pytest.mark.parametrize("policy", PUBLISHED)
@pytest.mark.parametrize("size", [16, 32])
def test_published_policies_are_the_papers(faces_root: Path, policy: Published, size: int) -> None:
    """To the rounding of two or three operations on whole numbers of 0 to 255."""
    image = open_celeba(faces_root, shape=ImageShape.square(size)).image(0)
    pixels = ((image.permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8)
    draws = draws_of(policy, size)
    assert len(set(draws)) == 8 * len(policy.split("+"))
    for draw in draws:
        expected = np.asarray(by_pillow(Image.fromarray(pixels), draw, policy)).astype(float)
        found = (transformed(image, [policy], [draw]).permute(1, 2, 0) + 1) * 127.5
        assert float(np.abs(found.numpy() - expected).max()) <= 4.0


@pytest.mark.parametrize("policy", PUBLISHED)
def test_a_published_policy_loses_a_part_of_the_image(policy: Published) -> None:
    """Images that differ nowhere but in what leaves the frame become the same one: no attacker can tell them apart.

    What is left comes back by the right draw, and `missing` stands where nothing is left.
    """
    image = 0.1 * torch.randn(3, 32, 32, generator=generator("image"))
    image = (image + torch.linspace(-0.2, 0.2, 32)).clamp(-0.3, 0.3)
    for draw in draws_of(policy, 32):
        changed = transformed(image, [policy], [draw])
        back = inverse_transformed(
            changed, [policy], [draw], missing=torch.full_like(image, 9.0).clamp(max=0.95)
        )
        lost = back == 0.95
        share = float(lost.float().mean())
        assert 0.1 < share < 0.6
        # What the first shift pushed out.
        strip = lost.all(-2 if policy.split("+")[int(draw[0])] == "3-1-7" else -1, keepdim=True)
        other = torch.where(strip, -image, image)
        assert not torch.equal(other, image)
        torch.testing.assert_close(transformed(other, [policy], [draw]), changed)
        assert float((back - image)[~lost].abs().max()) < 0.15
    assert is_lossy([policy]) and not is_lossy(KINDS)
    assert float(inverse_transformed(changed, [policy], [draw]).abs().max()) < 0.95, "grey by default"


@pytest.mark.parametrize("policy", PUBLISHED)
def test_the_draw_of_a_published_policy_shows_and_the_rest_is_the_mean_image(
    faces_root: Path, policy: Published
) -> None:
    """Without an attack in between: better than the mean image, never exact, judged by the untouched faces."""
    faces = open_celeba(faces_root, shape=ImageShape.square(32))
    images, labels = faces.batch(range(12))
    mean = public_mean(faces)
    changed, _ = ATS(policy=(policy,)).on_batch((images, labels), stream("defense", 0), PLAN, 2)
    back = invert_augmentation(changed, (policy,), mean)
    found, untouched, guess = (
        torch.stack([psnr(each[None], true[None]) for each, true in zip(batch, images, strict=True)])
        for batch in (back, changed, mean.expand_as(images))
    )
    assert float((found - guess).mean()) > 1.0
    assert float((found - untouched).mean()) > 3.0
    assert float(found.max()) < 40.0
    assert int((found > guess).sum()) >= 10


def test_the_settings_of_before_are_what_they_were() -> None:
    """Captures and trials are named by them."""
    assert canonical(ATS()) == '{"kind":"ats","policy":["mirror","turn","shift","negate","brighten"]}'


def test_an_attacker_is_told_that_a_part_is_lost(faces_root: Path, tmp_path: Path) -> None:
    cells = [{"name": "paper", "defense": [{"kind": "ats", "policy": [PAPER]}]}]
    attack = {"kind": "auto", "fallback": {"iterations": 10}}
    changed = sweep(
        faces_root,
        cells=cells,
        victims={"tuning": 0, "test": 3},
        attackers=both(attack),
        model__image_size=32,
    )
    rows = run_quietly(changed, tmp_path)
    assert set(rows["status"]) == {"ok"}
    by_attacker = rows.groupby("attacker")["psnr"].mean()
    assert by_attacker["adaptive"] > rows["psnr_mean_image"].mean()
    assert by_attacker["adaptive"] > by_attacker["generic"]
    told = rows[rows["attacker"] == "adaptive"]["notes"]
    assert told.str.contains("the mean public image where it cut").all()


TURN = ATS(policy=("turn",))


@pytest.mark.slow
@pytest.mark.parametrize(
    "chain", [(TURN, Prune(ratio=0.5)), (Precode(size=16), TURN), (TURN, DPSGD(epsilon=1.0))]
)
@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update"])
def test_every_signal_is_captured_and_attacked_in_chains(
    faces: ImageDataset, chain: tuple[AnyDefense, ...], signal: Signal
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
