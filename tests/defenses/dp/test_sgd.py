"""DP-SGD at the client: each example bounded, each step noised, what is released and what is told of it."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest
from torch import nn

import defenses.dp.per_example
from defenses.chain import Chain
from defenses.compression.compression import Prune
from defenses.dp.local import DPUpdate
from defenses.dp.per_example import check_per_example, clipped_sum, example_gradients
from defenses.dp.sgd import DPSGD, participations
from defenses.mechanism.noise import ClipOnly, NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.types import ClientUpdate, ModelState, Tensors
from fl_core.federation.client import (
    Batch,
    GradientRule,
    LocalTraining,
    batch_gradient,
    gradient_update,
    loss_gradient,
    trainable,
    weight_update,
)
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import ExampleClip, StepNoise

LENET = ModelConfig(kind="lenet", image_size=16)
HUGE = DPSGD(epsilon=1e9, max_norm=1e6)


def plan(**local: object) -> FederationConfig:
    return FederationConfig(rounds=3, local=LocalTraining(**local))  # type: ignore[arg-type]


def batch_of(count: int, size: int = 16) -> Batch:
    draws = generator("batch", count)
    return torch.rand(count, 3, size, size, generator=draws) * 2 - 1, torch.arange(count) % 2


def norm(tensors: Tensors) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in tensors.values()))


def rule(defense: DPSGD, config: FederationConfig, *seed: int) -> GradientRule:
    return defense.on_gradient(batch_gradient, stream("defense", *seed), config)


@pytest.mark.parametrize("kind", ["lenet", "mlp", "cnn64", "resnet18"])
def test_example_gradients_are_those_of_batches_of_one(kind: str) -> None:
    config = ModelConfig(kind=kind, image_size=16)  # type: ignore[arg-type]
    model, state = build_model(config), initial_state(config, generator("model"))
    images, labels = batch_of(3)
    together = example_gradients(model, trainable(state), (images, labels))
    for i in range(3):
        alone = loss_gradient(model, state, (images[i : i + 1], labels[i : i + 1]))
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value, rtol=1e-3, atol=1e-5)
            assert not together[name].requires_grad


def test_a_network_that_chooses_by_values_has_example_gradients_one_after_another() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.unused = nn.Linear(12, 3), nn.Parameter(torch.ones(2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.fc(images.flatten(1))
            return 2 * logits if images.sum().item() > 0 else logits

    model = Chooses()
    state = ModelState(parameters={name: value.detach() for name, value in model.named_parameters()})
    images, labels = torch.stack([torch.ones(3, 2, 2), -torch.ones(3, 2, 2)]), torch.tensor([0, 2])
    found = example_gradients(model, state, (images, labels))
    for i in range(2):
        alone = loss_gradient(model, state, (images[i : i + 1], labels[i : i + 1]))
        torch.testing.assert_close(found["fc.weight"][i], alone["fc.weight"])
    assert not found["unused"].any()


def test_batch_norm_that_keeps_no_statistics_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(InputError, match=r"track_running_stats = False: layer 1 normalises by the batch"):
        check_per_example(model)


def test_soft_labels_have_example_gradients_too() -> None:
    model, state = build_model(LENET), initial_state(LENET, generator("model"))
    images, labels = batch_of(2)
    hard = example_gradients(model, state, (images, labels))
    soft = example_gradients(model, state, (images, nn.functional.one_hot(labels, 2).float()))
    torch.testing.assert_close(hard, soft)


@given(
    max_norm=st.floats(1e-3, 1e2), count=st.integers(1, 5), size=st.floats(0.1, 100.0), seed=st.integers(0, 9)
)
@settings(max_examples=25, deadline=None)
def test_no_example_moves_the_sum_by_more_than_the_bound(
    max_norm: float, count: int, size: float, seed: int
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    parameters = {
        "1.weight": torch.randn(3, 12, generator=generator("weights", seed)),
        "1.bias": torch.zeros(3),
    }
    state = ModelState(parameters=parameters)
    images = size * torch.randn(count, 3, 2, 2, generator=generator("images", seed))
    labels = torch.arange(count) % 3
    total, factors = clipped_sum(model, state, (images, labels), max_norm)
    assert bool(((factors > 0) & (factors <= 1)).all())
    without, _ = clipped_sum(model, state, (images[1:], labels[1:]), max_norm) if count > 1 else ({}, None)
    moved = {name: value - without.get(name, torch.zeros(())) for name, value in total.items()}
    assert norm(moved) <= max_norm * (1 + 1e-4)
    own = norm({name: value[0] for name, value in example_gradients(model, state, (images, labels)).items()})
    if own < max_norm * (1 - 1e-5):
        assert factors[0] == 1.0


def test_memory_is_bounded_by_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = build_model(LENET), initial_state(LENET, generator("model"))
    whole, factors = clipped_sum(model, state, batch_of(5), 0.5)
    sizes = []
    plain = defenses.dp.per_example.example_gradients

    def counted(network: nn.Module, weights: ModelState, batch: Batch) -> dict[str, torch.Tensor]:
        sizes.append(len(batch[1]))
        return plain(network, weights, batch)

    monkeypatch.setattr(defenses.dp.per_example, "example_gradients", counted)
    monkeypatch.setattr(
        defenses.dp.per_example, "MOST_BYTES", 4 * 2 * sum(v.numel() for v in state.parameters.values())
    )
    chunked, same = clipped_sum(model, state, batch_of(5), 0.5)
    assert sizes == [2, 2, 1]
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(same, factors)


def test_with_a_boundless_budget_it_is_the_plain_gradient() -> None:
    model, state, config = (
        build_model(LENET),
        initial_state(LENET, generator("model")),
        plan(batch_size=4),
    )
    local = dataclasses.replace(HUGE, max_norm=1e3)
    found = gradient_update(model, state, batch_of(4), config.local, client=0, rule=rule(local, config))
    plain = loss_gradient(model, state, batch_of(4))
    sigma = local.sigma(config)
    for name, value in plain.items():
        assert float((found.tensors[name] - value).abs().max()) < 6 * sigma + 1e-5
    assert found.clip_factor == 1.0


def test_the_divisor_is_the_planned_batch_size() -> None:
    """A last, smaller batch tells nothing by its divisor and has no less noise."""
    model, state = build_model(LENET), initial_state(LENET, generator("model"))
    config = plan(batch_size=8)
    defense = DPSGD(epsilon=1e6, max_norm=1e-2)
    found = rule(defense, config)(model, trainable(state), batch_of(2))
    total, _ = clipped_sum(model, state, batch_of(2), 1e-2)
    noise = torch.cat([(found[name] - value / 8).flatten() for name, value in total.items()])
    assert kstest((noise / defense.sigma(config)).numpy(), "norm").pvalue > 1e-3


def test_noise_has_the_stated_scale_and_no_other() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20_000))
    state = ModelState(
        parameters={"1.weight": torch.zeros(20_000, 12), "1.bias": torch.zeros(20_000)},
    )
    defense, config = DPSGD(epsilon=2.0, max_norm=0.5), plan(batch_size=4)
    nothing = torch.zeros(4, 3, 2, 2), torch.full((4, 20_000), 1 / 20_000)
    found = rule(defense, config)(model, trainable(state), nothing)
    noise = found["1.weight"].flatten().numpy()
    sigma = defense.sigma(config)
    assert kstest(noise / sigma, "norm").pvalue > 1e-3
    for wrong in (0.98, 1.02):
        assert kstest(noise / (wrong * sigma), "norm").pvalue < 1e-3
    assert defense.facts(config) == (ExampleClip(max_norm=0.5), StepNoise(sigma=sigma))


def test_one_image_and_one_step_are_the_update_mechanism_on_the_gradient() -> None:
    """In distribution, at the same noise: what is left of it is the same function of the same gradient."""
    model, state, config = build_model(LENET), initial_state(LENET, generator("model")), plan()
    sgd, update = DPSGD(epsilon=5.0, max_norm=0.3), DPUpdate(epsilon=5.0, max_norm=0.3)
    assert sgd.sigma(config) == pytest.approx(update.sigma(config))
    one = gradient_update(model, state, batch_of(1), config.local, client=0, rule=rule(sgd, config))
    other = update.on_update(
        gradient_update(model, state, batch_of(1), config.local, client=0),
        stream("other"),
        config,
    )
    assert one.clip_factor == pytest.approx(other.clip_factor, rel=1e-5)
    assert one.noise_to_signal_db == pytest.approx(other.noise_to_signal_db, abs=0.5)
    values = [torch.cat([v.flatten() for v in found.tensors.values()]).numpy() for found in (one, other)]
    assert ks_2samp(*values).pvalue > 1e-3
    assert ks_2samp(values[0], 1.1 * values[1]).pvalue < 1e-3
    little = dataclasses.replace(sgd, epsilon=1e9), dataclasses.replace(update, epsilon=1e9)
    one = gradient_update(model, state, batch_of(1), config.local, client=0, rule=rule(little[0], config))
    other = little[1].on_update(
        gradient_update(model, state, batch_of(1), config.local, client=0), stream("other"), config
    )
    for name, value in one.tensors.items():
        assert float((value - other.tensors[name]).abs().max()) < 12 * little[0].sigma(config)


@pytest.mark.parametrize(("momentum", "steps"), [(0.0, 1), (0.0, 4), (0.9, 2), (0.5, 5)])
def test_the_noise_in_a_weight_delta_is_the_closed_form(momentum: float, steps: int) -> None:
    """Local SGD on noise alone, against the closed form and against one that is a little off."""
    size, sigma, lr = 40_000, 0.3, 0.05
    draws = generator("steps", steps)
    state = ModelState(parameters={"a": torch.zeros(size)})

    def noise(*_: object) -> dict[str, torch.Tensor]:
        return {"a": sigma * torch.randn(size, generator=draws)}

    local = LocalTraining(lr=lr, momentum=momentum)
    update, _ = weight_update(
        nn.Identity(), state, [batch_of(1)] * steps, local, client=0, examples=1, rule=noise
    )
    said = StepNoise(sigma=sigma).in_delta(lr=lr, momentum=momentum, steps=steps)
    found = update.tensors["a"].numpy()
    assert kstest(found / said, "norm").pvalue > 1e-3
    assert kstest(found / (1.05 * said), "norm").pvalue < 1e-3


@pytest.mark.parametrize(("momentum", "steps"), [(0.0, 1), (0.9, 3)])
def test_a_delta_says_how_much_of_it_is_noise(momentum: float, steps: int) -> None:
    """The recorded ratio is that of the closed form's energy to what is left of the delta."""
    model, state = build_model(LENET), initial_state(LENET, generator("model"))
    config = plan(lr=0.01, momentum=momentum, batch_size=2)
    defense = DPSGD(epsilon=1e3, max_norm=0.1)

    def trained(under: DPSGD) -> ClientUpdate:
        batches = [batch_of(2)] * steps
        return weight_update(
            model, state, batches, config.local, client=0, examples=2, rule=rule(under, config)
        )[0]

    update = trained(defense)
    sigma = StepNoise(sigma=defense.sigma(config)).in_delta(lr=0.01, momentum=momentum, steps=steps)
    noise = sigma**2 * sum(value.numel() for value in update.tensors.values())
    # With this little noise the same training without it is the signal.
    quiet = trained(dataclasses.replace(defense, epsilon=1e9))
    assert update.noise_to_signal_db == pytest.approx(
        10 * math.log10(noise / norm(quiet.tensors) ** 2), abs=0.15
    )
    assert 0 < update.clip_factor < 1  # type: ignore[operator]


def test_the_budget_counts_each_example_once_an_epoch_in_every_round() -> None:
    once = DPSGD(epsilon=2.0).sigma(FederationConfig(rounds=1))
    often = FederationConfig(rounds=4, local=LocalTraining(epochs=9))
    assert DPSGD(epsilon=2.0).sigma(often) == pytest.approx(6 * once)
    assert participations(plan(epochs=5, max_steps=2)) == 2
    assert participations(plan(epochs=2, max_steps=50)) == 2
    assert DPSGD(epsilon=2.0, adjacency="replace_one").sigma(often) == pytest.approx(12 * once)
    assert DPSGD(epsilon=2.0).sigma(FederationConfig(rounds=1, local=LocalTraining(batch_size=4))) == (
        pytest.approx(once / 4)
    )
    stated = DPSGD(epsilon=2.0).privacy(often)
    assert (stated.unit, stated.against, stated.sampling_rate) == ("example", "server", 1.0)
    assert stated.epsilon == 2.0
    # What one round releases, nine epochs together, is the budget of a plan with that round alone.
    back = DPSGD(epsilon=stated.epsilon_release, budget="release")
    assert back.privacy(often).epsilon == pytest.approx(2.0, rel=1e-6)
    assert back.sigma(often) == pytest.approx(DPSGD(epsilon=2.0).sigma(often), rel=1e-6)


def test_batch_statistics_are_refused_by_name() -> None:
    config = ModelConfig(kind="resnet18", image_size=16, batch_norm="train")
    with pytest.raises(InputError, match=r"^batch_norm = 'train': layer "):
        DPSGD().on_model(config)
    with pytest.raises(InputError, match=r"needs model\.batch_norm: eval, or GroupNorm"):
        rule(DPSGD(), plan())(
            build_model(config), trainable(initial_state(config, generator("m"))), batch_of(2)
        )
    fine = dataclasses.replace(config, batch_norm="eval")
    assert DPSGD().on_model(fine) == fine
    lenet = dataclasses.replace(LENET, batch_norm="train")
    assert DPSGD().on_model(lenet) == lenet


def test_a_rule_that_another_defense_changed_is_refused() -> None:
    with pytest.raises(InputError, match="changes how a gradient is taken"):
        DPSGD().on_gradient(lambda *_: {}, stream("x"), plan())


@pytest.mark.parametrize("other", [DPUpdate(), NoiseOnly()])
def test_a_second_source_of_noise_is_refused(other: DPUpdate | NoiseOnly) -> None:
    with pytest.raises(InputError, match="would not add up"):
        Chain(defenses=(DPSGD(), other))
    with pytest.raises(InputError, match=r"dp_update|noise"):
        Chain(defenses=(DPSGD(), ClipOnly(), other))


def test_what_follows_is_post_processing() -> None:
    chain = Chain(defenses=(DPSGD(epsilon=3.0), ClipOnly(), Prune(ratio=0.5)))
    stated = chain.privacy(plan())
    assert stated is not None
    assert stated.epsilon == 3.0
