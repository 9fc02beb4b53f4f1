"""One federation for both sides of `federation.py`: model, data, local steps, and how its weights are judged."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict


@dataclass(frozen=True, kw_only=True)
class Case:
    """What both sides simulate: `sampled` of `clients` clients a round, each with `images` images of its own.

    One local epoch of SGD in batches of `batch`, on `cores` processes of one thread each.
    """

    faces: str
    model: str
    size: int
    clients: int
    sampled: int
    rounds: int
    images: int = 10
    batch: int = 5
    lr: float = 0.05
    cores: int = 2

    @classmethod
    def read(cls, text: str) -> Case:
        """From its JSON."""
        return cls(**json.loads(text))

    def written(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def train(self) -> int:
        """Training images in all."""
        return self.clients * self.images

    @property
    def judged(self) -> int:
        """Validation images that losses are measured on."""
        return min(500, self.train // 10)

    @property
    def network(self) -> ModelConfig:
        """The clients' network."""
        return ModelConfig(kind=self.model, image_size=self.size)  # type: ignore[arg-type]

    def dataset(self) -> ImageDataset:
        """The faces, opened."""
        return open_celeba(Path(self.faces), shape=ImageShape.square(self.size))

    def federation(self) -> Federation:
        """Who holds what, and in which batches."""
        dataset = self.dataset()
        return Federation(
            config=FederationConfig(
                clients=self.clients,
                fraction=self.sampled / self.clients,
                rounds=self.rounds,
                local=LocalTraining(lr=self.lr, batch_size=self.batch, momentum=0.9),
            ),
            model=self.network,
            dataset=dataset,
            train=dataset.split("train", self.train),
            seed=0,
            device=torch.device("cpu"),
        )

    def start(self) -> ModelState:
        """The initial weights."""
        return initial_state(self.network, generator("model", 0))


class Judge:
    """Mean cross-entropy of a state on the first validation images, which are decoded once."""

    def __init__(self, case: Case) -> None:
        dataset = case.dataset()
        self._images, self._labels = dataset.batch(dataset.split("valid", case.judged))
        self._network = build_model(case.network).eval()

    @torch.no_grad()
    def loss(self, state: ModelState) -> float:
        """The loss."""
        total = 0.0
        for images, labels in zip(self._images.split(100), self._labels.split(100), strict=True):
            logits = predict(self._network, state, images)
            total += float(functional.cross_entropy(logits, labels, reduction="sum"))
        return total / len(self._labels)
