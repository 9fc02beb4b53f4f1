"""Updates that plain PyTorch made of CIFAR pictures, audited with right and wrong facts (table: docs/audit.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from orchestrator.audit.audit import Answer, Question, run_audit
from orchestrator.audit.page import lines
from orchestrator.calibration.pictures import PictureSet, read_folder
from orchestrator.library.images import ImageSpec
from orchestrator.library.known import Known
from orchestrator.library.updates import Update

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SPEC = ImageSpec(height=32, width=32, mean=MEAN, std=STD)
LR = 0.05

Optimizer = Callable[[Any], torch.optim.Optimizer]


def sgd(**settings: float) -> Optimizer:
    return lambda parameters: torch.optim.SGD(parameters, lr=LR, **settings)


def adam() -> Optimizer:
    return lambda parameters: torch.optim.Adam(parameters, lr=1e-3)


def network(hidden: int = 96) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(3072, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 48),
            nn.ReLU(),
            nn.Linear(48, 10),
        )


def root() -> Path:
    folder = os.environ.get("CIFAR_ROOT")
    if not folder:
        pytest.skip("CIFAR_ROOT is not set")
    return Path(folder)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One update: how it was made, what is told of it, and what the audit has to say.

    `names` is the premise that has to be contradicted, with the words `says`. `found` says whether the pictures come
    back; None where the audit has to say that it cannot predict.
    """

    optimizer: Optimizer = field(default_factory=sgd)
    images: int = 1
    epochs: int = 1
    known: dict[str, Any] = field(default_factory=lambda: {"lr": LR, "steps": 1, "examples": 1})
    spec: ImageSpec = SPEC
    names: str = ""
    says: str = ""
    found: bool | None = True
    change: Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], Update] = Update.between


def other_round(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> Update:
    """The weights before are of a network that was trained elsewhere."""
    draws = torch.Generator().manual_seed(3)
    moved = {name: value + 0.02 * torch.randn(value.shape, generator=draws) for name, value in before.items()}
    return Update.between(moved, after)


def halved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> Update:
    """Both sides were stored as bfloat16."""
    return Update.between(
        *({name: value.bfloat16() for name, value in side.items()} for side in (before, after))
    )


CASES = {
    "SGD, right facts": Case(),
    "SGD, learning rate too small": Case(
        known={"lr": 0.01, "steps": 1, "examples": 1}, names="learning rate", says="at 0.05, which is taken"
    ),
    "SGD, 5 steps told of 1": Case(
        known={"lr": LR, "steps": 5, "examples": 1}, names="steps", says="at 1, which is taken"
    ),
    "SGD, 1 step told of 3": Case(epochs=3, names="steps", says="at 3, which is taken"),
    "SGD, nothing told": Case(known={}),
    "SGD with momentum, none told": Case(
        optimizer=sgd(momentum=0.9), epochs=3, known={"lr": LR, "steps": 3, "examples": 1}
    ),
    "SGD, batches of 2 told of 4": Case(
        images=4,
        known={"lr": LR, "batch_size": 2, "examples": 4},
        names="batch size",
        says="at 4, which is taken",
    ),
    "SGD, 3 images told of 1": Case(
        known={"lr": LR, "steps": 1, "examples": 3}, names="images", says="the signal shows 1"
    ),
    "SGD, 1 image told of 3": Case(images=3, names="images", says="the signal shows 3"),
    "SGD, mean and std left out": Case(spec=ImageSpec(height=32, width=32), found=None),
    "SGD, before and after swapped": Case(
        change=lambda before, after: Update.between(after, before),
        names="direction",
        says="swapped",
        found=None,
    ),
    "SGD, weights before of another round": Case(
        change=other_round, names="size", says="of another round", found=False
    ),
    "SGD, stored as bfloat16": Case(change=halved),
    "Adam, first step": Case(
        optimizer=adam(),
        known={"lr": 1e-3, "steps": 1, "examples": 1},
        names="optimizer",
        says="signs of the numbers alone",
        found=False,
    ),
    "Adam, three steps": Case(
        optimizer=adam(),
        epochs=3,
        known={"lr": 1e-3, "steps": 3, "examples": 1},
        names="optimizer",
        says="adaptive method",
        found=False,
    ),
}


def trained(case: Case, pictures: PictureSet) -> tuple[Update, torch.Tensor]:
    """The update, and the pictures behind it: all of them in each step."""
    assert pictures.labels is not None
    chosen = [(3 + 13 * i) % len(pictures.images) for i in range(case.images)]
    images, labels = pictures.images[chosen], pictures.labels[chosen]
    seen = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = case.optimizer(model.parameters())
    for _ in range(case.epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(seen), labels).backward()
        optimizer.step()
    return case.change(before, dict(model.state_dict())), images


def question(case: Case, update: Update, truth: torch.Tensor | None) -> Question:
    return Question(
        model=network(),
        sent=update,
        image=case.spec,
        classes=10,
        known=Known(**case.known),
        public=read_folder(root() / "test", case.spec, most=64, where="--public"),
        truth=truth,
        attack=Auto(analytic=Analytic(rounds=20), fallback=Matching(iterations=40)),
        clients=6,
    )


def audited(case: Case) -> Answer:
    update, truth = trained(case, read_folder(root() / "train", SPEC, most=100, where="--truth"))
    return run_audit(question(case, update, truth), lambda _: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_update_made_elsewhere_is_answered_honestly(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[name]
    answer = audited(case)
    record_property("answer", [answer.found.outcome, *lines(answer)])
    assert answer.psnr is not None
    contradicted = {each.name: each.contradiction for each in answer.premises if each.contradiction}
    if case.names:
        assert case.says in contradicted[case.names] + _value(answer, case.names)
    else:
        assert not contradicted
    if case.found is None:
        assert answer.expected == ()
        assert "cannot be said" in lines(answer)[0]
    elif case.found:
        assert min(answer.psnr) > 50
        assert answer.expected
        assert answer.overall.psnr > 50
    else:
        assert max(answer.psnr) < 30
        assert not answer.expected or answer.overall.psnr < 30


def _value(answer: Answer, name: str) -> str:
    return next(each.value for each in answer.premises if each.name == name)


def test_an_update_of_another_network_is_refused() -> None:
    case = CASES["SGD, right facts"]
    update, _ = trained(case, read_folder(root() / "train", SPEC, most=20, where="--truth"))
    asked = question(case, update, None)
    with pytest.raises(
        InputError, match=r"'1.weight' has shape \(96, 3072\) before training; the model's is \(80"
    ):
        run_audit(replace(asked, model=network(80)), lambda _: None)
    with pytest.raises(InputError, match=r"must be logits of shape \(2, 7\), as classes = 7 says"):
        run_audit(replace(asked, classes=7), lambda _: None)
