"""What every secure sum promises, whatever the scheme."""

from __future__ import annotations

import base64
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from defenses.he.encrypted_noise import EncryptedNoise
from defenses.he.encryption import CKKS, InsecureKey, Paillier
from defenses.masking.masking import Masking
from defenses.masking.parties import Participant
from defenses.secure.mean import SecureMean
from defenses.secure.protection import SumProtection
from fl_core.base.errors import InputError
from fl_core.base.rng import stream
from fl_core.base.types import OpenedSum, Tensors
from fl_core.federation.rounds import FederationConfig
from tests.support.paths import ROOT
from tests.support.updates import as_updates, exact_mean, small_tensors

GPL = pytest.mark.skipif(
    importlib.util.find_spec("phe") is None,
    reason="the extra paillier is not installed: Paillier is not checked",
)
SHORT = Paillier(key_bits=512)
SCHEMES = [
    pytest.param(CKKS(), id="ckks"),
    pytest.param(
        SHORT,
        id="paillier",
        marks=[GPL, pytest.mark.filterwarnings("ignore::defenses.he.encryption.InsecureKey")],
    ),
    pytest.param(Masking(), id="masking"),
    pytest.param(Masking(word_bits=64, precision=2**30), id="masking64"),
]
Scheme = CKKS | Paillier | Masking


def opened(scheme: SumProtection, updates: Mapping[int, Tensors]) -> OpenedSum:
    """What a round of these clients gives away."""
    return SecureMean(scheme=scheme).open_sum(0, as_updates(updates))[1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_sum_is_exact_in_fixed_point(scheme: Scheme) -> None:
    updates = small_tensors([3, 0, 8, 5])
    found = opened(scheme, updates)
    expected = exact_mean(updates, scheme.precision)
    assert list(found.tensors) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found.tensors[name], value), name
    assert found.shares == (0.25,) * 4
    assert 0 < found.rounding_error <= 0.5 / scheme.precision + 1e-7
    assert found.bytes_up >= 62 * 4
    assert min(found.setup_seconds, found.protect_seconds, found.add_seconds, found.reveal_seconds) > 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_largest_numbers_do_not_wrap_and_larger_ones_are_refused(scheme: Scheme) -> None:
    fixed = scheme.exchange([0, 1, 2]).fixed
    most = fixed.limit / fixed.precision
    # Every number of every client at the limit, which is the worst case for each scheme's carry.
    for sign in (1.0, -1.0):
        full = {client: {"w": torch.full((70,), sign * most, dtype=torch.float64)} for client in range(3)}
        torch.testing.assert_close(opened(scheme, full).tensors["w"], full[0]["w"], rtol=1e-12, atol=0)
    for bad in (most * 1.001 + 1, float("nan")):
        broken = {client: {"w": torch.ones(70), "b": torch.zeros(5)} for client in range(3)}
        broken[1]["b"][2] = bad
        with pytest.raises(InputError, match=r"^Client 1's b\[2\] = ") as caught:
            opened(scheme, broken)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_and_the_same_client_twice_are_refused(scheme: Scheme) -> None:
    for clients in ([], [1, 1]):
        with pytest.raises(InputError, match="at least"):
            scheme.exchange(clients)
    whole = SecureMean(scheme=scheme).prepare(0, {0: 1, 1: 1})
    with pytest.raises(InputError, match="No client's update is in the sum"):
        whole.finish(whole.start(0, (0, 1)))


@pytest.mark.parametrize("scheme", SCHEMES[:2])
def test_the_key_holder_opens_a_partial_sum(scheme: CKKS | Paillier) -> None:
    """Encryption has no quorum: any clients that are there are summed."""
    updates = small_tensors([1, 4])
    whole = SecureMean(scheme=scheme).prepare(0, dict.fromkeys(range(5), 1))
    partial = whole.start(0, range(5))
    for update in as_updates(updates):
        partial = whole.add(partial, update)
    mean = whole.finish(partial)
    for name, value in exact_mean(updates, scheme.precision).items():
        assert torch.equal(mean.tensors[name], value)


@pytest.mark.parametrize("scheme", [*SCHEMES[:2]])
def test_encryption_is_randomised(scheme: CKKS | Paillier) -> None:
    public = scheme.exchange([0]).public
    block = np.arange(100, dtype=np.int64)
    first, second = public.encrypt(block), public.encrypt(block)
    assert all(one != other for one, other in zip(first, second, strict=True))


def secrets_of(thing: Any) -> list[str]:
    """Every form in which a secret could be printed."""
    if isinstance(thing, Participant):
        raw = [thing._own_seed, thing._pairwise_seed, thing._channel.private_bytes_raw()]
    elif hasattr(thing, "context"):
        raw = [thing.context[-64:]]
    else:
        return [str(thing.p), str(thing.q), hex(thing.p), hex(thing.q)]
    return [
        form for value in raw for form in (value.hex(), repr(value)[2:-1], base64.b64encode(value).decode())
    ]


@pytest.mark.parametrize("scheme", [*SCHEMES[:2]])
def test_keys_do_not_print_themselves(scheme: CKKS | Paillier) -> None:
    exchange = scheme.exchange([0, 1])
    for text in (repr(exchange), str(exchange.secret), repr(exchange.public), f"{exchange}"):
        assert not [secret for secret in secrets_of(exchange.secret) if secret in text]
        assert len(text) < 300


def test_participants_do_not_print_themselves() -> None:
    parties = [Participant(client, threshold=2, word_bits=32) for client in range(2)]
    roster = {party.client: party.advertise() for party in parties}
    mail = [party.share(roster) for party in parties]
    parties[0].receive(1, mail[1][0])
    masker = parties[0].masker()
    assert repr(parties[0]) == "Participant(0)"
    assert repr(masker) == "Masker(word_bits=32)"
    assert repr(parties[0].unmasking_shares(frozenset({0, 1}))) == "UnmaskingShares()"


@pytest.mark.parametrize(
    ("noise", "distribution"),
    [
        (EncryptedNoise(distribution="laplace", scale=0.5), "laplace"),
        (EncryptedNoise(distribution="gaussian", scale=0.5), "norm"),
    ],
)
def test_noise_before_encryption_is_in_the_sum_and_has_its_scale(
    noise: EncryptedNoise, distribution: str
) -> None:
    scheme = CKKS(noise=noise)
    (update,) = as_updates({0: {"w": torch.linspace(-1, 1, 20_000)}})
    noisy = scheme.on_update(update, stream("noise before encryption"), FederationConfig())
    found = opened(scheme, {0: noisy.tensors}).tensors["w"]
    drawn = (found - update.tensors["w"]).double().numpy()
    assert kstest(drawn / 0.5, distribution).pvalue > 0.001
    for wrong in (0.46, 0.54):
        assert kstest(drawn / wrong, distribution).pvalue < 0.001


def test_noise_without_a_scale_is_refused() -> None:
    with pytest.raises(InputError, match=r"EncryptedNoise\.scale"):
        EncryptedNoise(scale=0.0)


@pytest.mark.slow
def test_libraries_load_when_they_are_used() -> None:
    """Settings load no cryptography, and what workers run loads no PyTorch."""
    code = """
import sys
import defenses.he.encryption, defenses.masking.masking, defenses.secure.selective
loaded = {"tenseal", "phe", "Crypto", "cryptography"} & sys.modules.keys()
assert not loaded, loaded
defenses.he.encryption.CKKS().exchange([0])
assert "tenseal" in sys.modules and "phe" not in sys.modules
"""
    light = """
import sys
import defenses.he.ckks, defenses.he.paillier, defenses.secure.keys, defenses.masking.parties
assert "torch" not in sys.modules
"""
    for program in (code, light):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("scheme", "missing", "remedy"),
    [
        (CKKS(), "tenseal", "pip install tenseal"),
        (Masking(), "Crypto", "pip install pycryptodome"),
        (Paillier(), "phe", "pip install gmpy2 phe"),
        (Paillier(), "gmpy2", "pip install gmpy2 phe"),
    ],
)
def test_a_missing_library_is_named(
    scheme: Scheme, missing: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "phe":
        gmpy2 = type(sys)("gmpy2")
        monkeypatch.setitem(sys.modules, "gmpy2", gmpy2)
        monkeypatch.setitem(sys.modules, "phe.paillier", None)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"not installed\. .*{remedy}"):
        scheme.exchange([0, 1])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: CKKS(scale_bits=60), r"CKKS\.scale_bits = 60"),
        (lambda: CKKS(precision=0), r"CKKS\.precision = 0"),
        (lambda: Paillier(key_bits=1024), r"Paillier\.key_bits = 1024: must be one of 512, 2048"),  # type: ignore[arg-type]
        (lambda: Paillier(precision=0), r"Paillier\.precision = 0"),
        (lambda: Paillier(lane_bits=16), r"Paillier\.lane_bits = 16"),  # type: ignore[arg-type]
        (lambda: Paillier().exchange(range(2**16 + 1)), r"lane_bits = 32: too few for 65537 clients"),
        (lambda: Masking(threshold=0.5), r"Masking\.threshold = 0\.5"),
        (lambda: Masking(word_bits=16), r"Masking\.word_bits = 16"),  # type: ignore[arg-type]
        (lambda: Masking().exchange([4]), "at least two"),
    ],
)
def test_bad_settings_are_named(build: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()


@GPL
def test_short_keys_are_called_insecure() -> None:
    with pytest.warns(InsecureKey, match="512 bits are insecure"):
        SHORT.exchange([0])


def test_the_documented_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "cryptography.md"
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.endswith("(0.5, 0.5)\n")
