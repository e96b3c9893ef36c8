"""Stores as an administrator finds, queries, locks, damages and replaces them, and stores that older versions left.

Queries are read-only: the last connection that may write would copy the write-ahead log into the database and delete it,
which changes what a crash left behind.
"""

import ast
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Iterable, List, Optional, Sequence, Type

from device import Peer, key
from disks import DiskPlace
from harness import Place, wait_for

ASK = """
import sqlite3, sys
database = sqlite3.connect("file:%s?mode=ro" % sys.argv[1], uri=True)
print(database.execute(sys.argv[2]).fetchall())
"""


def ask(path: Path, statement: str, *values: Any) -> List[Any]:
    with closing(sqlite3.connect("file:%s?mode=ro" % path, uri=True)) as database:
        return database.execute(statement, values).fetchall()


def ask_inside(place: Place, path: Path, statement: str) -> List[Any]:
    """Query a store that may be on the disk of the place. SQLite resolves links, and /proc/PID/root is one."""
    if not isinstance(place, DiskPlace) or place.disk is None:
        return ask(path, statement)
    command = [*place.disk.enter, sys.executable, "-I", "-S", "-c", ASK, str(path), statement]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return ast.literal_eval(done.stdout.decode())  # type: ignore[no-any-return]


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(str(path))) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


def copy(source: Path, target: Path) -> None:
    """As the commands .backup and .restore of sqlite3 do: the target may be a store in use."""
    with closing(sqlite3.connect("file:%s?mode=ro" % source, uri=True)) as database:
        with closing(sqlite3.connect(str(target), timeout=10)) as other:
            database.backup(other)


# --- Locks --------------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
for statement in sys.argv[2:]:
    database.execute(statement).fetchall()
print("held", flush=True)
sys.stdin.readline()
database.execute("ROLLBACK")
database.close()
"""

LOCKS: Dict[str, Sequence[str]] = {
    "BEGIN IMMEDIATE": ("BEGIN IMMEDIATE",),
    "BEGIN EXCLUSIVE": ("BEGIN EXCLUSIVE",),
    "an exclusive locking mode": ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE"),  # nobody else may even read
}


class Held:
    """Another process that holds a lock on a store until it is released."""

    def __init__(self, path: Path, statements: Iterable[str], enter: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*enter, sys.executable, "-I", "-S", "-c", HOLD, str(path), *statements],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n", "the store was not locked"

    def release(self) -> None:
        self.process.communicate(b"\n")
        assert self.process.returncode == 0

    def __enter__(self) -> "Held":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self.process.poll() is None:
            self.process.communicate(b"\n")


# --- The small file beside the store ------------------------------------------------------------------------------

LAST = re.compile(r"\w+=\S*(?: \w+=\S*)* *\n")


def last_path(path: Path) -> Path:
    return Path(str(path) + ".last")


def last_of(path: Path) -> Dict[str, str]:
    """What the small file says. It must be one whole line."""
    text = last_path(path).read_bytes().decode("ascii")
    assert LAST.fullmatch(text), "the file does not parse: %r" % text
    return dict(pair.split("=", 1) for pair in text.split())


def change_last(path: Path, before: str, after: str) -> None:
    """Replace a text in the small file. Its size stays."""
    data = last_path(path).read_bytes()
    assert len(before) == len(after) and before.encode() in data
    last_path(path).write_bytes(data.replace(before.encode(), after.encode()))


# --- Stores of older versions -------------------------------------------------------------------------------------

SCHEMA_1 = """
    CREATE TABLE monitor (
        one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, wall REAL NOT NULL, boot REAL NOT NULL,
        complete REAL, steady REAL NOT NULL, device TEXT, inode TEXT, size INTEGER, written INTEGER NOT NULL);
    CREATE TABLE interfaces (
        name TEXT PRIMARY KEY, up INTEGER NOT NULL, read REAL, wall REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE peers (
        interface TEXT NOT NULL, public_key TEXT NOT NULL, endpoint TEXT NOT NULL, allowed_ips TEXT NOT NULL,
        handshake INTEGER NOT NULL, shown INTEGER NOT NULL, made REAL, rx INTEGER NOT NULL, tx INTEGER NOT NULL,
        past_rx INTEGER NOT NULL, past_tx INTEGER NOT NULL, heard REAL, heard_wall REAL, sent INTEGER NOT NULL,
        session INTEGER, PRIMARY KEY (interface, public_key)) WITHOUT ROWID;
    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY, interface TEXT NOT NULL, public_key TEXT NOT NULL, start REAL NOT NULL,
        began REAL NOT NULL, received_before INTEGER NOT NULL, sent_before INTEGER NOT NULL,
        endpoints TEXT NOT NULL, unwatched REAL NOT NULL, last_seen REAL, detected REAL, length REAL,
        received INTEGER, sent INTEGER, reason TEXT);
    CREATE INDEX sessions_of_peer ON sessions (public_key, interface, start);
    CREATE INDEX sessions_open ON sessions (number) WHERE reason IS NULL;
    CREATE INDEX sessions_ended ON sessions (detected);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, wall REAL NOT NULL, kind TEXT NOT NULL, interface TEXT, public_key TEXT,
        endpoint TEXT, allowed_ips TEXT, handshake INTEGER, online INTEGER, was TEXT, session INTEGER,
        hook INTEGER NOT NULL, line BLOB NOT NULL);
    CREATE INDEX events_due ON events (seq) WHERE hook = 1;
    CREATE INDEX events_by_time ON events (wall);
    PRAGMA user_version = 1;
"""
FROM_1_TO_2 = """
    DROP INDEX sessions_open;
    DROP INDEX sessions_ended;
    CREATE INDEX sessions_ended ON sessions (detected) WHERE detected IS NOT NULL;
    PRAGMA user_version = 2;
"""
OLD_SESSIONS = "number, interface, public_key, start, received_before, sent_before, last_seen, detected, length, reason"
OLD_EVENTS = "seq, wall, kind, interface, public_key, endpoint, allowed_ips, handshake, online, was, session, line"


def short_key(public_key: str) -> str:
    return public_key[:8] + "..." + public_key[-8:]


class OldStore:
    """What an older version left behind an hour after its start, a minute ago. The trail lacks the last line, whose hook
    run is due."""

    def __init__(self, path: Path, version: int) -> None:
        self.wall, self.boot = time.time() - 60, time.clock_gettime(time.CLOCK_BOOTTIME) - 60  # the last reading
        handshake = int(self.wall) - 20
        self.ann = Peer(key("ann"), "198.51.100.7:4500", "10.0.0.1/32", handshake, 700, 70)
        self.bob = Peer(key("bob"), "", "10.0.0.2/32,10.1.0.0/24")
        self.cyd = Peer(key("cyd"), "[2001:db8::3]:3", "10.0.0.3/32")  # it was removed
        self.dan = Peer(key("dan"), "192.0.2.4:4", "10.0.0.4/32")  # no event is left of it
        self.lines: List[bytes] = []
        with closing(sqlite3.connect(str(path))) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(SCHEMA_1 + (FROM_1_TO_2 if version == 2 else ""))
            self.fill(database)
            database.commit()
        path.chmod(0o600)

    def fill(self, database: sqlite3.Connection) -> None:
        wall, boot, ann, bob, cyd = self.wall, self.boot, self.ann, self.bob, self.cyd
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        monitor = (1, boot_id, wall, boot, boot, 3600.0, None, None, None, 7)
        database.execute("INSERT INTO monitor VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", monitor)
        database.execute("INSERT INTO interfaces VALUES ('wg0', 1, ?, ?)", (boot, wall))
        for p in (ann, bob, self.dan):
            made = boot - (wall - p.handshake) if p.handshake else None
            numbers = (p.handshake, p.handshake, made, p.rx, p.tx, 0, 0, None, None, p.tx, 3 if p is ann else None)
            values = ("wg0", p.public_key, p.endpoint, p.allowed_ips, *numbers)
            database.execute("INSERT INTO peers VALUES (%s)" % ", ".join("?" * len(values)), values)
        roamed = "192.0.2.1:51820 198.51.100.7:4500"
        ended = (wall - 2000, wall - 1900, 1000.0, 500, 50, "idle")
        self.session(database, 1, ann, wall - 3000, roamed, *ended)
        self.session(database, 2, cyd, wall - 2500, "", wall - 2400, wall - 2300, 100.0, 0, 0, "removed")
        self.session(database, 3, ann, ann.handshake, ann.endpoint, None, None, None, None, None, None)
        first = ann._replace(allowed_ips="10.0.0.9/32", endpoint="192.0.2.1:51820")
        self.event(database, wall - 3600, "START")
        self.event(database, wall - 3000, "ONLINE", first, 1, new=True)
        self.event(database, wall - 2900, "OFFLINE", bob, new=True)
        self.event(database, wall - 2800, "CHANGED", ann, 1, "10.0.0.9/32")
        self.event(database, wall - 2500, "ONLINE", cyd, 2, new=True)
        self.event(database, wall - 2300, "REMOVED", cyd, 2, "removed")
        self.event(database, wall - 1900, "OFFLINE", ann, 1, "idle")
        self.event(database, wall - 10, "ONLINE", ann, 3, hook=1)

    def session(self, database: sqlite3.Connection, number: int, p: Peer, start: float, ends: str, *end: Any) -> None:
        began = self.boot - (self.wall - start)
        values = (number, "wg0", p.public_key, start, began, 0, 0, ends, 0.0, *end)
        database.execute("INSERT INTO sessions VALUES (%s)" % ", ".join("?" * len(values)), values)

    def event(
        self,
        database: sqlite3.Connection,
        wall: float,
        kind: str,
        p: Optional[Peer] = None,
        session: Optional[int] = None,
        was: Optional[str] = None,
        hook: int = 0,
        new: bool = False,
    ) -> None:
        seq = len(self.lines) + 1
        peer: Sequence[Any] = (None,) * 6
        if p is not None:
            peer = ("wg0", p.public_key, p.endpoint, p.allowed_ips, p.handshake, int(kind in ("ONLINE", "CHANGED")))
        text = "Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s"
        if p is not None:
            who = (kind, short_key(p.public_key), p.endpoint or "N/A", p.allowed_ips.replace("/32", ""))
            text = "%-7s [wg0] %s (%s) [IP: %s]" % who + (" new" if new else "") + " (handshake: 09:59:59)"
        self.lines.append(("2023-10-27 10:00:%02d %s\n" % (seq, text)).encode())
        values = (seq, wall, kind, *peer, was, session, hook, self.lines[-1])
        database.execute("INSERT INTO events VALUES (%s)" % ", ".join("?" * len(values)), values)


# --- Damage -------------------------------------------------------------------------------------------------------

LETTER = b"this is a letter to my aunt\n" * 3000


def garble(path: Path) -> None:
    """Write garbage over all pages but the first, from which SQLite learns that it is a database."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write((LETTER * (size // len(LETTER) + 1))[: size - 4096])


def opened(pid: int, path: Path) -> bool:
    """Whether the process has the file open."""
    try:
        return any(link.resolve() == path for link in Path("/proc/%d/fd" % pid).iterdir())
    except OSError:  # a descriptor was closed meanwhile, or the process ended
        return False


def settled(place: Place, path: Path, statement: str) -> List[Any]:
    """Wait until a query has rows, whatever the store is doing meanwhile, and return them."""

    def look() -> List[Any]:
        try:
            return ask_inside(place, path, statement)
        except (sqlite3.Error, subprocess.CalledProcessError):
            return []

    return wait_for(statement, look)
