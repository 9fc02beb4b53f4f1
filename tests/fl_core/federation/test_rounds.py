"""Partition, clients, FedAvg, captures: what is captured is what the weights and the truth say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed, generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ClientUpdate, ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.data.partition import IID, Dirichlet, partition
from fl_core.federation.accuracy import count_correct
from fl_core.federation.aggregation import mean_change
from fl_core.federation.client import LocalTraining, loss_gradient, train_locally
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.training import apply_change, run
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture, victims
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import observe
from tests.support.federations import MODELS, make_federation

SIGNALS = ("gradients", "one_step_update", "local_update", "agg_update")


def test_seeds_depend_on_every_part_and_its_type() -> None:
    seeds = {
        derive_seed("a", 1),
        derive_seed("a", 2),
        derive_seed("a", "1"),
        derive_seed("a1"),
        derive_seed(1, "a"),
    }
    assert len(seeds) == 5
    assert derive_seed("a", 1) == derive_seed("a", 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(
    labels=st.lists(st.integers(0, 1), min_size=4, max_size=60),
    clients=st.integers(1, 4),
    alpha=st.one_of(st.none(), st.floats(0.05, 50)),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_partition_is_disjoint_and_complete(
    labels: list[int], clients: int, alpha: float | None, seed: int
) -> None:
    how = IID() if alpha is None else Dirichlet(alpha=alpha)
    indices = list(range(len(labels)))[::-1]
    shares = partition(torch.tensor(labels), indices, clients, how, seed=seed)
    assert sorted(i for share in shares for i in share) == sorted(indices)
    assert len(shares) == clients
    if alpha is None:
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_small_alpha_separates_labels_and_large_alpha_mixes_them() -> None:
    labels = torch.arange(2000) % 2

    def spread(alpha: float) -> float:
        shares = partition(labels, range(2000), 10, Dirichlet(alpha=alpha), seed=0)
        return float(np.std([labels[share].float().mean() for share in shares if share]))

    assert spread(0.05) > 3 * spread(100.0)


def test_too_few_images_for_the_clients_is_an_error() -> None:
    with pytest.raises(InputError, match="2 training images cannot be split over 3 clients"):
        partition(torch.zeros(5), [0, 1], 3, IID(), seed=0)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_sgd_follows_the_formula(momentum: float) -> None:
    config = ModelConfig(kind="mlp", image_size=8)
    model, state = build_model(config), initial_state(config, generator(0))
    batches = [(torch.randn(2, 3, 8, 8, generator=generator(i)), torch.tensor([0, 1])) for i in range(3)]
    weights, velocity = dict(state.parameters), dict.fromkeys(state.parameters, 0.0)
    for batch in batches:
        gradient = loss_gradient(model, ModelState(parameters=weights), batch)
        velocity = {name: momentum * velocity[name] + gradient[name] for name in weights}
        weights = {name: value - 0.05 * velocity[name] for name, value in weights.items()}
    trained = train_locally(model, state, batches, LocalTraining(lr=0.05, momentum=momentum))
    assert trained.steps == 3
    for name, value in weights.items():
        torch.testing.assert_close(trained.state.parameters[name], value, rtol=1e-5, atol=1e-7)


def update(values: list[float], examples: int) -> ClientUpdate:
    return ClientUpdate(
        client=0, tensors={"w": torch.tensor(values)}, examples=examples, steps=1, lr=0.1, momentum=0.0
    )


def test_fedavg_weighs_by_examples_by_hand() -> None:
    state = ModelState(parameters={"w": torch.tensor([1.0, 1.0, 1.0])})
    after = apply_change(state, mean_change([update([4.0, 0.0, 2.0], 1), update([0.0, 4.0, 2.0], 3)]))
    assert after.parameters["w"].tolist() == [2.0, 4.0, 3.0]


@pytest.mark.parametrize("config", MODELS, ids=lambda c: f"{c.kind}-{c.batch_norm}")
def test_captured_gradient_is_the_truths_gradient_at_the_captured_weights(
    faces_root: object, config: ModelConfig
) -> None:
    from fl_core.data.kinds.celeba import open_celeba

    dataset = open_celeba(faces_root, shape=ImageShape.square(config.image_size))  # type: ignore[arg-type]
    federation = make_federation(dataset, model=config)
    state = initial_state(config, generator("model", 3))
    for result in run(federation, state, rounds=2):
        state = result.state
    record, truth = capture(
        federation, state, signal="gradients", round_number=2, victim=Victim(client=1, batch=1)
    )
    again = loss_gradient(build_model(config), record.state, (truth.images, truth.labels))
    for name, value in record.updates[0].tensors.items():
        scale = float(value.abs().max()) + 1e-12
        assert float((again[name] - value).abs().max()) <= 1e-6 * max(scale, 1.0), name


def test_one_step_with_fresh_momentum_is_minus_lr_times_the_gradient(faces: ImageDataset) -> None:
    federation = make_federation(faces)
    state = initial_state(federation.model, generator(0))
    where = {"round_number": 1, "victim": Victim(client=2)}
    gradient, _ = capture(federation, state, signal="gradients", **where)
    step, truth = capture(federation, state, signal="one_step_update", **where)
    assert step.updates[0].steps == 1
    assert len(truth.ids) == 2
    for name, value in gradient.updates[0].tensors.items():
        torch.testing.assert_close(step.updates[0].tensors[name], -0.01 * value, rtol=1e-3, atol=1e-8)


def test_local_update_is_the_difference_of_weights_and_holds_all_of_the_clients_images(
    faces: ImageDataset,
) -> None:
    federation = make_federation(faces)
    state = initial_state(federation.model, generator(0))
    record, truth = capture(federation, state, signal="local_update", round_number=0, victim=Victim(client=3))
    assert set(truth.clients) == {3}
    assert len(truth.ids) == len(federation.shares[3]) == record.updates[0].examples
    batches = [federation.load(batch) for batch in federation.local_batches(3, 0)]
    trained = train_locally(build_model(federation.model), state, batches, federation.config.local)
    assert trained.steps == record.updates[0].steps == 3
    for name, value in record.updates[0].tensors.items():
        torch.testing.assert_close(value, trained.state.parameters[name] - state.parameters[name])


def test_aggregate_is_the_weighted_mean_of_the_participants_and_the_threat_model_hides_them(
    faces: ImageDataset,
) -> None:
    federation = make_federation(faces)
    state = initial_state(federation.model, generator(0))
    record, truth = capture(federation, state, signal="agg_update", round_number=0, victim=Victim(client=2))
    chosen = [update.client for update in record.updates]
    assert chosen[0] == 2
    assert len(chosen) == 2
    assert set(truth.clients) == set(chosen)
    seen = observe(record, ThreatModel())
    total = sum(update.examples for update in record.updates)
    for name, value in seen.tensors.items():
        mean = sum(update.tensors[name] * update.examples / total for update in record.updates)
        torch.testing.assert_close(value, mean)
    assert (seen.clients, seen.examples, seen.labels) == (2, total, None)


@pytest.mark.parametrize("signal", SIGNALS)
def test_victims_share_no_image(faces: ImageDataset, signal: str) -> None:
    federation = make_federation(faces)
    state = initial_state(federation.model, generator(0))
    count = 2 if signal == "agg_update" else 4
    found = victims(federation, signal, first_client=1, round_number=0, count=count)  # type: ignore[arg-type]
    assert found[0].client == 1
    ids = [
        image
        for victim in found
        for image in capture(federation, state, signal=signal, round_number=0, victim=victim)[1].ids  # type: ignore[arg-type]
    ]
    assert len(ids) == len(set(ids))


def test_asking_for_more_victims_than_there_are_says_how_many_there_are(faces: ImageDataset) -> None:
    with pytest.raises(InputError, match=r"13 victims were asked for, .* hold only 12"):
        victims(make_federation(faces), "gradients", first_client=0, round_number=0, count=13)
    with pytest.raises(InputError, match="2 disjoint groups of 2"):
        victims(make_federation(faces), "agg_update", first_client=0, round_number=0, count=3)
    with pytest.raises(InputError, match="Client 9 does not exist"):
        victims(make_federation(faces), "gradients", first_client=9, round_number=0, count=1)


def test_flips_are_in_the_truth(faces: ImageDataset) -> None:
    config = FederationConfig(clients=2, flip=True, local=LocalTraining(batch_size=8))
    federation = make_federation(faces, config=config)
    state = initial_state(federation.model, generator(0))
    record, truth = capture(federation, state, signal="gradients", round_number=0, victim=Victim(client=0))
    flipped = [name.endswith(":flip") for name in truth.ids]
    assert any(flipped)
    assert not all(flipped)
    again = loss_gradient(build_model(federation.model), state, (truth.images, truth.labels))
    torch.testing.assert_close(record.updates[0].tensors, again)


def test_training_learns_and_majority_is_beaten(faces_root: object) -> None:
    from fl_core.data.kinds.celeba import open_celeba

    dataset = open_celeba(faces_root, attributes=("Eyeglasses",), shape=ImageShape.square(16))  # type: ignore[arg-type]
    train = dataset.split("train")
    federation = make_federation(
        dataset,
        train=len(train),
        config=FederationConfig(clients=2, fraction=1.0, local=LocalTraining(lr=0.05, batch_size=4)),
    )
    state = initial_state(federation.model, generator(0))
    before = count_correct(federation.model, state, dataset, train, device=torch.device("cpu"))
    *_, last = run(federation, state, rounds=8)
    after = count_correct(federation.model, last.state, dataset, train, device=torch.device("cpu"))
    majority = int(torch.bincount(dataset.labels[train]).max())
    assert after > max(before, majority)


def test_batch_norm_modes_differ_in_their_buffers(faces_root: object) -> None:
    from fl_core.data.kinds.celeba import open_celeba

    dataset = open_celeba(faces_root, shape=ImageShape.square(32))  # type: ignore[arg-type]
    for mode, moves in (("eval", False), ("train", True)):
        config = ModelConfig(kind="resnet18", image_size=32, batch_norm=mode)  # type: ignore[arg-type]
        federation = make_federation(dataset, model=config)
        state = initial_state(config, generator(0))
        record, _ = capture(federation, state, signal="local_update", round_number=0, victim=Victim(client=0))
        moved = float(record.updates[0].buffers["bn1.running_mean"].abs().max()) > 0
        assert moved is moves
        after = apply_change(state, mean_change(record.updates))
        assert after.buffers["bn1.num_batches_tracked"].dtype == torch.int64


def test_views_that_contradict_the_signal_are_refused_and_ciphertexts_hide_everything(
    faces: ImageDataset,
) -> None:
    federation = make_federation(faces)
    state = initial_state(federation.model, generator(0))
    record, truth = capture(federation, state, signal="gradients", round_number=0, victim=Victim(client=0))
    with pytest.raises(InputError, match=r"threat.view = 'aggregate' does not go with signal 'gradients'"):
        observe(record, ThreatModel(view="aggregate"))
    for view in ("ciphertext", "key_holder"):
        with pytest.raises(InputError, match=rf"threat.view = '{view}' needs a defense .*'ckks'"):
            observe(record, ThreatModel(view=view))  # type: ignore[arg-type]
    assert observe(record, ThreatModel(), labels=truth.labels).labels is None
    known = observe(record, ThreatModel(labels="known"), labels=truth.labels).labels
    assert known is not None
    assert torch.equal(known, truth.labels)
