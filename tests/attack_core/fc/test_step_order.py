"""Which step saw which image, and at which weights: read off a client's real local SGD."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from attack_core.fc.head import Head, Prefix, find_head
from attack_core.fc.inversion import Shares, recover_shares
from attack_core.fc.step_order import Order, even_states, find_order, simulate
from attack_core.gradients.targets import gradient_estimate, travelled
from fl_core.base.rng import generator
from fl_core.base.types import EarlierUpdate, ModelState, Tensors
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, train_locally, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.threat.observation import Observation
from tests.support.local_training import CNN

SETTINGS = [(momentum, size) for momentum in (0.0, 0.9) for size in (1, 2)]


@dataclass(frozen=True)
class Client:
    """What a client did and what is seen of it: `states` are its weights before each step and after the last."""

    model: nn.Module
    observation: Observation
    images: Tensor
    labels: Tensor
    states: list[ModelState]
    head: Head

    @property
    def order(self) -> Order:
        size, count = self.observation.batch_size, len(self.labels)
        return Order(tuple(tuple(range(i, min(i + size, count))) for i in range(0, count, size)), 0.0)

    def features(self) -> Tensor:
        """Each image's layer input at the weights that saw it."""
        seen = zip(self.states, self.order.batches, strict=False)
        with torch.no_grad():
            return torch.cat(
                [
                    Prefix(self.model, state, self.head.first)(self.images[list(batch)])
                    for state, batch in seen
                ]
            )

    def shares(self) -> Shares:
        before = self.observation.state.parameters
        return recover_shares(
            gradient_estimate(self.observation),
            before,
            self.head,
            len(self.labels),
            generator("attack"),
            estimate="weighted",
            rounds=20,
            tolerance=0.1,
            after={name: value + self.observation.tensors[name] for name, value in before.items()},
        )


def client_of(
    faces: ImageDataset, momentum: float, size: int, *, images: int = 4, persistent: bool = False
) -> Client:
    model, state = build_model(CNN), initial_state(CNN, generator("model", 0))
    chosen = faces.split("train", 24)[7:]
    data, labels = faces.batch(chosen[:images], [False] * images)
    local = LocalTraining(lr=0.02, momentum=momentum, batch_size=size)
    velocity: Tensors = {}
    earlier: tuple[EarlierUpdate, ...] = ()
    if persistent:
        before = [faces.batch(chosen[images : images + 3], [False] * 3)]
        update, velocity = weight_update(model, state, before, local, client=0, examples=3)
        earlier = (EarlierUpdate(round=0, tensors=update.tensors, steps=1),)
    batches = list(zip(data.split(size), labels.split(size), strict=True))
    update, _ = weight_update(model, state, batches, local, client=0, examples=images, velocity=velocity)
    observation = Observation(
        signal="local_update",
        model=CNN,
        state=state,
        tensors=update.tensors,
        examples=images,
        clients=1,
        batch_size=size,
        steps=len(batches),
        lr=local.lr,
        momentum=momentum,
        earlier=earlier,
    )
    states = [
        train_locally(model, state, batches[:steps], local, velocity=velocity).state
        for steps in range(len(batches) + 1)
    ]
    return Client(model, observation, data, labels, states, find_head(model, state, CNN.shape))


def distance(one: ModelState, other: ModelState) -> float:
    square = sum((value - other.parameters[name]).square().sum() for name, value in one.parameters.items())
    return float(square) ** 0.5


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(("momentum", "size"), SETTINGS)
def test_every_image_is_given_to_the_step_that_saw_it(
    faces: ImageDataset, momentum: float, size: int, persistent: bool
) -> None:
    client = client_of(faces, momentum, size, persistent=persistent)
    shares, true = client.shares(), client.features()
    nearest = torch.cdist(shares.inputs, true).argmin(dim=1).tolist()
    assert sorted(nearest) == [0, 1, 2, 3]
    torch.testing.assert_close(shares.inputs, true[nearest], rtol=0, atol=1e-3 * float(true.abs().max()))
    assert torch.equal(shares.labels, client.labels[nearest])
    order = find_order(client.observation, client.head, shares)
    assert len(order.batches) == 4 // size
    for slot, image in enumerate(nearest):
        assert order.step_of(slot) == image // size
    assert order.misfit < 1e-3


def test_a_last_batch_may_be_smaller(faces: ImageDataset) -> None:
    client = client_of(faces, 0.9, 2, images=3)
    shares = client.shares()
    order = find_order(client.observation, client.head, shares)
    nearest = torch.cdist(shares.inputs, client.features()).argmin(dim=1).tolist()
    assert [len(batch) for batch in order.batches] == [2, 1]
    assert nearest[order.batches[1][0]] == 2


def test_misfit_tells_wrong_shares(faces: ImageDataset) -> None:
    client = client_of(faces, 0.9, 1)
    shares = client.shares()
    swapped = replace(shares, inputs=shares.inputs.roll(1, 0))
    assert find_order(client.observation, client.head, swapped).misfit > 0.05


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(("momentum", "size"), SETTINGS)
def test_training_on_the_true_images_ends_at_the_delta(
    faces: ImageDataset, momentum: float, size: int, persistent: bool
) -> None:
    client = client_of(faces, momentum, size, persistent=persistent)
    found = simulate(client.observation, client.model, client.images, client.labels, client.order)
    assert found.missed < 1e-6
    assert len(found.states) == client.observation.steps
    whole = distance(client.states[0], client.states[-1])
    for state, true in zip(found.states, client.states, strict=False):
        assert distance(state, true) < 1e-3 * whole


def test_what_a_wrong_simulation_misses_is_spread_over_the_steps(faces: ImageDataset) -> None:
    """With momentum m = 0.9 and steps 1 to 4 the path is 1, 2.9, 5.61, 9.049 long, by hand."""
    client = client_of(faces, 0.9, 1)
    wrong = torch.zeros_like(client.images)
    found = simulate(client.observation, client.model, wrong, client.labels, client.order)
    assert found.missed > 1e-3
    batches = list(zip(wrong.split(1), client.labels.split(1), strict=True))
    local = LocalTraining(lr=0.02, momentum=0.9)
    plain = [train_locally(client.model, client.states[0], batches[:n], local).state for n in range(5)]
    for step, length in enumerate((0.0, 1.0, 2.9, 5.61)):
        for name, value in found.states[step].parameters.items():
            missed = client.states[-1].parameters[name] - plain[-1].parameters[name]
            expected = plain[step].parameters[name] + length / 9.049 * missed
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    delta = sum(float(value.square().sum()) for value in client.observation.tensors.values())
    assert found.missed == pytest.approx(distance(client.states[-1], plain[-1]) ** 2 / delta, rel=1e-3)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_even_progress_begins_at_the_start_and_would_end_at_the_delta(
    faces: ImageDataset, momentum: float, persistent: bool
) -> None:
    """Every step takes the same gradient, from the velocity at the start: the path by hand, step by step."""
    client = client_of(faces, momentum, 1, persistent=persistent)
    observation = client.observation
    states = even_states(observation)
    assert len(states) == observation.steps == 4
    for name, start in observation.state.parameters.items():
        assert torch.equal(states[0].parameters[name], start)
        mean = gradient_estimate(observation)[name]
        velocity = torch.zeros_like(start)
        if persistent:
            velocity = -observation.earlier[0].tensors[name] / observation.lr
        weights = start
        for step in range(4):
            torch.testing.assert_close(states[step].parameters[name], weights, rtol=1e-4, atol=1e-6)
            velocity = momentum * velocity + mean
            weights = weights - observation.lr * velocity
        torch.testing.assert_close(weights, start + observation.tensors[name], rtol=1e-4, atol=1e-6)
    if not persistent:
        share = distance(states[2], states[0]) / distance(client.states[-1], client.states[0])
        assert share == pytest.approx(travelled(momentum, 2) / travelled(momentum, 4), rel=1e-3)


def test_even_progress_is_nearer_to_the_truth_than_standing_still(faces: ImageDataset) -> None:
    client = client_of(faces, 0.9, 1)
    for even, true in list(zip(even_states(client.observation), client.states, strict=False))[1:]:
        assert distance(even, true) < 0.8 * distance(client.states[0], true)
