"""A whole round of secure aggregation between clients and server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np

from defenses.encrypted_sum import known_clients, local_cores
from defenses.fixed_point import Integers
from defenses.masking import Masking
from defenses.masking_parties import Advertisement, Masker, Participant, Server, too_few
from defenses.packing import Layout
from defenses.secure_sum import Cost, Progress, Summed
from fl_core.types import Tensors


@dataclass(frozen=True, kw_only=True)
class MaskedSession:
    """Secure aggregation between these clients; see `defenses.secure_sum.Session`."""

    clients: tuple[int, ...]
    config: Masking

    def sum(
        self,
        updates: Mapping[int, Tensors],
        *,
        executor: Executor | None = None,
        progress: Progress | None = None,
        silent: Collection[int] = (),
    ) -> Summed:
        """See `Session.sum`; progress counts clients.

        Clients without an update drop out after the exchange of shares, those in `silent` after their upload:
        they are in the sum but do not help to open it.
        """
        known_clients(updates, self.clients)
        threshold = self.config.needed(len(self.clients))
        if len(updates) < threshold:
            raise too_few(len(updates), threshold)
        layout, fixed = Layout.of(next(iter(updates.values()))), self.config.fixed(len(self.clients))
        started = time.process_time()
        parties, roster, talk = self.meet()
        setup = time.process_time() - started

        def steps(client: int) -> Integers:
            vector = layout.flatten(updates[client])
            exact[:] += vector
            return fixed.encode(vector, lambda index: f"Client {client}'s {layout.place(index)}")

        exact = np.zeros(layout.size)
        server = Server(roster, values=layout.size, threshold=threshold, word_bits=self.config.word_bits)
        protecting, adding = 0.0, 0.0
        for done, (client, masked, seconds) in enumerate(_masked(executor, parties, updates, steps), start=1):
            protecting += seconds
            started = time.process_time()
            server.add(client, masked)
            adding += time.process_time() - started
            if progress:
                progress(done, len(updates))
        started = time.process_time()
        answers = {c: parties[c].answer(server.survivors) for c in server.survivors if c not in silent}
        opened = fixed.decode(server.reveal(answers))
        revealing = time.process_time() - started
        size = layout.size * self.config.word_bits // 8
        return Summed(
            tensors=layout.restore(opened),
            clients=tuple(updates),
            cost=Cost(
                values=layout.size,
                clients=len(updates),
                bytes_up=size + talk + max(answer.size for answer in answers.values()),
                setup_seconds=setup,
                protect_seconds=protecting / len(updates),
                add_seconds=adding,
                reveal_seconds=revealing,
                rounding_error=float(np.abs(opened - exact).max(initial=0.0)),
            ),
        )

    def meet(self) -> tuple[dict[int, Participant], dict[int, Advertisement], int]:
        """Parties that hold each other's shares, their public keys, and the most bytes that one sent for it."""
        bits, threshold = self.config.word_bits, self.config.needed(len(self.clients))
        parties = {c: Participant(c, threshold=threshold, word_bits=bits) for c in self.clients}
        roster = {client: party.advertise() for client, party in parties.items()}
        mail = {client: party.share(roster) for client, party in parties.items()}
        most = 0
        for sender, messages in mail.items():
            keys = roster[sender]
            most = max(most, len(keys.channel) + len(keys.mask) + sum(map(len, messages.values())))
            for receiver, message in messages.items():
                parties[receiver].receive(sender, message)
        return parties, roster, most


def _masked(
    executor: Executor | None,
    parties: Mapping[int, Participant],
    updates: Mapping[int, Tensors],
    steps: Callable[[int], Integers],
) -> Iterator[tuple[int, bytes, float]]:
    """Each client with its masked update and the seconds it took, in order, a few in flight."""
    flying: deque[tuple[int, Future[tuple[bytes, float]]]] = deque()
    depth = 2 * local_cores()
    for client in updates:
        masker, numbers = parties[client].masker(), steps(client)
        if executor is None:
            yield client, *_timed(masker, numbers)
            continue
        flying.append((client, executor.submit(_timed, masker, numbers)))
        if len(flying) >= depth:
            first, future = flying.popleft()
            yield first, *future.result()
    for first, future in flying:
        yield first, *future.result()


def _timed(masker: Masker, steps: Integers) -> tuple[bytes, float]:
    started = time.process_time()
    masked = masker(steps)
    return masked, time.process_time() - started
