"""The commands in docs/store.md that erase one peer from the history, run on what a daemon wrote."""

import os
import re
import sqlite3
import subprocess
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Dict, List

import pytest

from device import Peer, peer
from expected import now, short
from harness import PROJECT, Place, need

DOCUMENTED = "iK2d1X0sRXj7ai/9ot5fhCDekdSZ3Uwgt7luE0kjggU="


def commands() -> str:
    """The script that an administrator types in, without what only a machine with the service can run."""
    (block,) = re.findall(r"^```console\n([^`]*DELETE FROM[^`]*)^```$", (PROJECT / "docs/store.md").read_text(), re.M)
    lines = [line[2:] if line.startswith("$ ") else line for line in block.splitlines()]
    assert [line for line in lines if "systemctl" in line] == [lines[0], lines[-1]]
    return "\n".join(lines[1:-1]).replace("sudo ", "")


def awkward() -> Peer:
    """A peer whose short key has every character that sed or SQL might take for something else."""
    return next(it for it in map(peer, count()) if {"/", "+"} <= set(short(it)))


def holding(directory: Path, text: str) -> List[str]:
    return [str(path) for path in directory.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def rows(store: Path) -> Dict[str, List[str]]:
    """The keys in each table that has peers."""
    with closing(sqlite3.connect(str(store))) as database:
        tables = [
            name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        ]
        return {
            table: [key for (key,) in database.execute("SELECT public_key FROM %s WHERE public_key NOT NULL" % table)]
            for table in tables
            if "public_key" in [column[1] for column in database.execute("PRAGMA table_info(%s)" % table)]
        }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_peer_is_erased_and_the_others_stay(place: Place, log_format: str) -> None:
    need("sqlite3")
    store = place.path / "store" / "state.db"
    store.parent.mkdir(mode=0o700)
    hook = place.script("hook", "exit 7\n")
    flags = ["--state-path", str(store), "--on-change-script", str(hook), "--log-format", log_format]
    gone, other = awkward(), peer(1, now())
    device = place.device(peers=[gone, other])
    monitor = place.start(*flags)
    monitor.hear(".*%s.*" % re.escape(other.public_key if log_format == "json" else short(other)))
    place.trail.rename(str(place.trail) + ".1")
    device.publish([gone._replace(handshake=now()), other])
    monitor.hear(r".*Hook for ONLINE \[wg0\] %s exited with status 7.*" % re.escape(short(gone)))
    device.publish([other])
    monitor.hear(r".*Hook for REMOVED \[wg0\] %s exited with status 7.*" % re.escape(short(gone)))
    assert monitor.stop() == 0
    os.chown(str(place.trail), 0, 4)
    before = {path: path.read_text().splitlines() for path in place.logs.iterdir() if not path.name.startswith(".")}
    assert len(before) == 2 and all(holding(place.path, text) for text in (gone.public_key, short(gone)))
    keys = rows(store)

    script = commands().replace("/var/lib/wg-monitor/state.db", str(store)).replace("/var/log", str(place.logs))
    regex = short(gone).replace(".", r"\.")
    script = script.replace(short(Peer(DOCUMENTED)).replace(".", r"\."), regex).replace(DOCUMENTED, gone.public_key)
    assert subprocess.run(["sh", "-ec", script], stdout=subprocess.PIPE).stdout == b""

    for text in (gone.public_key, short(gone)):
        assert holding(store.parent, text) == holding(place.logs, text) == []
    left = {path: [line for line in lines if short(gone) not in line and gone.public_key not in line]
            for path, lines in before.items()}  # fmt: skip
    assert {path: path.read_text().splitlines() for path in before} == left and any(left.values())
    assert place.trail.stat().st_gid == 4
    assert rows(store) == {table: [key for key in keys[table] if key != gone.public_key] for table in keys}

    monitor = place.start(*flags)
    device.publish([other])
    device.settle()
    assert monitor.stop() == 0
    assert not [line for line in monitor.console() if other.public_key in line or short(other) in line]
    assert not [line for line in monitor.console() if "duplicated" in line or "damaged" in line]
