"""Local training as the attacker follows it: true images explain the delta, and gradients are autograd's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attack_core.base.types import Reconstruction
from attack_core.gradients.handles import GradientHandle, gradient_handles
from attack_core.gradients.local_steps import soft_loss
from attack_core.gradients.objectives import Cosine
from attack_core.gradients.targets import geometric, gradient_estimate, travelled
from attack_core.local_sgd.problems import Count, merge_copies
from attack_core.local_sgd.simulation import Averaged, LocalModel, Simulated, Surrogate
from attack_core.matching.matching import Matching
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict
from fl_core.threat.observation import Observation
from tests.support.local_training import CNN, LENET, RESNET, some_images, trained_client

MLP = ModelConfig(kind="mlp", image_size=8)


def handles_of(
    local: LocalModel, observation: Observation, images: Tensor, labels: Tensor
) -> tuple[dict[str, GradientHandle], dict[str, Tensor]]:
    """Handles of candidates (C, B, ...) and targets."""
    count = Count(len(images), images.shape[1])
    moving = images if images.requires_grad else images.clone().requires_grad_(True)
    problem = local.prepare(observation, build_model(observation.model), count)
    return problem.handles(moving, labels, list(range(len(images)))), problem.targets


def mismatch(handles: dict[str, GradientHandle], targets: dict[str, Tensor]) -> Tensor:
    """Squared distances over the target's square, (C,)."""
    total = sum(handles[k].squared_distance(v, v.square().sum()) for k, v in targets.items())
    return total / sum(value.square().sum() for value in targets.values())  # type: ignore[return-value]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize(
    ("config", "momentum"), [(LENET, 0.9), (LENET, 0.0), (CNN, 0.9), (MLP, 0.5), (RESNET, 0.9)]
)
def test_true_images_explain_the_delta(config: ModelConfig, momentum: float, persistent: bool) -> None:
    lr = 0.002 if config is RESNET else 0.05
    observation, images, labels = trained_client(config, momentum=momentum, persistent=persistent, lr=lr)
    assert observation.steps == 4
    handles, targets = handles_of(Simulated(), observation, images[None], labels[None])
    for name, value in targets.items():
        # The client's weights are rounded, and delta / lr magnifies it.
        rounding = 2.0**-23 * float(observation.state.parameters[name].abs().max()) / observation.lr
        bound = 4 * rounding + 1e-4 * float(value.abs().max())
        torch.testing.assert_close(handles[name].dense()[0], value, rtol=0, atol=bound)
    averaged = mismatch(*handles_of(Averaged(), observation, images[None], labels[None])).detach()
    simulated = mismatch(handles, targets).detach()
    assert float(simulated) < 1e-3 * float(averaged)


def reference(observation: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """The same displacement by plain autograd through functional SGD from zero velocity, all dense: the L2 match."""
    model, m, lr = build_model(observation.model), observation.momentum, observation.lr
    weights = {k: v.clone().requires_grad_(True) for k, v in observation.state.parameters.items()}
    start, velocity = weights, dict.fromkeys(weights, torch.zeros(()))
    size, steps = observation.batch_size, observation.steps
    batches = list(zip(images.split(size), labels.split(size), strict=True))
    for t in range(steps):
        batch, target = batches[t % len(batches)]
        logits = predict(model, ModelState(parameters=weights), batch)
        loss = functional.cross_entropy(logits, target)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        velocity = {k: m * velocity[k] + g for k, g in zip(weights, gradients, strict=True)}
        weights = {k: v - lr * velocity[k] for k, v in weights.items()}
    path = lr * travelled(m, steps)
    total = torch.zeros(())
    for name, value in gradient_estimate(observation).items():
        total = total + ((start[name] - weights[name]) / path - value).square().sum()
    return total


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("config", [LENET, CNN, MLP], ids=lambda c: c.kind)
def test_loss_and_gradients_are_plain_autograds(config: ModelConfig, checkpoint: bool) -> None:
    observation, _, _ = trained_client(config, images=3)
    start, _ = some_images(config, 3, seed=9)
    logits = torch.randn((3, 2), generator=generator(4))
    plain = [start.clone().requires_grad_(True), logits.clone().requires_grad_(True)]
    expected = reference(observation, plain[0], plain[1].softmax(-1))
    wanted = torch.autograd.grad(expected, plain)
    mine = [start.clone().requires_grad_(True), logits.clone().requires_grad_(True)]
    local = Simulated(checkpoint=checkpoint)
    handles, targets = handles_of(local, observation, mine[0][None], mine[1].softmax(-1)[None])
    found = sum(handles[k].squared_distance(v, v.square().sum()) for k, v in targets.items())
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-7)  # type: ignore[index]
    for value, true in zip(torch.autograd.grad(found.sum(), mine), wanted, strict=True):  # type: ignore[union-attr]
        torch.testing.assert_close(value, true, rtol=1e-4, atol=1e-5 * float(true.abs().max()))


def test_checkpoints_change_nothing_and_candidates_do_not_mix() -> None:
    observation, images, labels = trained_client(CNN, persistent=True)
    candidates = torch.stack([images, images.flip(3), images * 0.5])
    soft = labels.expand(3, -1, -1)

    def gradient(local: LocalModel, chosen: Tensor) -> tuple[Tensor, Tensor]:
        leaf = chosen.clone().requires_grad_(True)
        loss = mismatch(*handles_of(local, observation, leaf, soft[: len(chosen)]))
        return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]

    kept, again = (gradient(Simulated(checkpoint=flag), candidates) for flag in (False, True))
    for one, other in zip(kept, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
    for i in range(3):
        loss, alone = gradient(Simulated(), candidates[i : i + 1])
        torch.testing.assert_close(loss[0], kept[0][i])
        torch.testing.assert_close(alone[0], kept[1][i], rtol=1e-4, atol=1e-9)


def test_several_steps_of_one_batch_are_followed_by_hand() -> None:
    """Scalars: the weighted mean of the gradients along the path is the displacement over its length."""
    m, steps = 0.9, 4
    weights = [geometric(m, steps - t) / travelled(m, steps) for t in range(steps)]
    assert sum(weights) == pytest.approx(1.0)
    velocity = moved = 0.0
    for gradient in (1.0, 3.0, -2.0, 0.5):
        velocity = m * velocity + gradient
        moved += velocity
    mean = sum(w * g for w, g in zip(weights, (1.0, 3.0, -2.0, 0.5), strict=True))
    assert mean * travelled(m, steps) == pytest.approx(moved)


@pytest.mark.parametrize(
    "local", [Simulated(), Surrogate(alpha=0.0, learn=False), Simulated(checkpoint=True)], ids=repr
)
def test_one_step_is_plain_matching(local: LocalModel) -> None:
    observation, images, labels = trained_client(CNN, images=2, epochs=1)
    assert observation.steps == 1
    found, targets = handles_of(local, observation, images[None], labels[None])
    model = build_model(observation.model)
    plain = gradient_handles(
        model, observation.state, images[None].requires_grad_(True), soft_loss(labels[None])
    )
    for name, value in gradient_estimate(observation).items():
        torch.testing.assert_close(targets[name], value, rtol=0, atol=0)
        torch.testing.assert_close(found[name].dense(), plain[name].dense(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("config", [CNN, MLP], ids=lambda c: c.kind)
def test_surrogate_is_the_gradient_between_the_weights_and_alpha_is_learned(config: ModelConfig) -> None:
    observation, images, labels = trained_client(config)
    model = build_model(config)
    free = torch.tensor(0.3).logit().requires_grad_(True)
    weights = {
        k: v + free.sigmoid() * observation.tensors[k] for k, v in observation.state.parameters.items()
    }
    loss = functional.cross_entropy(predict(model, ModelState(parameters=weights), images), labels)
    plain = dict(
        zip(weights, torch.autograd.grad(loss, list(weights.values()), create_graph=True), strict=True)
    )
    problem = Surrogate(alpha=0.3).prepare(observation, model, Count(2, len(images)))
    pair = images.expand(2, *images.shape).clone().requires_grad_(True)
    handles = problem.handles(pair, labels.expand(2, -1, -1), [0, 1])
    fixed, targets = handles_of(Surrogate(alpha=0.3, learn=False), observation, images[None], labels[None])
    for name, value in plain.items():
        for handle in (handles[name], fixed[name]):
            torch.testing.assert_close(handle.dense()[0], value, rtol=1e-4, atol=1e-6)
    square = sum((plain[k] - v).square().sum() for k, v in targets.items())
    (slope,) = torch.autograd.grad(square, free)  # type: ignore[arg-type]
    total = sum(handles[k].squared_distance(v, v.square().sum())[1] for k, v in targets.items())
    (found,) = torch.autograd.grad(total, problem.leaves(1))  # type: ignore[arg-type]
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-6)


def test_assumptions_replace_what_is_known() -> None:
    observation, images, labels = trained_client(LENET, momentum=0.9, lr=0.05)
    wrong = dataclasses.replace(observation, lr=0.5, momentum=0.1)
    right = Simulated(lr=0.05, momentum=0.9)
    assert float(mismatch(*handles_of(right, wrong, images[None], labels[None])).detach()) < 1e-6
    assert float(mismatch(*handles_of(Simulated(), wrong, images[None], labels[None])).detach()) > 1e-4
    one = Simulated(epochs=1)
    assert float(mismatch(*handles_of(one, observation, images[None], labels[None])).detach()) > 1e-6
    path = one.prepare(observation, build_model(LENET), Count(1, 4)).path  # type: ignore[attr-defined]
    assert path.batches == ((0, 1), (2, 3))


def test_free_order_has_copies_for_each_epoch_and_ties_them() -> None:
    observation, images, labels = trained_client(LENET, images=3)
    problem = Simulated(order="free", tie_weight=2.0).prepare(observation, build_model(LENET), Count(1, 3))
    assert problem.copies == 2
    path = problem.path  # type: ignore[attr-defined]
    assert path.batches == ((0, 1), (2,), (3, 4), (5,))
    unfinished = dataclasses.replace(observation, steps=5)
    more = Simulated(order="free").prepare(unfinished, build_model(LENET), Count(1, 3))
    assert more.copies == 2
    assert more.path.batches[4] == (0, 1)  # type: ignore[attr-defined]
    again = torch.cat([images, images])[None].requires_grad_(True)
    handles = problem.handles(again, torch.cat([labels, labels])[None], [0])
    assert float(mismatch(handles, problem.targets).detach()) < 1e-6
    assert float(problem.tie(again, [0]).detach()) == 0.0
    shuffled = torch.cat([images, images[[2, 0, 1]]])[None]
    assert float(problem.tie(shuffled, [0])) < 1e-10, "the order within an epoch does not count"
    assert float(problem.tie(torch.cat([images, -images])[None], [0])) > 0.01
    assert (
        float(Simulated().prepare(observation, build_model(LENET), Count(1, 3)).tie(images[None], [0])) == 0.0
    )


def test_copies_are_assigned_to_each_other_and_averaged() -> None:
    images, labels = some_images(LENET, 3)
    copies = torch.cat([images, images[[1, 2, 0]] + 0.1, images[[2, 0, 1]] - 0.1])
    found = Reconstruction(
        images=copies,
        labels=labels.repeat(3),
        loss=0.0,
        candidates=copies[None],
        history=torch.zeros(1, 1),
        iterations=1,
        failed=0,
        method="matching",
        outcome="matching",
    )
    merged = merge_copies(found, 3)
    torch.testing.assert_close(merged.images, images)
    torch.testing.assert_close(merged.candidates, images[None])
    assert torch.equal(merged.labels, labels)
    assert merge_copies(found, 1) is found


def test_what_cannot_be_followed_is_refused() -> None:
    observation, _, _ = trained_client(LENET)
    model, count = build_model(LENET), Count(1, 4)
    several = dataclasses.replace(observation, signal="agg_update", clients=3, examples=4)
    with pytest.raises(
        InputError, match="the signal is the mean of 3 clients: use the local model 'averaged'"
    ):
        Simulated().prepare(several, model, count)
    with pytest.raises(InputError, match=r"trains on all 4 images of the signal: Matching\.images = 2"):
        Simulated().prepare(observation, model, Count(1, 2))
    with pytest.raises(InputError, match="4 steps of batch size 1 do not reach all 5 images"):
        wide = dataclasses.replace(observation, examples=5)
        Simulated(batch_size=1).prepare(wide, model, Count(1, 5))
    gradients = dataclasses.replace(observation, signal="gradients", steps=1)
    with pytest.raises(InputError, match="needs the weights after training"):
        Surrogate().prepare(gradients, model, count)
    for options, message in (
        ({"lr": 0.0}, "lr = 0.0: must be more than 0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"epochs": 0}, "epochs = 0: must be at least 1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"tie_weight": -1.0}, "tie_weight = -1.0: must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            Simulated(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"alpha = 1.5: must be in \[0, 1\]"):
        Surrogate(alpha=1.5)
    with pytest.raises(InputError, match="since an end is never left"):
        Surrogate(alpha=0.0)


def attacked(observation: Observation, local: LocalModel, **options: Any) -> Reconstruction:
    settings: dict[str, Any] = {"iterations": 40, "schedule": "cosine", "tv_weight": 0.0, "labels": "known"}
    attack = Matching(local=local, **(settings | options))
    return attack(observation, build_model(observation.model), generator("attack"))


LOCALS: list[LocalModel] = [
    Averaged(),
    Surrogate(),
    Simulated(),
    Simulated(order="free"),
    Simulated(checkpoint=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("local", LOCALS, ids=repr)
def test_every_local_model_attacks_and_repeats_itself(local: LocalModel) -> None:
    observation, images, _ = trained_client(CNN, persistent=True)
    found, again = (attacked(observation, local, restarts=2, iterations=3) for _ in range(2))
    assert torch.equal(found.images, again.images)
    assert found.images.shape == images.shape
    assert found.candidates.shape == (2, *images.shape)
    assert found.labels.shape == (4,)
    soft = attacked(observation, local, labels="optimize", iterations=3, objective=Cosine())
    assert soft.images.shape == images.shape


def error(found: Reconstruction, images: Tensor) -> float:
    return float((found.images - images).square().mean())


@pytest.mark.slow
def test_following_the_steps_beats_averaging_them() -> None:
    """Few long steps on a network that changes on the way: its mean gradient is not that of its first weights."""
    observation, images, _ = trained_client(MLP, images=2, batch=1, epochs=2, lr=0.3)
    results = {
        local.kind: error(attacked(observation, local, iterations=150), images)
        for local in (Averaged(), Surrogate(), Simulated())
    }
    assert results["simulated"] < 0.3 * results["averaged"]


def test_a_mean_over_clients_is_one_virtual_batch() -> None:
    observation, images, _ = trained_client(MLP)
    two = dataclasses.replace(observation, signal="agg_update", clients=2)
    for local in (Averaged(), Surrogate()):
        assert attacked(two, local, iterations=5).images.shape == images.shape
    with pytest.raises(InputError, match="the mean of 2 clients"):
        attacked(two, Simulated())
