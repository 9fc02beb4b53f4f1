"""A step of local training: the library's numbers, in the layout that takes the least time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fl_core.base.rng import generator
from fl_core.federation.client import LocalTraining, batch_gradient, train_locally, trainable
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import laid_out

CNN = ModelConfig(kind="cnn64", image_size=16)


def batches(count: int, images: int) -> list[tuple[Tensor, Tensor]]:
    """Noise with labels."""
    random = generator("batches")
    return [
        (torch.rand((images, 3, 16, 16), generator=random) * 2 - 1, torch.arange(images) % 2)
        for _ in range(count)
    ]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("images", [1, 4])
def test_steps_are_those_of_the_librarys_sgd_bit_for_bit(momentum: float, images: int) -> None:
    model, state = build_model(CNN), initial_state(CNN, generator("model"))
    local = LocalTraining(lr=0.05, momentum=momentum)
    mine = train_locally(model, state, batches(3, images), local)
    mine = train_locally(model, mine.state, batches(2, images), local, velocity=mine.velocity)

    theirs = trainable(state)
    library = torch.optim.SGD(list(theirs.parameters.values()), lr=0.05, momentum=momentum)
    for pictures, labels in [*batches(3, images), *batches(2, images)]:
        found = batch_gradient(model, theirs, (laid_out(model, pictures), labels))
        for name, gradient in found.items():
            theirs.parameters[name].grad = gradient
        library.step()
    assert mine.state.same_numbers(theirs.detached())
    assert (mine.velocity.keys() == state.parameters.keys()) is (momentum > 0)
    assert mine.steps == 2


def test_momentum_buffers_of_before_stay_as_they_are() -> None:
    model, state = build_model(CNN), initial_state(CNN, generator("model"))
    before = {name: torch.ones_like(value) for name, value in state.parameters.items()}
    train_locally(model, state, batches(1, 2), LocalTraining(), velocity=before)
    assert all(bool((value == 1.0).all()) for value in before.values())


def test_images_are_laid_out_for_average_pooling_alone() -> None:
    pictures = batches(1, 4)[0][0]
    averaging = laid_out(build_model(CNN), pictures)
    assert averaging.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(averaging, pictures)
    for kind in ("vgg11", "resnet18", "lenet"):
        model = build_model(ModelConfig(kind=kind, image_size=32))  # type: ignore[arg-type]
        assert laid_out(model, pictures) is pictures, kind
    assert laid_out(build_model(CNN), pictures[:1]).is_contiguous()
