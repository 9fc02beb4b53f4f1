"""Certificates against the truth: of images that an attack certifies as exact, none may be below 40 dB.

python benchmarks/certificates.py --folder DIR [--settings NAME ...] [--images N] [--json]

DIR is a folder of classes such as CIFAR-10's; its test split gives the victims, in order. Each setting is a network of
the zoo at its initial weights, a batch, and what is done to the gradient without the attacker's knowledge: nothing, or
Gaussian noise of a share of each tensor's root mean square. The attack is `auto`. Reported for each setting: how many
images are certified, the least PSNR of these, and by how much the certified bound lies below the PSNR, at the least.
A bound above the PSNR is a wrong certificate, whatever the PSNR. One process, one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from frontier import Case, Victim, victims_of

from attack_core.attacks.auto import Auto
from attack_core.base.certificate import CERTIFICATE_LIMITS
from attack_core.metrics.metrics import assign, psnr
from fl_core.base.errors import InputError, unknown_name
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.class_folders import open_folder
from fl_core.models.build import build_model
from fl_core.models.config import ModelConfig, TransformerConfig

_ROUNDED = 0.01
"""In dB: PSNR of images is itself rounded by so much near the limit of float32."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A case, how many images of it make up the table, and the unknown noise's share of a tensor's root mean square."""

    case: Case
    images: int
    noise: float = 0.0

    @property
    def name(self) -> str:
        """As `--settings` takes it."""
        return self.case.name + (f", noise {self.noise:g}" if self.noise else "")


def _case(kind: str, batch: int = 1, **settings: Any) -> Case:
    config = replace(ModelConfig(image_size=32, classes=10), kind=kind, **settings)  # type: ignore[arg-type]
    return Case(name=f"{kind}, batch {batch}", model=config, batch=batch, goal="mean", target=None)


_VIT = _case("vit", vit=TransformerConfig(patch=4, width=192, depth=6, heads=3))

SETTINGS: tuple[Setting, ...] = (
    Setting(case=_case("mlp"), images=300),
    Setting(case=_VIT, images=500),
    *(Setting(case=_case("mlp"), images=30, noise=noise) for noise in (1e-4, 1e-3, 1e-2)),
    *(Setting(case=_VIT, images=30, noise=noise) for noise in (1e-6, 1e-5, 1e-4)),
    Setting(case=_case("cnn64"), images=48),
    *(Setting(case=_case("cnn64"), images=24, noise=noise) for noise in (1e-5, 1e-4)),
    Setting(case=_case("vgg11"), images=12),
    Setting(case=_case("mlp", 16, widths=(2048, 512)), images=160),
)
"""Those of the table."""


@dataclass
class Found:
    """What came of one setting: PSNR and bound of each certified image, PSNR of the others, verdicts, seconds."""

    certified: list[tuple[float, float]] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Result lines."""
        reached = [real for real, _ in self.certified]
        total = len(reached) + len(self.others)
        lines = [
            _entry(f"{name}: certified", len(reached), "images", total) | {"verdicts": self.verdicts},
            _entry(f"{name}: bounds above the PSNR", self.wrong, "images", total, most=0.0),
            _entry(f"{name}: CPU a victim", _median(self.seconds), "s", len(self.seconds)),
        ]
        if reached:
            margin = min(real - bound for real, bound in self.certified)
            least, middle = min(reached), _median(reached)
            lines += [
                _entry(f"{name}: least PSNR of the certified", least, "dB", len(reached), least=40.0),
                _entry(f"{name}: median PSNR of the certified", middle, "dB", len(reached)),
                _entry(f"{name}: least margin over the bound", margin, "dB", len(reached)),
            ]
        if self.others:
            lines.append(
                _entry(f"{name}: greatest PSNR of the others", max(self.others), "dB", len(self.others))
            )
        return lines


def _entry(
    name: str, value: float, unit: str, n: int, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A result line whose value is no mean, with a target that it must reach or keep below."""
    target = most if least is None else least
    ok = (least is None or value >= least) and (most is None or value <= most)
    return {"name": name, "value": value, "unit": unit, "target": target, "ok": ok, "spread": 0.0, "n": n}


def measure(setting: Setting, options: argparse.Namespace) -> Found:
    """Attack the setting's victims one by one."""
    case, found = setting.case, Found()
    dataset = open_folder(options.folder, shape=ImageShape.square(case.model.image_size))
    count = -(-(options.images or setting.images) // case.batch)
    model = build_model(case.model)
    for number, victim in enumerate(victims_of(case, dataset, 0, count, 0)):
        observation = _noisy(victim, setting.noise, number)
        start = time.process_time()
        answer = Auto()(observation, model, generator("attack", number))
        found.seconds.append(time.process_time() - start)
        for i, j in enumerate(assign(answer.images, victim.images)):
            if j is None:
                found.others.append(-math.inf)
                continue
            # An image that is right to the last bit counts as the most that float32 pixels tell.
            reached = min(float(psnr(answer.images[j : j + 1], victim.images[i : i + 1])), 150.0)
            certificate = answer.certificates[j] if answer.certificates else None
            verdict = "none" if certificate is None else certificate.verdict
            found.verdicts[verdict] = found.verdicts.get(verdict, 0) + 1
            if certificate is not None and certificate.psnr > reached + _ROUNDED:
                found.wrong += 1
            if certificate is not None and verdict == "exact":
                found.certified.append((reached, certificate.psnr))
            else:
                found.others.append(reached)
        print(f"{setting.name}: victim {number + 1}/{count}, {found.verdicts}", file=sys.stderr)
    return found


def _noisy(victim: Victim, share: float, number: int) -> Any:
    if not share:
        return victim.observation
    draw = generator("noise", number)
    tensors = {
        name: value + share * value.square().mean().sqrt() * torch.randn(value.shape, generator=draw)
        for name, value in victim.observation.tensors.items()
    }
    return replace(victim.observation, tensors=tensors)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def whole(all_found: Sequence[Found]) -> list[dict[str, Any]]:
    """The lines over every setting."""
    reached = [real for found in all_found for real, _ in found.certified]
    if not reached:
        return []
    low = sum(real < CERTIFICATE_LIMITS.exact for real in reached)
    return [
        _entry("all settings: certified and below 40 dB", low, "images", len(reached), most=0.0),
        _entry("all settings: least PSNR of the certified", min(reached), "dB", len(reached), least=40.0),
    ]


def main() -> None:
    """Print one line a figure, or JSON objects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--images", type=int)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = {setting.name: setting for setting in SETTINGS}
    try:
        for name in options.settings:
            if name not in known:
                raise unknown_name("setting", name, known)
        found = []
        for setting in [known[name] for name in options.settings] or SETTINGS:
            found.append(measure(setting, options))
            show(found[-1].lines(setting.name), options)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    show(whole(found), options)


def show(entries: Sequence[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print result lines at once."""
    for entry in entries:
        print(json.dumps(entry) if options.json else _in_words(entry), flush=True)


def _in_words(entry: dict[str, Any]) -> str:
    more = "".join(f", {name} {entry[name]}" for name in ("verdicts",) if name in entry)
    return f"{entry['name']}: {entry['value']:.4g} {entry['unit']}{more} (n = {entry['n']})"


if __name__ == "__main__":
    main()
