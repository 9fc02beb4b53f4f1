"""A student's files: a defense, an attack, an objective and a prior, and a small sweep that names them."""

from __future__ import annotations

from pathlib import Path

DEFENSE = '''
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from defenses.mechanism.base import Mechanism, Stage
from defenses.mechanism.draws import draw_noise
from fl_core.base.rng import Random
from fl_core.base.types import ClientUpdate, require
from fl_core.federation.rounds import FederationConfig
from fl_core.threat.facts import Fact, Noise


@dataclass(frozen=True, kw_only=True)
class Blur(Mechanism):
    """Noise on every number."""

    stage: ClassVar[Stage] = "noise"
    sigma: float = 0.5
    offsets: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        require(0 < self.sigma < 10, self, "sigma", "more than 0 and less than 10")

    def on_update(self, update: ClientUpdate, random: Random, plan: FederationConfig) -> ClientUpdate:
        noise = draw_noise(update.tensors, "gaussian", self.sigma, random)
        noisy = {name: tensor + noise[name] + sum(self.offsets) for name, tensor in update.tensors.items()}
        return replace(update, tensors=noisy)

    def facts(self, plan: FederationConfig) -> tuple[Fact, ...]:
        return (Noise(distribution="gaussian", sigma=self.sigma),)
'''

ATTACK = '''
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from attack_core.base.types import Attack, Progress, Reconstruction
from fl_core.threat.observation import Observation


@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    """A flat image, darker with every step."""

    steps: int = 2
    shade: float = 0.1

    def __call__(
        self,
        observation: Observation,
        model: nn.Module,
        generator: torch.Generator,
        *,
        progress: Progress | None = None,
    ) -> Reconstruction:
        images = torch.full((observation.examples, *observation.model.shape.size), -self.shade * self.steps)
        return Reconstruction(
            images=images,
            labels=torch.zeros(len(images), dtype=torch.int64),
            loss=0.0,
            candidates=images[None],
            history=torch.zeros((1, 1)),
            iterations=self.steps,
            failed=0,
            method="mine",
            outcome="prior",
        )

    def cost(self, images: int) -> float:
        return 0.0
'''

PARTS = '''
from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attack_core.gradients.objectives import Terms
from attack_core.priors.priors import Scene
from fl_core.base.types import Config


@dataclass(frozen=True, kw_only=True)
class Huber(Config):
    """Between the squared distance and the distance."""

    delta: float = 0.1

    def loss(self, terms: Terms) -> Tensor:
        squared = (terms.weights * terms.distance()).sum(1)
        return self.delta**2 * ((1.0 + squared / self.delta**2).sqrt() - 1.0)


@dataclass(frozen=True)
class Smooth:
    """Squared differences of neighbours."""

    weight: float = 1e-3

    def penalty(self, images: Tensor, scene: Scene) -> Tensor:
        return self.weight * (images.diff(dim=-1).square().flatten(1).sum(1))
'''

SWEEP = """
name: own
seed: 5
data: {{kind: celeba, root: "{root}", train: 24, valid: 12, public: 8}}
model: {{kind: mlp, image_size: 16}}
federation: {{clients: 4, rounds: 2, local: {{lr: 0.05}}}}
victims: {{tuning: 1, test: 2}}
study: {{suggestions: 2, lag: 1, startup: 1}}
execution: {{device: cpu}}
cells:
  - {{name: none}}
  - {{name: blur, defense: [{{kind: "code/my_defense.py:Blur", sigma: 0.2}}, {{kind: prune, ratio: 0.5}}]}}
attackers:
  - name: mine
    attack: {{kind: "code/my_attack.py:Mine"}}
    search: {{steps: {{kind: int, low: 1, high: 5}}}}
  - name: loop
    attack:
      kind: matching
      iterations: 6
      objective: {{kind: "code/my_parts.py:Huber", delta: 1}}
      priors: [{{kind: "code/my_parts.py:Smooth", weight: 0.01}}]
    search: {{objective.delta: {{kind: float, low: 0.01, high: 1.0}}}}
"""


def write_own(folder: Path, root: Path, *, sweep: str = SWEEP) -> Path:
    """The files below `folder`, on the faces in `root`; where the sweep file is."""
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    for name, text in {"my_defense.py": DEFENSE, "my_attack.py": ATTACK, "my_parts.py": PARTS}.items():
        (code / name).write_text(text, encoding="utf-8")
    path = folder / "sweep.yaml"
    path.write_text(sweep.format(root=root), encoding="utf-8")
    return path
