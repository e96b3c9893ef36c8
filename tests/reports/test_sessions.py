"""Which sessions `wg-monitor sessions` finds, and what it says about time that nobody watched."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest

import wg_monitor
import wg_report
from reports import Answer, report, run, story
from stores import OldStore, change
from values import P, at, dump, key
from watcher import Watcher, query
from wg_monitor import EXIT_FAILURE, EXIT_USAGE, Refusal

pytestmark = pytest.mark.usefixtures("utc")


def sessions(store: Path, *words: str, **how: Any) -> Answer:
    return report("sessions", *words, "--store", str(store), **how)


def found(store: Path, *words: str, **how: Any) -> List[Dict[str, Any]]:
    return json.loads(sessions(store, *words, "--format", "json", **how).out)  # type: ignore[no-any-return]


def who(store: Path, *words: str, **how: Any) -> str:
    return " ".join(row["peer"][:3] for row in found(store, *words, **how))


# --- The table ----------------------------------------------------------------------------------------------------

WHOLE = """\
PEER          IFACE  CONNECTED            UNTIL            LENGTH  ENDPOINT                  TUNNEL ADDRESS  RECEIVED     SENT  ENDED
alice-laptop  wg0    2023-11-14 22:13:15  22:14:20*        1m 5s   198.51.100.88:37089 (+1)  10.0.0.2         3.0 MiB  4.8 KiB  idle
cyd/////...   wg0    2023-11-14 22:13:40  22:16:30*        2m 50s  [2001:db8::7]:40001       10.20.5.0/24        85 B      0 B  removed
-- not watched from 2023-11-14 22:14:20 to 22:16:00 (stopped)
bob/////...   wg0    2023-11-14 22:16:30  still connected  20s     192.0.2.9:999             10.0.0.3         2.0 KiB      0 B
* Nobody watched for a part of this session.
3 sessions of 3 peers.
Watched since 2023-11-14 22:13:20.
"""  # noqa: E501


def test_one_line_per_session_the_newest_last(store: Path) -> None:
    assert sessions(store) == Answer(0, WHOLE, "")


def test_a_session_that_ends_on_another_day_shows_the_day(tmp_path: Path) -> None:
    with Watcher(tmp_path / "state.db") as watcher:
        watcher.see(dump("wg0", P("ann", 0, 1)), at(10))
        watcher.see(dump("wg0", P("ann", 7000, 2)), at(7010))
        watcher.see(dump("wg0", P("ann", 7000, 2)), at(7300))
    assert sessions(tmp_path / "state.db", now=7300).lines[1].split()[2:6] == [
        "2023-11-14", "22:13:20", "2023-11-15", "00:10:10",
    ]  # fmt: skip


def test_an_empty_answer_says_so_and_what_was_watched(store: Path) -> None:
    answer = sessions(store, "--peer", "alice-laptop", "--since", "22:15")
    assert answer.code == 0
    assert answer.lines[-2:] == ["No session.", "Watched since 2023-11-14 22:13:20."]


def test_a_gap_in_an_empty_answer_is_shown(store: Path) -> None:
    answer = sessions(store, "--present", "22:15", "--peer", "alice-laptop")
    assert answer.lines[0] == "-- not watched from 2023-11-14 22:14:20 to 22:16:00 (stopped)"


def test_gaps_of_other_interfaces_are_left_out(store: Path) -> None:
    query(store, "INSERT INTO unwatched VALUES (NULL, ?, ?, 'wg7', 'unreadable')", at(20).wall, at(40).wall)
    assert "-- [wg7] not watched from 2023-11-14 22:13:40 to 22:14:00 (unreadable)" in sessions(store).lines
    assert "wg7" not in sessions(store, "--interface", "wg0").out


def test_what_nobody_watches_now_is_no_evidence(tmp_path: Path) -> None:
    [path] = story(tmp_path / "state.db")  # its monitor has stopped
    answer = sessions(path)
    assert answer.lines[-1] == "Watched from 2023-11-14 22:13:20 to 2023-11-14 22:16:50. Of later times, nothing is known."
    assert " unknown " in answer.lines[4]  # the session of Bob
    assert "online" not in found(path)[2] and found(path)[2]["reason"] == "unknown"
    assert who(path, "--reason", "unknown") == "bob"
    assert who(path, "--present", "22:16:45") == "cyd bob"[4:]
    assert who(path, "--present", "22:16:55") == ""


def test_a_monitor_that_reads_nothing_does_not_watch(store: Path) -> None:
    assert found(store, now=210 + 61)[2]["online"] is True  # two intervals and a second
    assert "online" not in found(store, now=210 + 62)[2]


def test_until_now_a_session_goes_on(store: Path) -> None:
    assert who(store, "--present", "now") == "bob"
    assert who(store, "--since", "5s") == "bob"


# --- Filters ------------------------------------------------------------------------------------------------------

CASES = [
    ("everything", "", "ann cyd bob"),
    ("since", "--since 22:16:00", "cyd bob"),
    ("since, the last second counts", "--since 22:14:20", "ann cyd bob"),
    ("until, the end does not count", "--until 22:13:40", "ann"),
    ("both", "-s 22:15 -t 22:16", "cyd"),
    ("present", "--present 22:14", "ann cyd"),
    ("present, at a beginning", "-p 22:13:40", "ann cyd"),
    ("present, at an end", "-p 22:16:30", "cyd bob"),
    ("a day is present as a whole", "-p 2023-11-14", "ann cyd bob"),
    ("a day until its end", "--until 2023-11-14", "ann cyd bob"),
    ("another day", "-p 2023-11-13", ""),
    ("last", "-n 1", "bob"),
    ("last, more than there are", "-n 9", "ann cyd bob"),
    ("last of those that are asked for", "-n 1 --reason idle", "ann"),
    ("name", "--peer alice-laptop", "ann"),
    ("key", "--peer " + key("cyd"), "cyd"),
    ("beginning of a key", "--peer cy", "cyd"),
    ("short key", "--peer " + wg_monitor.short_key(key("cyd")), "cyd"),
    ("several", "--peer cyd --peer alice-laptop", "ann cyd"),
    ("interface", "--interface wg0", "ann cyd bob"),
    ("another interface", "--interface wg1", ""),
    ("several interfaces", "--interface wg1,wg0", "ann cyd bob"),
    ("reason", "--reason removed", "cyd"),
    ("several reasons", "--reason removed --reason idle", "ann cyd"),
    ("length", "--min-length 65s", "ann cyd"),
    ("length in two units", "--min-length 1m6s", "cyd"),
    ("length in seconds", "--min-length 171s", ""),
    ("endpoint", "--ip 192.0.2.9", "bob"),
    ("former endpoint", "--ip 203.0.113.7", "ann"),
    ("beginning of an address is another address", "--ip 192.0.2.99", ""),
    ("endpoint, spelled otherwise", "--ip 2001:0DB8::0:7", "cyd"),
    ("its beginning is another address", "--ip 2001:db8::", ""),
    ("tunnel address", "--ip 10.0.0.2", "ann"),
    ("in a network", "--ip 10.20.6.9", "bob"),
    ("of the longest prefix then", "--ip 10.20.5.9", "cyd bob"),
    ("while another held it", "--ip 10.20.5.9 --until 22:16:30", "cyd"),
    ("after that", "--ip 10.20.5.9 --present 22:16:45", "bob"),
]  # fmt: skip


@pytest.mark.parametrize("words, expected", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_which_sessions(store: Path, words: str, expected: str) -> None:
    assert who(store, *words.split()) == expected


def test_an_address_moves_from_peer_to_peer(tmp_path: Path) -> None:
    """Ann has 10.0.0.7, then Bob, then nobody, then Ann again. Both are online all the time."""
    path, shared = tmp_path / "state.db", "10.0.0.7/32"
    with Watcher(path) as watcher:
        for n, (ann, bob) in enumerate([(shared, "10.0.0.8/32"), ("", shared), ("", ""), (shared, "")]):
            now = 100 * n
            watcher.see(dump("wg0", P("ann", now - 1, ips=ann), P("bob", now - 1, ips=bob)), at(now), checkpoint=True)
        for seconds, holder in ((-1, "ann"), (99, "ann"), (101, "bob"), (250, ""), (301, "ann")):
            asked = "@%d" % at(seconds).wall
            assert who(path, "--ip", "10.0.0.7", "--present", asked, now=310) == holder, seconds
        assert who(path, "--ip", "10.0.0.7", now=310) == "ann bob"


def test_a_removed_peers_address_is_its_successors(tmp_path: Path) -> None:
    """Bob's handshake precedes the reading that first shows him and no longer shows Ann."""
    path = tmp_path / "state.db"
    with Watcher(path) as watcher:
        watcher.see(dump("wg0", P("ann", -1)), at(0))
        watcher.see(dump("wg0", P("bob", 20)), at(30))
        watcher.see(dump("wg0", P("bob", 20), P("ann", 50)), at(60), checkpoint=True)
        assert who(path, "--ip", "10.0.0.1", "--present", "@%d" % at(25).wall, now=61) == "bob"
        assert who(path, "--ip", "10.0.0.1", "--present", "@%d" % at(-1).wall, now=61) == "ann"
        assert found(path, "--peer", "bob", now=61)[0]["allowed_ips"] == "10.0.0.1/32"


def test_a_name_means_the_sessions_with_it_and_those_of_its_present_owner(store: Path) -> None:
    query(store, "UPDATE peers SET name = 'bobs-phone' WHERE public_key = ?", key("bob"))
    query(store, "UPDATE sessions SET name = 'cyd-laptop' WHERE public_key = ?", key("cyd"))
    assert who(store, "--peer", "bobs-phone") == "bob"
    assert who(store, "--peer", "cyd-laptop") == "cyd"  # which was removed
    assert [row["name"] for row in found(store)] == ["alice-laptop", "cyd-laptop", None]


def test_names_are_the_ones_at_the_beginning(store: Path) -> None:
    query(store, "UPDATE peers SET name = 'new' WHERE public_key = ?", key("ann"))
    assert found(store, "--peer", "new")[0]["name"] == "alice-laptop"


# --- Refusals -----------------------------------------------------------------------------------------------------

REFUSALS = [
    ("--peer nobody", EXIT_FAILURE, "--peer nobody: no peer has this name or key; 'wg-monitor sessions --summary' lists them"),
    ("--peer dan", EXIT_USAGE, "--peer dan: it means 2 peers, among them dan1.* and dan2.*; write more of the key"),
    ("--ip 10.0.0", EXIT_USAGE, "--ip 10.0.0: it is no address; .*"),
    ("--ip 10.0.0.0/8", EXIT_USAGE, "--ip 10.0.0.0/8: it is no address; .*"),
    ("--reason bored", EXIT_USAGE, "invalid usage: argument --reason: invalid choice: 'bored' .*"),
    ("--min-length long", EXIT_USAGE, "--min-length long: it is no length; write it like 90s, 5m, 1h30m or 2d"),
    ("--since never", EXIT_USAGE, "'never': it is no time; .*"),
    ("--since 22:16 --until 22:15", EXIT_USAGE, "--since 22:16: it is later than --until 22:15; exchange them"),
    ("--present 22:16 --until 22:15", EXIT_USAGE, "invalid usage: --present goes without --since and --until; .*"),
    ("-n 0", EXIT_USAGE, "--last 0: it is no number of sessions; use 1 or more"),
    ("-n ten", EXIT_USAGE, "--last ten: it is no number of sessions; .*"),
    ("--summary --by day", EXIT_USAGE, "invalid usage: .*not allowed with.*"),
    ("--format xml", EXIT_USAGE, "invalid usage: .*"),
    ("alice", EXIT_USAGE, "invalid usage: .*"),
    ("--timezone Mars", EXIT_USAGE, "--timezone Mars: .*"),
]  # fmt: skip


@pytest.mark.parametrize("words, code, text", REFUSALS, ids=[case[0] for case in REFUSALS])
def test_mistakes_are_one_line(store: Path, words: str, code: int, text: str) -> None:
    for name in ("dan1", "dan2"):
        query(store, "INSERT INTO allowed_ips VALUES (NULL, 'wg0', ?, 0.0, '')", key(name))
    with pytest.raises(Refusal) as refusal:
        sessions(store, *words.split())
    assert re.fullmatch(text, str(refusal.value)), str(refusal.value)
    assert refusal.value.code == code


def test_an_interface_that_nobody_recorded_is_named(store: Path) -> None:
    answer = sessions(store, "--interface", "wg0", "--interface", "wg7")
    assert answer.lines[-1] == "No peer of wg7 was ever recorded."
    assert "wg0 was" not in answer.out


def test_a_name_of_any_length_and_bytes_is_an_unknown_peer(store: Path) -> None:
    for name in ("x" * 100_000, "\udcff"):
        with pytest.raises(Refusal, match="no peer has this name or key") as refusal:
            sessions(store, "--peer", name)
        assert len(str(refusal.value)) < 300


def test_hostile_words_do_not_reach_the_terminal(store: Path) -> None:
    done = run("sessions", "--store", str(store), "--peer", "\x1b[2Jann\n\u202e")
    assert (done.code, done.out) == (EXIT_FAILURE, "")
    assert done.err == "wg_monitor: --peer ?[2Jann??: no peer has this name or key; 'wg-monitor sessions --summary' lists them\n"


# --- Formats ------------------------------------------------------------------------------------------------------


def test_json_has_the_fields_of_the_trail(store: Path) -> None:
    ann, _, bob = found(store)
    assert ann == {
        "interface": "wg0", "peer": key("ann"), "name": "alice-laptop", "session": 1,
        "session_start": "2023-11-14T22:13:15+00:00", "last_seen": "2023-11-14T22:14:20+00:00", "length_s": 65,
        "endpoint": "198.51.100.88:37089", "endpoints": ["203.0.113.7:51820", "198.51.100.88:37089"],
        "allowed_ips": "10.0.0.2/32", "received_bytes": (3 << 20) - 100, "sent_bytes": 4950, "unwatched_s": 100,
        "reason": "idle",
    }  # fmt: skip
    assert (bob["online"], bob["reason"], bob["last_seen"]) == (True, None, "2023-11-14T22:16:50+00:00")
    ended = wg_monitor.Ended(wg_monitor.Session(1, 0.0, 0.0, 0, 0, 0.0, ""), 0.0, 0.0, 0, 0, "idle")
    event = wg_monitor.event_fields(wg_monitor.Event("OFFLINE", 0.0, "wg0", "k", "", "", 0, 0, ended=ended))
    assert set(event) - {"handshake", "online"} <= set(ann)


def test_an_empty_answer_is_an_empty_array(store: Path) -> None:
    assert sessions(store, "--format", "json", "--present", "2020-01-01").out == "[]\n"


def test_csv_has_the_same_columns(store: Path) -> None:
    text = sessions(store, "--format", "csv").out
    assert text[0] == "\ufeff"
    rows = list(csv.DictReader(io.StringIO(text[1:])))
    assert [row["peer"] for row in rows] == [key("ann"), key("cyd"), key("bob")]
    assert rows[0]["endpoints"] == "203.0.113.7:51820 198.51.100.88:37089"
    assert (rows[0]["online"], rows[2]["online"], rows[2]["reason"]) == ("", "true", "")
    for row, fields in zip(rows, found(store)):
        assert set(row) >= set(fields)
        for name in ("session", "length_s", "received_bytes", "sent_bytes", "unwatched_s"):
            assert row[name] == str(fields[name])


def test_what_a_program_reads_has_no_notes_between_and_the_terminal_has_them(tmp_path: Path) -> None:
    for path in story(tmp_path / "state.db"):
        answer = sessions(path, "--format", "json", "--since", "22:16:30")
        assert (len(json.loads(answer.out)), answer.err) == (2, "")
        answer = sessions(path, "--format", "csv")
        assert answer.err == "wg_monitor: In 1 period nobody watched: the table of the sessions shows when.\n"
    answer = sessions(path, "--format", "json", "--since", "22:16:30")
    watched = "Watched from 2023-11-14 22:13:20 to 2023-11-14 22:16:50. Of later times, nothing is known."
    assert answer.err == "wg_monitor: %s\n" % watched


@pytest.mark.once  # needs Python 3.9
def test_the_zone_of_the_times(store: Path) -> None:
    answer = sessions(store, "--timezone", "Asia/Kolkata", "--present", "2023-11-15 03:44")
    assert "2023-11-15 03:43:15  03:44:20" in answer.out
    assert found(store, "--timezone", "Asia/Kolkata")[0]["session_start"] == "2023-11-15T03:43:15+05:30"


@pytest.mark.parametrize("words", ["--summary", "--by day", "--by week", "--by month"])
def test_sums_in_each_format(store: Path, words: str) -> None:
    table = sessions(store, *words.split())
    rows = json.loads(sessions(store, *words.split(), "--format", "json").out)
    cells = list(csv.DictReader(io.StringIO(sessions(store, *words.split(), "--format", "csv").out[1:])))
    assert len(rows) == len(cells) == (4 if words == "--summary" else 1)
    assert cells[0].keys() == rows[0].keys()
    assert rows[-1]["sessions"] == 3 and cells[-1]["sessions"] == "3"
    assert rows[-1]["received_bytes"] == sum(row["received_bytes"] for row in found(store))
    assert table.lines[-1] == "Watched since 2023-11-14 22:13:20."
    if words == "--summary":
        assert [row["name"] for row in rows] == ["alice-laptop", None, None, None]
        assert table.lines[4].split()[:2] == ["all", "3"]
    else:
        assert rows[0]["start"].startswith("2023-11-14T22:13:15") and rows[0]["unwatched_s"] == 105


def test_a_sum_of_a_part_marks_bytes_that_reach_beyond(store: Path) -> None:
    answer = sessions(store, "--summary", "--since", "22:14", "--peer", "alice-laptop")
    assert "3.0 MiB+" in answer.out
    assert "+ Includes the bytes of whole sessions that reach beyond the period." in answer.lines


# --- Stores -------------------------------------------------------------------------------------------------------


def test_several_stores_have_a_column(store: Path, tmp_path: Path) -> None:
    (tmp_path / "east").mkdir()
    for other in story(tmp_path / "east" / "state.db"):
        answer = report("sessions", "--store", "berlin=%s" % store, "--store", "tokyo=%s" % other)
        assert answer.lines[0].split()[:2] == ["GATEWAY", "PEER"]
        assert [line.split()[0] for line in answer.lines[1:3]] == ["berlin", "tokyo"]
        assert answer.lines[-2:] == ["berlin (%s): Watched since 2023-11-14 22:13:20." % store,
                                     "tokyo (%s): Watched since 2023-11-14 22:13:20." % other]  # fmt: skip
        rows = json.loads(report("sessions", "--store", "a=%s" % store, "--store", str(other), "--format", "json").out)
        assert sorted({row["gateway"] for row in rows}) == ["a", "state"] and len(rows) == 6
        rows = json.loads(report("sessions", "--store", str(store), "--store", str(other), "--format", "json").out)
        assert sorted({row["gateway"] for row in rows}) == sorted([str(store), str(other)])


def test_each_older_store_is_read(tmp_path: Path) -> None:
    for version in (1, 2):
        path = tmp_path / ("old-%d.db" % version)
        old = OldStore(path, version)
        now = old.wall + 5 - at(0).wall
        rows = found(path, now=now)
        assert [(row["peer"], row["reason"]) for row in rows] == [
            (old.ann.public_key, "idle"), (old.cyd.public_key, "removed"), (old.ann.public_key, "unknown"),
        ]  # fmt: skip
        assert rows[0]["allowed_ips"] == "10.0.0.9/32" and rows[2]["allowed_ips"] == "10.0.0.1/32"
        assert who(path, "--ip", "10.0.0.9", now=now) == old.ann.public_key[:3]
        text = "%s is of an older version, which did not record when nobody watched." % path
        assert text in sessions(path, now=now).lines
        total = json.loads(sessions(path, "--summary", "--format", "json", now=now).out)[-1]
        assert (total["sessions"], total["received_bytes"]) == (3, sum(row["received_bytes"] for row in rows))
        states = json.loads(report("status", "--store", str(path), "--json", now=now).out)
        assert {row["peer"]: row["since"] is not None for row in states} == {
            old.ann.public_key: True, old.bob.public_key: False, old.dan.public_key: False,
        }  # fmt: skip
        assert {row["online"] for row in states} == {None}  # no monitor runs


def test_a_newer_store_is_refused_by_name(store: Path) -> None:
    query(store, "PRAGMA user_version = %d" % (wg_monitor.SCHEMA + 1))
    with pytest.raises(Refusal) as refusal:
        sessions(store)
    words = "%s was written by a newer wg_monitor: it has schema %d, this one knows %d; install that version"
    assert str(refusal.value) == words % (store, wg_monitor.SCHEMA + 1, wg_monitor.SCHEMA)
    assert refusal.value.code == EXIT_FAILURE


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    letter, other = tmp_path / "letter", tmp_path / "other.db"
    letter.write_text("Dear aunt,\n" * 999)
    change(other, "CREATE TABLE songs (title)")
    (tmp_path / "directory.db").mkdir()
    (tmp_path / "empty.db").touch()
    for name in ("letter", "other.db", "directory.db", "empty.db", "missing.db"):
        with pytest.raises(Refusal) as refusal:
            sessions(tmp_path / name)
        assert str(tmp_path / name) in str(refusal.value) and refusal.value.code == EXIT_FAILURE


@pytest.mark.parametrize("statement", [
    "UPDATE sessions SET endpoints = x'00ff' WHERE number = 1",
    "UPDATE sessions SET start = 9e99, last_seen = 9e99 WHERE number = 1",
    "UPDATE sessions SET length = 9e999 WHERE number = 1",
    "UPDATE sessions SET received = 'much' WHERE number = 1",
    "UPDATE sessions SET sent = 9e999 WHERE number = 1",
    "UPDATE sessions SET unwatched = 9e999 WHERE number = 1",
    "UPDATE monitor SET wall = -9e999, stamp = 1",
    "UPDATE sessions SET reason = x'ff' WHERE number = 1",
    "UPDATE peers SET name = x'ff'",
    "UPDATE unwatched SET stop = x'ff'",
    "UPDATE monitor SET wall = 'then'",
    "UPDATE runs SET interval = 'often'",
])  # fmt: skip
def test_a_foreign_value_is_refused_without_a_traceback(store: Path, statement: str) -> None:
    change(store, statement)
    with pytest.raises(Refusal, match="cannot be read"):
        sessions(store)


def test_allowed_ips_that_are_no_network_hold_no_address(store: Path) -> None:
    change(store, "UPDATE allowed_ips SET ips = 'nonsense' WHERE number = 1")
    assert who(store, "--ip", "10.0.0.3") == "bob"


def test_a_session_in_which_the_clock_was_set_back_is_found_where_it_began(store: Path) -> None:
    change(store, "UPDATE sessions SET last_seen = start - 200000 WHERE number = 1")
    for words in ("--present 22:13:15", "--since 22:13 --until 22:13:16"):
        assert who(store, *words.split()) == "ann", words
    assert who(store, "--since", "22:13:15") == "ann cyd bob"
    assert who(store, "--since", "22:13:16") == "cyd bob"
    (total, _) = json.loads(sessions(store, "--since=22:13", "--until=22:13:16", "--summary", "--format=json").out)
    assert (total["name"], total["sessions"]) == ("alice-laptop", 1)


def test_a_store_that_is_named_twice_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(store)
    for again in (store, tmp_path / "link.db"):
        with pytest.raises(Refusal, match="it is named twice; name it once"):
            report("sessions", "--store", str(store), "--store", "b=%s" % again)


def test_without_a_store_the_settings_of_the_service_name_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"STATE_PATH": str(store)}
    monkeypatch.setattr(wg_monitor, "settings_of_unit", lambda _: (settings, []))
    monkeypatch.setattr(wg_report, "STORES", str(tmp_path / "no such directory"))
    assert len(json.loads(report("sessions", "--format", "json").out)) == 3
    monkeypatch.setattr(wg_report, "STORES", str(store.parent))
    assert len(json.loads(report("sessions", "--format", "json").out)) == 3
    (tmp_path / "link").symlink_to(store.parent)
    settings["STATE_PATH"] = str(tmp_path / "link" / store.name)
    assert len(json.loads(report("sessions", "--format", "json").out)) == 3
    settings["STATE_PATH"] = "/no/such/store"
    assert len(json.loads(report("sessions", "--format", "json").out)) == 3


def test_the_beginning_of_several_keys_is_refused_in_several_stores_as_well(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with Watcher(other) as watcher:
        watcher.see(dump("wg0", P("bobby", 5)), at(10))
        words = ("sessions", "--store", str(store), "--store", str(other), "--peer")
        with pytest.raises(Refusal, match="--peer bob: it means 2 peers"):
            report(*words, "bob")
        assert len(json.loads(report(*words, "bobby", "--format", "json").out)) == 1


def test_a_gap_of_one_of_several_gateways_says_whose_it_is(store: Path, tmp_path: Path) -> None:
    (tmp_path / "east").mkdir()
    for other in story(tmp_path / "east" / "state.db"):
        change(other, "DELETE FROM unwatched")
        answer = report("sessions", "--store", "berlin=%s" % store, "--store", "tokyo=%s" % other)
        gaps = [line for line in answer.lines if line.startswith("--")]
        assert gaps == ["-- berlin: not watched from 2023-11-14 22:14:20 to 22:16:00 (stopped)"]


def test_since_when_somebody_watches_is_what_pruning_has_left(store: Path) -> None:
    change(store, "DELETE FROM events WHERE seq < (SELECT seq FROM events WHERE wall > 1700000020 LIMIT 1)")
    first = query(store, "SELECT min(wall) FROM events")[0][0]
    assert sessions(store).lines[-1] == "Watched since %s." % wg_monitor.stamp(int(first))


def test_hostile_keys_in_a_refusal_do_not_reach_the_terminal(store: Path) -> None:
    change(store, "UPDATE sessions SET public_key = 'abc' || number || char(27) || '[2J'")
    with pytest.raises(Refusal, match="it means 3 peers") as refusal:
        sessions(store, "--peer", "abc")
    assert "\x1b" not in str(refusal.value)


def test_more_sessions_than_are_read_at_once_keep_their_order(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sessions that began between two readings, the numbers may have another order."""
    starts = [100, 90, 95, 200, 190, 195, 300]
    for number, start in enumerate(starts, 10):
        row = (number, "wg0", key("cyd"), at(start).wall, 0.0, 0, 0, "", 0.0, at(start + 5).wall, at(start + 9).wall)
        query(store, "INSERT INTO sessions VALUES (%s, 5.0, 0, 0, 'idle', '')" % ", ".join("?" * len(row)), *row)
    everything = found(store, "--peer", "cyd", "--since", "@%d" % at(85).wall, now=400)
    monkeypatch.setattr("wg_report.BATCH", 3)
    assert found(store, "--peer", "cyd", "--since", "@%d" % at(85).wall, now=400) == everything
    assert [row["session"] for row in everything] == [2, 11, 12, 10, 14, 15, 13, 16]
    assert [row["session"] for row in found(store, "-n", "4", now=400)] == [14, 15, 13, 16]
