"""One matching iteration on cnn64: ghost form against plain form against plain autograd, interleaved.

python benchmarks/matching.py [--device cpu|cuda|mps] [--repeats N] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from result_line import line
from torch import Tensor
from torch.nn import functional

from attack_core.gradients.handles import gradient_handles
from attack_core.gradients.objectives import L2, Matched
from fl_core.base.device import pick_device, synchronise
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import predict

TARGET = 3.0
"""How many times faster the ghost form has to be than plain autograd."""


def problem(device: torch.device, candidates: int) -> dict[str, Callable[[], Tensor]]:
    """The three ways to get one iteration's loss and image gradient, for `candidates` single images."""
    config = ModelConfig(kind="cnn64")
    model = build_model(config)
    state = initial_state(config, generator("benchmark")).to(device)
    truth = torch.rand((1, 3, 64, 64), generator=generator("truth")).to(device) * 2 - 1
    label = torch.tensor([1], device=device)
    target = loss_gradient(model, state, (truth, label))
    matched = Matched.of(target, dict.fromkeys(target, 1.0))
    images = (
        torch.randn((candidates, 1, 3, 64, 64), generator=generator("start")).to(device).requires_grad_(True)
    )

    def loss_of(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits.flatten(0, 1), label.repeat(candidates), reduction="none")

    def through_handles(ghost: bool) -> Tensor:
        handles = gradient_handles(model, state, images, loss_of, ghost=ghost)
        loss = L2().loss(matched.terms(handles))
        torch.autograd.grad(loss.sum(), images)
        return loss.detach()

    def plain_autograd() -> Tensor:
        losses = []
        for image in images:
            leaves = {name: value.detach().requires_grad_(True) for name, value in state.parameters.items()}
            loss = functional.cross_entropy(predict(model, ModelState(parameters=leaves), image), label)
            gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            pairs = zip(gradients, target.values(), strict=True)
            distance = torch.stack([(gradient - wanted).square().sum() for gradient, wanted in pairs]).sum()
            torch.autograd.grad(distance, images)
            losses.append(distance.detach())
        return torch.stack(losses)

    return {
        "ghost": lambda: through_handles(True),
        "plain handles": lambda: through_handles(False),
        "plain autograd": plain_autograd,
    }


def measure(
    ways: dict[str, Callable[[], Tensor]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each way in each round; the ways take turns so that noise hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            synchronise(device)
            if number:  # The first round warms up.
                found[name].append(time.perf_counter() - start)
    return found


def main() -> int:
    """Measure and print; exit code 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        device = pick_device(options.device)
    except InputError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    lines = []
    for candidates in (1, 4):
        ways = problem(device, candidates)
        losses = {name: way() for name, way in ways.items()}
        seconds = measure(ways, options.repeats, device)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            lines.append(line(f"{name}, {candidates} candidates", medians[name] * 1e3, "ms", values))
        ratios = [p / g for p, g in zip(seconds["plain autograd"], seconds["ghost"], strict=True)]
        lines.append(
            line(
                f"plain autograd / ghost, {candidates} candidates",
                statistics.median(ratios),
                "x",
                ratios,
                target=TARGET,
            )
        )
        gap = (losses["ghost"] - losses["plain autograd"]).abs().max() / losses["plain autograd"].max()
        name = f"relative loss difference, {candidates} candidates"
        lines.append(line(name, float(gap), "", [float(gap)], target=1e-5, at_most=True))
    for entry in lines:
        if options.json:
            print(json.dumps(entry))
        else:
            print(
                f"{entry['name']:45s} {entry['value']:10.3g} {entry['unit']:3s} {'' if entry['ok'] else 'MISSED'}"
            )
    return 0 if all(entry["ok"] for entry in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
