"""Paillier by python-paillier: keys and blocks. Needs NumPy, phe and gmpy2 alone.

phe is under the GPL, so it is an optional extra and imported when a Paillier key is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Literal

from defenses.secure.fixed_point import FixedPoint, Integers, Lanes, guard_bits
from defenses.secure.keys import Ciphertexts
from fl_core.base.libraries import library


@dataclass(frozen=True, kw_only=True)
class PaillierPublic:
    """Encrypts and adds; see `defenses.secure.keys.PublicKey`.

    A plaintext packs as many lanes of `lane_bits` bits as the key has room for. A lane has guard bits for the sum
    of `clients` numbers. Fixed-point numbers have no exponent, so a ciphertext tells nothing of their size.
    """

    words: ClassVar[int] = 8

    n: int = field(repr=False)
    key_bits: int
    lane_bits: Literal[32, 64]
    precision: int
    clients: int

    @property
    def lanes(self) -> Lanes:
        """How numbers lie in a plaintext."""
        count = (self.key_bits - 1) // self.lane_bits
        return Lanes(bits=self.lane_bits, guard_bits=guard_bits(self.clients), count=count)

    @property
    def block(self) -> int:
        """The values of eight plaintexts: about 0.1 s of work for a client at 2048 bits."""
        return self.words * self.lanes.count

    @property
    def sample(self) -> int:
        """As many as a block."""
        return self.block

    @property
    def fixed(self) -> FixedPoint:
        """See `PublicKey.fixed`."""
        return FixedPoint(precision=self.precision, limit=self.lanes.limit)

    def encrypt(self, steps: Integers) -> Ciphertexts:
        """See `PublicKey.encrypt`: every plaintext with its own random r."""
        key = self._key()
        size = self.key_bits // 4
        return tuple(key.raw_encrypt(word).to_bytes(size, "little") for word in self.lanes.pack(steps))

    def add(self, uploads: Sequence[Ciphertexts]) -> Ciphertexts:
        """See `PublicKey.add`; raises `ValueError` for more uploads than the guard bits allow."""
        if len(uploads) > self.lanes.capacity:
            raise ValueError(f"{len(uploads)} uploads; the guard bits allow {self.lanes.capacity}.")
        phe, key = _phe(), self._key()
        size = self.key_bits // 4
        totals = []
        for column in zip(*uploads, strict=True):
            total, *others = (phe.EncryptedNumber(key, int.from_bytes(part, "little")) for part in column)
            for other in others:
                total += other
            # Each addend brought fresh randomness, so the sum needs no more of it.
            totals.append(total.ciphertext(be_secure=False).to_bytes(size, "little"))
        return tuple(totals)

    def _key(self) -> Any:
        return _phe().PaillierPublicKey(self.n)


@dataclass(frozen=True, kw_only=True)
class PaillierSecret:
    """Opens sums; see `defenses.secure.keys.SecretKey`."""

    public: PaillierPublic
    p: int = field(repr=False)
    q: int = field(repr=False)

    def decrypt(self, total: Ciphertexts, *, numbers: int, addends: int) -> Integers:
        """See `SecretKey.decrypt`."""
        phe = _phe()
        key = phe.PaillierPrivateKey(phe.PaillierPublicKey(self.public.n), self.p, self.q)
        words = [key.raw_decrypt(int.from_bytes(part, "little")) for part in total]
        return self.public.lanes.unpack(words, numbers, addends)


def generate(
    *, key_bits: int, lane_bits: Literal[32, 64], precision: int, clients: int
) -> tuple[PaillierPublic, PaillierSecret]:
    """A fresh key pair; its primes come from the operating system's randomness."""
    public_key, secret_key = _phe().generate_paillier_keypair(n_length=key_bits)
    public = PaillierPublic(
        n=public_key.n, key_bits=key_bits, lane_bits=lane_bits, precision=precision, clients=clients
    )
    return public, PaillierSecret(public=public, p=secret_key.p, q=secret_key.q)


def check_library() -> None:
    """Raise `InputError` where phe or gmpy2 is not installed."""
    _phe()


def _phe() -> ModuleType:
    remedy = "Paillier needs it: run `pip install gmpy2 phe`; phe is under the GPL, so nobody gets it unasked"
    library("gmpy2", remedy)  # phe would do without, many times slower.
    return library("phe.paillier", remedy)
