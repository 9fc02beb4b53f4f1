"""Batches taken apart: real mixtures come back image by image, and what cannot be told apart is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attack_core.fc.head import Head, find_head
from attack_core.fc.inversion import Shares, recover_shares
from attack_core.fc.spear import Inseparable, Separation, separate_batch
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict
from tests.support.local_training import CNN, LENET, some_images

MLP = ModelConfig(kind="mlp", image_size=16)
WIDE = replace(MLP, classes=4)


@dataclass(frozen=True)
class Batch:
    """A batch's gradient, and each image's true part of it at the layers that matter.

    `inputs` and `errors` are the last hidden layer's, `features` the first fully connected layer's inputs,
    `logit_errors` softmax minus one-hot over the number of images.
    """

    state: ModelState
    gradients: dict[str, Tensor]
    head: Head
    labels: Tensor
    inputs: Tensor
    errors: Tensor
    features: Tensor
    logit_errors: Tensor

    def taken_apart(self, count: int | None = None, *, seed: int = 0) -> Separation:
        hidden, last = self.head.layers[-2:]
        weights = self.state.parameters
        return separate_batch(
            self.gradients[f"{hidden}.weight"],
            self.gradients[f"{hidden}.bias"],
            len(self.labels) if count is None else count,
            generator("attack", seed),
            layers=((weights[f"{hidden}.weight"], weights[f"{hidden}.bias"]),),
            outgoing=(weights[f"{last}.weight"],),
            rounds=20,
        )

    def shares(self, *, rounds: int = 20) -> Shares:
        return recover_shares(
            self.gradients,
            self.state.parameters,
            self.head,
            len(self.labels),
            generator("attack", 0),
            estimate="weighted",
            rounds=rounds,
            tolerance=1e-3,
        )


def batch_of(config: ModelConfig, images: Tensor, labels: Tensor) -> Batch:
    """By hooks on the real network, each image's error by autograd."""
    model, state = build_model(config), initial_state(config, generator("model", 0))
    head = find_head(model, state, config.shape)
    calls: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: calls.update({name: (inputs[0], output)})
        )
        for name in head.layers
    ]
    moving = ModelState(parameters={k: v.clone().requires_grad_(True) for k, v in state.parameters.items()})
    logits = predict(model, moving, images)
    for hook in hooks:
        hook.remove()
    hidden = head.layers[-2] if len(head.layers) > 1 else head.first
    (errors,) = torch.autograd.grad(functional.cross_entropy(logits, labels), calls[hidden][1])
    one_hot = functional.one_hot(labels, config.classes)
    return Batch(
        state=state,
        gradients=loss_gradient(model, state, (images, labels)),
        head=head,
        labels=labels,
        inputs=calls[hidden][0].detach(),
        errors=errors,
        features=calls[head.first][0].detach(),
        logit_errors=(logits.softmax(-1).detach() - one_hot) / len(labels),
    )


def random_batch(config: ModelConfig, count: int) -> Batch:
    return batch_of(config, *some_images(config, count, seed=count))


def pairing(found: Tensor, true: Tensor) -> list[int]:
    """For each found row the nearest true one; fails unless each true one is somebody's."""
    nearest = torch.cdist(found, true).argmin(dim=1).tolist()
    assert sorted(nearest) == list(range(len(true)))
    return nearest


def assert_rows_close(found: Tensor, true: Tensor) -> None:
    assert float(((found - true).norm(dim=1) / true.norm(dim=1)).max()) < 1e-3


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("config", [MLP, CNN, WIDE], ids=["mlp", "cnn64", "four classes"])
def test_inputs_and_errors_come_back_in_some_order(config: ModelConfig, count: int) -> None:
    batch = random_batch(config, count)
    found = batch.taken_apart()
    order = pairing(found.inputs, batch.inputs)
    assert_rows_close(found.inputs, batch.inputs[order])
    assert_rows_close(found.errors, batch.errors[order])
    assert found.residual < 1e-5


@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "cnn64"])
def test_shares_follow_the_errors_down_to_the_features_and_up_to_the_labels(config: ModelConfig) -> None:
    batch = random_batch(config, 6)
    found = batch.shares()
    order = pairing(found.inputs, batch.features)
    assert_rows_close(found.inputs, batch.features[order])
    assert torch.equal(found.labels, batch.labels[order])
    torch.testing.assert_close(
        functional.normalize(found.logit_errors),
        functional.normalize(batch.logit_errors[order]),
        atol=1e-3,
        rtol=0,
    )
    rebuilt = found.errors.mT @ found.inputs
    torch.testing.assert_close(rebuilt, batch.gradients[f"{batch.head.first}.weight"], atol=1e-6, rtol=1e-3)


def test_one_image_needs_no_pattern() -> None:
    for config in (MLP, CNN, LENET):
        batch = random_batch(config, 1)
        found = batch.shares(rounds=1)
        assert_rows_close(found.inputs, batch.features)
        assert torch.equal(found.labels, batch.labels)
    assert_rows_close(random_batch(MLP, 1).taken_apart().inputs, random_batch(MLP, 1).inputs)


def test_the_same_seed_gives_the_same_shares_and_another_seed_the_same_images() -> None:
    batch = random_batch(CNN, 4)
    first, again, other = (batch.taken_apart(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.errors, again.errors)
    assert_rows_close(other.inputs, first.inputs[pairing(other.inputs, first.inputs)])


@pytest.mark.parametrize("claimed", [2, 4])
def test_another_number_of_images_is_refused(claimed: int) -> None:
    with pytest.raises(
        Inseparable, match=f"does not have rank {claimed}, one for each image, above its noise"
    ):
        random_batch(CNN, 3).taken_apart(claimed)


def test_more_images_than_the_layer_has_room_for_are_refused() -> None:
    weight, bias = torch.randn((6, 9), generator=generator(0)), torch.ones(6)
    with pytest.raises(Inseparable, match=r"6 images are too many for a layer of shape \(6, 9\)"):
        separate_batch(weight, bias, 6, generator(0), layers=((weight, bias),))


@pytest.mark.parametrize("config", [MLP, CNN], ids=["mlp", "cnn64"])
def test_images_that_switch_the_same_units_are_refused(config: ModelConfig) -> None:
    images, _ = some_images(config, 2)
    twin = images[:1] + 1e-3 * torch.randn(images[:1].shape, generator=generator("twin"))
    batch = batch_of(config, torch.cat([images, twin]), torch.tensor([0, 1, 1]))
    assert torch.equal(batch.errors[0] != 0, batch.errors[2] != 0)
    with pytest.raises(Inseparable, match="does not have rank 3, one for each image"):
        batch.shares(rounds=3)


def test_errors_without_zeros_are_refused_and_the_message_says_how_many_images_were_told_apart() -> None:
    random = generator("dense")
    errors, inputs = torch.randn((3, 20), generator=random), torch.randn((3, 30), generator=random)
    with pytest.raises(Inseparable, match="0 of 3 images were told apart"):
        separate_batch(
            errors.mT @ inputs,
            errors.sum(0),
            3,
            generator(0),
            layers=((torch.zeros(20, 30), torch.zeros(20)),),
            rounds=2,
        )


def test_a_layer_without_a_hidden_relu_is_refused() -> None:
    batch = random_batch(LENET, 2)
    with pytest.raises(
        Inseparable,
        match="one fully connected layer of 2 outputs holds no ReLU pattern that tells 2 images apart",
    ):
        batch.shares()


def test_noise_that_the_errors_leave_unexplained_is_refused() -> None:
    """The layer below is checked by its own gradient, not only the one that was taken apart."""
    batch = random_batch(MLP, 3)
    spoiled = batch.gradients["fc1.weight"]
    noise = torch.randn(spoiled.shape, generator=generator("noise"))
    noisy = spoiled + 0.1 * noise * spoiled.norm() / noise.norm()
    with pytest.raises(Inseparable, match=r"followed down to fc1 leave .* of its gradient unexplained"):
        replace(batch, gradients={**batch.gradients, "fc1.weight": noisy}).shares()
