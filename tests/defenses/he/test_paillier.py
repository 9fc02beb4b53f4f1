"""Paillier: real keys of 2048 bits, every parameter, guard bits, what it would take."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.he.cost import Estimate, estimate
from defenses.he.encryption import Paillier, load_public, load_secret, save_public, save_secret
from defenses.he.exchange import EncryptedExchange
from defenses.he.paillier import PaillierPublic, PaillierSecret
from defenses.secure.fixed_point import FixedPoint
from defenses.secure.mean import SecureMean
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from tests.support.updates import as_updates, exact_mean

phe = pytest.importorskip("phe", reason="the extra paillier is not installed: Paillier is not checked")


@pytest.fixture(scope="module")
def keys() -> EncryptedExchange:
    return Paillier().exchange(range(3))


def public_key(keys: EncryptedExchange) -> PaillierPublic:
    assert isinstance(keys.public, PaillierPublic)
    return keys.public


def secret_key(keys: EncryptedExchange) -> PaillierSecret:
    assert isinstance(keys.secret, PaillierSecret)
    return keys.secret


@pytest.mark.slow
def test_every_parameter_of_a_small_network(keys: EncryptedExchange) -> None:
    config = ModelConfig(kind="lenet", image_size=16)
    updates = {
        client: dict(initial_state(config, generator("paillier", client)).parameters) for client in (0, 2)
    }
    size = sum(value.numel() for value in updates[0].values())
    _, opened = SecureMean(scheme=Paillier()).open_sum(0, as_updates(updates))
    for name, value in exact_mean(updates, 1_000_000).items():
        assert torch.equal(opened.tensors[name], value), name
    plaintexts = -(-size // 63)
    assert size > 8000
    assert opened.bytes_up == plaintexts * 512
    assert estimate(keys, size, clients=3).bytes_up == pytest.approx(plaintexts * 512, rel=0.01)


def test_keys_have_2048_bits_and_fresh_primes(keys: EncryptedExchange) -> None:
    key = public_key(keys)
    assert key.n.bit_length() == 2048
    assert secret_key(keys).p * secret_key(keys).q == key.n
    assert key.lanes.count == 63
    assert key.lanes.guard_bits == 2


def test_ciphertexts_are_paillier_ciphertexts(keys: EncryptedExchange) -> None:
    """The library's own key object opens what we packed, without any of our code for opening."""
    key = public_key(keys)
    secret = phe.PaillierPrivateKey(phe.PaillierPublicKey(key.n), secret_key(keys).p, secret_key(keys).q)
    numbers = np.array([5, -7, key.lanes.limit], dtype=np.int64)
    (ciphertext,) = key.encrypt(numbers)
    plain = secret.raw_decrypt(int.from_bytes(ciphertext, "little"))
    offset = key.lanes.limit + 1
    assert [(plain >> (32 * lane)) % 2**32 - offset for lane in range(3)] == [5, -7, key.lanes.limit]


def test_more_addends_than_guard_bits_are_refused(keys: EncryptedExchange) -> None:
    key = public_key(keys)
    upload = key.encrypt(np.full(10, key.lanes.limit))
    four = key.add([upload] * 4)
    assert secret_key(keys).decrypt(four, numbers=10, addends=4).tolist() == [4 * key.lanes.limit] * 10
    with pytest.raises(ValueError, match="guard bits allow 4"):
        key.add([upload] * 5)


def test_wide_lanes_take_large_numbers() -> None:
    scheme = Paillier(lane_bits=64, precision=2**30)
    updates = {client: {"w": torch.tensor([3e6, -1e-9, 0.5], dtype=torch.float64)} for client in range(2)}
    _, opened = SecureMean(scheme=scheme).open_sum(0, as_updates(updates))
    fixed = FixedPoint(precision=2**30, limit=2**62)
    assert opened.tensors["w"].tolist() == fixed.decode(fixed.encode(updates[0]["w"].numpy())).tolist()
    with pytest.raises(InputError, match=r"Client 0's w\[0\] = 3e\+06 .*at most 1073\.74"):
        SecureMean(scheme=Paillier(precision=10**6)).open_sum(0, as_updates(updates))


def test_keys_live_in_separate_files(keys: EncryptedExchange, tmp_path: Path) -> None:
    public, secret = tmp_path / "public.json", tmp_path / "secret.json"
    save_public(public_key(keys), public)
    save_secret(secret_key(keys), secret)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert load_public(public) == keys.public
    assert load_secret(secret) == secret_key(keys)
    for prime in (secret_key(keys).p, secret_key(keys).q):
        assert str(prime) in secret.read_text()
        assert str(prime) not in public.read_text()


def test_slow_sums_ask_first(keys: EncryptedExchange) -> None:
    small = estimate(keys, 504, clients=3)
    large = estimate(keys, 8_759_042, clients=3, workers=2)
    assert large.bytes_up == pytest.approx(8_759_042 / 63 * 512, rel=0.001)
    assert large.seconds > 100 * small.seconds
    small.require_consent(allow_slow=False)
    slow = Estimate(values=8_759_042, clients=10, workers=2, seconds=9000.0, bytes_up=71_184_000)
    slow.require_consent(allow_slow=True)
    with pytest.raises(
        InputError,
        match=r"8,759,042 values of 10 clients on 2 cores: about 2\.5 h, 71\.2 MB .*allow_slow: true",
    ):
        slow.require_consent(allow_slow=False)
