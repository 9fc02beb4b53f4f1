"""How good an audit's predictions are: on victims that no calibration saw, their errors and what their intervals hold.

python benchmarks/audit_coverage.py --data-root DIR [--settings NAME ...] [--victims N] [--clients N]
    [--calibrations N] [--first N] [--seed N] [--rows FILE] [--json]

DIR holds pictures in `train/CLASS` and `test/CLASS`, such as CIFAR-10. Half of the training pictures train the
networks that are trained, the other half are the audit's public ones, and victims hold test pictures: those from
`--first` on, in an order of their own, so that a method that was chosen on some is measured on others. Each setting is
audited with several calibrations on different simulated clients, since an interval's 90% hold on average over
calibrations. Every calibration predicts every victim. One process, one thread. With `--rows` what the attacks reached
is kept in a file, and a second run goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import result_line
import torch
from torch import nn

from attack_core.attacks.registry import NAMED
from defenses.chain import AnyDefense
from defenses.compression.compression import Prune
from defenses.mechanism.noise import NoiseOnly
from fl_core.base.errors import InputError
from fl_core.base.rng import derive_seed, generator
from fl_core.federation.client import LocalTraining
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig, ModelName
from orchestrator.analysis.intervals import share_interval
from orchestrator.calibration.calibrate import Setting, beside_truth, simulated_client
from orchestrator.calibration.pictures import PictureSet, read_folder
from orchestrator.calibration.prediction import EXACT, Simulated, predict
from orchestrator.calibration.seen import Seen
from orchestrator.library.images import ImageSpec
from orchestrator.library.invert import case_at
from orchestrator.library.known import Known
from orchestrator.library.network import Subject, subject
from orchestrator.library.simulate import client_signal

SPEC = ImageSpec(height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
EPOCHS = 5
"""Of training, for the networks that are trained."""
LEAST, MOST = 85.0, 3.0
"""Intervals have to hold so many percent of PSNRs at least, and the median error is so many dB at most."""
ROUNDING = 1e-6
"""In dB."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What is audited: a network, initial or trained, the client's images and steps, a defense, the audit's effort."""

    kind: ModelName | None
    """None: two convolutions, with ReLUs, in front of one fully connected layer."""
    widths: tuple[int, ...] | None = None
    trained: bool = False
    images: int = 1
    steps: int | None = None
    lr: float = 0.05
    defenses: tuple[AnyDefense, ...] = ()
    effort: float = 1.0

    def setting(self, training: PictureSet, seed: int) -> Setting:
        """What the audit's simulated clients do."""
        return Setting(
            network=network(self, training, seed),
            attack=NAMED["auto"].shortened(self.effort),
            known=Known(
                examples=self.images,
                batch_size=self.local.batch_size if self.local else None,
                steps=self.steps,
                lr=self.lr if self.steps else None,
                defenses=self.defenses,
            ),
            examples=self.images,
            local=self.local,
        )

    @property
    def local(self) -> LocalTraining | None:
        """Local SGD over all images in so many steps, or over one image so often; None for a gradient."""
        if self.steps is None:
            return None
        size = -(-self.images // self.steps)
        epochs = self.steps * size // self.images
        return LocalTraining(lr=self.lr, momentum=0.0, batch_size=size, epochs=epochs, max_steps=self.steps)


_SMALL = (128, 64)

SETTINGS: Mapping[str, Audited] = {
    "mlp": Audited(kind="mlp"),
    "lenet": Audited(kind="lenet", effort=0.15),
    "mlp, 4 images, 4 steps": Audited(kind="mlp", widths=_SMALL, images=4, steps=4, effort=0.05),
    "cnn64, trained": Audited(kind="cnn64", trained=True, effort=0.15),
    "mlp, trained, noise": Audited(
        kind="mlp", widths=_SMALL, trained=True, defenses=(NoiseOnly(sigma=0.01),)
    ),
    "mlp, pruned": Audited(kind="mlp", widths=_SMALL, defenses=(Prune(ratio=0.95),), effort=0.25),
    "mlp, trained, 8 images": Audited(kind="mlp", widths=_SMALL, trained=True, images=8, effort=0.05),
    "small cnn, 8 images": Audited(kind=None, images=8, effort=0.03),
    "mlp, trained, 5 steps": Audited(kind="mlp", widths=_SMALL, trained=True, steps=5, effort=0.1),
    "small cnn, trained, 4 images, 2 steps": Audited(
        kind=None, trained=True, images=4, steps=2, effort=0.025
    ),
    "mlp, 8 images, noise": Audited(
        kind="mlp", widths=_SMALL, images=8, defenses=(NoiseOnly(sigma=0.001),), effort=0.03
    ),
}


def small_cnn() -> nn.Sequential:
    """Two convolutions that halve the picture, ReLUs, one fully connected layer: 39,000 numbers."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 10),
    )


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What trains networks, what is public, and what victims hold."""

    training: PictureSet
    public: PictureSet
    victims: PictureSet

    @classmethod
    def read(cls, root: Path, first: int) -> Pictures:
        """The pictures below `root`; raises `InputError` where `train` or `test` holds none.

        Victims hold test pictures from number `first` on, in a fixed order.
        """
        train = read_folder(root / "train", SPEC, where="--data-root")
        test = read_folder(root / "test", SPEC, where="--data-root")
        order = torch.randperm(len(test.images), generator=generator("victims", 0))
        return cls(
            training=taken(train, torch.arange(0, len(train.images), 2)),
            public=taken(train, torch.arange(1, len(train.images), 2)),
            victims=taken(test, order[first:]),
        )


def taken(pictures: PictureSet, which: torch.Tensor) -> PictureSet:
    """Some of the pictures."""
    labels = None if pictures.labels is None else pictures.labels[which]
    return replace(pictures, images=pictures.images[which], labels=labels)


def network(audited: Audited, training: PictureSet, seed: int) -> Subject:
    """The network at its initial weights, or after `EPOCHS` epochs of SGD on the training pictures."""
    draws = generator("audit coverage", seed)
    if audited.kind is None:
        with torch.random.fork_rng():
            torch.random.manual_seed(derive_seed("audit coverage", seed) % 2**31)
            model: nn.Module = small_cnn()
    else:
        config = ModelConfig(kind=audited.kind, classes=10, image_size=32, widths=audited.widths)
        model = build_model(config).to_empty(device="cpu")
        state = initial_state(config, draws)
        model.load_state_dict({**state.parameters, **state.buffers})
    if audited.trained:
        train(model.train(), training, draws)
    return subject(model.eval(), SPEC, 10)


def train(model: nn.Module, training: PictureSet, draws: torch.Generator) -> None:
    """SGD at 0.05 with momentum 0.9 in batches of 50."""
    if training.labels is None:
        raise AssertionError("pictures lie in folders by class")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    pictures = training.images * 2 - 1
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(pictures), generator=draws).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pictures[batch]), training.labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one attack reached, by image, and its CPU seconds."""

    images: list[Simulated]
    seconds: float


class Rows:
    """What attacks reached, kept in a file of JSON lines where there is one."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        if path is not None and path.is_file():
            for text in path.read_text(encoding="utf-8").splitlines():
                plain = json.loads(text)
                images = [Simulated(**{**each, "seen": Seen(**each["seen"])}) for each in plain["images"]]
                self._rows[plain["key"]] = Row(images=images, seconds=plain["seconds"])

    def of(self, key: str, make: Callable[[], list[Simulated]]) -> Row:
        """The row of `key`, from the file or made."""
        if key not in self._rows:
            started = time.process_time()
            row = Row(images=make(), seconds=time.process_time() - started)
            self._rows[key] = row
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, **asdict(row)}) + "\n")
        return self._rows[key]


def attacked_victim(setting: Setting, pictures: Pictures, victim: int, seed: int) -> list[Simulated]:
    """One victim, attacked as an audit attacks what a client sent."""
    which = torch.arange(victim * setting.examples, (victim + 1) * setting.examples)
    if which[-1] >= len(pictures.victims.images):
        raise InputError(
            f"--data-root: {len(pictures.victims.images)} test pictures from --first on are too few."
        )
    held = taken(pictures.victims, which)
    truth, labels = SPEC.check(held.images, "victims"), held.labels
    if labels is None:
        raise AssertionError("pictures lie in folders by class")
    sent = client_signal(
        setting.network,
        truth,
        labels,
        local=setting.local,
        defenses=setting.known.defenses,
        seed=derive_seed("audit coverage", seed, victim),
    )
    known = replace(setting.known, public=pictures.public.images)
    case = case_at(setting.network, sent, attack=setting.attack, known=known)
    mean = (pictures.public.images * 2 - 1).mean(0, keepdim=True)
    return beside_truth(case.run(derive_seed("audit", seed)), truth, mean, client=victim)


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What attacks reached in one setting: on simulated clients, and on victims."""

    simulated: list[Row]
    victims: list[Row]


def reached(name: str, options: argparse.Namespace, pictures: Pictures, kept: Rows) -> Reached:
    """Run the attacks of a setting that are not kept yet."""
    setting = SETTINGS[name].setting(pictures.training, options.seed)
    images = SPEC.check(pictures.public.images, "public images")

    def simulate(client: int) -> list[Simulated]:
        return simulated_client(setting, pictures.public, images, client=client, seed=options.seed)

    def attack(victim: int) -> list[Simulated]:
        return attacked_victim(setting, pictures, victim, options.seed)

    key = f"{SETTINGS[name]}, seed {options.seed}"
    held = f"{key}, pictures from {options.first}"
    clients, victims = range(options.clients * options.calibrations), range(options.victims)
    return Reached(
        simulated=[kept.of(f"{key}, simulated {i}", partial(simulate, i)) for i in clients],
        victims=[kept.of(f"{held}, victim {i}", partial(attack, i)) for i in victims],
    )


def lines(name: str, found: Reached, clients: int) -> list[dict[str, Any]]:
    """How often the intervals hold the PSNR, the median error of predictions, and the width of intervals."""
    whole = len(found.simulated) - len(found.simulated) % clients
    held, errors, widths = [], [], []
    for first in range(0, whole, clients):
        known = [each for row in found.simulated[first : first + clients] for each in row.images]
        for row in found.victims:
            expected = predict(known, [each.seen for each in row.images])
            values = [min(each.psnr, EXACT) for each in row.images]
            pairs = list(zip(values, expected, strict=True))
            held.append(statistics.fmean(e.low - ROUNDING <= v <= e.high + ROUNDING for v, e in pairs))
            errors += [abs(v - e.psnr) for v, e in pairs]
            widths += [e.high - e.low for _, e in pairs]
    shares = np.array(held).reshape(whole // clients, len(found.victims))
    bounds = share_interval(float(shares.mean()), independent(shares))
    values = [min(each.psnr, EXACT) for row in found.victims for each in row.images]
    about = {
        "victims": len(found.victims),
        "calibrations": len(shares),
        "predictions": len(errors),
        "seconds": statistics.median(row.seconds for row in [*found.simulated, *found.victims]),
        "psnr": statistics.median(values),
    }
    coverage = result_line.line(f"{name}: coverage", 100 * float(shares.mean()), "%", [], target=LEAST)
    error = statistics.median(errors)
    return [
        coverage | {"low": 100 * bounds.low, "high": 100 * bounds.high, "n": len(held)} | about,
        result_line.line(f"{name}: median error", error, "dB", [], target=MOST, at_most=True)
        | {"n": len(errors)},
        result_line.line(f"{name}: median width", statistics.median(widths), "dB", []) | {"n": len(widths)},
    ]


def independent(shares: Array) -> int:
    """How many independent victims have the standard error that `shares` (calibrations, victims) have in the mean.

    Calibrations and victims both vary: the squared standard errors of the two ways of taking means add up.
    """
    calibrations, victims = shares.shape
    square = float(shares.mean(0).var(ddof=1)) / victims if victims > 1 else 0.0
    if calibrations > 1:
        square += float(shares.mean(1).var(ddof=1)) / calibrations
    mean = float(shares.mean())
    if square <= 0 or mean in (0.0, 1.0):
        return victims
    return max(1, min(shares.size, round(mean * (1 - mean) / square)))


def main() -> int:
    """Attack, predict and print; exit code 1 where a setting misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument(
        "--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME"
    )
    parser.add_argument("--victims", type=int, default=40)
    parser.add_argument("--clients", type=int, default=19)
    parser.add_argument("--calibrations", type=int, default=4)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    try:
        pictures, kept = Pictures.read(options.data_root, options.first), Rows(options.rows)
        for name in options.settings:
            for line in lines(name, reached(name, options, pictures, kept), options.clients):
                good &= bool(line["ok"])
                print(json.dumps(line) if options.json else in_words(line), flush=True)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    return 0 if good else 1


def in_words(line: dict[str, Any]) -> str:
    """A result line to read."""
    interval = f" [{line['low']:.0f}, {line['high']:.0f}]" if "low" in line else ""
    more = "".join(f", {name} {line[name]:.3g}" for name in ("victims", "psnr", "seconds") if name in line)
    missed = "" if line["ok"] else " MISSED"
    return f"{line['name']}: {line['value']:.3g} {line['unit']}{interval}{more}{missed}"


if __name__ == "__main__":
    sys.exit(main())
