"""Observations of small federations, matching attacks on them, and how good an answer is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attack_core.base.programs.program import Runner
from attack_core.matching.loop.evaluation import Evaluation
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import assign, psnr
from fl_core.base.rng import generator
from fl_core.base.types import Truth
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.captures import Victim, capture
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from tests.support.federations import make_federation

MLP = ModelConfig(kind="mlp", image_size=16)


def observed(
    dataset: ImageDataset,
    model: ModelConfig = MLP,
    *,
    signal: str = "gradients",
    batch: int = 1,
    labels: str = "unknown",
    momentum: float = 0.9,
    client: int = 0,
) -> tuple[Observation, Truth]:
    config = FederationConfig(
        clients=4, fraction=0.5, rounds=3, local=LocalTraining(batch_size=batch, momentum=momentum)
    )
    federation = make_federation(dataset, model=model, config=config)
    state = initial_state(model, generator("model", 0))
    record, truth = capture(federation, state, signal=signal, round_number=0, victim=Victim(client=client))  # type: ignore[arg-type]
    return observe(record, ThreatModel(labels=labels), labels=truth.labels), truth  # type: ignore[arg-type]


def attacked(observation: Observation, **options: Any) -> Any:
    settings: dict[str, Any] = {"iterations": 60, "schedule": "cosine", "tv_weight": 0.0}
    attack = Matching(**(settings | options))
    return attack(observation, build_model(observation.model), generator("attack"))


def counted_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by how many attacks each answer was for, from now on."""
    found: list[int] = []
    answers = Evaluation.answers.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Evaluation], questions: list[Evaluation], runner: Runner) -> Any:
        found.append(len(questions))
        return answers(cls, questions, runner)

    monkeypatch.setattr(Evaluation, "answers", classmethod(counted))
    return found


def score(images: Tensor, truth: Tensor) -> float:
    pairs = [(i, j) for i, j in enumerate(assign(images, truth)) if j is not None]
    return float(torch.stack([psnr(images[j : j + 1], truth[i : i + 1])[0] for i, j in pairs]).mean())


def grey(truth: Tensor) -> float:
    return float(psnr(torch.zeros_like(truth), truth).mean())


class NoFloat64(TorchDispatchMode):
    """Fails on the first operator that makes a float64 or complex128 tensor: MPS has neither.

    Tensors of at most `few` numbers pass: small equations are solved in float64 on the CPU wherever an attack runs.
    `tests.support.apple` tells that from float64 on the device.
    """

    def __init__(self, few: int = 0) -> None:
        super().__init__()
        self._few = few

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor) and value.numel() > self._few:
                assert value.dtype not in (torch.float64, torch.complex128), f"{func} made {value.dtype}"
        return out
