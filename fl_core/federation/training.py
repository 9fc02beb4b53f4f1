"""Federated training: rounds from given weights, wherever the clients are simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from fl_core.base.types import ClientUpdate, ModelState
from fl_core.federation.aggregation import Change
from fl_core.federation.common import Agreeing
from fl_core.federation.federation import Federation
from fl_core.federation.hooks import ClientDefense
from fl_core.federation.simulator import ClientWork, InProcess, Simulator
from fl_core.models.finetuning.trainable import without_frozen


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A finished round: its number, the weights after it, who took part.

    `not_finite` counts what held NaN or infinity and was clipped to zeros; see `ClientUpdate`.
    """

    round: int
    state: ModelState
    participants: tuple[int, ...]
    not_finite: int = 0


def train(clients: Simulator, state: ModelState, *, rounds: int, first: int = 0) -> Iterator[RoundResult]:
    """Federated training from `state`, each round yielded when it is done, with its weights on the CPU.

    `state` holds the weights at the start of round `first`; training ends before round `rounds`.

    Where the clients are simulated changes no bit. Clients without images sit out. What a client keeps
    (persistent momentum, what a defense held back) waits with it until the next round that it takes part in.
    Raises `InputError` for a round without images.
    """
    federation = clients.work.federation
    state = state.to(torch.device("cpu"))
    for round_number in range(first, rounds):
        chunks = federation.chunks(round_number)
        reduction = clients.work.reduction
        if isinstance(reduction, Agreeing):
            reduction = reduction.agree(federation.common(state))
        reduction = reduction.prepare(
            round_number,
            {client: federation.examples(client) for client in chunks[0].participants},
        )
        chunks = [replace(chunk, reduction=reduction.for_clients(chunk.clients)) for chunk in chunks]
        partials = clients.partials(state, chunks)
        merged, not_finite = next(partials)
        for partial, more in partials:
            merged = reduction.merge(merged, partial)
            not_finite += more
            # Not to be alive while the next one grows.
            del partial
        if not chunks[0].participants:
            merged = reduction.add(merged, nobody(federation.network, state))
        state = apply_change(state, reduction.finish(merged))
        del merged
        participants = chunks[0].participants
        yield RoundResult(round=round_number, state=state, participants=participants, not_finite=not_finite)


def run(
    federation: Federation, state: ModelState, *, rounds: int, defense: ClientDefense | None = None
) -> Iterator[RoundResult]:
    """FedAvg from `state` for `rounds` rounds in this process, by clients with `defense`; see `train`."""
    return train(InProcess(ClientWork(federation=federation, defense=defense)), state, rounds=rounds)


def nobody(model: nn.Module, state: ModelState) -> ClientUpdate:
    """What a round adds up in which nobody takes part: zeros, in the shapes of what a client of `model` sends."""
    return ClientUpdate(
        client=-1,
        tensors={name: torch.zeros_like(value) for name, value in state.parameters.items()},
        buffers={
            name: torch.zeros_like(value) for name, value in without_frozen(model, state.buffers).items()
        },
        examples=1,
        steps=1,
        lr=1.0,
        momentum=0.0,
    )


def apply_change(state: ModelState, change: Change) -> ModelState:
    """The state after a round's change; integer buffers take the rounded one, and frozen parameters stay."""
    return ModelState(
        parameters={name: value + change.tensors[name] for name, value in state.parameters.items()},
        buffers={
            name: _shifted(value, change.buffers[name]) if name in change.buffers else value
            for name, value in state.buffers.items()
        },
    )


def _shifted(value: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return value + (change if value.is_floating_point() else change.round().to(value.dtype))
