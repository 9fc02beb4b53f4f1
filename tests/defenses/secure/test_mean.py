"""Secure sums as a federation's reduction: FedAvg to the step, whatever the keys, the chunks and the processes."""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any

import pytest
import torch

from defenses.chain import Chain
from defenses.dp.local import DPUpdate
from defenses.he.encrypted_noise import EncryptedNoise
from defenses.he.encryption import CKKS, Paillier
from defenses.masking.masking import Masking
from defenses.mechanism.noise import NoiseOnly
from defenses.secure.exchange import dropouts
from defenses.secure.mean import SecureMean
from defenses.secure.protection import SumProtection
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.federation.aggregation import FedAvg, mean_change
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.simulator import ClientWork, InProcess
from fl_core.federation.training import train
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Noise
from orchestrator.execute.execute import make_executor
from orchestrator.execute.simulation import PooledSimulator
from orchestrator.io.identity import tensor_hash
from tests.support.federations import make_federation
from tests.support.updates import small_tensors

pytestmark = pytest.mark.filterwarnings("ignore::defenses.he.encryption.InsecureKey")
GPL = pytest.mark.skipif(
    importlib.util.find_spec("phe") is None,
    reason="the extra paillier is not installed: Paillier is not checked",
)
SCHEMES = [
    pytest.param(CKKS(), id="ckks"),
    pytest.param(Paillier(key_bits=512), id="paillier", marks=GPL),
    pytest.param(Masking(), id="masking"),
    pytest.param(Masking(threshold=0.6, dropout=0.4), id="dropout"),
]
PLAN = FederationConfig(rounds=2)


def federation_of(faces: ImageDataset, *, chunk: int = 2, kind: str = "mlp", **local: Any) -> Federation:
    config = FederationConfig(
        clients=6, fraction=0.9, rounds=2, chunk=chunk, local=LocalTraining(lr=0.05, batch_size=2, **local)
    )
    return make_federation(
        faces,
        model=ModelConfig(kind=kind, image_size=16),  # type: ignore[arg-type]
        train=26,
        config=config,
    )


def trained(federation: Federation, chain: Chain) -> ModelState:
    """The weights after two rounds."""
    work = ClientWork(
        federation=federation,
        defense=chain.clients(seed=1, plan=federation.config),
        reduction=chain.reduction(seed=1, plan=federation.config),
    )
    state = initial_state(federation.model, generator("model", 0))
    *_, last = train(InProcess(work), state, rounds=2)
    return last.state


def updates(count: int) -> list[ClientUpdate]:
    """Of clients with different numbers of images, in no order of their names."""
    tensors = small_tensors([7 * i % 11 for i in range(count)])
    return [
        ClientUpdate(
            client=client,
            tensors={name: value for name, value in each.items() if not name.startswith("bn")},
            buffers={"bn.running_mean": each["bn.running_mean"], "seen": torch.tensor(4)},
            examples=1 + place,
            steps=1,
            lr=0.1,
            momentum=0.0,
        )
        for place, (client, each) in enumerate(tensors.items())
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_opened_mean_is_fedavgs_of_whole_updates(scheme: SumProtection) -> None:
    everybody = updates(5)
    secure = Chain(defenses=(scheme,)).secure_sum(seed=3, plan=PLAN)  # type: ignore[arg-type]
    assert secure is not None
    sent, opened = secure.open_sum(0, everybody)
    lost = dropouts(scheme.lost, 5)
    assert len(sent) == 5 - lost == len(opened.shares)
    assert sent[0].client == everybody[0].client, "the victim is in the sum"
    stayed = [update for update in everybody if update.client in {each.client for each in sent}]
    wanted = mean_change(stayed)
    step = 1.0 / scheme.precision  # type: ignore[attr-defined]
    assert sum(opened.shares) == pytest.approx(1.0)
    assert opened.shares == pytest.approx(tuple(u.examples / sum(s.examples for s in stayed) for u in stayed))
    assert opened.tensors.keys() == wanted.tensors.keys()
    assert opened.buffers.keys() == wanted.buffers.keys()
    # Each of the addends is off by half a step, and the sum is divided by their weights.
    worst = 5 * 0.5 * step / sum(u.examples / 5 for u in stayed) + 2e-7
    for name, value in {**wanted.tensors, **wanted.buffers}.items():
        found = {**opened.tensors, **opened.buffers}[name]
        torch.testing.assert_close(found, value, rtol=0, atol=worst)
    assert 0 < opened.rounding_error <= worst
    # What was sent adds up to what was opened: the steps themselves.
    for name, value in opened.tensors.items():
        again = sum(s * u.tensors[name].double() for s, u in zip(opened.shares, sent, strict=True))
        torch.testing.assert_close(value.double(), again, rtol=1e-6, atol=1e-7)
    assert opened.bytes_up > 4 * 62
    assert min(opened.protect_seconds, opened.reveal_seconds) > 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [CKKS(), Masking()], ids=["ckks", "masking"])
def test_training_agrees_in_every_bit_whatever_keys_and_chunks(
    faces: ImageDataset, scheme: CKKS | Masking
) -> None:
    chain = Chain(defenses=(scheme,))
    # 8,522 numbers are several ciphertexts too, and take a fraction of the time of an mlp's 525,570.
    found = [trained(federation_of(faces, kind="lenet", chunk=chunk), chain) for chunk in (1, 2, 10, 10)]
    assert len({tensor_hash(state.parameters) for state in found}) == 1
    plain = trained(federation_of(faces, kind="lenet"), Chain())
    for name, value in plain.parameters.items():
        torch.testing.assert_close(found[0].parameters[name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_schemes_of_equal_precision_agree_in_every_bit(faces: ImageDataset) -> None:
    schemes = (CKKS(precision=2**20), Masking(precision=2**20))
    found = [trained(federation_of(faces, kind="lenet"), Chain(defenses=(each,))) for each in schemes]
    assert len({tensor_hash(state.parameters) for state in found}) == 1


@pytest.mark.slow
def test_workers_agree_with_one_process(faces: ImageDataset) -> None:
    chain, federation = Chain(defenses=(CKKS(),)), federation_of(faces, kind="lenet", chunk=1)
    work = ClientWork(
        federation=federation,
        defense=chain.clients(seed=1, plan=federation.config),
        reduction=chain.reduction(seed=1, plan=federation.config),
    )
    state = initial_state(federation.model, generator("model", 0))
    executor = make_executor("local", workers=2, threads=1, gpus=0.0)
    try:
        *_, last = train(PooledSimulator(executor, work, threads=1), state, rounds=2)
    finally:
        executor.close()
    assert tensor_hash(last.state.parameters) == tensor_hash(trained(federation, chain).parameters)


@pytest.mark.parametrize("scheme", SCHEMES[:3])
def test_what_travels_holds_nothing_that_opens_a_sum(scheme: SumProtection) -> None:
    whole = SecureMean(scheme=scheme).prepare(0, {0: 2, 1: 2, 2: 1})
    part = pickle.loads(pickle.dumps(whole.for_clients([0])))
    partial = part.add(part.start(0, (0, 1, 2)), dataclass_update(0))
    with pytest.raises(ValueError, match="elsewhere"):
        part.finish(partial)
    travelled = pickle.loads(pickle.dumps(partial))
    plain = b"".join(value.numpy().tobytes() for value in dataclass_update(0).tensors.values())
    assert plain not in b"".join(part for block in travelled.blocks for part in block)
    with pytest.raises(ValueError, match="prepared"):
        SecureMean(scheme=scheme).finish(partial)


def dataclass_update(client: int) -> ClientUpdate:
    return ClientUpdate(
        client=client, tensors={"w": torch.ones(50)}, examples=2, steps=1, lr=0.1, momentum=0.0
    )


def test_below_the_threshold_no_sum_is_opened() -> None:
    whole = SecureMean(scheme=Masking()).prepare(0, dict.fromkeys(range(4), 2))
    each = whole.for_clients(range(4))
    partial = each.add(each.start(0, range(4)), dataclass_update(0))
    with pytest.raises(InputError, match="no sum is revealed"):
        whole.finish(partial)
    with pytest.raises(InputError, match=r"Masking\.dropout = 0\.4: must be smaller: it leaves 3 of 5"):
        Masking(threshold=0.8, dropout=0.4).check_round(5)


def test_dropouts_are_taken_out_of_training_and_differ_by_round() -> None:
    secure = SecureMean(scheme=Masking(threshold=0.6, dropout=0.4), seed=5)
    lost = [secure._dropped(number, range(10)) for number in range(6)]
    assert all(len(each) == 4 and 0 not in each for each in lost)
    assert len(set(lost)) > 1
    assert lost == [secure._dropped(number, range(10)) for number in range(6)]


def test_noise_before_encryption_is_a_fact_and_part_of_what_is_released() -> None:
    chain = Chain(defenses=(CKKS(noise=EncryptedNoise(scale=0.01)),))
    assert chain.facts(PLAN) == (Noise(distribution="laplace", sigma=0.01 * 2**0.5),)
    clients = chain.clients(seed=1, plan=PLAN)
    base = ClientUpdate(
        client=0,
        tensors={"w": torch.zeros(50_000)},
        buffers={"b": torch.zeros(1000)},
        examples=1,
        steps=1,
        lr=1,
        momentum=0,
    )
    one, same, later = (clients.on_update(base, {}, clients.draws(0, number))[0] for number in (0, 0, 1))
    assert torch.equal(one.tensors["w"], same.tensors["w"])
    assert not torch.equal(one.tensors["w"], later.tensors["w"])
    assert one.buffers["b"].any()
    noise = one.tensors["w"]
    assert float(noise.std()) == pytest.approx(0.01 * 2**0.5, rel=0.03)
    # Laplace's mean magnitude is b; a Gaussian's of the same deviation would be 1.13 b.
    assert float(noise.abs().mean()) == pytest.approx(0.01, rel=0.03)


def test_weights_are_those_of_the_mean_that_is_replaced() -> None:
    class Equal(FedAvg):
        def weight(self, examples: int) -> float:
            return 1.0

    everybody = updates(3)
    _, opened = CKKS().on_sum(Equal(), seed=0, plan=PLAN).open_sum(0, everybody)
    assert opened.shares == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    mean = sum(update.tensors["fc.bias"] for update in everybody) / 3
    torch.testing.assert_close(opened.tensors["fc.bias"], mean, rtol=0, atol=1e-6)


def test_noise_comes_before_encryption_and_not_after() -> None:
    Chain(defenses=(DPUpdate(), CKKS()))
    for late in (NoiseOnly(), DPUpdate()):
        with pytest.raises(InputError, match="already added up, under encryption or masks; do it before"):
            Chain(defenses=(CKKS(), late))
    with pytest.raises(InputError, match="updates are added once"):
        Chain(defenses=(Masking(), CKKS()))
