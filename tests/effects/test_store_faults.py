"""What the monitor does when the store fails under it: a COMMIT whose error comes after the disk has it all, and files
beside the store that somebody removes."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List

import pytest

import wg_monitor
from harness import lines_of
from test_model import Run
from values import P, at, chosen, dump, give, turn_at
from watcher import query

ANN, BOB, CY = (P(name, shook=-5) for name in ("ann", "bob", "cy"))


class Connection(sqlite3.Connection):
    """Its COMMIT may raise an error although everything is on the disk."""

    commits_to_spoil = 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        cursor = super().execute(statement, *values)
        if statement == "COMMIT" and Connection.commits_to_spoil:
            Connection.commits_to_spoil -= 1
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


@pytest.fixture
def run(tmp_path: Path, now: List[wg_monitor.Moment], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **more: connect(*a, factory=Connection, **more))
    running = Run(str(tmp_path), chosen())
    yield running
    Connection.commits_to_spoil = 0
    running.end(True)


def see(run: Run, now: List[wg_monitor.Moment], second: int, *peers: P) -> None:
    turn_at(second, run.monitor, now)
    give(run.monitor, dump("wg0", *peers))


def warnings(directory: Path) -> List[str]:
    return [line.partition("[WARN] ")[2] for line in lines_of(directory / "trail") if "[WARN]" in line]


@pytest.mark.parametrize("saves", [0, 1, 2], ids=["the first save", "the second", "a later one"])
@pytest.mark.parametrize("spoilt", [1, 2, 5])
def test_a_commit_that_fails_after_the_disk_has_it(
    tmp_path: Path, run: Run, now: List[wg_monitor.Moment], saves: int, spoilt: int
) -> None:
    everyone = [ANN, BOB, CY]
    for number in range(20):
        if number == saves:
            Connection.commits_to_spoil = spoilt
        there = everyone if number >= saves else everyone[: number + 1]
        see(run, now, 30 * number, *[peer._replace(shook=30 * number - 5) for peer in there])
    store = tmp_path / "state.db"
    assert query(store, "PRAGMA integrity_check") == [("ok",)]
    lines = [line for (line,) in query(store, "SELECT CAST(line AS TEXT) FROM events ORDER BY seq")]
    assert "".join(lines) == (tmp_path / "trail").read_text()
    told = warnings(tmp_path)
    assert any(text.endswith("disk I/O error; changes are kept in memory") for text in told)
    assert "can be used again" in told[-1] and not any("replaced" in text for text in told)
    assert query(store, "SELECT count(*) FROM runs") == [(1,)]
    assert query(store, "SELECT public_key, count(*) FROM allowed_ips GROUP BY 1 HAVING count(*) > 1") == []
    assert query(store, "SELECT start, interface, count(*) FROM unwatched GROUP BY 1, 2 HAVING count(*) > 1") == []


@pytest.mark.parametrize("suffix", [".last", ".lock"])
@pytest.mark.parametrize("way", ["deleted", "replaced"])
def test_a_file_beside_the_store_that_goes_is_made_anew(
    tmp_path: Path, run: Run, now: List[wg_monitor.Moment], suffix: str, way: str
) -> None:
    see(run, now, 0, ANN)
    file = tmp_path / ("state.db" + suffix)
    held = set(os.listdir("/proc/self/fd"))
    if way == "replaced":
        (tmp_path / "other").write_bytes(b"")
        os.rename(str(tmp_path / "other"), str(file))
    else:
        file.unlink()
    for second in (30, 60, 90):
        see(run, now, second, ANN)
    begun, ended = warnings(tmp_path)
    assert "it or a file beside it was deleted or replaced" in begun and "can be used again" in ended
    assert file.stat().st_size
    if suffix == ".last":
        assert "wall=%r" % at(90).wall in file.read_text()
    assert set(os.listdir("/proc/self/fd")) == held


HOLD = "import sys, wg_monitor; wg_monitor.lock_file(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_a_store_whose_lock_another_monitor_has_now_is_left_alone(
    tmp_path: Path, run: Run, now: List[wg_monitor.Moment]
) -> None:
    see(run, now, 0, ANN)
    lock = tmp_path / "state.db.lock"
    lock.unlink()
    command = [sys.executable, "-c", HOLD, str(lock)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=str(Path(wg_monitor.__file__).parent))
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    (tmp_path / "state.db.last").write_text("another one")
    for second in (30, 60):
        see(run, now, second, ANN, BOB)
    run.monitor.flush()
    assert (tmp_path / "state.db.last").read_text() == "another one"
    assert query(tmp_path / "state.db", "SELECT count(*) FROM peers") == [(1,)], "it wrote into another monitor's store"
    assert not list(tmp_path.glob("*damaged*"))
    with other.stdout:
        other.stdin.close()
        assert other.wait() == 0
    see(run, now, 90, ANN, BOB)
    assert query(tmp_path / "state.db", "SELECT count(*) FROM peers") == [(2,)]
    assert "can be used again" in warnings(tmp_path)[-1]


def test_what_is_forgotten_while_the_store_fails_is_forgotten_in_the_store_too(
    tmp_path: Path, run: Run, now: List[wg_monitor.Moment]
) -> None:
    """An interface that was down for longer than HISTORY_DAYS."""
    day, days = wg_monitor.DAY_S, run.monitor.settings.history_days
    see(run, now, 0, ANN)
    now[0] = at(30)
    give(run.monitor, "")
    run.monitor.clocks.steady = 2.0 * day
    now[0] = at((days + 1) * day)
    run.monitor.faults.begin(wg_monitor.Fault("store", "", "it fails", "it works"))
    run.monitor.prune_history()
    run.monitor.faults.end("store")
    run.monitor.prune_history()
    assert not run.monitor.table.rows
    assert query(tmp_path / "state.db", "SELECT count(*) FROM peers") == [(0,)]


def test_saves_that_fail_leave_no_memory_behind(
    run: Run, now: List[wg_monitor.Moment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    see(run, now, 0, ANN)
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "executemany", full)
        for second in range(30, 600, 30):
            see(run, now, second, ANN, BOB, CY)
    assert len(run.store.stamps) == 2
    see(run, now, 600, ANN, BOB, CY)
    assert "can be used again" in warnings(tmp_path)[-1]


def test_what_another_monitor_has_added_is_not_continued(
    run: Run, now: List[wg_monitor.Moment], tmp_path: Path
) -> None:
    """Somebody removes the lock, and a second monitor writes to the same store before this one looks again."""
    see(run, now, 0, ANN)
    store = tmp_path / "state.db"
    query(store, "UPDATE monitor SET stamp = stamp + 1, last_line = last_line + 5")
    query(store, "INSERT INTO events (seq, kind, wall, hook, line) SELECT seq + 5, kind, wall, 0, 'another' FROM events LIMIT 1")
    for second in (30, 60, 90):
        see(run, now, second, ANN, *([BOB] if second > 30 else []))
    (kept,) = tmp_path.glob("state.db.damaged-*")
    assert ("another",) in query(kept, "SELECT CAST(line AS TEXT) FROM events")
    assert not any("UNIQUE" in text for text in warnings(tmp_path))
    assert ("another",) not in query(store, "SELECT CAST(line AS TEXT) FROM events")
