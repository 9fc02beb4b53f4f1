"""What an attack counts of its own work: images differentiated twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.attacks.convolution_inversion import ConvolutionInversion
from attack_core.base.types import Reconstruction
from attack_core.inversion.continuation import Continuation
from attack_core.matching.candidates import EarlyStop
from attack_core.matching.matching import Matching
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from tests.support.matched import observed


def run(attack: Any, faces: ImageDataset, model: Any, *, batch: int = 1) -> Reconstruction:
    observation = observed(faces, ModelConfig(kind=model, image_size=16), batch=batch)[0]
    found: Reconstruction = attack(observation, build_model(observation.model), generator("work", 0))
    return found


def test_matching_counts_each_restarts_evaluations(faces: ImageDataset) -> None:
    attack = Matching(iterations=4, restarts=3)
    found = run(attack, faces, "mlp", batch=2)
    assert found.work == (4 + 1) * 3 * 2, "one evaluation an iteration, and one of what it ends at"
    assert attack.cost(2) == 4 * 3 * 2


def test_packing_changes_no_work(faces: ImageDataset) -> None:
    attack = Matching(iterations=3, restarts=3)
    assert run(attack.packed(1), faces, "mlp").work == run(attack, faces, "mlp").work


def test_a_line_search_evaluates_several_times(faces: ImageDataset) -> None:
    found = run(Matching(iterations=3, optimizer="lbfgs"), faces, "mlp")
    assert found.work is not None
    assert found.work > 3 + 1


def test_early_stopping_is_less_work(faces: ImageDataset) -> None:
    attack = Matching(iterations=40, restarts=2, early_stop=EarlyStop(patience=2, min_delta=1e9))
    assert run(attack, faces, "mlp").work == 2 * 3, "both ended after the third evaluation: none of an end"


def test_equations_differentiate_nothing(faces: ImageDataset) -> None:
    assert run(Analytic(), faces, "mlp").work == 0.0


@pytest.mark.parametrize("attack", [Analytic, ConvolutionInversion])
def test_features_count_a_third(faces: ImageDataset, attack: Any) -> None:
    short = attack(inversion=Continuation(evaluations=20, stages=2))
    found = run(dataclasses.replace(short, refine="never") if attack is Analytic else short, faces, "cnn64")
    assert found.outcome == "analytic"
    assert found.work == pytest.approx(found.iterations / 3)


def test_refinement_counts_whole_gradients(faces: ImageDataset) -> None:
    inversion, refinement = Continuation(evaluations=20, stages=2), Continuation(evaluations=10, stages=1)
    attack = Analytic(inversion=inversion, refinement=refinement, refine="always")
    whole = run(attack, faces, "cnn64")
    features = run(dataclasses.replace(attack, refine="never"), faces, "cnn64")
    assert whole.work is not None
    assert features.work is not None
    more = whole.iterations - features.iterations
    assert more > 0
    assert whole.work == pytest.approx(features.work + more)


def test_auto_counts_both_routes(faces: ImageDataset) -> None:
    found = run(Auto().shortened(0.02), faces, "lenet")
    assert found.work is not None
    assert found.work > 0
