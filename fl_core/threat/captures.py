"""Captures: what the server receives of chosen victims, at the exact weights the signal was computed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fl_core.base.errors import InputError
from fl_core.base.types import ClientUpdate, EarlierUpdate, ModelState, Signal, Tensors, Truth
from fl_core.federation.aggregation import FixedMean, mean_change
from fl_core.federation.federation import Federation, LocalBatch
from fl_core.federation.hooks import ClientDefense, ClientState, SecureSum
from fl_core.federation.simulator import ClientWork
from fl_core.threat.facts import Fact
from fl_core.threat.record import RoundRecord


@dataclass(frozen=True, kw_only=True)
class Victim:
    """Whose data a signal holds.

    One client and its batch `batch` of the round for `gradients` and `one_step_update`; one client for
    `local_update`; the group of participants number `batch` for `agg_update`. Under a secure sum `companions` are
    the other clients in it, each with the batch that it takes part with.
    """

    client: int
    batch: int = 0
    companions: tuple[tuple[int, int], ...] = ()


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
        found.extend(Victim(client=owner, batch=batch) for owner, batch in _units(federation, signal, client))
    if len(found) < count:
        raise InputError(
            f"{count} victims were asked for, but {config.clients} clients with "
            f"{sum(map(len, federation.shares))} images hold only {len(found)} for signal {signal!r} at "
            f"batch size {config.local.batch_size}; use more images or fewer victims."
        )
    return found[:count]


def accompanied(
    federation: Federation, signal: Signal, found: Sequence[Victim], *, round_number: int
) -> list[Victim]:
    """The same victims, each with the other clients of a round as companions; no image is in two of the groups.

    A companion comes with its first batch (for `local_update` with all that it trains on) that is in no other group
    and is no victim. Those that were taken least come first, in the round's random order. `agg_update` has its
    participants already. Raises `InputError` where data or clients run out.
    """
    if signal == "agg_update":
        return list(found)
    config, taken = federation.config, {(victim.client, victim.batch) for victim in found}
    used = dict.fromkeys(range(config.clients), 0)
    groups = []
    for place, victim in enumerate(found):
        order = federation.order(round_number, first=victim.client)[1:]
        companions: list[tuple[int, int]] = []
        for client in sorted(order, key=lambda each: used[each]):
            free = [unit for unit in _units(federation, signal, client) if unit not in taken]
            if free and len(companions) < config.per_round - 1:
                companions.append(free[0])
                taken.add(free[0])
                used[client] += 1
        if len(companions) < config.per_round - 1:
            raise InputError(
                f"A secure sum of {config.per_round} clients for each of {len(found)} victims needs more data than "
                f"{config.clients} clients hold: it ends at victim {place + 1}; use more images or clients, a smaller "
                "federation.fraction or fewer victims."
            )
        groups.append(replace(victim, companions=tuple(companions)))
    return groups


def _units(federation: Federation, signal: Signal, client: int) -> list[tuple[int, int]]:
    """What a client can take part in a group with: each of its whole batches, or all its images at once."""
    images = len(federation.shares[client])
    count = min(images, 1) if signal == "local_update" else images // federation.config.local.batch_size
    return [(client, batch) for batch in range(count)]


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
    secure: SecureSum | None = None,
    mean: FixedMean | None = None,
    drawn: int | None = None,
) -> tuple[RoundRecord, Truth]:
    """One victim's signal at `state` (the global weights at the start of the round) and the truth behind it.

    Where clients remember anything, `history` holds the global weights at the start of every earlier round: a
    client's own rounds are replayed from them. A weight update then starts with what they left; an individual one
    comes with the updates that the server received in them. With `secure` the updates of the victim and its companions
    are added under protection, whatever the signal; of clients that drop out nothing is kept. `mean` is how the
    server adds a round's updates where it is not FedAvg. `drawn` is the round whose batches the victim trains on (None:
    this one). Raises `InputError` where a round is missing.
    """
    work = ClientWork(federation=federation, defense=defense)
    is_stateful = work.is_stateful and signal != "gradients"
    if is_stateful and len(history) != round_number:
        raise InputError(
            f"A capture in round {round_number} of clients that remember replays {round_number} earlier rounds, "
            f"but the weights of {len(history)} were given."
        )
    updates: list[ClientUpdate] = []
    seen: list[tuple[int, int, bool]] = []
    earlier: tuple[EarlierUpdate, ...] = ()
    for client, batches in _sources(federation, signal, round_number if drawn is None else drawn, victim):
        if signal == "gradients":
            released = federation.client_gradient(
                state, client, batches[0], round_number=round_number, defense=defense
            )
        else:
            earlier, memory = _replay(federation, client, history if is_stateful else (), defense)
            released, _ = federation.client_update(
                state, client, batches, round_number=round_number, defense=defense, memory=memory
            )
        updates.append(released)
        seen.extend(_images_of(client, batches))
    sent, opened = tuple(updates), None
    if secure is not None:
        sent, opened = secure.agree(federation.common(state)).open_sum(round_number, updates)
    shares: tuple[float, ...] = ()
    published: Tensors | None = None
    if mean is not None and signal == "agg_update" and opened is None:
        shares, published = _added(mean, round_number, updates)
    record = RoundRecord(
        signal=signal,
        round=round_number,
        model=federation.model,
        state=state,
        batch_size=federation.config.local.batch_size,
        updates=sent,
        facts=facts,
        # Without momentum nothing of them is in this one's gradient.
        earlier=earlier
        if len(updates) == 1 and opened is None and federation.config.local.is_stateful
        else (),
        aggregate=opened,
        shares=shares,
        published=published,
    )
    return record, _truth(federation, seen).of_clients({update.client for update in sent})


def watch(
    federation: Federation,
    states: Sequence[ModelState],
    *,
    signal: Signal,
    round_number: int,
    victim: Victim,
    defense: ClientDefense | None = None,
    facts: tuple[Fact, ...] = (),
) -> tuple[RoundRecord, Truth]:
    """One client's signal of the same batch in consecutive rounds, from `round_number` on, and the truth behind it.

    `states` are the global weights at the start of each. What a defense draws it draws anew in each round; the images
    stay. For `gradients` and `one_step_update` of clients that remember nothing.
    """
    pairs = [
        capture(
            federation,
            state,
            signal=signal,
            round_number=number,
            victim=victim,
            defense=defense,
            facts=facts,
            drawn=round_number,
        )
        for number, state in enumerate(states, start=round_number)
    ]
    first, truth = pairs[0]
    return replace(first, later=tuple(record for record, _ in pairs[1:])), truth


def _added(
    mean: FixedMean, round_number: int, updates: Sequence[ClientUpdate]
) -> tuple[tuple[float, ...], Tensors | None]:
    """Each update's weight in the mean, and what the server makes of it, where that is not the mean alone."""
    examples = {update.client: update.examples for update in updates}
    prepared = mean.prepare(round_number, examples)
    found = mean_change([update.to(torch.device("cpu")) for update in updates], prepared)
    published = prepared.published(found)
    weights = [prepared.weight(update.examples) for update in updates]
    divisor = prepared.divisor(sum(weights))
    return tuple(weight / divisor for weight in weights), None if published is found else published.tensors


def image_indices(federation: Federation, signal: Signal, *, round_number: int, victim: Victim) -> list[int]:
    """The images that the victim's signal is made of, by their index in the data set, each once."""
    found = [
        index
        for _, batches in _sources(federation, signal, round_number, victim)
        for batch in batches
        for index in batch.indices
    ]
    return list(dict.fromkeys(found))


def smallest_batch(
    federation: Federation, signal: Signal, *, round_number: int, found: Sequence[Victim]
) -> int:
    """How many images the smallest batch has that a victim's signal is made of."""
    return min(
        len(batch.indices)
        for victim in found
        for _, batches in _sources(federation, signal, round_number, victim)
        for batch in batches
    )


def _sources(
    federation: Federation, signal: Signal, round_number: int, victim: Victim
) -> list[tuple[int, list[LocalBatch]]]:
    """The clients behind the victim's signal, the victim first, each with the batches that it takes from."""
    units = [(victim.client, victim.batch), *victim.companions]
    if signal == "agg_update":
        group = federation.participants(round_number, first=victim.client, group=victim.batch)
        units = [(client, 0) for client in group]
    return [(client, _batches(federation, signal, client, round_number, batch)) for client, batch in units]


def _batches(
    federation: Federation, signal: Signal, client: int, round_number: int, batch: int
) -> list[LocalBatch]:
    """The client's one batch, which stands in for the first of the round, or all that it trains on."""
    if signal in ("gradients", "one_step_update"):
        return federation.local_batches(client, round_number)[batch : batch + 1]
    return federation.trained_batches(client, round_number)


def _replay(
    federation: Federation, client: int, history: Sequence[ModelState], defense: ClientDefense | None
) -> tuple[tuple[EarlierUpdate, ...], ClientState]:
    """What the server received of `client` in the rounds that started at `history`, and what it keeps of them."""
    received: list[EarlierUpdate] = []
    memory = ClientState()
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
