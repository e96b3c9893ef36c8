"""What a report must not claim: time that nobody could see, answers that a trail cannot give, and silence about both."""

import json
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest

import wg_report
from company import END
from pages import history, page_of, parsed, session
from reports import Answer, report
from test_trails import HANDSHAKES, off, on, rebuilt, text, told
from values import P, at, dump, key, zone
from watcher import Watcher, query
from wg_monitor import EXIT_FAILURE, EXIT_USAGE, Refusal
from wg_report import Gap

pytestmark = pytest.mark.usefixtures("utc")


def sessions(store: Path, *words: str, **how: Any) -> Answer:
    return report("sessions", *words, "--store", str(store), **how)


def rows(store: Path, *words: str, **how: Any) -> List[Dict[str, Any]]:
    return json.loads(sessions(store, *words, "--format", "json", **how).out)  # type: ignore[no-any-return]


def refused(*words: str) -> str:
    with pytest.raises(Refusal) as refusal:
        report(*words)
    assert refusal.value.code == EXIT_USAGE
    return str(refusal.value)


# --- Interfaces that nobody could read ----------------------------------------------------------------------------


@pytest.fixture
def blind(store: Path) -> Path:
    """The monitor runs, and has not been able to read wg1 since 22:14:20."""
    query(store, "INSERT INTO interfaces (name, up, read, wall) VALUES ('wg1', 1, NULL, ?)", at(60).wall)
    query(store, "UPDATE interfaces SET wall = (SELECT wall FROM monitor) WHERE name = 'wg0'")
    query(store, "UPDATE sessions SET interface = 'wg1' WHERE public_key = ?", key("bob"))
    query(store, "UPDATE peers SET interface = 'wg1' WHERE public_key = ?", key("bob"))
    return store


def test_who_is_on_an_interface_that_cannot_be_read_is_unknown(blind: Path) -> None:
    answer = report("status", "--store", str(blind))
    assert "wg1  1 of 1 were online, it cannot be read, last reading 10s ago" in answer.lines
    assert report("status", "--store", str(blind), "--peer", key("bob")).code == EXIT_FAILURE
    (bob,) = json.loads(report("status", "--store", str(blind), "--peer", key("bob"), "--json").out)
    assert bob["online"] is None


def test_it_has_no_state_for_prometheus(blind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_wg() -> None:
        raise Refusal("wg gave no answer", "this is a test", "")

    monkeypatch.setattr(wg_report, "run_wg", no_wg)
    lines = report("metrics", "--store", str(blind)).lines
    state = re.compile('wg_monitor_peer_online{interface="(wg.)"')
    assert {match.group(1) for match in map(state.match, lines) if match} == {"wg0"}
    assert any(line.startswith('wg_monitor_interface_up{interface="wg1"} 1') for line in lines)


def test_a_session_on_it_is_only_certain_until_then(blind: Path) -> None:
    query(blind, "UPDATE sessions SET start = ? WHERE public_key = ?", at(30).wall, key("bob"))
    (bob,) = rows(blind, "--peer", key("bob"))
    assert (bob["reason"], bob["last_seen"], "online" in bob) == ("unknown", "2023-11-14T22:14:20+00:00", False)
    assert "-- [wg1] not watched from 2023-11-14 22:14:20 to 22:16:50 (unreadable)" in sessions(blind).lines


def test_an_interface_that_the_setting_left_out_was_not_watched(store: Path) -> None:
    query(store, "UPDATE runs SET interfaces = 'wg0'")
    query(store, "INSERT INTO runs (start, version, interval, threshold, liveness, interfaces)"
          " VALUES (?, '1.2.0', 30, 180, 'handshake', '')", at(100).wall)  # fmt: skip
    query(store, "INSERT INTO allowed_ips VALUES (NULL, 'wg1', 'x', ?, '10.9.0.1/32')", at(100).wall)
    (gap,) = [line for line in sessions(store, "--interface", "wg1").lines if "excluded" in line]
    assert gap.startswith("-- [wg1] not watched from 2023-11-14 22:13:20 to 22:15:00")
    assert "excluded" not in sessions(store, "--interface", "wg0").out


def test_an_interface_that_the_last_run_leaves_out_is_not_unreadable(blind: Path) -> None:
    query(blind, "UPDATE runs SET interfaces = 'wg0'")
    assert "unreadable" not in sessions(blind).out
    query(blind, "UPDATE runs SET interfaces = 'wg0,wg1'")
    assert "unreadable" in sessions(blind).out


def test_a_trail_that_ends_while_an_interface_cannot_be_read(tmp_path: Path) -> None:
    lines = (
        "10:00:00 Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s",
        on("10:01:00", where="wg1"),
        "10:20:00 [WARN] [wg1] cannot be read: its peers keep their state",
        on("12:00:00", "BbC1dEf2...4xYz567="),
    )
    trails = rebuilt(tmp_path, text(*lines))
    assert told(trails)[0] == "wg1 AbC1dEf2 10:01:00-10:20:00 unknown"
    assert [(gap.interface, gap.why, gap.stop - gap.start) for gap in trails.found.gaps] == [("wg1", "unreadable", 6000.0)]


# --- What a trail does not say ------------------------------------------------------------------------------------

TRAIL = text(
    "10:00:00 Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s",
    on("10:01:00"), off("10:09:00", shook="10:05:00"), on("10:30:00"), off("10:39:00", shook="10:35:00"),
)  # fmt: skip


def ask(path: Path, *words: str) -> Answer:
    return report("sessions", *words, "--from-log", str(path))


def test_text_lines_have_no_reasons_and_so_no_interruptions(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    path.write_text(TRAIL)
    total = json.loads(ask(path, "--summary", "--format", "json").out)[-1]
    assert (total["sessions"], total["interruptions"], total["interruptions_per_hour"]) == (2, None, None)
    assert " 0.00 " not in ask(path, "--summary").out
    answer = ask(path, "--reason", "unreachable")
    assert "Ends without a reason in the trails, which --reason does not find: 2." in answer.lines
    assert "No peer of wg9 was ever recorded." in ask(path, "--interface", "wg9").lines


def test_filters_hide_whether_a_peer_came_back(store: Path) -> None:
    query(store, "UPDATE sessions SET reason = 'unreachable' WHERE reason = 'idle'")
    assert rows(store, "--summary")[-1]["interruptions"] == 0
    for words in (["--reason", "unreachable"], ["--last", "2"], ["--min-length", "1s"], ["--ip", "10.0.0.2"]):
        assert rows(store, "--summary", *words)[-1]["interruptions"] is None


def test_a_name_that_moved_means_the_peer_that_has_it_now(tmp_path: Path) -> None:
    ann, bob = "AbC1dEf2...4xYz567=", "BbC1dEf2...4xYz567="
    lines = [
        on("10:01:00", "alice " + ann), off("10:09:00", "alice " + ann, shook="10:05:00"),
        on("10:11:00", "carol " + bob), off("10:19:00", "carol " + bob, shook="10:15:00"),
        on("10:21:00", "bob " + ann), off("10:29:00", "bob " + ann, shook="10:25:00"),
        on("10:31:00", "alice " + bob), off("10:39:00", "alice " + bob, shook="10:35:00"),
    ]  # fmt: skip
    trails = rebuilt(tmp_path, text(*lines))
    assert trails.find("alice") == {bob} and trails.find("bob") == {ann} and trails.find("carol") == {bob}


def test_files_of_a_clock_change_are_read_alone(tmp_path: Path) -> None:
    """A line that the first file has ahead does not move those of the second one by an hour."""
    day = "2026-10-25 "
    first = day + on("02:10:00") + "\n" + day + on("02:50:00", "CbC1dEf2...4xYz567=") + "\n"
    second = day + on("02:20:00", "BbC1dEf2...4xYz567=") + "\n" + day + off("02:30:00", "BbC1dEf2...4xYz567=", "02:25:00") + "\n"
    with zone("Europe/Berlin"):
        both = told(rebuilt(tmp_path, first, second, names=["x", "y"]))
        alone = told(rebuilt(tmp_path, second, names=["z"]))
    assert alone[0] in both


# --- Notes --------------------------------------------------------------------------------------------------------


def test_a_page_without_a_session_shows_what_was_not_watched() -> None:
    source = history(gaps=[Gap("", None, END - 3000, END - 2000, "stopped")])
    periods = ((END - 3000, END - 2000), (END - 2000, END))
    blank, whole = (parsed(page_of(source, since=since, until=until)) for since, until in periods)
    shares = [page.one("dl").all("div")[-1].one("dd").text for page in (blank, whole)]
    assert [share.split()[0] for share in shares] == ["0", "100"]


def test_a_page_has_the_notes_of_its_sources(tmp_path: Path, store: Path) -> None:
    path = tmp_path / "trail"
    path.write_text(TRAIL + "nonsense\n")
    page = ask(path, "--format", "html").out
    assert "Lines that do not parse and do not count: 1." in page and HANDSHAKES % 2 in page
    assert "No peer of wg9 was ever recorded." in sessions(store, "--format", "html", "--interface", "wg9").out


def test_before_the_record_a_program_is_told_so(store: Path) -> None:
    answer = sessions(store, "--present", "2020-01-01", "--format", "json")
    assert json.loads(answer.out) == [] and "Watched since 2023-11-14 22:13:20." in answer.err
    assert "2030-01-01 is later than now." in sessions(store, "--present", "2030-01-01").out


def test_a_summary_says_that_some_time_was_not_watched(store: Path) -> None:
    note = "In 1 period nobody watched: the table of the sessions shows when."
    assert note in sessions(store, "--summary").lines
    assert note not in sessions(store).out and note not in sessions(store, "--summary", "--since", "22:16:30").out


@pytest.mark.once  # needs Python 3.9
def test_a_moment_that_exists_twice_is_one_moment(tmp_path: Path) -> None:
    with Watcher(tmp_path / "state.db") as watcher:  # 2023-10-29, 02:30 in Berlin: 00:30 and 01:30 UTC
        since = 1_698_539_400 - int(at(0).wall)
        for second, shook in ((0, -1), (1500, 1500), (1800, 1500), (3600, 1500)):
            watcher.see(dump("wg0", P("ann", since + shook, 1)), at(since + second))
    words = ("--present", "2023-10-29 02:30", "--timezone", "Europe/Berlin")
    answer = sessions(tmp_path / "state.db", *words, now=since + 4000)
    assert sum("exists twice" in line for line in answer.lines) == 1
    assert "1 session of 1 peer." in answer.lines  # ann, at the first one; at 00:55 she was there again


def test_peers_with_the_same_name_are_told_apart(store: Path) -> None:
    for table in ("sessions", "peers"):
        query(store, "UPDATE %s SET name = 'alice-laptop'" % table)
    for answer in (sessions(store), sessions(store, "--summary"), report("status", "--store", str(store))):
        assert "alice-laptop bob/////..." in answer.out and "alice-laptop ann/////..." in answer.out


def test_an_end_that_nobody_saw_is_unknown_at_any_width(store: Path) -> None:
    query(store, "UPDATE sessions SET reason = 'unknown' WHERE reason IS NOT NULL")
    (alice,) = [line for line in sessions(store, width=80).lines if line.startswith("alice-laptop")]
    assert " unknown" in alice


def test_a_clock_that_was_set_back_before_the_end_makes_no_session_longer(tmp_path: Path) -> None:
    """The last handshake was at 08:08:28 by the clock as it was before."""
    log = tmp_path / "log"
    lines = (
        "08:00:00 Monitor started | Interval: 30s, Threshold: 3m 0s",
        on("08:00:30", shook="08:00:28"),
        "07:10:00 [WARN] The wall clock was set back by 1h 0m",
        off("07:12:00", shook="08:08:28"),
    )
    log.write_text("".join("2023-10-27 %s\n" % line for line in lines))
    (row,) = json.loads(report("sessions", "--from-log", str(log), "--format", "json").out)
    assert row["length_s"] == 480
    watched = "Watched from 2023-10-27 07:00:00 to 2023-10-27 07:12:00."
    assert any(line.startswith(watched) for line in report("sessions", "--from-log", str(log)).lines)


# --- Refusals -----------------------------------------------------------------------------------------------------

REFUSALS = [
    (["--verbose"], "--verbose: it is about trails; add --from-log"),
    (["--lang", "zh"], "--lang: it is about the page; add --format html"),
    (["--interface", ","], "--interface: it names none; give it a name; a variable of the shell may be unset"),
    (["--by", "day", "--present", "22:14"], "--by: a moment has no usage; use --since and --until"),
    (["-s", "2023-11-14", "-t", "2023-11-13"], "--since 2023-11-14: it is later than --until 2023-11-13; exchange them"),
]  # fmt: skip


@pytest.mark.parametrize("words, said", REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_what_has_no_effect_is_refused(store: Path, words: List[str], said: str) -> None:
    assert refused("sessions", *words, "--store", str(store)) == said


def test_a_store_is_no_trail(store: Path) -> None:
    assert refused("sessions", "--from-log", str(store)) == "--from-log: a store is no trail; name it with --store"


def test_two_stores_with_one_name_are_refused(store: Path, tmp_path: Path) -> None:
    named = ["--store", "x=%s" % store, "--store", "x=%s" % (tmp_path / "other.db")]
    assert refused("sessions", *named) == "--store: two stores have the same name; give each its own"


def test_an_interface_that_is_not_there_is_named(store: Path) -> None:
    answer = report("status", "--store", str(store), "--interface", "wg0", "--interface", "wg9")
    assert answer.code == EXIT_FAILURE and "No interface wg9." in answer.lines
    answer = report("status", "--store", str(store), "--interface", "wg9", "--json")
    assert (answer.code, json.loads(answer.out)) == (EXIT_FAILURE, []) and "No interface wg9." in answer.err


def test_a_trail_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "trail").write_text(TRAIL * 20)
    with pytest.raises(Refusal, match="--from-log reads trails"):
        report("sessions", "--store", str(tmp_path / "trail"))


# --- Hostile text -------------------------------------------------------------------------------------------------


def test_a_port_of_any_length_is_no_number() -> None:
    page = page_of(history(session("ann", 100, 0, endpoints=("192.0.2.1:" + "9" * 5000,))))
    assert parsed(page).all("script")


def test_the_largest_counters_can_be_summed_up(store: Path) -> None:
    query(store, "UPDATE sessions SET received = ? WHERE reason IS NOT NULL", 1 << 62)
    assert rows(store, "--summary")[-1]["received_bytes"] >= 2 << 62
