"""How far a batch comes apart where its gradient is noisy, pruned, rounded, or a delta of several local steps.

python benchmarks/damaged_batches.py --data-root CIFAR [--split train|test] [--networks mlp-16 ...]
    [--damages exact noise=1e-4 ...] [--attack "NAME [key=value ...]"] [--victims N] [--first N] [--iterations N]
    [--json]

Each network is a case `KIND-BATCH` of ten classes at its initial weights. Damages: `exact`; `noise=R` and `untold=R`,
Gaussian noise of R times the root mean square of the gradient's numbers, told and not; `prune=K`, of which the share K
is kept, and `prune-each=K`, that of each tensor; `quantise=BITS`, told; `float16` and `bfloat16`, not told; `steps=N`,
the delta of one pass over the batch in N steps; `again=N`, the delta of N steps on the whole batch, each at rate 0.01
without momentum. Victims are the next pictures of the split; the attacker knows the mean of 100 others of the train
split, which is the control. One process, one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from attacks import our_method, scores
from result_line import line
from torch import Tensor

from defenses.compression.compression import Prune, Quantise
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import generator, stream
from fl_core.base.types import ClientUpdate
from fl_core.data.dataset import ImageDataset
from fl_core.federation.client import LocalTraining, gradient_update, weight_update
from fl_core.federation.rounds import FederationConfig
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.facts import Fact
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import Observation, observe
from fl_core.threat.record import RoundRecord
from orchestrator.analysis.intervals import mean_interval
from orchestrator.capture.datasets import open_data
from orchestrator.config.sweep import DataConfig

NETWORKS = ("mlp-4", "mlp-16", "mlp-64", "cnn64-8")
NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
DAMAGES = (
    "exact",
    *(f"noise={ratio:g}" for ratio in NOISES),
    *(f"untold={ratio:g}" for ratio in NOISES),
    *(f"prune={kept:g}" for kept in (0.5, 0.1, 0.01)),
    "float16",
    "bfloat16",
    "quantise=8",
    "quantise=4",
    "steps=2",
    "steps=4",
    "again=2",
    "again=4",
)
PUBLIC = 100
"""Pictures behind the mean that the attacker knows."""
FOUND, SEEN = 40.0, 20.0
"""DB from which an image counts as found, and from which most of what it shows can be made out."""


@dataclass(frozen=True)
class Damage:
    """What happens to a gradient: one of `DAMAGES`."""

    name: str

    @property
    def kind(self) -> str:
        """The part before the number."""
        return self.name.partition("=")[0]

    @property
    def amount(self) -> float:
        """The number behind it; 0 where there is none."""
        return float(self.name.partition("=")[2] or 0.0)

    def applied(self, update: ClientUpdate, number: int) -> tuple[ClientUpdate, tuple[Fact, ...]]:
        """The update that is sent, and what is told of it."""
        plan, random = FederationConfig(), stream("damage", self.name, number)
        if self.kind in ("float16", "bfloat16"):
            dtype = getattr(torch, self.kind)
            rounded = {name: value.to(dtype).float() for name, value in update.tensors.items()}
            return replace(update, tensors=rounded), ()
        if self.kind in ("noise", "untold"):
            squares = sum(float(value.double().square().sum()) for value in update.tensors.values())
            size = math.sqrt(squares / sum(value.numel() for value in update.tensors.values()))
            noise = NoiseOnly(sigma=self.amount * size)
            told = noise.facts(plan) if self.kind == "noise" else ()
            return noise.on_update(update, random, plan), told
        if self.kind in ("prune", "prune-each"):
            scope: Literal["all", "tensor"] = "all" if self.kind == "prune" else "tensor"
            prune = Prune(ratio=1.0 - self.amount, scope=scope)
            return prune.on_update(update, random, plan), prune.facts(plan)
        if self.kind == "quantise":
            quantise = Quantise(bits=int(self.amount))
            return quantise.on_update(update, random, plan), quantise.facts(plan)
        if self.kind in ("exact", "steps", "again"):
            return update, ()
        raise InputError(f"--damages {self.name}: must be one of those that --help lists.")


@dataclass(frozen=True)
class Network:
    """A network of ten classes at 32 pixels and the images of a victim, from a name as in `NETWORKS`."""

    name: str

    @property
    def batch(self) -> int:
        """Images of a victim."""
        return int(self.name.rpartition("-")[2])

    @property
    def model(self) -> ModelConfig:
        """Its configuration."""
        kind = self.name.rpartition("-")[0]
        wide = {"widths": (2048, 512)} if kind == "mlp" else {}
        return ModelConfig(kind=kind, image_size=32, classes=10, **wide)  # type: ignore[arg-type]


def observed(
    network: Network, damage: Damage, images: Tensor, labels: Tensor, mean: Tensor, number: int
) -> Observation:
    """What the attacker sees of victim `number`."""
    config, count = network.model, network.batch
    model, state = build_model(config), initial_state(config, generator("model", 0))
    steps = int(damage.amount) if damage.kind in ("steps", "again") else 0
    if steps:
        size = count if damage.kind == "again" else -(-count // steps)
        local = LocalTraining(batch_size=size, momentum=0.0)
        parts = list(torch.arange(count).split(size)) * (steps if size == count else 1)
        batches = ((images[part], labels[part]) for part in parts)
        update, _ = weight_update(model, state, batches, local, client=0, examples=count)
    else:
        local = LocalTraining(batch_size=count)
        update = gradient_update(model, state, (images, labels), local, client=0)
    update, facts = damage.applied(update, number)
    record = RoundRecord(
        signal="local_update" if steps else "gradients",
        round=0,
        model=config,
        state=state,
        batch_size=local.batch_size,
        updates=(update,),
        facts=facts,
    )
    return observe(record, ThreatModel(labels="unknown"), public_mean=mean)


def measure(
    options: argparse.Namespace, network: Network, damage: Damage, dataset: ImageDataset
) -> list[dict[str, Any]]:
    """The result lines of one network and one damage."""
    method = our_method(options.attack, options.iterations)
    if method.run is None:
        raise InputError(method.reason)
    count = network.batch
    mean = dataset.batch(dataset.split("train")[-PUBLIC:])[0].mean(0)
    chosen = dataset.split(options.split, (options.first + options.victims) * count)
    found, controls, seconds, notes = [], [], [], []
    for number in range(options.first, options.first + options.victims):
        images, labels = dataset.batch(chosen[number * count : (number + 1) * count])
        observation = observed(network, damage, images, labels, mean, number)
        start = time.process_time()
        answer, _, note = method.run(_Seen(observation, images), number)  # type: ignore[arg-type]
        seconds.append(time.process_time() - start)
        found.append(scores(answer, images))
        controls.append(scores(mean.expand_as(images), images))
        notes.append(note)
    title = f"{network.name}, {damage.name}"
    means = [float(each.mean()) for each in found]
    bounds = mean_interval(np.asarray(means))
    bounded = {"low": bounds.low, "high": bounds.high}
    ends = {end: None if math.isnan(value) else value for end, value in bounded.items()}
    every = torch.cat(found)
    shares = {level: float((every >= level).float().mean()) for level in (FOUND, SEEN)}
    least = {"least": float(every.min()), "mean_image": float(torch.cat(controls).mean())}
    lines = [
        line(f"{title}: PSNR", statistics.fmean(means), "dB", means)
        | ends
        | least
        | {"notes": sorted(set(notes))}
    ]
    lines += [
        line(f"{title}: images of {level:g} dB and more", shares[level], "of 1", []) for level in shares
    ]
    lines.append(line(f"{title}: CPU a victim", statistics.median(seconds), "s", seconds))
    return lines


@dataclass(frozen=True)
class _Seen:
    observation: Observation
    images: Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--damages", nargs="+", default=list(DAMAGES))
    parser.add_argument("--attack", default="auto")
    parser.add_argument("--victims", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for network in map(Network, options.networks):
        dataset = open_data(
            DataConfig(kind="folder", root=str(options.data_root)),
            network.model.shape,
            progress=lambda _: None,
        )
        for damage in map(Damage, options.damages):
            lines = measure(options, network, damage, dataset)
            if options.json:
                print(json.dumps(lines), flush=True)
                continue
            first, found, seen, cost = lines
            interval = "" if first["low"] is None else f" [{first['low']:.1f}, {first['high']:.1f}]"
            print(
                f"{first['name']} {first['value']:.1f}{interval} dB, least {first['least']:.1f}, mean image "
                f"{first['mean_image']:.1f}; {found['value']:.0%} of {FOUND:g} dB, {seen['value']:.0%} of {SEEN:g} dB; "
                f"{cost['value']:.1f} CPU-s; {' | '.join(first['notes'])}",
                flush=True,
            )


if __name__ == "__main__":
    main()
