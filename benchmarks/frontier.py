"""The cases of `attacks.py --suite frontier`: large batches, many classes, transformers, long local training.

Each case is a network, a signal, and what an attack should reach on it. Pictures are those of the test split of a
folder of classes (CIFAR-10 at 32 pixels; photographs for the cases at 224). No constant of an attack was fixed on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fl_core.base.own_code import OwnCode
from fl_core.base.rng import generator
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, gradient_update, weight_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, TransformerConfig
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord

Goal = Literal["share", "mean", "gain"]
"""The share of images of 40 dB and more; mean PSNR; the first attack's mean less each other's, victim by victim."""
Data = Literal["small", "photographs"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table: `batch` images a victim, what is sent of them, and the `target` of the first attack.

    `epochs` above 0: the weight delta after so many passes in batches of `step_batch`, each pass in its own order,
    with SGD at rate 0.01 without momentum. `drawn_labels`: a class drawn for each picture, whatever it shows.
    `statistics`: the change of BatchNorm's statistics is seen. `attacks`
    are specs as `--ours` takes them, `peers` as `--peer` does.
    """

    name: str
    model: ModelConfig
    batch: int
    goal: Goal
    target: float | None
    data: Data = "small"
    epochs: int = 0
    step_batch: int = 2
    drawn_labels: bool = False
    statistics: bool = False
    attacks: tuple[str, ...] = ("auto",)
    peers: tuple[str, ...] = ()
    note: str = ""

    @property
    def local(self) -> LocalTraining:
        """The client's training; of a gradient, one step on the whole batch."""
        if not self.epochs:
            return LocalTraining(batch_size=self.batch)
        return LocalTraining(batch_size=self.step_batch, epochs=self.epochs, momentum=0.0)


def _zoo(kind: str, classes: int = 10, **settings: object) -> ModelConfig:
    return replace(ModelConfig(image_size=32, classes=classes), kind=kind, **settings)  # type: ignore[arg-type]


def _large(width: int, heads: int) -> ModelConfig:
    code = OwnCode.read("frontier_networks.py:transformer", Path(__file__).parent, where="model.factory")
    args = {"width": width, "heads": heads, "classes": 10}
    return ModelConfig(kind="own", image_size=224, classes=10, factory=code, args=args)


_WIDE = (2048, 512)
_VIT = TransformerConfig(patch=4, width=192, depth=6, heads=3)
_AVERAGED = "inverting_gradients"
"""The baseline of a weight delta: matching of -delta / lr as if it were one gradient."""

CASES: tuple[Case, ...] = (
    *(
        Case(
            name=f"mlp, batch {batch}",
            model=_zoo("mlp", widths=_WIDE),
            batch=batch,
            goal="share",
            target=target,
        )
        for batch, target in ((16, 0.99), (64, 0.95), (128, 0.5))
    ),
    Case(
        name="mlp, 100 classes, batch 32",
        model=_zoo("mlp", classes=100, widths=_WIDE),
        batch=32,
        goal="share",
        target=0.95,
        drawn_labels=True,
        note="pictures of ten classes under drawn labels",
    ),
    *(
        Case(name=f"cnn64, batch {batch}", model=_zoo("cnn64"), batch=batch, goal="mean", target=target)
        for batch, target in ((8, 30.0), (16, 25.0))
    ),
    *(
        Case(name=f"vit, batch {batch}", model=_zoo("vit", vit=_VIT), batch=batch, goal="mean", target=target)
        for batch, target in ((1, 80.0), (2, None), (4, None), (8, None))
    ),
    *(
        Case(
            name=name,
            model=_large(width, heads),
            batch=1,
            goal="mean",
            target=target,
            data="photographs",
            drawn_labels=True,
        )
        for name, width, heads, target in (("ViT-S/16", 384, 6, 70.0), ("ViT-Ti/16", 192, 3, 30.0))
    ),
    Case(
        name="resnet18, train mode, batch 4",
        model=_zoo("resnet18", batch_norm="train"),
        batch=4,
        goal="gain",
        target=0.0,
        statistics=True,
        attacks=("auto", "gradinversion"),
        peers=("invertinggradients", "seethroughgradients"),
        note="the peers have the statistics as those that their networks keep",
    ),
    *(
        Case(
            name=f"{kind}, 2 epochs of 4 batches of 2",
            model=_zoo(kind),
            batch=8,
            goal="gain",
            target=6.0,
            epochs=2,
            attacks=("auto", _AVERAGED),
        )
        for kind in ("cnn64", "convnet")
    ),
)
"""The cases in the order of the table."""


@dataclass(frozen=True)
class Victim:
    """What the attacker sees of one victim, and the images (B, 3, S, S) behind it."""

    observation: Observation
    images: Tensor = field(repr=False)


def victims_of(case: Case, dataset: ImageDataset, first: int, count: int, seed: int) -> Iterator[Victim]:
    """`count` victims of `case`, the `first` ones left out, made one by one: the next pictures of the test split."""
    state = initial_state(case.model, generator("model", seed))
    network = build_model(case.model)
    chosen = dataset.split("test", (first + count) * case.batch)
    for number in range(first, min(first + count, len(chosen) // case.batch)):
        images, labels = dataset.batch(chosen[number * case.batch : (number + 1) * case.batch])
        if case.drawn_labels:
            draws = generator("labels", seed, number)
            labels = torch.randint(case.model.outputs, labels.shape, generator=draws)
        if case.epochs:
            orders = [
                torch.randperm(case.batch, generator=generator("batches", seed, number, epoch))
                for epoch in range(case.epochs)
            ]
            steps = [part for order in orders for part in order.split(case.step_batch)]
            update, _ = weight_update(
                network,
                state,
                ((images[part], labels[part]) for part in steps),
                case.local,
                client=0,
                examples=case.batch,
            )
        else:
            update = gradient_update(network, state, (images, labels), case.local, client=0)
        record = RoundRecord(
            signal="local_update" if case.epochs else "gradients",
            round=0,
            model=case.model,
            state=state,
            batch_size=case.local.batch_size,
            updates=(update,),
        )
        threat = ThreatModel(labels="unknown", sees_statistics=case.statistics)
        yield Victim(observe(record, threat, labels=labels), images)
