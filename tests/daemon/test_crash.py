"""Exactly once: SIGKILL ends the daemon hundreds of times, at every seam and at random moments, while its trail rotates.
Afterwards the trail, the store, the runs of the hook and the output of `wg` must agree.

Some of the daemons find their store locked. They begin without it, and get it later or never. What they did is only in the
trail then: their lines may be missing from the store, and a line in whose middle they were killed stays torn, since nobody
knows its rest. So does a line of the store that was cut before such a daemon began: the daemon cannot read its rest, and
its own lines have to begin somewhere. The store has it whole, and brings it whole into the trail later.
"""

import ast
import base64
import collections
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Counter, Dict, FrozenSet, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest

import device
from disks import DiskPlace
from harness import PATIENCE_S, PROJECT, Place, need, wait_for
from scale import scaled

DRIVER = PROJECT / "tests/support/crash_driver.py"
INTERVAL = "0.05"
THRESHOLD_S = 36_000

# Every run can reach these, and each of the first group once.
SEAMS_OF_START = (
    "before opening the store", "after opening the store", "before adopting the store", "after adopting the store",
    "before loading the store", "after loading the store", "before taking up lines", "after taking up lines",
    "before opening the trail", "after opening the trail", "before mending the trail", "after mending the trail",
    "before taking the trail's lock", "after taking the trail's lock",
)  # fmt: skip
SEAMS = (
    *SEAMS_OF_START,
    "before taking a note", "after taking a note",
    "before asking where the trail stands", "after asking where the trail stands",
    "inside a transaction", "before COMMIT", "after COMMIT",
    "in the middle of the write after a rotation",
    "before the write", "in the middle of the write", "after the write", "after fsync",
    "before marking the trail", "after marking the trail",
    "before queueing a hook", "after queueing a hook", "before starting a hook", "after starting a hook",
    "before reporting a hook", "after reporting a hook", "before marking hooks", "after marking hooks",
    "any line",
)  # fmt: skip
# Reached only if the previous run left lines in the store but not in the trail; the last two only if a line was torn.
SEAMS_OF_RECOVERY = (
    "before finding the trail's inode", "after finding the trail's inode",
    "before striking out lines", "after striking out lines",
    "in the middle of a torn line's rest",
)  # fmt: skip
# Of a daemon that finds its store locked. The first ones are reached once, when it gets the store.
SEAMS_OF_ADOPTION = (
    "before adopting the store", "after adopting the store", "before taking up lines", "after taking up lines",
    "before making room in the store", "after making room in the store",
    "before loading the store", "after loading the store",
)  # fmt: skip
SEAMS_WITHOUT_A_STORE = (
    *SEAMS_OF_ADOPTION,
    "before taking a note", "after taking a note", "inside a transaction", "before COMMIT", "after COMMIT",
    "before the write", "in the middle of the write", "after the write", "after fsync",
    "before marking the trail", "after marking the trail",
    "before queueing a hook", "before starting a hook", "before marking hooks", "after marking hooks",
    "any line",
)  # fmt: skip


# --- Changes of peers, and rotations --------------------------------------------------------------------------------


class Restless:
    """Two interfaces whose peers change after every answer. One interface appears and disappears."""

    def __init__(self, sockets: Path, seed: int) -> None:
        self.sockets, self.chance = sockets, random.Random(seed)
        old = int(time.time()) - 10 * THRESHOLD_S
        peers = [device.peer(n, old if n % 2 else 0) for n in range(5)]
        self.peers: Dict[int, device.Peer] = dict(enumerate(peers))
        self.gone: Dict[int, device.Peer] = {}
        self.device = device.Device(str(sockets), "wg0", peers)
        self.second: Optional[device.Device] = None
        self.ended = False
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()

    def live(self) -> None:
        while not self.ended:
            with self.device.changed:
                self.device.changed.wait_for(lambda: self.device.asked > 0, 0.5)
            for number in list(self.peers):
                self.move(number)
            for number in list(self.gone):
                if self.chance.random() < 0.3:
                    self.peers[number] = self.gone.pop(number)
            if self.chance.random() < 0.1:
                self.toggle()
            self.device.publish(self.peers.values())

    def move(self, number: int) -> None:
        peer, now = self.peers[number], int(time.time())
        what = self.chance.choice(("shake", "shake", "reset", "leave", "move", "ips", *["stay"] * 10))
        if what == "shake":
            self.peers[number] = peer._replace(handshake=now, rx=peer.rx + 148, tx=peer.tx + 92)
        elif what == "reset":
            self.peers[number] = peer._replace(handshake=0)
        elif what == "leave":
            self.gone[number] = self.peers.pop(number)._replace(handshake=0)
        elif what == "move":
            self.peers[number] = peer._replace(endpoint="198.51.100.%d:4500" % self.chance.randrange(1, 255))
        elif what == "ips":
            self.peers[number] = peer._replace(allowed_ips="10.%d.0.1/32" % self.chance.randrange(255))

    def toggle(self) -> None:
        if self.second is not None:
            self.second.close()
            self.second = None
        else:
            peers = [device.peer(n, int(time.time())) for n in (0, 100)]
            self.second = device.Device(str(self.sockets), "wg1", peers)

    def calm(self) -> None:
        """Stop all changes."""
        self.ended = True
        self.thread.join()

    def close(self) -> None:
        self.calm()
        self.device.close()
        if self.second is not None:
            self.second.close()


class Rotation:
    """Rotates the trail in quick succession, and sometimes creates a new one."""

    def __init__(self, trail: Path, seed: int) -> None:
        self.trail, self.chance = trail, random.Random(seed)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.rotate, daemon=True)
        self.thread.start()

    def rotate(self) -> None:
        while not self.ended.wait(self.chance.uniform(0.05, 1.0)):
            if not self.trail.exists():
                continue
            try:
                self.trail.rename("%s.%020d" % (self.trail, time.time_ns()))
            except FileNotFoundError:
                continue  # the driver was faster
            if self.chance.random() < 0.5:
                try:
                    os.close(os.open(str(self.trail), os.O_CREAT | os.O_EXCL, 0o640))
                except FileExistsError:
                    pass  # the monitor was faster

    def whole(self, mended: bool = False) -> bytes:
        """The contents of all trails, oldest first. `mended`: a torn line that was rotated away ends there."""
        self.ended.set()
        self.thread.join()
        rotated = sorted(self.trail.parent.glob("wg_monitor.log.*"))
        assert rotated
        # If no line followed the last rotation, there is no file.
        found = [path.read_bytes() for path in [*rotated, self.trail] if path.exists()]
        return b"".join(data if data.endswith(b"\n") or not (data and mended) else data + b"\n" for data in found)


# --- The expected lines, computed from the output of `wg` ---------------------------------------------------------


class Seen(NamedTuple):
    endpoint: str
    allowed_ips: str
    handshake: int
    shown: int
    online: bool


Peer = Tuple[str, str]


class State(NamedTuple):
    """What a run knows. `saved`: what its store has, if that is something else."""

    peers: Dict[Peer, Seen]
    interfaces: Dict[str, bool]  # up
    saved: "Optional[State]" = None
    without: bool = False  # the run has begun without its store
    gone: FrozenSet[Peer] = frozenset()  # without it: the peers that the run has removed

    def after_a_crash(self) -> "State":
        """The store is written only for events. After a crash it holds each peer as of its last event, as of the first
        reading of the run or of an interface, or as of one after blind time. Later handshakes of the session are lost.
        So is all that a run without it did."""
        return self.saved or self

    def after_a_checkpoint(self) -> "State":
        return self if self.without else self._replace(saved=State(self.peers, self.interfaces))

    def begun_without_it(self) -> "State":
        return State({}, {}, self, without=True)

    def adopted(self) -> "State":
        """The store came back. It remembers peers that the run has not seen, and what the run has forgotten of others."""
        past = self.saved
        assert past is not None and self.without
        peers = {who: seen for who, seen in past.peers.items() if who not in self.gone}
        for who, seen in self.peers.items():
            old = past.peers.get(who, seen)
            peers[who] = seen._replace(shown=seen.shown or old.shown, endpoint=seen.endpoint or old.endpoint)
        interfaces = {**past.interfaces, **self.interfaces}
        return State(peers, interfaces, State(peers, interfaces))


def dump(output: bytes) -> Tuple[Set[str], Dict[Tuple[str, str], Tuple[str, str, int]]]:
    interfaces, peers = set(), {}
    for line in output.decode().splitlines():
        fields = line.split("\t")
        if len(fields) == 5:
            interfaces.add(fields[0])
        else:
            name, key, _, endpoint, ips, handshake = fields[:6]
            peers[name, key] = (endpoint, ips, int(handshake))
    return interfaces, peers


def short(key: str) -> str:
    return key[:8] + "..." + key[-8:]


def ips_text(ips: str) -> str:
    return "[IP: %s]" % ips.replace("/32", "")


def line(kind: str, who: Tuple[str, str], seen: Seen, new: bool) -> str:
    """The expected line, with `@` and epoch seconds for the handshake: its text depends on the date of the line."""
    shape = "%-7s [%s] %s (%s) %s%s (handshake: @%d)"
    return shape % (
        kind,
        who[0],
        short(who[1]),
        seen.endpoint,
        ips_text(seen.allowed_ips),
        " new" if new else "",
        seen.shown,
    )


def next_state(state: State, entry: str, first: bool) -> Tuple[State, List[str]]:
    """Apply the table of events to one reading. `first`: the first reading of a run."""
    output, complaints = [base64.b64decode(part) for part in entry.split(" ")[1:]]
    there, printed = dump(output)
    unreadable = re.findall("Unable to access interface (.*?): ", complaints.decode())
    peers, interfaces, lines, gone = dict(state.peers), dict(state.interfaces), [], set(state.gone)
    for name in unreadable if first else ():
        interfaces.setdefault(name, True)
    for name in there:
        if not interfaces.get(name, first):
            lines.append("IFUP    [%s] %d peers" % (name, sum(who[0] == name for who in printed)))
        interfaces[name] = True
    for name in interfaces:
        if name not in there and name not in unreadable and interfaces[name]:
            interfaces[name] = False
            mine = [who for who in peers if who[0] == name]
            online = sum(peers[who].online for who in mine)
            was = "was" if online == 1 else "were"
            lines.append("IFDOWN  [%s] %d peers, %d %s online" % (name, len(mine), online, was))
            for who in mine:
                if peers[who].online:
                    peers[who] = peers[who]._replace(online=False)
                    lines.append(line("OFFLINE", who, peers[who], False))
    for who in list(peers):
        if who[0] in there and who not in printed:
            lines.append(line("REMOVED", who, peers.pop(who), False))
            gone.add(who)
    for who, (endpoint, ips, handshake) in printed.items():
        before = peers.get(who)
        online = handshake > time.time() - THRESHOLD_S
        after = Seen(endpoint, ips, handshake, handshake or (before.shown if before else 0), online)
        peers[who] = after
        if before is None or before.online != online:
            lines.append(line("ONLINE" if online else "OFFLINE", who, after, before is None))
        elif online and before.endpoint.rpartition(":")[0] != endpoint.rpartition(":")[0]:
            roaming = (who[0], short(who[1]), endpoint, ips_text(ips), before.endpoint)
            lines.append("ROAMING [%s] %s (%s) %s from %s" % roaming)
        if before is not None and before.allowed_ips != ips:
            changed = (who[0], short(who[1]), endpoint, ips_text(ips), ips_text(before.allowed_ips))
            lines.append("CHANGED [%s] %s (%s) %s from %s" % changed)
    if state.without:
        return State(peers, interfaces, state.saved, True, frozenset(gone)), sorted(lines)
    if first:
        return State(peers, interfaces, State(peers, interfaces)), sorted(lines)
    if not lines:
        return State(peers, interfaces, state.saved), lines
    old = state.saved.peers if state.saved else {}
    happened = "\n".join(lines)
    kept = {who: seen if told_of(who, happened) else old.get(who, seen) for who, seen in peers.items()}
    return State(peers, interfaces, State(kept, interfaces)), sorted(lines)


def told_of(who: Tuple[str, str], lines: str) -> bool:
    return "[%s] %s " % (who[0], short(who[1])) in lines


def handshakes_as_epochs(text: str, wall: float) -> str:
    """A line of the trail with the handshake in the form of `line`."""

    def epoch(match: "re.Match[str]") -> str:
        when = match.group(1)
        if when == "Never":
            return "(handshake: @0)"
        date = time.strftime("%Y-%m-%d ", time.localtime(wall)) if len(when) == 8 else ""
        return "(handshake: @%d)" % time.mktime(time.strptime(date + when, "%Y-%m-%d %H:%M:%S"))

    return re.sub(r"\(handshake: (.*)\)$", epoch, text)


def explain(truth: Sequence[str], told: Sequence[str]) -> None:
    """Check that the readings explain exactly these lines. The last reading of a killed run may be unprocessed. Then
    the next reading is compared with the one before. Without a store, the last reading of a killed run may also have been
    written in part. All possibilities are followed."""
    ways: List[Tuple[int, State]] = [(0, State({}, {}))]  # the number of explained lines, and the state after them
    steps = [entry for entry in truth if not entry.startswith("line ")]
    checkpoints = checkpoints_in(truth)
    last_readings = {last_reading_before(steps, number) for number, entry in enumerate([*steps, "run"]) if entry == "run"}
    first = loaded = False
    for number, entry in enumerate(steps):
        if entry == "run":
            first, loaded = True, False
            ways = distinct((at, state.after_a_crash()) for at, state in ways)
            continue
        if entry == "loaded":
            loaded = True
            continue
        if entry == "adopted":
            after = [(at, state.adopted()) for at, state in ways if state.without]
            last = last_reading_before(steps, number) in last_readings
            ways = distinct([*after, *(ways if last else [])])  # killed before the store was saved, too
            continue
        if first and not loaded:
            ways = [(at, state.begun_without_it()) for at, state in ways]
        found: List[Tuple[int, State]] = []
        for at, state in ways:
            after_it, lines = next_state(state, entry, first)
            after_it = after_it.after_a_checkpoint() if number in checkpoints else after_it
            if sorted(told[at : at + len(lines)]) == lines:
                found.append((at + len(lines), after_it))
            if number in last_readings:
                found.append((at, state))
            if number in last_readings and state.without and state.saved is not None:
                parts = [told[at : at + count] for count in range(1, len(lines))]
                found += [(at + len(part), state.saved) for part in parts if is_part(part, lines)]
        if not found:
            at, state = ways[0]
            expected = next_state(state, entry, first)[1]
            pytest.fail(
                "step %d of %d (first of its run: %s, without a store: %s) should give\n  %s\n"
                "after line %d, but the trail has\n  %s"
                % (
                    number,
                    len(steps),
                    first,
                    state.without,
                    "\n  ".join(expected),
                    at,
                    "\n  ".join(told[at : at + 8]),
                )
            )
        ways, first = distinct(found), False
    assert len(told) in [at for at, _ in ways], "the trail has lines that no reading explains: %s" % list(told[ways[0][0] :])


def last_reading_before(steps: Sequence[str], number: int) -> int:
    """The number of the reading, -1 if the run has none."""
    while number > 0 and steps[number - 1] != "run":
        number -= 1
        if steps[number].startswith("read "):
            return number
    return -1


def checkpoints_in(truth: Sequence[str]) -> Set[int]:
    """The numbers, not counting lines, of the readings after which the store has all that the daemon knows: the first one
    of an interface in its run, one after blind time, as a busy machine causes it, and one with which a store came back."""
    number, found = -1, set()
    seen: Set[str] = set()
    for entry in truth:
        what, *words = entry.split(" ")
        if what == "line":
            text = base64.b64decode(words[3])
            if text.startswith(b"Not watching") or b"can be used again" in text:
                found.add(number)
            continue
        number += 1
        if what == "run":
            seen = set()
        elif what == "read":
            interfaces = dump(base64.b64decode(words[0]))[0]
            if not interfaces <= seen:
                found.add(number)
            seen |= interfaces
    return found


def is_part(part: Sequence[str], lines: Sequence[str]) -> bool:
    return not collections.Counter(part) - collections.Counter(lines)


def distinct(ways: Iterable[Tuple[int, State]]) -> List[Tuple[int, State]]:
    found: List[Tuple[int, State]] = []
    for way in ways:
        if way not in found:
            found.append(way)
    return found


# --- The lines that were given ------------------------------------------------------------------------------------


class Given(NamedTuple):
    """A line with its number, as a run gave it. It may have been killed before anybody got the line."""

    run: int
    wall: float
    kind: str
    text: str
    line: bytes


class Runs(NamedTuple):
    given: Dict[int, List[Given]]  # by number
    without: Set[int]  # the runs that began without the store
    loaded: Set[int]  # the runs that had it before they gave a line

    def torn_by(self, number: int) -> bool:
        """Whether a line that this run left half done may stay torn: nobody knew its rest, or the next run could not."""
        while number not in self.without:
            number += 1
            if number in self.loaded or number > max(self.without, default=0):
                return False
        return True


def given_in(truth: Sequence[str]) -> Runs:
    runs, number = Runs({}, set(), set()), 0
    for entry in truth:
        what, *words = entry.split(" ")
        if what == "run":
            number += 1
        elif what == "loaded" and number not in runs.without:
            runs.loaded.add(number)
        elif what == "line":
            text, line = [base64.b64decode(word) for word in words[3:]]
            one = Given(number, float(words[1]), words[2], text.decode(), line)
            runs.given.setdefault(int(words[0]), []).append(one)
            if number not in runs.loaded:
                runs.without.add(number)
    return runs


class Written(NamedTuple):
    """What is in the trails: the numbers of whole lines in their order, and what was torn."""

    numbers: List[int]
    torn: List[bytes]


def written_in(whole: bytes) -> Written:
    written = Written([], [])
    lines = whole.split(b"\n")
    assert lines.pop() == b"", "the last line is torn"
    for text in lines:
        try:
            written.numbers.append(json.loads(text.decode())["seq"])
        except ValueError:
            written.torn.append(text)
    return written


# --- The runs -----------------------------------------------------------------------------------------------------


def launch(place: Place, seam: str, nth: int, *flags: str, patience: str = "30") -> "subprocess.Popen[bytes]":
    driver = [sys.executable, "-I", str(DRIVER), seam, str(nth), INTERVAL, patience, str(place.path / "truth")]
    with (place.path / "console").open("ab") as console:
        return subprocess.Popen(
            [*place.enter(), *driver, "--threshold", str(THRESHOLD_S), *flags],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )


def die_at(place: Place, seam: str, nth: int, patience_s: float, *flags: str, patience: str = "30") -> bool:
    """Run the daemon until SIGKILL. Returns whether the seam sent it, not the timeout."""
    process = launch(place, seam, nth, *flags, patience=patience)
    try:
        status = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    assert status == -signal.SIGKILL, (seam, (place.path / "console").read_text()[-3000:])
    return True


HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
database.execute("ROLLBACK")
"""


@contextmanager
def locked(store: Path, seconds: float) -> Iterator[None]:
    """Another process holds a lock on the store for so long."""
    holder = subprocess.Popen([sys.executable, "-I", "-c", HOLD, str(store), str(seconds)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        yield
    holder.kill()
    holder.wait()


ASK = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall())"


KINDS = ("ONLINE", "OFFLINE", "ROAMING", "CHANGED", "REMOVED", "IFUP", "IFDOWN")

READING = b"Reading: "  # said after each one
DUE = "SELECT seq FROM events WHERE hook = 1"


class Story:
    """A daemon that is killed repeatedly."""

    def __init__(self, place: DiskPlace, seed: int, directory: Path, *flags: str) -> None:
        self.place = place
        self.store = directory / "state.db"
        self.chance = random.Random(seed)
        self.ran = place.path / "ran"
        hook = place.script("hook", 'echo "$PEER_SEQ $PEER_IFACE $PEER_PUBKEY" >>%s\n' % self.ran)
        self.flags = ["--state-path", str(self.store), "--on-change-script", str(hook), "--debug", *flags]
        self.json = "json" in flags
        self.hits: Counter[str] = collections.Counter()
        self.kills = 0

    def rows(self, query: str) -> List[Any]:
        """Query the store inside the disk's namespace. SQLite resolves links, and /proc/PID/root is one."""
        disk = self.place.disk
        enter = disk.enter if disk else []
        answer = subprocess.run(
            [*enter, sys.executable, "-I", "-c", ASK, str(self.store), query], stdout=subprocess.PIPE, check=True
        )
        return ast.literal_eval(answer.stdout.decode())  # type: ignore[no-any-return]

    def die(self, seam: str, nth: int, patience_s: float, patience: str = "30") -> None:
        hit = die_at(self.place, seam, nth, patience_s, *self.flags, patience=patience)
        self.hits[seam if hit else "a moment"] += 1
        self.kills += 1

    def die_without_a_store(self, seam: str, nth: int, patience_s: float, seconds: float) -> None:
        """Another process locks the store before the daemon starts, for so many seconds."""
        with locked(self.store, seconds):
            self.die(seam, nth, patience_s, patience="0")

    def die_anywhere(self) -> None:
        self.die("no seam", 0, self.chance.uniform(0.05, 0.9))

    def begin(self) -> "subprocess.Popen[bytes]":
        """Launch the daemon and wait until it has made a reading, however slow the machine is."""
        console = self.place.path / "console"
        before = console.read_bytes().count(READING) if console.exists() else 0
        process = launch(self.place, "no seam", 0, *self.flags)
        wait_for("a reading", lambda: console.read_bytes().count(READING) > before)
        return process

    def finish(self) -> None:
        """Run the daemon undisturbed until all hooks are done."""
        process = self.begin()
        try:
            wait_for("all hooks", lambda: not self.rows(DUE))
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0

    def judge(self, whole: bytes) -> None:
        events = self.rows(
            "SELECT seq, wall, kind, hook, line, interface, public_key, session, new FROM events ORDER BY seq"
        )
        assert b"may be duplicated" not in whole
        truth = (self.place.path / "truth").read_text().splitlines()
        runs = given_in(truth)
        stored = {row[0]: row[4] for row in events}
        there = self.judge_trail(whole, stored, runs) if self.json else self.judge_order(whole, events)
        numbers = sorted(number for number in {*there, *runs.given} if number <= max(there))
        for before, number in zip([0, *numbers], numbers):
            # If power fails before the first store is on the disk, nobody can read it: the numbers go on from the clock.
            begun_anew = before < 100 and number > 10**12
            assert number == before + 1 or begun_anew, "number %d was skipped" % (before + 1)
        told = []
        for number in sorted(there):
            found = runs.given[number][-1]
            assert stored.get(number, found.line) == found.line, "the store has another line %d than was given" % number
            if found.kind in KINDS:
                told.append(handshakes_as_epochs(found.text, found.wall))
        explain(truth, told)
        self.judge_hooks(events)
        self.judge_sessions(events, may_end=bool(runs.without))
        assert self.rows("PRAGMA integrity_check") == [("ok",)]

    def judge_order(self, whole: bytes, events: Sequence[Any]) -> Set[int]:
        """Every line of the store is in the trail, in the same order, and nothing else is. Returns the numbers."""
        lines = whole.split(b"\n")
        assert lines.pop() == b"", "the last line is torn"
        for number, (stands, row) in enumerate(zip(lines, events)):
            assert stands + b"\n" == row[4], "line %d of the trail differs from the store" % (number + 1)
        assert len(lines) == len(events)
        return {row[0] for row in events}

    def judge_trail(self, whole: bytes, stored: Dict[int, bytes], runs: Runs) -> Set[int]:
        """Every line of the store is in the trail exactly once, and so is each one of a run that was killed without it.
        Returns the numbers."""
        written = written_in(whole)
        numbers = set(written.numbers)
        twice = [number for number, count in collections.Counter(written.numbers).items() if count > 1]
        assert not twice, "numbers are in the trail twice:\n" + "\n".join(
            "%d: %s" % (number, [(one.run, one.run in runs.without, one.line) for one in runs.given[number]])
            for number in twice
        )
        assert not stored.keys() - numbers, "the trail lacks lines of the store: %s" % sorted(stored.keys() - numbers)
        for text in whole.split(b"\n"):
            if text and text not in written.torn:
                number = json.loads(text.decode())["seq"]
                assert text + b"\n" == runs.given[number][-1].line, "the trail has another line %d than was given" % number
        for number in numbers - stored.keys():
            assert runs.given[number][-1].run in runs.without, "the store lacks line %d" % number
        latest = 0  # the last line of a run that began with its store; only runs without theirs come before older lines
        for number in written.numbers:
            assert number > latest, "line %d comes after line %d" % (number, latest)
            if runs.given[number][-1].run not in runs.without:
                latest = number
        self.judge_torn(written.torn, stored, runs)
        return numbers

    def judge_torn(self, torn: Sequence[bytes], stored: Dict[int, bytes], runs: Runs) -> None:
        """A torn line is one of a run that was killed without the store, or one of the store before such a run began."""
        given = [one for several in runs.given.values() for one in several]
        for text in torn:
            owners = [one for one in given if one.line.startswith(text)]
            assert any(runs.torn_by(one.run) for one in owners), "torn: %r" % text
        self.hits["a torn line"] += len(torn)

    def judge_hooks(self, events: Sequence[Any]) -> None:
        """Each hook ran at least once, and the hooks of one peer in the order of its events."""
        ran = [text.split() for text in self.ran.read_text().splitlines()]
        first_runs = list(dict.fromkeys(int(seq) for seq, _, _ in ran))
        done = {row[0] for row in events if row[3] == 2}
        asked = {row[0] for row in events if row[2] in ("ONLINE", "OFFLINE", "REMOVED") and row[3] != 0}
        assert done <= set(first_runs) <= asked
        assert not {row[0] for row in events if row[3] == 3}, "hooks were discarded"
        order: Dict[Tuple[str, str], int] = {}
        whose = {row[0]: (row[5], row[6]) for row in events}
        for seq in first_runs:
            assert order.get(whose[seq], 0) < seq, "the hook ran out of order for one peer"
            order[whose[seq]] = seq

    def judge_sessions(self, events: Sequence[Any], may_end: bool) -> None:
        """There is one session for each ONLINE, and it ends with the event that ends it in the trail. `may_end`: or it
        ended while a daemon was without its store. A new ONLINE of such a daemon may go on with a session of the store."""
        unknown = {number for (number,) in self.rows("SELECT number FROM sessions WHERE reason = 'unknown'")}
        assert may_end or not unknown
        open_: Dict[Tuple[str, str], int] = {}
        ended = set(unknown)
        for _, _, kind, _, _, name, key, session, new in events:
            if open_.get((name, key)) in unknown and session != open_[name, key]:
                del open_[name, key]
            if kind == "ONLINE":
                assert (name, key) not in open_ or (may_end and new and open_[name, key] == session)
                open_[name, key] = session
            elif kind in ("OFFLINE", "REMOVED") and (name, key) in open_:
                assert open_.pop((name, key)) == session
                ended.add(session)
        open_ = {who: session for who, session in open_.items() if session not in unknown}
        stored = self.rows("SELECT number, reason IS NULL, start <= last_seen, length >= 0 FROM sessions")
        assert {row[0] for row in stored if row[1]} == set(open_.values())
        assert {row[0] for row in stored if not row[1]} == ended
        assert all(row[2] and row[3] for row in stored if not row[1])
        assert self.rows("SELECT count(*) FROM sessions WHERE unwatched > 0")[0][0]
        # A session of the store overlaps the one that a daemon without it began and ended: nobody knows that they are one.
        lasted = "SELECT interface, public_key, start, last_seen FROM sessions WHERE reason IS NOT 'unknown' ORDER BY number"
        until: Dict[Tuple[str, str], float] = {}
        for name, key, start, last_seen in self.rows(lasted):
            # `wg` prints the whole second in which a handshake completed.
            assert start > until.get((name, key), 0.0) - 1.0, "sessions of a peer overlap"
            until[name, key] = last_seen or 0.0


def a_seed() -> int:
    """pytest prints the seed when a test fails. It repeats the changes of the peers, but not the moments of the kills."""
    seed = int(os.environ.get("WG_MONITOR_TEST_SEED") or random.randrange(1 << 30))
    print("WG_MONITOR_TEST_SEED=%d" % seed)
    return seed


@pytest.fixture
def disk_place() -> Iterator[DiskPlace]:
    made = DiskPlace()
    with made:
        yield made


@pytest.mark.heavy
def test_no_crash_loses_repeats_or_tears_a_line(disk_place: DiskPlace) -> None:
    need("unshare", "wg")
    place, seed = disk_place, a_seed()
    story = Story(place, seed, place.path)
    rotation = Rotation(place.trail, seed)
    restless = Restless(place.sockets, seed)
    try:
        while story.kills < scaled(220):
            sure = not story.kills  # the first round waits for each seam
            for seam in story.chance.sample(SEAMS, len(SEAMS)):
                most = 5000 if seam == "any line" else story.chance.choice((3, 25))
                first = sure and seam != "any line" or seam in SEAMS_OF_START
                story.die(seam, 1 if first else story.chance.randint(1, most), PATIENCE_S if sure else 1.0)
            for seam in SEAMS_OF_RECOVERY:
                story.die("in the middle of the write", story.chance.randint(3, 12), PATIENCE_S)
                story.die(seam, 1, PATIENCE_S)
            for _ in range(6):
                story.die_anywhere()
        restless.calm()
        story.finish()
    finally:
        restless.close()
    story.judge(rotation.whole())
    print(dict(story.hits))
    assert not {*SEAMS, *SEAMS_OF_RECOVERY} - set(story.hits), "a seam was never reached"


@pytest.mark.heavy
@pytest.mark.once
def test_no_crash_around_a_locked_store_loses_or_repeats_a_line(disk_place: DiskPlace) -> None:
    """Every other daemon finds its store locked. Each line of this trail says its number."""
    need("unshare", "wg")
    place, seed = disk_place, a_seed()
    story = Story(place, seed, place.path, "--log-format", "json")
    rotation = Rotation(place.trail, seed)
    restless = Restless(place.sockets, seed)
    chance = story.chance
    try:
        story.die("after COMMIT", 2, PATIENCE_S)
        while story.kills < scaled(300):
            sure = story.kills == 1  # the first round waits for each seam
            for seam in chance.sample(SEAMS_WITHOUT_A_STORE, len(SEAMS_WITHOUT_A_STORE)):
                most = 5000 if seam == "any line" else chance.choice((3, 12))
                nth = 1 if seam in SEAMS_OF_ADOPTION else chance.randint(1, most)
                seconds = chance.uniform(0.3, 0.9) if sure or chance.random() < 0.8 else PATIENCE_S
                story.die_without_a_store(seam, nth, PATIENCE_S if sure else 1.5, seconds)
                dice = chance.random()
                if dice < 0.3:
                    story.die("in the middle of the write", chance.randint(2, 8), 1.0)
                elif dice < 0.6:
                    story.die_anywhere()
        for seam in SEAMS_WITHOUT_A_STORE * 3:  # a busy machine may have missed one
            if seam not in story.hits:
                story.die_without_a_store(seam, 1, PATIENCE_S, 5.0)
        restless.calm()
        story.finish()
    finally:
        restless.close()
    story.judge(rotation.whole(mended=True))
    print(dict(story.hits))
    assert not {*SEAMS_WITHOUT_A_STORE} - set(story.hits), "a seam was never reached"


def numbered(trail: Path) -> List[Tuple[int, str]]:
    """The lines of a JSON trail: number, and kind with message or interface."""
    lines = [json.loads(line) for line in trail.read_text().splitlines()]
    return [(line["seq"], line["event"] + " " + line.get("message", line.get("peer", ""))) for line in lines]


def begun(place: Place, count: int) -> bool:
    """Whether the trail has a line of the start for each of so many daemons."""
    return place.trail.exists() and place.trail.read_text().count('"event": "START"') == count


def begin_and_end(place: Place, count: int, *flags: str, patience: str = "30") -> None:
    """Runs the daemon until the trail has the start of the last of so many ones."""
    process = launch(place, "no seam", 0, *flags, patience=patience)
    try:
        wait_for("start number %d" % count, lambda: begun(place, count))
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def no_number_is_in_the_trail_twice(place: Place) -> None:
    lines = numbered(place.trail)
    twice = {number for number, count in collections.Counter(number for number, _ in lines).items() if count > 1}
    assert not twice, [line for line in lines if line[0] in twice]


def flags_without_hook(store: Path) -> List[str]:
    return ["--state-path", str(store), "--log-format", "json"]


def test_a_line_about_a_store_that_fails_has_its_number_even_after_a_kill(place: Place) -> None:
    """Its number is given while the store is saved, after the numbers of the reading were noted."""
    need("unshare", "wg")
    store, now = place.path / "state.db", int(time.time())
    wg0 = place.device(peers=[device.peer(1, now)])
    # The lines of the start, of the first reading and of the second one are three writes.
    process = launch(place, "after the write", 3, *flags_without_hook(store))
    wait_for("the first reading", lambda: '"ONLINE"' in (place.trail.exists() and place.trail.read_text() or ""))
    with locked(store, PATIENCE_S):
        wg0.publish([device.peer(1, now), device.peer(2, now)])
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert "cannot be used" in numbered(place.trail)[-1][1]
    begin_and_end(place, 2, *flags_without_hook(store))
    no_number_is_in_the_trail_twice(place)


def test_a_line_about_a_store_that_comes_back_has_its_number_even_after_a_kill(place: Place) -> None:
    """Its number is given while the store is adopted. The next daemon finds the store locked as well."""
    need("unshare", "wg")
    store, flags = place.path / "state.db", flags_without_hook(place.path / "state.db")
    place.device(peers=[device.peer(1, int(time.time()))])
    assert die_at(place, "after marking the trail", 2, PATIENCE_S, *flags)
    with locked(store, PATIENCE_S):
        process = launch(place, "after COMMIT", 1, *flags, patience="0")
        wait_for("start number 2", lambda: begun(place, 2))
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    with locked(store, PATIENCE_S):
        begin_and_end(place, 3, *flags, patience="0")
    begin_and_end(place, 4, *flags)
    no_number_is_in_the_trail_twice(place)


@pytest.mark.heavy
@pytest.mark.once
def test_no_power_failure_loses_repeats_or_tears_a_line(disk_place: DiskPlace) -> None:
    """Trail and store lie on an ext4 that loses what was not flushed, and replays its journal at the next mount."""
    need("unshare", "wg")
    place, seed = disk_place, a_seed()
    story = Story(place, seed, place.logs)
    restless = Restless(place.sockets, seed)
    try:
        for number in range(scaled(30)):
            with place.ext4(place.logs) as disk:
                if number % 4 == 3 and place.trail.exists():
                    os.rename(str(place.trail), str(place.trail) + ".%04d" % number)
                process = story.begin() if number % 2 else launch(place, "no seam", 0, *story.flags)
                time.sleep(story.chance.uniform(0.2, 1.5))
                process.send_signal(signal.SIGSTOP)
                disk.pull_the_plug()
                process.kill()
                process.wait()
        restless.calm()
        with place.ext4(place.logs) as disk:
            story.finish()
            rotated = sorted(disk.seen.glob("wg_monitor.log.*"))
            story.judge(b"".join(path.read_bytes() for path in [*rotated, place.trail]))
    finally:
        restless.close()
