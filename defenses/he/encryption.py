"""Homomorphic encryption as a setting: CKKS or Paillier, and their keys in files."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import time
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from defenses.he import ckks, paillier
from defenses.he.ckks import CKKSPublic, CKKSSecret
from defenses.he.encrypted_noise import EncryptedNoise
from defenses.he.exchange import EncryptedExchange
from defenses.he.paillier import PaillierPublic, PaillierSecret
from defenses.secure.fixed_point import guard_bits
from defenses.secure.keys import PublicKey, SecretKey
from defenses.secure.protection import SumProtection
from defenses.secure.selective import Selective
from fl_core.base.errors import InputError
from fl_core.base.types import ClientUpdate, InUnits, Protection, require
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Fact

if TYPE_CHECKING:
    from fl_core.base.rng import Random

INSECURE = "Paillier keys of 512 bits are insecure, such keys have been factored: use 2048."


class InsecureKey(UserWarning):
    """A key that is too short to protect anything."""


@dataclass(frozen=True, kw_only=True)
class Encrypted(SumProtection):
    """Base of the homomorphic schemes: a key pair a round, and noise that each client may add before it encrypts.

    `selective` encrypts a part of every update and sends the rest in the clear; None encrypts all of it.
    """

    protection: ClassVar[Protection] = "encrypted"
    noise: EncryptedNoise | None = None
    selective: Selective | None = None

    @property
    def chosen(self) -> Selective | None:
        """See `SumProtection.chosen`."""
        return self.selective

    @abstractmethod
    def keys(self, clients: int) -> tuple[PublicKey, SecretKey]:
        """A fresh key pair for sums of at most so many clients; raises `InputError` where the library is missing."""

    def exchange(self, clients: Sequence[int]) -> EncryptedExchange:
        """See `SumProtection.exchange`; raises what `keys` raises, and for no client or one that is named twice."""
        if not clients or len(set(clients)) != len(clients):
            raise InputError(f"Clients {list(clients)}: at least one is needed, and each once.")
        started = time.process_time()
        public, secret = self.keys(len(clients))
        return EncryptedExchange(public=public, secret=secret, setup_seconds=time.process_time() - started)

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        """Add the noise, where there is one, to the whole update, buffers too; see `Mechanism.on_update`."""
        if self.noise is None:
            return update
        tensors = self.noise.add(update.tensors, random)
        return dataclasses.replace(update, tensors=tensors, buffers=self.noise.add(update.buffers, random))

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        """See `Mechanism.facts`."""
        return () if self.noise is None else (self.noise.fact(),)


@dataclass(frozen=True, kw_only=True)
class CKKS(Encrypted):
    """CKKS (Cheon et al., ASIACRYPT 2017) by TenSEAL: 4,096 numbers a ciphertext of 131 kB.

    `precision` is the number of steps a unit: updates are rounded to multiples of 1 / precision, and so are opened
    sums, which removes CKKS's own noise. `scale_bits` trades the range of sums, +-2^(58 - scale_bits), for room
    between noise and step. `noise` is added by each client before encryption.
    """

    kind: Literal["ckks"] = "ckks"
    scale_bits: Annotated[int, InUnits("bits")] = 44
    precision: int = 2**24

    def __post_init__(self) -> None:
        require(30 <= self.scale_bits <= 52, self, "scale_bits", "from 30 to 52")
        require(self.precision >= 1, self, "precision", "at least 1 step a unit")

    def check_library(self) -> None:
        """See `Mechanism.check_library`: TenSEAL."""
        ckks.check_library()

    def keys(self, clients: int) -> tuple[CKKSPublic, CKKSSecret]:
        """A key pair; raises `InputError` where CKKS's noise in the sum of so many ciphertexts would blur the steps."""
        if not ckks.noise_clears(scale_bits=self.scale_bits, precision=self.precision, clients=clients):
            raise InputError(
                f"CKKS.precision = {self.precision} is finer than the noise of {clients} ciphertexts at scale_bits = "
                f"{self.scale_bits}; lower the precision or raise scale_bits."
            )
        return ckks.generate(scale_bits=self.scale_bits, precision=self.precision, clients=clients)


@dataclass(frozen=True, kw_only=True)
class Paillier(Encrypted):
    """Paillier (EUROCRYPT 1999) by python-paillier, many numbers packed into a plaintext.

    `key_bits` is 2048, or 512 for comparison with older work: such keys have been factored and protect nothing.
    `precision` is the number of steps a unit. A number takes a lane of `lane_bits` bits, of which so many stay
    free that the clients' sum fits: with 10 clients, lanes of 32 bits and the default precision, numbers are at
    most 134 in magnitude. `noise` is added by each client before encryption.
    """

    kind: Literal["paillier"] = "paillier"
    key_bits: Literal[512, 2048] = 2048
    precision: int = 1_000_000
    lane_bits: Literal[32, 64] = 32

    def __post_init__(self) -> None:
        require(self.precision >= 1, self, "precision", "at least 1 step a unit")

    def check_library(self) -> None:
        """See `Mechanism.check_library`: phe and gmpy2, an extra."""
        paillier.check_library()

    def keys(self, clients: int) -> tuple[PaillierPublic, PaillierSecret]:
        """A key pair; warns of `InsecureKey` at 512 bits; raises `InputError` where the extra is missing."""
        if guard_bits(clients) > self.lane_bits // 2:
            raise InputError(f"Paillier.lane_bits = {self.lane_bits}: too few for {clients} clients.")
        if self.key_bits == 512:
            warnings.warn(INSECURE, InsecureKey, stacklevel=2)
        return paillier.generate(
            key_bits=self.key_bits, lane_bits=self.lane_bits, precision=self.precision, clients=clients
        )


Encryption = CKKS | Paillier
"""Every homomorphic scheme."""

_CLASSES = {kind.__name__: kind for kind in (CKKSPublic, CKKSSecret, PaillierPublic, PaillierSecret)}


def save_public(key: CKKSPublic | PaillierPublic, path: Path) -> None:
    """Write a public key as JSON; it is for everybody."""
    path.write_text(json.dumps(_document(key)), encoding="utf-8")


def save_secret(key: CKKSSecret | PaillierSecret, path: Path) -> None:
    """Write a secret key as JSON that only its owner may read (mode 0600); raises `InputError` over a file."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"{path} exists: a secret key is not written over another file.") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(_document(key), file)


def load_public(path: Path) -> CKKSPublic | PaillierPublic:
    """The public key in `path`; raises `InputError` where there is none."""
    key = _load(path)
    if not isinstance(key, CKKSPublic | PaillierPublic):
        raise InputError(f"{path} holds a secret key where a public one is wanted.")
    return key


def load_secret(path: Path) -> CKKSSecret | PaillierSecret:
    """The secret key in `path`; raises `InputError` where there is none."""
    key = _load(path)
    if not isinstance(key, CKKSSecret | PaillierSecret):
        raise InputError(f"{path} holds a public key where a secret one is wanted.")
    return key


def _document(key: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        return _document(value) if dataclasses.is_dataclass(value) else value

    fields = {field.name: plain(getattr(key, field.name)) for field in dataclasses.fields(key)}
    return {"key": type(key).__name__, **fields}


def _load(path: Path) -> Any:
    try:
        return _restored(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        # The cause may quote the file, which may hold a secret.
        raise InputError(f"{path} holds no key of this program ({type(error).__name__}).") from None


def _restored(document: Any) -> Any:
    if not isinstance(document, dict):
        raise TypeError(type(document).__name__)

    def rich(name: str, value: Any) -> Any:
        if name == "context":
            return base64.b64decode(value, validate=True)
        return _restored(value) if isinstance(value, dict) else value

    fields = {name: rich(name, value) for name, value in document.items() if name != "key"}
    return _CLASSES[document["key"]](**fields)
