"""What the assignment by truth gives to answers that no signal is behind, beside the mean public image.

python benchmarks/controls.py DIR [--batches B...] [--victims N] [--image-size S] [--json]
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json

import numpy as np
import result_line
import torch
from torch import Tensor

from attack_core.metrics.metrics import assign, psnr
from fl_core.base.rng import generator
from fl_core.base.shape import ImageShape
from fl_core.data.kinds.celeba import open_celeba
from orchestrator.analysis.intervals import mean_interval
from orchestrator.analysis.summary import SUCCESS_DB
from orchestrator.trial.public import public_answers

PUBLIC = 200
"""Public images, as many as a sweep takes by default."""


def assigned(answers: Tensor, truth: Tensor) -> Tensor:
    """PSNR (B,) of each true image with the answer that is assigned to it."""
    chosen = [j for j in assign(answers, truth) if j is not None]
    return psnr(answers[chosen], truth)


def measured(public: Tensor, people: Tensor, batch: int) -> dict[str, np.ndarray]:
    """Each batch's mean PSNR, by answer; `recovered` is the share of images that any of them brings to 20 dB."""
    random = generator("public", batch)
    found: dict[str, list[float]] = {}
    for truth in people.split(batch):
        answers = public_answers(public, batch, random)
        figures = {
            "mean image": psnr(public.mean(0).expand(batch, -1, -1, -1), truth),
            "images, not assigned": psnr(answers.images, truth),
            "images": assigned(answers.images, truth),
            "groups": assigned(answers.groups, truth),
        }
        figures["recovered"] = torch.stack([*figures.values()]).amax(0) >= SUCCESS_DB
        for name, values in figures.items():
            found.setdefault(name, []).append(float(values.double().mean()))
    return {name: np.asarray(values) for name, values in found.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder in CelebA's layout")
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 4, 8, 16])
    parser.add_argument("--victims", type=int, default=64, help="batches of each size")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_celeba(options.data, shape=ImageShape.square(options.image_size))
    public = dataset.batch(dataset.split("test")[:PUBLIC])[0]
    train = dataset.split("train")
    for batch in options.batches:
        count = min(options.victims, len(train) // batch)
        values = measured(public, dataset.batch(train[: count * batch])[0], batch)
        mean = values.pop("mean image")
        shown = f"mean image {mean.mean():.1f} dB"
        for name, figures in values.items():
            if name == "recovered":
                shown += f"; {figures.mean():.1%} of images from {SUCCESS_DB:.0f} dB on"
                continue
            found = mean_interval(figures - mean)
            shown += f"; {name} {found.mean:+.2f} dB [{found.low:+.2f}, {found.high:+.2f}]"
            if options.json:
                entry = result_line.line(
                    f"batches of {batch}: {name} over the mean image", found.mean, "dB", []
                )
                print(json.dumps(entry | {"n": count, "low": found.low, "high": found.high}), flush=True)
        if not options.json:
            print(f"{count} batches of {batch:2d}: {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
