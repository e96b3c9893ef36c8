"""The commands of the page about the store that back it up and restore it, while the monitor runs."""

import re
import shlex
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Iterator, List

import pytest

import device
from harness import PROJECT, Place, need

DOCUMENTED = "/var/lib/wg-monitor"


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as made:
        yield made


def commands() -> List[str]:
    """The section's commands, without sudo."""
    page = (PROJECT / "docs/store.md").read_text(encoding="utf-8")
    section = page.partition("## Backup and restore")[2].partition("\n## ")[0]
    return re.findall(r"^\$ sudo (.*)$", section, re.M)


def run(command: str, folder: Path) -> None:
    subprocess.run(shlex.split(command.replace(DOCUMENTED, str(folder))), cwd=str(folder), check=True)


def rows(store: Path, query: str) -> List[object]:
    with closing(sqlite3.connect("file:%s?mode=ro" % store, uri=True)) as database:
        return [row[0] for row in database.execute(query)]


def test_a_store_is_backed_up_and_restored_while_the_monitor_runs(place: Place) -> None:
    need("sqlite3")
    backup, *restore = commands()
    assert "backup" in backup and len(restore) == 2
    folder = place.path / "store"
    folder.mkdir(mode=0o700)
    store, now = folder / "state.db", int(time.time())
    wg0 = place.device("wg0", [device.peer(1, now), device.peer(2, now)])
    daemon = place.start("--state-path", str(store))
    daemon.see("Monitor started | Interval: 1s, Threshold: 180s, Stats: 3600s")
    wg0.settle()
    run(backup, folder)
    wg0.publish([device.peer(1, now), device.peer(3, now)])
    daemon.match("REMOVED.*")
    for command in restore:
        run(command, folder)
    wg0.publish([device.peer(1, now), device.peer(3, now), device.peer(4, now)])
    wg0.settle()  # the last reading before the end has the new peer
    daemon.match(r"\[WARN\] %s was replaced and lacks what happened from .* to .*" % re.escape(str(store)))
    daemon.match(r"\[WARN\] %s can be used again after \d+s" % re.escape(str(store)))
    assert daemon.stop() == 0
    assert rows(store, "PRAGMA integrity_check") == ["ok"]
    assert rows(store, "SELECT why FROM unwatched") == ["replaced"]
    ends = rows(store, "SELECT reason FROM sessions ORDER BY number")
    assert ends == [None, "unknown", None, None]
    texts = [bytes(line).decode() for line in rows(store, "SELECT line FROM events ORDER BY seq")]  # type: ignore[call-overload]
    assert sum("started" in text for text in texts) == 1, "the history of the backup is kept"
    assert not any("REMOVED" in text for text in texts), "the history after it is lost"
    numbers = rows(store, "SELECT seq FROM events ORDER BY seq")
    assert len(daemon.trail()) == numbers[-1], "numbers continue"
    assert not list(folder.glob("*.damaged*"))
