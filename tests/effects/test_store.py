"""The store, against real files: what it keeps, who may open it, and what it does when it is damaged."""

import os
import random
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Set, Tuple

import pytest

import device
import wg_monitor
from harness import Place
from values import P, at, chosen, dump, figures, identity, key, name_of, told
from watcher import Watcher, query
from wg_monitor import (
    DAY_S,
    EVENT_KINDS,
    EXIT_FAILURE,
    EXIT_USAGE,
    HOOK_DONE,
    HOOK_DUE,
    MIGRATIONS,
    PRUNE_ROWS,
    SCHEMA,
    Delivered,
    Event,
    Moment,
    Position,
    Record,
    Refusal,
    Row,
    Session,
    Store,
    StoreFault,
    Table,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


ONLINE = P("ann", shook=-5, rx=100, tx=50)
TWO = dump("wg0", ONLINE, P("bob", endpoint="", ips=""))


# --- What it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_its_files_are_its_owners_alone(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Watcher(path) as watcher:
            watcher.see(TWO, at(0))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    names = ("state.db", "state.db-shm", "state.db-wal", "state.db.last", "state.db.lock")
    assert modes == dict.fromkeys(names, 0o600)


def test_it_has_the_schema_of_its_version_and_writes_ahead(path: Path) -> None:
    with Watcher(path):
        assert query(path, "PRAGMA user_version") == [(SCHEMA,)]
        assert query(path, "PRAGMA journal_mode") == [("wal",)]
        found = query(path, "SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view')")
    tables = {name for kind, name in found if kind == "table"}
    assert tables == wg_monitor.TABLES | {"runs", "unwatched", "allowed_ips", "addresses"}
    assert [name for kind, name in found if kind == "view"] == ["sessions_now"]


def test_each_older_version_is_brought_up_to_date(path: Path) -> None:
    for version in range(SCHEMA):
        old = path.with_name("old-%d.db" % version)
        with closing(sqlite3.connect(str(old))) as database:
            for migration in MIGRATIONS[:version]:
                database.executescript(migration)
            database.execute("PRAGMA user_version = %d" % version)
        with Watcher(old) as watcher:
            watcher.see(TWO, at(0))
        assert query(old, "PRAGMA user_version") == [(SCHEMA,)]


def test_a_migration_that_is_cut_short_did_not_happen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Watcher(path):
        pass
    monkeypatch.setattr(wg_monitor, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE one (a); CREATE TABLE one (a)"))
    monkeypatch.setattr(wg_monitor, "SCHEMA", SCHEMA + 1)
    store = Store(str(path))
    with pytest.raises(StoreFault):
        store.open()
    store.close()
    assert query(path, "PRAGMA user_version") == [(SCHEMA,)]
    assert not query(path, "SELECT name FROM sqlite_master WHERE name = 'one'")


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
    query(path, "PRAGMA user_version = %d" % (SCHEMA + 1))
    store = Store(str(path))
    with pytest.raises(Refusal, match="newer") as refusal:
        store.open()
    assert refusal.value.code == EXIT_FAILURE
    store.close()
    assert query(path, "SELECT count(*) FROM peers") == [(2,)]


def test_a_second_writer_is_refused_and_readers_are_not(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        with pytest.raises(Refusal) as refusal:
            Store(str(path), "--state-path")
        words = "--state-path: '%s' is in use by another monitor: a store has one writer; stop it or choose another path"
        assert (str(refusal.value), refusal.value.code) == (words % path, EXIT_FAILURE)
        assert query(path, "SELECT kind, public_key FROM events ORDER BY seq") == [
            ("ONLINE", key("ann")),
            ("OFFLINE", key("bob")),
        ]
        with closing(sqlite3.connect(str(path))) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (2,)
            watcher.see(dump("wg0", ONLINE), at(1))  # a reader in the middle of its work stops no writing
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (2,)
    Store(str(path)).close()


def test_no_secret_is_in_its_files(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0), checkpoint=True)
        data = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert key("ann").encode() in data
    for secret in (b"cHJpdmF0ZSBr", b"cHJlc2hhcmVk"):
        assert secret not in data


# --- What it remembers --------------------------------------------------------------------------------------------


def rows_of(table: Table) -> Dict[Any, Any]:
    """Everything about the peers of a table, for comparing."""
    return {identity: [getattr(row, name) for name in Row.__slots__] for identity, row in table.rows.items()}


def test_a_restart_in_the_same_boot_finds_everything_as_it_was(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.see(dump("wg0", ONLINE._replace(rx=200, tx=90), P("bob", endpoint="", ips="")), at(30))
        watcher.see(dump("wg0", ONLINE._replace(rx=10, tx=5), P("bob", endpoint="", ips="")), at(60), checkpoint=True)
        before = watcher.table
        assert not any(row.unsaved for row in before.rows.values())
    with Watcher(path) as watcher:
        loaded = watcher.load(at(100))
        assert loaded.same_boot and loaded.watched == at(60) and loaded.delivered.last == 2
        assert rows_of(loaded.table) == rows_of(before)
        assert loaded.table.interfaces == before.interfaces
        assert (loaded.table.online, loaded.table.sessions) == (1, 1)
        assert watcher.see(dump("wg0", ONLINE._replace(rx=10, tx=5), P("bob", endpoint="", ips="")), at(101)) == []


@pytest.mark.parametrize("checkpoint", [False, True], ids=["by its event", "by a checkpoint"])
def test_a_peer_that_went_offline_without_a_new_line_is_saved_as_offline(path: Path, checkpoint: bool) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0), checkpoint=True)
        (event,) = watcher.see(TWO, at(200), checkpoint=checkpoint)
        assert told(event) == "OFFLINE wg0 ann idle"
    assert query(path, "SELECT session FROM peers ORDER BY public_key") == [(None,), (None,)]


def unsaved(table: Table) -> List[str]:
    return sorted(name_of(public_key) for (_, public_key), row in table.rows.items() if row.unsaved)


def received(path: Path) -> Dict[str, int]:
    return {name_of(public_key): rx for public_key, rx in query(path, "SELECT public_key, rx FROM peers")}


def test_what_changes_without_an_event_waits_for_a_checkpoint(path: Path) -> None:
    bob = P("bob", shook=-5, rx=1)
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE, bob), at(0))
        assert unsaved(watcher.table) == []
        watcher.see(dump("wg0", ONLINE._replace(rx=200), bob._replace(rx=2)), at(30))
        assert unsaved(watcher.table) == ["ann", "bob"]
        assert received(path) == {"ann": 100, "bob": 1}
        # An event saves its own row, as it is by then. Only a checkpoint has every row and marks them as saved.
        watcher.see(dump("wg0", ONLINE._replace(rx=300, ips=""), bob._replace(rx=2)), at(60))
        assert unsaved(watcher.table) == ["ann", "bob"]
        assert received(path) == {"ann": 300, "bob": 1}
        watcher.see(dump("wg0", ONLINE._replace(rx=300, ips=""), bob._replace(rx=2)), at(90), checkpoint=True)
        assert unsaved(watcher.table) == []
        assert received(path) == {"ann": 300, "bob": 2}


def test_a_row_is_unsaved_until_a_checkpoint_with_it_commits(path: Path) -> None:
    with Watcher(path) as watcher:
        with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreFault, match="database is locked"):
                watcher.see(TWO, at(0))
            assert unsaved(watcher.table) == ["ann", "bob"]
            other.execute("ROLLBACK")
        with pytest.raises(StoreFault, match="it is not open"):
            watcher.see(TWO, at(1))
        watcher.store.open()
        watcher.see(TWO, at(2))
        assert unsaved(watcher.table) == []
    assert received(path) == {"ann": 100, "bob": 0}


def test_the_first_save_after_a_reboot_writes_every_row(path: Path) -> None:
    """Their positions on the boot clock are others."""
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0), checkpoint=True)
        assert query(path, "SELECT complete FROM monitor") == [(at(0).boot,)]
    reboot(path)
    now = Moment(at(0).wall + 60, 20.0)
    with Watcher(path) as watcher:
        watcher.load(now)
        assert unsaved(watcher.table) == ["ann", "bob"]
        assert watcher.see(TWO, now) == []
        assert unsaved(watcher.table) == []
    assert query(path, "SELECT made FROM peers ORDER BY public_key") == [(20.0 - 65,), (None,)]
    assert query(path, "SELECT complete FROM monitor") == [(20.0,)]


def test_the_relations_know_every_column_of_the_schema(path: Path) -> None:
    found: Dict[str, Set[str]] = {}
    for relation in (wg_monitor.MONITOR, wg_monitor.INTERFACES, wg_monitor.PEERS, wg_monitor.SESSIONS, wg_monitor.EVENTS):
        found[relation.insert.split()[1]] = set(relation.names)
    found["sessions"] |= set(wg_monitor.ENDS.names)
    reserved = {"peers": {"name"}, "sessions": {"name"}, "events": {"name"}}  # nothing writes them yet
    with Watcher(path):
        for table, names in found.items():
            assert {column[1] for column in query(path, "PRAGMA table_info(%s)" % table)} == names | reserved.get(table, set())
    assert set(found) == {"monitor", "interfaces", "peers", "sessions", "events"}


def test_lines_are_found_by_their_numbers(path: Path) -> None:
    with Watcher(path) as watcher:
        for number in range(5):
            watcher.see(dump("wg0", ONLINE._replace(ips="10.0.0.%d/32" % number)), at(number))
        lines = watcher.store.lines(1, 5, 10)
        assert [seq for seq, _ in lines] == [1, 2, 3, 4, 5]
        assert [line for _, line in lines] == [row[0] for row in query(path, "SELECT line FROM events ORDER BY seq")]
        assert watcher.store.lines(2, 4, 10) == lines[1:4]
        assert watcher.store.lines(2, 4, 2) == lines[1:3]
        assert watcher.store.lines(6, 9, 10) == []


SEVERAL = Delivered(30, ((1, 1), (3, 12), (20, 30)))
MARKS = [
    ("nothing is written", Delivered(3, ((1, 3),)), Delivered(3, ((1, 3),))),
    ("one line is written", Delivered(3, ((2, 3),)), Delivered(3, ((2, 3),))),
    ("a line is missing between", Delivered(3, ((2, 2),)), Delivered(3, ((2, 2),))),
    ("lines are missing in several places", SEVERAL, SEVERAL),
    ("everything is written", Delivered(3), Delivered(3)),
    ("more is written than the store has lines", Delivered(9), Delivered(9)),
    ("lines are missing that the store does not have", Delivered(9, ((2, 2), (5, 9))), Delivered(9, ((2, 2), (5, 9)))),
    ("the store has lines that nobody told of", Delivered(1), Delivered(3)),
]


@pytest.mark.parametrize(("name", "marked", "found"), MARKS, ids=[case[0] for case in MARKS])
def test_what_the_trail_has_outlives_a_run(path: Path, name: str, marked: Delivered, found: Delivered) -> None:
    position = Position(1, 2, 3)
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE, P("bob"), P("cyd")), at(0))
        watcher.store.mark_trail(marked._replace(position=position))
    with Watcher(path) as watcher:
        assert watcher.load(at(1)).delivered == found._replace(position=position)


def test_a_session_goes_on_over_a_restart_and_ends_with_all_its_bytes(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE), at(0))
        watcher.see(dump("wg0", ONLINE._replace(shook=100, rx=1100, tx=550)), at(110), checkpoint=True)
    with Watcher(path) as watcher:
        watcher.load(at(150))
        (event,) = watcher.see(dump("wg0", ONLINE._replace(shook=100, rx=2100, tx=1550)), at(400))
        assert figures(event).startswith("OFFLINE idle: -5 to 400, 405 long")
    row = query(path, "SELECT start, last_seen, detected, length, received, sent, reason FROM sessions")
    assert row == [(at(-5).wall, at(400).wall, at(400).wall, 405, 2000, 1500, "idle")]


def reboot(path: Path) -> None:
    query(path, "UPDATE monitor SET boot_id = 'another'")


REBOOTS = [
    ("with a clock that is right", 1000.0, 20.0),
    ("with a clock that stands at 1970", 20.0 - at(0).wall, 20.0),
    ("with a clock a year ahead", 365.0 * DAY_S, 20.0),
]


@pytest.mark.parametrize("name, wall, boot", REBOOTS, ids=[case[0] for case in REBOOTS])
def test_after_a_reboot_an_open_session_ends_with_its_last_sign_of_life(
    path: Path, name: str, wall: float, boot: float
) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE), at(0))
        watcher.see(dump("wg0", ONLINE._replace(shook=700)), at(705), checkpoint=True)
    reboot(path)
    now = Moment(at(0).wall + wall, boot)
    with Watcher(path) as watcher:
        loaded = watcher.load(now)
        assert not loaded.same_boot
        (event,) = watcher.see(dump("wg0", P("ann")), now)
        assert told(event) == "OFFLINE wg0 ann reset", "known peers stay known"
        assert figures(event).startswith("OFFLINE reset: -5 to 700, 705 long")
        shown = wg_monitor.handshake_text(int(at(700).wall), wg_monitor.stamp(now.wall)[:10])
        assert wg_monitor.event_text(event).endswith("(handshake: %s)" % shown)
        again = P("ann", shook=wall + 5)
        (event,) = watcher.see(dump("wg0", again), Moment(now.wall + 10, boot + 10))
        assert told(event) == "ONLINE wg0 ann"


def test_received_bytes_are_the_last_sign_of_life_after_a_reboot_too(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE), at(0))
        watcher.see(dump("wg0", ONLINE._replace(rx=900)), at(90), checkpoint=True)
    reboot(path)
    now = Moment(at(1000).wall, 20.0)
    with Watcher(path) as watcher:
        watcher.load(now)
        (event,) = watcher.see(dump("wg0", P("ann")), now)
    assert figures(event).startswith("OFFLINE reset: -5 to 90, 95 long, 800 in")


def test_new_stands_twice_only_where_the_peer_was_removed_between(path: Path) -> None:
    lines: List[str] = []
    steps: Sequence[Tuple[str, bool]] = [
        (TWO, False),
        (TWO, True),
        (dump("wg0", ONLINE), False),
        (TWO, True),
        (TWO, False),
    ]
    for number, (text, restart_) in enumerate(steps):
        with Watcher(path) as watcher:
            if number:
                watcher.load(at(number))
            lines += [told(event) for event in watcher.see(text, at(number), checkpoint=restart_)]
    assert lines == [
        "ONLINE wg0 ann new",
        "OFFLINE wg0 bob new",
        "REMOVED wg0 bob",
        "OFFLINE wg0 bob new",
    ]


def test_the_mark_of_a_hook_is_kept(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE, P("bob", shook=-3)), at(0), hook=True)
        watcher.store.mark_hooks({1: HOOK_DONE})
        assert query(path, "SELECT seq, hook FROM events ORDER BY seq") == [(1, HOOK_DONE), (2, HOOK_DUE)]
    with Watcher(path) as watcher:
        (job,) = watcher.load(at(1)).jobs
    ((line,),) = query(path, "SELECT line FROM events WHERE seq = 2")
    peer_fields = (key("bob"), "192.0.2.1:51820", "10.0.0.1/32", int(at(-3).wall), 1, True, None)
    session = Session(2, at(-3).wall, at(-3).boot, 0, 0, 0.0, "192.0.2.1:51820")
    assert job == Record(2, Event("ONLINE", at(0).wall, "wg0", *peer_fields, session), line, HOOK_DUE)


ANN = P("ann", shook=-5, rx=100, tx=50)
BACK = ANN._replace(shook=400, rx=900, tx=70)
EVERY_KIND = [
    (0, ""),
    (1, dump("wg0", ANN, P("bob"))),  # IFUP, ONLINE new, OFFLINE new
    (30, dump("wg0", ANN._replace(endpoint="[2001:db8::1]:9", ips="", rx=700), P("bob", ips="10.0.0.9/32,10.1.0.0/16"))),
    (300, dump("wg0", ANN._replace(tx=60), P("bob"))),  # OFFLINE, CHANGED again
    (410, dump("wg0", BACK)),  # ONLINE, REMOVED of an offline peer
    (440, dump("wg0")),  # REMOVED of an online peer
    (500, dump("wg0", BACK._replace(shook=495))),
    (510, ""),  # IFDOWN, OFFLINE
]  # fmt: skip


def test_a_hook_that_runs_after_a_restart_gets_the_same_environment(path: Path) -> None:
    """For every kind of event, with the last state of each session meanwhile in the store."""
    records: List[Record] = []
    every = chosen(script_events=frozenset(EVENT_KINDS))
    with Watcher(path, every) as watcher:
        record = watcher.record
        watcher.record = lambda event, hook: records.append(record(event, hook)) or records[-1]  # type: ignore
        for second, text in EVERY_KIND:
            watcher.see(text, at(second), hook=True)
    due = [record for record in records if record.hook == HOOK_DUE]
    assert {record.event.kind for record in due} == set(EVENT_KINDS)
    assert {(r.event.ended is not None) for r in due if r.event.kind == "REMOVED"} == {True, False}
    with Watcher(path, every) as watcher:
        jobs = watcher.load(at(9999)).jobs
    assert [wg_monitor.hook_environment(job) for job in jobs] == [wg_monitor.hook_environment(record) for record in due]
    assert [wg_monitor.event_fields(job.event) for job in jobs] == [wg_monitor.event_fields(record.event) for record in due]


def test_the_session_of_a_run_that_waits_is_not_deleted_with_the_old_history(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ANN, P("cyd", shook=-5)), at(0))
        watcher.see(dump("wg0", ANN, P("cyd", shook=-5)), at(300), hook=True)
        watcher.store.mark_hooks({4: HOOK_DONE})
        watcher.store.prune(at(9e6).wall, 4)
    with Watcher(path) as watcher:
        (job,) = watcher.load(at(9e6)).jobs
    assert job.event.ended is not None and job.event.ended.reason == "idle"
    assert query(path, "SELECT number FROM sessions") == [(1,)]


def test_the_largest_counters_and_inodes_fit(path: Path) -> None:
    most = wg_monitor.COUNTER_MAX
    with Watcher(path) as watcher:
        watcher.load(at(0))
        watcher.delivered = Delivered(0, (), Position(2**64 - 1, 2**64 - 2, 2**62))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=most, tx=most)), at(0))
        watcher.see(dump("wg0", P("ann", shook=-5, rx=most - 1, tx=1)), at(1), checkpoint=True)
    with Watcher(path) as watcher:
        assert watcher.load(at(2)).delivered.position == (2**64 - 1, 2**64 - 2, 2**62)
        watcher.see(dump("wg0"), at(3))
    assert query(path, "SELECT reason FROM sessions") == [("removed",)]


# --- Another INTERFACE --------------------------------------------------------------------------------------------


def test_sessions_that_the_setting_leaves_open_end_as_unknown(path: Path) -> None:
    both = dump("wg0", ONLINE) + dump("wg1", ONLINE)
    with Watcher(path) as watcher:
        watcher.see(both, at(0))
        watcher.see(dump("wg0", ONLINE) + dump("wg1", ONLINE._replace(shook=60, rx=600, tx=70)), at(65), checkpoint=True)
    with Watcher(path, chosen(interface=frozenset(["wg0"]))) as watcher:
        loaded = watcher.load(at(100))
        assert set(loaded.table.rows) == {identity("wg0", "ann")} and loaded.table.online == 1
        assert watcher.see(both, at(101)) == []
    rows = query(path, "SELECT interface, reason, start, last_seen, length, detected, received, sent FROM sessions")
    began = at(-5).wall
    # Received bytes at 65 s are the last sign of life.
    assert rows == [
        ("wg0", None, began, None, None, None, None, None),
        ("wg1", "unknown", began, at(65).wall, 70, at(100).wall, 500, 20),
    ]
    with Watcher(path) as watcher:  # all interfaces again
        watcher.load(at(130))
        events = watcher.see(both, at(131))
        assert [told(event) for event in events] == ["ONLINE wg1 ann"]


# --- History ------------------------------------------------------------------------------------------------------


def fill(path: Path, count: int, wall: float, first: int = 1) -> None:
    with closing(sqlite3.connect(str(path))) as database:
        numbers = range(first, first + count)
        events = "INSERT INTO events (seq, wall, kind, hook, line) VALUES (?, ?, 'STATS', 0, x'0a')"
        database.executemany(events, [(number, wall + number * 1e-6) for number in numbers])
        sessions = (
            "INSERT INTO sessions (number, interface, public_key, start, began, received_before, sent_before,"
            " endpoints, unwatched, detected, reason) VALUES (?, 'wg0', 'key', 0, 0, 0, 0, '', 0, ?, 'idle')"
        )
        database.executemany(sessions, [(number, wall + number * 1e-6) for number in numbers])
        database.commit()


def test_old_history_goes_in_small_steps_and_young_stays(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.load(at(0))
        fill(path, 3 * PRUNE_ROWS, 1000.0)
        fill(path, 10, 9000.0, first=10 * PRUNE_ROWS)
        left = []
        for _ in range(4):
            watcher.store.prune(8000.0, 20 * PRUNE_ROWS)
            left.append(query(path, "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM sessions)")[0])
    assert left == [(2 * PRUNE_ROWS + 10,) * 2, (PRUNE_ROWS + 10,) * 2, (10, 10), (10, 10)]


def test_history_from_a_clock_that_was_wrong_once_does_not_stop_it(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.load(at(0))
        fill(path, 2 * PRUNE_ROWS, 4e9)
        fill(path, 20, 1000.0, first=10 * PRUNE_ROWS)
        watcher.store.prune(8000.0, 20 * PRUNE_ROWS)
        assert query(path, "SELECT count(*) FROM events WHERE wall < 8000") == [(0,)]


def test_what_is_still_needed_is_not_forgotten(path: Path) -> None:
    """Open sessions, hooks that are due, lines that the trail does not have yet."""
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE, P("bob", shook=-3), P("cyd", shook=-3)), at(0), hook=True)
        watcher.store.mark_hooks({1: HOOK_DONE, 3: HOOK_DONE})
        watcher.store.prune(at(9e6).wall, Delivered(3, ((3, 3),)).complete)
    assert query(path, "SELECT seq FROM events") == [(2,), (3,)]
    assert query(path, "SELECT count(*) FROM sessions WHERE reason IS NULL") == [(3,)]


def test_a_forgotten_interface_is_gone_with_its_peers_and_not_its_history(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", ONLINE) + dump("wg1", ONLINE), at(0))
        watcher.see(dump("wg0", ONLINE), at(10))
        watcher.store.forget(["wg1"], at(99))
        assert query(path, "SELECT interface FROM peers") == [("wg0",)]
        assert query(path, "SELECT name FROM interfaces") == [("wg0",)]
        assert query(path, "SELECT count(*) FROM sessions") == [(2,)]
        assert query(path, "SELECT interface, since, ips FROM allowed_ips ORDER BY number") == [
            ("wg0", at(0).wall, "10.0.0.1/32"),
            ("wg1", at(0).wall, "10.0.0.1/32"),
            ("wg1", at(99).wall, None),
        ]


# --- Damage -------------------------------------------------------------------------------------------------------


def garble(path: Path) -> None:
    """The pages of its tables, not its header: SQLite notices only when it reads them."""
    for leftover in ("-wal", "-shm"):
        if os.path.exists(str(path) + leftover):
            os.unlink(str(path) + leftover)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).getrandbits(8 * 100_000).to_bytes(100_000, "big"))


def make_anew(path: Path, statement: str) -> None:
    path.unlink()
    query(path, statement)


def break_session(path: Path) -> None:
    """An open session with nothing where its beginning should be, as a flipped bit may leave it."""
    with closing(sqlite3.connect(str(path))) as database:
        (sql,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'sessions'").fetchone()
        database.execute("PRAGMA writable_schema = ON")
        lenient = sql.replace("start REAL NOT NULL", "start REAL")
        database.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'sessions'", (lenient,))
        database.commit()
    query(
        path,
        "INSERT INTO sessions (number, interface, public_key, began, received_before, sent_before, endpoints, unwatched)"
        " VALUES (9, 'wg0', '', 0.0, 0, 0, '', 0.0)",
    )
    query(path, "UPDATE peers SET session = 9")


DAMAGES: Dict[str, Callable[[Path], object]] = {
    "not a database": lambda path: path.write_bytes(b"this is a letter to my aunt\n" * 300),
    "garbage after its header": garble,
    "a database of our version without our tables": lambda path: make_anew(path, "PRAGMA user_version = %d" % SCHEMA),
    "a database of our version that says the first one": lambda path: query(path, "PRAGMA user_version = 1"),
    "a database of our version that says the second one": lambda path: query(path, "PRAGMA user_version = 2"),
    "a database of our version that says an impossible one": lambda path: query(path, "PRAGMA user_version = -1"),
    "a database of our version that says none": lambda path: query(path, "PRAGMA user_version = 0"),
    "an open session without its beginning": break_session,
    "rows that are none of ours": lambda path: query(path, "UPDATE monitor SET inode = 'seven'"),
    "text where a number was": lambda path: query(path, "UPDATE monitor SET last_line = 'seven'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_store_is_moved_aside_and_the_trail_goes_on(place: Place, name: str) -> None:
    path = place.path / "state.db"
    wg0 = place.device(peers=[device.peer(1, 1)])
    with place.start("--state-path", str(path)) as first:
        first.match("OFFLINE .* new .*")
        first.stop()
    DAMAGES[name](path)
    damaged = path.read_bytes()
    second = place.start("--state-path", str(path))
    second.match(r"\[WARN\] %s cannot be used: .*" % path)
    aside = second.match(r"\[WARN\] The damaged store is kept as (.*)").group(1)
    second.await_("the peer, new again", lambda: sum(line.startswith("OFFLINE") for line in second.trail()) == 2)
    assert Path(aside).read_bytes()[4096:] == damaged[4096:]
    wg0.publish([])
    second.match("REMOVED .*")
    assert second.stop() == 0
    assert query(path, "SELECT kind FROM events WHERE kind = 'REMOVED'")
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def online_lines(trail: Sequence[str]) -> int:
    return sum(line.startswith("ONLINE") for line in trail)


@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_store_that_is_lost_while_it_runs_is_made_anew_with_the_open_sessions(place: Place, how: str) -> None:
    """Nobody comes online twice because a file was lost."""
    path, now = place.path / "state.db", int(time.time())
    wg0 = place.device(peers=[device.peer(1, now)])
    first = place.start("--state-path", str(path))
    first.match("ONLINE .* new .*")
    if how == "deleted":
        for file in list(path.parent.glob("state.db*")):
            if not file.name.endswith(".lock"):
                file.unlink()
    else:
        # While it is open, pages that were read already hide what becomes of the file; a schema is read again.
        with closing(sqlite3.connect(str(path), isolation_level=None)) as vandal:
            vandal.execute("PRAGMA writable_schema = ON")
            vandal.execute("UPDATE sqlite_master SET sql = 'CREATE TABEL' WHERE name = 'events'")
            vandal.execute("PRAGMA schema_version = 99")
    wg0.publish([device.peer(1, now), device.peer(2, 1)])
    first.match("OFFLINE .* new .*")
    first.match(r"\[WARN\] %s cannot be used: .*" % path)
    first.match(r"\[WARN\] %s can be used again after .*" % path)
    wg0.publish([device.peer(1, now)])
    first.match("REMOVED .*")
    assert first.stop() == 0
    assert query(path, "SELECT count(*) FROM sessions WHERE reason IS NULL") == [(1,)]
    second = place.start("--state-path", str(path))
    second.match(r"\[WARN\] Not watching from .*")
    wg0.publish([])
    second.await_("the second REMOVED", lambda: sum(line.startswith("REMOVED") for line in second.trail()) == 2)
    assert second.stop() == 0
    assert online_lines(second.trail()) == 1
    assert query(path, "SELECT reason FROM sessions") == [("removed",)]
    assert bool(list(path.parent.glob("state.db.damaged-*"))) == (how == "damaged")


def test_a_reader_that_holds_a_lock_costs_time_and_no_line(place: Place) -> None:
    """Somebody's sqlite3 with a transaction of its own: the store cannot be written until it ends."""
    path, now = place.path / "state.db", int(time.time())
    wg0 = place.device(peers=[device.peer(1, now)])
    monitor = place.start("--state-path", str(path))
    monitor.match("ONLINE .* new .*")
    with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        wg0.publish([])
        monitor.match(r"\[WARN\] %s cannot be used: database is locked.*" % path)
        monitor.match("REMOVED .*")
        other.execute("ROLLBACK")
    monitor.match(r"\[WARN\] %s can be used again after .*" % path)
    assert monitor.stop() == 0
    numbers = [row[0] for row in query(path, "SELECT seq FROM events ORDER BY seq")]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [
        bytes(row[0]).decode()[20:-1] for row in query(path, "SELECT line FROM events ORDER BY seq")
    ] == monitor.trail()


def test_the_daemon_refuses_a_database_of_another_program_and_leaves_it_alone(place: Place) -> None:
    path = place.path / "state.db"
    query(path, "CREATE TABLE users (name TEXT)")
    before = path.read_bytes()
    monitor = place.start("--state-path", str(path))
    assert monitor.wait() == EXIT_USAGE
    assert "--state-path: '%s' is a database of another program" % path in "\n".join(monitor.console())
    assert path.read_bytes() == before and not list(place.path.glob("state.db.damaged-*"))
    assert not place.trail.exists() or not place.trail.read_bytes()
