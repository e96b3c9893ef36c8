"""Reading a store disturbs nobody: neither a monitor that runs, nor one that starts, nor what one left behind."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

import wg_report
from device import peer
from harness import MODULE, Place, need, wait_for
from reports import online, report, run, story
from stores import ask
from values import P, at, dump, key
from watcher import Watcher, query

pytestmark = pytest.mark.once

COMMANDS = (["sessions"], ["sessions", "--summary"], ["sessions", "--ip", "10.0.0.1"], ["status"], ["status", "--json"])


def files(path: Path) -> Dict[str, Tuple[int, ...]]:
    """The files of a store, with what changes if somebody writes to them. SQLite's readers leave marks in the -shm."""
    found = {}
    for file in sorted(path.parent.glob(path.name + "*")):
        status = file.stat()
        changing = () if file.name.endswith("-shm") else (status.st_size, status.st_mtime_ns)
        found[file.name] = (status.st_ino, *changing)
    return found


def ask_everything(path: Path) -> None:
    for words in COMMANDS:
        answer = run(*words, "--store", str(path))
        assert (answer.code, answer.err) == (0, "")


def running(place: Place, path: Path) -> Any:
    """A monitor that has read once and reads again in an hour."""
    daemon = place.start("--state-path", str(path), "--interval", "3600", "--threshold", "7200")
    daemon.match("ONLINE .*")
    wait_for("the first checkpoint", lambda: ask(path, "SELECT 1 FROM peers WHERE session IS NOT NULL"))
    wait_for("the first reading's note", lambda: b"wall=0.0" not in Path(str(path) + ".last").read_bytes())
    return daemon


def test_a_monitor_that_runs_is_not_disturbed(place: Place) -> None:
    wg0, path = place.device(peers=[online(1)]), place.path / "state.db"
    daemon = running(place, path)
    before = files(path)
    assert set(before) == {"state.db" + suffix for suffix in ("", "-wal", "-shm", ".lock", ".last")}
    ask_everything(path)
    assert files(path) == before
    wg0.close()
    assert daemon.stop() == 0
    assert not [line for line in daemon.trail() if "[WARN]" in line or "[ERROR]" in line]


def test_no_lock_is_attempted_and_nothing_is_written(place: Place) -> None:
    need("strace")
    place.device(peers=[online(1)])
    path, log = place.path / "state.db", place.path / "calls"
    daemon = running(place, path)
    calls = "trace=openat,flock,fcntl,pwrite64,write,ftruncate,unlink,rename"
    for words in COMMANDS:
        run(*words, "--store", str(path), behind=["strace", "-y", "-f", "-o", str(log), "-e", calls])
        text = log.read_text()
        assert "state.db" in text
        assert not re.search(r"flock\(", text)
        assert not re.search(r"(pwrite64|write|ftruncate)\(\d+<[^>]*state\.db[^>]*>", text)
        assert not re.search(r"(unlink|rename)\([^)]*state\.db", text)
        assert not re.search(r'state\.db\.lock", O_(WRONLY|RDWR)', text)
    assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_monitor_left_behind_stays_and_the_next_one_continues(place: Place, number: int) -> None:
    place.device(peers=[online(1)])
    path = place.path / "state.db"
    daemon = running(place, path)
    daemon.stop(number)
    before = files(path)
    assert ("state.db-wal" in before) == (number == signal.SIGKILL)
    ask_everything(path)
    after = files(path)
    assert {name: what for name, what in after.items() if name != "state.db-shm"} == {
        name: what for name, what in before.items() if name != "state.db-shm"
    }
    again = place.start("--state-path", str(path), "--threshold", "7200")
    again.match(r"\[WARN\] Not watching from .*")
    assert again.stop() == 0
    assert not [line for line in again.trail() if "cannot be used" in line or " new " in line][1:]


def test_a_store_that_was_stopped_cleanly_has_no_new_file(tmp_path: Path) -> None:
    [path] = story(tmp_path / "state.db")
    before = files(path)
    assert set(before) == {"state.db", "state.db.lock", "state.db.last"}
    ask_everything(path)
    assert files(path) == before


def test_files_that_another_reader_leaves_are_tolerated(place: Place) -> None:
    """SQLite's own program leaves a log and its index beside a store that was stopped cleanly."""
    need("sqlite3")
    place.device(peers=[online(1)])
    path = place.path / "state.db"
    assert running(place, path).stop() == 0
    subprocess.run(["sqlite3", "-readonly", str(path), "SELECT count(*) FROM sessions"], stdout=subprocess.DEVNULL, check=True)
    assert {"state.db-shm", "state.db-wal"} <= set(files(path))
    ask_everything(path)
    again = place.start("--state-path", str(path), "--threshold", "7200")
    again.match(r"\[WARN\] Not watching from .*")
    ask_everything(path)
    assert again.stop() == 0
    assert not [line for line in again.trail() if "cannot be used" in line or "ERROR" in line]


def test_a_read_only_directory_is_enough(place: Place) -> None:
    """As an auditor has it on a disk that cannot be written."""
    [path] = story(place.path / "state.db")
    enter = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"']
    assert run("sessions", "--store", str(path), behind=[*enter, str(place.path)]).lines[-2] == "3 sessions of 3 peers."


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    [path] = story(tmp_path / "state.db")
    Path(str(path) + ".last").unlink()
    os.mkfifo(str(path) + ".last")
    assert run("status", "--store", str(path)).code == 0
    os.mkfifo(str(tmp_path / "pipe.db"))
    assert "is no store: it is not a regular file" in run("status", "--store", str(tmp_path / "pipe.db")).err


def test_locks_of_a_monitor_in_the_same_process_stay(tmp_path: Path) -> None:
    """A descriptor of the database that is closed drops all locks that its process has on it."""
    for path in story(tmp_path / "state.db"):
        report("sessions", "--store", str(path))
        locks = Path("/proc/locks").read_text()
        assert re.search(r"POSIX .* %d \S+:%d " % (os.getpid(), path.stat().st_ino), locks)


def test_a_link_to_a_store_in_use_shows_what_its_log_has(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    for path in story(tmp_path / "state.db"):
        link.symlink_to(path)
        (tmp_path / "directory").symlink_to(tmp_path)
        for name in (link, tmp_path / "directory" / "state.db"):
            answer = report("sessions", "--store", str(name))
            assert answer.lines[-2] == "3 sessions of 3 peers." and answer.lines[-1].startswith("Watched since ")


def test_a_monitor_that_starts_meanwhile_is_noticed(tmp_path: Path) -> None:
    """What was read while it began to write is read again."""
    path = tmp_path / "state.db"
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", -5)), at(0))
    store = wg_report.Store("", str(path))
    counts: List[int] = []
    watchers: List[Watcher] = []

    def count(database: sqlite3.Connection) -> int:
        if not watchers:
            watchers.append(Watcher(path))
            watchers[0].see(dump("wg0", P("ann", -5), P("bob", 5)), at(10))
        counts.append(int(database.execute("SELECT count(*) FROM sessions").fetchone()[0]))
        return counts[-1]

    assert store.read(count) == 2
    watchers[0].see(dump("wg0", P("ann", -5), P("bob", 5), P("cyd", 20)), at(30))
    watchers[0].store.close()
    assert store.read(count) == 3
    assert len(counts) == 3


def fill(path: Path, number: int) -> None:
    """Sessions of Ann, a minute each."""
    with closing(sqlite3.connect(str(path))) as database:
        for n in range(number):
            start = at(n * 60).wall - 1e6
            row = (n + 100, "wg0", key("ann"), start, 0.0, 0, 0, "192.0.2.1:1", 0.0, start + 50, start + 60, 50.0, 1, 1)
            database.execute("INSERT INTO sessions VALUES (%s, 'idle', '')" % ", ".join("?" * len(row)), row)
        database.commit()


def test_no_transaction_stays_open_while_the_output_blocks(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    for _ in story(path):
        fill(path, 9000)
        command = [sys.executable, "-IS", str(MODULE), "sessions", "--store", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 100)  # it has begun, and the pipe takes no more than 64 KiB
            wait_for("it to block", partial(blocks, process.pid))
            query(path, "UPDATE peers SET rx = rx + 1")
            with closing(sqlite3.connect(str(path), timeout=0)) as database:
                assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0  # not busy
            assert b"9003 sessions of 3 peers." in process.stdout.read()
            assert process.wait() == 0


def blocks(pid: int) -> bool:
    """Whether a process waits in write(2), which has the number 1 or 64."""
    return Path("/proc/%d/syscall" % pid).read_text().split()[0] in ("1", "64")


def test_sessions_that_end_meanwhile_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two batches, the monitor ends a session and begins another."""
    monkeypatch.setattr(wg_report, "BATCH", 1)
    path = tmp_path / "state.db"
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", -5), P("bob", -5), P("dan", -5)), at(0), checkpoint=True)
        store = wg_report.Store("", str(path))
        sessions = store.history(wg_report.Query(), at(1).wall).sessions(wg_report.Period())
        found = [next(sessions)]
        watcher.see(dump("wg0", P("ann", 5), P("cyd", 5)), at(10), checkpoint=True)
        found += sessions
    assert [(session.peer[:3], session.state, session.reason) for session in found] == [
        ("ann", wg_report.ONLINE, ""), ("bob", wg_report.ONLINE, ""), ("dan", wg_report.ENDED, "removed"),
    ]  # fmt: skip


def test_memory_does_not_grow_with_the_answer(tmp_path: Path) -> None:
    peaks: List[int] = []
    for number in (20_000, 60_000):
        path = tmp_path / ("%d.db" % number)
        [_] = story(path)
        fill(path, number)
        done = subprocess.run(
            [sys.executable, "-IS", "-c", PEAK, str(MODULE), "sessions", "--format", "csv", "--store", str(path)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True,
        )  # fmt: skip
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] < peaks[0] + 4096  # KiB; a session takes almost one


PEAK = """
import resource, runpy, sys
sys.argv[:2] = sys.argv[1:2]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def test_a_handshake_before_a_reboot_is_placed_by_the_wall_clock(tmp_path: Path) -> None:
    [path] = story(tmp_path / "state.db")
    query(path, "UPDATE monitor SET boot_id = 'another', boot = 9e6")
    assert "unknown  30s" in report("status", "--store", str(path)).out
    assert peer(1).public_key not in report("status", "--store", str(path)).out
