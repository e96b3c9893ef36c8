"""What the store promises, whatever happens to it: locked, full, damaged, emptied, deleted, replaced, killed, migrated.

No line is lost or repeated, no number is given away twice, no hook is forgotten, and no time is claimed that nobody
watched. Everything is observed from outside: trail, store, small file and runs of the hook.
"""

import json
import os
import random
import re
import signal
import stat
import subprocess
import time
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest

from device import Peer, peer
from disks import Disk, DiskPlace
from expected import now, short
from harness import EAST, PATIENCE_S, Daemon, Place, command_line, lines_of, need, wait_for
from scale import scaled
from stores import (
    LETTER,
    LOCKS,
    OLD_EVENTS,
    OLD_SESSIONS,
    Held,
    OldStore,
    ask,
    ask_inside,
    change,
    change_last,
    copy,
    garble,
    last_of,
    last_path,
    opened,
    settled,
)
from values import ids

ROUNDING_S = 0.001  # between the clocks
MILLISECONDS = 1_700_000_000_000  # more than any counter that began at 1
NOT_WATCHING = re.compile(r"\[WARN\] Not watching from (\S+ \S+) to (\S+ \S+)")
OPEN_SESSIONS = "SELECT public_key, number FROM sessions WHERE reason IS NULL ORDER BY number"


# --- Helpers ------------------------------------------------------------------------------------------------------


def about(lines: Sequence[str], kind: str, it: Peer) -> List[str]:
    """The lines of one kind about a peer, in either format."""
    text, json_kind = " %-7s [" % kind, '"event": "%s"' % kind
    return [line for line in lines if text in line and short(it) in line or json_kind in line and it.public_key in line]


def see(monitor: Daemon, kind: str, it: Peer, times: int = 1) -> None:
    """Wait for such lines in the trail."""
    trail = monitor.place.trail
    monitor.await_("%s in the trail" % kind, lambda: len(about(lines_of(trail), kind, it)) >= times)


def hear(monitor: Daemon, kind: str, it: Peer, times: int = 1) -> None:
    """Wait for such lines on the console, while the trail cannot be written."""
    monitor.await_("%s on the console" % kind, lambda: len(about(monitor.console(), kind, it)) >= times)


def break_trail(place: Place) -> None:
    """Nobody can append to a directory."""
    place.trail.rename(place.path / "away.log")
    place.trail.mkdir()


def mend_trail(place: Place) -> None:
    place.trail.rmdir()
    (place.path / "away.log").rename(place.trail)


def remove(path: Path, *suffixes: str) -> None:
    """Delete these files of the store."""
    for suffix in suffixes:
        if Path(str(path) + suffix).exists():
            Path(str(path) + suffix).unlink()


def stored_lines(place: Place, path: Path) -> List[str]:
    rows = ask_inside(place, path, "SELECT line FROM events ORDER BY seq")
    return [bytes(row[0]).decode()[:-1] for row in rows]


def wall_of(text: str) -> int:
    """Seconds since the epoch of a time as the trail shows it: whole seconds, rounded down."""
    struct = time.strptime(text, "%Y-%m-%d %H:%M:%S")
    return int(time.mktime(struct) - time.mktime(time.gmtime(0))) - EAST * 3600


def gaps(place: Place) -> List[Tuple[int, int]]:
    """The beginning and the end of each time that the trail says nobody watched."""
    found = map(NOT_WATCHING.search, lines_of(place.trail))
    return [(wall_of(match.group(1)), wall_of(match.group(2))) for match in found if match]


def await_gaps(monitor: Daemon, count: int) -> List[Tuple[int, int]]:
    """Wait until the trail has so many of them."""
    return monitor.await_(
        "the unwatched time", lambda: gaps(monitor.place) if len(gaps(monitor.place)) >= count else None
    )


def recorder(place: Place) -> Tuple[Path, Path, Path]:
    """A hook that records each run. While the third path exists, it goes on."""
    ran, hold = place.path / "ran", place.path / "hold"
    wait = "while [ -e %s ]; do sleep 0.05; done" % hold
    hook = place.script("hook", 'echo "$PEER_SEQ $PEER_EVENT $PEER_PUBKEY" >>%s; %s\n' % (ran, wait))
    return hook, ran, hold


def runs_of(ran: Path) -> List[Tuple[int, str, str]]:
    return [(int(seq), event, key) for seq, event, key in (line.split() for line in lines_of(ran))]


def judge_hooks(place: Place, path: Path, ran: Path) -> None:
    """Each hook run that the store knows is done, none is marked without a run, and each peer's came in order."""
    marks = dict(ask_inside(place, path, "SELECT seq, hook FROM events WHERE hook <> 0"))
    runs = runs_of(ran)
    first_runs = list(dict.fromkeys((seq, key) for seq, _, key in runs))
    assert set(marks.values()) <= {2}, "hook runs are due or dropped: %s" % marks
    assert set(marks) <= {seq for seq, _ in first_runs}, "a hook is marked as done that never ran"
    last: Dict[str, int] = {}
    for seq, key in first_runs:
        assert last.get(key, 0) < seq, "the hook ran out of order for one peer: %s" % runs
        last[key] = seq


def judge_sessions(place: Place, path: Path) -> None:
    """The peers' rows name exactly the open sessions, and the sessions of one peer do not overlap."""
    query = "SELECT interface, public_key, number, start, last_seen, reason FROM sessions ORDER BY number"
    sessions = ask_inside(place, path, query)
    named = ask_inside(place, path, "SELECT session FROM peers WHERE session IS NOT NULL")
    assert sorted(row[2] for row in sessions if row[5] is None) == sorted(row[0] for row in named)
    end: Dict[Tuple[str, str], float] = {}
    for interface, key, number, start, last_seen, reason in sessions:
        assert start >= end.get((interface, key), 0.0) - ROUNDING_S, "session %d overlaps the one before" % number
        assert reason is None or last_seen >= start
        end[interface, key] = float("inf") if reason is None else last_seen
    assert ask_inside(place, path, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture
def path(place: Place) -> Path:
    return place.path / "state.db"


@pytest.fixture
def disk_place() -> Iterator[DiskPlace]:
    need("unshare", "wg")
    made = DiskPlace()
    with made:
        yield made


# --- Numbers, in a trail that shows them --------------------------------------------------------------------------

JSON = ("--log-format", "json")


def told(place: Place) -> List[Dict[str, Any]]:
    return [json.loads(line) for line in lines_of(place.trail)]


def last_numbers(place: Place) -> Tuple[int, int]:
    """The highest numbers of a line and of a session that left the monitor."""
    lines = told(place)
    return max(line["seq"] for line in lines), max(line.get("session") or 0 for line in lines)


def judge_numbers(place: Place) -> None:
    """None was given away twice, and none is lower than an earlier one."""
    lines = told(place)
    for numbers in ([it["seq"] for it in lines], [it["session"] for it in lines if it["event"] == "ONLINE"]):
        assert numbers == sorted(set(numbers)), "numbers repeat or go back"


# --- The small file beside the store ------------------------------------------------------------------------------


def test_each_reading_overwrites_one_line_of_a_fixed_size_and_writes_nothing_else(place: Place, path: Path) -> None:
    wg0 = place.device(peers=[peer(1, now())])
    monitor = place.start("--state-path", str(path))
    see(monitor, "ONLINE", peer(1))
    wg0.settle()
    last_of(path)
    status, contents = last_path(path).stat(), set()
    ahead = Path(str(path) + "-wal").stat()
    for _ in range(3):
        contents.add(last_path(path).read_bytes())
        wg0.publish([peer(1, now())])
        wg0.settle()
    after = last_path(path).stat()
    assert len(contents) == 3, "a reading left no trace"
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert (after.st_ino, after.st_size) == (status.st_ino, status.st_size), "the file was not overwritten in place"
    assert {len(content) for content in contents} == {status.st_size}
    assert Path(str(path) + "-wal").stat().st_mtime_ns == ahead.st_mtime_ns, (
        "a reading without an event wrote the store"
    )
    assert monitor.stop() == 0


@pytest.mark.heavy
def test_no_kill_tears_the_file_or_repeats_a_number_even_if_the_store_is_deleted(place: Place, path: Path) -> None:
    """The numbers are in the file before a line leaves the process."""
    chance = random.Random(int(os.environ.get("WG_MONITOR_TEST_SEED") or 1))
    flags = ["--state-path", str(path), *JSON, "--debug"]  # a line for each reading
    peers = {number: peer(number, now()) for number in range(3)}
    wg0 = place.device(peers=peers.values())
    monitor = place.start(*flags)
    see(monitor, "ONLINE", peers[0])
    size = last_path(path).stat().st_size
    for number in range(scaled(30)):
        for each in peers:
            peers[each] = peers[each]._replace(handshake=chance.choice((0, now())))
        wg0.publish(peers.values())
        time.sleep(chance.uniform(0.0, 1.5))
        monitor.stop(signal.SIGKILL)
        last_of(path)
        assert last_path(path).stat().st_size == size
        if number % 2 == 0:
            remove(path, "", "-wal", "-shm")
        judge_numbers(place)
        monitor = place.start(*flags)
        time.sleep(chance.uniform(0.0, 1.0))
    wg0.settle()
    assert monitor.stop() == 0
    judge_numbers(place)


LYING = {
    "another boot": None,
    "garbage": b"\0\xff=" * 85 + b"\n",
    "half a line": b"id=",
    "nothing": b"",
}


@pytest.mark.parametrize("lie", LYING)
def test_a_small_file_with_something_else_in_it_claims_no_watched_time(place: Place, path: Path, lie: str) -> None:
    """Then the last reading is the one that the store knows."""
    flags = ["--state-path", str(path)]
    wg0 = place.device(peers=[peer(1, now())])
    first = place.start(*flags)
    see(first, "ONLINE", peer(1))
    time.sleep(3)
    wg0.publish([peer(1, now())])
    wg0.settle()
    first.stop(signal.SIGKILL)
    ((saved,),) = ask(path, "SELECT wall FROM monitor")
    content = LYING[lie]
    if content is None:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        change_last(path, boot_id, "01234567-89ab-cdef-0123-456789abcdef")
    else:
        assert last_path(path).exists()
        last_path(path).write_bytes(content)
    second = place.start(*flags)
    ((since, _),) = await_gaps(second, 1)
    assert since == int(saved)
    wg0.settle()
    last_of(path)
    assert second.stop() == 0


# --- The time that nobody watched ---------------------------------------------------------------------------------


def test_after_a_kill_the_unwatched_time_begins_at_the_last_reading(place: Place, path: Path) -> None:
    """Not at the last event or checkpoint: readings without an event count as watched."""
    flags = ["--state-path", str(path)]
    ann = peer(1, now())
    wg0 = place.device(peers=[ann])
    first = place.start(*flags)
    see(first, "ONLINE", ann)
    time.sleep(7)
    before = time.time()
    wg0.publish([ann])
    wg0.settle()
    killed = time.time()
    first.stop(signal.SIGKILL)
    time.sleep(3)
    started = time.time()
    second = place.start(*flags)
    ((since, until),) = await_gaps(second, 1)
    assert int(before) - 1 <= since <= killed
    assert int(started) <= until
    wg0.settle()
    assert second.stop() == 0
    ((unwatched, reason),) = ask(path, "SELECT unwatched, reason FROM sessions")
    assert reason is None
    assert abs(unwatched - (until - since)) <= 2
    ((start, stop, interface, why),) = ask(path, "SELECT start, stop, interface, why FROM unwatched")
    assert (int(start), int(stop), interface) == (since, until, None)
    assert why


def test_each_unwatched_time_has_a_line_and_a_row(place: Place, path: Path) -> None:
    wg0 = place.device(peers=[peer(1, now())])
    for number, end in enumerate([signal.SIGTERM, signal.SIGKILL, signal.SIGTERM]):
        monitor = place.start("--state-path", str(path))
        if number:
            await_gaps(monitor, number)
        wg0.publish([peer(1, now())])
        wg0.settle()
        monitor.stop(end)
    assert len(gaps(place)) == 2
    rows = ask(path, "SELECT start, stop, interface FROM unwatched ORDER BY start")
    assert [(int(start), int(stop), interface) for start, stop, interface in rows] == [
        (*gap, None) for gap in gaps(place)
    ]


@pytest.mark.parametrize("other", ["an older backup", "the store of another monitor"])
def test_a_store_from_elsewhere_claims_no_watched_time_and_repeats_no_number(
    place: Place, path: Path, other: str
) -> None:
    flags = ["--state-path", str(path), *JSON]
    ann, bob = peer(1, now()), peer(2, now())
    wg0 = place.device(peers=[ann])
    backup = place.path / "backup.db"
    if other == "the store of another monitor":
        elsewhere = ["--state-path", str(place.path / "other.db"), "--log-path", "/var/log/other.log"]
        monitor = place.start(*elsewhere)
        monitor.hear("ONLINE .*")
        wg0.settle()
        assert monitor.stop() == 0
        copy(place.path / "other.db", backup)
    first = place.start(*flags)
    see(first, "ONLINE", ann)
    wg0.settle()
    if other == "an older backup":
        copy(path, backup)
    time.sleep(2)
    wg0.publish([ann, bob])
    see(first, "ONLINE", bob)
    assert first.stop() == 0
    ((saved,),) = ask(backup, "SELECT wall FROM monitor")
    history = set(ask(backup, "SELECT seq, line FROM events"))
    before = last_numbers(place)
    remove(backup, "-wal", "-shm")
    backup.replace(path)
    for suffix in ("-wal", "-shm"):
        assert not Path(str(path) + suffix).exists()
    wg0.publish([ann, bob, peer(3, now())])
    second = place.start(*flags)
    see(second, "ONLINE", peer(3))
    wg0.settle()
    assert second.stop() == 0
    since, _ = gaps_of_json(place)[-1]
    assert since == int(saved)
    judge_numbers(place)
    after = set(ask(path, "SELECT seq, line FROM events"))
    assert history <= after, "the history of the other store was lost"
    assert min(seq for seq, _ in after - history) > before[0]


def gaps_of_json(place: Place) -> List[Tuple[int, int]]:
    found = [NOT_WATCHING.search("[WARN] " + line.get("message", "")) for line in told(place)]
    return [(wall_of(match.group(1)), wall_of(match.group(2))) for match in found if match]


# --- Locked at the start ------------------------------------------------------------------------------------------


def await_opened(monitor: Daemon, path: Path) -> None:
    """Wait until the daemon tries to use the store, or goes on without it."""
    went_on = "Monitor started"
    monitor.await_("the store to be used", lambda: opened(monitor.pid, path) or went_on in "".join(monitor.console()))


@pytest.mark.parametrize("interface", [(), ("--interface", "wg0")], ids=["all interfaces", "one interface"])
@pytest.mark.parametrize("lock", LOCKS)
def test_a_store_that_is_locked_at_the_start_for_seconds_loses_no_line(
    place: Place, path: Path, lock: str, interface: Sequence[str]
) -> None:
    flags = ["--state-path", str(path)]
    ann, bob = peer(1, now()), peer(2)
    wg0 = place.device(peers=[ann, bob])
    first = place.start(*flags)
    see(first, "ONLINE", ann)
    break_trail(place)
    wg0.publish([ann._replace(handshake=0), bob._replace(handshake=now())])
    hear(first, "OFFLINE", ann)
    hear(first, "ONLINE", bob)
    assert first.stop() == 0
    mend_trail(place)
    lacking = list((Counter(stored_lines(place, path)) - Counter(lines_of(place.trail))).elements())
    assert about(lacking, "OFFLINE", ann) and about(lacking, "ONLINE", bob) and len(lacking) == 4
    with Held(path, LOCKS[lock]) as held:
        second = place.start(*flags, *interface)
        await_opened(second, path)
        time.sleep(1.5)
        held.release()
    await_gaps(second, 1)
    wg0.settle()
    assert second.stop() == 0
    trail = lines_of(place.trail)
    assert all(trail.count(line) == 1 for line in lacking), "lines were lost or repeated"
    assert trail == stored_lines(place, path)
    assert not [line for line in trail if "cannot be used" in line]


def test_a_signal_ends_the_wait_for_a_locked_store(place: Place, path: Path) -> None:
    flags = ["--state-path", str(path), *JSON]
    ann = peer(1, now())
    wg0 = place.device(peers=[ann])
    first = place.start(*flags)
    see(first, "ONLINE", ann)
    first.stop(signal.SIGKILL)
    with Held(path, LOCKS["an exclusive locking mode"]):
        second = place.start(*flags)
        await_opened(second, path)
        time.sleep(1)
        assert not [line for line in second.console() if "cannot be used" in line], "it did not wait"
        second.send(signal.SIGTERM)
        # The wait itself would take 30 s.
        wait_for("the end", lambda: second.process.poll() is not None, 20)
        assert second.process.returncode == 0
    assert "Traceback" not in "".join(second.console())
    third = place.start(*flags)
    third.await_("the unwatched time", lambda: gaps_of_json(place))
    wg0.settle()
    assert third.stop() == 0
    assert len(about(lines_of(place.trail), "ONLINE", ann)) == 1, "what the store knew was new again"
    judge_numbers(place)
    assert set(stored_lines(place, path)) <= set(lines_of(place.trail)), "lines were lost"
    judge_sessions(place, path)


# --- A store that comes back --------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """Why a store cannot be loaded at the start, for a while."""

    name: str
    begin: Callable[["Adoption"], object]
    end: Callable[["Adoption", Daemon], object]


class Adoption:
    """A monitor with a store on a small disk, which fails at the next start."""

    def __init__(self, place: DiskPlace, fault: Fault, *flags: str) -> None:
        self.place, self.fault = place, fault
        self.disk: Disk = place.memory(place.path / "disk", 16_384)  # the log alone grows to 4 MiB
        self.path = self.disk.path / "state.db"
        self.hook, self.ran, self.hold = recorder(place)
        self.flags = ["--state-path", str(self.path), "--on-change-script", str(self.hook), *flags]
        self.held: Optional[Held] = None

    def start(self) -> Daemon:
        return self.place.start(*self.flags)

    def ask(self, statement: str) -> List[Any]:
        return ask_inside(self.place, self.path, statement)

    def begin(self) -> None:
        self.fault.begin(self)

    def end(self, monitor: Daemon) -> None:
        self.fault.end(self, monitor)

    def await_hooks(self, monitor: Daemon) -> None:
        """Wait until the store has no hook run that is due."""
        monitor.await_("the hooks", lambda: not self.ask("SELECT seq FROM events WHERE hook = 1"))


def fill(it: Adoption) -> None:
    # The shared memory of SQLite is a file: without room, nobody can read the store.
    remove(it.disk.seen / "state.db", "-shm")
    it.disk.fill()


def write_again(it: Adoption, monitor: Daemon) -> None:
    remount = ["mount", "-o", "remount,rw", str(it.disk.path)]
    subprocess.run(["nsenter", "--mount=/proc/%d/ns/mnt" % monitor.pid, *remount], check=True)
    it.disk.run(*remount)


def lock(it: Adoption) -> None:
    it.held = it.place.stack.enter_context(Held(it.path, LOCKS["an exclusive locking mode"], it.disk.enter))


def unlock(it: Adoption, monitor: Daemon) -> None:
    assert it.held is not None
    it.held.release()


FULL = Fault("full", fill, lambda it, _: it.disk.free())
READ_ONLY = Fault("read-only", lambda it: it.disk.read_only(), write_again)
LOCKED = Fault("locked", lock, unlock)
CANNOT = r".*state\.db cannot be used: .*"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
@pytest.mark.parametrize("fault", [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_store_that_comes_back_is_adopted(disk_place: DiskPlace, fault: Fault, end: int) -> None:
    it = Adoption(disk_place, fault)
    place = disk_place
    ann, bob, cyd, dan, eve = (peer(number, now()) for number in range(1, 6))
    dan = dan._replace(handshake=0)
    wg0 = place.device(peers=[ann, bob, cyd, dan])
    first = it.start()
    for each in (ann, bob, cyd):
        see(first, "ONLINE", each)
    it.await_hooks(first)
    number = dict(it.ask(OPEN_SESSIONS))
    break_trail(place)
    dan = dan._replace(handshake=now())
    before = time.time()
    wg0.publish([ann._replace(endpoint="198.51.100.1:1"), bob, cyd, dan])
    hear(first, "ROAMING", ann)
    hear(first, "ONLINE", dan)
    wg0.settle()
    first.stop(end)
    killed = time.time()
    mend_trail(place)
    lacking = list((Counter(stored_lines(place, it.path)) - Counter(lines_of(place.trail))).elements())
    assert about(lacking, "ROAMING", ann) and about(lacking, "ONLINE", dan)

    # While nobody watches, bob goes. While the store is away, cyd goes and eve comes.
    it.begin()
    wg0.publish([ann._replace(endpoint="198.51.100.1:1"), bob._replace(handshake=0), cyd, dan])
    time.sleep(1)
    started = time.time()
    second = it.start()
    second.match(CANNOT)
    see(second, "ONLINE", cyd, 2)
    wg0.publish(
        [ann._replace(endpoint="198.51.100.1:1"), bob._replace(handshake=0), cyd._replace(handshake=0), dan, eve]
    )
    see(second, "OFFLINE", cyd)
    see(second, "ONLINE", eve)
    wg0.settle()
    assert not [line for line in lines_of(place.trail) if line in lacking]
    back = time.time()
    it.end(second)
    second.match(r"\[WARN\] .*state\.db can be used again after .*")
    ((since, until),) = await_gaps(second, 1)
    it.await_hooks(second)
    wg0.settle()
    assert second.stop() == 0

    assert int(before) - 1 <= since <= killed
    assert int(started) <= until <= back, "the time without a store was watched"
    trail = lines_of(place.trail)
    assert Counter(trail) == Counter(stored_lines(place, it.path)), "lines were lost or repeated"
    again = [index for index, line in enumerate(trail) if "can be used again" in line][-1]
    assert all(trail.index(line) < again for line in lacking), "newer lines came before those that the trail lacked"
    judge_hooks(place, it.path, it.ran)
    judge_sessions(place, it.path)
    sessions = it.ask("SELECT public_key, number, unwatched, reason FROM sessions ORDER BY number")
    of = {each: [row[1:] for row in sessions if row[0] == each.public_key] for each in (ann, bob, cyd, dan, eve)}
    for each in (ann, dan):
        ((same, unwatched, reason),) = [row for key, rows in of.items() if key is each for row in rows]
        assert same == number.get(each.public_key, same) and reason is None, "an open session did not go on"
        assert abs(unwatched - (until - since)) <= 2
    assert [reason for number, _, reason in of[bob]] != [None] and len(of[bob]) == 1, "a session outlived its peer"
    assert None not in [reason for _, _, reason in of[cyd]] and of[cyd]
    assert [reason for _, _, reason in of[eve]] == [None]
    third = it.start()
    await_gaps(third, 2)
    wg0.settle()
    assert third.stop() == 0
    more = lines_of(place.trail)[len(trail) :]
    assert not [line for line in more if "WARN" not in line and "Monitor" not in line], "the restart reported events"


@pytest.mark.parametrize("fault", [FULL, LOCKED], ids=["full", "locked for more than 30 s"])
def test_a_hook_run_that_is_due_comes_before_those_of_a_run_without_the_store(
    disk_place: DiskPlace, fault: Fault
) -> None:
    """SIGKILL during the hook for ONLINE; at the next start the store cannot be used, and the peer goes."""
    it = Adoption(disk_place, fault)
    it.hold.touch()
    ann = peer(1, now())
    wg0 = disk_place.device(peers=[ann])
    first = it.start()
    first.await_("the hook", lambda: len(runs_of(it.ran)) == 1)
    first.stop(signal.SIGKILL)
    it.hold.unlink()
    it.begin()
    second = it.start()
    second.match(CANNOT)
    see(second, "ONLINE", ann, 2)
    wg0.publish([ann._replace(handshake=0)])
    see(second, "OFFLINE", ann)
    wg0.settle()
    assert len(runs_of(it.ran)) == 1, "a hook ran before the runs that the store may know"
    it.end(second)
    second.match(r"\[WARN\] .*state\.db can be used again after .*")
    second.await_("the hook for OFFLINE", lambda: "OFFLINE" in [event for _, event, _ in runs_of(it.ran)])
    it.await_hooks(second)
    assert second.stop() == 0
    runs = runs_of(it.ran)
    assert runs[1] == runs[0] and runs[0][1] == "ONLINE", "the run that was cut short was not repeated first"
    assert runs[-1][1] == "OFFLINE"
    judge_hooks(disk_place, it.path, it.ran)
    judge_sessions(disk_place, it.path)
    assert ask_inside(disk_place, it.path, OPEN_SESSIONS) == []


def test_a_hook_does_not_wait_for_a_store_that_never_was(disk_place: DiskPlace) -> None:
    it = Adoption(disk_place, FULL)
    it.disk.fill()
    disk_place.device(peers=[peer(1, now())])
    monitor = it.start()
    monitor.match(CANNOT)
    monitor.await_("the hook", lambda: len(runs_of(it.ran)) == 1)
    it.disk.free()
    monitor.match(r"\[WARN\] .*state\.db can be used again after .*")
    it.await_hooks(monitor)
    assert monitor.stop() == 0
    assert len(runs_of(it.ran)) == 1


DISK_CALLS = "write,pwrite64,fsync,fdatasync,ftruncate,unlink,rename"


def kill_at_call(monitor: Daemon, nth: int) -> "subprocess.Popen[str]":
    """From now on, SIGKILL ends the daemon at its nth call that touches a disk, before the call takes effect."""
    inject = "inject=%s:signal=SIGKILL:when=%d" % (DISK_CALLS, nth)
    command = ["strace", "-p", str(monitor.pid), "-o", "/dev/null", "-e", "trace=" + DISK_CALLS, "-e", inject]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    return tracer


@pytest.mark.heavy
def test_no_kill_after_the_return_of_a_store_loses_or_repeats_a_line_or_a_hook(disk_place: DiskPlace) -> None:
    """Again and again: the trail fails, peers change, SIGKILL; the store fails, peers change, the store comes back, SIGKILL
    at one of the first calls that touch a disk."""
    need("strace")
    seed = int(os.environ.get("WG_MONITOR_TEST_SEED") or random.randrange(1 << 30))
    print("WG_MONITOR_TEST_SEED=%d" % seed)
    chance = random.Random(seed)
    it = Adoption(disk_place, FULL, *JSON)
    place, peers = disk_place, {number: peer(number, now()) for number in range(1, 5)}
    wg0 = place.device(peers=peers.values())

    def live() -> None:
        for number, each in peers.items():
            kind = chance.choice(("shake", "leave", "roam", "stay"))
            if kind in ("shake", "leave"):
                peers[number] = each._replace(handshake=now() if kind == "shake" else 0)
            elif kind == "roam":
                peers[number] = each._replace(endpoint="198.51.100.%d:1" % chance.randrange(1, 255))
        wg0.publish(peers.values())
        wg0.settle()

    def whole(monitor: Daemon, former: int) -> None:
        """Wait until a run has everything that the runs before it left, and check it."""
        monitor.await_("the unwatched time", lambda: len(gaps_of_json(place)) > former)
        it.await_hooks(monitor)
        wg0.publish(peers.values())
        wg0.settle()
        numbers = Counter(line["seq"] for line in told(place))
        assert set(numbers.values()) == {1}, "lines or numbers were repeated: %s" % numbers
        lost = Counter(stored_lines(place, it.path)) - Counter(lines_of(place.trail))
        assert not lost, "the trail never got lines of the store: %s" % lost
        judge_hooks(place, it.path, it.ran)
        judge_sessions(place, it.path)

    monitor = it.start()

    def await_end(monitor: Daemon, former: int) -> None:
        """Wait until SIGKILL came, or the store is adopted."""
        process = monitor.process
        wait_for("an end", lambda: process.poll() is not None or len(gaps_of_json(place)) > former)

    ends: Dict[str, int] = defaultdict(int)
    see(monitor, "ONLINE", peers[1])
    for round_ in range(scaled(30)):
        it.hold.touch()
        break_trail(place)
        live()
        monitor.stop(signal.SIGKILL)
        mend_trail(place)
        it.begin()
        if round_ % 2:
            it.hold.unlink()
        peers[2] = peers[2]._replace(handshake=0)
        wg0.publish(peers.values())
        monitor = it.start()
        monitor.hear(CANNOT)
        live()
        former = len(gaps_of_json(place))
        tracer = kill_at_call(monitor, 1 + round_ if round_ < 3 else chance.randint(1, 50))
        it.end(monitor)
        await_end(monitor, former)
        ends["at a call" if monitor.process.poll() is not None else "later"] += 1
        monitor.stop(signal.SIGKILL)
        tracer.communicate(timeout=PATIENCE_S)
        if it.hold.exists():
            it.hold.unlink()
        former = len(gaps_of_json(place))
        monitor = it.start()
        whole(monitor, former)
    assert monitor.stop() == 0
    print(dict(ends))
    assert ends["at a call"], "no kill came while the store was adopted"


# --- Numbers ------------------------------------------------------------------------------------------------------


EMPTY = ("DELETE FROM events", "DELETE FROM sessions", "DELETE FROM monitor")
HARMS: Dict[str, Callable[[Path], object]] = {
    "garbage in its pages": garble,
    "a letter instead of a database": lambda path: path.write_bytes(LETTER),
    "an empty file": lambda path: path.write_bytes(b""),
    "no file": lambda path: remove(path, ""),
    "emptied tables": lambda path: change(path, *EMPTY),
}


def a_run(place: Place, path: Path, *peers: Peer) -> Tuple[int, int]:
    """Run the monitor until all these peers are online. Returns the last numbers."""
    place_device = place.device(peers=peers)
    monitor = place.start("--state-path", str(path), *JSON)
    for each in peers:
        see(monitor, "ONLINE", each)
    assert monitor.stop() == 0
    place_device.close()
    return last_numbers(place)


def first_numbers_after(place: Place, path: Path, before: Tuple[int, int]) -> Tuple[int, int]:
    """Start again with one peer more. Returns the first number of a line, and the session of the new peer."""
    count = len(lines_of(place.trail))
    with place.device("wg1", [peer(99, now())]):
        monitor = place.start("--state-path", str(path), *JSON)
        see(monitor, "ONLINE", peer(99))
        settled(place, path, "SELECT number FROM sessions WHERE interface = 'wg1'")
        assert monitor.stop() == 0
    judge_numbers(place)
    lines = told(place)[count:]
    return lines[0]["seq"], [line["session"] for line in lines if line["event"] == "ONLINE"][0]


@pytest.mark.parametrize("harm", HARMS)
def test_numbers_go_on_after_a_harm_to_the_stopped_store(place: Place, path: Path, harm: str) -> None:
    before = a_run(place, path, *(peer(number, now()) for number in range(3)))
    HARMS[harm](path)
    after = first_numbers_after(place, path, before)
    assert before[0] < after[0] < MILLISECONDS
    assert before[1] < after[1] < MILLISECONDS
    if harm in ("garbage in its pages", "a letter instead of a database"):
        assert list(place.path.glob("state.db.damaged-*"))


@pytest.mark.parametrize("harm", [name for name in HARMS if name not in ("no file", "emptied tables")])
def test_numbers_start_at_the_wall_clock_if_a_damaged_store_lost_its_small_file_too(
    place: Place, path: Path, harm: str
) -> None:
    before = a_run(place, path, *(peer(number, now()) for number in range(3)))
    HARMS[harm](path)
    remove(path, ".last")
    after = first_numbers_after(place, path, before)
    assert min(after) > MILLISECONDS


def test_numbers_do_not_repeat_if_emptied_tables_lost_their_small_file_too(place: Place, path: Path) -> None:
    before = a_run(place, path, *(peer(number, now()) for number in range(3)))
    change(path, *EMPTY)
    remove(path, ".last")
    after = first_numbers_after(place, path, before)
    assert after[0] > before[0] and after[1] > before[1]


def test_a_first_installation_starts_at_one(place: Place, path: Path) -> None:
    with place.device(peers=[peer(1, now())]):
        monitor = place.start("--state-path", str(path), *JSON)
        see(monitor, "ONLINE", peer(1))
        assert monitor.stop() == 0
    assert [line["seq"] for line in told(place)][0] == 1
    assert [line["session"] for line in told(place) if line["event"] == "ONLINE"] == [1]
    assert last_of(path)


@pytest.mark.parametrize("older", [True, False], ids=["an older state is left", "nothing is left"])
def test_numbers_go_on_after_a_kill_and_the_loss_of_the_write_ahead_log(place: Place, path: Path, older: bool) -> None:
    if older:
        a_run(place, path, peer(50, now()))
    ann, bob = peer(1, now()), peer(2, now())
    wg0 = place.device(peers=[ann])
    monitor = place.start("--state-path", str(path), *JSON)
    see(monitor, "ONLINE", ann)
    wg0.publish([ann, bob])
    see(monitor, "ONLINE", bob)
    wg0.settle()
    monitor.stop(signal.SIGKILL)
    before = last_numbers(place)
    assert Path(str(path) + "-wal").stat().st_size
    remove(path, "-wal")
    after = first_numbers_after(place, path, before)
    assert before[0] < after[0] < MILLISECONDS and before[1] < after[1] < MILLISECONDS


def test_numbers_go_on_when_a_store_is_damaged_while_it_runs_and_after_the_next_start(place: Place, path: Path) -> None:
    ann, bob = peer(1, now()), peer(2, now())
    wg0 = place.device(peers=[ann, bob])
    monitor = place.start("--state-path", str(path), *JSON)
    see(monitor, "ONLINE", bob)
    gone = [each._replace(handshake=0) for each in (ann, bob)]
    wg0.publish(gone)
    see(monitor, "OFFLINE", bob)
    wg0.settle()
    before = last_numbers(place)
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    garble(path)
    # What SQLite has read already hides the garbage until it opens the file again.
    with Held(path, LOCKS["BEGIN IMMEDIATE"]) as held:
        wg0.publish([*gone, peer(3)])
        monitor.hear(r".*state\.db cannot be used: .*")
        held.release()
    monitor.hear(r".*The damaged store is kept as .*")
    monitor.hear(r".*state\.db can be used again after .*")
    wg0.settle()
    numbers = ask(path, "SELECT min(seq), (SELECT count(*) FROM sessions) FROM events WHERE wall > ?", time.time() - 60)
    assert numbers[0][0] > before[0] and numbers[0][1] == 0
    assert monitor.stop() == 0
    wg0.close()
    after = first_numbers_after(place, path, before)
    assert after[0] > before[0] and after[1] > before[1], "a session number was given away twice"
    assert list(place.path.glob("state.db.damaged-*"))


# --- Replaced while it runs ---------------------------------------------------------------------------------------


def shorten(backup: Path) -> None:
    """Other pages than those of the store: its write-ahead log would destroy them."""
    change(backup, "DELETE FROM events WHERE seq % 3")
    change(backup, "VACUUM")


class Way(NamedTuple):
    name: str
    prepare: Callable[[Path], object]
    put: Callable[[Path, Path], object]


WAYS = [
    Way("by mv", lambda backup: None, Path.replace),
    Way("by mv of a vacuumed one", shorten, Path.replace),
    Way("by .restore", lambda backup: None, copy),
]
REPLACED = re.compile(r"\[WARN\] .*replaced.* (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) .*?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")


@pytest.mark.parametrize("way", WAYS, ids=ids(WAYS))
def test_a_backup_that_replaces_the_store_while_it_runs_is_continued(place: Place, path: Path, way: Way) -> None:
    flags = ["--state-path", str(path)]
    crowd = [peer(100 + number) for number in range(60)]
    with place.device(peers=crowd):
        first = place.start(*flags)
        see(first, "OFFLINE", crowd[-1])
        assert first.stop() == 0
    ann, bob, cyd = peer(1, now()), peer(2, now()), peer(3, now())
    wg0 = place.device(peers=[*crowd, ann])
    monitor = place.start(*flags)
    see(monitor, "ONLINE", ann)
    wg0.settle()
    backup = place.path / "backup.db"
    made = time.time()
    copy(path, backup)
    history = "SELECT seq, line FROM events"
    forgotten = set(ask(backup, history))
    way.prepare(backup)
    kept = set(ask(backup, history))
    forgotten -= kept
    assert len(kept) > 20
    remove(backup, "-wal", "-shm")
    wg0.publish([*crowd[2:], ann, bob])
    see(monitor, "ONLINE", bob)
    wg0.settle()
    numbers = dict(ask(path, OPEN_SESSIONS))
    ((last,),) = ask(path, "SELECT max(seq) FROM events")
    time.sleep(1)
    replaced = time.time()
    way.put(backup, path)
    wg0.publish([*crowd[2:], ann, bob, cyd])
    see(monitor, "ONLINE", cyd)
    wg0.settle()
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    after = set(ask(path, history))
    assert kept <= after, "the history of the backup was lost"
    assert not forgotten & after, "the log of the former store was replayed"
    found = monitor.await_("the warning", lambda: [m for m in map(REPLACED.search, lines_of(place.trail)) if m])
    assert wall_of(found[0].group(1)) <= made + 1, "the backup does not know more than it was told"
    assert int(replaced) - 1 <= wall_of(found[0].group(2)) <= time.time()
    assert dict(ask(path, OPEN_SESSIONS)).items() >= numbers.items(), "open sessions did not go on"
    assert monitor.stop() == 0
    judge_sessions(place, path)
    assert kept <= set(ask(path, history))
    about_cyd = ask(path, "SELECT seq FROM events WHERE public_key = ?", cyd.public_key)
    assert len(about_cyd) == 1 and about_cyd[0][0] > last
    assert dict(ask(path, OPEN_SESSIONS))[cyd.public_key] > max(numbers.values())
    trail = lines_of(place.trail)
    assert len(about(trail, "ONLINE", ann)) == len(about(trail, "ONLINE", bob)) == 1
    second = place.start(*flags)
    await_gaps(second, 2)
    wg0.publish([*crowd[2:], ann, cyd])
    see(second, "REMOVED", bob)
    assert second.stop() == 0
    assert ask(path, "SELECT reason FROM sessions WHERE public_key = ?", bob.public_key) == [("removed",)]
    more = lines_of(place.trail)[len(trail) :]
    assert sum("WARN" not in line and "Monitor" not in line for line in more) == 1, "the restart reported events"


def foreign(copied: Path) -> None:
    copied.unlink()
    change(copied, "CREATE TABLE songs (title TEXT)", "INSERT INTO songs VALUES ('Yesterday')")


def newer(copied: Path) -> None:
    change(copied, "PRAGMA user_version = 99")


def newer_with_other_tables(copied: Path) -> None:
    change(copied, "DROP TABLE peers", "CREATE TABLE tunnels (a)", "PRAGMA user_version = 99", "VACUUM")


INTRUDERS: Dict[str, Callable[[Path], object]] = {
    "a database of another program": foreign,
    "a store of a newer version": newer,
    "a store of a newer version with other tables": newer_with_other_tables,
    "a letter": lambda copied: copied.write_bytes(LETTER),
    "an image of a disk": lambda copied: copied.write_bytes(b"\0" * 300_000),
}


@pytest.mark.parametrize("intruder", INTRUDERS)
def test_something_else_in_the_place_of_the_store_is_moved_aside_unchanged(
    place: Place, path: Path, intruder: str
) -> None:
    flags = ["--state-path", str(path)]
    ann, bob, cyd = peer(1, now()), peer(2, now()), peer(3, now())
    wg0 = place.device(peers=[ann])
    monitor = place.start(*flags)
    see(monitor, "ONLINE", ann)
    wg0.settle()
    other = place.path / "other"
    copy(path, other)
    INTRUDERS[intruder](other)
    wg0.publish([ann, bob])
    see(monitor, "ONLINE", bob)
    wg0.settle()
    numbers, ((last,),) = ask(path, OPEN_SESSIONS), ask(path, "SELECT max(seq) FROM events")
    content = other.read_bytes()
    other.replace(path)
    wg0.publish([ann, bob, cyd])
    see(monitor, "ONLINE", cyd)
    aside = monitor.match(r"\[WARN\] The damaged store is kept as (.*state\.db\.damaged-.*)").group(1)
    wg0.settle()
    assert Path(aside).read_bytes() == content
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, OPEN_SESSIONS)[:2] == numbers, "the new store does not begin with the current state"
    assert sorted(ask(path, "SELECT public_key FROM peers")) == sorted((each.public_key,) for each in (ann, bob, cyd))
    assert ask(path, "SELECT count(*) FROM events WHERE seq <= ?", last) == [(0,)]
    assert ask(path, "SELECT seq > ? FROM events WHERE public_key = ?", last, cyd.public_key) == [(1,)]
    assert monitor.stop() == 0
    second = place.start(*flags)
    await_gaps(second, 1)
    wg0.publish([ann, cyd])
    see(second, "REMOVED", bob)
    assert second.stop() == 0
    judge_sessions(place, path)
    assert len(about(lines_of(place.trail), "ONLINE", ann)) == 1
    assert ask(path, "SELECT reason FROM sessions WHERE public_key = ?", bob.public_key) == [("removed",)]
    assert Path(aside).read_bytes() == content


# --- Other settings and zones at the next start -------------------------------------------------------------------


def test_sessions_of_a_peer_do_not_overlap_when_the_threshold_changes_twice(place: Place, path: Path) -> None:
    """A lower threshold ends the session at the last received bytes. A higher one begins another by the same handshake."""
    flags = ["--state-path", str(path)]
    ann = peer(1, now() - 60)
    wg0 = place.device(peers=[ann])
    first = place.start(*flags)
    see(first, "ONLINE", ann)
    wg0.settle()
    wg0.publish([ann._replace(rx=5000)])
    wg0.settle()
    assert first.stop() == 0
    second = place.start(*flags, "--threshold", "30")
    see(second, "OFFLINE", ann)
    assert second.stop() == 0
    third = place.start(*flags, "--threshold", "600", "--interface", "wg0")
    see(third, "ONLINE", ann, 2)
    wg0.publish([])
    see(third, "REMOVED", ann)
    assert third.stop() == 0
    one, two = ask(path, "SELECT start, last_seen, length, reason FROM sessions ORDER BY number")
    assert one[1] > one[0], "the received bytes were no sign of life"
    assert two[0] >= one[1] - ROUNDING_S, "the sessions overlap"
    assert two[1] >= two[0] and min(one[2], two[2]) >= 0
    assert two[3] == "removed"


def test_each_run_has_a_row_with_its_settings(place: Place, path: Path) -> None:
    version = command_line("--version").stdout.split()[-1]
    wg0 = place.device(peers=[peer(1, now())])
    began = time.time()
    runs: List[Tuple[List[str], int]] = [
        ([], signal.SIGTERM),
        (["--threshold", "30", "--liveness", "traffic"], signal.SIGKILL),
        (["--interface", "wg1,wg0"], signal.SIGTERM),
    ]
    for flags, end in runs:
        monitor = place.start("--state-path", str(path), *flags)
        wg0.publish([peer(1, now())])
        wg0.settle()
        monitor.stop(end)
    rows = ask(path, "SELECT interval, threshold, liveness, version FROM runs ORDER BY number")
    assert rows == [
        (1, 180, "handshake", version),
        (1, 30, "traffic", version),
        (1, 180, "handshake", version),
    ]
    interfaces = [row[0] or "" for row in ask(path, "SELECT interfaces FROM runs ORDER BY number")]
    assert [sorted(names.split(",")) for names in interfaces] == [[""], [""], ["wg0", "wg1"]]
    starts = [row[0] for row in ask(path, "SELECT start FROM runs ORDER BY number")]
    assert starts == sorted(set(starts)) and began - 1 <= starts[0] and starts[-1] <= time.time()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_time_zone_that_changed_between_two_runs_is_one_line(place: Place, path: Path, end: int) -> None:
    flags = ["--state-path", str(path)]
    wg0 = place.device(peers=[peer(1, now())])
    for number, zone in enumerate(("CET-1", "CEST-2", "CEST-2")):
        monitor = place.start(*flags, environment={"TZ": zone})
        if number:
            await_gaps(monitor, number)
        wg0.publish([peer(1, now())])
        wg0.settle()
        monitor.stop(end)
    told_of = [line for line in lines_of(place.trail) if "Local time" in line]
    assert [line.partition("[WARN] ")[2] for line in told_of] == ["Local time is now UTC+02:00, it was UTC+01:00"]
    assert [line[20:] for line in stored_lines(place, path) if "Local time" in line] == [told_of[0][20:]]


# --- Paths --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [False, True], ids=["by its name", "through a link to its directory"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock", ".last"])
def test_a_trail_in_a_file_of_the_store_is_rejected(place: Place, path: Path, suffix: str, linked: bool) -> None:
    directory = place.path
    if linked:
        directory = place.path / "link"
        directory.symlink_to(place.path)
    log_path = str(directory / ("state.db" + suffix))
    monitor = place.start("--log-path", log_path, "--state-path", str(path))
    started = "Monitor started"
    wait_for("its end", lambda: monitor.process.poll() is not None or started in "".join(monitor.console()))
    assert monitor.process.poll() == 2, "it started"
    (line,) = monitor.console()
    assert re.match("wg_monitor: --(log|state)-path: ", line) and "/state.db" + suffix in line
    assert not list(place.path.glob("state.db*")), "it created a file"


def test_a_store_in_the_lock_of_the_trail_is_rejected(place: Place) -> None:
    store = place.path / ".trail.lock"
    monitor = place.start("--state-path", str(store), "--log-path", str(place.path / "trail"))
    assert monitor.wait() == 2
    assert "it or its lock is a file of the store" in "".join(monitor.console())
    assert not store.exists()


# --- More history -------------------------------------------------------------------------------------------------


def allowed_ips(path: Path, it: Peer) -> List[Tuple[Optional[str], float]]:
    """What a peer was allowed, in the last column, and since when. None = it was removed."""
    query = "SELECT since, * FROM allowed_ips WHERE interface = 'wg0' AND public_key = ? ORDER BY since"
    return [(row[-1], row[0]) for row in ask(path, query, it.public_key)]


def test_allowed_ips_have_a_row_for_each_change(place: Place, path: Path) -> None:
    ann, bob = peer(1, now())._replace(allowed_ips="10.0.0.1/32"), peer(2)._replace(allowed_ips="")
    flags = ["--state-path", str(path)]
    wg0 = place.device(peers=[ann, bob])
    monitor = place.start(*flags)
    see(monitor, "ONLINE", ann)
    wg0.settle()
    more = ann._replace(allowed_ips="10.0.0.1/32,10.1.0.0/24")
    wg0.publish([more, bob])
    see(monitor, "CHANGED", ann)
    wg0.publish([bob])
    see(monitor, "REMOVED", ann)
    wg0.publish([more._replace(allowed_ips="10.1.0.0/24,10.0.0.1/32"), bob])
    see(monitor, "ONLINE", ann, 2)
    assert monitor.stop() == 0
    wg0.publish([more, bob])  # the same ones in another order
    second = place.start(*flags)
    await_gaps(second, 1)
    wg0.settle()
    assert second.stop() == 0
    rows = allowed_ips(path, ann)
    assert [row[0] and sorted(row[0].split(",")) for row in rows] == [
        ["10.0.0.1/32"],
        ["10.0.0.1/32", "10.1.0.0/24"],
        None,
        ["10.0.0.1/32", "10.1.0.0/24"],
    ]
    kinds = "SELECT wall FROM events WHERE public_key = ? AND kind IN ('ONLINE', 'CHANGED', 'REMOVED') ORDER BY seq"
    assert [row[1] for row in rows] == [row[0] for row in ask(path, kinds, ann.public_key)]
    assert [row[0] for row in allowed_ips(path, bob)] == [""]


def addresses(path: Path, it: Peer) -> List[Tuple[str, float, float]]:
    """Each address with the times at which it was first and last seen."""
    rows = ask(path, "SELECT * FROM addresses WHERE interface = 'wg0' AND public_key = ?", it.public_key)
    return sorted((row[2].strip("[]"), row[3], row[4]) for row in rows)


def test_each_address_of_a_peer_has_one_row(place: Place, path: Path) -> None:
    ann = peer(1, now())._replace(endpoint="192.0.2.1:1000")
    wg0 = place.device(peers=[ann, peer(2)._replace(endpoint="")])
    began = time.time()
    monitor = place.start("--state-path", str(path))
    see(monitor, "ONLINE", ann)
    for times, endpoint in enumerate(("[2001:db8::7]:4500", "192.0.2.1:2000"), 1):
        wg0.publish([ann._replace(endpoint=endpoint), peer(2)._replace(endpoint="")])
        see(monitor, "ROAMING", ann, times)
    wg0.publish([ann._replace(endpoint="192.0.2.1:3000"), peer(2)._replace(endpoint="")])  # no event
    wg0.settle()
    assert monitor.stop() == 0
    found = addresses(path, ann)
    assert [row[0] for row in found] == ["192.0.2.1", "2001:db8::7"]
    assert all(began - 1 <= first <= last <= time.time() for _, first, last in found)
    assert found[0][1] < found[1][1]
    assert addresses(path, peer(2)) == []


def test_the_view_of_present_sessions_has_those_that_are_open(place: Place, path: Path) -> None:
    ann, bob = peer(1, now()), peer(2, now())
    wg0 = place.device(peers=[ann._replace(rx=100), bob])
    monitor = place.start("--state-path", str(path))
    see(monitor, "ONLINE", bob)
    wg0.publish([ann._replace(rx=900), bob._replace(handshake=0)])
    see(monitor, "OFFLINE", bob)
    assert monitor.stop() == 0
    rows = ask(path, "SELECT number, interface, public_key, start, received FROM sessions_now WHERE public_key <> ''")
    mine = [row for row in rows if row[2] == ann.public_key]
    ((number,),) = ask(path, "SELECT number FROM sessions WHERE public_key = ?", ann.public_key)
    assert mine == [(number, "wg0", ann.public_key, ann.handshake, 800)]


# --- Stores of older versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_older_version_is_migrated_with_all_that_it_knows(place: Place, path: Path, version: int) -> None:
    hook, ran, _ = recorder(place)
    old = OldStore(path, version)
    tables = ((OLD_SESSIONS, "sessions"), (OLD_EVENTS, "events"))
    before = [ask(path, "SELECT %s FROM %s" % table) for table in tables]
    remove(path, "-wal", "-shm")
    wg0 = place.device(peers=[old.ann, old.bob, old.dan])
    monitor = place.start("--state-path", str(path), "--on-change-script", str(hook))
    ((since, until),) = await_gaps(monitor, 1)
    wg0.settle()
    wait_for("the hook", lambda: runs_of(ran))
    wg0.settle()
    wg0.publish([old.ann, old.bob, old.dan, peer(1, now())])
    see(monitor, "ONLINE", peer(1))
    wait_for("the second hook", lambda: len(runs_of(ran)) == 2)
    assert monitor.stop() == 0

    assert ask(path, "PRAGMA user_version") == [(3,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    for table, rows in zip(tables, before):
        kept = set(ask(path, "SELECT %s FROM %s" % table))
        assert set(rows) <= kept, "%s were lost or changed" % table[1]
    assert since == int(old.wall)
    ((number, unwatched),) = ask(path, "SELECT number, unwatched FROM sessions WHERE reason IS NULL AND number < 4")
    assert number == 3 and abs(unwatched - (until - since)) <= 2
    trail = place.trail.read_bytes().splitlines(keepends=True)
    assert [line for line in trail if line in old.lines] == [old.lines[-1]], "the trail lacked the last line only"
    happened = [line for line in lines_of(place.trail) if re.search(r"ONLINE|OFFLINE|REMOVED|CHANGED", line)]
    assert len(happened) == 2, "known peers had events: %s" % happened
    assert [row[:2] for row in runs_of(ran)] == [(8, "ONLINE"), (runs_of(ran)[1][0], "ONLINE")]
    assert runs_of(ran)[1][0] > 8
    assert dict(ask(path, OPEN_SESSIONS))[peer(1).public_key] == 4

    peers = (old.ann, old.bob, old.cyd, old.dan)
    history = {it: [ips for ips, _ in groupby(row[0] for row in allowed_ips(path, it))] for it in peers}
    assert history[old.ann] == ["10.0.0.9/32", "10.0.0.1/32"]
    assert history[old.bob] == [old.bob.allowed_ips]
    assert history[old.cyd] == [old.cyd.allowed_ips, None]
    assert history[old.dan] == [old.dan.allowed_ips]
    assert [row[0] for row in addresses(path, old.ann)] == ["192.0.2.1", "198.51.100.7"]
    assert [row[0] for row in addresses(path, old.cyd)] == ["2001:db8::3"]
    assert addresses(path, old.bob) == []
    assert all(first <= last <= time.time() for _, first, last in addresses(path, old.ann))


def test_a_migrated_store_is_not_migrated_again(place: Place, path: Path) -> None:
    old = OldStore(path, 2)
    remove(path, "-wal", "-shm")
    wg0 = place.device(peers=[old.ann, old.bob, old.dan])
    found = []
    for number in (1, 2):
        monitor = place.start("--state-path", str(path))
        await_gaps(monitor, number)
        wg0.publish([old.ann, old.bob, old.dan])
        wg0.settle()
        assert monitor.stop() == 0
        tables = ("allowed_ips", "addresses", "sessions")
        found.append([ask(path, "SELECT count(*) FROM " + table)[0][0] for table in tables])
    assert found[0] == found[1] and all(found[0])


def test_the_first_save_after_a_fault_has_all_that_changed_meanwhile(place: Place, path: Path) -> None:
    """Also what caused no event: it was to wait for the next checkpoint, of which the fault may have taken one."""
    ann, bob = peer(1, now() - 60), peer(2, now() - 60)
    wg0 = place.device(peers=[ann, bob])
    monitor = place.start("--state-path", str(path))
    see(monitor, "ONLINE", bob)
    wg0.settle()
    bob = bob._replace(handshake=now(), rx=4321)
    with Held(path, LOCKS["BEGIN IMMEDIATE"]):
        wg0.publish([ann._replace(endpoint="198.51.100.9:9"), bob])
        monitor.hear(r"\[WARN\] .*state\.db cannot be used: database is locked; .*")
    monitor.hear(r"\[WARN\] .*state\.db can be used again after .*")
    monitor.stop(signal.SIGKILL)
    assert ask(path, "SELECT handshake, rx FROM peers WHERE public_key = ?", bob.public_key) == [(bob.handshake, 4321)]
