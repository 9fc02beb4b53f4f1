"""Error feedback: what a compressor withholds waits at the client and goes out with its next updates."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from defenses.chain import Chain
from defenses.compression.compression import Prune, Quantise, SignOnly
from defenses.mechanism.noise import ClipOnly
from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, ModelState, Tensors
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.training import run
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture

LENET = ModelConfig(kind="lenet", image_size=16)


def an_update(seed: int) -> ClientUpdate:
    values = torch.randn(50, generator=generator("update", seed))
    return ClientUpdate(client=0, tensors={"a": values}, examples=1, steps=1, lr=0.1, momentum=0.0)


@pytest.mark.parametrize("defense", [Prune(ratio=0.8), Quantise(bits=2), SignOnly()])
def test_error_feedback_delays_what_is_withheld_and_loses_nothing(
    defense: Prune | Quantise | SignOnly,
) -> None:
    """What was sent so far and what is still owed add up to all updates so far, in every round."""
    clipped = ClipOnly(max_norm=1e6)
    chain = Chain(defenses=(clipped, dataclasses.replace(defense, error_feedback=True)))
    clients = chain.clients(seed=3, plan=FederationConfig(rounds=4))
    assert chain.is_stateful
    residual: Tensors = {}
    true, sent = torch.zeros(()), torch.zeros(())
    for round_number in range(4):
        made = an_update(round_number)
        released, residual = clients.on_update(made, residual, clients.draws(0, round_number))
        true = true + made.tensors["a"]
        sent = sent + released.tensors["a"]
        torch.testing.assert_close(sent + residual["1.a"], true)
    alone = Chain(defenses=(defense,)).clients(seed=3, plan=FederationConfig(rounds=4))
    assert alone.on_update(made, {}, alone.draws(0, 3))[1] == {}
    assert not torch.equal(
        released.tensors["a"], alone.on_update(made, {}, alone.draws(0, 3))[0].tensors["a"]
    )


def test_clients_with_error_feedback_remember_between_rounds_and_captures_replay_them(
    faces: ImageDataset,
) -> None:
    """With all withheld but one number, the second round's update has the first round's rest in it."""
    chain = Chain(defenses=(Prune(ratio=0.999, error_feedback=True),))
    plan = FederationConfig(
        clients=1, fraction=1.0, rounds=2, local=LocalTraining(momentum=0.0, max_steps=1, batch_size=4)
    )
    federation = Federation(
        config=plan,
        model=LENET,
        dataset=faces,
        train=faces.split("train", 4),
        seed=1,
        device=torch.device("cpu"),
    )
    start = initial_state(LENET, generator("model", 0))
    clients = chain.clients(seed=5, plan=plan)
    first, second = run(federation, start, rounds=2, defense=clients)

    def moved(to: ModelState, since: ModelState) -> torch.Tensor:
        return torch.cat([(to.parameters[k] - since.parameters[k]).flatten() for k in to.parameters])

    whole = federation.client_update(start, 0, federation.trained_batches(0, 0), round_number=0)[0]
    owed = torch.cat([value.flatten() for value in whole.tensors.values()]) - moved(first.state, start)
    largest = int(owed.abs().argmax())
    assert moved(second.state, first.state)[largest] != 0, "what was owed most is sent next"
    record, _ = capture(
        federation,
        first.state,
        signal="local_update",
        round_number=1,
        victim=Victim(client=0),
        defense=clients,
        history=(start,),
    )
    sent = torch.cat([value.flatten() for value in record.updates[0].tensors.values()])
    torch.testing.assert_close(sent, moved(second.state, first.state), rtol=1e-4, atol=1e-7)
    assert record.earlier == ()
