"""Matching whose evaluations are recorded: every setting gives the same numbers, and nothing in it makes a GPU wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attack_core.attacks.auto import Auto
from attack_core.base.programs.compiled import compile_program
from attack_core.base.programs.program import Program, Values
from attack_core.base.programs.recorded import Record, Recorded, RecordingLimits, Replay
from attack_core.base.programs.ways import no_compiler
from attack_core.base.search import alone, side_by_side
from attack_core.base.types import Attack, Reconstruction
from attack_core.gradients.objectives import Both, Cosine, Signs, Similarity
from attack_core.local_sgd.simulation import Simulated, Surrogate
from attack_core.matching.candidates import EarlyStop
from attack_core.matching.matching import Matching
from attack_core.priors.priors import Wavelet
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig
from fl_core.threat.observation import Observation
from tests.support.apple import MPS, OnDevice, apple_gpu
from tests.support.matched import observed
from tests.support.recorded import Recorder

AFTER = 3
PLAIN = Matching(iterations=9, lr=0.1, tv_weight=1e-4)
SEVERAL = {"signal": "local_update", "batch": 2, "momentum": 0.0}


def found(attack: Attack, seen: Observation, record: Record | None = None) -> Reconstruction:
    search = attack.search(seen, build_model(seen.model), generator("attack"))
    if record is None:
        return alone(search)
    return alone(search, Recorded(record, RecordingLimits(after=AFTER)))


CASES: dict[str, tuple[Matching, str, dict[str, Any]]] = {
    "l2": (PLAIN, "cnn64", {}),
    "autograd's own gradients": (PLAIN, "lenet", {}),
    "BatchNorm": (replace(PLAIN, restarts=2), "resnet18", {}),
    "attention": (replace(PLAIN, restarts=2), "vit", {}),
    "cosine, restarts, batch": (replace(PLAIN, objective=Cosine(), restarts=3), "cnn64", {"batch": 2}),
    "labels, priors": (
        replace(PLAIN, objective=Both(), labels="optimize", priors=(Wavelet(weight=1e-3),)),
        "cnn64",
        {},
    ),
    "similarity": (replace(PLAIN, objective=Similarity()), "mlp", {"batch": 3}),
    "signs": (replace(PLAIN, objective=Signs()), "mlp", {}),
    "packs": (replace(PLAIN, restarts=3, packing=2), "cnn64", {}),
    "early stop": (
        replace(PLAIN, iterations=24, restarts=3, lr=(0.05, 0.1, 0.3), early_stop=EarlyStop(patience=3)),
        "cnn64",
        {},
    ),
    "features": (replace(PLAIN, feature_weight=0.1), "cnn64", {}),
    "deep prior": (replace(PLAIN, parametrisation="deep_prior", clamp=None, lr=0.001), "cnn64", {}),
    "simulated steps": (replace(PLAIN, local=Simulated()), "cnn64", SEVERAL),
    "a point of its own": (replace(PLAIN, local=Surrogate()), "cnn64", SEVERAL),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_recorded_gives_the_same_numbers(faces: ImageDataset, name: str) -> None:
    """Bit for bit: the same operations on the same numbers."""
    attack, kind, options = CASES[name]
    seen, _ = observed(faces, ModelConfig(kind=kind, image_size=16), **options)  # type: ignore[arg-type]
    recorder = Recorder()
    expected, again = found(attack, seen), found(attack, seen, recorder)
    # One of all candidates, or of each pack, and one more where a restart has ended.
    assert len(recorder.programs) == {"packs": 2, "early stop": 2}.get(name, 1)
    assert len(recorder.replays) >= attack.iterations - AFTER * len(recorder.programs)
    torch.testing.assert_close(again.history, expected.history, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(again.images, expected.images, rtol=0, atol=0)
    assert torch.equal(again.labels, expected.labels)


COMPILED = (
    "autograd's own gradients",
    "cosine, restarts, batch",
    "labels, priors",
    "similarity",
    "a point of its own",
)
"""The others are compiled without fault too, and take minutes (record 0117)."""


@pytest.mark.slow
@pytest.mark.skipif(no_compiler() is not None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", COMPILED)
def test_what_is_compiled_gives_the_same_numbers(faces: ImageDataset, name: str) -> None:
    """Up to the rounding of sums in another order, which nine steps have made larger."""
    attack, kind, options = CASES[name]
    seen, _ = observed(faces, ModelConfig(kind=kind, image_size=16), **options)  # type: ignore[arg-type]
    expected, again = found(attack, seen), found(attack, seen, compile_program)
    torch.testing.assert_close(again.history, expected.history, rtol=1e-3, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(again.images, expected.images, rtol=0, atol=1e-3)
    assert torch.equal(again.labels, expected.labels)


def test_victims_in_one_program(faces: ImageDataset) -> None:
    attack = replace(PLAIN, restarts=2)
    seen = [observed(faces, ModelConfig(kind="cnn64", image_size=16), client=i)[0] for i in range(3)]

    def together(**options: Any) -> list[Reconstruction]:
        searches = [
            attack.search(each, build_model(each.model), generator("attack", i))
            for i, each in enumerate(seen)
        ]
        return [ended.result() for ended in side_by_side(searches, **options)]

    recorder = Recorder()
    graphs = Recorded(recorder, RecordingLimits(after=AFTER))
    for one, other in zip(together(runner=graphs), together(), strict=True):
        torch.testing.assert_close(one.history, other.history, rtol=0, atol=0)
        torch.testing.assert_close(one.images, other.images, rtol=0, atol=0)
    assert len(recorder.programs) == 1
    assert set(recorder.replays) == {6}


def test_matching_within_auto_is_recorded(faces: ImageDataset) -> None:
    seen, _ = observed(faces, ModelConfig(kind="lenet", image_size=16), batch=2)
    recorder, attack = Recorder(), Auto(fallback=PLAIN)
    expected, again = found(attack, seen), found(attack, seen, recorder)
    assert again.method == expected.method == "matching"
    assert len(recorder.programs) >= 1
    torch.testing.assert_close(again.images, expected.images, rtol=0, atol=0)


class Transfers(TorchDispatchMode):
    """Fails where numbers of the host's are put on the device, or the other way; single ones may be operands."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for part in args for each in (part if isinstance(part, list | tuple) else [part])]
        for each in tensors:
            if isinstance(each, torch.Tensor) and not isinstance(each, OnDevice) and each.dim():
                raise AssertionError(f"{func} of the host's {tuple(each.shape)}")
        if "_to_copy" in str(func) and (kwargs or {}).get("device") == torch.device("cpu"):
            raise AssertionError(f"{func} gives the host what the device has")
        return func(*args, **(kwargs or {}))


def watched(program: Program, inputs: Values) -> Replay:
    """Runs it as it is, and lets nothing pass between host and device."""

    def run(new: Values) -> Values:
        with Transfers():
            return program(*new)

    return run


@pytest.mark.parametrize("name", CASES)
def test_nothing_passes_between_host_and_device(faces: ImageDataset, name: str) -> None:
    """What runs before may: labels become probabilities once, and a network is checked once."""
    attack, kind, options = CASES[name]
    seen, _ = observed(faces, ModelConfig(kind=kind, image_size=16), **options)  # type: ignore[arg-type]
    with apple_gpu():
        search = attack.search(seen.to(MPS), build_model(seen.model), generator("attack"))
        answer = alone(search, Recorded(watched, RecordingLimits(after=1)))
    assert answer.images.isfinite().all()
