"""Every published attack by name, on every model that it claims; and the parts that only they use."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import pytest
import torch

from attack_core.attacks.registry import NAMED
from attack_core.base.search import Search, alone
from attack_core.gradients.objectives import Cosine
from attack_core.matching.loop.optimizers import FirstOrder, make_stepper, signed
from attack_core.matching.matching import Matching
from attack_core.matching.schedules import rate_factor
from attack_core.priors.deep_prior import DeepPrior
from attack_core.priors.priors import (
    BatchNormStatistics,
    GroupConsistency,
    L2Norm,
    PatchSparsity,
    TotalVariation,
    Wavelet,
)
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from tests.support import claims as support
from tests.support.matched import NoFloat64, attacked, grey, observed, score

CLAIMS: dict[str, tuple[str, ...]] = {
    "matching": ("lenet", "cnn64", "mlp", "resnet18"),
    "dlg": ("lenet", "cnn64", "mlp"),
    "idlg": ("lenet", "cnn64", "mlp"),
    "inverting_gradients": ("lenet", "cnn64", "mlp", "resnet18"),
    "features": ("lenet", "cnn64", "mlp", "resnet18"),
    "gradinversion": ("resnet18",),
    "deep_prior": ("lenet", "cnn64", "mlp", "resnet18"),
}
"""The models on which each attack by matching lowers its loss."""


def matching(name: str) -> Matching:
    attack = NAMED[name]
    assert isinstance(attack, Matching)
    return attack


def test_every_named_matching_has_its_claims() -> None:
    assert set(CLAIMS) == {name for name, attack in NAMED.items() if isinstance(attack, Matching)}


BEATS_GREY = {(name, kind) for name, kinds in support.CLAIMS.items() for kind in kinds}
"""Where `test_auto.py` asserts more."""
HERE = [
    (name, kind)
    for name, kinds in CLAIMS.items()
    for kind in kinds
    if (name, kind) not in BEATS_GREY or name == "gradinversion"
]
"""Where nothing does, and where what does is slow."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [pytest.param(*each, marks=pytest.mark.slow if each[1] == "resnet18" else ()) for each in HERE],
)
def test_every_attack_lowers_its_loss_on_every_model_that_it_claims(
    faces: ImageDataset, name: str, kind: Any
) -> None:
    observation, _ = observed(faces, ModelConfig(kind=kind, image_size=16))
    # A deep prior begins near grey and first moves away from it.
    iterations = 6 if kind == "resnet18" else 60 if name == "deep_prior" else 25
    attack = dataclasses.replace(matching(name), iterations=iterations)
    found = attack(observation, build_model(observation.model), generator("attack"))
    assert found.failed == 0
    assert found.images.shape == (1, 3, 16, 16)
    assert len(found.candidates) == attack.restarts
    assert bool(torch.isfinite(found.history).all())
    assert bool((found.history[1:].min(0).values < found.history[0]).all())


@pytest.mark.parametrize("name", [name for name in CLAIMS if name not in ("gradinversion", "features")])
def test_named_attacks_take_batches_and_repeat_themselves(faces: ImageDataset, name: str) -> None:
    observation, _ = observed(faces, ModelConfig(kind="lenet", image_size=16), batch=2)
    attack = dataclasses.replace(matching(name), iterations=8)
    model = build_model(observation.model)
    if name == "idlg":
        with pytest.raises(InputError, match="infers one label"):
            attack(observation, model, generator("attack"))
        return
    found = attack(observation, model, generator("attack"))
    assert found.images.shape == (2, 3, 16, 16)
    assert torch.equal(found.images, attack(observation, model, generator("attack")).images)


def test_lbfgs_goes_on_where_losses_are_tiny_and_searches_along_its_line() -> None:
    target = torch.linspace(-1.0, 1.0, 12)
    scales = torch.linspace(1.0, 30.0, 12)
    point = torch.zeros(12, requires_grad=True)
    stepper = make_stepper("lbfgs", [[point]], [1.0])

    def evaluate(which: list[int]) -> Search[torch.Tensor]:
        yield from ()
        loss = 1e-9 * (scales * (point - target)).square().sum()
        (point.grad,) = torch.autograd.grad(loss, point)
        return loss.detach().expand(len(which))

    for _ in range(30):
        alone(stepper.step([0], 1.0, evaluate))
    torch.testing.assert_close(point.detach(), target, atol=1e-3, rtol=0)


def test_lbfgs_begins_anew_where_a_step_has_led_nowhere() -> None:
    """Beyond a cliff the loss is not a number; a step over it is taken back, and the descent goes on."""
    point = torch.tensor([3.0, 3.0], requires_grad=True)
    stepper = make_stepper("lbfgs", [[point]], [1.0])
    broken = iter([False, True, True, True])

    def evaluate(which: list[int]) -> Search[torch.Tensor]:
        yield from ()
        factor = math.nan if next(broken, False) else 1.0
        loss = factor * (point.square() * torch.tensor([1.0, 10.0])).sum()
        (point.grad,) = torch.autograd.grad(loss, point)
        return loss.detach().expand(len(which))

    alone(stepper.step([0], 1.0, evaluate))
    assert bool(torch.isfinite(point).all())
    for _ in range(20):
        alone(stepper.step([0], 1.0, evaluate))
    torch.testing.assert_close(point.detach(), torch.zeros(2), atol=1e-3, rtol=0)


def test_signs() -> None:
    gradient = torch.tensor([-3.0, 0.0, 1e-4, 2.0])
    assert signed(gradient, "none") is gradient
    assert signed(gradient, "hard").tolist() == [-1.0, 0.0, 1.0, 1.0]
    soft = signed(gradient, "soft")
    mean = (3.0 + 1e-4 + 2.0) / 4
    assert soft.tolist() == pytest.approx([math.tanh(v / mean) for v in gradient.tolist()])
    torch.testing.assert_close(signed(gradient * 1e-20, "soft"), soft)
    assert signed(torch.zeros(3), "soft").tolist() == [0.0, 0.0, 0.0]


def test_a_hard_sign_moves_every_pixel_by_the_rate() -> None:
    point = torch.zeros(3, requires_grad=True)
    still = torch.zeros(3, requires_grad=True)
    stepper = FirstOrder("sgd", [[point], [still]], [0.1, 0.1], "hard")

    def evaluate(which: list[int]) -> Search[torch.Tensor]:
        yield from ()
        point.grad = torch.tensor([1e-9, -5.0, 0.0])
        return torch.zeros(len(which))

    alone(stepper.step([0], 1.0, evaluate))
    assert point.tolist() == pytest.approx([-0.1, 0.1, 0.0])
    assert still.tolist() == [0.0, 0.0, 0.0], "a candidate that has ended stays where it is"


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_steps_are_those_of_the_library_bit_for_bit(kind: Literal["adam", "adamw", "sgd"]) -> None:
    starts = [torch.randn(4, 3, generator=generator("leaf", i)) for i in range(3)]
    mine, theirs = ([start.clone().requires_grad_(True) for start in starts] for _ in range(2))
    rates = [0.1, 0.03]
    stepper = FirstOrder(kind, [mine[:2], mine[2:]], rates, "none")
    groups = [{"params": theirs[:2], "lr": 0.0}, {"params": theirs[2:], "lr": 0.0}]
    library: torch.optim.Optimizer
    match kind:
        case "adam":
            library = torch.optim.Adam(groups)
        case "adamw":
            library = torch.optim.AdamW(groups, weight_decay=0.01)
        case "sgd":
            library = torch.optim.SGD(groups, momentum=0.9)

    def slope(leaves: list[torch.Tensor]) -> None:
        for leaf in leaves:
            leaf.grad = leaf.detach() ** 3 + leaf.detach().sin()

    def evaluate(which: list[int]) -> Search[torch.Tensor]:
        yield from ()
        slope(mine)
        return torch.zeros(len(which))

    for step in range(5):
        alone(stepper.step([0, 1], 1.0 / (step + 1), evaluate))
        slope(theirs)
        for group, rate in zip(library.param_groups, rates, strict=True):
            group["lr"] = rate * (1.0 / (step + 1))
        library.step()
    assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_step_schedule_by_hand() -> None:
    factors = [rate_factor("step", i, 80) for i in range(80)]
    assert factors[:30] == [1.0] * 30
    assert factors[30:50] == pytest.approx([0.1] * 20)
    assert factors[50:70] == pytest.approx([0.01] * 20)
    assert factors[70:] == pytest.approx([0.001] * 10)


def test_a_deep_prior_paints_within_bounds_from_its_own_weights() -> None:
    first, again = (DeepPrior(2, ImageShape.square(24), generator(7), torch.device("cpu")) for _ in range(2))
    other = DeepPrior(2, ImageShape.square(24), generator(8), torch.device("cpu"))
    images = first.image()
    assert images.shape == (2, 3, 24, 24)
    assert float(images.detach().abs().max()) < 1.0
    assert torch.equal(images, again.image())
    assert not torch.equal(images, other.image())
    assert not torch.equal(images[0], images[1])
    assert sum(leaf.numel() for leaf in first.leaves()) == 32_739
    slopes = torch.autograd.grad(images.square().sum(), first.leaves())
    assert all(bool(torch.isfinite(slope).all()) and float(slope.abs().max()) > 0 for slope in slopes)


@pytest.mark.slow
def test_a_deep_prior_is_a_prior_by_itself(faces: ImageDataset) -> None:
    observation, truth = observed(faces, ModelConfig(kind="cnn64", image_size=16))
    settings: dict[str, Any] = {"objective": Cosine(), "iterations": 80, "tv_weight": 0.0}
    painted = attacked(observation, parametrisation="deep_prior", lr=0.01, restarts=2, **settings)
    assert score(painted.images, truth.images) > grey(truth.images) + 4.0
    assert not torch.equal(painted.candidates[0], painted.candidates[1])


def test_a_deep_prior_optimises_labels_too(faces: ImageDataset) -> None:
    observation, _ = observed(faces, batch=2)
    found = attacked(observation, parametrisation="deep_prior", lr=0.01, labels="optimize", iterations=20)
    assert found.loss < float(found.history[0, 0])
    assert found.labels.shape == (2,)


@pytest.mark.slow
def test_no_part_of_them_makes_float64(faces: ImageDataset) -> None:
    observation, _ = observed(faces, ModelConfig(kind="resnet18", image_size=16), batch=2)
    seen = dataclasses.replace(observation, public_mean=torch.zeros(3, 16, 16))
    priors = (
        TotalVariation(inner=2.0, outer=0.5, double_opponents=True),
        L2Norm(),
        Wavelet(),
        PatchSparsity(),
        BatchNormStatistics(),
        GroupConsistency(centre="median"),
    )
    with NoFloat64():
        for sign, labels, init in (("hard", "counts", "mean"), ("soft", "bias_corrected", "pattern-4")):
            attacked(
                seen,
                priors=priors,
                restarts=2,
                sign=sign,
                labels=labels,
                init=init,
                schedule="step",
                iterations=1,
            )
        attacked(seen, parametrisation="deep_prior", iterations=1)
