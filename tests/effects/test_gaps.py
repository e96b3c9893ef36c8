"""Time in which nobody watched an interface, as the store keeps it: a monitor reads wg0 and wg1 every 30 s, on a simulated
clock."""

import contextlib
from pathlib import Path
from typing import Iterable, List, NamedTuple, Tuple

import pytest

import wg_monitor
from harness import lines_of
from test_model import Run
from values import P, at, chosen, dump, give, give_at, give_nothing, ids, turn_at, unreadable
from watcher import query

GAPS = "SELECT interface, start, stop, why FROM unwatched ORDER BY start, interface"


class Case(NamedTuple):
    """Times are seconds from the start, at which a reading is due. The first and the last of each period belong to it."""

    name: str
    gaps: List[Tuple[object, ...]]
    hung: Tuple[int, int] = (0, 0)  # wg1 cannot be read
    failed: Tuple[int, int] = (0, 0)  # `wg` fails
    down: Tuple[int, int] = (0, 0)  # wg1 does not exist
    alone: Tuple[int, int] = (0, 0)  # wg0 is asked alone, and wg1 does not answer in time


CASES = [
    Case("nothing", []),
    Case("an interface that was down was watched", [], down=(600, 1200)),
    Case("an interface that cannot be read", [("wg1", 570.0, 1230.0, "unreadable")], hung=(600, 1200)),
    Case(
        "an interface that goes while it cannot be read",
        [("wg1", 570.0, 1230.0, "unreadable")],
        hung=(600, 1200),
        down=(1230, 1500),
    ),
    Case("an interface that answers too late", [("wg1", 570.0, 720.0, "late")], alone=(600, 690)),
    Case("an interface that answers in time after all", [], alone=(600, 600)),
    Case("wg fails", [(None, 570.0, 1230.0, "failed")], failed=(600, 1200)),
    Case(
        "a gap of all interfaces in the one of an interface",
        [("wg1", 570.0, 2430.0, "unreadable"), (None, 1170.0, 1530.0, "failed")],
        hung=(600, 2400),
        failed=(1200, 1500),
    ),
    Case(
        "a gap of all interfaces that ends together with the one of an interface",
        [("wg1", 570.0, 1530.0, "unreadable"), (None, 1170.0, 1530.0, "failed")],
        hung=(600, 1500),
        failed=(1200, 1500),
    ),
    Case(
        "an interface that answers right after a gap of all interfaces",
        [(None, 570.0, 750.0, "failed")],
        failed=(600, 720),
        alone=(750, 750),
    ),
]


def within(second: int, period: Tuple[int, int]) -> bool:
    return bool(period[1]) and period[0] <= second <= period[1]


def readings(case: Case) -> Iterable[Tuple[int, str]]:
    """What `wg` shows at each reading of which it shows something."""
    for second in range(0, 3000, 30):
        handshake = 120 * (second // 120) - 10
        texts = [dump(name, P(who, handshake, 100, 50)) for name, who in (("wg0", "ann"), ("wg1", "bob"))]
        if not within(second, case.failed):
            yield second, texts[0] + ("" if within(second, case.down) or within(second, case.hung) else texts[1])


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_each_gap_is_told_once(case: Case, tmp_path: Path, now: List[wg_monitor.Moment]) -> None:
    run = Run(str(tmp_path), chosen())
    shown = dict(readings(case))
    with contextlib.ExitStack() as stack:
        stack.callback(run.end, True)
        for second in range(0, 3000, 30):
            turn_at(second, run.monitor, now)
            if second not in shown:
                give_nothing(run.monitor)
            elif within(second, case.alone):
                run.monitor.round.names = frozenset(("wg0", "wg1", ""))
                text = dump("wg0", P("ann", 120 * (second // 120) - 10, 100, 50))
                give_at(now[0], run.monitor, text, interface="wg0")
            else:
                run.monitor.round.names = frozenset()
                give(run.monitor, shown[second], unreadable("wg1") if within(second, case.hung) else "")
    found = query(tmp_path / "state.db", GAPS)
    assert [(name, start - at(0).wall, stop - at(0).wall, why) for name, start, stop, why in found] == case.gaps


@pytest.mark.parametrize("politely", [True, False], ids=["stopped", "killed"])
def test_a_run_that_ends_while_an_interface_cannot_be_read(
    politely: bool, tmp_path: Path, now: List[wg_monitor.Moment]
) -> None:
    """The next one knows since when nobody watched it."""
    run = Run(str(tmp_path), chosen())
    for second in range(0, 3000, 30):
        now[0] = at(second)
        if second == 1500:
            run.end(politely)
        if 1500 <= second < 1590:
            continue
        if second == 1590:
            run = Run(str(tmp_path), chosen())
        run.monitor.turned = now[0].boot
        if second == 900:
            run.monitor.checkpoint = 0.0  # it is due: a run that is killed before the first one leaves no trace of it
        here = [dump(name, P(who, second - second % 120 - 10, 100, 50)) for name, who in (("wg0", "ann"), ("wg1", "bob"))]
        hung = 600 <= second < 1590
        give(run.monitor, here[0] if hung else "".join(here), unreadable("wg1") if hung else "")
    run.end(True)
    found = query(tmp_path / "state.db", GAPS)
    gaps = [(name, start - at(0).wall, stop - at(0).wall, why) for name, start, stop, why in found]
    assert gaps == [("wg1", 570.0, 1470.0, "unreadable"), (None, 1470.0, 1590.0, "stopped")]
    sessions = query(tmp_path / "state.db", "SELECT interface, unwatched FROM sessions ORDER BY interface")
    assert sessions == [("wg0", 120.0), ("wg1", 1020.0)]


@pytest.mark.parametrize("how", ["stopped", "killed", "failed", "stalled", "unreadable"])
def test_bytes_that_came_while_nobody_watched_prove_no_more_than_its_beginning(
    how: str, tmp_path: Path, now: List[wg_monitor.Moment]
) -> None:
    """After the last reading before the gap, ann sends a packet and is gone: nobody may say that she stayed for hours."""
    run = Run(str(tmp_path), chosen())
    other, gone = dump("wg1", P("bob", -10, 100, 50)), 6 * 3600
    for second in (0, 30, 60, 90):
        turn_at(second, run.monitor, now)
        give(run.monitor, dump("wg0", P("ann", -10, 100 + second, 50)) + other)
    if how in ("stopped", "killed"):
        run.end(how == "stopped")
    elif how in ("failed", "unreadable"):
        turn_at(120, run.monitor, now)
        if how == "failed":
            give_nothing(run.monitor)
        else:
            give(run.monitor, other, unreadable("wg0"))
    now[0] = at(gone)
    if how in ("stopped", "killed"):
        run = Run(str(tmp_path), chosen())
    give(run.monitor, dump("wg0", P("ann", -10, 222, 50)) + other)
    run.end(True)
    asked = "SELECT last_seen, length, unwatched, reason FROM sessions WHERE interface = 'wg0'"
    assert query(tmp_path / "state.db", asked) == [(at(90).wall, 100.0, 0.0, "idle")]


def test_interfaces_that_answer_late_together_are_one_fault(tmp_path: Path, now: List[wg_monitor.Moment]) -> None:
    """So many others hang that two wait for their turn: both come late, a moment apart, again and again."""
    run = Run(str(tmp_path), chosen())
    for second in (*range(0, 3000, 300), 3000, 3030, 3060):
        for number, (link, who) in enumerate((("wg0", "ann"), ("wg1", "bob"))):
            turn_at(second + number / 100, run.monitor, now)
            run.monitor.round.names = frozenset(("wg0", "wg1", ""))
            give_at(now[0], run.monitor, dump(link, P(who, second - 10)), interface=link)
    run.end(True)
    told = [line.partition("[WARN] ")[2].partition(" after ")[0] for line in lines_of(tmp_path / "trail") if "eadings" in line]
    begins = "Readings are more than two intervals apart: what happens between them is not seen"
    assert [line for line in told if line.startswith("Readings are")] == [begins, "Readings are on time again"]


def test_an_interface_that_a_run_left_out_was_not_unreadable(tmp_path: Path, now: List[wg_monitor.Moment]) -> None:
    both = dump("wg0", P("ann", -10, 100, 50)) + dump("wg1", P("bob", -10, 100, 50))
    for begin, scope in ((0, ()), (300, ("wg0",)), (900, ())):
        run = Run(str(tmp_path), chosen(interface=frozenset(scope)))
        for second in range(begin, begin + 300, 30):
            turn_at(second, run.monitor, now)
            give(run.monitor, both)
        run.end(True)
    found = query(tmp_path / "state.db", GAPS)
    assert {(name, why) for name, _, _, why in found} == {(None, "stopped")}
