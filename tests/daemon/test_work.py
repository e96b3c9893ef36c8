"""The work per reading: lines parsed, rows written, system calls, imported modules. These tests count; tests/bench.py
measures time."""

import collections
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Counter, Dict, FrozenSet, List, Optional, Set

import pytest

import device
import wg_monitor
from harness import MODULE, PROJECT, Place, lines_of, need, wait_for
from scale import scaled
from values import blocks

PEERS = 1_000
CALM = ("--threshold", "31536000")  # no handshake gets old enough for OFFLINE


# --- Parsing ------------------------------------------------------------------------------------------------------


class Dump:
    """The output of wg for many peers, some of which change between two readings."""

    def __init__(self, count: int = PEERS) -> None:
        self.peers = [device.peer(number, 1_700_000_000) for number in range(count)]

    def move(self, every: int) -> None:
        """Every `every`th peer receives and sends bytes."""
        for i in range(0, len(self.peers), every):
            peer = self.peers[i]
            self.peers[i] = peer._replace(rx=peer.rx + 1500, tx=peer.tx + 1500)

    def shake_hands(self, every: int) -> None:
        for i in range(0, len(self.peers), every):
            self.peers[i] = self.peers[i]._replace(handshake=self.peers[i].handshake + 120)

    def roam(self, every: int) -> None:
        for i in range(0, len(self.peers), every):
            port = int(self.peers[i].endpoint.rpartition(":")[2])
            self.peers[i] = self.peers[i]._replace(endpoint="198.51.100.1:%d" % (port ^ 1))

    def text(self) -> bytes:
        lines = ["wg0\t%s\t%s\t51820\toff" % (device.PRIVATE_KEY, device.key("the device's public key"))]
        for p in self.peers:
            numbers = "%d\t%d\t%d" % (p.handshake, p.rx, p.tx)
            lines.append("\t".join(("wg0", p.public_key, p.preshared_key, p.endpoint, p.allowed_ips, numbers, "off")))
        return "".join(line + "\n" for line in lines).encode()


def nothing(dump: Dump) -> None:
    pass


def dump_after(change: Callable[[Dump], object]) -> Dump:
    dump = Dump()
    change(dump)
    return dump


@pytest.mark.parametrize(
    ("change", "in_full"),
    [
        pytest.param(nothing, 0, id="quiet: no line"),
        pytest.param(lambda dump: dump.move(10), 0, id="one in ten moves bytes: no line"),
        pytest.param(lambda dump: dump.move(1), 0, id="all move bytes: no line"),
        pytest.param(lambda dump: dump.shake_hands(4), 0, id="one in four shakes hands: no line"),
        pytest.param(lambda dump: dump.roam(4), PEERS // 4, id="one in four has another endpoint: theirs"),
        pytest.param(lambda dump: dump.peers.append(device.peer(PEERS, 5)), 1, id="a peer is added: its own"),
        pytest.param(lambda dump: dump.peers.pop(), 0, id="the last peer is gone: no line"),
        pytest.param(lambda dump: dump.peers.pop(PEERS // 2), PEERS - PEERS // 2, id="a peer is gone: all after it"),
    ],
)
def test_only_lines_with_more_than_new_counters_and_handshakes_are_parsed_in_full(
    change: Callable[[Dump], object], in_full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    parse_peer = wg_monitor.parse_peer

    def counting(line: bytes) -> Optional[wg_monitor.PeerLine]:
        nonlocal calls
        calls += 1
        return parse_peer(line)

    monkeypatch.setattr(wg_monitor, "parse_peer", counting)
    settings = wg_monitor.parse_settings({}, {})
    again = len(dump_after(change).peers) == PEERS  # a change that can happen at every reading
    dump, table, memo = Dump(), wg_monitor.Table(), wg_monitor.Memo()
    found = []
    for number in range(6):
        now = wg_monitor.Moment(1_700_000_010.0 + number, 1_000.0 + number)
        calls = 0
        names = (name for name, _ in table.rows)
        reading = wg_monitor.parse(blocks(dump.text(), 64 << 10), "", memo, names, settings.interface)
        found.append(calls)
        wg_monitor.decide(table, reading, now, settings)
        if number == 2 or number > 2 and number < 5 and again:
            change(dump)
    assert found[0] == PEERS, "the first reading parses every line"
    assert found[1:3] == [0, 0]
    assert found[3] == in_full
    assert found[4:] == ([in_full, in_full] if again else [0, 0])
    for peer in dump.peers:
        row = table.rows["wg0", peer.public_key]
        assert (row.rx, row.tx, row.handshake) == (peer.rx, peer.tx, peer.handshake)


# --- The store ----------------------------------------------------------------------------------------------------

DRIVER = """
import sys
sys.path.insert(0, {project!r})
import wg_monitor
{patch}
sys.exit(wg_monitor.main(sys.argv[4:]))
"""

TRACE_STATEMENTS = """
open_store = wg_monitor.Store.open

def open_and_trace(store):
    recognized = open_store(store)
    log = open({log!r}, "a", buffering=1)
    store.database.set_trace_callback(lambda statement: log.write(" ".join(statement.split()) + "\\n"))
    return recognized

wg_monitor.Store.open = open_and_trace
"""


def driver(place: Place, patch: str) -> str:
    """The prefix that runs the daemon with a patch."""
    path = place.path / "driver.py"
    path.write_text(DRIVER.format(project=str(PROJECT), patch=patch))
    return "%s -I %s" % (sys.executable, path)


def rows(statements: List[str]) -> Counter[str]:
    """Rows written, by table."""
    pattern = re.compile(r"(?:(?:INSERT|REPLACE) INTO|UPDATE|DELETE FROM) (\w+)")
    matches = [pattern.match(statement) for statement in statements]
    return collections.Counter(match.group(1) for match in matches if match)


def store_folder(place: Place) -> Path:
    folder = place.path / "state"
    folder.mkdir(0o700)
    return folder


def test_rows_are_written_only_for_events(place: Place) -> None:
    need("wg", "unshare")
    log = place.path / "statements"
    count = 200
    peers = device.crowd(count, int(time.time()))
    wg0 = place.device("wg0", peers)
    state = store_folder(place) / "state.db"
    patch = TRACE_STATEMENTS.format(log=str(log))
    daemon = place.start(*CALM, "--state-path", str(state), wrapper=driver(place, patch))
    daemon.await_("all peers in the trail", lambda: len(daemon.trail()) == count + 1)
    wg0.settle()
    written = rows(lines_of(log))
    assert written["events"] == count + 1, "one row per peer and one for the start"
    assert written["peers"] == count, "one row per peer"

    before = len(lines_of(log))
    for number in range(3):
        moved = [peer._replace(rx=1500 * (number + 1), tx=1500) for peer in peers]
        wg0.publish(moved)
        wg0.settle()
    assert lines_of(log)[before:] == [], "rows were written without an event"

    moved[7] = moved[7]._replace(endpoint="198.51.100.7:7")
    wg0.publish(moved)
    daemon.match("ROAMING .*")
    wg0.settle()
    written = rows(lines_of(log)[before:])
    assert (written["events"], written["peers"]) == (1, 1)
    assert 1 <= written["sessions"] <= 3  # an INSERT OR IGNORE counts even if the row exists
    assert sum(written.values()) <= 8, "one event wrote more than a handful of rows: %s" % written
    assert daemon.stop() == 0


# --- System calls -------------------------------------------------------------------------------------------------

TOUCHES_A_DISK = {
    "fsync", "fdatasync", "pwrite64", "pwritev", "pwritev2", "writev", "rename", "renameat", "renameat2", "unlink",
    "unlinkat", "fallocate", "truncate",
}  # fmt: skip


class Interval:
    """The system calls between two starts of wg."""

    def __init__(self, lines: List[str]) -> None:
        calls = [line for line in lines if re.match(r"\w+\(", line)]
        waits = [line for line in calls if re.match(r"(epoll_p?wait2?|poll|ppoll|p?select6?)\(", line)]
        self.names = collections.Counter(line.partition("(")[0] for line in calls)
        self.to_disk = [line for line in calls if line.partition("(")[0] in TOUCHES_A_DISK]
        self.slept_out = sum(re.search(r"= 0( \(Timeout\))?$", line.rstrip()) is not None for line in waits)
        self.woken = sum(re.search(r"\)\s+= [1-9]\d*( |$)", line.rstrip()) is not None for line in waits)


def intervals(log: Path) -> List[Interval]:
    found: List[List[str]] = []
    for line in lines_of(log):
        if re.match(r"(vfork|clone3?|fork)\(", line):
            found.append([])
        if found:
            found[-1].append(line)
    return [Interval(lines) for lines in found[:-1]]


@pytest.mark.alone
@pytest.mark.parametrize("store", [True, False], ids=["with a store", "without a store"])
def test_an_idle_reading_takes_few_system_calls_and_one_wake_up_besides_wg(place: Place, store: bool) -> None:
    """Its only write to a disk overwrites the small file beside the store, and waits for nothing."""
    need("wg", "unshare", "strace")
    log, state = place.path / "strace", store_folder(place) / "state.db"
    wg0 = place.device("wg0", device.crowd(10, int(time.time())))
    flags = ["--state-path", str(state)] if store else []
    daemon = place.start(*CALM, *flags, wrapper="strace -D -y -s 0 -o %s" % log)
    for _ in range(3):
        wg0.settle()
    idle = wait_for("some readings", lambda: intervals(log)[2:8] if len(intervals(log)) >= 8 else None)
    assert daemon.stop() == 0
    for interval in idle:
        assert interval.slept_out == 1, "not exactly one wake-up by the timer"
        assert interval.woken == 1, "not exactly one wake-up by the end of wg"
        note = r"pwrite64\(\d+<%s\.last>, .*, %d, 0\) = %d" % (
            re.escape(str(state)),
            wg_monitor.NOTE_SIZE,
            wg_monitor.NOTE_SIZE,
        )
        assert len(interval.to_disk) == store, interval.to_disk
        assert all(re.fullmatch(note, line) for line in interval.to_disk), interval.to_disk
        assert sum(interval.names.values()) <= 45, interval.names


def test_the_lines_of_a_storm_reach_the_trail_before_the_checkpoint_of_the_store(place: Place) -> None:
    """SQLite copies the write-ahead log into the database only after the lines are in the trail."""
    need("wg", "unshare", "strace")
    log, count = place.path / "strace", 8_000
    wg0 = place.device("wg0", device.crowd(count, int(time.time())))
    wrapper = "strace -D -y -s 0 -e trace=write,pwrite64 -o %s" % log
    daemon = place.start(*CALM, "--state-path", str(store_folder(place) / "state.db"), wrapper=wrapper)
    daemon.await_("all peers in the trail", lambda: len(daemon.trail()) == count + 1)
    wg0.settle()
    assert daemon.stop() == 0
    written = [match.group(1) for match in map(re.compile(r"p?write\w*\(\d+<.*/(\S+)>,").match, lines_of(log)) if match]
    ahead = [number for number, name in enumerate(written) if name == "state.db-wal"]
    to_trail = [number for number, name in enumerate(written) if name == place.trail.name]
    to_store = [number for number, name in enumerate(written) if name == "state.db" and number > to_trail[0]]
    storm = to_trail[1 : 1 + -(-count // wg_monitor.LINES_AT_ONCE)]  # after the line of the start
    assert len(ahead) > 2 * wg_monitor.WAL_PAGES and to_store
    assert max(storm) < min(to_store)


# --- The schedule -------------------------------------------------------------------------------------------------

INTERVAL_S = 1 / 64

FAST_GRID = """
import json, os, signal, time

parse_settings, start_reading = wg_monitor.parse_settings, wg_monitor.Monitor.start_reading
slots = []

def parse_and_hurry(*arguments):
    return parse_settings(*arguments)._replace(interval={interval!r})

def start_and_count(monitor):
    now, before = time.monotonic(), monitor.probe.pid
    skipped = monitor.grid.skipped
    start_reading(monitor)
    if monitor.probe.pid == before:
        return  # wg still runs: this one is skipped, too
    slots.append(((now - monitor.started) / {interval!r}, skipped))
    if len(slots) == {count}:
        with open({log!r}, "w") as file:
            json.dump(slots, file)
        os.kill(os.getpid(), signal.SIGTERM)

wg_monitor.parse_settings = parse_and_hurry
wg_monitor.Monitor.start_reading = start_and_count
"""


@pytest.mark.alone
@pytest.mark.once
def test_a_thousand_readings_do_not_drift(place: Place) -> None:
    """Each reading takes one slot of the grid, and so does each skipped one. A schedule that adds the duration of a
    reading to the interval would fall behind by hundreds of slots. One that queues readings would run ahead."""
    need("wg", "unshare")
    place.device("wg0", device.crowd(1, int(time.time())))
    log, count = place.path / "slots", scaled(1_000)
    patch = FAST_GRID.format(interval=INTERVAL_S, count=count, log=str(log))
    daemon = place.start(*CALM, wrapper=driver(place, patch))
    assert daemon.wait() == 0
    slots = json.loads(log.read_text())
    assert len(slots) == count
    behind = [position - (number + skipped) for number, (position, skipped) in enumerate(slots)]
    assert min(behind) > -0.001, "a reading is early"
    # The system may suspend the process between the daemon's reading of the clock and this one.
    assert sum(late >= 1 for late in behind) <= count // 20, "readings are late without being counted"


@pytest.mark.alone
@pytest.mark.once
def test_late_readings_are_skipped_and_counted(place: Place) -> None:
    need("wg", "unshare")
    place.wg_prints(b"")
    daemon = place.start(*CALM, "--stats-interval", "1")
    place.settle()
    daemon.send(signal.SIGSTOP)
    before = place.run_count()
    time.sleep(3.5)  # three or four readings are due meanwhile
    daemon.send(signal.SIGCONT)
    pattern = r"Statistics \| Readings: (\d+) \(0 failed, ([2-9]) late\), .*"
    late = int(daemon.hear(pattern).group(2))
    assert place.run_count() - before <= 3, "the daemon made up for skipped readings"
    assert 2 <= late <= 9
    assert daemon.stop() == 0


# --- Imports ------------------------------------------------------------------------------------------------------

HEAVY = frozenset(("asyncio", "dataclasses", "logging", "multiprocessing", "sqlite3", "ssl", "urllib.request"))


def modules_after(*arguments: str, environment: Optional[Dict[str, str]] = None) -> Set[str]:
    code = (
        "import sys, wg_monitor\n"
        "try:\n    wg_monitor.main(%r)\n"
        "finally:\n    print('\\n' + ' '.join(sorted(sys.modules)))" % (list(arguments),)
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(MODULE.parent),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_no_heavy_module(flag: str) -> None:
    modules = modules_after(flag)
    assert "argparse" in modules
    assert not modules & HEAVY


def daemon_modules(place: Place, *flags: str) -> FrozenSet[str]:
    log = place.path / "modules"
    patch = "import atexit\natexit.register(lambda: open(%r, 'w').write(' '.join(sys.modules)))" % str(log)
    wg0 = place.device("wg0", device.crowd(3, int(time.time())))
    daemon = place.start(*CALM, *flags, wrapper=driver(place, patch))
    wg0.settle()
    assert daemon.stop() == 0
    return frozenset(log.read_text().split())


def test_a_daemon_without_a_store_does_not_import_sqlite3(place: Place) -> None:
    need("wg", "unshare")
    assert not daemon_modules(place) & HEAVY


def test_a_daemon_with_a_store_imports_sqlite3_and_no_other_heavy_module(place: Place) -> None:
    need("wg", "unshare")
    assert daemon_modules(place, "--state-path", str(store_folder(place) / "state.db")) & HEAVY == {"sqlite3"}
