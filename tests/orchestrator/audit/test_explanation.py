"""Images that explain an update tell which facts of the training are right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attack_core.base.types import Reconstruction
from fl_core.federation.client import LocalTraining
from orchestrator.audit.explanation import Explanation, explained
from orchestrator.library.invert import case_at
from orchestrator.library.known import Known
from orchestrator.library.network import subject
from orchestrator.library.simulate import observe
from orchestrator.library.updates import Update
from tests.support.signals import CLASSES, SPEC, labels, network, pictures


def _explained(
    known: Known, *, images: int = 2, true_images: bool = True, lr_known: bool = True, **local: Any
) -> Explanation | None:
    """What the true images, or others, say of an update under `known`."""
    settings = {"lr": 0.1, "momentum": 0.0, "batch_size": images} | local
    update = observe(
        network(),
        pictures(images),
        labels(images),
        image=SPEC,
        classes=CLASSES,
        local=LocalTraining(**settings),
    )
    assert isinstance(update, Update)
    update = Update(tensors=update.tensors, before=update.before)
    case = case_at(subject(network(), SPEC, CLASSES), update, known=known)
    shown = pictures(images, seed=0 if true_images else 9) * 2 - 1
    answer = Reconstruction(
        images=shown,
        labels=labels(images),
        loss=0.0,
        candidates=shown[None],
        history=torch.zeros(1, 1),
        iterations=0,
        failed=0,
        method="test",
        outcome="analytic",
        notes=(),
    )
    return explained(case, answer, lr_known=lr_known)


def test_right_facts_leave_nothing() -> None:
    found = _explained(Known(lr=0.1, examples=2, steps=1))
    assert found is not None
    assert found.left < 1e-8
    assert not found.facts


@pytest.mark.parametrize(
    ("told", "local", "name", "right"),
    [
        ({"lr": 0.02, "steps": 1}, {}, "lr", 0.1),
        ({"lr": 0.1, "steps": 4}, {}, "steps", 1),
        ({"lr": 0.1, "steps": 1}, {"epochs": 5}, "steps", 5),
        ({"lr": 0.1, "steps": 4}, {"epochs": 4, "momentum": 0.9}, "momentum", 0.9),
        ({"lr": 0.1, "batch_size": 1}, {}, "batch_size", 2),
    ],
)
def test_one_wrong_fact_is_found(
    told: dict[str, Any], local: dict[str, Any], name: str, right: float
) -> None:
    found = _explained(Known(examples=2, **told), **local)
    assert found is not None
    assert found.facts[name] == pytest.approx(right, rel=0.01)


def test_steps_and_learning_rate_are_told_apart_where_neither_is_known() -> None:
    found = _explained(Known(lr=1.0, examples=2, steps=1), lr_known=False, lr=0.5, epochs=4)
    assert found is not None
    assert found.facts["steps"] == 4
    assert found.facts["lr"] == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("told", "local", "steps"),
    [
        ({"lr": 0.5, "steps": 3}, {}, 1),
        ({"lr": 5.0, "steps": 3}, {}, 1),
        ({"lr": 0.01, "steps": 1}, {"epochs": 4}, 4),
    ],
)
def test_a_wrong_learning_rate_hides_no_wrong_number_of_steps(
    told: dict[str, Any], local: dict[str, Any], steps: int
) -> None:
    found = _explained(Known(examples=2, batch_size=2, **told), **local)
    assert found is not None
    assert found.facts["steps"] == steps
    assert found.facts["lr"] == pytest.approx(0.1, rel=0.01)


def test_a_wrong_learning_rate_alone_keeps_the_steps() -> None:
    found = _explained(Known(examples=2, batch_size=2, lr=2.0, steps=3), epochs=3)
    assert found is not None
    assert found.facts == {"lr": pytest.approx(0.1, rel=0.01)}


def test_other_images_explain_the_update_under_no_facts() -> None:
    found = _explained(Known(lr=0.1, examples=2, steps=1), true_images=False)
    assert found is not None
    assert found.left > 0.05
    assert not found.facts


def test_a_gradient_has_no_training_to_explain() -> None:
    case = case_at(subject(network(), SPEC, CLASSES), dict(network().named_parameters()))
    answer = Reconstruction(
        images=pictures(1),
        labels=labels(1),
        loss=0.0,
        candidates=pictures(1)[None],
        history=torch.zeros(1, 1),
        iterations=0,
        failed=0,
        method="test",
        outcome="analytic",
        notes=(),
    )
    assert explained(case, answer) is None
