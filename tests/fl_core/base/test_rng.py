"""Randomness from names: the same for the same names, and no two of a simulation's draws alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import defenses.mechanism.draws
from defenses.chain import Chain
from defenses.mechanism.draws import draw_noise
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.rng import Random, derive_key, generator, normal, stream, uniform
from fl_core.data.dataset import ImageDataset
from fl_core.federation.rounds import FederationConfig
from orchestrator.capture.store import CaptureStore
from orchestrator.config.parse import cell_settings
from tests.support.small import sweep


def test_streams_are_of_the_class_that_annotations_name() -> None:
    assert isinstance(stream("a"), Random)
    assert Random | None == np.random.Generator | None
    with pytest.raises(ImportError, match="Randon"):
        exec("from fl_core.base.rng import Randon")


def key(random: Random) -> tuple[int, ...]:
    """What tells one stream from another, as its generator holds it."""
    return tuple(random.bit_generator.state["state"]["key"].tolist())


def test_a_stream_depends_on_all_its_names_and_on_nothing_else() -> None:
    same = [stream("defense", 5, 3).standard_normal(4) for _ in range(2)]
    assert np.array_equal(*same)
    named: list[tuple[str | int, ...]] = [
        ("defense", 5, 3),
        ("defense", 3, 5),
        ("defense", 53),
        ("defense", "5", 3),
    ]
    assert len({key(stream(*parts)) for parts in named}) == len(named)


def test_no_two_of_two_hundred_thousand_streams_are_the_same() -> None:
    """A thousand clients in two hundred rounds, and the generator holds the whole key.

    torch's generator on the CPU takes 32 bits of its seed, so that some of so many would be: 4.7 pairs on average.
    """
    names = [("defense", 1, client, number) for client in range(1000) for number in range(200)]
    keys = [derive_key(*parts) for parts in names]
    assert len(set(keys)) == 200_000
    assert max(keys) >= 2**127 > 2**113 > min(keys)
    assert len({wanted % 2**32 for wanted in keys}) < 200_000, "32 bits of the same keys do repeat"
    clients = Chain().clients(seed=1, plan=FederationConfig())
    for parts, wanted in list(zip(names, keys, strict=True))[::10_007]:
        low, high = key(clients.draws(int(parts[2]), int(parts[3])))
        assert low + 2**64 * high == wanted


def test_seeds_that_are_one_to_torch_are_two_to_a_stream() -> None:
    """The premise: were it to fall, `generator` could be used for everything."""
    low, high = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.randn(4, generator=low), torch.randn(4, generator=high))
    assert not torch.equal(normal(stream(5), (4,)), normal(stream(5 + 2**32), (4,)))


def test_draws_are_float32_of_the_stated_distributions() -> None:
    """Kolmogorov and Smirnov's test takes the right scale and refuses one that is 2% off."""
    gaussian, flat = normal(stream("n"), (400, 500)), uniform(stream("u"), (400, 500))
    assert gaussian.shape == flat.shape == (400, 500)
    assert gaussian.dtype == flat.dtype == torch.float32
    for drawn, shape in ((gaussian, "norm"), (flat, "uniform")):
        assert kstest(drawn.flatten().numpy(), shape).pvalue > 1e-3
        assert kstest(1.02 * drawn.flatten().numpy(), shape).pvalue < 1e-3
    assert float(flat.min()) >= 0.0 and float(flat.max()) < 1.0
    assert normal(stream("n"), ()).shape == ()
    assert normal(stream("n"), (0, 3)).shape == (0, 3)
    assert torch.equal(torch.rand(3, generator=generator("a")), torch.rand(3, generator=generator("a")))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("signal", ["gradients", "one_step_update"])
def test_no_two_clients_of_a_secure_sums_captures_share_their_noise(
    faces_root: Path,
    faces: ImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signal: str,
    batch_size: int,
) -> None:
    """Companions are in several captures, with other batches; each time they draw anew."""
    drawn: list[bytes] = []

    def noted(like: Mapping[str, Tensor], *others: Any) -> dict[str, Tensor]:
        noise = draw_noise(like, *others)
        drawn.extend(value.numpy().tobytes()[:64] for value in noise.values())
        return noise

    monkeypatch.setattr(defenses.mechanism.draws, "draw_noise", noted)
    chain = [{"kind": "noise", "sigma": 0.1}, {"kind": "masking"}]
    config = sweep(
        faces_root,
        data__train=72,
        federation={"clients": 6, "fraction": 0.5, "rounds": 1, "local": {"batch_size": batch_size}},
        victims={"tuning": 0, "test": 18 // batch_size},
        capture={"signal": signal},
        cells=[{"name": "sum", "defense": chain}],
        attackers=[{"name": "m", "attack": {"kind": "matching"}}],
    )
    assert isinstance(config.cells[0].defense[0], NoiseOnly)
    store = CaptureStore(tmp_path, device=torch.device("cpu"), progress=lambda _: None)
    source = store.source(
        cell_settings(config, config.cells[0]), Chain(defenses=config.cells[0].defense), faces
    )
    victims = source.victims()
    for victim in victims:
        source.get(victim)
    assert len(victims) == 18 // batch_size
    tensors = len(source.weights.state.parameters)
    assert len(drawn) == 3 * len(victims) * tensors
    assert len(set(drawn)) == len(drawn)
