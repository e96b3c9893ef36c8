"""Which hook runs wait, start or fall away, as tables of events with their times. Nothing is started."""

from typing import List, NamedTuple, Optional, Sequence, Set, Tuple, Type

import pytest

import wg_monitor
from branches import record as record_branches
from values import ids, key
from wg_monitor import HOOK_DROPPED, HOOK_DUE, HOOK_NONE, HOOKS_WAITING_MAX, Event, HookQueue, Record

FOREVER = float("inf")
NEW = {"new": True}


class At(NamedTuple):
    """An event: when, what, of whom, and whether it runs the hook."""

    second: float
    kind: str
    peer: Optional[str] = "ann"
    runs: bool = True
    new: bool = False


class Look(NamedTuple):
    """What may start at a time, by number, and when the loop has to look again."""

    second: float
    ready: Sequence[int]
    next: float = FOREVER


def record(number: int, event: At) -> Record:
    public_key = None if event.peer is None else key(event.peer)
    made = Event(event.kind, 1_700_000_000.0 + event.second, "wg0", public_key, new=event.new)
    return Record(number, made, b"", HOOK_DUE if event.runs else HOOK_NONE)


class Case(NamedTuple):
    name: str
    delay: int
    steps: Sequence[NamedTuple]  # events, which are numbered from 1, and looks
    dropped: Sequence[int] = ()


CASES = [
    Case("without a delay, everything may start", 0, [At(0, "OFFLINE"), At(1, "ONLINE"), Look(1, [1, 2])]),
    Case("an OFFLINE waits", 60, [At(0, "OFFLINE"), Look(0, [], 60), Look(59.9, [], 60), Look(60, [1])]),
    Case(
        "while one interface hangs, an earlier event may come after a later one",
        60,
        [At(20, "OFFLINE", "bob"), At(10, "OFFLINE"), Look(30, [], 70), Look(70, [2], 80), Look(80, [1, 2])],
    ),
    Case("a return in time drops both", 60, [At(0, "OFFLINE"), At(59, "ONLINE"), Look(59, []), Look(99, [])], [1, 2]),
    Case(
        "a return that is not in time drops neither",
        60,
        [At(0, "OFFLINE"), At(60, "ONLINE"), Look(60, [1, 2])],
    ),
    Case(
        "a late return drops neither, even if the OFFLINE could not be run meanwhile",
        60,
        [At(0, "OFFLINE"), Look(70, [1]), At(80, "ONLINE"), Look(80, [1, 2])],
    ),
    Case(
        "an absence after a return begins anew",
        60,
        [At(0, "OFFLINE"), At(20, "ONLINE"), At(50, "OFFLINE"), Look(61, [], 110), Look(110, [3])],
        [1, 2],
    ),
    Case(
        "a peer that flaps runs no hook",
        60,
        [At(n, kind) for n, kind in enumerate(["OFFLINE", "ONLINE"] * 3)] + [Look(999, [])],
        [1, 2, 3, 4, 5, 6],
    ),
    Case(
        "a removed peer does not return: its OFFLINE goes first, at once",
        60,
        [At(0, "OFFLINE"), At(10, "REMOVED"), Look(10, [1, 2])],
    ),
    Case(
        "a removal that runs no hook also ends the delay",
        60,
        [At(0, "OFFLINE"), At(10, "REMOVED", runs=False), Look(10, [1])],
    ),
    Case(
        "a peer that was removed and is new has not returned",
        60,
        [At(0, "OFFLINE"), At(10, "REMOVED"), At(20, "ONLINE", new=True), Look(20, [1, 2, 3])],
    ),
    Case(
        "a new peer that is offline does not wait, and holds nothing back",
        60,
        [At(0, "OFFLINE", runs=False, new=True), At(1, "CHANGED"), Look(1, [2]), At(2, "ONLINE"), Look(2, [2, 3])],
    ),
    Case(
        "what changes meanwhile waits behind the OFFLINE",
        60,
        [At(0, "OFFLINE"), At(10, "CHANGED"), Look(10, [], 60), Look(60, [1, 2])],
    ),
    Case(
        "what changed meanwhile runs at the return",
        60,
        [At(0, "OFFLINE"), At(10, "CHANGED"), At(20, "ONLINE"), Look(20, [2])],
        [1, 3],
    ),
    Case(
        "what waited before the OFFLINE does not wait for it",
        60,
        [At(0, "ONLINE"), At(5, "ROAMING"), At(10, "OFFLINE"), Look(10, [1, 2], 70)],
    ),
    Case(
        "an ONLINE that is not run yet stays, whatever is dropped after it",
        60,
        [At(0, "ONLINE"), At(10, "OFFLINE"), At(20, "ONLINE"), Look(20, [1])],
        [2, 3],
    ),
    Case(
        "other peers do not wait",
        60,
        [At(0, "OFFLINE"), At(0, "ONLINE", "bob"), At(5, "OFFLINE", "cyd"), Look(5, [2], 60), Look(60, [1, 2], 65)],
    ),
    Case(
        "events of an interface are not held back, and its peers return with it",
        60,
        [At(0, "IFDOWN", None), At(0, "OFFLINE"), At(0, "OFFLINE", "bob"), At(9, "IFUP", None), At(9, "ONLINE"),
         Look(9, [1, 4], 60), Look(60, [1, 3, 4])],
        [2, 5],
    ),
    Case(
        "a return drops the OFFLINE even if ONLINE runs no hook",
        60,
        [At(0, "OFFLINE"), At(30, "ONLINE", runs=False), Look(99, [])],
        [1],
    ),
    Case(
        "an absence without a hook holds nothing back, and its return runs",
        60,
        [At(0, "OFFLINE", runs=False), At(1, "CHANGED"), Look(1, [2]), At(2, "ONLINE"), Look(2, [2, 3])],
    ),
    Case(
        "a peer that a run without its store found new has not returned",
        60,
        [At(0, "OFFLINE"), At(20, "ONLINE", new=True), Look(20, [1, 2])],
    ),
]  # fmt: skip


def test_every_branch_is_taken() -> None:
    names, recorder = record_branches(wg_monitor, "Decisions about hook runs")
    for case in CASES:
        play(case, names["HookQueue"])
    overflow(names["HookQueue"])
    assert recorder.wanted and recorder.missing() == []


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_which_runs_may_start(case: Case) -> None:
    play(case, HookQueue)


def play(case: Case, kind: Type[HookQueue]) -> None:
    queue, number, looks = kind(case.delay), 0, []
    for step in case.steps:
        if isinstance(step, At):
            number += 1
            queue.add(record(number, step), step.second)
        elif isinstance(step, Look):
            found = [each.seq for each in queue.ready(frozenset(), step.second)]
            looks.append((step, Look(step.second, found, step.second + queue.rest(step.second))))
    assert [found for _, found in looks] == [look for look, _ in looks]
    assert looks and queue.marks == dict.fromkeys(case.dropped, HOOK_DROPPED)
    assert queue.dropped == len(case.dropped)
    assert not set(queue.waiting) & set(case.dropped)


def test_a_return_counts_only_while_its_offline_waits() -> None:
    """The reading that shows the return may have begun before the delay was over, and end after it."""
    queue = HookQueue(60)
    queue.add(record(1, At(0, "OFFLINE")), 0)
    (started,) = queue.ready(frozenset(), 60)
    del queue.waiting[started.seq]
    assert not queue.add(record(2, At(59, "ONLINE")), 59)
    assert [each.seq for each in queue.ready(frozenset(), 61)] == [2]


def test_a_peer_whose_hook_runs_waits_until_it_ends() -> None:
    queue = HookQueue(0)
    for number, peer in enumerate(("ann", "ann", "bob"), 1):
        queue.add(record(number, At(0, "ONLINE", peer)), 0)
    busy: Set[Tuple[Optional[str], Optional[str]]] = {("wg0", key("ann"))}
    assert [each.seq for each in queue.ready(busy, 0)] == [3]
    started: List[int] = []
    for each in queue.ready(busy, 0):
        busy.add(each.peer)
        started.append(each.seq)
    assert started == [3]


def test_too_many_that_wait_drop_the_oldest_held_back_or_not() -> None:
    overflow(HookQueue)


def overflow(kind: Type[HookQueue]) -> None:
    queue = kind(60)
    for number in range(1, HOOKS_WAITING_MAX + 4):
        queue.add(record(number, At(0, "OFFLINE", "p%d" % number)), 0)
    assert (len(queue.waiting), queue.lost, queue.dropped) == (HOOKS_WAITING_MAX, 3, 3)
    assert queue.marks == dict.fromkeys((1, 2, 3), HOOK_DROPPED)
    back = HOOKS_WAITING_MAX + 4
    assert not queue.add(record(back, At(5, "ONLINE", "p1")), 5), "its OFFLINE was dropped before: it runs"
    assert [each.seq for each in queue.ready(frozenset(), 5)] == [back]
    assert queue.add(record(back + 1, At(5, "ONLINE", "p9")), 5)
    assert [each.seq for each in queue.ready({("wg0", key("p1"))}, 5)] == []


STREAMS: List[Tuple[str, Sequence[At]]] = [
    (case.name, [step for step in case.steps if isinstance(step, At)]) for case in CASES
]


@pytest.mark.parametrize(("name", "events"), STREAMS, ids=ids(STREAMS))
@pytest.mark.parametrize("delay", [0, 15, 60])
def test_events_that_are_read_back_in_one_go_have_the_same_outcome(name: str, events: Sequence[At], delay: int) -> None:
    """After a crash before any mark was saved, the queue gets what it had got, at times from the wall clock."""
    once, again = HookQueue(delay), HookQueue(delay)
    for number, event in enumerate(events, 1):
        once.add(record(number, event), event.second)
    due = [record(number, event) for number, event in enumerate(events, 1) if event.runs or event.kind in ("ONLINE", "REMOVED")]
    for each in due:
        again.add(each, each.event.wall - 1_700_000_000.0)
    for second in (30, 60, 200):
        assert list(again.ready(frozenset(), second)) == list(once.ready(frozenset(), second))
    assert again.marks == once.marks
