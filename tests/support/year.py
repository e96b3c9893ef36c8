"""A store or a trail as the monitor leaves it after a year, written in seconds instead of lived.

Half of the peers are laptops, used on working days; four in ten are phones, which come and go; one in ten is a link
between sites, up for days. Every second week the monitor is restarted.

`python3 tests/support/year.py store PATH PEERS SESSIONS` writes a store, and `text` or `json` instead of `store` a trail.
"""

import heapq
import random
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wg_monitor
from device import key

DAY_S = 86_400
DAYS = 365
REASONS = ("idle", "idle", "unreachable")


class Member(NamedTuple):
    number: int
    kind: str  # laptop, phone, site
    public_key: str
    name: str
    ips: str
    home: str  # where it comes from in most cases


def members(count: int) -> List[Member]:
    kinds = ("laptop",) * 5 + ("phone",) * 4 + ("site",)
    found = []
    for n in range(count):
        kind = kinds[n % len(kinds)]
        network = ",172.16.%d.0/24" % (n % 250) if kind == "site" else ""
        ips = "10.%d.%d.%d/32" % (n // 62_500, n // 250 % 250, n % 250 + 2) + network
        home = "[2001:db8:%x::7]" % n if n % 5 == 0 else "198.51.%d.%d" % (n // 250 % 250, n % 250 + 1)
        found.append(Member(n, kind, key("member %d" % n), "%s-%04d" % (kind, n), ips, home))
    return found


Span = Tuple[float, float]  # beginning and end


def times_of(member: Member, day: int, phone_sessions: float, chance: random.Random) -> Iterator[Span]:
    """When it is connected on a day, in seconds of that day. A site's link lasts for days."""
    if member.kind == "site":
        if (day + member.number) % 3 == 0:
            yield chance.uniform(0, 3600), 3 * DAY_S - 600
        return
    least, most, count = (7.0, 19.0, 3) if member.kind == "laptop" else (0.0, 24.0, int(phone_sessions + chance.random()))
    if member.kind == "laptop" and day % 7 in (5, 6):
        return
    step = (most - least) * 3600 / max(1, count)
    for n in range(count):
        begin = least * 3600 + n * step + chance.uniform(0, step / 4)
        yield begin, begin + min(step * 0.7, chance.expovariate(2 / step))


class Row(NamedTuple):
    """A row of `sessions`; the end of an open one is None."""

    number: int
    interface: str
    public_key: str
    start: float
    began: float
    received_before: int
    sent_before: int
    endpoints: str
    unwatched: float
    last_seen: Optional[float]
    detected: Optional[float]
    length: Optional[float]
    received: Optional[int]
    sent: Optional[int]
    reason: Optional[str]
    name: str


def sessions(crowd: Sequence[Member], count: int, now: float, chance: random.Random) -> Iterator[Row]:
    """About that many, in the order of their beginnings."""
    begin = now - DAYS * DAY_S
    laptops, phones, sites = (sum(m.kind == kind for m in crowd) for kind in ("laptop", "phone", "site"))
    others = laptops * 3 * DAYS * 5 / 7 + sites * DAYS / 3
    kept = min(1.0, 0.6 * count / others)  # of the sessions of laptops and sites
    rate = (count - kept * others) / max(1, phones) / DAYS
    number = 0
    for day in range(DAYS):
        spans = [(*span, m) for m in crowd for span in times_of(m, day, rate, chance)]
        for since, until, member in sorted(spans, key=lambda span: span[0]):
            start, end = float(int(begin + day * DAY_S + since)), begin + day * DAY_S + until
            if start >= now or (member.kind != "phone" and chance.random() > kept):
                continue
            number += 1
            host = member.home if chance.random() < 0.7 else "203.0.113.%d" % chance.randrange(1, 250)
            endpoints = "%s:%d" % (host, chance.randrange(1024, 65_536))
            received = int(chance.lognormvariate(14, 2))
            ended: Sequence[Any] = (None,) * 6
            if end + 200 < now:
                ended = (end, end + 185, end - start, received, 8 * received, chance.choice(REASONS))
            before = (start, start - begin, 0, 0, endpoints, 0.0)
            yield Row._make((number, "wg0", member.public_key, *before, *ended, member.name))


def gaps(now: float) -> Iterator[Tuple[Any, ...]]:
    """Restarts, the night in which the machine was down, and times in which it stood still."""
    for day in range(7, DAYS, 14):
        start = now - (DAYS - day) * DAY_S
        yield None, start, start + 150, None, "stopped"
        yield None, start + DAY_S, start + DAY_S + 95, None, "stalled"
    yield None, now - 100 * DAY_S, now - 100 * DAY_S + 9 * 3600, None, "stopped"


def write_year(path: str, peers: int, count: int, now: float) -> int:
    """Writes the store, and returns the number of its sessions."""
    chance = random.Random(1)
    store = wg_monitor.Store(path)
    store.open()
    store.close()
    crowd = members(peers)
    begin = now - DAYS * DAY_S
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        places = ", ".join("?" * len(Row._fields))
        statement = "INSERT INTO sessions (%s) VALUES (%s)" % (", ".join(Row._fields), places)
        database.executemany(statement, sessions(crowd, count, now, chance))
        number, reached = database.execute("SELECT max(number), max(began) FROM sessions").fetchone()
        boot = now - begin
        monitor = (1, "0" * 16, 1, wg_monitor.boot_id(), now, boot, boot, boot, "+00:00", None, None, None, 0, "", number)
        database.execute("INSERT INTO monitor VALUES (%s)" % ", ".join("?" * len(monitor)), monitor)
        database.execute("INSERT INTO interfaces (name, up, read, wall) VALUES ('wg0', 1, ?, ?)", (boot, now))
        rule = ("1.2.0", 30, 180, "handshake", "")
        database.executemany(
            "INSERT INTO runs (start, version, interval, threshold, liveness, interfaces) VALUES (?, ?, ?, ?, ?, ?)",
            [(begin + day * DAY_S, *rule) for day in range(0, DAYS, 14)],
        )
        database.executemany("INSERT INTO unwatched VALUES (?, ?, ?, ?, ?)", gaps(now))
        statement = "INSERT INTO allowed_ips (interface, public_key, since, ips) VALUES ('wg0', ?, ?, ?)"
        database.executemany(statement, [(m.public_key, begin, m.ips) for m in crowd])
        moved = [(m.public_key, now - 50 * DAY_S, m.ips + ",10.99.0.0/16") for m in crowd if m.number % 5 == 0]
        database.executemany(statement, moved)
        database.execute(
            """INSERT INTO addresses SELECT interface, public_key,
            trim(rtrim(rtrim(endpoints, '0123456789'), ':'), '[]') AS address, min(start), max(start) FROM sessions
            GROUP BY interface, public_key, address"""
        )
        database.executemany(
            """INSERT INTO peers (interface, public_key, endpoint, allowed_ips, handshake, shown, made, rx, tx, past_rx,
            past_tx, heard, heard_wall, sent, name) VALUES ('wg0', ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, 0, ?)""",
            [
                (m.public_key, m.home + ":51820", m.ips, *(int(now) - 60,) * 2, boot - 60, 10**9, 10**10, boot, now, m.name)
                for m in crowd
            ],
        )
        database.execute(
            """UPDATE peers SET session = (SELECT max(number) FROM sessions AS s
            WHERE s.public_key = peers.public_key AND s.interface = peers.interface AND reason IS NULL)"""
        )
        # A peer has one open session: what the draw left open beside it ends.
        database.execute(
            """UPDATE sessions SET last_seen = start + 60, detected = start + 240, length = 60.0, received = 1, sent = 1,
            reason = 'idle' WHERE reason IS NULL AND number NOT IN (SELECT session FROM peers WHERE session NOT NULL)"""
        )
        database.execute(
            """UPDATE peers SET ended_wall = (SELECT max(last_seen) FROM sessions AS s
            WHERE s.public_key = peers.public_key AND s.interface = peers.interface)"""
        )
        database.execute("UPDATE peers SET ended = ended_wall - ?", (begin,))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert reached <= boot
    return int(number)


def events(crowd: Sequence[Member], count: int, now: float) -> Iterator[wg_monitor.Event]:
    """The events of these sessions, in their order."""
    by_key = {member.public_key: member for member in crowd}
    ends: List[Tuple[float, int, wg_monitor.Event]] = []
    new = set(by_key)
    for row in sessions(crowd, count, now, random.Random(1)):
        while ends and ends[0][0] <= row.start + 20:
            yield heapq.heappop(ends)[2]
        member = by_key[row.public_key]
        session = wg_monitor.Session(row.number, row.start, row.began, 0, 0, 0.0, row.endpoints)
        peer = ("wg0", row.public_key, row.endpoints, member.ips, int(row.start))
        first = row.public_key in new
        new.discard(row.public_key)
        yield wg_monitor.Event("ONLINE", row.start + 20, *peer, 1, first, member.name, session)
        if row.detected is not None:
            ended = wg_monitor.Ended(session, *(row.last_seen, row.length, row.received, row.sent, row.reason))  # type: ignore[arg-type]
            event = wg_monitor.Event("OFFLINE", row.detected, *peer, 0, False, member.name, ended=ended)
            heapq.heappush(ends, (row.detected, row.number, event))
    for _, _, event in sorted(ends):
        yield event


def write_trail(path: str, peers: int, count: int, now: float, log_format: str) -> int:
    """Writes the trail, and returns the number of its lines."""
    render, lines = wg_monitor.render, 1
    start = wg_monitor.Event("START", now - DAYS * DAY_S)
    with open(path, "wb") as file:
        file.write(render(1, start, "Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s", log_format))
        for event in events(members(peers), count, now):
            lines += 1
            file.write(render(lines, event, wg_monitor.event_text(event), log_format))
    return lines


if __name__ == "__main__":
    form, path, peers, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if form == "store":
        print(write_year(path, peers, count, time.time()))
    else:
        print(write_trail(path, peers, count, time.time(), form))
