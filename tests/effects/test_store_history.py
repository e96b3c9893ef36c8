"""The history in the store: what older versions left, what each save adds, and what is deleted, ended or forgotten."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import pytest

import wg_monitor
from values import START, P, at, chosen, dump, identity, ids, key
from watcher import Watcher, query
from wg_monitor import (
    DAY_S,
    HOOK_DONE,
    HOOK_DROPPED,
    HOOK_DUE,
    MIGRATIONS,
    SCHEMA,
    Delivered,
    Moment,
    Position,
    StoreFault,
)

ANN, BOB, CYD = key("ann"), key("bob"), key("cyd")
IPS = "SELECT interface, public_key, since, ips FROM allowed_ips ORDER BY number"
ADDRESSES = "SELECT interface, public_key, address, first_seen, last_seen FROM addresses ORDER BY 1, 2, 3"
RUNS = "SELECT start, version, interval, threshold, liveness, interfaces FROM runs ORDER BY number"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


# --- Migrations ---------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A row of `events`, as versions 1 and 2 wrote it."""

    seq: int
    wall: float
    kind: str
    interface: Optional[str] = "wg0"
    public_key: Optional[str] = ANN
    endpoint: Optional[str] = "192.0.2.1:51820"
    allowed_ips: Optional[str] = "10.0.0.1/32"
    handshake: Optional[int] = 1000
    online: Optional[int] = 1
    was: Optional[str] = None
    session: Optional[int] = None
    hook: int = 0
    line: bytes = b"2023-10-27 10:01:30 a line (handshake: 10:01:25)\n"


NEW = b"2023-10-27 10:01:30 ONLINE  [wg0] ann (192.0.2.1:51820) [IP: 10.0.0.1] new (handshake: 10:01:25)\n"
NEW_JSON = b'{"seq": 1, "event": "ONLINE", "new": true, "online": true}\n'
OLD_JSON = b'{"seq": 1, "event": "ONLINE", "online": true}\n'
NO_PEER: Dict[str, Any] = dict.fromkeys(
    ("interface", "public_key", "endpoint", "allowed_ips", "handshake", "online"), None
)


def old_store(path: Path, version: int, events: Sequence[Row] = (), written: Optional[int] = 0) -> None:
    """`written`: the last line that the trail has; None = nothing was saved yet."""
    with closing(sqlite3.connect(str(path))) as database:
        for migration in MIGRATIONS[:version]:
            database.executescript(migration)
        places = ", ".join("?" * len(Row._fields))
        database.executemany("INSERT INTO events (%s) VALUES (%s)" % (", ".join(Row._fields), places), events)
        if written is not None:
            place = ("this-boot", START.wall, START.boot, START.boot, 60.0, "12", "34", 56, written)
            database.execute("INSERT INTO monitor VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)", place)
        database.execute("PRAGMA user_version = %d" % version)
        database.commit()


def add_peer(path: Path, public_key: str, allowed_ips: str, session: Optional[int] = None) -> None:
    peer = ("wg0", public_key, "192.0.2.1:51820", allowed_ips, 1000, 1000, 70.0, 10, 20, 1, 2, None, None, 20, session)
    query(path, "INSERT INTO peers VALUES (%s)" % ", ".join("?" * len(peer)), *peer)


def upgrade(path: Path) -> wg_monitor.Loaded:
    with Watcher(path) as watcher:
        return watcher.load(at(60))


@pytest.fixture(params=[1, 2])
def version(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(wg_monitor, "boot_id", lambda: "this-boot")
    return int(request.param)


class Filled(NamedTuple):
    name: str
    events: Sequence[Row]
    found: Sequence[Tuple[Any, ...]]


# What `allowed_ips` has: interface, key, time, addresses.
IPS_FILLED = [
    Filled("a peer that was new online", [Row(1, 10.0, "ONLINE", line=NEW)], [("wg0", ANN, 10.0, "10.0.0.1/32")]),
    Filled("a peer that was new offline", [Row(1, 10.0, "OFFLINE", line=NEW)], [("wg0", ANN, 10.0, "10.0.0.1/32")]),
    Filled("a peer that was new in JSON", [Row(1, 10.0, "ONLINE", line=NEW_JSON)], [("wg0", ANN, 10.0, "10.0.0.1/32")]),
    Filled("a peer that came back", [Row(1, 10.0, "ONLINE"), Row(2, 11.0, "OFFLINE", line=OLD_JSON)], []),
    Filled("no addresses", [Row(1, 10.0, "ONLINE", line=NEW, allowed_ips="")], [("wg0", ANN, 10.0, "")]),
    Filled(
        "addresses that changed",
        [Row(1, 10.0, "ONLINE", line=NEW), Row(2, 11.0, "CHANGED", allowed_ips="a,b", was="10.0.0.1/32")],
        [("wg0", ANN, 10.0, "10.0.0.1/32"), ("wg0", ANN, 11.0, "a,b")],
    ),
    Filled(
        "a peer that was removed, and was new again",
        [Row(1, 10.0, "ONLINE", line=NEW), Row(2, 11.0, "REMOVED"), Row(3, 12.0, "OFFLINE", line=NEW)],
        [("wg0", ANN, 10.0, "10.0.0.1/32"), ("wg0", ANN, 11.0, None), ("wg0", ANN, 12.0, "10.0.0.1/32")],
    ),
    Filled(
        "lines that say the word new",
        [Row(1, 10.0, "WARN", line=NEW, **NO_PEER), Row(2, 11.0, "ROAMING", line=NEW), Row(3, 11.0, "IFUP", line=NEW)],
        [],
    ),
]


@pytest.mark.parametrize("case", IPS_FILLED, ids=ids(IPS_FILLED))
def test_a_migration_fills_the_history_of_allowed_ips(path: Path, version: int, case: Filled) -> None:
    old_store(path, version, case.events)
    upgrade(path)
    assert query(path, IPS) == list(case.found)
    new = [bool(row.line in (NEW, NEW_JSON) and row.kind in ("ONLINE", "OFFLINE")) for row in case.events]
    assert [value == 1 for (value,) in query(path, "SELECT new FROM events ORDER BY seq")] == new


def online(seq: int, wall: float, endpoint: Optional[str], kind: str = "ONLINE", **more: Any) -> Row:
    return Row(seq, wall, kind, endpoint=endpoint, **more)


DAY = float(DAY_S)
# What `addresses` has: interface, key, address, first time, last time.
ADDRESSES_FILLED = [
    Filled("an IPv4 address", [online(1, 10.0, "192.0.2.1:51820")], [("wg0", ANN, "192.0.2.1", 10.0, 10.0)]),
    Filled("an IPv6 address", [online(1, 10.0, "[2001:db8::7]:51820")], [("wg0", ANN, "2001:db8::7", 10.0, 10.0)]),
    Filled(
        "an IPv6 address that ends with colons", [online(1, 10.0, "[2001::]:1")], [("wg0", ANN, "2001::", 10.0, 10.0)]
    ),
    Filled(
        "an IPv6 address with a scope",
        [online(1, 10.0, "[fe80::1%eth0]:1")],
        [("wg0", ANN, "fe80::1%eth0", 10.0, 10.0)],
    ),
    Filled(
        "a mapped address", [online(1, 10.0, "[::ffff:192.0.2.1]:9")], [("wg0", ANN, "::ffff:192.0.2.1", 10.0, 10.0)]
    ),
    Filled("no endpoint", [online(1, 10.0, ""), online(2, 11.0, None)], []),
    Filled(
        "a peer that went offline",
        [online(1, 10.0, "192.0.2.1:1", "OFFLINE"), online(2, 11.0, "192.0.2.1:1", "REMOVED")],
        [],
    ),
    Filled(
        "another port of the same address",
        [online(1, 10.0, "192.0.2.1:1"), online(2, 11.0, "192.0.2.1:2")],
        [("wg0", ANN, "192.0.2.1", 10.0, 10.0)],
    ),
    Filled(
        "the same address within a day",
        [online(1, 10.0, "192.0.2.1:1"), online(2, 10.0 + DAY, "192.0.2.1:1", "ROAMING")],
        [("wg0", ANN, "192.0.2.1", 10.0, 10.0)],
    ),
    Filled(
        "the same address after a day",
        [online(1, 10.0, "192.0.2.1:1"), online(2, 10.5 + DAY, "192.0.2.1:1"), online(3, 11.0 + DAY, "192.0.2.1:1")],
        [("wg0", ANN, "192.0.2.1", 10.0, 10.5 + DAY)],
    ),
    Filled(
        "a clock that was set back",
        [online(1, 10.0 + DAY, "192.0.2.1:1"), online(2, 10.0, "192.0.2.1:1")],
        [("wg0", ANN, "192.0.2.1", 10.0 + DAY, 10.0 + DAY)],
    ),
    Filled(
        "two addresses, two peers and two interfaces",
        [
            online(1, 10.0, "192.0.2.1:1"),
            online(2, 11.0, "192.0.2.2:1", "ROAMING"),
            online(3, 12.0, "192.0.2.1:1", public_key=BOB),
            online(4, 13.0, "192.0.2.1:1", interface="wg1"),
        ],
        [
            ("wg0", ANN, "192.0.2.1", 10.0, 10.0),
            ("wg0", ANN, "192.0.2.2", 11.0, 11.0),
            ("wg0", BOB, "192.0.2.1", 12.0, 12.0),
            ("wg1", ANN, "192.0.2.1", 13.0, 13.0),
        ],
    ),
]


@pytest.mark.parametrize("case", ADDRESSES_FILLED, ids=ids(ADDRESSES_FILLED))
def test_a_migration_fills_the_addresses(path: Path, version: int, case: Filled) -> None:
    old_store(path, version, case.events)
    upgrade(path)
    assert query(path, ADDRESSES) == [tuple(row) for row in case.found]


def test_a_migration_notes_the_present_allowed_ips(path: Path, version: int) -> None:
    """Their events may be older than the history."""
    old_store(path, version, [Row(7, 10.0, "CHANGED", public_key=BOB, allowed_ips="b")], written=7)
    add_peer(path, ANN, "a")
    add_peer(path, BOB, "b")
    upgrade(path)
    assert query(path, IPS) == [("wg0", BOB, 10.0, "b"), ("wg0", ANN, START.wall, "a"), ("wg0", BOB, START.wall, "b")]


LINES = [Row(seq, 10.0, "WARN", **NO_PEER) for seq in (1, 2, 3)]
MISSING = [
    ("no line at all", [], 0, Delivered(0)),
    ("lines of which the trail has none", LINES, 0, Delivered(3, ((1, 3),))),
    ("lines of which the trail has some", LINES, 2, Delivered(3, ((3, 3),))),
    ("lines that the trail has", LINES, 3, Delivered(3)),
    ("a trail that has more", LINES, 9, Delivered(9)),
    ("lines that are no longer in the store", [], 9, Delivered(9)),
]


@pytest.mark.parametrize(("name", "events", "written", "delivered"), MISSING, ids=ids(MISSING))
def test_a_migration_keeps_what_the_trail_has(
    path: Path, version: int, name: str, events: Sequence[Row], written: int, delivered: Delivered
) -> None:
    old_store(path, version, events, written)
    loaded = upgrade(path)
    assert loaded.delivered == delivered._replace(position=Position(12, 34, 56))
    assert (loaded.watched, loaded.same_boot) == (START, True)


def test_a_migration_keeps_rows_sessions_and_hooks(path: Path, version: int) -> None:
    old_store(path, version, [Row(1, 10.0, "ONLINE", session=4, hook=HOOK_DUE, line=NEW)], written=1)
    session = ("wg0", ANN, 1000.0, 70.0, 5, 6, "192.0.2.1:51820", 0.5)
    columns = "number, interface, public_key, start, began, received_before, sent_before, endpoints, unwatched"
    query(path, "INSERT INTO sessions (%s) VALUES (4, ?, ?, ?, ?, ?, ?, ?, ?)" % columns, *session)
    add_peer(path, ANN, "a", session=4)
    query(path, "INSERT INTO interfaces VALUES ('wg0', 1, ?, ?)", START.boot, START.wall)
    loaded = upgrade(path)
    row = loaded.table.rows[identity("wg0", "ann")]
    assert row.session == wg_monitor.Session(4, 1000.0, 70.0, 5, 6, 0.5, "192.0.2.1:51820")
    assert (row.allowed_ips, row.handshake, row.rx, row.past_tx, row.made) == ("a", 1000, 10, 2, 70.0)
    assert row.ended == (wg_monitor.NEVER, wg_monitor.NEVER)
    assert (loaded.table.sessions, loaded.table.online) == (4, 1)
    assert loaded.table.interfaces == {"wg0": wg_monitor.Interface(True, START.boot, START.wall)}
    (job,) = loaded.jobs
    assert (job.seq, job.line, job.event.kind, job.event.new) == (1, NEW, "ONLINE", 1)
    assert query(path, "SELECT name FROM sessions") == query(path, "SELECT name FROM peers") == [("",)]
    assert query(path, "SELECT name, first_seen FROM events") == [(None, None)]


def test_a_migration_of_a_store_without_a_save_leaves_an_empty_one(path: Path, version: int) -> None:
    """Nobody knows which numbers were given away: a lost one could be anything."""
    old_store(path, version, written=None)
    loaded, number = upgrade(path), int(at(60).wall) * 1000
    assert (loaded.delivered, loaded.watched, loaded.table.sessions) == (Delivered(number), None, number)
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann")), at(90))
    assert query(path, IPS) == [("wg0", ANN, at(90).wall, "10.0.0.1/32")]


def test_each_migrated_store_gets_an_id_of_its_own(path: Path, version: int, tmp_path: Path) -> None:
    found = []
    for name in ("one.db", "two.db"):
        old_store(tmp_path / name, version)
        upgrade(tmp_path / name)
        found += query(tmp_path / name, "SELECT id FROM monitor")
    assert len(set(found)) == 2 and all(len(id_) == 16 for (id_,) in found)


def test_a_migration_leaves_nothing_else_behind(path: Path, version: int) -> None:
    """A migrated store has the same tables, indexes and views as a new one."""
    old_store(path, version)
    upgrade(path)
    with Watcher(path.with_name("fresh.db")):
        pass
    layout = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2"
    assert query(path, layout) == query(path.with_name("fresh.db"), layout)
    columns = "SELECT m.name, c.name, c.type, c.'notnull' FROM sqlite_master AS m, pragma_table_info(m.name) AS c ORDER BY 1, 2"
    assert query(path, columns) == query(path.with_name("fresh.db"), columns)
    assert query(path, "PRAGMA user_version") == [(SCHEMA,)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_migration_that_is_interrupted_is_done_at_the_next_start(path: Path, version: int) -> None:
    old_store(path, version, LINES, written=1)
    store = wg_monitor.Store(str(path))
    with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFault, match="locked") as fault:
            store.open()
        assert fault.value.locked and not fault.value.damaged
    assert query(path, "PRAGMA user_version") == [(version,)]
    store.open()
    store.close()
    assert upgrade(path).delivered.missing == ((2, 3),)


# --- What each save adds ------------------------------------------------------------------------------------------


def test_each_run_leaves_one_row_with_its_settings(path: Path) -> None:
    rules = [
        chosen(),
        chosen(interval=5, threshold=60, liveness="traffic", interface=frozenset(["wg1", "wg0"])),
    ]
    for number, settings in enumerate(rules):
        with Watcher(path, settings) as watcher:
            for reading in range(3):
                watcher.see(dump("wg0", P("ann", shook=reading)), at(100 * number + reading))
    version = wg_monitor.VERSION
    assert query(path, RUNS) == [
        (at(0).wall, version, 30, 180, "handshake", ""),
        (at(100).wall, version, 5, 60, "traffic", "wg0,wg1"),
    ]


def test_a_run_without_a_save_leaves_no_row(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.load(at(0))
    assert query(path, RUNS) == []


def test_each_change_of_allowed_ips_is_one_row(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5), P("bob", ips="")), at(0))
        watcher.see(dump("wg0", P("ann", shook=20), P("bob", ips="")), at(30))
        watcher.see(dump("wg0", P("ann", shook=20, ips="a"), P("bob", ips="")), at(60))
        watcher.see(dump("wg0", P("ann", shook=20, ips="a")), at(90))
        watcher.see(dump("wg0", P("ann", shook=20, ips="a"), P("bob", ips="b")), at(120))
    assert query(path, IPS) == [
        ("wg0", ANN, at(0).wall, "10.0.0.1/32"),
        ("wg0", BOB, at(0).wall, ""),
        ("wg0", ANN, at(60).wall, "a"),
        ("wg0", BOB, at(90).wall, None),
        ("wg0", BOB, at(120).wall, "b"),
    ]


def test_each_address_is_one_row(path: Path) -> None:
    places = ["192.0.2.1:1", "192.0.2.1:2", "198.51.100.7:1", "192.0.2.1:1"]
    with Watcher(path) as watcher:
        for number, endpoint in enumerate(places):
            watcher.see(dump("wg0", P("ann", shook=-5, endpoint=endpoint)), at(number))
        watcher.see(dump("wg0", P("ann", shook=3 * DAY, endpoint="192.0.2.1:1")), at(3 * DAY))
        watcher.see("", at(3 * DAY + 1))
        watcher.see(dump("wg0", P("ann", shook=3 * DAY + 2, endpoint="192.0.2.1:1")), at(3 * DAY + 2))
    assert query(path, ADDRESSES) == [
        ("wg0", ANN, "192.0.2.1", at(0).wall, at(3 * DAY + 2).wall),
        ("wg0", ANN, "198.51.100.7", at(2).wall, at(2).wall),
    ]


def test_lines_that_were_saved_late_fill_the_history_once(path: Path) -> None:
    """A failed save is repeated with everything that came since then."""
    with Watcher(path) as watcher:
        watcher.load(at(0))
        events = []
        with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number, ips in enumerate(("a", "b")):
                with pytest.raises(StoreFault):
                    watcher.see(dump("wg0", P("ann", shook=-5, ips=ips)), at(number))
                row = watcher.table.rows[identity("wg0", "ann")]
                events.append(wg_monitor.event_of("CHANGED" if number else "ONLINE", row, at(number), new=not number))
            other.execute("ROLLBACK")
    with Watcher(path) as watcher:
        watcher.load(at(2))
        watcher.save([watcher.record(event, False) for event in events], at(2))
        watcher.save([], at(3))
    assert query(path, IPS) == [("wg0", ANN, at(0).wall, "a"), ("wg0", ANN, at(1).wall, "b")]
    assert query(path, ADDRESSES) == [("wg0", ANN, "192.0.2.1", at(0).wall, at(0).wall)]


def test_an_event_says_whether_its_peer_was_new(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5), P("bob")), at(0))
        watcher.see(dump("wg0", P("ann", shook=-5, ips="a"), P("bob", shook=20)) + dump("wg1"), at(30))
    assert query(path, "SELECT kind, new FROM events ORDER BY seq") == [
        ("ONLINE", 1),
        ("OFFLINE", 1),
        ("IFUP", 0),
        ("CHANGED", 0),
        ("ONLINE", 0),
    ]


def test_the_clocks_and_the_last_numbers_outlive_a_run(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5)), at(0))
        watcher.table.sessions = 12
        watcher.delivered = Delivered(34)
        watcher.save([], at(1))
    with Watcher(path) as watcher:
        loaded = watcher.load(at(2))
        assert watcher.store.saved is not None
        assert (watcher.store.saved["steady"], watcher.store.saved["utc_offset"]) == (9.5, "+02:00")
    assert (loaded.table.sessions, loaded.delivered.last) == (12, 34)


def test_the_end_of_the_former_session_outlives_a_run_and_a_reboot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that begins again, as after a higher threshold, begins no earlier."""
    monkeypatch.setattr(wg_monitor, "boot_id", lambda: "this-boot")
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5)), at(0))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=10)), at(40))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=10)), at(230))
    for boot, now, ended in (("this-boot", at(240), at(40).boot), ("next-boot", Moment(at(240).wall, 5.0), 5.0 - 200)):
        monkeypatch.setattr(wg_monitor, "boot_id", lambda name=boot: name)
        with Watcher(path, chosen(threshold=1000)) as watcher:
            row = watcher.load(now).table.rows[identity("wg0", "ann")]
            assert row.ended == (at(40).wall, ended)
    with Watcher(path, chosen(threshold=1000)) as watcher:
        (event,) = watcher.see(dump("wg0", P("ann", shook=-5, rx=10)), Moment(at(240).wall, 5.0))
    assert event.kind == "ONLINE"
    assert query(path, "SELECT start, last_seen FROM sessions ORDER BY number") == [
        (at(-5).wall, at(40).wall),
        (at(40).wall, None),
    ]


def test_the_view_of_present_sessions_has_their_figures_so_far(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5, rx=100, tx=50), P("bob"), P("cyd", shook=-5)), at(0))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=10, tx=60), P("bob")), at(30))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=15, tx=70), P("bob")), at(60), checkpoint=True)
    columns = "interface, public_key, name, start, length, unwatched, endpoints, received, sent"
    found = query(path, "SELECT %s FROM sessions_now" % columns)
    assert found == [("wg0", ANN, "", at(-5).wall, 65.0, 0.0, "192.0.2.1:51820", 15, 20)]


# --- What ends, and what is forgotten -----------------------------------------------------------------------------


def test_sessions_that_nobody_saw_end_end_with_the_first_save(path: Path) -> None:
    """Those of interfaces that are no longer watched."""
    both = dump("wg0", P("ann", shook=-5)) + dump("wg1", P("ann", shook=-5), P("bob"))
    with Watcher(path) as watcher:
        watcher.see(both, at(0), checkpoint=True)
    ends = "SELECT interface, reason, last_seen, detected FROM sessions ORDER BY interface"
    peers = "SELECT interface, public_key, session IS NULL, ended_wall FROM peers ORDER BY 1, 2"
    open_ = [("wg0", None, None, None), ("wg1", None, None, None)]
    with Watcher(path, chosen(interface=frozenset(["wg0"]))) as watcher:
        watcher.load(at(100))
        assert query(path, ends) == open_
    with Watcher(path, chosen(interface=frozenset(["wg0"]))) as watcher:
        watcher.load(at(200))
        with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreFault, match="locked"):
                watcher.save([], at(201))
            other.execute("ROLLBACK")
        assert query(path, ends) == open_
        assert watcher.store.open()
        watcher.save([], at(202))
        assert query(path, ends) == [("wg0", None, None, None), ("wg1", "unknown", at(-5).wall, at(200).wall)]
        assert query(path, peers) == [
            ("wg0", ANN, 0, None),
            ("wg1", ANN, 1, at(-5).wall),
            ("wg1", BOB, 1, None),
        ]
        watcher.save([], at(203))
        assert query(path, ends)[1] == ("wg1", "unknown", at(-5).wall, at(200).wall)


def test_lose_ends_sessions_and_leaves_other_rows_alone(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5, rx=5), P("bob", shook=-4), P("cyd")), at(0))
        rows = {public_key: row for (_, public_key), row in watcher.table.rows.items()}
        watcher.store.lose([], at(10))
        watcher.store.lose([rows[CYD]], at(10))
        assert watcher.store.pending == []
        watcher.store.lose([rows[ANN], rows[CYD]], at(10))
        assert rows[ANN].session is None and rows[BOB].session is not None
        assert query(path, "SELECT count(*) FROM sessions WHERE reason IS NULL") == [(2,)]
        watcher.save([], at(11))
        assert watcher.store.pending == []
    assert query(path, "SELECT public_key, reason, detected, received FROM sessions ORDER BY public_key") == [
        (ANN, "unknown", at(10).wall, 0),
        (BOB, None, None, None),
    ]
    assert query(path, "SELECT public_key, session FROM peers ORDER BY public_key") == [
        (ANN, None),
        (BOB, 2),
        (CYD, None),
    ]


def test_room_in_a_former_state_has_only_what_this_run_knows(path: Path) -> None:
    """The database was replaced by a backup while the run went on: peers went and came since."""
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5), P("bob", shook=-4)) + dump("wg1"), at(0), hook=True)
        past = watcher.load(at(10)).table
        watcher.store.pending.clear()
        with Watcher(path.with_name("other.db")) as other:
            other.see(dump("wg0", P("ann", shook=-5, ips="a"), P("cyd")), at(5))
            table = other.table
        watcher.table = table
        for row in table.rows.values():
            row.unsaved = True
        watcher.store.make_room(past, table, at(10), True)
        watcher.save([], at(10))
    # The session of ann has the same number in both: it is the same one.
    assert query(path, "SELECT public_key, reason, detected FROM sessions ORDER BY public_key") == [
        (ANN, None, None),
        (BOB, "unknown", at(10).wall),
    ]
    assert query(path, "SELECT public_key, allowed_ips FROM peers ORDER BY public_key") == [
        (ANN, "a"),
        (CYD, "10.0.0.1/32"),
    ]
    assert query(path, "SELECT name FROM interfaces") == [("wg0",)]
    assert query(path, IPS)[2:] == [
        ("wg0", ANN, at(10).wall, "a"),
        ("wg0", CYD, at(10).wall, "10.0.0.1/32"),
        ("wg0", BOB, at(10).wall, None),
    ]
    assert query(path, "SELECT hook FROM events ORDER BY seq") == [(HOOK_DROPPED,), (HOOK_DROPPED,)]


def test_room_beside_what_a_store_remembers_ends_only_sessions_that_do_not_go_on(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5), P("bob", shook=-4), P("cyd")), at(0), hook=True)
    with Watcher(path) as watcher:
        past = watcher.load(at(60)).table
        watcher.store.pending.clear()
        table = wg_monitor.Table()
        table.sessions = 2
        text = dump("wg0", P("ann", shook=20)).encode()
        reading = wg_monitor.parse([text], "", wg_monitor.Memo(), [], frozenset())
        wg_monitor.decide(table, reading, at(30), chosen())
        wg_monitor.take_over(table, past, {identity("wg0", "bob")}, 3, 30.0)
        watcher.table = table
        watcher.store.make_room(past, table, at(60), False)
        watcher.save([], at(60))
    assert query(path, "SELECT public_key, reason FROM sessions ORDER BY public_key") == [(ANN, None), (BOB, "unknown")]
    assert query(path, "SELECT public_key, session FROM peers ORDER BY public_key") == [
        (ANN, 1),
        (BOB, None),
        (CYD, None),
    ]
    assert query(path, IPS)[3:] == []
    assert query(path, "SELECT hook FROM events ORDER BY seq") == [(HOOK_DUE,), (HOOK_DUE,), (0,)]


def test_a_forgotten_interface_leaves_a_row_without_addresses_for_each_of_its_peers(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann")) + dump("wg1", P("ann"), P("bob", ips="")) + dump("wg2", P("cyd")), at(0))
        watcher.store.forget(["wg1", "wg2"], at(99))
        assert query(path, IPS)[4:] == [
            ("wg1", ANN, at(99).wall, None),
            ("wg1", BOB, at(99).wall, None),
            ("wg2", CYD, at(99).wall, None),
        ]
        assert query(path, "SELECT interface, public_key FROM peers") == [("wg0", ANN)]


class Pruned(NamedTuple):
    """The time before which history goes is 1000."""

    name: str
    insert: str
    rows: Sequence[Tuple[Any, ...]]
    select: str
    left: Sequence[Tuple[Any, ...]]


IN_RUNS = (
    "INSERT INTO runs (start, version, interval, threshold, liveness, interfaces) VALUES (?, '1', 1, 1, 'traffic', '')"
)
IN_GAPS = "INSERT INTO unwatched (start, stop, why) VALUES (?, ?, 'no monitor')"
IN_IPS = "INSERT INTO allowed_ips (interface, public_key, since, ips) VALUES (?, ?, ?, ?)"
IN_ADDRESSES = "INSERT INTO addresses VALUES ('wg0', 'key', ?, ?, ?)"
IPS_LEFT = "SELECT interface, public_key, since, ips FROM allowed_ips ORDER BY number"
PRUNED = [
    Pruned(
        "gaps go that ended before",
        IN_GAPS,
        [(1.0, 999.0), (999.0, 1000.0), (2000.0, 2001.0)],
        "SELECT start FROM unwatched ORDER BY number",
        [(999.0,), (2000.0,)],
    ),
    Pruned(
        "of the runs that began before, the last one was still going on",
        IN_RUNS,
        [(1.0,), (2.0,), (999.0,), (1000.0,), (2000.0,)],
        "SELECT start FROM runs ORDER BY number",
        [(999.0,), (1000.0,), (2000.0,)],
    ),
    Pruned("the last run stays", IN_RUNS, [(1.0,), (2.0,)], "SELECT start FROM runs", [(2.0,)]),
    Pruned(
        "runs that began later stay", IN_RUNS, [(1000.0,), (2000.0,)], "SELECT start FROM runs", [(1000.0,), (2000.0,)]
    ),
    Pruned(
        "addresses go that were last used before",
        IN_ADDRESSES,
        [("a", 1.0, 999.0), ("b", 1.0, 1000.0), ("c", 2000.0, 2000.0)],
        "SELECT address FROM addresses ORDER BY 1",
        [("b",), ("c",)],
    ),
    Pruned(
        "of the allowed IPs from before, the last ones were still in force",
        IN_IPS,
        [("wg0", "k", 1.0, "a"), ("wg0", "k", 999.0, "b"), ("wg0", "k", 1000.0, "c")],
        IPS_LEFT,
        [("wg0", "k", 999.0, "b"), ("wg0", "k", 1000.0, "c")],
    ),
    Pruned(
        "each peer has allowed IPs of its own",
        IN_IPS,
        [("wg0", "k", 1.0, "a"), ("wg1", "k", 2.0, "b"), ("wg0", "l", 3.0, "c"), ("wg0", "k", 4.0, "d")],
        IPS_LEFT,
        [("wg1", "k", 2.0, "b"), ("wg0", "l", 3.0, "c"), ("wg0", "k", 4.0, "d")],
    ),
    Pruned(
        "a peer that was removed before leaves nothing",
        IN_IPS,
        [("wg0", "k", 1.0, "a"), ("wg0", "k", 999.0, None)],
        IPS_LEFT,
        [],
    ),
    Pruned(
        "a peer that was removed before and added later was not there between",
        IN_IPS,
        [("wg0", "k", 1.0, "a"), ("wg0", "k", 2.0, None), ("wg0", "k", 1000.0, "b")],
        IPS_LEFT,
        [("wg0", "k", 1000.0, "b")],
    ),
    Pruned(
        "a peer that was removed later was still there",
        IN_IPS,
        [("wg0", "k", 1.0, "a"), ("wg0", "k", 1000.0, None)],
        IPS_LEFT,
        [("wg0", "k", 1.0, "a"), ("wg0", "k", 1000.0, None)],
    ),
]


@pytest.mark.parametrize("case", PRUNED, ids=ids(PRUNED))
def test_old_history_goes_from_the_small_tables_as_well(path: Path, case: Pruned) -> None:
    with Watcher(path) as watcher:
        watcher.load(at(0))
        for row in case.rows:
            query(path, case.insert, *row)
        for _ in range(2):
            watcher.store.prune(1000.0, 0)
            assert query(path, case.select) == list(case.left)


def test_events_go_up_to_the_line_that_the_trail_has_and_the_hook_run_that_is_due(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", *(P(name, shook=-5) for name in ("ann", "bob", "cyd", "dan"))), at(0), hook=True)
        watcher.store.mark_hooks({1: HOOK_DONE, 3: HOOK_DROPPED, 4: HOOK_DONE})
        left: List[List[int]] = []
        for written in (0, 1, 3, 4):
            watcher.store.prune(at(9e6).wall, written)
            left.append([seq for (seq,) in query(path, "SELECT seq FROM events ORDER BY seq")])
    assert left == [[1, 2, 3, 4], [2, 3, 4], [2, 4], [2]]


def test_pruning_what_is_still_in_use_changes_no_session_and_no_peer(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5), P("bob")), at(0))
        before = query(path, "SELECT * FROM peers"), query(path, "SELECT * FROM sessions"), query(path, IPS)
        watcher.store.prune(at(9e6).wall, 2)
        assert before == (query(path, "SELECT * FROM peers"), query(path, "SELECT * FROM sessions"), query(path, IPS))
        assert query(path, "SELECT count(*) FROM runs") == [(1,)]


def test_the_largest_totals_of_a_session_that_goes_on_fit(path: Path) -> None:
    """Counters that restarted between the store and the run without it, at the greatest numbers that `wg` prints."""
    most = wg_monitor.COUNTER_MAX
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", shook=-5, rx=0, tx=0)), at(0))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=most, tx=most)), at(1), checkpoint=True)
    with Watcher(path) as watcher:
        past = watcher.load(at(60)).table
        table = wg_monitor.Table()
        table.sessions = past.sessions
        memo = wg_monitor.Memo()

        def read(rx: int, seconds: float) -> List[wg_monitor.Event]:
            text = dump("wg0", P("ann", shook=-5, rx=rx, tx=rx)).encode()
            return wg_monitor.decide(
                table, wg_monitor.parse([text], "", memo, ["wg0"], frozenset()), at(seconds), chosen()
            )

        read(5, 30)
        read(most, 31)
        wg_monitor.take_over(table, past, frozenset(), table.sessions, 29.0)
        watcher.table = table
        watcher.store.make_room(past, table, at(60), False)
        watcher.save([], at(60))
        events = read(most, 400)
        assert [event.kind for event in events] == ["OFFLINE"]
        watcher.save([watcher.record(event, False) for event in events], at(400))
    assert query(path, "SELECT reason, received, sent FROM sessions") == [("idle", most, most)]


def test_peers_that_nobody_watched_over_a_reboot_are_placed_by_the_wall_clock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their positions belong to a boot that nobody knows any more when they are watched again."""
    both = dump("wg0", P("ann", shook=-5)) + dump("wg1", P("bob", shook=-900), P("cyd", shook=-5))
    monkeypatch.setattr(wg_monitor, "boot_id", lambda: "this-boot")
    with Watcher(path) as watcher:
        watcher.see(both, at(0), checkpoint=True)
    monkeypatch.setattr(wg_monitor, "boot_id", lambda: "next-boot")
    with Watcher(path, chosen(interface=frozenset(["wg0"]))) as watcher:
        watcher.see(both, Moment(at(1000).wall, 100.0), checkpoint=True)
    with Watcher(path) as watcher:
        rows = watcher.load(Moment(at(1060).wall, 160.0)).table.rows
        placed = {identity_: rows[identity_].made for identity_ in (identity("wg1", "bob"), identity("wg1", "cyd"))}
    assert placed == {identity("wg1", "bob"): 160.0 - 1960, identity("wg1", "cyd"): 160.0 - 1065}
