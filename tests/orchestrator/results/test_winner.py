"""Who wins a study of two objectives, and who is on its front."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.results.winner import Measured, choose, front

FOUND = [
    Measured(0, 20.0, 900.0),
    Measured(1, 19.4, 300.0),
    Measured(2, 19.4, 300.0),
    Measured(3, 17.0, 100.0),
    Measured(4, 16.0, 400.0),
    Measured(5, 20.0, 900.0),
]


def test_the_cheapest_within_the_tolerance_wins() -> None:
    assert choose(FOUND) == FOUND[0], "without a tolerance the best PSNR, and the earlier of equals"
    assert choose(FOUND, within=0.5) == FOUND[0]
    assert choose(FOUND, within=0.7) == FOUND[1], "the earlier of two that are equal in both"
    assert choose(FOUND, within=3.0) == FOUND[3], "the bound itself counts"
    assert choose(FOUND, within=100.0) == FOUND[3]
    assert choose([], within=1.0) is None


def test_of_equal_work_the_higher_psnr_wins() -> None:
    assert choose([Measured(0, 9.0), Measured(1, 9.5), Measured(2, 9.5)], within=1.0) == Measured(1, 9.5)


def test_the_front_is_what_no_other_beats() -> None:
    assert front(FOUND) == [FOUND[3], FOUND[1], FOUND[0]]
    assert front([]) == []


_some = st.lists(
    st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), min_size=1, max_size=12
).map(lambda pairs: [Measured(i, psnr, work) for i, (psnr, work) in enumerate(pairs)])


@given(_some, st.integers(0, 6))
def test_the_winner_is_on_the_front(found: list[Measured], within: int) -> None:
    winner = choose(found, within=float(within))
    assert winner in front(found)


@given(_some)
def test_the_front_is_that_of_the_definition(found: list[Measured]) -> None:
    def beaten(one: Measured) -> bool:
        return any(
            other.psnr >= one.psnr
            and other.work <= one.work
            and (other.psnr, other.work) != (one.psnr, one.work)
            for other in found
        )

    kept = front(found)
    assert {(each.psnr, each.work) for each in kept} == {
        (each.psnr, each.work) for each in found if not beaten(each)
    }
    assert [each.work for each in kept] == sorted(each.work for each in kept)
