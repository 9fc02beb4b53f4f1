"""Searches that run side by side: each asks questions, and those that go together are answered at once.

A search is a generator. It yields a `Question`, is sent its answer, and returns what it has found. So each search has
its own steps and its own end, and finds alone what it finds among others, but for rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Self, TypeVar

from attack_core.base.programs.program import Runner, as_it_is

Answer = TypeVar("Answer")
Found = TypeVar("Found")


class Question(ABC, Generic[Answer]):
    """What a search wants to know before it goes on."""

    @property
    @abstractmethod
    def kin(self) -> Hashable | None:
        """Questions of equal kin on equal `ground` are answered together; None: this one is answered alone."""

    @property
    def ground(self) -> object:
        """What the question is asked of, compared by `==` once for each pair of objects."""
        return None

    @classmethod
    @abstractmethod
    def answers(cls, questions: Sequence[Self], runner: Runner) -> Sequence[Answer]:
        """The answers, in order; what is computed for them with tensors alone may be left to the `runner`."""


Search = Generator[Question[Any], Any, Found]
"""Yields questions, is sent the answer of each, and returns what it has found."""


def asked(question: Question[Answer]) -> Search[Answer]:
    """A question as a part of a search: `answer = yield from asked(question)`."""
    answer: Answer = yield question
    return answer


def alone(search: Search[Found], runner: Runner = as_it_is) -> Found:
    """What one search finds; raises what it raises."""
    try:
        question = next(search)
        while True:
            try:
                (answer,) = question.answers([question], runner)
            except Exception as error:
                question = search.throw(error)
            else:
                question = search.send(answer)
    except StopIteration as ended:
        found: Found = ended.value
        return found


@dataclass(frozen=True)
class Ended(Generic[Found]):
    """How a search ended: with what it has found, or with an exception."""

    found: Found | None = None
    error: Exception | None = None

    def result(self) -> Found:
        """What was found; raises the exception otherwise."""
        if self.error is not None:
            raise self.error
        return self.found  # type: ignore[return-value]  # a search may find None


def side_by_side(searches: Sequence[Search[Found]], runner: Runner = as_it_is) -> list[Ended[Found]]:
    """How each search ended.

    An exception that a search raises ends that one alone, and so does one in an answer that it alone waits for. One in
    an answer that several wait for is raised here: whose fault it is, `alone` tells.
    """
    run = _Run(searches, runner)
    while run.waiting:
        for numbers in run.companies():
            run.answer(numbers)
    return [run.ended[number] for number in range(len(searches))]


class _Run(Generic[Found]):
    """Searches that wait for answers, and those that have ended."""

    def __init__(self, searches: Sequence[Search[Found]], runner: Runner) -> None:
        self._searches, self._runner = searches, runner
        self._grounds: list[object] = []
        self._known: dict[int, int] = {}
        self.waiting: dict[int, Question[Any]] = {}
        self.ended: dict[int, Ended[Found]] = {}
        for number, search in enumerate(searches):
            self._go_on(number, partial(next, search))

    def companies(self) -> list[list[int]]:
        """The searches that wait, together with those whose questions go together."""
        found: dict[Hashable, list[int]] = {}
        for number, question in self.waiting.items():
            kin = question.kin
            key = ("alone", number) if kin is None else (type(question), kin, self._ground(question.ground))
            found.setdefault(key, []).append(number)
        return list(found.values())

    def answer(self, numbers: Sequence[int]) -> None:
        """Answer the questions of these searches together, and let each go on to its next one."""
        questions = [self.waiting.pop(number) for number in numbers]
        try:
            answers = questions[0].answers(questions, self._runner)
        except Exception as error:
            if len(numbers) > 1:
                raise
            self._go_on(numbers[0], partial(self._searches[numbers[0]].throw, error))
            return
        for number, answer in zip(numbers, answers, strict=True):
            self._go_on(number, partial(self._searches[number].send, answer))

    def _go_on(self, number: int, step: Any) -> None:
        try:
            self.waiting[number] = step()
        except StopIteration as ended:
            self.ended[number] = Ended(found=ended.value)
        except Exception as error:
            self.ended[number] = Ended(error=error)

    def _ground(self, ground: object) -> int:
        """The number of the first ground that equals this one; each is kept, so that its id stays its own."""
        if id(ground) not in self._known:
            same = next((i for i, known in enumerate(self._grounds) if known == ground), len(self._grounds))
            self._grounds.append(ground)
            self._known[id(ground)] = same
        return self._known[id(ground)]
