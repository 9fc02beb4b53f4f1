"""The numerical engine's speed: matching iterations, candidates together, feature inversion, beside the slower ways.

python benchmarks/engine.py [--rows NAME ...] [--device cpu|cuda|mps] [--repeats N] [--against DIR] [--data-root DIR]
    [--victims N] [--image-size S] [--programs operations|graphs|compiled] [--json]

Ways are timed in turn, in pairs, and a row is the median of the pairs' ratios: CPU seconds on the CPU, one thread,
elsewhere seconds until the device is done. The rows `celeba` and `batch-8` compare with another checkout in DIR, as
`git worktree add --detach DIR 5e8b774` makes it. Without --data-root synthetic faces stand in for CelebA, without
--against these two rows are missing; so is breaching's where it is not installed. `--image-size` shrinks every
picture, for a try. With `--programs compiled` the rows of iterations and candidates are of compiled programs.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A benchmark beside this one has the name of a package: the repository comes before its folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import engine_case
import peers
import torch
from result_line import line, missing
from torch import Tensor
from torch.nn import functional

from attack_core.base.programs.program import Runner
from attack_core.base.programs.recorded import RecordingLimits
from attack_core.base.programs.ways import Programs, runner_of, why_not
from attack_core.base.search import Search, alone, side_by_side
from attack_core.base.types import Reconstruction
from attack_core.fc.head import Prefix
from attack_core.gradients.convolutions import channels_last
from attack_core.gradients.objectives import L2, Cosine
from attack_core.inversion.continuation import Continuation
from attack_core.inversion.descent.gains import measured_gain
from attack_core.inversion.refinement import Features, feature_mismatch
from attack_core.inversion.together import look
from attack_core.matching.loop.evaluation import Recorder
from attack_core.matching.loop.problem import Problem, problem_of
from attack_core.matching.loop.restarts import Candidates
from attack_core.matching.loop.search import start
from attack_core.matching.matching import Matching
from attack_core.priors.colour_tv import colour_variation
from fl_core.base.device import Precision, peak_mb, pick_device, precision_of, reset_peak, synchronise
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ModelState
from fl_core.data.kinds.celeba import open_celeba
from fl_core.data.synthetic.faces import write_faces
from fl_core.federation.client import loss_gradient
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig
from fl_core.models.forward import layer_input, predict
from fl_core.threat.observation import Observation

Line = dict[str, Any]
Way = Callable[[], Tensor]

LADDER = (20, 30, 45, 60, 90, 120, 180, 240)
"""Evaluations of the rows that ask what a quality costs."""
QUALITIES = (35.0, 45.0)
"""The mean PSNR, in dB, whose cost is asked for."""
BATCH = 8
"""Images of the row `batch-8`."""
BATCH_EVALUATIONS = 120
"""Evaluations an image of the other checkout there."""
BATCH_LADDER = (60, 75, 90, 120)
"""Ours, which are to come to the other checkout's mean PSNR."""
AT_ONCE = RecordingLimits(after=1)
"""Programs are recorded at their second run."""
VICTIM_ITERATIONS = 30
"""Iterations of the row `victims`."""
PUBLIC = 256
"""Public images behind the mean one."""
RATE = 0.01
"""The learning rate that an observation of gradients names; nothing here depends on it."""


@dataclass(frozen=True)
class Bench:
    """What every row is measured with."""

    device: torch.device
    repeats: int
    size: int | None
    against: Path | None
    data_root: Path | None
    victims: int
    programs: Programs
    """How the loops' losses and slopes are computed."""

    def clock(self) -> float:
        """CPU seconds of this process, or on another device the seconds, all work on it being done."""
        if self.device.type == "cpu":
            return time.process_time()
        synchronise(self.device)
        return time.perf_counter()

    def times(self, ways: dict[str, Way], warm: int = 2) -> dict[str, list[float]]:
        """Seconds of each way in each round; the ways take turns, so that noise hits all of them."""
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(self.repeats + warm):
            for name, way in ways.items():
                begun = self.clock()
                way()
                if number >= warm:
                    found[name].append(self.clock() - begun)
        return found


@dataclass(frozen=True)
class Setting:
    """One matching problem: a network at its initial weights, a batch of noise as the truth, an objective."""

    kind: str
    size: int
    batch: int
    objective: L2 | Cosine

    def config(self, bench: Bench) -> ModelConfig:
        """The network."""
        return ModelConfig(kind=self.kind, image_size=bench.size or self.size)  # type: ignore[arg-type]

    def observation(self, bench: Bench, *draw: int) -> Observation:
        """The gradient of the truth, on the device; each `draw` has another truth."""
        config = self.config(bench)
        state = initial_state(config, generator("engine"))
        truth = torch.rand((self.batch, *config.shape.size), generator=generator("truth", *draw)) * 2 - 1
        labels = torch.arange(self.batch) % config.outputs
        return Observation(
            signal="gradients",
            model=config,
            state=state,
            tensors=loss_gradient(build_model(config), state, (truth, labels)),
            examples=self.batch,
            clients=1,
            batch_size=self.batch,
            steps=1,
            lr=RATE,
            momentum=0.0,
            labels=labels,
        ).to(bench.device)


@dataclass(frozen=True)
class Loop:
    """What the matching loop evaluates: a problem and its candidates."""

    problem: Problem
    candidates: Candidates
    runner: Runner

    @classmethod
    def of(cls, setting: Setting, bench: Bench, candidates: int) -> Loop:
        """The loop of that many restarts, without a prior."""
        observation = setting.observation(bench)
        attack = Matching(restarts=candidates, objective=setting.objective, tv_weight=0.0)
        model = build_model(observation.model)
        problem = problem_of(attack, observation, model, generator("labels"))
        begun = start(attack, problem, observation, generator("start"))
        return cls(problem, begun, runner_of(bench.programs, AT_ONCE))

    def together(self) -> Tensor:
        """Every candidate's loss, with its gradient, at once."""
        return alone(self._recorder(len(self.candidates.canvases))(self.candidates.look()), self.runner)

    def in_turn(self) -> Tensor:
        """The same, one candidate at a time."""
        return alone(self._recorder(1)(self.candidates.look()), self.runner)

    def _recorder(self, packing: int) -> Recorder:
        return Recorder(self.problem, self.candidates, 1.0, packing)

    def plain(self, setting: Setting, bench: Bench) -> Way:
        """The same by a double backward through every parameter, of the first candidate."""
        observation = setting.observation(bench)
        model, labels = build_model(observation.model), observation.labels
        image = self.candidates.canvases[0].image().detach().clone().requires_grad_(True)
        wanted = list(observation.tensors.values())

        def step() -> Tensor:
            leaves = {n: v.detach().requires_grad_(True) for n, v in observation.state.parameters.items()}
            state = ModelState(parameters=leaves, buffers=observation.state.buffers)
            loss = functional.cross_entropy(predict(model, state, image), labels)
            found = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            distance = _plain_distance(setting.objective, found, wanted)
            torch.autograd.grad(distance, image)
            return distance.detach()

        return step

    def breaching(self, setting: Setting, bench: Bench) -> Way:
        """Breaching's Euclidean objective at the first candidate; raises `PeerMissing`."""
        library, observation = peers.load(), setting.observation(bench)
        image = self.candidates.canvases[0].image()
        wanted = list(observation.tensors.values())
        return peers.euclidean_step(
            library, observation.model, observation.state, wanted, observation.labels, image
        )


def _plain_distance(objective: L2 | Cosine, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    pairs = list(zip(found, wanted, strict=True))
    if isinstance(objective, L2):
        return torch.stack([(f - w).square().sum() for f, w in pairs]).sum()
    dot = torch.stack([(f * w).sum() for f, w in pairs]).sum()
    norms = [torch.stack([t.square().sum() for t in tensors]).sum().sqrt() for tensors in (found, wanted)]
    return 1.0 - dot / norms[0] / norms[1]


def iteration(setting: Setting, target: float, *, peer: bool = False) -> Callable[[Bench, str], list[Line]]:
    """A row: one evaluation of loss and gradient against a plain double backward, and breaching's."""

    def measure(bench: Bench, name: str) -> list[Line]:
        loop, lines = Loop.of(setting, bench, 1), []
        ways: dict[str, Way] = {"ours": loop.together, "plain": loop.plain(setting, bench)}
        try:
            if peer:
                ways["breaching"] = loop.breaching(setting, bench)
        except peers.PeerMissing as error:
            lines.append(missing(f"{name}: breaching / ours", "x", str(error)))
        losses = {way: float(run().max()) for way, run in ways.items()}
        seconds = bench.times(ways)
        lines += [
            line(f"{name}: {way}", statistics.median(values) * 1e3, "ms", values)
            for way, values in seconds.items()
        ]
        for way in ways.keys() - {"ours"}:
            lines.append(_ratio(f"{name}: {way} / ours", seconds[way], seconds["ours"], target=target))
            gap = abs(losses[way] - losses["ours"]) / abs(losses[way])
            lines.append(
                line(f"{name}: loss off {way}'s", gap, "", [gap], target=1e-5, at_most=True),
            )
        return lines

    return measure


def candidates(bench: Bench, name: str) -> list[Line]:
    """A row: candidates together against one alone, each; on a GPU 64 together against one at a time."""
    lines, many = [], 64 if bench.device.type == "cuda" else 16
    setting = Setting("cnn64", 64, 1, L2())
    packed, alone = Loop.of(setting, bench, many), Loop.of(setting, bench, 1)
    if bench.device.type != "cpu":
        reset_peak(bench.device)
        ways: dict[str, Way] = {"together": packed.together, "in turn": packed.in_turn}
        try:
            ways["breaching"] = packed.breaching(setting, bench)
        except peers.PeerMissing as error:
            lines.append(missing(f"{name}: {many} of breaching / together", "x", str(error)))
        seconds = bench.times(ways)
        lines.append(
            _ratio(f"{name}: {many} in turn / together", seconds["in turn"], seconds["together"], target=20.0)
        )
        if "breaching" in seconds:
            theirs = [value * many for value in seconds["breaching"]]
            lines.append(
                _ratio(f"{name}: {many} of breaching / together", theirs, seconds["together"], target=30.0)
            )
        return [*lines, line(f"{name}: peak memory", peak_mb(bench.device), "MB", [])]
    seconds = bench.times({"together": packed.together, "alone": alone.together})
    each = [value / many for value in seconds["together"]]
    return [_ratio(f"{name}: one of {many} / alone", each, seconds["alone"], target=0.6, at_most=True)]


def victims(bench: Bench, name: str) -> list[Line]:
    """A row for each of two networks: matching on several victims in one program against one after the other."""
    count, lines = 64 if bench.device.type == "cuda" else 6, []
    attack = Matching(iterations=VICTIM_ITERATIONS, tv_weight=1e-4)
    for kind, size in (("cnn64", 64), ("lenet", 32)):
        seen = [Setting(kind, size, 1, L2()).observation(bench, draw) for draw in range(count)]
        searches = [
            partial(attack.search, each, build_model(each.model), generator("start")) for each in seen
        ]

        def together(searches: Sequence[Callable[[], Search[Reconstruction]]] = searches) -> Tensor:
            return torch.stack(
                [each.result().images for each in side_by_side([begin() for begin in searches])]
            )

        def in_turn(searches: Sequence[Callable[[], Search[Reconstruction]]] = searches) -> Tensor:
            return torch.stack([alone(begin()).images for begin in searches])

        seconds = bench.times({"together": together, "in turn": in_turn})
        pair = seconds["together"], seconds["in turn"]
        lines.append(_ratio(f"{name}: {count} of {kind} together / in turn", *pair, target=1.0, at_most=True))
    return lines


def programs(bench: Bench, name: str) -> list[Line]:
    """Rows for each of three loops: an iteration operation by operation, compiled and, on CUDA, as a graph."""
    lines, others = [], list[Programs]()
    ways_besides: tuple[Programs, ...] = ("compiled", "graphs")
    for way in ways_besides:
        if why := why_not(way, bench.device.type):
            lines.append(missing(f"{name}: {way} / operations", "x", why))
        else:
            others.append(way)
    for kind, size in (("cnn64", 64), ("lenet", 32), ("resnet18", 32)):
        setting, title = Setting(kind, size, 1, L2()), f"{name}: {kind}"
        loops = {each: Loop.of(setting, replace(bench, programs=each), 1) for each in ("operations", *others)}
        ways: dict[str, Way] = {each: loop.together for each, loop in loops.items()}
        seconds = bench.times(ways)
        losses = {way: float(run().max()) for way, run in ways.items()}
        for each in others:
            pair = seconds[each], seconds["operations"]
            lines.append(_ratio(f"{title}, {each} / operations", *pair, target=1.0, at_most=True))
            gap = abs(losses[each] - losses["operations"]) / abs(losses["operations"])
            lines.append(line(f"{title}, loss of {each} off", gap, "", [gap], target=1e-5, at_most=True))
    return lines


def rounded(bench: Bench, name: str) -> list[Line]:
    """Rows for each of three loops: an iteration whose products are rounded, alone and against float32's."""
    lines = []
    precisions: list[Precision] = ["bf16", "tf32"] if bench.device.type == "cuda" else ["bf16"]
    for kind, size, batch in (("cnn64", 64, 1), ("cnn64", 64, 8), ("resnet18", 32, 1)):
        loop = Loop.of(Setting(kind, size, batch, L2()), replace(bench, programs="operations"), 1)

        def in_precision(precision: Precision, loop: Loop = loop) -> Tensor:
            with precision_of(precision):
                return loop.together()

        ways: dict[str, Way] = {each: partial(in_precision, each) for each in (*precisions, "float32")}
        seconds = bench.times(ways)
        title = f"{name}: {kind}, batch {batch}"
        lines += [
            line(f"{title}, {way}", statistics.median(values) * 1e3, "ms", values)
            for way, values in seconds.items()
        ]
        for each in precisions:
            ratios = [a / b for a, b in zip(seconds[each], seconds["float32"], strict=True)]
            lines.append(line(f"{title}, {each} / float32", statistics.median(ratios), "x", ratios))
    return lines


def evaluation(bench: Bench, name: str) -> list[Line]:
    """A row: an evaluation of the analytic attack's descent against the library's convolutions alone, there and back.

    By itself, and as a part of a descent of twenty, which measures the network once.
    """
    config = ModelConfig(kind="cnn64", image_size=bench.size or 64)
    state = initial_state(config, generator("engine")).to(bench.device)
    prefix = Prefix(build_model(config), state, "fc1")
    images = torch.rand((1, *config.shape.size), generator=generator("truth")).to(bench.device) * 2 - 1
    with torch.no_grad():
        features = Features(prefix(images))
    # Half of the evaluations have a preconditioner that the network is measured for.
    descent = Continuation(evaluations=20, stages=2)
    mismatch, prior = feature_mismatch(prefix, features), partial(colour_variation, chroma=3.0, edge=0.1)
    seen: list[float] = []

    def descend() -> Tensor:
        seen.clear()
        return descent.minimise(
            mismatch,
            torch.zeros_like(images),
            measure=partial(measured_gain, prefix, generator=generator("probes")),
            prior=prior,
            report=seen.append,
        )

    def evaluate() -> Tensor:
        for _ in range(len(seen) or 1):
            (found,) = look(mismatch, prior, images, 1)
        return found.data

    # The library's own, in the layout that is the faster one.
    leaf = images.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    plain, model = ModelState(parameters=channels_last(state.parameters)), build_model(config)

    def convolutions() -> Tensor:
        for _ in range(len(seen) or 1):
            found = layer_input(model, plain, "fc1", leaf).flatten(1)
            (back,) = torch.autograd.grad(found, leaf, found.detach())
        return back

    seconds = bench.times({"descent": descend, "one": evaluate, "convolutions": convolutions}, warm=1)
    return [
        _ratio(
            f"{name}: mismatch, prior and slopes / convolutions",
            seconds["one"],
            seconds["convolutions"],
            target=1.3,
            at_most=True,
        ),
        _ratio(f"{name}: one with its share of a descent", seconds["descent"], seconds["convolutions"]),
        line(
            f"{name}: one of the descent",
            statistics.median(seconds["descent"]) / len(seen) * 1e3,
            "ms",
            seconds["descent"],
        ),
    ]


class Checkout:
    """`engine_case` in a process of its own, with a checkout's packages."""

    def __init__(self, root: Path, folder: Path) -> None:
        script = Path(engine_case.__file__).resolve()
        self._process = subprocess.Popen(
            # Not the script's own folder: it holds names of packages.
            [sys.executable, "-P", str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )

    def ask(self, case: str, evaluations: int) -> dict[str, Any]:
        """One answer; raises `InputError` where the process has ended."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        process.stdin.write(json.dumps({"case": case, "evaluations": evaluations}) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise InputError(f"The checkout's process ended with code {process.wait()} before it answered.")
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=60)


@contextmanager
def _both(bench: Bench, batch: int) -> Iterator[tuple[Checkout, Checkout, list[str]]]:
    """Ours, the other checkout's, and the cases: victims of `batch` faces each."""
    if bench.against is None:
        raise AssertionError("rows with a checkout are only measured with one")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cases = _write_cases(bench, folder, batch)
        ours, theirs = (
            Checkout(root, folder) for root in (Path(__file__).resolve().parents[1], bench.against)
        )
        try:
            yield ours, theirs, cases
        finally:
            ours.close()
            theirs.close()


def _write_cases(bench: Bench, folder: Path, batch: int) -> list[str]:
    """Victims of the test split at initial weights, with the mean of images of the train split."""
    root = bench.data_root
    if root is None:
        root = folder / "faces"
        write_faces(root, max(1000, 20 * batch * bench.victims), size=64)
    config = ModelConfig(kind="cnn64", image_size=bench.size or 64)
    dataset = open_celeba(root, shape=config.shape)
    state, model = initial_state(config, generator("model", 0)), build_model(config)
    mean = dataset.batch(dataset.split("train")[:PUBLIC])[0].mean(0)
    chosen, names = dataset.split("test", batch * bench.victims), []
    for at in range(0, batch * bench.victims, batch):
        images, labels = dataset.batch(chosen[at : at + batch])
        gradient = loss_gradient(model, state, (images, labels))
        tensors = {"truth": images, "public_mean": mean}
        tensors |= {f"state/{name}": value for name, value in state.parameters.items()}
        tensors |= {f"signal/{name}": value for name, value in gradient.items()}
        names.append(f"case{at}")
        facts = {"network": {"kind": "cnn64", "image_size": bench.size or 64, "classes": 2}, "lr": RATE}
        engine_case.write(folder / f"{names[-1]}.npz", facts, tensors)
    return names


def quality(bench: Bench, name: str) -> list[Line]:
    """A row: CPU seconds to a mean PSNR, over single faces, against the other checkout."""
    if bench.against is None:
        return [missing(f"{name}: ours / theirs", "x", "--against names no checkout")]
    curves: list[list[tuple[float, float]]] = [[], []]
    with _both(bench, 1) as (ours, theirs, cases):
        for evaluations in LADDER:
            answers = [[side.ask(case, evaluations) for side in (ours, theirs)] for case in cases]
            for curve, mine in zip(curves, zip(*answers, strict=True), strict=True):
                seconds = statistics.fmean(answer["cpu_s"] for answer in mine)
                curve.append((statistics.fmean(answer["psnr"][0] for answer in mine), seconds))
    lines = []
    for wanted in QUALITIES:
        costs = [cost_of(curve, wanted) for curve in curves]
        title = f"{name}: ours / theirs to {wanted:.0f} dB"
        if costs[0] is None or costs[1] is None:
            best = " and ".join(f"{max(point[0] for point in curve):.1f}" for curve in curves)
            lines.append(missing(title, "x", f"the best means are {best} dB"))
            continue
        lines += [
            line(title, costs[0] / costs[1], "x", [], target=0.5, at_most=True) | {"n": bench.victims},
            line(f"{name}: ours to {wanted:.0f} dB", costs[0], "s", []) | {"n": bench.victims},
        ]
    return lines


def cost_of(curve: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """Seconds at which a curve of (dB, seconds) first has `wanted` dB, along straight lines; None where it has not."""
    before: tuple[float, float] | None = None
    for level, seconds in curve:
        if level >= wanted:
            if before is None:
                return seconds
            share = (wanted - before[0]) / (level - before[0])
            return before[1] + share * (seconds - before[1])
        before = (level, seconds)
    return None


def batch_of_eight(bench: Bench, name: str) -> list[Line]:
    """A row: a batch by the analytic attack, CPU seconds to the other checkout's mean PSNR against its own.

    And the same with as many evaluations as it has.
    """
    if bench.against is None:
        return [missing(f"{name}: ours / theirs", "x", "--against names no checkout")]
    same: list[tuple[dict[str, Any], dict[str, Any]]] = []
    costs: list[float | None] = []
    with _both(bench, BATCH) as (ours, theirs, cases):
        for case in cases:
            other = theirs.ask(case, BATCH_EVALUATIONS)
            answers = {evaluations: ours.ask(case, evaluations) for evaluations in BATCH_LADDER}
            curve = [(statistics.fmean(answer["psnr"]), answer["cpu_s"]) for answer in answers.values()]
            costs.append(cost_of(curve, statistics.fmean(other["psnr"])))
            same.append((answers[BATCH_EVALUATIONS], other))
    seconds = [[answer["cpu_s"] for answer in side] for side in zip(*same, strict=True)]
    levels = [[v for answer in side for v in answer["psnr"]] for side in zip(*same, strict=True)]
    title = f"{name}: ours / theirs, to their mean PSNR"
    reached = [cost for cost in costs if cost is not None]
    return [
        _ratio(title, reached, seconds[1], target=0.5, at_most=True)
        if len(reached) == len(costs)
        else missing(title, "x", "ours does not come to it"),
        _ratio(f"{name}: ours / theirs, as many evaluations", *seconds),
        line(f"{name}: ours, a batch", statistics.median(seconds[0]), "s", seconds[0]),
        line(f"{name}: our mean PSNR", statistics.fmean(levels[0]), "dB", levels[0]),
        line(f"{name}: their mean PSNR", statistics.fmean(levels[1]), "dB", levels[1]),
    ]


def _ratio(
    name: str,
    above: Sequence[float],
    below: Sequence[float],
    *,
    target: float | None = None,
    at_most: bool = False,
) -> Line:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return line(name, statistics.median(ratios), "x", ratios, target=target, at_most=at_most)


ROWS: dict[str, Callable[[Bench, str], list[Line]]] = {
    "l2-1": iteration(Setting("cnn64", 64, 1, L2()), 4.5, peer=True),
    "cosine-8": iteration(Setting("cnn64", 64, 8, Cosine()), 3.0),
    "cosine-32": iteration(Setting("cnn64", 64, 32, Cosine()), 3.0),
    "lenet": iteration(Setting("lenet", 32, 1, L2()), 1.5),
    "resnet18": iteration(Setting("resnet18", 32, 1, L2()), 1.3),
    "candidates": candidates,
    "victims": victims,
    "programs": programs,
    "rounded": rounded,
    "evaluation": evaluation,
    "celeba": quality,
    "batch-8": batch_of_eight,
}
"""Each row by name; it takes its name, for its lines."""


def parse_options() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--victims", type=int, default=8)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--programs", choices=get_args(Programs), default="operations")
    parser.add_argument("--json", action="store_true")
    return parser, parser.parse_args()


def main() -> int:
    """Measure and print; exit code 1 where a target is missed."""
    parser, options = parse_options()
    try:
        bench = Bench(
            device=pick_device(options.device),
            repeats=options.repeats,
            size=options.image_size,
            against=options.against,
            data_root=options.data_root,
            victims=options.victims,
            programs=options.programs,
        )
        if why := why_not(bench.programs, bench.device.type):
            raise InputError(f"--programs {bench.programs}: {why}.")
        torch.set_num_threads(1)
        fine = True
        for name in options.rows:
            for entry in ROWS[name](bench, name):
                fine = fine and entry["ok"]
                print(json.dumps(entry) if options.json else _shown(entry), flush=True)
    except InputError as error:
        parser.error(str(error))
    return 0 if fine else 1


def _shown(entry: Line) -> str:
    if entry["value"] is None:
        return f"{entry['name']:45s} {'-':>10s}     {entry['reason']}"
    spread = f"spread {entry['spread']:.0%}" if entry["n"] > 1 and entry["spread"] else ""
    goal = "" if entry["target"] is None else f"target {entry['target']:g}"
    return (
        f"{entry['name']:45s} {entry['value']:10.3g} {entry['unit']:3s} {goal:12s} {spread:12s}"
        f"{'' if entry['ok'] else ' MISSED'}"
    ).rstrip()


if __name__ == "__main__":
    sys.exit(main())
