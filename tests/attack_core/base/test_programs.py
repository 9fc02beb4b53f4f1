"""Programs that run often are recorded once: which, when, and that a recording is kept no longer than it is used."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from attack_core.base.programs.cuda_graphs import CudaGraphs
from attack_core.base.programs.program import Program, Values, as_it_is
from attack_core.base.programs.recorded import Recorded, RecordingLimits
from fl_core.base.errors import InputError
from tests.support.recorded import ReadsANumber, Recorder, recorded


@dataclass(eq=False)
class Scaled(Program):
    """Its input times a number; counts how often it runs."""

    factor: float
    runs: list[float] = field(default_factory=list)

    @property
    def key(self) -> Hashable:
        return id(self)

    def __call__(self, *inputs: Tensor) -> Values:
        self.runs.append(self.factor)
        return tuple(each * self.factor for each in inputs)


def numbers(*values: float) -> Values:
    return (torch.tensor(values),)


def test_a_program_is_recorded_after_so_many_runs_and_gives_the_same() -> None:
    recorder, program = Recorder(), Scaled(3.0)
    run = Recorded(recorder, RecordingLimits(after=2))
    for turn in range(6):
        (found,) = run(program, numbers(1.0, turn))
        torch.testing.assert_close(found, torch.tensor([3.0, 3.0 * turn]), rtol=0, atol=0)
        assert len(recorder.programs) == (turn >= 2)
    # Twice as it is, and once while it was recorded.
    assert len(program.runs) == 3


def test_outputs_are_the_callers_to_keep() -> None:
    run, program = Recorded(recorded, RecordingLimits(after=0)), Scaled(2.0)
    (first,) = run(program, numbers(1.0))
    (second,) = run(program, numbers(5.0))
    assert (float(first), float(second)) == (2.0, 10.0)


def test_other_programs_and_other_shapes_have_recordings_of_their_own() -> None:
    recorder, double, triple = Recorder(), Scaled(2.0), Scaled(3.0)
    run = Recorded(recorder, RecordingLimits(after=0))
    for _ in range(2):
        assert float(run(double, numbers(1.0))[0]) == 2.0
        assert float(run(triple, numbers(1.0))[0]) == 3.0
        assert run(double, numbers(1.0, 4.0))[0].tolist() == [2.0, 8.0]
    assert recorder.programs == [double, triple, double]


def test_the_program_that_has_not_run_for_longest_is_forgotten() -> None:
    recorder, (one, two, three) = Recorder(), (Scaled(1.0), Scaled(2.0), Scaled(3.0))
    run = Recorded(recorder, RecordingLimits(after=1, kept=2))
    for program in (one, two, one, two):
        run(program, numbers(1.0))
    assert recorder.programs == [one, two]
    for program in (three, two, three, one, one):
        run(program, numbers(1.0))
    # The second was still there, the first had to be recorded again.
    assert recorder.programs == [one, two, three, one]


def test_programs_that_take_turns_and_are_too_many_run_as_they_are() -> None:
    recorder, programs = Recorder(), [Scaled(float(i)) for i in range(3)]
    run = Recorded(recorder, RecordingLimits(after=1, kept=2))
    for program in programs * 5:
        run(program, numbers(1.0))
    assert recorder.programs == []


def test_as_it_is() -> None:
    assert float(as_it_is(Scaled(2.0), numbers(4.0))[0]) == 8.0


class Cuda:
    """What `torch.cuda` offers for graphs, without a GPU: a recording fails as the program does, and at its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream: object = "the caller's"
        for name in ("graph_pool_handle", "CUDAGraph", "current_stream", "device", "graph", "set_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

    def graph_pool_handle(self) -> tuple[int, int]:
        return (0, 1)

    def current_stream(self, _: object) -> object:
        return self.stream

    def set_stream(self, stream: object) -> None:
        self.stream = stream

    class CUDAGraph:
        def replay(self) -> None:
            raise AssertionError("nothing was recorded")

    class device:  # the library's name
        def __init__(self, _: object) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    def graph(self, _: object, *, pool: object) -> Recording:
        assert pool == (0, 1)
        return Recording(self)


@dataclass
class Recording:
    cuda: Cuda

    def __enter__(self) -> None:
        self.cuda.stream = "the recording's"

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


class Failing(Scaled):
    def __init__(self, error: Exception) -> None:
        super().__init__(1.0)
        self.error = error

    def __call__(self, *inputs: Tensor) -> Values:
        raise self.error


def test_what_cannot_be_recorded_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    run = Recorded(CudaGraphs(), RecordingLimits(after=0))
    reads = Failing(RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore"))
    message = (
        r"CUDA graph on this network: .*not permitted when stream is capturing; run it without.*operations"
    )
    with pytest.raises(InputError, match=message):
        run(reads, numbers(1.0))
    assert cuda.stream == "the caller's"
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        run(Failing(torch.OutOfMemoryError("no memory")), numbers(1.0))


class Doing(Scaled):
    """Does something else besides."""

    def __init__(self, what: Callable[[Tensor], object]) -> None:
        super().__init__(1.0)
        self.what = what

    def __call__(self, *inputs: Tensor) -> Values:
        self.what(inputs[0])
        return super().__call__(*inputs)


@pytest.mark.parametrize(
    "what",
    [
        lambda x: float(x.sum()),
        lambda x: bool(x[0] > 0),
        lambda x: x[[1, 0]],
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0, 2.0, 3.0]) + x,
    ],
    ids=["a number", "a decision", "a list as an index", "a mask", "places", "numbers of Python's"],
)
def test_the_stand_in_refuses_what_a_recording_would(what: Callable[[Tensor], object]) -> None:
    with pytest.raises(ReadsANumber):
        recorded(Doing(what), (torch.arange(3.0),))
