"""Exactly once: SIGKILL ends the daemon hundreds of times, at every seam and at random moments, while its trail rotates.
Afterwards the trail, the store, the runs of the hook and the output of `wg` must agree."""

import ast
import base64
import collections
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Counter, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

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
    "before opening the store", "after opening the store", "before loading the store", "after loading the store",
    "before taking the trail's lock", "after taking the trail's lock",
    "before opening the trail", "after opening the trail", "before mending the trail", "after mending the trail",
)  # fmt: skip
SEAMS = (
    *SEAMS_OF_START,
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

    def whole(self) -> bytes:
        """The contents of all trails, oldest first."""
        self.ended.set()
        self.thread.join()
        rotated = sorted(self.trail.parent.glob("wg_monitor.log.*"))
        assert rotated
        # If no line followed the last rotation, there is no file.
        return b"".join(path.read_bytes() for path in [*rotated, self.trail] if path.exists())


# --- The expected lines, computed from the output of `wg` ---------------------------------------------------------


class Seen(NamedTuple):
    endpoint: str
    allowed_ips: str
    handshake: int
    shown: int
    online: bool


class State(NamedTuple):
    peers: Dict[Tuple[str, str], Seen]
    interfaces: Dict[str, bool]  # up
    saved: "Optional[State]" = None

    def after_a_crash(self) -> "State":
        """The store is written only for events. After a crash it holds each peer as of its last event or as of the
        first reading of the run. Later handshakes of the session are lost."""
        return self.saved or self


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
    output, complaints = [base64.b64decode(part) for part in entry.split(" ")]
    there, printed = dump(output)
    unreadable = re.findall("Unable to access interface (.*?): ", complaints.decode())
    peers, interfaces, lines = dict(state.peers), dict(state.interfaces), []
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
    the next reading is compared with the one before. All possibilities are followed."""
    ways: List[Tuple[int, State]] = [(0, State({}, {}))]  # the number of explained lines, and the state after them
    first = False
    for number, entry in enumerate(truth):
        if entry == "run":
            first = True
            ways = [(at, state.after_a_crash()) for at, state in ways]
            continue
        last_of_run = number + 1 == len(truth) or truth[number + 1] == "run"
        found: List[Tuple[int, State]] = []
        for at, state in ways:
            after, lines = next_state(state, entry, first)
            way = (at + len(lines), after)
            if sorted(told[at : at + len(lines)]) == lines and way not in found:
                found.append(way)
            if last_of_run and (at, state) not in found:
                found.append((at, state))
        if not found:
            at, state = ways[0]
            expected = next_state(state, entry, first)[1]
            pytest.fail(
                "reading %d of %d (first of its run: %s) should give\n  %s\nafter line %d, but the trail has\n  %s"
                % (number, len(truth), first, "\n  ".join(expected), at, "\n  ".join(told[at : at + 8]))
            )
        ways, first = found, False
    assert len(told) in [at for at, _ in ways], "the trail has lines that no reading explains: %s" % list(told[ways[0][0] :])


# --- The runs -----------------------------------------------------------------------------------------------------


def launch(place: Place, seam: str, nth: int, *flags: str) -> "subprocess.Popen[bytes]":
    driver = [sys.executable, "-I", str(DRIVER), seam, str(nth), INTERVAL, str(place.path / "truth")]
    with (place.path / "console").open("ab") as console:
        return subprocess.Popen(
            [*place.enter(), *driver, "--threshold", str(THRESHOLD_S), *flags],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )


def die_at(place: Place, seam: str, nth: int, patience_s: float, *flags: str) -> bool:
    """Run the daemon until SIGKILL. Returns whether the seam sent it, not the timeout."""
    process = launch(place, seam, nth, *flags)
    try:
        status = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    assert status == -signal.SIGKILL, (seam, (place.path / "console").read_text()[-3000:])
    return True


ASK = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall())"


# The line about the unwatched time is written at the first reading.
COUNT = "SELECT count(*) FROM events WHERE CAST(line AS TEXT) LIKE '%Not watching%'"
DUE = "SELECT seq FROM events WHERE hook = 1"


class Story:
    """A daemon that is killed repeatedly."""

    def __init__(self, place: DiskPlace, seed: int, directory: Path) -> None:
        self.place = place
        self.store = directory / "state.db"
        self.chance = random.Random(seed)
        self.ran = place.path / "ran"
        hook = place.script("hook", 'echo "$PEER_SEQ $PEER_IFACE $PEER_PUBKEY" >>%s\n' % self.ran)
        self.flags = ["--state-path", str(self.store), "--on-change-script", str(hook), "--debug"]
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

    def die(self, seam: str, nth: int, patience_s: float) -> None:
        hit = die_at(self.place, seam, nth, patience_s, *self.flags)
        self.hits[seam if hit else "a moment"] += 1
        self.kills += 1

    def die_anywhere(self) -> None:
        self.die("no seam", 0, self.chance.uniform(0.05, 0.9))

    def finish(self) -> None:
        """Run the daemon undisturbed until all hooks are done."""
        before = self.rows(COUNT)[0][0]
        process = launch(self.place, "no seam", 0, *self.flags)
        try:
            wait_for("all hooks", lambda: before < self.rows(COUNT)[0][0] and not self.rows(DUE))
        finally:
            process.terminate()
            assert process.wait(PATIENCE_S) == 0

    def judge(self, whole: bytes) -> None:
        events = self.rows(
            "SELECT seq, wall, kind, hook, line, interface, public_key, session FROM events ORDER BY seq"
        )
        lines = whole.split(b"\n")
        assert lines.pop() == b"", "the last line is torn"
        assert [row[0] for row in events] == list(range(1, len(events) + 1)), "the event numbers have gaps"
        for number, (stands, row) in enumerate(zip(lines, events)):
            assert stands + b"\n" == row[4], "line %d of the trail differs from the store" % (number + 1)
        assert len(lines) == len(events)
        assert b"may be duplicated" not in whole
        truth = (self.place.path / "truth").read_text().splitlines()
        kinds = ("ONLINE", "OFFLINE", "ROAMING", "CHANGED", "REMOVED", "IFUP", "IFDOWN")
        told = [handshakes_as_epochs(row[4].decode()[20:-1], row[1]) for row in events if row[2] in kinds]
        explain(truth, told)
        self.judge_hooks(events)
        self.judge_sessions(events)
        assert self.rows("PRAGMA integrity_check") == [("ok",)]

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

    def judge_sessions(self, events: Sequence[Any]) -> None:
        """There is one session for each ONLINE, and it ends with the event that ends it in the trail."""
        open_: Dict[Tuple[str, str], int] = {}
        ended = set()
        for _, _, kind, _, _, name, key, session in events:
            if kind == "ONLINE":
                assert (name, key) not in open_
                open_[name, key] = session
            elif kind in ("OFFLINE", "REMOVED") and (name, key) in open_:
                assert open_.pop((name, key)) == session
                ended.add(session)
        stored = self.rows("SELECT number, reason IS NULL, start <= last_seen, length >= 0 FROM sessions")
        assert {row[0] for row in stored if row[1]} == set(open_.values())
        assert {row[0] for row in stored if not row[1]} == ended
        assert all(row[2] and row[3] for row in stored if not row[1])
        assert self.rows("SELECT count(*) FROM sessions WHERE unwatched > 0")[0][0]


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
                process = launch(place, "no seam", 0, *story.flags)
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
