"""Compiled programs: the same numbers, kernels that are shared, what is refused, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor as inductor
from torch import Tensor

from attack_core.base.programs.compiled import compile_program
from attack_core.base.programs.program import Program, Values
from attack_core.base.programs.ways import no_compiler
from fl_core.base.device import cpu_threads, precision_of
from fl_core.base.errors import InputError

pytestmark = pytest.mark.skipif(no_compiler() is not None, reason="there is no C++ compiler")


@dataclass(eq=False)
class Weighed(Program):
    """A function of its input and of a tensor of its own."""

    own: Tensor
    what: Callable[[Tensor, Tensor], Tensor] = lambda x, own: (x * own).relu().sum(dim=1).exp()

    @property
    def key(self) -> Hashable:
        return id(self)

    def __call__(self, *inputs: Tensor) -> Values:
        return tuple(self.what(each, self.own) for each in inputs)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The operations of each program that is compiled, counted; temporary files go under the test's folder."""
    found: list[int] = []
    compiles = inductor.compile

    def counted(graph: Any, *args: Any, **options: Any) -> Any:
        found.append(len(graph.graph.nodes))
        return compiles(graph, *args, **options)

    monkeypatch.setattr(inductor, "compile", counted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return found


def children() -> set[str]:
    """The processes that this one has started, on Linux."""
    return {pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_compiled_program_gives_the_same_and_reads_its_tensors_where_they_are(
    compilations: list[int], tmp_path: Path
) -> None:
    program, x, before = Weighed(drawn(5)), drawn(3, 5), children()
    replay = compile_program(program, (x,))
    for number in range(3):
        new = drawn(3, 5) + number
        torch.testing.assert_close(replay((new,)), program(new), rtol=1e-6, atol=1e-6)
        program.own.mul_(0.5)
    # Strides are the compiled ones, whatever comes.
    other = drawn(5, 3).t()
    torch.testing.assert_close(replay((other,)), program(other), rtol=1e-6, atol=1e-6)
    assert len(compilations) == 1
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []
    assert children() <= before, "compiling leaves no process"


def test_programs_that_do_the_same_share_kernels(compilations: list[int]) -> None:
    one, other = Weighed(drawn(7)), Weighed(drawn(7) * 2)
    x = drawn(2, 7)
    for program in (one, other, one):
        torch.testing.assert_close(compile_program(program, (x,))((x,)), program(x), rtol=1e-6, atol=1e-6)
    assert len(compilations) == 1
    more = drawn(4, 7)
    torch.testing.assert_close(compile_program(one, (more,))((more,)), one(more), rtol=1e-6, atol=1e-6)
    with cpu_threads(torch.get_num_threads() + 1):
        compile_program(one, (x,))
    assert len(compilations) == 3, "other shapes and other threads have kernels of their own"


def test_outputs_are_the_callers_to_keep(compilations: list[int]) -> None:
    program = Weighed(drawn(3), lambda x, _: x)
    replay = compile_program(program, (drawn(2, 3),))
    (first,) = replay((torch.ones(2, 3),))
    (second,) = replay((torch.zeros(2, 3),))
    assert (float(first.sum()), float(second.sum())) == (6.0, 0.0)
    own = compile_program(Weighed(torch.ones(3), lambda _, own: own), (drawn(2, 3),))((drawn(2, 3),))[0]
    assert own.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "what",
    [
        lambda x, own: x * own * torch.from_numpy(x.detach().numpy().std(axis=1, keepdims=True)),
        lambda x, own: x * own * x.tolist()[0][0],
        lambda x, own: x * own * (2.0 if x.detach().numpy().sum() > 0 else 3.0),
    ],
    ids=["an array", "a list", "a decision"],
)
def test_numbers_that_the_trace_does_not_see_are_found_out(what: Callable[[Tensor, Tensor], Tensor]) -> None:
    program = Weighed(drawn(3), what)
    with pytest.raises(InputError, match="cannot be compiled on this network: it reads numbers of its input"):
        compile_program(program, (drawn(2, 3).abs(),))


def test_kernels_are_tried_on_the_real_tensors() -> None:
    program, x = Weighed(2 * torch.eye(3), lambda x, own: x @ torch.linalg.inv(own)), drawn(2, 3)
    torch.testing.assert_close(compile_program(program, (x,))((x,))[0], x / 2)


def test_a_compiler_that_fails_is_no_fault_of_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, x = Weighed(drawn(11)), drawn(2, 11)
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    broken = tmp_path / "broken folder"
    broken.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(broken))
        with pytest.raises(
            InputError, match=r"The temporary folder '.*broken folder' has a space in its name.*TMPDIR"
        ):
            compile_program(program, (x,))
    with monkeypatch.context() as patched:
        patched.setattr(inductor, "compile", failing)
        with pytest.raises(
            InputError, match=r"PyTorch cannot compile this attack here: x\.cpp:3:1: error: no memory; run"
        ):
            compile_program(program, (x,))
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before


def failing(*_: Any, **__: Any) -> None:
    raise RuntimeError(
        "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\nx.cpp:3:1: error: no memory\nmore"
    )


def test_no_text_of_a_trace_is_kept(compilations: list[int]) -> None:
    from torch.fx import graph_module

    before = set(graph_module._loader.eval_cache)
    program, x = Weighed(drawn(5)), drawn(3, 5)
    for _ in range(2):
        compile_program(program, (x,))
    assert set(graph_module._loader.eval_cache) <= before
    assert len(compilations) <= 1


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x, own: x * float(own.sum()), "get value out of a tracing tensor"),
        (lambda x, own: x if x.sum() > 0 else own, "get value out of a tracing tensor|data-dependent"),
        (lambda x, _: x[x > 0], "the shape of what aten.index.Tensor gives depends on its numbers"),
        (lambda _, own: own.nonzero(), "the shape of what aten.nonzero.default gives depends on its numbers"),
        (lambda x, _: torch.dropout(x, 0.5, True), "draws random numbers"),
    ],
    ids=["a number", "a decision", "a mask", "places", "chance"],
)
def test_what_is_not_the_same_each_time_is_refused(
    what: Callable[[Tensor, Tensor], Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        compile_program(Weighed(drawn(3), what), (drawn(2, 3),))
    assert str(refused.value).startswith("This attack cannot be compiled on this network: ")
    assert str(refused.value).endswith("; run it without, as by execution.programs: operations.")


def test_a_tensor_whose_numbers_share_memory(compilations: list[int]) -> None:
    program, x = Weighed(torch.tensor([2.0]).expand(3)), drawn(2, 3)
    torch.testing.assert_close(compile_program(program, (x,))((x,)), program(x))


def test_numbers_by_places_are_compiled(compilations: list[int]) -> None:
    program = Weighed(torch.tensor([2, 0]), lambda x, own: x[:, own] * 2)
    x = drawn(2, 3)
    torch.testing.assert_close(compile_program(program, (x,))((x,))[0], x[:, [2, 0]] * 2, rtol=0, atol=0)


def test_products_in_bfloat16_are_not_compiled() -> None:
    with (
        precision_of("bf16"),
        pytest.raises(InputError, match="cannot be compiled with products in bfloat16"),
    ):
        compile_program(Weighed(drawn(3)), (drawn(2, 3),))


def test_memory_that_runs_out_is_no_fault_of_the_input() -> None:
    def full(x: Tensor, own: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        compile_program(Weighed(drawn(3), full), (drawn(2, 3),))


def test_the_compiler_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert no_compiler() == "the C++ compiler 'no-such-compiler' is not found"
    monkeypatch.setenv("CXX", shutil.which("false") or "false")
    assert str(no_compiler()).endswith("false' does not work: 1")
