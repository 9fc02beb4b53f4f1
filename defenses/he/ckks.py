"""CKKS by TenSEAL (Microsoft SEAL), for additions only: keys and blocks. Needs NumPy and TenSEAL alone.

Ring degree 8192 and a modulus of 120 bits, 60 of which carry the plaintext; 218 bits would still have 128-bit
security at this degree (Homomorphic Encryption Standard, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any, ClassVar

from defenses.secure.fixed_point import FixedPoint, Integers
from defenses.secure.keys import Ciphertexts
from fl_core.base.libraries import library

DEGREE = 8192
MODULI = (60, 60)
SLOTS = DEGREE // 2
HEADROOM_BITS = MODULI[0] - 2
"""Encoded numbers and their sums stay below two to this power: one bit for the sign, one for SEAL's own check."""

SLOT_NOISE = math.sqrt(DEGREE / 2 * (1 + 2 * DEGREE / 3) / 12)
"""Standard deviation of a fresh ciphertext's error in a slot, in units of 1 / scale.

Encryption under both moduli ends with a division by the second, whose rounding (uniform in +-1/2, in both
polynomials, one of them times a ternary secret) outweighs everything else; a slot sums DEGREE coefficients.
"""


@dataclass(frozen=True, kw_only=True)
class CKKSPublic:
    """Encrypts and adds; see `defenses.secure.keys.PublicKey`.

    Numbers are multiples of 1 / `precision`, coarse enough that rounding an opened sum removes CKKS's noise:
    what comes out is the exact sum of the fixed-point numbers.
    """

    block: ClassVar[int] = 16 * SLOTS
    sample: ClassVar[int] = 16 * SLOTS

    context: bytes = field(repr=False)
    scale_bits: int
    precision: int
    clients: int

    @property
    def fixed(self) -> FixedPoint:
        """See `PublicKey.fixed`: beyond it, sums would wrap around the modulus without a sign of it."""
        bound = math.ldexp(self.precision, HEADROOM_BITS - self.scale_bits)
        return FixedPoint(precision=self.precision, limit=int(bound) // self.clients)

    def encrypt(self, steps: Integers) -> Ciphertexts:
        """See `PublicKey.encrypt`; one ciphertext for each 4,096 values."""
        tenseal, context = _tenseal(), _public_context(self.context)
        values = self.fixed.decode(steps)
        parts = (values[start : start + SLOTS] for start in range(0, len(values), SLOTS))
        return tuple(tenseal.ckks_vector(context, part).serialize() for part in parts)

    def add(self, uploads: Sequence[Ciphertexts]) -> Ciphertexts:
        """See `PublicKey.add`."""
        tenseal, context = _tenseal(), _public_context(self.context)
        totals = []
        for column in zip(*uploads, strict=True):
            total = tenseal.ckks_vector_from(context, column[0])
            for ciphertext in column[1:]:
                total += tenseal.ckks_vector_from(context, ciphertext)
            totals.append(total.serialize())
        return tuple(totals)


@dataclass(frozen=True, kw_only=True)
class CKKSSecret:
    """Opens sums; see `defenses.secure.keys.SecretKey`."""

    context: bytes = field(repr=False)
    precision: int

    def decrypt(self, total: Ciphertexts, *, numbers: int, addends: int) -> Integers:
        """See `SecretKey.decrypt`; raises `ArithmeticError` where the opened numbers are off the grid."""
        import numpy as np

        del addends
        tenseal = _tenseal()
        context = tenseal.context_from(self.context, n_threads=1)
        opened = [tenseal.ckks_vector_from(context, part).decrypt() for part in total]
        steps = np.concatenate(opened)[:numbers] * self.precision
        nearest = np.rint(steps)
        if not float(np.abs(steps - nearest).max(initial=0.0)) <= 0.4:
            raise ArithmeticError("A decrypted sum is off the grid: damaged, wrapped, or under another key.")
        exact: Integers = nearest.astype(np.int64)
        return exact


def noise_clears(*, scale_bits: int, precision: int, clients: int) -> bool:
    """Whether half a step is ten standard deviations of the noise in a sum of `clients` ciphertexts, or more."""
    return math.ldexp(10 * SLOT_NOISE * math.sqrt(clients), -scale_bits) <= 0.5 / precision


def generate(*, scale_bits: int, precision: int, clients: int) -> tuple[CKKSPublic, CKKSSecret]:
    """A fresh key pair from SEAL's own source of randomness."""
    tenseal = _tenseal()
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULI), n_threads=1)
    context.global_scale = 2.0**scale_bits

    def half(*, secret: bool) -> bytes:
        data: bytes = context.serialize(
            save_public_key=not secret,
            save_secret_key=secret,
            save_galois_keys=False,
            save_relin_keys=False,
        )
        return data

    public = CKKSPublic(
        context=half(secret=False), scale_bits=scale_bits, precision=precision, clients=clients
    )
    return public, CKKSSecret(context=half(secret=True), precision=precision)


def check_library() -> None:
    """Raise `InputError` where TenSEAL is not installed."""
    _tenseal()


@lru_cache(maxsize=2)
def _public_context(data: bytes) -> Any:
    """A public context, kept: reading one takes as long as encrypting a third of a block."""
    return _tenseal().context_from(data, n_threads=1)


def _tenseal() -> ModuleType:
    return library("tenseal", "CKKS needs it: pip install tenseal")
