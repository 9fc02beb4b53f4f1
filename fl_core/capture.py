"""Captures: what the server receives of chosen victims, at the exact weights the signal was computed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fl_core.clients import ClientWork
from fl_core.errors import InputError
from fl_core.hooks import ClientDefense, ClientMemory
from fl_core.server import Federation, LocalBatch
from fl_core.threat import Fact
from fl_core.types import ClientUpdate, EarlierUpdate, ModelState, RoundRecord, Signal, Truth


@dataclass(frozen=True, kw_only=True)
class Victim:
    """Whose data a signal holds.

    One client and its batch `batch` of the round for `gradients` and `one_step_update`; one client for
    `local_update`; the group of participants number `batch` for `agg_update`.
    """

    client: int
    batch: int = 0


def victims(
    federation: Federation, signal: Signal, *, first_client: int, round_number: int, count: int
) -> list[Victim]:
    """The first `count` victims, starting with `first_client`'s first batch; no image is in two of them.

    Batches: through the client's first epoch, then on to the next clients; a last, smaller batch is no victim.
    Raises `InputError` where data or clients run out.
    """
    config = federation.config
    if not 0 <= first_client < config.clients:
        raise InputError(
            f"Client {first_client} does not exist: there are clients 0 to {config.clients - 1}."
        )
    order = [(first_client + i) % config.clients for i in range(config.clients)]
    found: list[Victim] = []
    if signal == "agg_update":
        for group in range(count):
            federation.participants(round_number, first=first_client, group=group)
            found.append(Victim(client=first_client, batch=group))
        return found
    for client in order:
        images = len(federation.shares[client])
        per_client = min(images, 1) if signal == "local_update" else images // config.local.batch_size
        found.extend(Victim(client=client, batch=batch) for batch in range(per_client))
    if len(found) < count:
        raise InputError(
            f"{count} victims were asked for, but {config.clients} clients with "
            f"{sum(map(len, federation.shares))} images hold only {len(found)} for signal {signal!r} at "
            f"batch size {config.local.batch_size}; use more images or fewer victims."
        )
    return found[:count]


def capture(
    federation: Federation,
    state: ModelState,
    *,
    signal: Signal,
    round_number: int,
    victim: Victim,
    defense: ClientDefense | None = None,
    facts: tuple[Fact, ...] = (),
    history: Sequence[ModelState] = (),
) -> tuple[RoundRecord, Truth]:
    """One victim's signal at `state` (the global weights at the start of the round) and the truth behind it.

    Where clients remember anything, `history` holds the global weights at the start of every earlier round: a
    client's own rounds are replayed from them. A weight update then starts with what they left; an individual one
    comes with the updates that the server received in them. Raises `InputError` where a round is missing.
    """
    work = ClientWork(federation=federation, defense=defense)
    remembers = work.remembers and signal != "gradients"
    if remembers and len(history) != round_number:
        raise InputError(
            f"A capture in round {round_number} of clients that remember replays {round_number} earlier rounds, "
            f"but the weights of {len(history)} were given."
        )
    updates: list[ClientUpdate] = []
    seen: list[tuple[int, int, bool]] = []
    earlier: tuple[EarlierUpdate, ...] = ()
    for client, batches in _sources(federation, signal, round_number, victim):
        if signal == "gradients":
            released = federation.client_gradient(
                state, client, batches[0], round_number=round_number, defense=defense
            )
        else:
            earlier, memory = _replay(federation, client, history if remembers else (), defense)
            released, _ = federation.client_update(
                state, client, batches, round_number=round_number, defense=defense, memory=memory
            )
        updates.append(released)
        seen.extend(_images_of(client, batches))
    record = RoundRecord(
        signal=signal,
        round=round_number,
        model=federation.model,
        state=state,
        batch_size=federation.config.local.batch_size,
        updates=tuple(updates),
        facts=facts,
        # Without momentum nothing of them is in this one's gradient.
        earlier=earlier if signal != "agg_update" and federation.config.local.remembers else (),
    )
    return record, _truth(federation, seen)


def image_indices(federation: Federation, signal: Signal, *, round_number: int, victim: Victim) -> list[int]:
    """The images that the victim's signal is made of, by their index in the data set, each once."""
    found = [
        index
        for _, batches in _sources(federation, signal, round_number, victim)
        for batch in batches
        for index in batch.indices
    ]
    return list(dict.fromkeys(found))


def _sources(
    federation: Federation, signal: Signal, round_number: int, victim: Victim
) -> list[tuple[int, list[LocalBatch]]]:
    """The clients behind the victim's signal, each with the batches that it takes from."""
    clients = [victim.client]
    if signal == "agg_update":
        clients = federation.participants(round_number, first=victim.client, group=victim.batch)
    return [(client, _batches(federation, signal, client, round_number, victim)) for client in clients]


def _batches(
    federation: Federation, signal: Signal, client: int, round_number: int, victim: Victim
) -> list[LocalBatch]:
    """The victim's one batch, which stands in for the first of the round, or all that its client trains on."""
    if signal in ("gradients", "one_step_update"):
        return federation.local_batches(client, round_number)[victim.batch : victim.batch + 1]
    return federation.trained_batches(client, round_number)


def _replay(
    federation: Federation, client: int, history: Sequence[ModelState], defense: ClientDefense | None
) -> tuple[tuple[EarlierUpdate, ...], ClientMemory]:
    """What the server received of `client` in the rounds that started at `history`, and what it remembers of them."""
    received: list[EarlierUpdate] = []
    memory = ClientMemory()
    for number, state in enumerate(history):
        if client not in federation.trainees(number):
            continue
        batches = federation.trained_batches(client, number)
        released, memory = federation.client_update(
            state, client, batches, round_number=number, defense=defense, memory=memory
        )
        received.append(EarlierUpdate(round=number, tensors=released.tensors, steps=released.steps))
    return tuple(received), memory


def _images_of(client: int, batches: Sequence[LocalBatch]) -> list[tuple[int, int, bool]]:
    pairs = [
        (client, index, flip)
        for batch in batches
        for index, flip in zip(batch.indices, batch.flips, strict=True)
    ]
    return list(dict.fromkeys(pairs))


def _truth(federation: Federation, seen: list[tuple[int, int, bool]]) -> Truth:
    images, labels = federation.dataset.batch([i for _, i, _ in seen], [flip for _, _, flip in seen])
    names = federation.dataset.names
    return Truth(
        images=images,
        labels=labels.to(torch.int64),
        ids=tuple(f"{names[i]}{':flip' if flip else ''}" for _, i, flip in seen),
        clients=tuple(client for client, _, _ in seen),
    )
