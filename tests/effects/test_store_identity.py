"""Which store it is: the small file beside it with the last numbers, its id and stamp, and what takes its place."""

import os
import resource
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Tuple

import pytest

import wg_monitor
from values import P, at, dump, ids
from watcher import Watcher, query
from wg_monitor import (
    EXIT_FAILURE,
    EXIT_USAGE,
    HOOK_DONE,
    MIGRATIONS,
    SCHEMA,
    UNNOTED,
    UNREACHED_S,
    Delivered,
    Moment,
    Position,
    Refusal,
    Store,
    StoreFault,
)

ONE = dump("wg0", P("ann", shook=-5))
TWO = dump("wg0", P("ann", shook=-5), P("bob"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(autouse=True)
def boot(monkeypatch: pytest.MonkeyPatch) -> "Callable[[str], None]":
    """Sets the id of the boot for stores that are made from now on."""

    def set_boot(name: str) -> None:
        monkeypatch.setattr(wg_monitor, "boot_id", lambda: name)

    set_boot("this-boot")
    return set_boot


def note_of(path: Path) -> Path:
    return Path(str(path) + ".last")


def opened(path: Path) -> Store:
    store = Store(str(path))
    store.open()
    return store


# --- The small file -----------------------------------------------------------------------------------------------


def test_the_small_file_is_one_line_of_a_fixed_size(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        for numbers in ((1, 0), (2**63 - 1, 2**63 - 1), (3, 2)):
            watcher.store.take_note(*numbers, at(0.25))
            data = note_of(path).read_bytes()
            assert len(data) == wg_monitor.NOTE_SIZE and data.endswith(b"\n") and data.count(b"\n") == 1
        ((id_, stamp),) = query(path, "SELECT id, stamp FROM monitor")
    assert data.decode().split() == [
        "id=" + id_,
        "stamp=%d" % stamp,
        "boot_id=this-boot",
        "wall=%s" % at(0.25).wall,
        "boot=%s" % at(0.25).boot,
        "line=3",
        "session=2",
        *("%s=0" % name for name in wg_monitor.Note._fields[7:]),
    ]


def test_the_small_file_has_the_counts_of_the_run(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        counts = Counter(readings=7, failed=2, hooks=5, hook_failures=1, trail_failures=3, store_failures=4)
        watcher.store.take_note(1, 1, at(0.25), counts)
        watcher.store.take_note(2, 1)
        assert note_of(path).read_text().split()[5:] == [
            "line=2", "session=1", "readings=7", "failed=2", "hooks=5", "hook_failures=1", "trail_failures=3",
            "store_failures=4",
        ]  # fmt: skip


def test_the_small_file_of_an_older_version_has_no_counts_and_is_believed(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.store.take_note(5, 4, at(0.25))
    note_of(path).write_bytes(b"%-255s\n" % b" ".join(note_of(path).read_bytes().split()[:7]))
    with Watcher(path) as watcher:
        assert watcher.store.note is not None and watcher.store.note[5:] == (5, 4, 0, 0, 0, 0, 0, 0)


def test_the_longest_values_fit_into_the_small_file(path: Path, boot: "Callable[[str], None]") -> None:
    boot("01234567-89ab-cdef-0123-456789abcdef")
    longest = Moment(253402300798.9999, 123456789.12345679)
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        counts = dict.fromkeys(wg_monitor.Note._fields[7:], 2**63 - 1)
        watcher.store.take_note(2**63 - 1, 2**63 - 1, longest, counts)
        note = watcher.store.note
    with Watcher(path) as watcher:
        assert watcher.store.note == note
        assert watcher.load(at(0)).watched == longest


class Numbers(NamedTuple):
    """What a store says without a database about the last line and the last session."""

    name: str
    wall: float
    found: Tuple[int, int]
    existed: bool = True
    note: str = ""  # the boot of the small file; "" = there is none


NUMBERS = [
    Numbers("a first installation has none", at(0).wall, (0, 0), existed=False),
    Numbers(
        "a store without a small file has fewer than milliseconds since 1970", at(0).wall, (1_700_000_000_000,) * 2
    ),
    Numbers("a clock with a fraction counts whole milliseconds", at(0.0625).wall, (1_700_000_000_062,) * 2),
    Numbers("a clock that stands at 1970 is not believed", 20.0, (UNREACHED_S * 1000,) * 2),
    Numbers("the small file of this boot has the last ones", at(0).wall, (7, 3), note="this-boot"),
    Numbers("the small file of this boot needs no database", at(0).wall, (7, 3), existed=False, note="this-boot"),
    Numbers(
        "a power failure may have kept the last ones from it",
        at(0).wall,
        (7 + UNNOTED, 3 + UNNOTED),
        note="another-boot",
    ),
]


@pytest.mark.parametrize("case", NUMBERS, ids=ids(NUMBERS))
def test_the_last_numbers_without_a_database(path: Path, boot: "Callable[[str], None]", case: Numbers) -> None:
    if case.note:
        boot(case.note)
        with Watcher(path) as watcher:
            watcher.see(TWO, at(0))
            watcher.store.take_note(7, 3, at(0))
        path.unlink()
    if case.existed:
        path.touch()
    boot("this-boot")
    store = opened(path)
    assert store.numbers(Moment(case.wall, 5.0)) == case.found
    store.close()


def test_the_numbers_of_a_run_that_could_not_load_its_store_are_continued(path: Path) -> None:
    path.touch()
    store = opened(path)
    line, session = store.numbers(at(0))
    store.take_note(line + 7, session + 3)
    store.close()
    store = opened(path)
    assert store.numbers(at(1)) == (line + 7, session + 3)
    store.close()


def test_a_power_failure_repeats_no_number_of_a_run_that_could_not_load_its_store(
    path: Path, boot: "Callable[[str], None]"
) -> None:
    """The disk has the small file as it was a while ago."""
    path.touch()
    store = opened(path)
    line, session = store.numbers(at(0))
    store.take_note(line + 1, session + 1)
    on_disk = note_of(path).read_bytes()
    store.take_note(line + 500, session + 20)
    store.close()
    note_of(path).write_bytes(on_disk)
    boot("next-boot")
    store = opened(path)
    after = store.numbers(at(60))
    store.close()
    assert after[0] >= line + 500 and after[1] >= session + 20


def test_a_load_continues_the_higher_numbers(path: Path) -> None:
    for noted, found in (((1, 0), (2, 1)), ((9, 5), (9, 5))):
        with Watcher(path) as watcher:
            watcher.see(TWO, at(0))
            watcher.store.take_note(*noted, at(0))
        with Watcher(path) as watcher:
            loaded = watcher.load(at(1))
            assert (loaded.delivered.last, loaded.table.sessions) == found
            assert loaded.delivered.missing == ((1, 2),), "no line is expected that nobody has"


def test_a_run_goes_on_in_memory_where_the_small_file_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "later" / "state.db"
    store = Store(str(path))
    with pytest.raises(StoreFault, match="No such file"):
        store.open()
    store.take_note(7, 3)
    path.parent.mkdir()
    store.open()
    assert store.numbers(at(0)) == (7, 3)
    loaded = store.load(wg_monitor.parse_settings({}, {}), at(0), at(0).wall)
    assert (loaded.delivered.last, loaded.table.sessions) == (7, 3)
    store.take_note(8, 4)
    store.close()
    store = opened(path)
    assert store.numbers(at(0)) == (8, 4)
    store.close()


def test_a_small_file_that_cannot_be_written_is_a_fault_of_the_store(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            with pytest.raises(StoreFault, match="too large") as fault:
                watcher.store.take_note(3, 1, at(0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not fault.value.damaged
        assert watcher.store.open()
        watcher.store.take_note(3, 1, at(0))
        assert b" line=3 " in note_of(path).read_bytes()


GARBAGE = {
    "nothing": b"",
    "zeros": bytes(wg_monitor.NOTE_SIZE),
    "text": b"this is a letter to my aunt",
    "bytes that are no text": b"\xff\xfe" * 128,
    "seven fields that are no text": b"\xff=\xff " * 7,
    "seven fields without a number": b"a=b " * 7,
    "a field too few": b"id=a stamp=1 boot_id=this-boot wall=1.0 boot=1.0 line=90\n",
    "a field too many": b"id=a stamp=1 boot_id=this-boot wall=1.0 boot=1.0 line=90 session=90 more=1\n",
    "a number that is cut off": b"id=a stamp=1 boot_id=this-boot wall=1.0 boot=1.0 line= session=90\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_in_the_small_file_says_nothing_and_harms_nothing(path: Path, name: str) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
    note_of(path).write_bytes(GARBAGE[name])
    with Watcher(path) as watcher:
        assert watcher.store.note is None
        loaded = watcher.load(at(1))
        assert (loaded.delivered.last, loaded.table.sessions, loaded.watched) == (2, 1, at(0))
        watcher.store.take_note(2, 1, at(1))
        assert watcher.store.note == wg_monitor.Note(
            watcher.store.saved["id"] if watcher.store.saved else "",
            watcher.store.saved["stamp"] if watcher.store.saved else 0,
            "this-boot",
            *at(1),
            2,
            1,
        )
        assert len(note_of(path).read_bytes()) >= wg_monitor.NOTE_SIZE


class Lie(NamedTuple):
    """A small file that belongs to another store, another save or another boot. `believed`: its reading is the last."""

    name: str
    statement: str
    believed: bool = False


LIES = [
    Lie("its own", "SELECT 1", believed=True),
    Lie("another store's", "UPDATE monitor SET id = 'another'"),
    Lie("that of another save", "UPDATE monitor SET stamp = stamp + 1"),
    Lie("that of another save, a backup for example", "UPDATE monitor SET stamp = stamp - 1"),
]


@pytest.mark.parametrize("case", LIES, ids=ids(LIES))
def test_the_last_reading_is_the_one_of_the_small_file_if_it_follows_the_last_save(path: Path, case: Lie) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.store.take_note(12, 7, at(30))
    query(path, case.statement)
    with Watcher(path) as watcher:
        loaded = watcher.load(at(60))
    assert loaded.watched == (at(30) if case.believed else at(0))
    assert loaded.same_boot
    assert (loaded.delivered.last, loaded.table.sessions) == (12, 7), "numbers are those of any file"


def test_the_reading_of_another_boot_is_not_the_last_one(path: Path, boot: "Callable[[str], None]") -> None:
    """The database has survived a power failure, and the small file may be older than it."""
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.store.take_note(2, 1, at(30))
    boot("next-boot")
    with Watcher(path) as watcher:
        loaded = watcher.load(Moment(at(60).wall, 5.0))
    assert loaded.watched == at(0) and not loaded.same_boot


def test_a_note_without_a_reading_keeps_that_of_the_last_one(path: Path) -> None:
    """Numbers are noted before lines show them, readings after they were dealt with."""
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.store.take_note(2, 1, at(30))
        watcher.store.take_note(5, 2)
    with Watcher(path) as watcher:
        loaded = watcher.load(at(60))
    assert loaded.watched == at(30) and loaded.delivered.last == 5


# --- Its id and its stamp -----------------------------------------------------------------------------------------


def test_each_store_has_an_id_that_it_keeps_and_each_save_another_stamp(path: Path, tmp_path: Path) -> None:
    seen = []
    for number in range(3):
        with Watcher(path) as watcher:
            for reading in range(2):
                watcher.see(TWO, at(10 * number + reading))
                seen += query(path, "SELECT id, stamp FROM monitor")
    with Watcher(tmp_path / "other.db") as watcher:
        watcher.see(TWO, at(0))
        ((other, _),) = query(tmp_path / "other.db", "SELECT id, stamp FROM monitor")
    assert len({id_ for id_, _ in seen}) == 1 and other != seen[0][0]
    assert len({stamp for _, stamp in seen}) == len(seen)


def test_marks_leave_the_stamp_of_the_last_save(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0), hook=True)
        before = query(path, "SELECT id, stamp FROM monitor")
        watcher.store.mark_trail(Delivered(2))
        watcher.store.mark_hooks({1: HOOK_DONE})
        assert query(path, "SELECT id, stamp FROM monitor") == before


def test_a_store_is_recognized_once_it_was_loaded(path: Path) -> None:
    with Watcher(path) as watcher:
        assert not watcher.store.recognizes() and not watcher.store.open()
        watcher.load(at(0))
        assert watcher.store.recognizes(), "a new one, in which nothing was saved yet"
        watcher.see(TWO, at(0))
        assert watcher.store.recognizes() and watcher.store.open()
    with Watcher(path) as watcher:
        assert not watcher.store.recognizes()
        watcher.load(at(1))
        assert watcher.store.recognizes() and watcher.store.open()


WRITERS: List[Tuple[str, Callable[[Watcher], Any]]] = [
    ("save", lambda watcher: watcher.save([], at(9))),
    ("mark_trail", lambda watcher: watcher.store.mark_trail(Delivered(2))),
    ("mark_hooks", lambda watcher: watcher.store.mark_hooks({1: HOOK_DONE})),
    ("prune", lambda watcher: watcher.store.prune(at(9e6).wall, 2)),
    ("forget", lambda watcher: watcher.store.forget(["wg0"], at(9))),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=ids(WRITERS))
def test_nothing_is_written_before_it_was_loaded(path: Path, name: str, write: Callable[[Watcher], Any]) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0), hook=True)
    with Watcher(path) as watcher:
        before = contents(path)
        with pytest.raises(StoreFault, match="not loaded|deleted or replaced") as fault:
            write(watcher)
        assert not fault.value.damaged
        assert contents(path) == before


def contents(path: Path) -> List[Any]:
    tables = [name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return [(name, query(path, "SELECT * FROM " + name)) for name in tables]


# --- What takes its place -----------------------------------------------------------------------------------------


def rename(copy: Path, path: Path) -> None:
    copy.rename(path)


def delete_and_copy(copy: Path, path: Path) -> None:
    path.unlink()
    shutil.copy(str(copy), str(path))


def restore(copy: Path, path: Path) -> None:
    """As the command .restore of sqlite3 does: into the open file."""
    with closing(sqlite3.connect(str(copy))) as source, closing(sqlite3.connect(str(path))) as target:
        source.backup(target)


WAYS = [rename, delete_and_copy, restore]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def replaced(request: Any, path: Path) -> Iterator[Watcher]:
    """A watcher whose store was replaced by its own former state, of three lines before. Its log is not empty."""
    copy = path.with_name("backup.db")
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0), hook=True)
        with closing(sqlite3.connect(str(path))) as source, closing(sqlite3.connect(str(copy))) as target:
            source.backup(target)
        for number in range(3):
            watcher.see(dump("wg0", P("ann", shook=-5, ips="10.0.0.%d/32" % number), P("bob")), at(10 + number))
        assert os.stat(str(path) + "-wal").st_size
        request.param(copy, path)
        yield watcher


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=ids(WRITERS))
def test_nothing_is_written_into_what_took_its_place(
    replaced: Watcher, path: Path, name: str, write: Callable[[Watcher], Any]
) -> None:
    with pytest.raises(StoreFault, match="it or a file beside it was deleted or replaced") as fault:
        write(replaced)
    assert not fault.value.damaged
    assert query(path, "SELECT max(seq) FROM events") == [(2,)]
    assert query(path, "SELECT seq, hook FROM events ORDER BY seq") == [(1, wg_monitor.HOOK_DUE), (2, 0)]
    assert query(path, "SELECT count(*) FROM peers") == [(2,)]


def test_the_log_of_the_former_file_is_not_played_into_what_took_its_place(replaced: Watcher, path: Path) -> None:
    with pytest.raises(StoreFault, match="it or a file beside it was deleted or replaced"):
        replaced.save([], at(20))
    assert query(path, "SELECT count(*) FROM events") == [(2,)]
    assert not replaced.store.open(), "it has to be loaded"
    assert query(path, "SELECT count(*) FROM events") == [(2,)]
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    loaded = replaced.store.load(replaced.settings, at(20), at(20).wall)
    assert loaded.delivered.last == 2 and loaded.watched == at(0)
    replaced.save([], at(20))
    assert replaced.store.open()


@pytest.mark.parametrize("way", ["moved", "deleted"])
def test_the_former_file_has_everything_if_somebody_keeps_it(path: Path, way: str) -> None:
    """Moved away alone, without its log."""
    kept = path.with_name("kept.db")
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.see(ONE, at(10))
        path.rename(kept)
        if way == "deleted":
            kept.unlink()
        with pytest.raises(StoreFault, match="it or a file beside it was deleted or replaced"):
            watcher.save([], at(20))
        assert not os.path.exists(str(path) + "-wal") and not os.path.exists(str(path) + "-shm")
        assert not watcher.store.open()
        assert query(path, "SELECT count(*) FROM events") == [(0,)]
    if way == "moved":
        assert query(kept, "SELECT count(*) FROM events") == [(3,)]
        assert query(kept, "PRAGMA integrity_check") == [("ok",)]


def test_a_log_that_came_with_what_took_its_place_is_played(path: Path, tmp_path: Path) -> None:
    """A whole copy: the database and its log."""
    other = tmp_path / "copy.db"
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        for suffix in ("", "-wal"):
            shutil.copy(str(path) + suffix, str(other) + suffix)
        watcher.see(ONE, at(10))
        for suffix in ("-wal", ""):
            os.rename(str(other) + suffix, str(path) + suffix)
        with pytest.raises(StoreFault, match="it or a file beside it was deleted or replaced"):
            watcher.save([], at(20))
        assert not watcher.store.open()
        assert query(path, "SELECT count(*) FROM events") == [(2,)]
        assert watcher.load(at(20)).delivered.last == 2


def test_a_reading_that_is_noted_beside_a_file_that_is_gone_is_a_fault(path: Path) -> None:
    """Otherwise nobody would notice a deleted store before the next event."""
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.store.take_note(2, 1, at(0))
        path.unlink()
        watcher.store.take_note(3, 1)
        with pytest.raises(StoreFault, match="it or a file beside it was deleted or replaced") as fault:
            watcher.store.take_note(3, 1, at(30))
        assert not fault.value.damaged


def test_a_damaged_file_in_its_place_is_damaged_before_it_is_loaded(replaced: Watcher, path: Path) -> None:
    """The pages of a table that nobody reads at a load."""
    with pytest.raises(StoreFault, match="it or a file beside it was deleted or replaced"):
        replaced.save([], at(20))
    ((page,),) = query(path, "SELECT rootpage FROM sqlite_master WHERE name = 'addresses'")
    query(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xaa" * 4096)
    with pytest.raises(StoreFault) as fault:
        replaced.store.open()
    assert fault.value.damaged


# --- Whose database it is -----------------------------------------------------------------------------------------


def make(path: Path, *statements: str) -> None:
    path.unlink()
    for suffix in ("-wal", "-shm"):
        if os.path.exists(str(path) + suffix):
            os.unlink(str(path) + suffix)
    with closing(sqlite3.connect(str(path))) as database:
        for statement in statements:
            database.executescript(statement)


def other_tables(path: Path) -> None:
    make(path, "CREATE TABLE users (name TEXT)", "INSERT INTO users VALUES ('ann')")


def some_of_our_tables(path: Path) -> None:
    make(path, "CREATE TABLE peers (name TEXT); CREATE TABLE events (name TEXT)")


def other_tables_of_our_version(path: Path) -> None:
    make(path, "CREATE TABLE users (name TEXT)", "PRAGMA user_version = %d" % SCHEMA)


def a_newer_version(path: Path) -> None:
    query(path, "PRAGMA user_version = %d" % (SCHEMA + 1))


def an_impossible_version(path: Path) -> None:
    query(path, "PRAGMA user_version = -1")


def our_tables_without_a_version(path: Path) -> None:
    query(path, "PRAGMA user_version = 0")


def a_version_without_tables(path: Path) -> None:
    make(path, "PRAGMA user_version = %d" % SCHEMA)


def another_history(path: Path) -> None:
    query(path, "UPDATE monitor SET id = 'another'")


def the_history_of_an_older_version(path: Path) -> None:
    make(path, *MIGRATIONS[:2], "PRAGMA user_version = 2")


def an_empty_file(path: Path) -> None:
    make(path)
    path.touch()


class Guest(NamedTuple):
    """`start`, `later`: how a run takes it that begins, and one that has used its own store. An exit code: a Refusal;
    `damaged`: a fault that makes room; `fine`."""

    put: Callable[[Path], None]
    start: Any
    later: Any
    words: str = ""

    @property
    def name(self) -> str:
        return self.put.__name__


FOREIGN = "is a database of another program: wg_monitor does not write into it; choose another path"
GUESTS = [
    Guest(other_tables, EXIT_USAGE, EXIT_USAGE, FOREIGN),
    Guest(some_of_our_tables, EXIT_USAGE, EXIT_USAGE, FOREIGN),
    Guest(other_tables_of_our_version, EXIT_USAGE, EXIT_USAGE, FOREIGN),
    Guest(
        a_newer_version,
        EXIT_FAILURE,
        EXIT_FAILURE,
        "was written by a newer wg_monitor: it has schema %d, this one knows %d; install that version or choose another path"
        % (SCHEMA + 1, SCHEMA),
    ),
    Guest(an_impossible_version, "damaged", "damaged", "its schema has an invalid version"),
    Guest(our_tables_without_a_version, "damaged", "damaged", "its schema has an invalid version"),
    Guest(a_version_without_tables, "damaged", "damaged", "its schema has an invalid version"),
    Guest(another_history, "fine", EXIT_USAGE, "has another history: numbers would repeat; stop the monitor first"),
    Guest(
        the_history_of_an_older_version,
        "fine",
        EXIT_USAGE,
        "has another history: numbers would repeat; stop the monitor first",
    ),
    Guest(an_empty_file, "fine", "fine"),
]


def verdict(store: Store) -> Tuple[Any, str]:
    try:
        store.open()
    except Refusal as refusal:
        return refusal.code, str(refusal)
    except StoreFault as fault:
        return "damaged" if fault.damaged else "a fault that passes", str(fault)
    return "fine", ""


@pytest.mark.parametrize("guest", GUESTS, ids=[guest.name for guest in GUESTS])
@pytest.mark.parametrize("when", ["start", "later"])
def test_whose_database_it_is(path: Path, guest: Guest, when: str) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
    store = Store(str(path), "--state-path")
    if when == "later":
        store.open()
        store.load(wg_monitor.parse_settings({}, {}), at(1), at(1).wall)
        store.close_database()
    guest.put(path)
    before = path.read_bytes()
    expected = guest.later if when == "later" else guest.start
    found, words = verdict(store)
    assert found == expected
    if found != "fine":
        assert words == (guest.words if found == "damaged" else "--state-path: '%s' %s" % (path, guest.words))
        assert path.read_bytes() == before, "nothing was written to it"
        assert store.database is None
    store.close()


def test_a_new_database_whose_first_save_failed_is_still_its_own(path: Path) -> None:
    """At the first start, with a full disk or somebody's lock."""
    with Watcher(path) as watcher:
        watcher.load(at(0))
        watcher.store.close_database()
        assert verdict(watcher.store) == ("fine", "")
        watcher.see(TWO, at(1))


def test_a_position_that_nobody_knows_is_kept_as_unknown(path: Path) -> None:
    with Watcher(path) as watcher:
        watcher.see(TWO, at(0))
        watcher.store.mark_trail(Delivered(2, (), Position(1, 2, 3)))
        watcher.store.mark_trail(Delivered(2, ()))
    with Watcher(path) as watcher:
        assert watcher.load(at(1)).delivered == Delivered(2)
