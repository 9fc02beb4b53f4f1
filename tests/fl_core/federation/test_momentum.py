"""Momentum across rounds: who keeps what, what the server saw, and the gradient that follows from it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attack_core.gradients.targets import (
    check_observation,
    geometric,
    gradient_estimate,
    travelled,
    velocity_estimate,
)
from attack_core.metrics.controls import norm_matched_noise
from defenses.chain import Chain
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import EarlierUpdate, ModelState, Truth
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.client import LocalTraining, loss_gradient, train_locally
from fl_core.federation.federation import Federation
from fl_core.federation.hooks import Undefended
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.training import run
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord
from orchestrator.capture.store import CaptureStore
from tests.support.federations import make_federation
from tests.support.small import sweep

LENET = ModelConfig(kind="lenet", image_size=16)


def federation_of(
    faces: ImageDataset, *, clients: int = 3, fraction: float = 1.0, **local: Any
) -> Federation:
    settings: dict[str, Any] = {"batch_size": 2, "momentum_state": "persistent", "lr": 0.05}
    config = FederationConfig(
        clients=clients, fraction=fraction, rounds=5, local=LocalTraining(**(settings | local))
    )
    return make_federation(faces, model=LENET, config=config)


def history_of(federation: Federation, rounds: int) -> tuple[ModelState, ...]:
    """The global weights at the start of rounds 0 to `rounds`."""
    start = initial_state(federation.model, generator("model", 0))
    return (start, *(result.state for result in run(federation, start, rounds=rounds)))


def captured(
    federation: Federation, *, signal: str, rounds: int = 3, client: int = 0
) -> tuple[RoundRecord, Truth]:
    *history, state = history_of(federation, rounds)
    return capture(
        federation,
        state,
        signal=signal,  # type: ignore[arg-type]
        round_number=rounds,
        victim=Victim(client=client),
        history=history,
    )


def seen(record: RoundRecord) -> Observation:
    return observe(record, ThreatModel())


def true_gradient(record: RoundRecord, truth: Truth) -> dict[str, Tensor]:
    return loss_gradient(build_model(record.model), record.state, (truth.images, truth.labels))


def relative_error(found: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    square = sum(float((found[name] - true[name]).square().sum()) for name in true)
    return math.sqrt(square / sum(float(value.square().sum()) for value in true.values()))


@pytest.mark.parametrize("max_steps", [None, 1, 3])
def test_training_in_two_rounds_that_keeps_its_velocity_is_training_in_one(max_steps: int | None) -> None:
    config = ModelConfig(kind="mlp", image_size=8)
    model, state = build_model(config), initial_state(config, generator(0))
    batches = [(torch.randn(2, 3, 8, 8, generator=generator(i)), torch.tensor([0, 1])) for i in range(4)]
    local = LocalTraining(lr=0.05, momentum_state="persistent", max_steps=max_steps)
    whole = train_locally(model, state, batches, local)
    half = train_locally(model, state, batches[:2], local)
    kept = {name: value.clone() for name, value in half.velocity.items()}
    rest = train_locally(model, half.state, batches[2:], local, velocity=half.velocity)
    assert (whole.steps, rest.steps) == (4, 2)
    torch.testing.assert_close(rest.state.parameters, whole.state.parameters)
    torch.testing.assert_close(rest.velocity, whole.velocity)
    torch.testing.assert_close(half.velocity, kept, rtol=0, atol=0)
    assert train_locally(model, state, batches, LocalTraining(momentum=0.0)).velocity == {}


def test_federation_remembers_each_clients_velocity_by_hand(faces: ImageDataset) -> None:
    federation = federation_of(faces, clients=4, fraction=0.5, max_steps=2)
    start = initial_state(federation.model, generator("model", 0))
    state, memory = start, dict[int, Any]()
    for number, result in enumerate(run(federation, start, rounds=4)):
        changes = []
        for client in result.participants:
            batches = map(federation.load, federation.local_batches(client, number)[:2])
            local = federation.config.local
            after = train_locally(build_model(LENET), state, batches, local, velocity=memory.get(client))
            memory[client] = after.velocity
            changes.append({k: after.state.parameters[k] - v for k, v in state.parameters.items()})
        moved = {k: v + sum(c[k] for c in changes) / len(changes) for k, v in state.parameters.items()}
        torch.testing.assert_close(result.state.parameters, moved)
        state = result.state
    assert len(memory) > 2, "some clients came back, some came late"


def test_max_steps_ends_local_training_and_counts_only_what_was_seen(faces: ImageDataset) -> None:
    federation = federation_of(faces, max_steps=3)
    record, truth = captured(federation, signal="local_update", rounds=0)
    update = record.updates[0]
    assert (update.steps, update.examples, len(truth.ids)) == (3, 6, 6)
    assert len(federation.local_batches(0, 0)) == 4
    with pytest.raises(InputError, match="max_steps = 0: must be at least 1, or null for all"):
        LocalTraining(max_steps=0)


def test_capture_replays_what_the_client_did_before(faces: ImageDataset) -> None:
    federation = federation_of(faces, clients=4, fraction=0.5)
    states = history_of(federation, 4)
    for client in range(4):
        record, _ = capture(
            federation,
            states[4],
            signal="local_update",
            round_number=4,
            victim=Victim(client=client),
            history=states[:4],
        )
        took_part = [number for number in range(4) if client in federation.participants(number)]
        assert [update.round for update in record.earlier] == took_part
        fresh = dataclasses.replace(federation.config.local, momentum_state="fresh")
        batches = map(federation.load, federation.local_batches(client, 4))
        plain = train_locally(build_model(LENET), states[4], batches, fresh).state.parameters
        differs = any(
            not torch.allclose(plain[k] - states[4].parameters[k], v)
            for k, v in record.updates[0].tensors.items()
        )
        assert differs is bool(took_part)


def test_earlier_updates_are_released_and_offered_for_individual_signals_only(faces: ImageDataset) -> None:
    federation = federation_of(faces)
    *history, state = history_of(federation, 2)

    class Halving(Undefended):
        def on_update(self, update: Any, residual: Any, random: Any) -> Any:
            return dataclasses.replace(
                update, tensors={k: v / 2 for k, v in update.tensors.items()}
            ), residual

    def at(signal: str, defense: Any = None) -> RoundRecord:
        return capture(
            federation,
            state,
            signal=signal,  # type: ignore[arg-type]
            round_number=2,
            victim=Victim(client=1),
            defense=defense,
            history=history,
        )[0]

    plain, halved = at("one_step_update"), at("one_step_update", Halving())
    assert len(seen(plain).earlier) == 2
    for whole, half in zip(plain.earlier, halved.earlier, strict=True):
        torch.testing.assert_close({k: v / 2 for k, v in whole.tensors.items()}, dict(half.tensors))
    assert at("gradients").earlier == at("agg_update").earlier == ()
    assert norm_matched_noise(seen(plain), generator(0)).earlier == ()
    with pytest.raises(InputError, match="replays 2 earlier rounds, but the weights of 0 were given"):
        capture(federation, state, signal="local_update", round_number=2, victim=Victim(client=1))


@pytest.mark.parametrize("kind", ["lenet", "cnn64"])
def test_gradient_estimate_is_exact_for_one_step_rounds(faces: ImageDataset, kind: str) -> None:
    config = FederationConfig(
        clients=3,
        fraction=0.67,
        rounds=5,
        local=LocalTraining(batch_size=2, momentum_state="persistent", max_steps=1),
    )
    federation = make_federation(faces, model=ModelConfig(kind=kind, image_size=16), config=config)  # type: ignore[arg-type]
    for client in range(3):
        for signal in ("one_step_update", "local_update"):
            record, truth = captured(federation, signal=signal, rounds=4, client=client)
            observation, true = seen(record), true_gradient(record, truth)
            if signal == "local_update":
                assert observation.steps == 1
            for name, value in gradient_estimate(observation).items():
                # The weights after a step are rounded; delta / lr magnifies what that takes away.
                rounding = 2.0**-23 * float(record.state.parameters[name].abs().max()) / observation.lr
                bound = 2 * rounding + 1e-5 * float(true[name].abs().max())
                torch.testing.assert_close(value, true[name], rtol=0, atol=bound)
            if observation.earlier:
                blind = gradient_estimate(dataclasses.replace(observation, earlier=()))
                assert relative_error(blind, true) > 0.1


def test_estimates_are_exact_under_a_constant_gradient(faces: ImageDataset) -> None:
    """Weights that move by the formula give back the gradients and the velocity they were made with."""
    record, _ = captured(federation_of(faces), signal="local_update", rounds=0)
    m, lr = 0.7, 0.1
    observation = dataclasses.replace(seen(record), momentum=m, lr=lr)
    velocity, earlier, gradients = 0.0, [], (1.0, -2.0, 0.5)
    for number, (steps, gradient) in enumerate(zip((3, 1, 4), gradients, strict=True)):
        delta = 0.0
        for _ in range(steps):
            velocity = m * velocity + gradient
            delta -= lr * velocity
        tensors = {k: torch.full_like(v, delta) for k, v in observation.tensors.items()}
        earlier.append(EarlierUpdate(round=number, tensors=tensors, steps=steps))
        after = dataclasses.replace(observation, earlier=tuple(earlier))
        for value in velocity_estimate(after).values():
            torch.testing.assert_close(value, torch.full_like(value, velocity))
    last = dataclasses.replace(
        observation, tensors=earlier[-1].tensors, steps=4, examples=8, earlier=tuple(earlier[:-1])
    )
    for value in gradient_estimate(last).values():
        torch.testing.assert_close(value, torch.full_like(value, 0.5), rtol=1e-5, atol=1e-5)


def test_path_lengths_by_hand() -> None:
    assert geometric(0.5, 3) == pytest.approx(1.75)
    assert travelled(0.5, 3) == pytest.approx(1 + 1.5 + 1.75)
    assert travelled(0.0, 4) == pytest.approx(4)


def test_several_steps_a_round_are_estimated_better_than_by_ignoring_them(faces: ImageDataset) -> None:
    federation = federation_of(faces, lr=0.01)
    record, truth = captured(federation, signal="one_step_update", rounds=3)
    observation, true = seen(record), true_gradient(record, truth)
    blind = gradient_estimate(dataclasses.replace(observation, earlier=()))
    assert relative_error(gradient_estimate(observation), true) < 0.7 * relative_error(blind, true)


def test_captures_on_disk_hold_earlier_updates(tmp_path: Path, faces_root: Path) -> None:
    settings = sweep(
        faces_root,
        federation__local={"lr": 0.05, "momentum_state": "persistent", "max_steps": 2},
        federation__fraction=1.0,
        federation__rounds=4,
        capture={"signal": "one_step_update", "round": 3},
    )
    dataset = open_celeba(faces_root, shape=ImageShape.square(16))

    def source() -> Any:
        store = CaptureStore(tmp_path, device=torch.device("cpu"), progress=lambda _: None)
        return store.source(settings, Chain(), dataset)

    first = source()
    made = first.get(first.victims()[1])
    again = source()
    read = again.get(again.victims()[1])
    assert read.key == made.key
    direct, _ = capture(
        first.federation,
        again.weights.state,
        signal="one_step_update",
        round_number=3,
        victim=first.victims()[1],
        history=again.weights.history,
    )
    assert [u.round for u in read.record.earlier] == [0, 1, 2]
    for one, other in zip(read.record.earlier, direct.earlier, strict=True):
        assert one.steps == other.steps == 2
        torch.testing.assert_close(dict(one.tensors), dict(other.tensors), rtol=0, atol=0)
    torch.testing.assert_close(
        dict(read.record.updates[0].tensors), dict(direct.updates[0].tensors), rtol=0, atol=0
    )


def test_known_labels_are_one_for_each_image_and_not_for_its_mirror_images(faces: ImageDataset) -> None:
    config = FederationConfig(clients=2, fraction=1.0, flip=True, local=LocalTraining(epochs=3, batch_size=4))
    federation = make_federation(faces, config=config)
    state = initial_state(federation.model, generator(0))
    for signal in ("local_update", "agg_update"):
        record, truth = capture(
            federation,
            state,
            signal=signal,
            round_number=0,
            victim=Victim(client=0),  # type: ignore[arg-type]
        )
        observation = observe(record, ThreatModel(labels="known"), labels=truth.example_labels())
        assert len(truth.labels) > observation.examples
        check_observation(observation)


EARLIER = (EarlierUpdate(round=0, tensors={}, steps=1),)
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("gradients", {"steps": 2}, "steps = 2: must be 1 for signal 'gradients'"),
    ("one_step_update", {"steps": 3}, "steps = 3: must be 1 for signal 'one_step_update'"),
    ("local_update", {"steps": 0}, "steps = 0: must be at least 1"),
    ("gradients", {"examples": 0}, "examples = 0: must be at least 1"),
    ("gradients", {"examples": 3}, "examples = 3: must be at most 2: batch_size 2, steps 1, clients 1"),
    ("local_update", {"examples": 9}, "examples = 9: must be at most 8"),
    ("gradients", {"clients": 2, "earlier": EARLIER}, "earlier = 1: must be empty for the mean of several"),
    ("agg_update", {"clients": 0}, "clients = 0: must be at least 1"),
    ("gradients", {"batch_size": 0}, "batch_size = 0: must be at least 1"),
    ("one_step_update", {"lr": 0.0}, "lr = 0.0: must be a finite number above 0"),
    ("one_step_update", {"lr": math.nan}, "lr = nan: must be a finite number above 0"),
    ("one_step_update", {"momentum": 1.0}, r"momentum = 1.0: must be in \[0, 1\)"),
    ("gradients", {"labels": torch.tensor([0])}, "1 labels are known, but the signal holds 2 images"),
    ("gradients", {"labels": torch.tensor([0, 2])}, "label, 2, is outside 0 to 1"),
    ("gradients", {"labels": torch.tensor([-1, 0])}, "label, -1, is outside 0 to 1"),
    ("gradients", {"labels": torch.tensor([0.0, 1.0])}, "'labels' is torch.float32 of shape"),
    ("gradients", {"labels": torch.tensor([[0, 1]])}, r"'labels' is torch.int64 of shape \(1, 2\)"),
    ("gradients", {"public_mean": torch.zeros(3, 8, 8)}, r"'public_mean' of the observation has shape"),
    ("gradients", {"public_mean": torch.full((3, 16, 16), math.nan)}, "'public_mean' .* not finite"),
]


@pytest.mark.parametrize(("signal", "changes", "message"), BROKEN)
def test_observations_that_contradict_themselves_are_refused(
    faces: ImageDataset, signal: str, changes: dict[str, Any], message: str
) -> None:
    record, _ = captured(federation_of(faces, momentum_state="fresh"), signal=signal, rounds=0)
    observation = seen(record)
    check_observation(observation)
    with pytest.raises(InputError, match=message):
        check_observation(dataclasses.replace(observation, **changes))


def test_tensors_that_do_not_fit_are_refused_by_name_wherever_they_are(faces: ImageDataset) -> None:
    record, _ = captured(federation_of(faces), signal="local_update", rounds=1)
    observation = seen(record)
    check_observation(observation)
    past, state = observation.earlier[0], observation.state
    nan = torch.full_like(state.parameters["fc.bias"], math.nan)

    def earlier(**changes: Any) -> dict[str, Any]:
        return {"earlier": (dataclasses.replace(past, **changes),)}

    lacking = {k: v for k, v in past.tensors.items() if k != "fc.bias"}
    cases: dict[str, dict[str, Any]] = {
        "'fc.bias' of the weights holds values that are not finite": {
            "state": ModelState(parameters={**state.parameters, "fc.bias": nan})
        },
        "'bn.mean' of the buffers holds values that are not finite": {
            "state": ModelState(parameters=state.parameters, buffers={"bn.mean": nan})
        },
        "'fc.bias' of the signal is torch.int64": {
            "tensors": {**observation.tensors, "fc.bias": torch.zeros(2, dtype=torch.int64)}
        },
        "The update of round 0 lacks tensor 'fc.bias'": earlier(tensors=lacking),
        "The update of round 0 holds tensor 'extra'": earlier(tensors={**past.tensors, "extra": nan}),
        "'fc.bias' of the update of round 0 holds values": earlier(tensors={**past.tensors, "fc.bias": nan}),
        r"'fc.bias' of the update of round 0 has shape \(1,\)": earlier(
            tensors={**past.tensors, "fc.bias": torch.zeros(1)}
        ),
        "The update of round 0 has steps = 0": earlier(steps=0),
    }
    for message, changes in cases.items():
        with pytest.raises(InputError, match=message):
            check_observation(dataclasses.replace(observation, **changes))
