"""Secure sums as a reduction: clients upload protected updates, which are added as they come; the mean is opened.

A partial result is a running sum of protected updates: whoever simulates a client encrypts its update a block at a time
and adds each block to the sum at once. So a worker holds one sum and one block, however many clients there are, and no
client's upload as a whole. What is protected are whole numbers of fixed-point steps, whose sums are exact: the round's
change depends neither on keys nor on how clients are spread over processes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from defenses.secure.exchange import Exchange, Scheme, dropouts
from defenses.secure.fixed_point import Integers, Reals
from defenses.secure.keys import Ciphertexts
from defenses.secure.packing import Layout
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, OpenedSum, Tensors
from fl_core.federation.aggregation import Change, FedAvg
from fl_core.federation.common import Common

_PLAIN_BYTES = 4
"""What a number in the clear takes: it is sent as a 32-bit float."""


@dataclass(kw_only=True)
class ProtectedSum:
    """A sum that nobody here can open: its blocks, whose uploads are in it, and what they cost.

    `plain` is the sum, in steps, of what was sent in the clear.
    """

    layout: Layout | None = None
    buffers: frozenset[str] = frozenset()
    blocks: list[Ciphertexts] = field(default_factory=list, repr=False)
    plain: Integers = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)
    clients: list[int] = field(default_factory=list)
    bytes_up: int = 0
    protect_seconds: float = 0.0
    add_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PreparedRound:
    """What one round is about: its keys, each client's weight as a share of the largest, and who will drop out.

    `hidden` masks the numbers that are protected, by parameter name; None where all are. Those that it does not name,
    buffers, always are.
    """

    exchange: Exchange
    weights: Mapping[int, float]
    dropped: frozenset[int]
    hidden: Tensors | None = None

    def steps(self, update: ClientUpdate) -> tuple[Layout, Integers]:
        """The update as it is protected: weighted, in steps. Raises `InputError` for a number that could wrap."""
        values = {**update.tensors, **update.buffers}
        layout = Layout.of(values)
        weighted = layout.flatten(values).astype(np.float64) * self.weights[update.client]
        steps = self.exchange.fixed.encode(
            weighted, lambda index: f"Client {update.client}'s {layout.place(index)}"
        )
        return layout, steps

    def protects(self, layout: Layout) -> NDArray[np.bool_]:
        """Which numbers of the flat update are protected."""
        if self.hidden is None:
            return np.ones(layout.size, dtype=bool)
        parts = [
            self.hidden[name].reshape(-1).numpy() if name in self.hidden else np.ones(size, dtype=bool)
            for name, size in zip(layout.names, layout.sizes, strict=True)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class SecureMean:
    """The mean of whole updates, tensors and buffers, weighted as by `mean`; a `Reduction` and a `SecureSum`.

    Numbers of examples are public, as in FedAvg: a client scales its update by its weight as a share of the round's
    largest one, and the opened sum is divided by the weights of those who are in it, or by what `mean` has planned.
    Of a round's clients all but the first may drop out after they have protected their update, as many as the scheme
    says, chosen by `seed`.

    Where a scheme protects only chosen numbers, the rest is sent as 32-bit floats, and the server itself weights it and
    rounds it to steps: the opened mean is the same to the bit. `hidden` is what the clients have agreed on.
    """

    scheme: Scheme
    mean: FedAvg = field(default_factory=FedAvg)
    seed: int = 0
    hidden: Tensors | None = None
    prepared: PreparedRound | None = None

    def agree(self, common: Common) -> SecureMean:
        """See `fl_core.federation.common.Agreeing`: which numbers are protected in this round."""
        chosen = self.scheme.chosen
        return self if chosen is None else dataclasses.replace(self, hidden=chosen.masks(common))

    def prepare(self, round_number: int, examples: Mapping[int, int]) -> SecureMean:
        """See `Reduction.prepare`: keys are made, and shares exchanged; `agree` comes before."""
        if self.scheme.chosen is not None and self.hidden is None:
            raise ValueError("Selective encryption needs agree() before a round.")
        clients = tuple(examples)
        largest = max(self.mean.weight(count) for count in examples.values())
        weights = {client: self.mean.weight(count) / largest for client, count in examples.items()}
        prepared = PreparedRound(
            exchange=self.scheme.exchange(clients),
            weights=weights,
            dropped=self._dropped(round_number, clients),
            hidden=self.hidden,
        )
        return dataclasses.replace(self, prepared=prepared)

    def for_clients(self, clients: Sequence[int]) -> SecureMean:
        """See `Reduction.for_clients`: without anything that opens a sum."""
        whole = self._round
        part = dataclasses.replace(whole, exchange=whole.exchange.for_clients(clients))
        return dataclasses.replace(self, prepared=part)

    def start(self, round_number: int, participants: Sequence[int]) -> ProtectedSum:
        """See `Reduction.start`."""
        return ProtectedSum()

    def add(self, partial: ProtectedSum, update: ClientUpdate) -> ProtectedSum:
        """See `Reduction.add`; the upload of a client that drops out never arrives."""
        if update.client in self._round.dropped:
            return partial
        exchange = self._round.exchange
        started = time.process_time()
        layout, steps = self._round.steps(update)
        protects = self._round.protects(layout)
        upload = exchange.blocks(update.client, steps[protects])
        plain = steps[~protects]
        size, adding, blocks = _PLAIN_BYTES * len(plain), 0.0, []
        for number, block in enumerate(upload):
            size += sum(map(len, block))
            begun = time.process_time()
            blocks.append(exchange.add(partial.blocks[number], block) if partial.blocks else block)
            if partial.blocks:
                partial.blocks[number] = ()  # Not to hold two sums.
            adding += time.process_time() - begun
        if len(partial.plain):
            plain += partial.plain
        return ProtectedSum(
            layout=layout,
            buffers=frozenset(update.buffers),
            blocks=blocks,
            plain=plain,
            clients=[*partial.clients, update.client],
            bytes_up=max(partial.bytes_up, size),
            protect_seconds=partial.protect_seconds + time.process_time() - started - adding,
            add_seconds=partial.add_seconds + adding,
        )

    def merge(self, left: ProtectedSum, right: ProtectedSum) -> ProtectedSum:
        """See `Reduction.merge`."""
        if not left.clients or not right.clients:
            return left if left.clients else right
        started = time.process_time()
        for number, block in enumerate(right.blocks):
            left.blocks[number] = self._round.exchange.add(left.blocks[number], block)
            right.blocks[number] = ()
        return dataclasses.replace(
            left,
            plain=left.plain + right.plain,
            clients=[*left.clients, *right.clients],
            bytes_up=max(left.bytes_up, right.bytes_up),
            protect_seconds=left.protect_seconds + right.protect_seconds,
            add_seconds=left.add_seconds + right.add_seconds + time.process_time() - started,
        )

    def finish(self, partial: ProtectedSum) -> Change:
        """See `Reduction.finish`; raises `InputError` where too few clients are left to open the sum."""
        return self._opened(partial)[0]

    def open_sum(
        self, round_number: int, updates: Sequence[ClientUpdate]
    ) -> tuple[tuple[ClientUpdate, ...], OpenedSum]:
        """See `fl_core.federation.hooks.SecureSum`: one round, with the work of all parties done and measured here."""
        whole = self.prepare(round_number, {update.client: update.examples for update in updates})
        each = whole.for_clients([update.client for update in updates])
        partial = each.start(round_number, list(whole._round.weights))
        for update in updates:
            partial = each.add(partial, update.to(torch.device("cpu")))
        change, extra, revealing = whole._opened(partial)
        stayed = [update for update in updates if update.client in partial.clients]
        weights = [whole._round.weights[update.client] for update in stayed]
        divisor = self.mean.divisor(sum(weights))
        shares = tuple(weight / divisor for weight in weights)
        opened = OpenedSum(
            protection=self.scheme.protection,
            tensors=change.tensors,
            buffers=change.buffers,
            shares=shares,
            bytes_up=partial.bytes_up + extra,
            rounding_error=_rounding_error(change, stayed, shares),
            setup_seconds=whole._round.exchange.setup_seconds,
            protect_seconds=partial.protect_seconds / len(stayed),
            add_seconds=partial.add_seconds,
            reveal_seconds=revealing,
            hidden=self.hidden or {},
        )
        return tuple(whole.sent(update) for update in stayed), opened

    def sent(self, update: ClientUpdate) -> ClientUpdate:
        """The update as it can be read from its upload, by whoever can open that: rounded to steps.

        What was sent in the clear is as it was.
        """
        layout, steps = self._round.steps(update)
        flat = self._round.exchange.fixed.decode(steps) / self._round.weights[update.client]
        whole, protects = layout.flatten({**update.tensors, **update.buffers}), self._round.protects(layout)
        values = layout.restore(np.where(protects, flat, whole))
        return dataclasses.replace(
            update,
            tensors={name: values[name] for name in update.tensors},
            buffers={name: values[name] for name in update.buffers},
        )

    @property
    def _round(self) -> PreparedRound:
        if self.prepared is None:
            raise ValueError("A secure sum has to be prepared for a round: its keys are new in each.")
        return self.prepared

    def _dropped(self, round_number: int, clients: Sequence[int]) -> frozenset[int]:
        """Who drops out: not the first, which every round (and every capture) is sure to keep."""
        draws = generator("dropout", self.seed, round_number, *sorted(clients))
        count = dropouts(self.scheme.lost, len(clients))
        return frozenset(
            clients[1 + place] for place in torch.randperm(len(clients) - 1, generator=draws).tolist()[:count]
        )

    def _opened(self, partial: ProtectedSum) -> tuple[Change, int, float]:
        """The change, the bytes that a client sent beside its upload, and the CPU seconds of opening the sum."""
        if partial.layout is None:
            raise InputError("No client's update is in the sum: there is nothing to open.")
        started = time.process_time()
        layout, exchange = partial.layout, self._round.exchange
        protects = self._round.protects(layout)
        opened = exchange.reveal(partial.blocks, numbers=int(protects.sum()), clients=partial.clients)
        summed = np.empty(layout.size, dtype=opened.steps.dtype)
        summed[protects], summed[~protects] = opened.steps, partial.plain
        total: Reals = exchange.fixed.decode(summed)
        # In one order, whoever was added first: floats.
        weight = math.fsum(self._round.weights[client] for client in partial.clients)
        values = layout.restore(total / self.mean.divisor(weight))
        change = Change(
            tensors={name: value for name, value in values.items() if name not in partial.buffers},
            buffers={name: value for name, value in values.items() if name in partial.buffers},
        )
        return change, opened.extra_bytes, time.process_time() - started


def _rounding_error(change: Change, updates: Sequence[ClientUpdate], shares: Sequence[float]) -> float:
    """The largest distance between a number of `change` and the mean of `updates` in float64."""
    worst = 0.0
    for name, value in {**change.tensors, **change.buffers}.items():
        exact = torch.zeros(value.shape, dtype=torch.float64)
        for update, share in zip(updates, shares, strict=True):
            exact += share * {**update.tensors, **update.buffers}[name].detach().cpu().double()
        if value.numel():
            worst = max(worst, float((value.double() - exact).abs().max()))
    return worst
