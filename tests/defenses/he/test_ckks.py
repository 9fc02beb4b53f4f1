"""CKKS: who can open what, what noise there is, where it would wrap; keys in files."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import tenseal
import torch

from defenses.he.ckks import SLOT_NOISE, SLOTS, CKKSPublic, CKKSSecret, noise_clears
from defenses.he.cost import estimate
from defenses.he.encryption import CKKS, load_public, load_secret, save_public, save_secret
from defenses.he.exchange import EncryptedExchange
from defenses.secure.mean import SecureMean
from fl_core.base.errors import InputError
from tests.support.updates import as_updates, small_tensors


@pytest.fixture(scope="module")
def keys() -> EncryptedExchange:
    return CKKS().exchange(range(3))


def public_key(keys: EncryptedExchange) -> CKKSPublic:
    assert isinstance(keys.public, CKKSPublic)
    return keys.public


def secret_key(keys: EncryptedExchange) -> CKKSSecret:
    assert isinstance(keys.secret, CKKSSecret)
    return keys.secret


def test_a_public_key_cannot_open(keys: EncryptedExchange) -> None:
    key = public_key(keys)
    context = tenseal.context_from(key.context)
    assert not context.has_secret_key()
    assert context.is_public()
    vector = tenseal.ckks_vector_from(context, key.encrypt(np.arange(10))[0])
    with pytest.raises(ValueError, match="secret_key"):
        vector.decrypt()


def test_another_key_opens_nothing(keys: EncryptedExchange) -> None:
    upload = keys.public.encrypt(np.arange(5000))
    other = CKKS().exchange(range(3))
    with pytest.raises(ArithmeticError, match="off the grid"):
        secret_key(other).decrypt(upload, numbers=5000, addends=1)
    assert secret_key(keys).decrypt(upload, numbers=5000, addends=1).tolist() == list(range(5000))


@pytest.mark.parametrize("addends", [1, 9])
def test_noise_has_the_predicted_size(keys: EncryptedExchange, addends: int) -> None:
    """The error of raw decryptions, which decides how fine the grid may be."""
    key = public_key(keys)
    context = tenseal.context_from(secret_key(keys).context)
    zeros = np.zeros(4 * SLOTS, dtype=np.int64)
    total = key.add([key.encrypt(zeros)] * 1 + [key.encrypt(zeros) for _ in range(addends - 1)])
    errors = np.concatenate([tenseal.ckks_vector_from(context, part).decrypt() for part in total])
    predicted = SLOT_NOISE * addends**0.5 / 2.0**key.scale_bits
    assert errors.std() == pytest.approx(predicted, rel=0.05)


def test_a_grid_within_the_noise_is_refused() -> None:
    assert noise_clears(scale_bits=44, precision=2**24, clients=1000)
    assert not noise_clears(scale_bits=40, precision=2**24, clients=10)
    with pytest.raises(
        InputError, match=r"precision = 16777216 is finer than the noise of 10 .*raise scale_bits"
    ):
        CKKS(scale_bits=40).exchange(range(10))
    coarser = SecureMean(scheme=CKKS(scale_bits=40, precision=2**22))
    coarser.open_sum(0, as_updates(small_tensors(range(10))))


def test_sums_beyond_the_limit_would_wrap_silently() -> None:
    """Why there is a limit: CKKS itself gives a wrong sum without a word."""
    scheme = CKKS(scale_bits=40, precision=2**20)
    keys = scheme.exchange(range(4))
    key = public_key(keys)
    assert key.fixed.limit / key.fixed.precision == 2.0**16  # 2^18 for the sum of four.
    unchecked = [key.encrypt(np.full(5, 2**17 * 2**20))] * 4
    wrapped = secret_key(keys).decrypt(key.add(unchecked), numbers=5, addends=4)
    assert wrapped[0] != 4 * 2**17 * 2**20
    with pytest.raises(InputError, match="at most 65536 in magnitude"):
        SecureMean(scheme=scheme).open_sum(
            0, as_updates({client: {"w": torch.full((5,), 2.0**17)} for client in range(4)})
        )


def test_an_update_that_would_wrap_is_named_by_its_place(keys: EncryptedExchange) -> None:
    """The last number of the second block."""
    updates = {client: {"w": torch.zeros(keys.public.block + 9)} for client in (0, 1)}
    updates[1]["w"][-1] = 1e9
    with pytest.raises(InputError, match=rf"^Client 1's w\[{keys.public.block + 8}\] = 1e\+09"):
        SecureMean(scheme=CKKS()).open_sum(0, as_updates(updates))


def test_bytes_are_those_of_the_ciphertexts(keys: EncryptedExchange) -> None:
    update = {"w": torch.zeros(3 * SLOTS + 1)}
    _, opened = SecureMean(scheme=CKKS()).open_sum(0, as_updates({0: update, 1: update}))
    # Two polynomials of 8,192 coefficients of 8 bytes, four times.
    assert opened.bytes_up == pytest.approx(4 * 2 * 8192 * 8, rel=0.01)
    predicted = estimate(keys, 1_000_000, clients=3).bytes_up
    assert predicted == pytest.approx(1_000_000 / SLOTS * 2 * 8192 * 8, rel=0.01)


def test_keys_live_in_separate_files(keys: EncryptedExchange, tmp_path: Path) -> None:
    public, secret = tmp_path / "public.json", tmp_path / "secret.json"
    save_public(public_key(keys), public)
    save_secret(secret_key(keys), secret)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert load_public(public) == keys.public
    assert load_secret(secret) == secret_key(keys)
    upload = load_public(public).encrypt(np.arange(7))
    assert load_secret(secret).decrypt(upload, numbers=7, addends=1).tolist() == list(range(7))
    assert not tenseal.context_from(load_public(public).context).has_secret_key()  # type: ignore[union-attr]
    assert json.loads(secret.read_text())["context"] not in public.read_text()
    with pytest.raises(InputError, match="not written over"):
        save_secret(secret_key(keys), secret)
    with pytest.raises(InputError, match="holds a secret key where a public one"):
        load_public(secret)
    with pytest.raises(InputError, match="holds a public key where a secret one"):
        load_secret(public)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"key": "CKKSSecret", "context": "???secret???"}'])
def test_a_damaged_key_file_is_named_but_not_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"key\.json holds no key") as caught:
        load_secret(path)
    assert "???" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(InputError, match="holds no key"):
        load_secret(tmp_path / "missing.json")
