"""The parties of secure aggregation by pairwise masks (Bonawitz et al., CCS 2017), honest but curious.

Every pair of clients shares a mask that one adds and the other subtracts, so the masks of a complete sum cancel.
Every client adds a mask of its own too, and shares the seeds of both among all clients: of a client that dropped
out the others give up the pairwise seed, of one that is in the sum the seed of its own mask, never both. Needs
NumPy, cryptography and pycryptodome alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from defenses.secure.fixed_point import Integers
from fl_core.base.errors import InputError

Words = NDArray[np.unsignedinteger]
WordBits = Literal[32, 64]
SEED_BYTES = 16
"""Seeds have 128 bits, the security level of X25519 and the size that Shamir's sharing takes."""

BLOCK_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Advertisement:
    """A client's public keys of one round: `channel` for shares on their way, `mask` for pairwise masks."""

    channel: bytes
    mask: bytes


@dataclass(frozen=True, kw_only=True)
class UnmaskingShares:
    """One client's shares after the upload: of own-mask seeds of survivors, of pairwise seeds of the dropped."""

    own: Mapping[int, bytes] = field(repr=False)
    pairwise: Mapping[int, bytes] = field(repr=False)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return sum(map(len, [*self.own.values(), *self.pairwise.values()]))


@dataclass(frozen=True, kw_only=True)
class Masker:
    """Masks one client's update: a plain function with its keys, for any worker."""

    word_bits: WordBits
    added: tuple[bytes, ...] = field(repr=False)
    subtracted: tuple[bytes, ...] = field(repr=False)

    def __call__(self, steps: Integers) -> bytes:
        """The update in whole steps, modulo 2^word_bits, under every mask."""
        words = as_words(steps, self.word_bits)
        for key in self.added:
            apply_mask(words, key, np.add)
        for key in self.subtracted:
            apply_mask(words, key, np.subtract)
        return words.tobytes()


class Participant:
    """One client in one round. Its methods are called in the order in which they stand here."""

    def __init__(self, client: int, *, threshold: int, word_bits: WordBits) -> None:
        self.client = client
        self._threshold, self._word_bits = threshold, word_bits
        self._channel = X25519PrivateKey.generate()
        self._pairwise_seed, self._own_seed = os.urandom(SEED_BYTES), os.urandom(SEED_BYTES)
        self._roster: dict[int, Advertisement] = {}
        self._shares: dict[int, tuple[bytes, bytes]] = {}
        self._answered = False

    def __repr__(self) -> str:
        return f"Participant({self.client})"

    def advertise(self) -> Advertisement:
        """The public keys, for everybody."""
        return Advertisement(channel=_public(self._channel), mask=_public(mask_key(self._pairwise_seed)))

    def share(self, roster: Mapping[int, Advertisement]) -> dict[int, bytes]:
        """Both seeds, shared among the clients of `roster`: one encrypted message for each of the others."""
        self._roster = dict(sorted(roster.items()))
        size = len(self._roster)
        split = (Shamir.split(self._threshold, size, seed) for seed in (self._pairwise_seed, self._own_seed))
        messages = {}
        for receiver, (_, pairwise), (_, own) in zip(self._roster, *split, strict=True):
            if receiver == self.client:
                self._shares[receiver] = pairwise, own
            else:
                nonce = os.urandom(12)
                cipher = self._cipher(receiver, sender=self.client, receiver=receiver)
                messages[receiver] = nonce + cipher.encrypt(nonce, pairwise + own, None)
        return messages

    def receive(self, sender: int, message: bytes) -> None:
        """Another client's shares; raises `InputError` for a message that was not made for this client."""
        cipher = self._cipher(sender, sender=sender, receiver=self.client)
        try:
            pair = cipher.decrypt(message[:12], message[12:], None)
        except InvalidTag as error:
            raise InputError(f"Client {self.client} cannot read the shares of client {sender}.") from error
        self._shares[sender] = pair[:SEED_BYTES], pair[SEED_BYTES:]

    def masker(self) -> Masker:
        """What masks the update: its own mask, and one with everybody whose shares arrived."""
        mine, digest = mask_key(self._pairwise_seed), roster_digest(self._roster)
        added: list[bytes] = [own_mask(self._own_seed, digest)]
        subtracted: list[bytes] = []
        for other in self._shares:
            if other != self.client:
                key = pair_mask(mine, self._roster[other].mask, digest)
                (added if self.client < other else subtracted).append(key)
        return Masker(word_bits=self._word_bits, added=tuple(added), subtracted=tuple(subtracted))

    def unmasking_shares(self, survivors: frozenset[int]) -> UnmaskingShares:
        """Shares of own masks of `survivors` and of pairwise seeds of everybody else, once in a round.

        Raises `InputError` for fewer survivors than the threshold, and for a second question: two answers with
        different survivors would give away both seeds of a client, and so its update.
        """
        if self._answered:
            raise InputError(f"Client {self.client} has answered in this round; it does not answer twice.")
        if len(survivors) < self._threshold or not survivors <= self._shares.keys():
            raise too_few(len(survivors & self._shares.keys()), self._threshold)
        self._answered = True
        return UnmaskingShares(
            own={owner: own for owner, (_, own) in self._shares.items() if owner in survivors},
            pairwise={owner: pair for owner, (pair, _) in self._shares.items() if owner not in survivors},
        )

    def _cipher(self, other: int, *, sender: int, receiver: int) -> ChaCha20Poly1305:
        secret = _agree(self._channel, self._roster[other].channel)
        digest = roster_digest(self._roster)
        return ChaCha20Poly1305(_derive(secret, b"shares", digest, f"{sender}>{receiver}".encode()))


def agree_on_keys(
    clients: Iterable[int], *, threshold: int, word_bits: WordBits
) -> tuple[dict[int, Participant], dict[int, Advertisement], int]:
    """Participants that hold each other's shares, their public keys, and the most bytes that one of them sent."""
    parties = {client: Participant(client, threshold=threshold, word_bits=word_bits) for client in clients}
    roster = {client: party.advertise() for client, party in parties.items()}
    mail = {client: party.share(roster) for client, party in parties.items()}
    most = 0
    for sender, messages in mail.items():
        keys = roster[sender]
        most = max(most, len(keys.channel) + len(keys.mask) + sum(map(len, messages.values())))
        for receiver, message in messages.items():
            parties[receiver].receive(sender, message)
    return parties, roster, most


class Server:
    """Adds masked updates; takes the masks off the sum, and off nothing else."""

    def __init__(
        self, roster: Mapping[int, Advertisement], *, values: int, threshold: int, word_bits: WordBits
    ) -> None:
        self._roster = dict(sorted(roster.items()))
        self._threshold, self._word_bits = threshold, word_bits
        self._total = np.zeros(values, dtype=f"<u{word_bits // 8}")
        self._received: set[int] = set()

    @property
    def survivors(self) -> frozenset[int]:
        """The clients whose masked updates are in the sum."""
        return frozenset(self._received)

    def add(self, client: int, masked: bytes) -> None:
        """One client's masked update."""
        if client in self._received or client not in self._roster:
            raise InputError(f"Client {client} sent twice, or is not part of this round.")
        self._total += np.frombuffer(masked, dtype=self._total.dtype)
        self._received.add(client)

    def add_sum(self, clients: Collection[int], summed: bytes) -> None:
        """The masked updates of several clients, added elsewhere."""
        if self._received & set(clients) or not set(clients) <= self._roster.keys():
            raise InputError(f"Clients {sorted(clients)}: one sent twice, or is not part of this round.")
        self._total += np.frombuffer(summed, dtype=self._total.dtype)
        self._received |= set(clients)

    def reveal(self, answers: Mapping[int, UnmaskingShares]) -> Integers:
        """The survivors' sum, from the answers by client; raises `InputError` below the threshold."""
        if len(answers) < self._threshold or len(self._received) < self._threshold:
            raise too_few(min(len(answers), len(self._received)), self._threshold)
        chosen = dict(sorted(answers.items())[: self._threshold])
        index = {client: i for i, client in enumerate(self._roster, start=1)}
        digest = roster_digest(self._roster)
        total = self._total.copy()
        for owner in self._roster:
            if owner in self._received:
                seed = _combine({index[client]: answer.own[owner] for client, answer in chosen.items()})
                apply_mask(total, own_mask(seed, digest), np.subtract)
                continue
            seed = _combine({index[client]: answer.pairwise[owner] for client, answer in chosen.items()})
            key = mask_key(seed)
            if _public(key) != self._roster[owner].mask:
                raise InputError(f"The shares of client {owner} do not give its key: some answer is wrong.")
            for other in self._received:
                # A survivor added the mask where its number is the smaller one.
                undo = np.subtract if other < owner else np.add
                apply_mask(total, pair_mask(key, self._roster[other].mask, digest), undo)
        signed: Integers = total.view(f"<i{self._word_bits // 8}").astype(np.int64)
        return signed


def as_words(steps: Integers, word_bits: WordBits) -> Words:
    """Whole numbers modulo 2^word_bits, as they are masked and added."""
    return steps.astype(f"<u{word_bits // 8}")


def apply_mask(words: Words, key: bytes, operation: np.ufunc) -> None:
    """Add or subtract, in place, the AES-256-CTR key stream of `key`, which is used for this alone."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    zeros, room = bytes(BLOCK_BYTES), bytearray(BLOCK_BYTES + 15)
    step = BLOCK_BYTES // words.itemsize
    mask = np.frombuffer(room, dtype=words.dtype, count=step)
    for start in range(0, len(words), step):
        part = words[start : start + step]
        stream.update_into(memoryview(zeros)[: part.nbytes], room)
        operation(part, mask[: len(part)], out=part)


def mask_key(seed: bytes) -> X25519PrivateKey:
    """The private key for pairwise masks that a seed stands for."""
    return X25519PrivateKey.from_private_bytes(_derive(seed, b"pairwise key"))


def pair_mask(mine: X25519PrivateKey, theirs: bytes, digest: bytes) -> bytes:
    """The key of the mask that two clients share in the round of that roster."""
    return _derive(_agree(mine, theirs), b"pairwise mask", digest)


def own_mask(seed: bytes, digest: bytes) -> bytes:
    """The key of a client's own mask."""
    return _derive(seed, b"own mask", digest)


def roster_digest(roster: Mapping[int, Advertisement]) -> bytes:
    """What binds derived keys to one round: a hash of everybody's public keys."""
    lines = (f"{client}:{keys.channel.hex()}:{keys.mask.hex()}" for client, keys in sorted(roster.items()))
    return hashlib.sha256("\n".join(lines).encode()).digest()


def too_few(number: int, threshold: int) -> InputError:
    """The error of a round that cannot be finished."""
    return InputError(
        f"{number} clients are left, and secure aggregation needs {threshold} to take masks off: no sum is revealed; "
        "start a new round or lower the threshold."
    )


def _public(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _agree(mine: X25519PrivateKey, theirs: bytes) -> bytes:
    return mine.exchange(X25519PublicKey.from_public_bytes(theirs))


def _derive(secret: bytes, *purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"\x00".join(purpose)).derive(secret)


def _combine(shares: Mapping[int, bytes]) -> bytes:
    seed: bytes = Shamir.combine(list(shares.items()))
    return seed
