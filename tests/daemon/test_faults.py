"""The file system of the trail or the store is full, read-only or gone. The daemon continues to read and to report on
the console. It keeps the lines in memory, reports the beginning and the duration of the fault, and then writes all lines
in order."""

import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple

import pytest

import device
from disks import Disk, DiskPlace
from harness import Daemon, lines_of
from values import ids


@pytest.fixture
def place() -> Iterator[DiskPlace]:
    made = DiskPlace()
    with made:
        yield made


class Fault(NamedTuple):
    name: str
    begin: Callable[[Disk, Daemon, str], object]  # the directory on the disk, "" = its root
    end: Callable[[Disk, Daemon, str], object]
    words: str


def delete(disk: Disk, monitor: Daemon, name: str) -> None:
    """Rename the directory first: it disappears at once, and its deletion takes longer."""
    away = disk.seen / "away"
    (disk.seen / name).rename(away)
    shutil.rmtree(str(away))


def cover(disk: Disk, monitor: Daemon, name: str) -> None:
    """Mount a read-only file system over it. One with files open for writing cannot be made read-only."""
    inside(monitor, "mount", "-t", "tmpfs", "-o", "ro", "none", str(disk.path / name))


def uncover(disk: Disk, monitor: Daemon, name: str) -> None:
    inside(monitor, "umount", "--lazy", str(disk.path / name))


def inside(monitor: Daemon, *command: str) -> None:
    subprocess.run(["nsenter", "--mount=/proc/%d/ns/mnt" % monitor.pid, *command], check=True)


FULL = Fault("full", lambda disk, *_: disk.fill(), lambda disk, *_: disk.free(), "No space left on device")
READ_ONLY = Fault("read-only", cover, uncover, "Read-only file system")
GONE = Fault("gone", delete, lambda disk, _, name: (disk.seen / name).mkdir(0o755), "No such file or directory")
FAULTS = [FULL, READ_ONLY, GONE]


def events(lines: List[str]) -> List[str]:
    return [line for line in lines if "[WARN]" not in line]


def happened(lines: List[str]) -> int:
    return sum("ONLINE" in line or "REMOVED" in line for line in lines)


def come_and_go(wg0: device.Device, rounds: int) -> int:
    """Publish forty other peers in each round. Returns the total number of lines, the first forty peers included."""
    now = int(time.time())
    for number in range(rounds):
        wg0.publish([device.peer(100 * number + each, now) for each in range(40)])
        wg0.settle()
    return 40 * (2 * rounds - 1)


STORES = [("without a store", False), ("with a store", True)]


@pytest.mark.parametrize("stored", [case[1] for case in STORES], ids=[case[0] for case in STORES])
@pytest.mark.parametrize("fault", FAULTS, ids=ids(FAULTS))
def test_the_trails_file_system_fails_for_a_while(place: DiskPlace, fault: Fault, stored: bool) -> None:
    disk = place.memory(place.path / "disk", 256)
    (disk.seen / "logs").mkdir()
    place.trail = disk.seen / "logs" / "trail.log"
    flags = ["--log-path", str(disk.path / "logs" / "trail.log")]
    if stored:
        flags += ["--state-path", str(place.path / "state.db")]
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start(*flags)
    monitor.match("ONLINE .* new .*")
    before = lines_of(place.trail)
    fault.begin(disk, monitor, "logs")
    told = come_and_go(wg0, 3)
    begins = r"\[WARN\] .*/trail.log cannot be written: %s; its lines are kept in memory" % fault.words
    monitor.hear(begins)
    assert happened(monitor.console()) == told
    fault.end(disk, monitor, "logs")
    ends = r"\[WARN\] .*/trail.log can be written again after \d+s"
    monitor.match(ends)
    wg0.publish([])
    monitor.match("REMOVED .*")
    assert monitor.stop() == 0
    lines = lines_of(place.trail)
    if fault is GONE:
        lines = before + lines
    assert events(lines) == events(monitor.console()), "lines are missing, out of order, or have another time"
    assert sum(re.search(begins, line) is not None for line in monitor.console()) == 1
    assert sum(re.search(ends, line) is not None for line in lines) == 1
    assert place.trail.read_bytes().endswith(b"\n")


def rows(place: DiskPlace, query: str) -> List[Any]:
    """Query the store, on a copy outside its mount namespace."""
    assert place.disk is not None
    copy = place.path / "copy.db"
    shutil.copy(str(place.disk.seen / "state.db"), str(copy))
    with closing(sqlite3.connect(str(copy))) as database:
        return database.execute(query).fetchall()


def assert_store_tells_the_trail(place: DiskPlace, trail: List[str]) -> None:
    stored = rows(place, "SELECT seq, line FROM events ORDER BY seq")
    assert [bytes(line).decode()[:-1] for _, line in stored] == trail
    assert [seq for seq, _ in stored] == list(range(stored[0][0], stored[0][0] + len(stored)))
    assert rows(place, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("fault", [FULL, READ_ONLY], ids=ids([FULL, READ_ONLY]))
def test_the_stores_file_system_fails_for_a_while(place: DiskPlace, fault: Fault) -> None:
    disk = place.memory(place.path / "disk", 1024)
    flags = ["--state-path", str(disk.path / "state.db")]
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start(*flags)
    monitor.match("ONLINE .* new .*")
    fault.begin(disk, monitor, "")
    told = come_and_go(wg0, 3)
    # SQLite has words of its own for what the file system says.
    monitor.match(r"\[WARN\] .*/state.db cannot be used: .*; changes are kept in memory")
    monitor.await_(
        "all lines in the trail", lambda: sum("LINE " in line or "REMOVED" in line for line in monitor.trail()) >= told
    )
    fault.end(disk, monitor, "")
    monitor.match(r"\[WARN\] .*/state.db can be used again after \d+s")
    assert monitor.stop() == 0
    assert_store_tells_the_trail(place, lines_of(place.trail))
    open_sessions = rows(place, "SELECT count(*) FROM sessions WHERE reason IS NULL")
    second = place.start(*flags)
    second.match(r"\[WARN\] Not watching .*")
    wg0.settle()
    assert second.stop() == 0
    assert open_sessions == [(40,)] == rows(place, "SELECT count(*) FROM sessions WHERE reason IS NULL")
    assert happened(monitor.trail()) == told, "the restart reported events"


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
def test_the_daemon_starts_while_the_stores_file_system_fails(place: DiskPlace, full: bool) -> None:
    """The trail works at once. The store is used as soon as possible."""
    disk = place.memory(place.path / "disk", 1024)
    if full:
        disk.fill()
    else:
        disk.read_only()
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start("--state-path", str(disk.path / "state.db"))
    monitor.match(r"\[WARN\] .*/state.db cannot be used: .*; changes are kept in memory")
    monitor.match("ONLINE .* new .*")
    if full:
        disk.free()
    else:
        inside(monitor, "mount", "-o", "remount,rw", str(disk.path))
    monitor.match(r"\[WARN\] .*/state.db can be used again after \d+s")
    wg0.publish([])
    monitor.match("REMOVED .*")
    assert monitor.stop() == 0
    assert_store_tells_the_trail(place, lines_of(place.trail))
    assert rows(place, "SELECT reason FROM sessions") == [("removed",)]


def test_the_daemon_names_the_damaged_store_when_the_new_one_fails_too(place: DiskPlace) -> None:
    disk = place.memory(place.path / "disk", 1024)
    (disk.seen / "state.db").write_bytes(b"this is a letter to my aunt\n" * 300)
    disk.fill()
    place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start("--state-path", str(disk.path / "state.db"))
    monitor.match(r"\[WARN\] .*/state.db cannot be used: .*; changes are kept in memory")
    aside = monitor.match(r"\[WARN\] The damaged store is kept as .*/(state.db.damaged-.*)").group(1)
    monitor.match("ONLINE .* new .*")
    assert (disk.seen / aside).read_bytes().startswith(b"this is a letter")
    disk.free()
    monitor.match(r"\[WARN\] .*/state.db can be used again after \d+s")
    assert monitor.stop() == 0


def test_trail_and_store_on_one_full_disk(place: DiskPlace) -> None:
    """All lines stay in memory and are then written exactly once."""
    disk = place.memory(place.logs, 1024)
    flags = ["--state-path", str(place.logs / "state.db")]
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start(*flags)
    monitor.match("ONLINE .* new .*")
    disk.fill()
    told = come_and_go(wg0, 3)
    monitor.hear(r"\[WARN\] .*/state.db cannot be used: .*")
    monitor.hear(r"\[WARN\] .*/wg_monitor.log cannot be written: .*")
    disk.free()
    monitor.match(r"\[WARN\] .*/wg_monitor.log can be written again after .*")
    monitor.match(r"\[WARN\] .*/state.db can be used again after .*")
    assert monitor.stop() == 0
    assert_store_tells_the_trail(place, lines_of(place.trail))
    assert happened(monitor.trail()) == told


@pytest.mark.parametrize("stored", [case[1] for case in STORES], ids=[case[0] for case in STORES])
def test_a_trail_that_fails_at_fsync_is_reported_once_and_its_end_as_soon_as_it_comes(
    place: DiskPlace, stored: bool
) -> None:
    """All lines are in the file, so there is nothing to write, and the kernel reports a failed write only once: neither
    means that the disk works again. The store fails at the same time, on a full disk."""
    disk = place.thin(place.logs)
    flags = ["--state-path", str(disk.path / "state.db")] if stored else []
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start(*flags)
    monitor.match("ONLINE .* new .*")
    disk.fill()
    for number in range(50):
        peers = [device.peer(100 * number + each, int(time.time())) for each in range(40)]
        wg0.publish(peers)
        wg0.settle()
        if warnings(monitor, "wg_monitor.log"):
            break
    for _ in range(3):
        wg0.publish(peers)
        wg0.settle()
    (begun,) = warnings(monitor, "wg_monitor.log")
    assert re.search("cannot be written: (Input/output error|No space left on device);", begun)
    count = happened(monitor.console())
    disk.free()
    monitor.hear(r"\[WARN\] .*/wg_monitor.log can be written again after \d+s")
    wg0.publish(peers)
    wg0.settle()
    assert happened(monitor.console()) == count, "it took an event"
    assert monitor.stop() == 0
    assert len(warnings(monitor, "wg_monitor.log")) == 2
    assert len(warnings(monitor, "state.db")) == 2 * stored


def warnings(monitor: Daemon, file: str) -> List[str]:
    return [line for line in monitor.console() if "[WARN]" in line and "/%s can" % file in line]


def test_a_trail_that_was_emptied_on_a_full_disk_begins_with_a_whole_line(place: DiskPlace) -> None:
    disk = place.memory(place.logs, 64)
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    monitor = place.start()
    monitor.match("ONLINE .* new .*")
    disk.fill()
    come_and_go(wg0, 2)
    monitor.hear(r"\[WARN\] .*/wg_monitor.log cannot be written: .*")
    assert not place.trail.read_bytes().endswith(b"\n"), "no line was cut"
    place.trail.write_bytes(b"")
    disk.free()
    monitor.match(r"\[WARN\] .*/wg_monitor.log can be written again after .*")
    assert monitor.stop() == 0
    lines = lines_of(place.trail)
    assert lines == monitor.console()[-len(lines) :]


@pytest.mark.parametrize("signal_number", [15, 9], ids=["stopped", "killed"])
def test_a_line_cut_by_a_full_disk_is_completed_after_a_restart(place: DiskPlace, signal_number: int) -> None:
    """The daemon restarts while the disk is still full. Once there is room, it completes the line without a duplicate."""
    disk = place.memory(place.logs, 64)
    flags = ["--state-path", str(place.path / "state.db")]
    wg0 = place.device(peers=[device.peer(1, int(time.time()))])
    first = place.start(*flags)
    first.match("ONLINE .* new .*")
    disk.fill()
    told = come_and_go(wg0, 2)
    first.hear(r"\[WARN\] .*/wg_monitor.log cannot be written: .*")
    first.stop(signal_number)
    assert not place.trail.read_bytes().endswith(b"\n"), "no line was cut"
    second: Daemon = place.start(*flags)
    second.hear(r"\[WARN\] .*/wg_monitor.log cannot be written: .*")
    wg0.publish([])
    second.hear("REMOVED .*")
    disk.free()
    second.match(r"\[WARN\] .*/wg_monitor.log can be written again after .*")
    assert second.stop() == 0
    stored = sqlite_lines(place.path / "state.db")
    assert stored == lines_of(place.trail)
    assert happened(stored) == told + 40
    assert not [line for line in stored if "duplicated" in line]


def sqlite_lines(path: Path) -> List[str]:
    with closing(sqlite3.connect(str(path))) as database:
        return [bytes(line).decode()[:-1] for (line,) in database.execute("SELECT line FROM events ORDER BY seq")]
