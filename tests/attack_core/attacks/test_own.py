"""A user's own attack, objective and prior: their answers are checked, and what they raise is told with its line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from attack_core.attacks.own import OwnAttack
from attack_core.base.types import AttackFailed
from attack_core.gradients.objectives import L2, OwnObjective
from attack_core.matching.matching import Matching
from attack_core.priors.priors import L2Norm, OwnPrior
from fl_core.base.own_code import OwnCode, OwnCodeFailed
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.threat.observation import NotObservable, Observation
from tests.support.matched import observed
from tests.support.own import ATTACK


def _own(tmp_path: Path, text: str = ATTACK, **settings: Any) -> OwnAttack:
    (tmp_path / "a.py").write_text(text)
    return OwnAttack(code=OwnCode.read("a.py:Mine", tmp_path, where="x"), settings=settings)


@pytest.fixture(name="seen")
def _seen(faces: ImageDataset) -> Observation:
    return observed(faces)[0]


def test_what_the_class_answers_is_the_answer(tmp_path: Path, seen: Observation) -> None:
    found = _own(tmp_path, steps=3)(seen, build_model(seen.model), generator("attack"))
    assert found.iterations == 3
    assert torch.allclose(found.images, torch.full_like(found.images, -0.3))
    assert _own(tmp_path).cost(4) == 0.0


_RESTARTS = """
    @property
    def restarts(self) -> int:
        return self.steps

    def packed(self, count: int) -> Mine:
        import dataclasses
        return dataclasses.replace(self, shade=float(count))
"""


def test_restarts_and_packing_are_the_classes_own(tmp_path: Path) -> None:
    own = _own(tmp_path, ATTACK + _RESTARTS, steps=4)
    assert (own.restarts, own.together) == (4, 4)
    packed = own.packed(2)
    assert (packed.itself.shade, packed.restarts) == (2.0, 4)
    plain = _own(tmp_path)
    assert (plain.restarts, plain.packed(1).itself) == (1, plain.itself)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "images=images,",
            "images=images[0],",
            "returned images of shape .* must be \\(images, 3, 16, 16\\)",
        ),
        ("images=images,", "images=images.double(),", "torch.float64: must be"),
        ("images=images,", "images=images - 2,", r"images that are not all in \[-1, 1\]; clamp them"),
        ("images=images,", "images=images * torch.nan,", "not all in"),
        ("candidates=images[None]", "candidates=images", "returned candidates of shape"),
        (
            "dtype=torch.int64",
            "dtype=torch.float32",
            "returned labels of shape .*torch.float32: must be 1 whole",
        ),
        ("dtype=torch.int64)", "dtype=torch.int64).tolist()", "returned labels as list: must be a tensor"),
        ("images=images,", "images=images.numpy(),", "returned images as ndarray: must be a tensor"),
        ("return Reconstruction(", "return dict(", "returned dict: must be a Reconstruction"),
        ("images = torch.full", "images = torch.ful", r"AttributeError: .*\(a\.py, line \d+\)"),
    ],
)
def test_an_answer_that_cannot_be_scored_is_refused(
    old: str, new: str, message: str, tmp_path: Path, seen: Observation
) -> None:
    own = _own(tmp_path, ATTACK.replace(old, new, 1))
    with pytest.raises(OwnCodeFailed, match=message):
        own(seen, build_model(seen.model), generator("attack"))


@pytest.mark.parametrize("error", [AttackFailed, NotObservable, MemoryError])
def test_an_attacks_own_words_and_memory_stay_what_they_are(
    error: type[Exception], tmp_path: Path, seen: Observation
) -> None:
    where = "attack_core.base.types" if error is AttackFailed else "fl_core.threat.observation"
    imported = "" if error is MemoryError else f"from {where} import {error.__name__}; "
    raised = f"        {imported}raise {error.__name__}('on purpose')\n        images = torch.full"
    own = _own(tmp_path, ATTACK.replace("        images = torch.full", raised, 1))
    with pytest.raises(error, match="on purpose"):
        own(seen, build_model(seen.model), generator("attack"))


_L2 = """
from dataclasses import dataclass
import torch
from fl_core.base.types import Config

@dataclass(frozen=True, kw_only=True)
class Mine(Config):
    weight: float = 1.0
    def loss(self, terms):
        return {loss}
    def penalty(self, images, scene):
        return {penalty}
"""


def _matching(tmp_path: Path, loss: str, penalty: str) -> Matching:
    (tmp_path / "m.py").write_text(_L2.format(loss=loss, penalty=penalty))
    code = OwnCode.read("m.py:Mine", tmp_path, where="x")
    own = OwnPrior(code=code, settings={"weight": 0.01})
    return Matching(iterations=5, tv_weight=0.0, objective=OwnObjective(code=code), priors=(own,))


def test_an_own_objective_and_prior_are_the_same_as_ours(tmp_path: Path, seen: Observation) -> None:
    own = _matching(
        tmp_path,
        "(terms.weights * terms.distance()).sum(1)",
        "self.weight * images.flatten(2).norm(dim=2).sum(1)",
    )
    ours = dataclasses.replace(own, objective=L2(), priors=(L2Norm(weight=0.01),))
    found, wanted = (each(seen, build_model(seen.model), generator("attack")) for each in (own, ours))
    torch.testing.assert_close(found.images, wanted.images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "penalty", "message"),
    [
        ("terms.distance()", "images.sum((1, 2, 3, 4))", r"returned \(1, \d+\) in torch.float32 from loss"),
        (
            "terms.distance().sum(0)",
            "images.sum((1, 2, 3, 4))",
            r"returned \([2-9]\d*,\) .* must be one loss for each of 1 candidates, .* sum over dim 1, the parameters",
        ),
        ("0.0", "images.sum((1, 2, 3, 4))", "returned float from loss"),
        ("terms.distance().sum(1).double()", "images.sum((1, 2, 3, 4))", r"returned \(1,\) in torch.float64"),
        ("terms.distance().sum(1)", "images.sum()", "must return one penalty for each of 1 candidates"),
        ("terms.distanc().sum(1)", "images.sum()", r"m\.py:Mine failed in loss: AttributeError.*line 10\)"),
    ],
)
def test_losses_that_are_none_are_refused(
    loss: str, penalty: str, message: str, tmp_path: Path, seen: Observation
) -> None:
    with pytest.raises(OwnCodeFailed, match=message):
        _matching(tmp_path, loss, penalty)(seen, build_model(seen.model), generator("attack"))
