"""What secure sums cost: whole updates, every number through the real scheme, on all cores.

python benchmarks/crypto.py [--only NAME...] [--workers N] [--device cpu] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import result_line
import torch
from torch import Tensor

from defenses.encrypted_sum import estimate, local_cores, local_pool
from defenses.encryption import CKKS, Paillier
from defenses.masking import Masking
from defenses.secure_sum import SecureSum, Summed
from defenses.selective import most_sensitive, selective_sum, sensitivity
from fl_core.errors import InputError
from fl_core.models import ModelConfig, build_model, initial_state
from fl_core.rng import generator

Line = dict[str, object]


class Updates(Mapping[int, dict[str, Tensor]]):
    """Updates of a network's size, drawn when they are asked for, so that a hundred need no memory."""

    def __init__(self, config: ModelConfig, clients: int) -> None:
        state = initial_state(config, generator("shapes"))
        self._shapes = {name: value.shape for name, value in {**state.parameters, **state.buffers}.items()}
        self._clients = clients

    def __getitem__(self, client: int) -> dict[str, Tensor]:
        if not 0 <= client < self._clients:
            raise KeyError(client)
        random = generator("update", client)
        return {name: 0.01 * torch.randn(shape, generator=random) for name, shape in self._shapes.items()}

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._clients))

    def __len__(self) -> int:
        return self._clients


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scheme on one network; `precision` gives the target of the rounding error."""

    scheme: SecureSum
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


def run_case(name: str, workers: int) -> list[Line]:
    """A whole sum, with a progress line on the terminal's error stream."""
    case = CASES[name]
    updates = Updates(case.model, case.clients)
    started = time.perf_counter()
    with local_pool(workers) as pool:
        session = case.scheme.setup(range(case.clients))
        summed = session.sum(updates, executor=pool, progress=progress(name))
    wall = time.perf_counter() - started
    what = f"{name}, {case.model.kind}, {case.clients} clients, {workers} workers"
    return [line(f"{what}: wall time", wall, "s"), *cost_lines(what, summed, case)]


def cost_lines(what: str, summed: Summed, case: Case) -> list[Line]:
    """The record of a sum, one line a figure."""
    cost = summed.cost
    bound = case.clients * 0.5 / case.precision
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1e3 if sys.platform == "linux" else 1e6
    return [
        line(f"{what}: values", cost.values, ""),
        line(f"{what}: upload a client", cost.bytes_up / 1e6, "MB"),
        line(f"{what}: setup, CPU", cost.setup_seconds, "s"),
        line(f"{what}: protect a client, CPU", cost.protect_seconds, "s"),
        line(f"{what}: add, CPU", cost.add_seconds, "s"),
        line(f"{what}: reveal, CPU", cost.reveal_seconds, "s"),
        line(f"{what}: largest rounding error", cost.rounding_error, "", target=bound),
        line(f"{what}: peak memory of the driver so far", peak / unit, "MB"),
    ]


def run_dropouts() -> list[Line]:
    """Ten clients on cnn64 of which three drop out after the exchange of shares."""
    case = CASES["masking10"]
    updates = Updates(case.model, case.clients)
    stay = {client: updates[client] for client in range(3, 10)}
    started = time.perf_counter()
    summed = case.scheme.setup(range(case.clients)).sum(stay, progress=progress("dropouts"))
    what = "masking, cnn64, 10 clients of which 3 drop out, 1 worker"
    wall = line(f"{what}: wall time", time.perf_counter() - started, "s")
    return [wall, *cost_lines(what, summed, case)]


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
    with local_pool(workers) as pool:
        session = case.scheme.setup(range(case.clients))
        summed, visible = selective_sum(session, Updates(case.model, case.clients), masks, executor=pool)
    what = f"ckks for a tenth, cnn64, {case.clients} clients, {workers} workers"
    return [
        line(f"{what}: sensitivity map of 4 images", mapped, "s"),
        line(f"{what}: visible in the clear", visible.fraction * 100, "%"),
        line(f"{what}: wall time", time.perf_counter() - started, "s"),
        *cost_lines(what, summed, case),
    ]


def run_estimates(workers: int) -> list[Line]:
    """What Paillier would take on larger networks, from measured blocks; nothing of it is run."""
    lines = []
    for model, clients in (
        (ModelConfig(kind="mlp", image_size=64), 10),
        (ModelConfig(kind="cnn64"), 10),
    ):
        session = Paillier().setup(range(clients))
        state = initial_state(model, generator("shapes"))
        values = sum(value.numel() for value in state.parameters.values())
        found = [estimate(session, values, workers=workers) for _ in range(5)]
        what = f"paillier estimate, {model.kind}, {clients} clients, {workers} workers"
        lines += [
            line(f"{what}: wall time", [each.seconds for each in found], "s"),
            line(f"{what}: upload a client", found[0].bytes_up / 1e6, "MB"),
        ]
    return lines


def progress(name: str) -> Callable[[int, int], None]:
    """A line that overwrites itself where somebody is watching."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr)

    return show


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
