"""Paillier: real keys of 2048 bits, every parameter, guard bits, what it would take."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from defenses.encrypted_sum import EncryptedSession, Estimate, estimate
from defenses.encryption import Paillier, load_public, load_secret, save_public, save_secret
from defenses.fixed_point import FixedPoint
from defenses.paillier import PaillierPublic
from fl_core.errors import InputError
from fl_core.models import ModelConfig, initial_state
from fl_core.rng import generator
from tests.updates import exact_sum

phe = pytest.importorskip("phe", reason="the extra paillier is not installed: Paillier is not checked")


@pytest.fixture(scope="module")
def session() -> EncryptedSession:
    return Paillier().setup(range(3))


def public_key(session: EncryptedSession) -> PaillierPublic:
    assert isinstance(session.public, PaillierPublic)
    return session.public


def test_every_parameter_of_a_small_network(session: EncryptedSession) -> None:
    config = ModelConfig(kind="lenet", image_size=16)
    updates = {
        client: dict(initial_state(config, generator("paillier", client)).parameters) for client in (0, 2)
    }
    size = sum(value.numel() for value in updates[0].values())
    summed = session.sum(updates)
    for name, value in exact_sum(updates, 1_000_000).items():
        assert torch.equal(summed.tensors[name], value), name
    plaintexts = -(-size // 63)
    assert summed.cost.values == size > 8000
    assert summed.cost.bytes_up == plaintexts * 512
    assert estimate(session, size).bytes_up == pytest.approx(plaintexts * 512, rel=0.01)


def test_keys_have_2048_bits_and_fresh_primes(session: EncryptedSession) -> None:
    key = public_key(session)
    assert key.n.bit_length() == 2048
    assert session.secret.p * session.secret.q == key.n  # type: ignore[attr-defined]
    assert key.lanes.count == 63
    assert key.lanes.guard_bits == 2


def test_ciphertexts_are_paillier_ciphertexts(session: EncryptedSession) -> None:
    """The library's own key object opens what we packed, without any of our code for opening."""
    key = public_key(session)
    secret = phe.PaillierPrivateKey(phe.PaillierPublicKey(key.n), session.secret.p, session.secret.q)  # type: ignore[attr-defined]
    numbers = np.array([5, -7, key.lanes.limit], dtype=np.int64)
    (ciphertext,) = key.protect(numbers)
    plain = secret.raw_decrypt(int.from_bytes(ciphertext, "little"))
    offset = key.lanes.limit + 1
    assert [(plain >> (32 * lane)) % 2**32 - offset for lane in range(3)] == [5, -7, key.lanes.limit]


def test_more_addends_than_guard_bits_are_refused(session: EncryptedSession) -> None:
    key = public_key(session)
    upload = key.protect(np.full(10, key.lanes.limit))
    four = key.add([upload] * 4)
    assert session.secret.reveal(four, numbers=10, addends=4).tolist() == [4 * key.lanes.limit] * 10
    with pytest.raises(ValueError, match="guard bits allow 4"):
        key.add([upload] * 5)


def test_wide_lanes_take_large_numbers() -> None:
    scheme = Paillier(lane_bits=64, precision=2**30)
    updates = {client: {"w": torch.tensor([3e6, -1e-9, 0.5], dtype=torch.float64)} for client in range(2)}
    summed = scheme.setup(range(2)).sum(updates).tensors["w"]
    fixed = FixedPoint(precision=2**30, limit=2**62)
    steps = 2 * fixed.encode(updates[0]["w"].numpy())
    assert summed.tolist() == fixed.decode(steps).tolist()
    with pytest.raises(InputError, match=r"Client 0's w\[0\] = 3e\+06 .*at most 1073\.74"):
        Paillier(precision=10**6).setup(range(2)).sum(updates)


def test_keys_live_in_separate_files(session: EncryptedSession, tmp_path: Path) -> None:
    public, secret = tmp_path / "public.json", tmp_path / "secret.json"
    save_public(public_key(session), public)
    save_secret(session.secret, secret)  # type: ignore[arg-type]
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert load_public(public) == session.public
    assert load_secret(secret) == session.secret
    for prime in (session.secret.p, session.secret.q):  # type: ignore[attr-defined]
        assert str(prime) in secret.read_text()
        assert str(prime) not in public.read_text()


def test_slow_sums_ask_first(session: EncryptedSession) -> None:
    small, large = estimate(session, 504), estimate(session, 8_759_042, workers=2)
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
