"""Our attacks beside the peer library's: PSNR against CPU seconds a victim, on the same victims.

python benchmarks/attacks.py [--data-root DIR] [--data-kind KIND] [--model NAME] [--image-size S] [--batch B]
    [--victims N] [--first N] [--weights random|trained] [--labels recovered|given] [--iterations N]
    [--figure FILE] [--json] [--ours "NAME [key=value ...]" ...] [--peer "CONFIG [hydra.key=value ...]" ...]
python benchmarks/attacks.py --suite frontier --data-root CIFAR [--photos-root DIR] [--cases NAME ...]
    [--victims N] [--first N] [--iterations N] [--json]

One process, one thread, victim by victim, every attack in turn on each. Without --data-root synthetic faces stand in;
`--data-kind folder` reads a folder of pictures for each class, and the network has as many outputs as there are
classes. `--suite frontier` runs the cases of frontier.py, each with its own attacks and target; its pictures are
folders of classes.
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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import frontier
import matplotlib as mpl
import numpy as np
import peers
import torch
from frontier import Victim
from matplotlib.axes import Axes
from torch import Tensor

from attack_core.attacks.registry import NAMED
from attack_core.metrics.metrics import assign, psnr
from fl_core.base.errors import InputError, unknown_name
from fl_core.base.rng import derive_seed, generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ModelState
from fl_core.data.dataset import ImageDataset
from fl_core.data.splits import SeededSplit
from fl_core.data.synthetic.faces import write_faces
from fl_core.federation.accuracy import count_correct
from fl_core.federation.client import LocalTraining, gradient_update, train_locally
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.threat.model import ThreatModel
from fl_core.threat.observation import observe
from fl_core.threat.record import RoundRecord
from orchestrator.analysis.intervals import mean_interval
from orchestrator.axes.paths import put
from orchestrator.capture.datasets import open_data
from orchestrator.config.plain import build, to_plain
from orchestrator.config.sweep import DataConfig

ACCURACY = 0.8
"""Validation accuracy from which a model counts as trained."""
TRAINING_FACES, EPOCHS = 1000, 12
PEERS = (
    "invertinggradients",
    "modern",
    "clsattack",
    "legacy",
    "seethroughgradients",
    "deepleakage",
    "wei",
    "beyondinfering",
)
"""Breaching's attacks on images that run on one gradient."""
EXACT = 40.0
"""DB from which an image counts as found."""
SHARE = "of 1"
"""The unit of a share of images, whose interval ends at 0 and at 1."""
SEEN = 20.0
"""DB from which most of what an image shows can be made out."""
CPU = torch.device("cpu")

Answer = tuple[Tensor, int, str]
"""Images, forward passes, and what the attack says of its answer."""


@dataclass
class Method:
    """One attack as named on the command line, and what it has reached so far."""

    name: str
    side: str
    run: Callable[[Victim, int], Answer] | None
    reason: str = ""
    psnr: list[float] = field(default_factory=list)
    images: list[list[float]] = field(default_factory=list)
    """The PSNR of each image of each victim."""
    seconds: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)

    def share(self, level: float) -> list[float]:
        """Of each victim the share of images that reach so many dB."""
        return [sum(each >= level for each in images) / len(images) for images in self.images]

    def fail(self, reason: str) -> None:
        """Take the method out of the comparison, with the reason that the table gives."""
        self.run, self.reason = None, reason


def our_method(spec: str, iterations: int) -> Method:
    """A key of `NAMED` and settings over it; every `iterations` in it is the command line's unless set there."""
    name, *settings = spec.split()
    if name not in NAMED:
        raise unknown_name("attack", name, NAMED)
    tree = to_plain(NAMED[name])
    _set_iterations(tree, iterations)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"--ours {spec!r}: {setting!r} must be key=value.")
        put(tree, key, _json_or_text(value), where="--ours")
    attack = build(type(NAMED[name]), tree, where=f"--ours {spec!r}")

    def run(victim: Victim, number: int) -> Answer:
        model = build_model(victim.observation.model)
        evaluations, count = peers.pass_counter()
        model.register_forward_hook(count)
        found = attack(victim.observation, model, generator("attack", number))
        return found.images, evaluations[0], f"{found.method}; {'; '.join(found.notes)}"

    return Method(name=spec, side="ours", run=run)


def peer_method(spec: str, iterations: int) -> Method:
    """One of breaching's attack configurations and hydra overrides; without the library a method that failed."""
    name, *overrides = spec.split()
    method = Method(name=f"breaching {spec}", side="breaching", run=None)
    try:
        library = peers.load()
        config = peers.attack_config(library, name, overrides, iterations)
    except peers.PeerMissing as error:
        method.fail(str(error))
        return method
    except Exception as error:  # Hydra's own errors for a name or key that is not there.
        method.fail(_short(error))
        return method

    def run(victim: Victim, number: int) -> Answer:
        seed = derive_seed("peer", number)
        found = peers.reconstruct(library, victim.observation, config, seed=seed)
        return found.images, found.evaluations, ""

    method.run = run
    return method


def _set_iterations(tree: Any, iterations: int) -> None:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "iterations":
                tree[key] = iterations
            else:
                _set_iterations(value, iterations)


def _mapping(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(text)
    return found


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def make_victims(options: argparse.Namespace, dataset: ImageDataset) -> list[Victim]:
    """The first batches of the test split, each with its gradient at the same weights."""
    settings = {
        "kind": options.model,
        "image_size": options.image_size,
        "classes": max(2, len(dataset.classes)),
    }
    config = build(ModelConfig, settings | options.model_args, where="--model-args")
    state = initial_state(config, generator("model", options.seed))
    if options.weights == "trained":
        state = trained(config, state, dataset)
    last = (options.first + options.victims) * options.batch
    chosen = dataset.split("test", last)[options.first * options.batch :]
    local = LocalTraining(batch_size=options.batch)
    threat = ThreatModel(labels="known" if options.labels == "given" else "unknown")
    found = []
    for start in range(0, len(chosen), options.batch):
        images, labels = dataset.batch(chosen[start : start + options.batch])
        update = gradient_update(build_model(config), state, (images, labels), local, client=0)
        record = RoundRecord(
            signal="gradients",
            round=0,
            model=config,
            state=state,
            batch_size=options.batch,
            updates=(update,),
        )
        found.append(Victim(observe(record, threat, labels=labels), images))
    return found


def trained(config: ModelConfig, state: ModelState, dataset: ImageDataset) -> ModelState:
    """SGD (0.01, momentum 0.9, batches of 10) on the train split until the valid split is 80% right.

    BatchNorm trains as usual, by batch statistics; the attack then meets its running ones. Raises `InputError`
    where the epochs run out.
    """
    indices = dataset.split("train")[:TRAINING_FACES]
    valid = dataset.split("valid")[: TRAINING_FACES // 2]
    model = build_model(replace(config, batch_norm="train"))
    accuracy = 0.0
    for epoch in range(EPOCHS):
        order = torch.randperm(len(indices), generator=generator("epoch", epoch)).tolist()
        steps = (
            dataset.batch([indices[i] for i in order[at : at + 10]]) for at in range(0, len(order) - 9, 10)
        )
        state = train_locally(model, state, steps, LocalTraining()).state
        accuracy = count_correct(config, state, dataset, valid, device=CPU) / len(valid)
        print(f"epoch {epoch + 1}: {accuracy:.1%} of {len(valid)} faces right", file=sys.stderr)
        if accuracy >= ACCURACY:
            return state
    raise InputError(f"Training reached {accuracy:.1%} in {EPOCHS} epochs, less than {ACCURACY:.0%}.")


def scores(images: Tensor, truth: Tensor) -> Tensor:
    """The PSNR of each of a victim's images that a reconstruction stands for."""
    pairs = [(i, j) for i, j in enumerate(assign(images, truth)) if j is not None]
    return torch.stack([psnr(images[j : j + 1], truth[i : i + 1])[0] for i, j in pairs])


def compare(methods: Sequence[Method], victims: Iterable[Victim], first: int = 0) -> None:
    """Every method on every victim, victim by victim; a method that raises is out, and says why.

    `first` is the number of the first victim, by which attacks draw their randomness.
    """
    for number, victim in enumerate(victims, start=first):
        for method in methods:
            if method.run is None:
                continue
            start = time.process_time()
            try:
                images, evaluations, notes = method.run(victim, number)
            except Exception as error:  # One attack that cannot run must not end the comparison.
                method.fail(_short(error))
                continue
            method.seconds.append(time.process_time() - start)
            found = scores(images, victim.images)
            method.psnr.append(float(found.mean()))
            missing = [0.0] * (len(victim.images) - len(found))
            method.images.append([*found.tolist(), *missing])
            method.evaluations.append(float(evaluations))
            print(
                f"victim {number + 1} {method.name}: {method.psnr[-1]:.1f} dB, "
                f"{method.share(EXACT)[-1]:.0%} of {EXACT:g} dB, {method.seconds[-1]:.1f} CPU-s; {notes}",
                file=sys.stderr,
            )


def report(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Result lines: figures of each method, then our best against the peer's best, victim by victim."""
    lines = []
    for method in methods:
        if method.run is None:
            lines.append(line(f"{method.name}: PSNR", "dB", [], reason=method.reason))
            continue
        lines.append(mean_line(f"{method.name}: PSNR", "dB", method.psnr))
        lines.append(line(f"{method.name}: best reconstructed", "dB", method.psnr, value=max(method.psnr)))
        share = method.share(EXACT)
        title = f"{method.name}: images of {EXACT:g} dB and more"
        lines.append(line(title, "", share, value=statistics.fmean(share)))
        lines.append(line(f"{method.name}: CPU a victim", "s", method.seconds))
        lines.append(line(f"{method.name}: forward passes", "", method.evaluations))
    best = {side: best_of(methods, side) for side in ("ours", "breaching")}
    ours, theirs = best["ours"], best["breaching"]
    name = "our best minus breaching's best"
    if ours is None or theirs is None:
        absent = "ours" if ours is None else "breaching"
        return [*lines, line(name, "dB", [], target=0.0, reason=f"no attack of {absent} ran")]
    gaps = [mine - its for mine, its in zip(ours.psnr, theirs.psnr, strict=True)]
    gap = mean_line(name, "dB", gaps, target=0.0)
    return [*lines, gap | {"ours": ours.name, "peer": theirs.name}]


def mean_line(
    name: str, unit: str, values: Sequence[float], *, target: float | None = None
) -> dict[str, Any]:
    """The mean of `values` with its 95% interval in `low` and `high`, None below five values: JSON has no NaN."""
    bounds = mean_interval(np.asarray(values))
    ends = {"low": bounds.low, "high": bounds.high}
    if unit == SHARE:
        ends = {end: min(max(value, 0.0), 1.0) for end, value in ends.items()}
    entry = line(name, unit, values, value=bounds.mean, target=target)
    return entry | {end: None if np.isnan(value) else value for end, value in ends.items()}


def run_suite(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The result lines of the frontier's cases, each with its own attacks, on the same victims for all of them."""
    known = [case.name for case in frontier.CASES]
    for name in options.cases:
        if name not in known:
            raise unknown_name("case", name, known)
    chosen = [case for case in frontier.CASES if not options.cases or case.name in options.cases]
    lines = []
    for case in chosen:
        root = options.data_root if case.data == "small" else options.photos_root
        if root is None:
            flag = "--data-root" if case.data == "small" else "--photos-root"
            lines.append(line(f"{case.name}: PSNR", "dB", [], reason=f"{flag} names no folder of pictures"))
            continue
        methods = [our_method(spec, options.iterations) for spec in options.ours or case.attacks]
        methods += [peer_method(spec, options.iterations) for spec in case.peers]
        split = SeededSplit(train=0.2, valid=0.1) if case.data == "photographs" else None
        data = DataConfig(kind="folder", root=str(root), split=split)
        dataset = open_data(data, case.model.shape, progress=lambda _: None)
        victims = frontier.victims_of(case, dataset, options.first, options.victims, options.seed)
        compare(methods, victims, options.first)
        lines += case_lines(case, methods)
    return lines


def case_lines(case: frontier.Case, methods: Sequence[Method]) -> list[dict[str, Any]]:
    """What each attack reached on a case, then what the case asks for."""
    lines = []
    for method in methods:
        title = f"{case.name}: {method.name}"
        if method.run is None or not method.psnr:
            lines.append(line(f"{title}: PSNR", "dB", [], reason=method.reason or "too few pictures"))
            continue
        lines.append(mean_line(f"{title}: PSNR", "dB", method.psnr))
        lines += [
            mean_line(f"{title}: images of {level:g} dB and more", SHARE, method.share(level))
            for level in (SEEN, EXACT)
        ]
        lines.append(line(f"{title}: CPU a victim", "s", method.seconds))
    judged, *others = methods
    if judged.run is None or not judged.psnr:
        return lines
    if case.goal == "share":
        lines.append(mean_line(f"{case.name}: share", SHARE, judged.share(EXACT), target=case.target))
    elif case.goal == "mean":
        lines.append(mean_line(f"{case.name}: mean", "dB", judged.psnr, target=case.target))
    else:
        for other in (each for each in others if each.run is not None):
            gains = [mine - its for mine, its in zip(judged.psnr, other.psnr, strict=True)]
            lines.append(mean_line(f"{case.name}: gain over {other.name}", "dB", gains, target=case.target))
    return lines


def best_of(methods: Sequence[Method], side: str) -> Method | None:
    """The method of one side with the highest mean PSNR."""
    ran = [method for method in methods if method.side == side and method.run is not None]
    return max(ran, key=lambda method: statistics.fmean(method.psnr), default=None)


def line(
    name: str,
    unit: str,
    values: Sequence[float],
    *,
    target: float | None = None,
    value: float | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """One result, the median of `values` unless given; `spread` is their range; without values a null and a reason."""
    if value is None and values:
        value = statistics.median(values)
    entry: dict[str, Any] = {
        "name": name,
        "value": value,
        "unit": unit,
        "target": target,
        "ok": value is None or target is None or value >= target,
        "spread": max(values) - min(values) if values else None,
        "n": len(values),
    }
    return entry | ({"reason": reason} if reason else {})


def show(methods: Sequence[Method], lines: Sequence[dict[str, Any]]) -> None:
    """The comparison as a table, then every line that has a target."""
    width = max((len(method.name) for method in methods), default=0)
    if methods:
        print(f"{'attack':{width}s}  PSNR [95%]           best   CPU-s  passes")
    for method in methods:
        if method.run is None:
            print(f"{method.name:{width}s}  -  {method.reason}")
            continue
        bounds = mean_interval(np.asarray(method.psnr))
        interval = f"{bounds.mean:5.2f} [{bounds.low:5.2f}, {bounds.high:5.2f}]"
        seconds, passes = statistics.fmean(method.seconds), statistics.fmean(method.evaluations)
        print(
            f"{method.name:{width}s}  {interval:20s} {max(method.psnr):5.2f}  {seconds:6.1f}  {passes:6.0f}"
        )
    for entry in lines:
        if entry["target"] is not None or not methods:
            value = entry.get("reason") if entry["value"] is None else f"{entry['value']:.3g} {entry['unit']}"
            if entry.get("low") is not None:
                value += f" [{entry['low']:.3g}, {entry['high']:.3g}]"
            print(f"{entry['name']}: {value}{'' if entry['ok'] else '  MISSED'}")


def draw(methods: Sequence[Method], path: Path, title: str) -> None:
    """Mean PSNR with its interval, and the best reconstruction, against CPU seconds a victim."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    ran = [method for method in methods if method.run is not None]
    for number, method in enumerate(ran):
        _draw_method(axes, method, f"C{number % 10}")
    axes.set(xlabel="CPU seconds a victim, one thread", ylabel="PSNR (dB)", xscale="log", title=title)
    axes.grid(alpha=0.3)
    if ran:
        axes.legend(fontsize=7, title="dot: mean and 95% interval; triangle: most exposed", title_fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_method(axes: Axes, method: Method, color: str) -> None:
    bounds, seconds = mean_interval(np.asarray(method.psnr)), statistics.fmean(method.seconds)
    bars = np.nan_to_num([[bounds.mean - bounds.low], [bounds.high - bounds.mean]])
    filled = color if method.side == "ours" else "white"
    axes.errorbar(
        seconds, bounds.mean, yerr=bars, fmt="o", color=color, mfc=filled, capsize=3, label=method.name
    )
    axes.plot(seconds, max(method.psnr), "^", color=color, mfc=filled)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def parse_options() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=("frontier",), help="run the cases of a suite")
    parser.add_argument("--cases", nargs="*", default=[], help="of the suite; all of them where left out")
    parser.add_argument("--photos-root", type=Path, help="photographs, for the suite's cases at 224 pixels")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--data-kind", choices=("celeba", "folder"), default="celeba")
    parser.add_argument("--victims", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="leave out so many victims")
    parser.add_argument("--model", default="cnn64")
    parser.add_argument("--model-args", type=_mapping, default={}, help="its settings, as JSON")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--weights", choices=("random", "trained"), default="random")
    parser.add_argument("--labels", choices=("recovered", "given"), default="recovered")
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--ours", nargs="*", help="all of them where left out; in a suite, the case's own")
    parser.add_argument("--peer", nargs="*", default=list(PEERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--device", choices=("cpu",), default="cpu", help="CPU seconds are what is compared")
    parser.add_argument("--json", action="store_true")
    return parser, parser.parse_args()


def run_comparison(options: argparse.Namespace) -> tuple[list[Method], list[dict[str, Any]]]:
    """Faces, victims, attacks, and the figure where one is asked for."""
    methods = [
        our_method(spec, options.iterations) for spec in (NAMED if options.ours is None else options.ours)
    ]
    methods += [peer_method(spec, options.iterations) for spec in options.peer]
    with tempfile.TemporaryDirectory() as folder:
        root = options.data_root
        if root is None:
            root = Path(folder) / "faces"
            wanted = 8 * (options.first + options.victims) * options.batch
            write_faces(root, num=max(wanted, 4 * TRAINING_FACES // 3 if options.weights == "trained" else 0))
        data = DataConfig(kind=options.data_kind, root=str(root))
        dataset = open_data(data, ImageShape.square(options.image_size), progress=print)
        victims = make_victims(options, dataset)
        compare(methods, victims, options.first)
    if options.figure is not None:
        title = f"{options.model} {options.image_size}x{options.image_size}, {options.weights} weights, "
        draw(methods, options.figure, f"{title}batch {options.batch}, {options.iterations} iterations")
    return methods, report(methods)


def main() -> int:
    """Measure and print; exit code 1 where a target is missed."""
    parser, options = parse_options()
    torch.set_num_threads(1)
    methods: list[Method] = []
    try:
        if options.suite is not None:
            lines = run_suite(options)
        else:
            methods, lines = run_comparison(options)
    except InputError as error:
        parser.error(str(error))
    if options.json:
        for entry in lines:
            print(json.dumps(entry))
    else:
        show(methods, lines)
    return 0 if all(entry["ok"] for entry in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
