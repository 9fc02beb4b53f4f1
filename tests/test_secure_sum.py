"""What every secure sum promises, whatever the scheme."""

from __future__ import annotations

import base64
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from defenses.encrypted_noise import EncryptedNoise
from defenses.encrypted_sum import EncryptedSession, local_pool
from defenses.encryption import CKKS, InsecureKey, Paillier
from defenses.masking import Masking
from defenses.masking_parties import Participant
from defenses.secure_sum import Session, secure_mean
from fl_core.errors import InputError
from fl_core.reduction import mean_change
from fl_core.server import apply_change
from fl_core.types import ClientUpdate, ModelState
from tests.updates import exact_sum, small_updates

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
        marks=[GPL, pytest.mark.filterwarnings("ignore::defenses.encryption.InsecureKey")],
    ),
    pytest.param(Masking(), id="masking"),
    pytest.param(Masking(word_bits=64, precision=2**30), id="masking64"),
]
Scheme = CKKS | Paillier | Masking


def largest(session: Session) -> float:
    """The largest number that one client may send."""
    if isinstance(session, EncryptedSession):
        return session.public.fixed.limit / session.public.fixed.precision
    fixed = session.config.fixed(len(session.clients))  # type: ignore[attr-defined]
    return fixed.limit / fixed.precision


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_sum_is_exact_in_fixed_point(scheme: Scheme) -> None:
    updates = small_updates([3, 0, 8, 5])
    seen: list[tuple[int, int]] = []
    summed = scheme.setup([0, 3, 5, 8]).sum(updates, progress=lambda done, total: seen.append((done, total)))
    expected = exact_sum(updates, scheme.precision)
    assert list(summed.tensors) == list(expected)
    for name, value in expected.items():
        assert torch.equal(summed.tensors[name], value), name
    cost = summed.cost
    assert summed.clients == (3, 0, 8, 5)
    assert (cost.values, cost.clients) == (62, 4)
    assert 0 < cost.rounding_error <= 4 * 0.5 / scheme.precision
    assert cost.bytes_up >= 62 * 4
    assert min(cost.setup_seconds, cost.protect_seconds, cost.add_seconds, cost.reveal_seconds) > 0
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_largest_numbers_do_not_wrap_and_larger_ones_are_refused(scheme: Scheme) -> None:
    session = scheme.setup([0, 1, 2])
    most = largest(session)
    # Every number of every client at the limit, which is the worst case for each scheme's carry.
    for sign in (1.0, -1.0):
        full = {client: {"w": torch.full((70,), sign * most, dtype=torch.float64)} for client in range(3)}
        summed = session.sum(full)
        torch.testing.assert_close(summed.tensors["w"], full[0]["w"] * 3, rtol=1e-12, atol=0)
    for bad in (most * 1.001 + 1, float("nan")):
        broken = {client: {"w": torch.ones(70), "b": torch.zeros(5)} for client in range(3)}
        broken[1]["b"][2] = bad
        with pytest.raises(InputError, match=r"^Client 1's b\[2\] = ") as caught:
            session.sum(broken)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strangers_are_refused(scheme: Scheme) -> None:
    with pytest.raises(InputError, match=r"Client 9 .*\[0, 1, 2\]"):
        scheme.setup([0, 1, 2]).sum(small_updates([0, 1, 9]))
    with pytest.raises(InputError, match=r"0 clients are left|No client is left"):
        scheme.setup([0, 1, 2]).sum({})
    for clients in ([], [1, 1]):
        with pytest.raises(InputError, match="at least"):
            scheme.setup(clients)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_mean_is_fedavgs_with_buffers(scheme: Scheme) -> None:
    updates = tuple(
        ClientUpdate(
            client=client,
            tensors={"w": torch.randn(9, generator=torch.Generator().manual_seed(client))},
            buffers={"var": torch.rand(4) + client, "count": torch.tensor(client + 1)},
            examples=examples,
            steps=1,
            lr=0.1,
            momentum=0.0,
        )
        for client, examples in ((0, 5), (1, 20), (2, 11))
    )
    zero = ModelState(
        parameters={"w": torch.zeros(9)}, buffers={"var": torch.zeros(4), "count": torch.tensor(0.0)}
    )
    after = apply_change(zero, mean_change(updates))
    mean = secure_mean(scheme.setup([0, 1, 2]), updates)
    bound = 3 * 0.5 / scheme.precision * 20 / 36
    assert mean.cost.rounding_error <= bound
    for name, value in {**after.parameters, **after.buffers}.items():
        torch.testing.assert_close(mean.tensors[name], value, rtol=1e-6, atol=bound)


def test_workers_give_the_same_sum() -> None:
    """Several blocks in two fresh processes, against this one."""
    clients = [0, 1]
    updates = {
        client: {"w": torch.randn(150_000, generator=torch.Generator().manual_seed(client))}
        for client in clients
    }
    with local_pool(2) as pool:
        for scheme in (CKKS(), Masking()):
            expected = exact_sum(updates, scheme.precision)
            assert torch.equal(scheme.setup(clients).sum(updates, executor=pool).tensors["w"], expected["w"])
        broken = {client: {"w": torch.full((150_000,), 1e9)} for client in clients}
        with pytest.raises(InputError, match="Client 0"):
            CKKS().setup(clients).sum(broken, executor=pool)


@pytest.mark.parametrize("scheme", [*SCHEMES[:2]])
def test_the_key_holder_opens_a_partial_sum(scheme: CKKS | Paillier) -> None:
    """Encryption has no quorum: any clients that are there are summed."""
    session = scheme.setup(range(5))
    updates = small_updates([1, 4])
    summed = session.sum(updates)
    for name, value in exact_sum(updates, scheme.precision).items():
        assert torch.equal(summed.tensors[name], value)
    alone = session.sum(small_updates([2])).tensors
    assert torch.equal(alone["fc.bias"], exact_sum(small_updates([2]), scheme.precision)["fc.bias"])


@pytest.mark.parametrize("scheme", [*SCHEMES[:2]])
def test_encryption_is_randomised(scheme: CKKS | Paillier) -> None:
    public = scheme.setup([0]).public
    block = np.arange(100, dtype=np.int64)
    first, second = public.protect(block), public.protect(block)
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
    session = scheme.setup([0, 1])
    for text in (repr(session), str(session.secret), repr(session.public), f"{session}"):
        assert not [secret for secret in secrets_of(session.secret) if secret in text]
        assert len(text) < 300


def test_participants_do_not_print_themselves() -> None:
    parties = [Participant(client, threshold=2, word_bits=32) for client in range(2)]
    roster = {party.client: party.advertise() for party in parties}
    mail = [party.share(roster) for party in parties]
    parties[0].receive(1, mail[1][0])
    masker = parties[0].masker()
    assert repr(parties[0]) == "Participant(0)"
    assert repr(masker) == "Masker(word_bits=32)"
    assert repr(parties[0].answer(frozenset({0, 1}))) == "Answer()"


@pytest.mark.parametrize(
    ("noise", "distribution"),
    [
        (EncryptedNoise(distribution="laplace", scale=0.5), "laplace"),
        (EncryptedNoise(distribution="gaussian", scale=0.5), "norm"),
    ],
)
def test_encrypted_noise_is_in_the_sum_and_has_its_scale(noise: EncryptedNoise, distribution: str) -> None:
    update = {0: {"w": torch.linspace(-1, 1, 20_000)}}
    scheme = CKKS(noise=noise)
    opened = scheme.setup([0], seed=4).sum(update).tensors["w"]
    drawn = (opened - update[0]["w"]).double().numpy()
    assert kstest(drawn / 0.5, distribution).pvalue > 0.001
    for wrong in (0.46, 0.54):
        assert kstest(drawn / wrong, distribution).pvalue < 0.001
    assert torch.equal(opened, scheme.setup([0], seed=4).sum(update).tensors["w"])
    assert not torch.equal(opened, scheme.setup([0], seed=5).sum(update).tensors["w"])
    both = scheme.setup([0, 1], seed=4).sum({0: update[0], 1: update[0]}).tensors["w"]
    assert not torch.allclose(both, 2 * opened)


def test_encrypted_noise_is_never_forgotten() -> None:
    with pytest.raises(ValueError, match="seed"):
        CKKS(noise=EncryptedNoise()).setup([0])
    with pytest.raises(InputError, match=r"EncryptedNoise\.scale"):
        EncryptedNoise(scale=0.0)


def test_libraries_load_when_they_are_used() -> None:
    """Settings load no cryptography, and what workers run loads no PyTorch."""
    code = """
import sys
import defenses.encryption, defenses.masking, defenses.selective
loaded = {"tenseal", "phe", "Crypto", "cryptography"} & sys.modules.keys()
assert not loaded, loaded
defenses.encryption.CKKS().setup([0])
assert "tenseal" in sys.modules and "phe" not in sys.modules
"""
    light = """
import sys
import defenses.ckks, defenses.paillier, defenses.keys, defenses.masking_parties
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
        (Paillier(), "phe", r"extra: pip install 'gradsweep\[paillier\]'"),
        (Paillier(), "gmpy2", r"extra: pip install 'gradsweep\[paillier\]'"),
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
        scheme.setup([0, 1])


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: CKKS(scale_bits=60), r"CKKS\.scale_bits = 60"),
        (lambda: CKKS(precision=0), r"CKKS\.precision = 0"),
        (lambda: Paillier(key_bits=1024), r"Paillier\.key_bits = 1024: must be 2048, or 512"),  # type: ignore[arg-type]
        (lambda: Paillier(precision=0), r"Paillier\.precision = 0"),
        (lambda: Paillier(lane_bits=16), r"Paillier\.lane_bits = 16"),  # type: ignore[arg-type]
        (lambda: Paillier().setup(range(2**16 + 1)), r"lane_bits = 32: too few for 65537 clients"),
        (lambda: Masking(threshold=0.5), r"Masking\.threshold = 0\.5"),
        (lambda: Masking(word_bits=16), r"Masking\.word_bits = 16"),  # type: ignore[arg-type]
        (lambda: Masking().setup([4]), "at least two"),
    ],
)
def test_bad_settings_are_named(build: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()


@GPL
def test_short_keys_are_called_insecure() -> None:
    with pytest.warns(InsecureKey, match="512 bits are insecure"):
        SHORT.setup([0])


def test_the_documented_example_runs() -> None:
    page = Path(__file__).parent.parent / "docs" / "cryptography.md"
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("(0, 2)\n")
