"""Where exact features stay unexplained the answer says so, and is no worse than what was known before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.base.types import Reconstruction
from attack_core.fc.head import Prefix
from attack_core.fc.layer_inputs import LayerInputs
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.feature_fit import FeatureFit
from attack_core.metrics.controls import norm_matched_noise
from defenses.inputs.mixing import InstaHide
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.observation import Observation
from tests.support.defended import CNN, seen

UNEXPLAINED = "the answer does not explain the"
WORTHLESS = "what was trained on was not recovered"


def attack(evaluations: int) -> Analytic:
    return Analytic(inversion=Continuation(evaluations=evaluations))


def attacked(observation: Observation, evaluations: int = 60) -> Reconstruction:
    return attack(evaluations)(observation, build_model(observation.model), generator("attack"))


def of_pictures(observation: Observation, pictures: Tensor, scale: float = 1.0) -> Observation:
    """What is seen where a client has these pictures, or by clipping so many times less of it."""
    labels = torch.arange(len(pictures)) % observation.model.classes
    gradients = loss_gradient(build_model(observation.model), observation.state, (pictures, labels))
    scaled = {name: scale * value for name, value in gradients.items()}
    return replace(observation, tensors=scaled, examples=len(pictures), batch_size=len(pictures))


def noise(kind: str, count: int = 1) -> Tensor:
    values = torch.rand(count, 3, 16, 16, generator=generator("picture", kind)) * 2.0 - 1.0
    return values.sign() if kind == "binary" else values


@pytest.mark.parametrize("scale", [1.0, 0.01])
@pytest.mark.parametrize("kind", ["white", "binary"])
def test_noise_is_not_recovered_and_the_attacker_sees_it(
    faces: ImageDataset, kind: str, scale: float
) -> None:
    observation, _ = seen(faces)
    found = attacked(of_pictures(observation, noise(kind), scale))
    assert observation.public_mean is not None
    assert torch.equal(found.images, observation.public_mean[None])
    assert found.method == "analytic: prior alone"
    assert found.iterations > 0
    assert any(UNEXPLAINED in note for note in found.notes)
    assert WORTHLESS in found.notes[-1]
    assert "the mean public image" in found.notes[-1]


def test_without_a_public_image_the_prior_is_grey(faces: ImageDataset) -> None:
    observation, _ = seen(faces)
    blind = replace(observation, public_mean=None)
    found = attacked(of_pictures(blind, noise("binary")))
    assert "near grey" in found.notes[-1]
    assert float(found.images.abs().max()) < 0.1


def test_a_batch_of_noise_is_judged_together(faces: ImageDataset) -> None:
    observation, _ = seen(faces)
    found = attacked(of_pictures(observation, noise("white", count=2)))
    assert found.method == "analytic: prior alone", found.notes
    assert len(found.images) == 2


def test_a_face_that_was_left_too_early_has_the_note_and_is_kept(faces: ImageDataset) -> None:
    """Clipping scales the gradient by an unknown factor, which must not count as unexplained."""
    observation, truth = seen(faces)
    found = attacked(of_pictures(observation, truth.images, scale=0.01), evaluations=25)
    assert found.method == "analytic: features"
    assert UNEXPLAINED in found.notes[-1]


def test_an_answer_that_explains_its_features_has_no_note(faces: ImageDataset) -> None:
    observation, truth = seen(faces)
    found = attacked(of_pictures(observation, 0.5 * truth.images), evaluations=150)
    assert found.method == "analytic: features"
    assert not any(UNEXPLAINED in note for note in found.notes), found.notes


def test_noise_that_nobody_told_of_is_not_judged_as_if_the_signal_were_exact(faces: ImageDataset) -> None:
    """It leaves the first layer's gradient unexplained whatever the images are."""
    observation, _ = seen(faces)
    random, first = generator("noise"), "conv1.weight"
    tensors = dict(observation.tensors)
    for name in (first, "fc1.weight"):
        size = float(tensors[name].square().mean().sqrt())
        tensors[name] = tensors[name] + 3.0 * size * torch.randn(tensors[name].shape, generator=random)
    noisy = replace(observation, tensors=tensors)
    found = replace(attack(25), decode=False)(noisy, build_model(noisy.model), generator("attack"))
    assert found.method == "analytic: features"
    assert not any(UNEXPLAINED in note for note in found.notes)
    # The last convolution's gradient is exact: its input is decoded, and nothing judges by the noisy one.
    assert attacked(noisy, evaluations=25).outcome == "analytic"


def test_noise_in_a_gradients_place_is_told_without_a_search(faces: ImageDataset) -> None:
    """Half the energy of what is read of it lies below 0, where behind a ReLU nothing does."""
    observation, _ = seen(faces)
    found = attacked(norm_matched_noise(observation, generator("control")))
    assert observation.public_mean is not None
    assert torch.equal(found.images, observation.public_mean[None])
    assert (found.outcome, found.iterations) == ("prior", 0)
    assert "it is noise" in found.notes[-1]


def fit_of(observation: Observation, targets: Callable[[Tensor], Tensor], linear: bool = False) -> FeatureFit:
    """A judge of the `targets` that are made of what the mean image's features are; `linear` without any ReLU."""
    model = build_model(observation.model)
    read = LayerInputs.of(attack(30).reading, observation, model, generator("attack"))
    assert observation.public_mean is not None
    features = Prefix(model, observation.state, read.head.first)(observation.public_mean[None])
    if linear:
        layers = [(name, _open(layer)) for name, layer in model.named_children()]
        model = nn.Sequential(OrderedDict(layers))
    return FeatureFit(
        observation=observation,
        model=model,
        read=read,
        layer=read.head.first,
        targets=targets(features.detach()),
    )


def _open(layer: nn.Module) -> nn.Module:
    return nn.Identity() if isinstance(layer, nn.ReLU) else layer


def drawn(features: Tensor) -> Tensor:
    return 0.01 * torch.randn(features.shape, generator=generator("targets"))


def below_where_nothing_is(features: Tensor) -> Tensor:
    """The features themselves, and as much energy below 0 where they are 0."""
    off = features == 0.0
    return torch.where(off, -(features.square().sum() / off.sum()).sqrt(), features)


@pytest.mark.parametrize(
    ("targets", "linear", "told"),
    [
        (drawn, False, True),
        (lambda features: drawn(features).abs(), False, False),
        (below_where_nothing_is, False, False),
        (drawn, True, False),
    ],
)
def test_noise_is_half_below_zero_and_far_from_all_that_a_layer_sees(
    faces: ImageDataset, targets: Callable[[Tensor], Tensor], linear: bool, told: bool
) -> None:
    """Where nothing rectifies, the same numbers may be what a layer sees."""
    observation, _ = seen(faces)
    assert observation.public_mean is not None
    assert fit_of(observation, targets, linear).noise_alone(observation.public_mean[None]) is told


def test_under_instahide_it_says_that_the_encoded_images_were_not_recovered(faces: ImageDataset) -> None:
    auto = Auto(analytic=attack(60))
    observation, _ = seen(faces, InstaHide(images=2), batch=2, model=ModelConfig(kind="cnn64"))
    found = auto(observation, build_model(observation.model), generator("attack"))
    assert observation.public_mean is not None
    assert torch.equal(found.images, observation.public_mean.expand(len(found.images), -1, -1, -1))
    assert any("neither encoded images nor drawn signs are found" in note for note in found.notes)
    assert observation.model.image_size == CNN.image_size
    # From the features alone not even the encoded images are.
    auto = replace(auto, analytic=replace(auto.analytic, decode=False))
    found = auto(observation, build_model(observation.model), generator("attack"))
    assert found.outcome == "prior"
    assert any(WORTHLESS in note for note in found.notes), found.notes
