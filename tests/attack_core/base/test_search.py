"""Searches side by side: whose questions are answered together, and how each ends."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import pytest

from attack_core.base.programs.program import Runner
from attack_core.base.search import Question, Search, alone, asked, side_by_side

asked_together: list[list[int]] = []


@dataclass(frozen=True)
class Square(Question[int]):
    """Asks for a number's square; multiples of seven break."""

    number: int
    family: str | None = "squares"
    table: list[int] = field(default_factory=list)

    @property
    def kin(self) -> Hashable | None:
        return self.family

    @property
    def ground(self) -> object:
        return self.table

    @classmethod
    def answers(cls, questions: Sequence[Square], runner: Runner) -> list[int]:  # noqa: ARG003
        asked_together.append([question.number for question in questions])
        if any(question.number % 7 == 0 for question in questions):
            raise ArithmeticError("seven")
        return [question.number**2 for question in questions]


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    asked_together.clear()


def summing(numbers: Sequence[int], **options: object) -> Search[int]:
    total = 0
    for number in numbers:
        total += yield from asked(Square(number, **options))  # type: ignore[arg-type]
    return total


def test_what_waits_is_answered_at_once_and_the_longer_one_goes_on() -> None:
    ended = side_by_side([summing([1, 2]), summing([3]), summing([4, 5, 6])])
    assert [each.result() for each in ended] == [5, 9, 77]
    assert asked_together == [[1, 3, 4], [2, 5], [6]]


def test_searches_that_ask_nothing_end_at_once() -> None:
    assert [each.result() for each in side_by_side([summing([]), summing([])])] == [0, 0]
    assert alone(summing([])) == 0


def test_other_kin_and_other_ground_are_answered_apart() -> None:
    searches = [
        summing([1]),
        summing([2], family="others"),
        summing([3], table=[9]),
        summing([4], table=[9]),
        summing([5], family=None),
        summing([6], family=None),
    ]
    assert [each.result() for each in side_by_side(searches)] == [1, 4, 9, 16, 25, 36]
    assert asked_together == [[1], [2], [3, 4], [5], [6]]


def test_an_error_of_one_leaves_the_others_alone() -> None:
    def failing() -> Search[int]:
        yield from asked(Square(2))
        raise ValueError("no more")

    first, second = side_by_side([failing(), summing([3, 4])])
    assert second.result() == 25
    with pytest.raises(ValueError, match="no more"):
        first.result()


def test_an_error_in_an_answer_reaches_the_search_that_asked() -> None:
    def careful() -> Search[str]:
        try:
            yield from asked(Square(7))
        except ArithmeticError as error:
            return f"caught {error}"
        return "not reached"

    assert alone(careful()) == "caught seven"
    first, second = side_by_side([careful(), summing([1], table=[1])])
    assert (first.result(), second.result()) == ("caught seven", 1)
    with pytest.raises(ArithmeticError):
        alone(summing([7]))


def test_an_error_in_a_common_answer_is_raised() -> None:
    with pytest.raises(ArithmeticError):
        side_by_side([summing([1]), summing([7])])
