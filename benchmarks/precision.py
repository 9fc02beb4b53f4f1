"""What rounded products cost an attacker: bfloat16 as sweeps have it, and TF32 emulated on the CPU.

python benchmarks/precision.py --folder DIR [--victims N] [--attacks NAME ...]

DIR is a folder of classes such as CIFAR-10's; its test split gives the victims, in order. For TF32 the factors of every
convolution and matrix product of an attack are rounded to 10 bits of mantissa, to the nearest; products are added in
float32, as GPUs do. For bf16 the option is used: factors and results have 7 bits. The client's gradient is float32's.
One process, one thread. Reported for each attack: the mean PSNR of each precision, and what it loses against float32
on the same victims.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import statistics
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from frontier import Case, victims_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attack_core.attacks.auto import Auto
from attack_core.base.types import Attack
from attack_core.gradients.objectives import Cosine
from attack_core.matching.matching import Matching
from attack_core.metrics.metrics import assign, psnr
from fl_core.base.device import Precision, precision_of
from fl_core.base.errors import InputError
from fl_core.base.products.bf16 import PRODUCTS
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.class_folders import open_folder
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig

PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bf16")
TF32_BITS = 10
"""Bits of mantissa of a product's factors."""

ATTACKS: dict[str, Attack] = {
    "matching, L2": Matching(iterations=200, schedule="cosine", lr=0.1, tv_weight=1e-5),
    "matching, cosine": Matching(
        iterations=200, schedule="cosine", lr=0.1, tv_weight=1e-5, objective=Cosine()
    ),
    "auto": Auto(),
}


class Rounded(TorchDispatchMode):
    """Rounds float32 factors of products to so many bits of mantissa."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._dropped = 23 - bits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            args = tuple(self._round(arg) if isinstance(arg, Tensor) else arg for arg in args)
        return func(*args, **(kwargs or {}))

    def _round(self, value: Tensor) -> Tensor:
        if value.dtype != torch.float32 or 0 in value.stride():
            return value
        whole = value.view(torch.int32)
        last = (whole >> self._dropped) & 1
        half = (1 << (self._dropped - 1)) - 1
        return (((whole + half + last) >> self._dropped) << self._dropped).view(torch.float32)


def multiplying(precision: Precision) -> AbstractContextManager[Any]:
    """While it lasts, products on the CPU are as this precision says."""
    return Rounded(TF32_BITS) if precision == "tf32" else precision_of(precision)


def measure(options: argparse.Namespace) -> None:
    """Print a line for each attack and precision: mean PSNR, and what was lost against float32, in dB."""
    config = replace(ModelConfig(image_size=32, classes=10), kind="cnn64")
    case = Case(name="cnn64", model=config, batch=1, goal="mean", target=None)
    dataset = open_folder(options.folder, shape=ImageShape.square(32))
    model = build_model(config)
    victims = list(victims_of(case, dataset, 0, options.victims, 0))
    for name in options.attacks:
        attack = ATTACKS[name]
        reached: dict[str, list[float]] = {}
        for precision in PRECISIONS:
            for number, victim in enumerate(victims):
                with multiplying(precision):
                    answer = attack(victim.observation, model, generator("attack", number))
                partner = assign(answer.images, victim.images)[0]
                image = answer.images[partner : partner + 1] if partner is not None else answer.images[:1]
                reached.setdefault(precision, []).append(float(psnr(image, victim.images)[0]))
        for precision, values in reached.items():
            lost = [whole - rounded for whole, rounded in zip(reached["float32"], values, strict=True)]
            found = {
                "attack": name,
                "precision": precision,
                "psnr": statistics.fmean(values),
                "lost": statistics.fmean(lost),
                "least lost": min(lost),
                "most lost": max(lost),
                "n": len(values),
            }
            print(json.dumps(found), flush=True)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--victims", type=int, default=16)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        measure(options)
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
