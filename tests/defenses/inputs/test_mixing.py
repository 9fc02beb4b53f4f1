"""MixUp and InstaHide: what is mixed, and how far attackers take it apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from torch.nn import functional

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.input_inversion.mixtures import expected_images, invert_mixup
from attack_core.inversion.continuation import Continuation
from attack_core.matching.matching import Matching
from attack_core.matching.presets import soft_matching
from attack_core.metrics.metrics import assign, psnr
from attack_core.signal.labels import resolve_labels
from attack_core.signal.signal_model import mixes_labels
from defenses.chain import AnyDefense, Chain
from defenses.compression.compression import Quantise
from defenses.compression.soteria import Soteria
from defenses.dp.sgd import DPSGD
from defenses.inputs.mixing import InstaHide, MixUp, mixed
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.shape import ImageShape
from fl_core.base.types import Signal
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import HiddenMixture, Mixture
from tests.support.defended import attacked, of_mean, public_mean, quality, seen
from tests.support.small import both, run_quietly, sweep

PLAN = FederationConfig(rounds=1, local=LocalTraining(batch_size=4))
SHORT = replace(soft_matching(), iterations=60)
AUTO = Auto(analytic=Analytic(inversion=Continuation(evaluations=120), refine="never"), fallback=SHORT)
MLP = ModelConfig(kind="mlp")


def batch_of(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, 8, 8, generator=generator("images", count)) * 2 - 1
    return images, torch.arange(count) % 3


def shares_of(images: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """The shares (B, B) by which `images` were mixed of `of`."""
    return torch.linalg.lstsq(of.flatten(1).mT, images.flatten(1).mT).solution.mT


def test_mixup_mixes_each_image_with_the_next_of_a_circle_and_labels_likewise() -> None:
    batch = batch_of()
    seen_shares = []
    for seed in range(300):
        images, labels = MixUp(alpha=0.4).on_batch(batch, stream("defense", seed), PLAN, 3)
        shares = shares_of(images, batch[0])
        torch.testing.assert_close(
            labels, shares @ functional.one_hot(batch[1], 3).float(), atol=1e-4, rtol=0
        )
        own = shares.diagonal()
        torch.testing.assert_close(own, own[:1].expand(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(shares.sum(0), torch.ones(4), atol=1e-4, rtol=0)
        assert int((shares - torch.diag(own) > 1e-4).sum()) in (0, 4)
        seen_shares.append(float(own[0]))
    assert kstest(seen_shares, "beta", (0.4, 0.4)).pvalue > 0.01
    assert kstest(seen_shares, "beta", (0.8, 0.8)).pvalue < 0.01


def test_instahide_mixes_so_many_images_and_draws_signs() -> None:
    batch = batch_of(6)
    defense = InstaHide(images=3)
    images, labels = defense.on_batch(batch, stream("defense", 0), PLAN, 3)
    again, _ = defense.on_batch(batch, stream("defense", 0), PLAN, 3)
    other, _ = defense.on_batch(batch, stream("defense", 1), PLAN, 3)
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    shares = torch.stack([defense._shares(0, 6, stream("shares", seed)) for seed in range(200)])
    assert bool((shares[:, 0] > 0).all())
    assert bool(((shares > 0).sum(1) == 3).all())
    assert float(shares.max()) <= 0.65
    torch.testing.assert_close(shares.sum(1), torch.ones(200))
    torch.testing.assert_close(labels.sum(1), torch.ones(6))
    # Absolute values are a mixture's; signs agree with it half of the time.
    plain = mixed(batch, torch.stack([shares[0].roll(i) for i in range(6)]), 3)[0]
    assert plain.shape == images.shape
    agreement = float((images.sign() == images.abs().sign()).float().mean())
    assert agreement == pytest.approx(0.5, abs=0.06)


def test_what_they_tell_and_what_they_refuse() -> None:
    assert MixUp(alpha=0.3).facts(PLAN) == (Mixture(alpha=0.3),)
    assert InstaHide(images=3).facts(PLAN) == (HiddenMixture(images=3),)
    assert Chain(defenses=(InstaHide(),)).privacy(PLAN) is None
    with pytest.raises(InputError, match=r"MixUp.alpha = 0.0"):
        MixUp(alpha=0.0)
    with pytest.raises(InputError, match=r"InstaHide.images = 1"):
        InstaHide(images=1)
    with pytest.raises(InputError, match=r"InstaHide.largest = 0.5"):
        InstaHide(largest=0.5)
    with pytest.raises(InputError, match=r"batch_size = 4 must be at least 5"):
        InstaHide(images=5).on_batch(batch_of(), stream("d"), PLAN, 3)
    with pytest.raises(InputError, match="one change of what a client trains on"):
        Chain(defenses=(MixUp(), InstaHide()))
    with pytest.raises(InputError, match="fixed before its gradient is taken"):
        Chain(defenses=(Soteria(), MixUp()))
    with pytest.raises(InputError, match="under mixup an example can be in several"):
        Chain(defenses=(MixUp(), DPSGD()))


@pytest.mark.parametrize("count", [2, 3])
def test_mixtures_are_undone_by_what_looks_natural(faces_root: Path, count: int) -> None:
    """Of images as they are mixed: the share that was used is found, and the images with it."""
    faces = open_celeba(faces_root, shape=ImageShape.square(32))
    for seed in range(3):
        images, _ = faces.batch(range(seed * count, seed * count + count))
        other = torch.eye(count).roll(1, 0)
        for share in (0.7, 0.8):
            matrix = share * torch.eye(count) + (1 - share) * other
            found, guess = invert_mixup(mixed((images, torch.zeros(count).long()), matrix, 2)[0])
            assert guess == pytest.approx(share, abs=0.06)
            chosen = assign(found.clamp(-1, 1), images)
            best = [
                float(psnr(found[j][None].clamp(-1, 1), images[i][None]))
                for i, j in enumerate(chosen)
                if j is not None
            ]
            assert min(best) > 20.0


def test_signs_are_taken_as_they_are_likely() -> None:
    """The expected value of normal numbers of which only the size is known, by its closed form and by counting."""
    draws = generator("normal")
    truth = 0.3 + 0.5 * torch.randn(1, 3, 64, 64, generator=draws)
    signs = torch.randint(0, 2, truth.shape, generator=draws) * 2.0 - 1.0
    mean = torch.full((3, 64, 64), 0.3)
    found = expected_images(truth * signs, mean)
    error = float((found - truth).square().mean())
    assert error < float((mean - truth).square().mean())
    near = (truth.abs() - 0.6).abs() < 0.05
    assert float(found[near].mean()) == pytest.approx(float(truth[near].mean()), abs=0.05)


def test_soft_labels_are_looked_for(faces: ImageDataset) -> None:
    told, _ = seen(faces, MixUp(), batch=2, labels=True)
    untold, _ = seen(faces, MixUp(), batch=2, told=False)
    assert mixes_labels(told)
    model = build_model(told.model)
    assert resolve_labels("auto", told, model, 2, generator("labels")) is None
    assert resolve_labels("auto", untold, model, 2, generator("labels")) is not None


def test_an_attacker_that_knows_of_mixup_takes_mixtures_apart(faces: ImageDataset) -> None:
    known, ignored = [], []
    for victim in (1, 2):
        told, truth = seen(faces, MixUp(), batch=2, victim=victim, model=MLP)
        untold, _ = seen(faces, MixUp(), batch=2, victim=victim, model=MLP, told=False)
        known.append(attacked(told, truth, AUTO))
        ignored.append(attacked(untold, truth, AUTO))
        assert known[-1] > of_mean(told, truth)
    assert sum(known) > sum(ignored) + 5.0


@pytest.mark.parametrize("kind", ["cnn64", "mlp"])
@pytest.mark.parametrize("images", [2, 4])
def test_under_instahide_the_answer_is_no_worse_than_the_mean_image(
    faces: ImageDataset, kind: str, images: int
) -> None:
    gains = []
    for victim in range(2 if kind == "mlp" else 1):
        model = ModelConfig(kind=kind)  # type: ignore[arg-type]
        told, truth = seen(faces, InstaHide(images=images), batch=images, victim=victim, model=model)
        gains.append(attacked(told, truth, AUTO) - of_mean(told, truth))
    assert sum(gains) / len(gains) > -0.1, gains


@pytest.mark.parametrize(
    "others", [(Soteria(ratio=0.5, probes=8),), (ClipOnly(), NoiseOnly(sigma=1e-4)), (Quantise(),)]
)
@pytest.mark.parametrize("signal", ["gradients", "one_step_update", "local_update"])
def test_mixing_goes_before_what_is_done_to_gradients(
    faces: ImageDataset, others: tuple[AnyDefense, ...], signal: Signal
) -> None:
    fallback = Matching(iterations=15, init="mean", lr=0.01, tv_weight=1e-4)
    told, truth = seen(faces, MixUp(), *others, batch=2, signal=signal, max_steps=2)
    found = replace(AUTO, fallback=fallback)(told, build_model(told.model), generator("attack", 0))
    assert len(found.images) == len(truth.images)
    assert quality(found.images, truth) > of_mean(told, truth) - 1.0
    assert public_mean(faces).shape == found.images[0].shape


@pytest.mark.slow
def test_a_sweep_runs_through_both(faces_root: Path, tmp_path: Path) -> None:
    changed = sweep(
        faces_root,
        cells=[
            {"name": "mixup", "defense": [{"kind": "mixup"}]},
            {"name": "instahide", "defense": [{"kind": "instahide", "images": 2}]},
        ],
        federation__local__batch_size=2,
        victims={"tuning": 0, "test": 2},
        attackers=both({"kind": "auto", "fallback": {"iterations": 20}}),
    )
    rows = run_quietly(changed, tmp_path)
    assert set(rows["status"]) == {"ok"}
    assert set(rows["defense"]) == {"mixup", "instahide"}
    assert len(rows) == 2 * 2 * 2 * 2
