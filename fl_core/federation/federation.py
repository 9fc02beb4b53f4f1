"""The federation: who holds which images, who takes part in a round, and in which batches a client trains."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.data.partition import partition
from fl_core.federation.accuracy import count_correct
from fl_core.federation.aggregation import Reduction
from fl_core.federation.client import Batch, batch_gradient, gradient_update, weight_update
from fl_core.federation.common import Common
from fl_core.federation.hooks import ClientDefense, ClientState, Undefended
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class LocalBatch:
    """One local step's images: dataset indices and whether each is mirrored."""

    indices: tuple[int, ...]
    flips: tuple[bool, ...]


class Federation:
    """A data set spread over clients, and everything random about their training, fixed by `seed`."""

    def __init__(
        self,
        *,
        config: FederationConfig,
        model: ModelConfig,
        dataset: ImageDataset,
        train: Sequence[int],
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.dataset, self.seed, self.device = config, model, dataset, seed, device
        self.shares = partition(dataset.labels, train, config.clients, config.partition, seed=seed)

    @cached_property
    def network(self) -> nn.Module:
        """The model without values, for one computation at a time."""
        return build_model(self.model)

    def common(self, state: ModelState) -> Common:
        """What everybody has at the start of a round from `state`."""
        here = state.to(self.device)
        return Common(model=self.network, state=here, dataset=self.dataset, device=self.device)

    def participants(self, round_number: int, *, first: int | None = None, group: int = 0) -> list[int]:
        """The clients of a round, in a random order.

        `first` always takes part and leads. `group` g > 0 is the g-th disjoint set after it, whose leader takes part
        too: a stand-in for another draw of the same round. Raises `InputError` where clients run out.
        """
        order = self.order(round_number, first=first)
        sizes = [self._size(round_number, g, led=first is not None or g > 0) for g in range(group + 1)]
        size, before = sizes[-1], sum(sizes[:-1])
        chosen = order[before : before + size]
        if len(chosen) < size:
            fit = sum(end <= self.config.clients for end in itertools.accumulate(sizes))
            raise InputError(
                f"{self.config.clients} clients hold {fit} disjoint groups of {self.config.planned:g}, "
                f"but group {group + 1} was asked for; use more clients, a smaller fraction or fewer victims."
            )
        return chosen

    def _size(self, round_number: int, group: int, *, led: bool) -> int:
        """How many take part in a group; given that, a Poisson sample is any set of this size. Leaders are in it."""
        config = self.config
        if config.participation == "fixed":
            return config.per_round
        coins = generator("participation", self.seed, round_number, group)
        others = config.clients - int(led)
        return int(led) + int((torch.rand(others, generator=coins) < config.fraction).sum())

    def order(self, round_number: int, *, first: int | None = None) -> list[int]:
        """All clients in the round's random order, `first` before all others."""
        draws = generator("participants", self.seed, round_number)
        order: list[int] = torch.randperm(self.config.clients, generator=draws).tolist()
        return order if first is None else [first, *(client for client in order if client != first)]

    def trainees(self, round_number: int) -> list[int]:
        """The participants of a round of training: those that hold an image."""
        return [client for client in self.participants(round_number) if self.shares[client]]

    def local_batches(self, client: int, round_number: int) -> list[LocalBatch]:
        """A client's batches of a round, epoch after epoch, each epoch in its own random order."""
        local = self.config.local
        draws = generator("batches", self.seed, client, round_number)
        share = torch.tensor(self.shares[client], dtype=torch.int64)
        batches = []
        for _ in range(local.epochs):
            order = share[torch.randperm(len(share), generator=draws)].tolist()
            coins = torch.rand(len(share), generator=draws).tolist()
            for start in range(0, len(order), local.batch_size):
                stop = start + local.batch_size
                flips = tuple(self.config.flip and coin < 0.5 for coin in coins[start:stop])
                batches.append(LocalBatch(indices=tuple(order[start:stop]), flips=flips))
        return batches

    def trained_batches(self, client: int, round_number: int) -> list[LocalBatch]:
        """Those of `local_batches` that the client gets to: the first `max_steps`."""
        return self.local_batches(client, round_number)[: self.config.local.max_steps]

    def smallest_batch(self, rounds: Iterable[int]) -> int | None:
        """How many images the smallest batch has that anybody trains on in these rounds; None where nobody trains."""
        return min(
            (
                len(batch.indices)
                for number in rounds
                for client in self.trainees(number)
                for batch in self.trained_batches(client, number)
            ),
            default=None,
        )

    def examples(self, client: int) -> int:
        """How many different images a client trains on in a round."""
        local, held = self.config.local, len(self.shares[client])
        # No image comes twice before all have come once.
        return held if local.max_steps is None else min(held, local.max_steps * local.batch_size)

    def load(self, batch: LocalBatch) -> Batch:
        """Images and labels of `batch` on the federation's device."""
        images, labels = self.dataset.batch(batch.indices, batch.flips)
        return images.to(self.device), labels.to(self.device)

    def client_gradient(
        self,
        state: ModelState,
        client: int,
        batch: LocalBatch,
        *,
        round_number: int,
        defense: ClientDefense | None = None,
    ) -> ClientUpdate:
        """What a client releases of one batch's gradient at `state`."""
        defense = defense or Undefended()
        random = defense.draws(client, round_number)
        update = gradient_update(
            self.network,
            state,
            defense.on_batch(self.load(batch), random, self.model.outputs),
            self.config.local,
            client=client,
            rule=defense.on_gradient(batch_gradient, random),
        )
        return defense.on_update(update, {}, random)[0]

    def client_update(
        self,
        state: ModelState,
        client: int,
        batches: Sequence[LocalBatch],
        *,
        round_number: int,
        defense: ClientDefense | None = None,
        memory: ClientState | None = None,
    ) -> tuple[ClientUpdate, ClientState]:
        """What a client releases of its local training on `batches`, a weight delta, and what it keeps.

        `memory` is what it remembered before, None where this is its first round.
        """
        defense, memory = defense or Undefended(), memory or ClientState()
        random = defense.draws(client, round_number)
        update, velocity = weight_update(
            self.network,
            state,
            (defense.on_batch(self.load(batch), random, self.model.outputs) for batch in batches),
            self.config.local,
            client=client,
            examples=len({index for batch in batches for index in batch.indices}),
            velocity=memory.velocity,
            rule=defense.on_gradient(batch_gradient, random),
        )
        released, residual = defense.on_update(update, memory.residual, random)
        kept = velocity if self.config.local.is_stateful else {}
        return released, ClientState(velocity=kept, residual=residual)

    def chunks(self, round_number: int) -> list[Chunk]:
        """The round's participants with images, cut into chunks; one of nobody for a Poisson sample of nobody.

        Raises `InputError` where no participant of a fixed number holds an image.
        """
        chosen = tuple(self.trainees(round_number))
        if not chosen and self.config.participation == "poisson":
            return [Chunk(round=round_number, participants=(), clients=())]
        if not chosen:
            raise InputError(f"No participant of round {round_number} holds an image; use more data.")
        size = self.config.chunk
        return [
            Chunk(round=round_number, participants=chosen, clients=chosen[start : start + size])
            for start in range(0, len(chosen), size)
        ]

    def correct(self, state: ModelState, indices: Sequence[int]) -> int:
        """How many of the data set's images at `indices` are classified right."""
        return count_correct(self.model, state, self.dataset, indices, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some of a round's participants, in the order in which their updates are reduced.

    `reduction` is what these clients need of the round's reduction where it was prepared for the round; None stands
    for the one that all rounds share.
    """

    round: int
    participants: tuple[int, ...]
    clients: tuple[int, ...]
    reduction: Reduction[Any] | None = None
