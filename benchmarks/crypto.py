"""What secure sums cost: whole updates, every number through the real scheme, on all cores.

python benchmarks/crypto.py [--only NAME...] [--workers N] [--device cpu] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import result_line
import torch
from torch import Tensor

from defenses.he.cost import estimate, local_cores
from defenses.he.encryption import CKKS, Paillier
from defenses.masking.masking import Masking
from defenses.secure.mean import ProtectedSum, SecureMean
from defenses.secure.protection import SumProtection
from defenses.secure.sensitivity import most_sensitive, sensitivity
from fl_core.base.errors import InputError
from fl_core.base.rng import generator
from fl_core.base.types import ClientUpdate, Tensors
from fl_core.models.build import build_model, initial_state
from fl_core.models.config import ModelConfig

Line = dict[str, object]


def update(config: ModelConfig, client: int) -> ClientUpdate:
    """An update of a network's size, drawn where it is protected, so that a hundred clients need no memory."""
    state = initial_state(config, generator("shapes"))
    random = generator("update", client)

    def drawn(tensors: Tensors) -> dict[str, Tensor]:
        return {name: 0.01 * torch.randn(value.shape, generator=random) for name, value in tensors.items()}

    return ClientUpdate(
        client=client,
        tensors=drawn(state.parameters),
        buffers=drawn(state.buffers),
        examples=1,
        steps=1,
        lr=0.1,
        momentum=0.0,
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scheme on one network; `precision` gives the target of the rounding error."""

    scheme: SumProtection
    model: ModelConfig
    clients: int
    precision: int


CASES = {
    "ckks": Case(scheme=CKKS(), model=ModelConfig(), clients=10, precision=CKKS().precision),
    "masking10": Case(scheme=Masking(), model=ModelConfig(), clients=10, precision=Masking().precision),
    "masking100": Case(scheme=Masking(), model=ModelConfig(), clients=100, precision=Masking().precision),
    "paillier-lenet": Case(
        scheme=Paillier(), model=ModelConfig(kind="lenet"), clients=10, precision=Paillier().precision
    ),
    "paillier-mlp": Case(
        scheme=Paillier(),
        model=ModelConfig(kind="mlp", image_size=16),
        clients=2,
        precision=Paillier().precision,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Round:
    """A round that was run: who is in the sum, its running sum, and CPU seconds of keys, addition and opening."""

    partial: ProtectedSum
    bytes_up: int
    setup_seconds: float
    reveal_seconds: float
    rounding_error: float


def partial_sum(mean: SecureMean, model: ModelConfig, clients: Sequence[int]) -> ProtectedSum:
    """What a worker does: protect and add its clients, one after another."""
    torch.set_num_threads(1)
    partial = mean.start(0, clients)
    for client in clients:
        partial = mean.add(partial, update(model, client))
    return partial


def run_round(
    mean: SecureMean, model: ModelConfig, clients: Sequence[int], there: Sequence[int], workers: int
) -> Round:
    """One round of `clients`, of whom those in `there` upload; as sweeps spread it over workers."""
    whole = mean.prepare(0, dict.fromkeys(clients, 1))
    chunks = [list(there[worker::workers]) for worker in range(min(workers, len(there)))]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(partial_sum, whole.for_clients(chunk), model, chunk) for chunk in chunks]
        merged = jobs.pop(0).result()
        while jobs:
            merged = whole.merge(merged, jobs.pop(0).result())
    started = time.process_time()
    change = whole.finish(merged)
    revealing = time.process_time() - started
    return Round(
        partial=merged,
        bytes_up=merged.bytes_up,
        setup_seconds=whole.prepared.exchange.setup_seconds if whole.prepared else 0.0,
        reveal_seconds=revealing,
        rounding_error=rounding_error(change.tensors, model, there),
    )


def rounding_error(mean: Tensors, model: ModelConfig, clients: Sequence[int]) -> float:
    """The largest distance of a number of the opened mean from the mean in float64."""
    exact = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in mean.items()}
    for client in clients:
        for name, value in update(model, client).tensors.items():
            exact[name] += value.double() / len(clients)
    return max(float((value.double() - exact[name]).abs().max()) for name, value in mean.items())


def run_case(name: str, workers: int) -> list[Line]:
    """A whole round of one case."""
    case = CASES[name]
    clients = range(case.clients)
    started = time.perf_counter()
    done = run_round(SecureMean(scheme=case.scheme), case.model, clients, clients, workers)
    wall = time.perf_counter() - started
    what = f"{name}, {case.model.kind}, {case.clients} clients, {workers} workers"
    return [line(f"{what}: wall time", wall, "s"), *cost_lines(what, done, case)]


def cost_lines(what: str, done: Round, case: Case) -> list[Line]:
    """The record of a round, one line a figure."""
    bound = 0.5 / case.precision + 2e-8  # Half a step, and the rounding of the mean to float32.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1e3 if sys.platform == "linux" else 1e6
    partial = done.partial
    return [
        line(f"{what}: upload a client", done.bytes_up / 1e6, "MB"),
        line(f"{what}: setup, CPU", done.setup_seconds, "s"),
        line(f"{what}: protect a client, CPU", partial.protect_seconds / len(partial.clients), "s"),
        line(f"{what}: add, CPU", partial.add_seconds, "s"),
        line(f"{what}: reveal, CPU", done.reveal_seconds, "s"),
        line(f"{what}: largest rounding error", done.rounding_error, "", target=bound),
        line(f"{what}: peak memory of the driver so far", peak / unit, "MB"),
    ]


def run_dropouts() -> list[Line]:
    """Ten clients on cnn64 of which three drop out after the exchange of shares."""
    case = CASES["masking10"]
    started = time.perf_counter()
    done = run_round(SecureMean(scheme=case.scheme), case.model, range(10), range(3, 10), 1)
    what = "masking, cnn64, 10 clients of which 3 drop out, 1 worker"
    wall = line(f"{what}: wall time", time.perf_counter() - started, "s")
    return [wall, *cost_lines(what, done, case)]


def run_selective(workers: int) -> list[Line]:
    """CKKS for the most sensitive tenth of cnn64, ten clients."""
    case = CASES["ckks"]
    state = initial_state(case.model, generator("weights"))
    images = torch.rand((4, 3, 64, 64), generator=generator("public")) * 2 - 1
    started = time.perf_counter()
    map_ = sensitivity(build_model(case.model), state, images, torch.tensor([0, 1, 0, 1]))
    masks = most_sensitive(map_, 0.1)
    mapped = time.perf_counter() - started
    started = time.perf_counter()
    clients = range(case.clients)
    mean = SecureMean(scheme=case.scheme, hidden=masks)
    done = run_round(mean, case.model, clients, clients, workers)
    what = f"ckks for a tenth, cnn64, {case.clients} clients, {workers} workers"
    return [
        line(f"{what}: sensitivity map of 4 images", mapped, "s"),
        line(f"{what}: wall time", time.perf_counter() - started, "s"),
        *cost_lines(what, done, case),
    ]


def run_estimates(workers: int) -> list[Line]:
    """What Paillier would take on larger networks, from measured blocks; nothing of it is run."""
    lines = []
    for model, clients in (
        (ModelConfig(kind="mlp", image_size=64), 10),
        (ModelConfig(kind="cnn64"), 10),
    ):
        exchange = Paillier().exchange(range(clients))
        state = initial_state(model, generator("shapes"))
        values = sum(value.numel() for value in state.parameters.values())
        found = [estimate(exchange, values, clients=clients, workers=workers) for _ in range(5)]
        what = f"paillier estimate, {model.kind}, {clients} clients, {workers} workers"
        lines += [
            line(f"{what}: wall time", [each.seconds for each in found], "s"),
            line(f"{what}: upload a client", found[0].bytes_up / 1e6, "MB"),
        ]
    return lines


def line(name: str, value: float | list[float], unit: str, *, target: float | None = None) -> Line:
    """One result, the median, which a target bounds from above."""
    values = value if isinstance(value, list) else [value]
    return result_line.line(name, statistics.median(values), unit, values, target=target, at_most=True)


def main() -> int:
    """Measure and print; exit code 1 where a sum is less exact than it has to be."""
    workers = local_cores()
    parts: dict[str, Callable[[int], list[Line]]] = {
        name: lambda workers, name=name: run_case(name, workers)  # type: ignore[misc]
        for name in CASES
    }
    parts |= {
        "dropouts": lambda _: run_dropouts(),
        "selective": run_selective,
        "estimates": run_estimates,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--workers", type=int, default=workers)
    parser.add_argument("--device", choices=["cpu"], default="cpu", help="ciphertexts are made on the CPU")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    for name in options.only:
        try:
            entries = parts[name](options.workers)
        except InputError as error:  # A library that is not there.
            entries = [result_line.missing(name, "", str(error))]
        for entry in entries:
            good &= bool(entry["ok"])
            if options.json:
                print(json.dumps(entry), flush=True)
            elif entry["value"] is None:
                print(f"{entry['name']}: {entry['reason']}")
            else:
                print(
                    f"{entry['name']:85s} {entry['value']:12.4g} {entry['unit']}{'' if entry['ok'] else ' MISSED'}"
                )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
