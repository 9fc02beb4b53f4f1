"""Client simulation: any cut of a round gives the mean, any workers the same bits, and memory does not grow."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses.chain import Chain
from defenses.dp.local import DPUpdate
from fl_core.base.errors import InputError
from fl_core.base.rng import Random, generator
from fl_core.base.shape import ImageShape
from fl_core.base.types import ClientUpdate, Tensors
from fl_core.data.dataset import ImageDataset, PictureFiles
from fl_core.data.kinds.celeba import open_celeba
from fl_core.federation.aggregation import Change, FedAvg, Unprepared, WeightedSum
from fl_core.federation.client import LocalTraining
from fl_core.federation.federation import Federation
from fl_core.federation.hooks import Undefended
from fl_core.federation.rounds import FederationConfig
from fl_core.federation.simulator import ClientWork, InProcess, Simulator
from fl_core.federation.training import run, train
from fl_core.models.build import initial_state
from fl_core.models.config import ModelConfig
from orchestrator.execute.execute import Done, Executor, SerialExecutor, make_executor
from orchestrator.execute.simulation import AHEAD, PooledSimulator, simulate
from orchestrator.io.identity import tensor_hash
from tests.support.federations import make_federation

LENET = ModelConfig(kind="lenet", image_size=16)
DEFENSE = Chain(defenses=(DPUpdate(epsilon=50.0),)).clients(seed=1, plan=FederationConfig(rounds=3))


def federation_of(
    dataset: ImageDataset, *, clients: int = 12, fraction: float = 0.75, **changes: Any
) -> Federation:
    """Nine of twelve clients a round in chunks of two: five chunks, the last of one."""
    fields: dict[str, Any] = {
        "model": LENET,
        "chunk": 2,
        "batch_size": 2,
        "momentum_state": "fresh",
    } | changes
    model, chunk = fields.pop("model"), fields.pop("chunk")
    config = FederationConfig(
        clients=clients, fraction=fraction, chunk=chunk, local=LocalTraining(lr=0.05, **fields)
    )
    return make_federation(dataset, model=model, train=48, config=config)


def variants(root: Path) -> dict[str, ClientWork]:
    """Federations that keep different things between chunks and rounds."""
    small, large = (open_celeba(root, shape=ImageShape.square(size)) for size in (16, 32))
    norm = ModelConfig(kind="resnet18", image_size=32, batch_norm="train")
    return {
        "plain": ClientWork(federation=federation_of(small)),
        "dp": ClientWork(federation=federation_of(small), defense=DEFENSE),
        "momentum": ClientWork(federation=federation_of(small, momentum_state="persistent")),
        "buffers": ClientWork(federation=federation_of(large, clients=4, model=norm, chunk=1, max_steps=1)),
    }


def hashes(clients: Simulator, rounds: int = 2) -> list[str]:
    """Of the weights after each round."""
    state = initial_state(clients.work.federation.model, generator("model", 0))
    return [
        tensor_hash(result.state.parameters, result.state.buffers)
        for result in train(clients, state, rounds=rounds)
    ]


def update(values: Sequence[float], examples: int, client: int = 0) -> ClientUpdate:
    return ClientUpdate(
        client=client,
        tensors={"w": torch.tensor(values)},
        buffers={"seen": torch.tensor([examples])},
        examples=examples,
        steps=1,
        lr=0.1,
        momentum=0.0,
    )


@given(
    parts=st.lists(
        st.tuples(
            st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), st.integers(1, 500), st.booleans()
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_cut_into_chunks_gives_the_weighted_mean(parts: list[tuple[list[float], int, bool]]) -> None:
    reduction, merged = FedAvg(), FedAvg().start(0, ())
    partial = reduction.start(0, ())
    for values, examples, cut in parts:
        partial = reduction.add(partial, update(values, examples))
        if cut:
            merged, partial = reduction.merge(merged, partial), reduction.start(0, ())
    change = reduction.finish(reduction.merge(merged, partial))
    weights = torch.tensor([examples for _, examples, _ in parts], dtype=torch.float64)
    values = torch.tensor([values for values, _, _ in parts], dtype=torch.float64)
    expected = (values * weights[:, None]).sum(0) / weights.sum()
    assert float((change.tensors["w"].double() - expected).abs().max()) <= 1e-6
    mean = float((weights * weights).sum() / weights.sum())
    assert float(change.buffers["seen"]) == pytest.approx(mean, rel=1e-6), "a counter has a mean too"


def test_updates_are_left_as_they_were_and_the_mean_of_none_is_refused() -> None:
    first, second, reduction = update([1.0], 2), update([4.0], 1), FedAvg()
    partial = reduction.add(reduction.add(reduction.start(0, ()), first), second)
    assert reduction.finish(partial).tensors["w"].tolist() == [2.0]
    assert (first.tensors["w"].tolist(), second.tensors["w"].tolist()) == ([1.0], [4.0])
    with pytest.raises(ValueError, match="mean of no update"):
        reduction.finish(reduction.start(0, ()))


def test_a_rounds_chunks_are_its_participants_in_order(faces: ImageDataset) -> None:
    federation = federation_of(faces)
    chunks = federation.chunks(1)
    assert [len(chunk.clients) for chunk in chunks] == [2, 2, 2, 2, 1]
    assert len(chunks) == federation.config.chunks_per_round
    chosen = federation.participants(1)
    assert [client for chunk in chunks for client in chunk.clients] == chosen
    assert {(chunk.round, chunk.participants) for chunk in chunks} == {(1, tuple(chosen))}
    with pytest.raises(InputError, match=r"FederationConfig.chunk = 0: must be at least 1"):
        FederationConfig(chunk=0)


def test_the_chunk_size_changes_rounding_alone(faces: ImageDataset) -> None:
    ends = []
    for chunk in (1, 4, 100):
        federation = federation_of(faces, chunk=chunk)
        *_, last = run(federation, initial_state(LENET, generator("model", 0)), rounds=2, defense=DEFENSE)
        ends.append(last.state.parameters)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(ends[0], ends[2], rtol=0, atol=1e-6)


class Backwards(SerialExecutor):
    """As an executor of several workers: of all that is out, the job that came last is finished first."""

    capacity = 3
    most = 0

    def next_done(self, timeout: float) -> Done | None:
        self.most = max(self.most, self.in_flight)
        self._queue.rotate(1)
        return super().next_done(timeout)


@pytest.mark.parametrize("name", ["plain", "dp", "momentum", "buffers"])
def test_the_order_in_which_chunks_come_back_changes_no_bit(faces_root: Path, name: str) -> None:
    work, executor = variants(faces_root)[name], Backwards()
    assert hashes(PooledSimulator(executor, work, threads=1)) == hashes(InProcess(work))
    assert 1 < executor.most <= AHEAD * executor.capacity
    assert executor.in_flight == 0


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2])
def pool(request: pytest.FixtureRequest) -> Iterator[Executor]:
    executor = make_executor("local", workers=request.param, threads=1)
    yield executor
    executor.close()


@pytest.mark.parametrize("name", ["plain", "dp", "momentum", "buffers"])
def test_ray_gives_the_serial_bits(pool: Executor, faces_root: Path, name: str) -> None:
    work = variants(faces_root)[name]
    clients, rounds = PooledSimulator(pool, work, threads=1), 1 if name == "buffers" else 2
    assert hashes(clients, rounds) == hashes(InProcess(work), rounds)
    state = initial_state(work.federation.model, generator("model", 0))
    held_out = list(range(96)) * 4
    assert clients.correct(state, held_out) == work.federation.correct(state, held_out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fatal(Undefended):
    """A defense that notes who trained, and once, at `victim`, ends its process as the kernel would."""

    folder: Path
    victim: int

    def on_update(
        self, update: ClientUpdate, residual: Tensors, random: Random
    ) -> tuple[ClientUpdate, Tensors]:
        with (self.folder / "trained").open("a") as log:
            log.write(f"{update.client} ")
        marker = self.folder / "killed"
        if update.client == self.victim and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return update, residual


def test_a_killed_worker_costs_only_its_chunk(pool: Executor, faces: ImageDataset, tmp_path: Path) -> None:
    federation = federation_of(faces)
    chunks = federation.chunks(0)
    lost = chunks[2].clients
    work = ClientWork(federation=federation, defense=Fatal(folder=tmp_path, victim=lost[1]))
    undisturbed = hashes(InProcess(ClientWork(federation=federation)), rounds=1)
    assert hashes(PooledSimulator(pool, work, threads=1), rounds=1) == undisturbed
    assert (tmp_path / "killed").exists()
    trained = [int(client) for client in (tmp_path / "trained").read_text().split()]
    assert sorted(trained) == sorted([*chunks[0].participants, *lost])


def test_a_workers_input_error_reaches_the_caller(
    pool: Executor, faces: ImageDataset, tmp_path: Path
) -> None:
    gone = dataclasses.replace(faces, source=PictureFiles(folder=tmp_path, names=faces.names))
    clients = PooledSimulator(pool, ClientWork(federation=federation_of(gone)), threads=1)
    with pytest.raises(InputError, match="the image is gone"):
        hashes(clients)
    while pool.in_flight:
        pool.next_done(1.0)


class Census:
    """Counts how many of the objects it is shown are alive at the same time."""

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    def see(self, value: Any) -> Any:
        self._alive.add(value)
        self.most = max(self.most, len(self._alive))
        return value


class Numbered(ClientUpdate):
    """A client update that can be held in a weak set: compared and hashed by identity."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


@dataclasses.dataclass(eq=False)
class Tracked:
    inner: WeightedSum


@dataclasses.dataclass
class Counting(Unprepared):
    """FedAvg that shows every partial to a census."""

    census: Census

    def start(self, round_number: int, participants: Sequence[int]) -> Tracked:
        return self.census.see(Tracked(FedAvg().start(round_number, participants)))

    def add(self, partial: Tracked, released: ClientUpdate) -> Tracked:
        partial.inner = FedAvg().add(partial.inner, released)
        return partial

    def merge(self, left: Tracked, right: Tracked) -> Tracked:
        return self.census.see(Tracked(FedAvg().merge(left.inner, right.inner)))

    def finish(self, partial: Tracked) -> Change:
        return FedAvg().finish(partial.inner)


def alive(dataset: ImageDataset, participants: int, *, pooled: bool) -> tuple[int, int]:
    """The most updates and the most partials that live at the same time in a round."""
    updates, partials = Census(), Census()

    class Shown(Undefended):
        def on_update(
            self, update: ClientUpdate, residual: Tensors, random: Random
        ) -> tuple[ClientUpdate, Tensors]:
            fields = {field.name: getattr(update, field.name) for field in dataclasses.fields(update)}
            return updates.see(Numbered(**fields)), residual

    federation = federation_of(dataset, clients=participants, fraction=1.0)
    work = ClientWork(federation=federation, defense=Shown(), reduction=Counting(partials))
    clients = PooledSimulator(SerialExecutor(), work, threads=1) if pooled else InProcess(work)
    gc.disable()  # Nothing may wait for the collector: large tensors would wait with it.
    try:
        hashes(clients, rounds=1)
    finally:
        gc.enable()
    return updates.most, partials.most


@pytest.mark.parametrize("pooled", [False, True])
def test_memory_does_not_grow_with_the_participants(faces: ImageDataset, pooled: bool) -> None:
    few, many = alive(faces, 6, pooled=pooled), alive(faces, 48, pooled=pooled)
    assert many == few
    assert few[0] == 1, "one update at a time"
    assert few[1] <= 3, "the merged one, the one that grows, and their sum"


def test_momentum_is_kept_for_those_alone_who_need_it(faces: ImageDataset) -> None:
    for kind, kept in (("fresh", False), ("persistent", True)):
        federation = federation_of(faces, momentum_state=kind)
        chunk = federation.chunks(0)[0]
        state = initial_state(LENET, generator("model", 0))
        reduced = ClientWork(federation=federation).reduce(state, chunk, {})
        assert set(reduced.memories) == (set(chunk.clients) if kept else set())


def test_rounds_of_one_chunk_start_no_executor(faces: ImageDataset) -> None:
    def never() -> Executor:
        raise AssertionError("an executor was started for nothing")

    alone = ClientWork(federation=federation_of(faces, chunk=9))
    assert isinstance(simulate(alone, never, threads=1), InProcess)
    spread = ClientWork(federation=federation_of(faces))
    assert isinstance(simulate(spread, SerialExecutor, threads=1), PooledSimulator)
