"""The attack on pictures of several kinds: where exact features are enough, and where they are not.

python benchmarks/pictures.py [--data-root DIR] [--folder NAME=DIR ...] [--kinds NAME ...] [--image-size S]
    [--victims N] [--evaluations N] [--seed N] [--rank] [--json]

cnn64 at its initial weights, the gradient of one picture a victim, by `auto`, which knows no public image: it starts
near grey, and grey is the control. Faces are those of the test split of DIR, or synthetic ones. A folder's images are
taken in even steps over their sorted paths, cut to a square and resized. Logos, pages of text, colour blocks and noise
are drawn from the seed. One process, one thread. `--rank` attacks nothing: it counts in how many directions a small
change of the picture moves its features at all (minutes and gigabytes from 64 pixels on).
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from result_line import line
from torch import Tensor

from attack_core.attacks.analytic import Analytic
from attack_core.attacks.auto import Auto
from attack_core.fc.head import Prefix, find_head
from attack_core.inversion.continuation import Continuation
from attack_core.metrics.metrics import psnr
from fl_core.base.errors import InputError, unknown_name
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from fl_core.data.synthetic.faces import write_faces
from fl_core.federation.client import LocalTraining, gradient_update
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import observe
from fl_core.threat.record import RoundRecord
from orchestrator.analysis.intervals import mean_interval

_FINER = 4
"""Logos and pages are drawn so many times larger and then shrunk, which smooths their edges."""
_BLOCK = 8
"""Pixels a side of a colour block."""
_ROWS = 256
"""Rows of a Jacobian that are computed at once."""
_NO_DIRECTION = 1e-12
"""Squared singular values of this share of the largest are rounding."""
_FILES = {".jpg", ".jpeg", ".png", ".webp"}
_WORDS = (
    "the",
    "weights",
    "of",
    "a",
    "network",
    "move",
    "towards",
    "pictures",
    "that",
    "it",
    "learns",
    "from",
)

Draw = Callable[[int, torch.Generator], Tensor]
"""From a size S and a generator to a picture (3, S, S) in [-1, 1]."""


@dataclass
class Kind:
    """One kind of picture, (N, 3, S, S), and what the attack reached on each."""

    name: str
    pictures: Tensor
    psnr: list[float] = field(default_factory=list)
    grey: list[float] = field(default_factory=list)
    mismatch: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def lines(self) -> list[dict[str, Any]]:
        """Result lines."""
        bounds = mean_interval(np.asarray(self.psnr), failed=statistics.fmean(self.grey))
        first = line(f"{self.name}: PSNR", bounds.mean, "dB", self.psnr)
        interval = {"low": bounds.low, "high": bounds.high, "least": min(self.psnr), "most": max(self.psnr)}
        active = statistics.fmean(self.active)
        return [
            first | interval | {"grey": statistics.fmean(self.grey)},
            line(f"{self.name}: largest feature mismatch", max(self.mismatch), "", self.mismatch),
            line(f"{self.name}: features that are not 0, a pixel number", active, "", self.active),
            line(f"{self.name}: CPU a victim", statistics.median(self.seconds), "s", self.seconds),
        ]


def logo(size: int, random: torch.Generator) -> Tensor:
    """A ring, a bar and a letter in flat colours on a light ground."""
    side = size * _FINER
    picture = Image.new("RGB", (side, side), _colour(random, 200, 256))
    draw = ImageDraw.Draw(picture)
    left, top = (int(side * share) for share in (torch.rand(2, generator=random) * 0.2 + 0.05).tolist())
    draw.ellipse(
        (left, top, left + side * 0.6, top + side * 0.6),
        outline=_colour(random, 0, 160),
        width=side // 10,
    )
    draw.rectangle((side * 0.1, side * 0.72, side * 0.9, side * 0.84), fill=_colour(random, 0, 160))
    letter = chr(ord("A") + int(torch.randint(26, (), generator=random)))
    draw.text((left * 2, top), letter, fill=_colour(random, 0, 160), font=ImageFont.load_default(side // 2))
    return _tensor(picture, size)


def page(size: int, random: torch.Generator) -> Tensor:
    """Dark text of eight pixels' height on white."""
    side = size * _FINER
    picture = Image.new("RGB", (side, side), (255, 255, 255))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(8 * _FINER)
    for top in range(2 * _FINER, side - 8 * _FINER, 9 * _FINER):
        order = torch.randperm(len(_WORDS), generator=random).tolist()
        words = " ".join(_WORDS[i] for i in order)
        draw.text((2 * _FINER, top), words, fill=(20, 20, 20), font=font)
    return _tensor(picture, size)


def blocks(size: int, random: torch.Generator) -> Tensor:
    """Squares of eight pixels a side, each of one random colour."""
    cells = -(-size // _BLOCK)
    colours = torch.rand(3, cells, cells, generator=random) * 2.0 - 1.0
    return colours.repeat_interleave(_BLOCK, 1).repeat_interleave(_BLOCK, 2)[:, :size, :size]


def white_noise(size: int, random: torch.Generator) -> Tensor:
    """Every number uniform over the range."""
    return torch.rand(3, size, size, generator=random) * 2.0 - 1.0


def binary_noise(size: int, random: torch.Generator) -> Tensor:
    """Every number at one end of the range or at the other."""
    return torch.randint(0, 2, (3, size, size), generator=random) * 2.0 - 1.0


DRAWN: dict[str, Draw] = {
    "logo": logo,
    "page of text": page,
    "colour blocks": blocks,
    "white noise": white_noise,
    "binary noise": binary_noise,
}


def gather(options: argparse.Namespace) -> list[Kind]:
    """Every kind that was asked for, with its pictures."""
    folders = dict(_named_folder(text) for text in options.folder)
    known = ["faces", *folders, *DRAWN]
    wanted = options.kinds or known
    for name in wanted:
        if name not in known:
            raise unknown_name("kind of picture", name, known)
    size, count, kinds = options.image_size, options.victims, []
    for name in wanted:
        if name == "faces":
            pictures = _faces(options)
        elif name in folders:
            pictures = _from_folder(folders[name], size, count)
        else:
            random = generator("picture", name, options.seed)
            pictures = torch.stack([DRAWN[name](size, random) for _ in range(count)])
        kinds.append(Kind(name=name, pictures=pictures))
    return kinds


def measure(kinds: Sequence[Kind], options: argparse.Namespace) -> None:
    """Attack every picture, kind by kind in turn, so that a busy machine slows all kinds alike."""
    attack = Auto(analytic=Analytic(inversion=Continuation(evaluations=options.evaluations)))
    config = ModelConfig(image_size=options.image_size)
    model, state = build_model(config), initial_state(config, generator("model", options.seed))
    features = Prefix(model, state, find_head(model, state, config.shape).first)
    for number in range(options.victims):
        for kind in kinds:
            truth = kind.pictures[number : number + 1]
            label = torch.tensor([number % config.classes])
            update = gradient_update(model, state, (truth, label), LocalTraining(), client=0)
            record = RoundRecord(
                signal="gradients", round=0, model=config, state=state, batch_size=1, updates=(update,)
            )
            start = time.process_time()
            found = attack(observe(record, ThreatModel()), model, generator("attack", number))
            kind.seconds.append(time.process_time() - start)
            reached = float(psnr(found.images, truth))
            kind.psnr.append(reached)
            kind.grey.append(float(psnr(torch.zeros_like(truth), truth)))
            with torch.no_grad():
                right, ours = features(truth), features(found.images)
            kind.mismatch.append(float((ours - right).square().sum() / right.square().sum()))
            kind.active.append(float(right.count_nonzero()) / truth.numel())
            print(
                f"victim {number + 1}/{options.victims} {kind.name}: {reached:.1f} dB, "
                f"mismatch {kind.mismatch[-1]:.0e}; {found.method}; {found.notes[-1]}",
                file=sys.stderr,
            )


def count_directions(kinds: Sequence[Kind], options: argparse.Namespace) -> list[dict[str, Any]]:
    """For each kind's first picture: its numbers, its features that are not 0, and the rank of their Jacobian."""
    config = ModelConfig(image_size=options.image_size)
    model, state = build_model(config), initial_state(config, generator("model", options.seed))
    features = Prefix(model, state, find_head(model, state, config.shape).first)
    lines = []
    for kind in kinds:
        picture = kind.pictures[:1].clone().requires_grad_(True)
        found = features(picture)[0]
        chosen = torch.eye(len(found))[found != 0]
        rows = [
            torch.autograd.grad(found, picture, some, is_grads_batched=True, retain_graph=True)[0].flatten(1)
            for some in chosen.split(_ROWS)
        ]
        jacobian = torch.cat(rows).double()
        values = torch.linalg.eigvalsh(jacobian.mT @ jacobian)
        rank = int((values > _NO_DIRECTION * values[-1]).sum())
        entry = line(f"{kind.name}: rank of the features' Jacobian", rank, "", [float(rank)])
        lines.append(entry | {"features": len(chosen), "numbers": picture.numel()})
    return lines


def _faces(options: argparse.Namespace) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        root = options.data_root
        if root is None:
            root = Path(folder)
            write_faces(root, num=8 * options.victims + 64, seed=0)
        dataset = open_celeba(root, shape=ImageShape.square(options.image_size))
        images, _ = dataset.batch(dataset.split("test", options.victims))
        return images


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and Path(folder).is_dir()):
        raise InputError(f"--folder {text!r}: must be NAME=DIR, where DIR is a folder.")
    return name, Path(folder)


def _from_folder(folder: Path, size: int, count: int) -> Tensor:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _FILES)
    if len(files) < count:
        raise InputError(f"--victims {count}: {folder} holds {len(files)} images.")
    chosen = [files[i * len(files) // count] for i in range(count)]
    return torch.stack([_tensor(Image.open(path), size) for path in chosen])


def _tensor(picture: Image.Image, size: int) -> Tensor:
    square = ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1) / 127.5 - 1.0


def _colour(random: torch.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = torch.randint(low, high, (3,), generator=random).tolist()
    return red, green, blue


def main() -> None:
    """Print one line a figure, or JSON objects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--kinds", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        kinds = gather(options)
        if options.rank:
            entries = count_directions(kinds, options)
        else:
            measure(kinds, options)
            entries = [entry for kind in kinds for entry in kind.lines()]
    except InputError as error:
        parser.exit(2, f"{error}\n")
    for entry in entries:
        print(json.dumps(entry) if options.json else _in_words(entry))


def _in_words(entry: dict[str, Any]) -> str:
    known = ("low", "high", "least", "most", "grey", "features", "numbers")
    more = "".join(f", {name} {entry[name]:.5g}" for name in known if name in entry)
    return f"{entry['name']}: {entry['value']:.4g} {entry['unit']}{more} (n = {entry['n']})"


if __name__ == "__main__":
    main()
