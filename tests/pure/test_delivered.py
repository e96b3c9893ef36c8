"""The lines that the trail has: every line up to a number, except the missing ranges."""

import random
from typing import NamedTuple, Set, Tuple

import pytest

from values import ids
from wg_monitor import Delivered, Position

Ranges = Tuple[Tuple[int, int], ...]
HERE = Position(1, 2, 3)


class Expecting(NamedTuple):
    name: str
    before: Delivered
    missing: Ranges


EXPECTING = [
    Expecting("the first line of all", Delivered(0), ((1, 1),)),
    Expecting("a line after others that the trail has", Delivered(7), ((8, 8),)),
    Expecting("a line after one that is missing joins it", Delivered(7, ((7, 7),)), ((7, 8),)),
    Expecting("a line after a range joins it", Delivered(7, ((3, 7),)), ((3, 8),)),
    Expecting("a line after a gap does not", Delivered(7, ((3, 6),)), ((3, 6), (8, 8))),
    Expecting("it joins the last range only", Delivered(7, ((1, 2), (4, 7))), ((1, 2), (4, 8))),
]


@pytest.mark.parametrize("case", EXPECTING, ids=ids(EXPECTING))
def test_one_more_line_is_expected(case: Expecting) -> None:
    before = case.before._replace(position=HERE)
    assert before.expecting() == Delivered(case.before.last + 1, case.missing, HERE)
    assert before == case.before._replace(position=HERE), "a value does not change"


class Without(NamedTuple):
    name: str
    before: Ranges
    first: int
    last: int
    missing: Ranges
    complete: int


WITHOUT = [
    Without("nothing is missing", (), 3, 5, (), 20),
    Without("all of a range", ((3, 5),), 3, 5, (), 20),
    Without("more than a range", ((3, 5),), 1, 9, (), 20),
    Without("the beginning of a range", ((3, 9),), 3, 5, ((6, 9),), 5),
    Without("the end of a range", ((3, 9),), 6, 9, ((3, 5),), 2),
    Without("the middle of a range splits it", ((3, 9),), 5, 6, ((3, 4), (7, 9)), 2),
    Without("one line of many", ((3, 9),), 4, 4, ((3, 3), (5, 9)), 2),
    Without("the only line", ((7, 7),), 7, 7, (), 20),
    Without("lines before a range", ((5, 9),), 1, 4, ((5, 9),), 4),
    Without("lines after a range", ((5, 9),), 10, 12, ((5, 9),), 4),
    Without("lines between two ranges", ((1, 2), (8, 9)), 3, 7, ((1, 2), (8, 9)), 0),
    Without("one of two ranges", ((1, 2), (8, 9)), 8, 9, ((1, 2),), 0),
    Without("parts of two ranges", ((1, 4), (8, 11)), 3, 9, ((1, 2), (10, 11)), 0),
    Without("a range between two others", ((1, 2), (4, 5), (7, 9)), 3, 6, ((1, 2), (7, 9)), 0),
    Without("all ranges", ((1, 2), (4, 5), (7, 9)), 1, 20, (), 20),
]


@pytest.mark.parametrize("case", WITHOUT, ids=ids(WITHOUT))
def test_lines_that_the_trail_has_are_no_longer_missing(case: Without) -> None:
    after = Delivered(20, case.before, HERE).without(case.first, case.last)
    assert after == Delivered(20, case.missing, HERE)
    assert after.complete == case.complete


@pytest.mark.parametrize(
    ("delivered", "complete"),
    [
        (Delivered(0), 0),
        (Delivered(5), 5),
        (Delivered(5, ((5, 5),)), 4),
        (Delivered(5, ((1, 5),)), 0),
        (Delivered(9, ((4, 5), (8, 9))), 3),
    ],
    ids=["no line yet", "nothing missing", "the last one missing", "all missing", "two ranges missing"],
)
def test_the_trail_is_complete_up_to_the_first_missing_line(delivered: Delivered, complete: int) -> None:
    assert delivered.complete == complete


@pytest.mark.parametrize("seed", range(20))
def test_the_ranges_are_the_set_of_the_missing_lines(seed: int) -> None:
    """Compares them with a plain set of numbers. They are sorted, disjoint and never adjacent."""
    chance = random.Random(seed)
    delivered = Delivered(0)
    missing: Set[int] = set()
    for _ in range(500):
        if chance.random() < 0.7:
            delivered = delivered.expecting()
            missing.add(delivered.last)
        else:
            first = chance.randrange(1, delivered.last + 2)
            last = first + chance.choice((0, 0, 1, 5, 50))
            delivered = delivered.without(first, last)
            missing -= set(range(first, last + 1))
        assert {number for first, last in delivered.missing for number in range(first, last + 1)} == missing
        ends = [number for pair in delivered.missing for number in pair]
        assert ends == sorted(ends)
        assert all(after[0] > before[1] + 1 for before, after in zip(delivered.missing, delivered.missing[1:]))
        assert delivered.complete == min(missing, default=delivered.last + 1) - 1
