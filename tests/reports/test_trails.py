"""Sessions that are rebuilt from trails: what each kind of line and file means, and what is said about the rest."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import pytest

import wg_monitor
import wg_report
from harness import MODULE, PATIENCE_S
from reports import report
from values import zone
from wg_monitor import Refusal
from wg_report import Period, Query, Trails, Zone

pytestmark = pytest.mark.usefixtures("utc")

DAY = "2023-10-27 "
ANN, BOB = "AbC1dEf2...4xYz567=", "BbC1dEf2...4xYz567="
START = "10:00:00 Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s"
STOP = "Monitor stopped | Watched: 1h 0m, Readings: 120 (0 failed), Events: 3"
WHOLE = "AbC1dEf2aaaaaaaaaaaaaaaaaaaaaaaaaaa%s4xYz567="
HANDSHAKES = "Sessions of these trails that may have lasted longer, since text lines show handshakes only: %d."
Content = Union[str, bytes]
EVENT: Dict[str, Any] = {
    "seq": 4, "time": "2023-10-27T12:09:00+02:00", "event": "OFFLINE", "interface": "wg0", "peer": WHOLE % "a",
    "endpoint": None, "allowed_ips": "10.0.0.1/32,10.1.0.0/24", "handshake": "2023-10-27T12:05:00+02:00", "online": False,
    "session": 7, "session_start": "2023-10-27T12:01:00+02:00", "last_seen": "2023-10-27T12:06:00+02:00", "length_s": 301,
    "received_bytes": 5, "sent_bytes": 6, "unwatched_s": 1, "reason": "idle",
}  # fmt: skip


def on(time: str, peer: str = ANN, shook: str = "", more: str = "", where: str = "wg0", ips: str = "IP: 10.0.0.1") -> str:
    return "%s ONLINE  [%s] %s (192.0.2.1:5) [%s]%s (handshake: %s)" % (time, where, peer, ips, more, shook or time)


def off(time: str, peer: str = ANN, shook: str = "", more: str = "", where: str = "wg0", ips: str = "IP: 10.0.0.1") -> str:
    return on(time, peer, shook, more, where, ips).replace("ONLINE ", "OFFLINE")


def text(*lines: str) -> str:
    """Lines with the day before the time."""
    return "".join((line if line[:2] == "20" or line[:1] in "{-" else DAY + line) + "\n" for line in lines)


def rebuilt(directory: Path, *contents: Content, verbose: bool = False, names: Sequence[str] = ()) -> Trails:
    """Files with these contents. Their names tell nothing about their order."""
    paths = []
    for number, content in enumerate(contents):
        path = directory / (names[number] if names else "trail.%d" % (7 * (number + 3) % 5))
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths.append(str(path))
    return Trails(paths, Zone(), verbose)


def told(trails: Trails) -> List[str]:
    """Each session in a few words, in the order of their beginnings."""
    words = []
    for s in trails.sessions(Query(), 0.0, Period()):
        times = tuple(wg_monitor.stamp(int(at))[11:] for at in (s.start, s.until))
        word = "%s %s " % (s.interface, s.peer.replace("...4xYz567=", "")) + "%s-%s %s" % (*times, s.state)
        assert (s.reason == "unknown") >= (s.state == "unknown")
        words.append(word + (" " + s.reason if s.reason and s.state != "unknown" else ""))
    return words


def only(directory: Path, *lines: str) -> List[str]:
    return told(rebuilt(directory, text(*lines)))


def gaps(trails: Trails) -> List[str]:
    stamp = wg_monitor.stamp
    return ["%s-%s %s %s" % (stamp(int(g.start))[11:], stamp(int(g.stop))[11:], g.interface, g.why) for g in trails.found.gaps]


# --- What lines mean ----------------------------------------------------------------------------------------------

DESIGN = """\
2023-10-27 10:00:00 Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s
2023-10-27 10:01:30 ONLINE  [wg0] AbC1dEf2...4xYz567= (192.168.1.50:51820) [IP: 10.0.0.1] new (handshake: 10:01:25)
2023-10-27 10:45:00 OFFLINE [wg0] AbC1dEf2...4xYz567= (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 10:41:25)
2023-10-27 11:15:20 ONLINE  [wg0] AbC1dEf2...4xYz567= (192.168.1.50:51820) [IP: 10.0.0.1] (handshake: 11:15:15)
"""


def test_a_trail_as_the_documents_show_it(tmp_path: Path) -> None:
    trails = rebuilt(tmp_path, DESIGN)
    assert told(trails) == ["wg0 AbC1dEf2 10:01:25-10:41:25 ended", "wg0 AbC1dEf2 11:15:15-11:15:20 unknown"]
    first = next(trails.sessions(Query(), 0.0, Period()))
    assert first.endpoints == ("192.168.1.50:51820",) and first.allowed_ips == "10.0.0.1/32" and first.length == 2400
    assert (first.number, first.received, first.sent, first.reason, first.unwatched, first.name) == (None, None, None, "", 0, "")


CASES: Sequence[Tuple[str, Sequence[str], Sequence[str]]] = (
    ("the interface went", (on("10:01:00"), "10:02:00 IFDOWN  [wg0] 1 peer, 1 was online", off("10:02:00", shook="10:01:00")),
     ["10:01:00-10:01:00 ended interface-down"]),
    ("the peer was removed", (on("10:01:00"), off("10:02:00", shook="10:01:50").replace("OFFLINE", "REMOVED")),
     ["10:01:00-10:01:50 ended removed"]),
    ("an offline peer was removed", (off("10:02:00", more=" new").replace("OFFLINE", "REMOVED"),), []),
    ("a handshake of the day before", (on("10:01:00", shook="2023-10-26 23:59:59"),), ["10:01:00-10:01:00 unknown"]),
    ("the trail begins after the session", (off("10:45:00", shook="10:41:25"),), ["10:41:25-10:41:25 ended"]),
    ("the trail begins in the session", (
        "10:41:00 ROAMING [wg0] %s (192.0.2.9:5) [IP: 10.0.0.1] from 192.0.2.1:5" % ANN, off("10:45:00", shook="10:41:25")),
     ["10:41:00-10:41:25 ended"]),
    ("its end is missing", (on("10:01:00"), on("11:01:00")), ["10:01:00-10:01:00 unknown", "11:01:00-11:01:00 unknown"]),
    ("the handshake is gone", (on("10:01:00"), off("10:09:00", shook="Never")), ["10:01:00-10:01:00 unknown"]),
    ("a polite end", (on("10:01:00"), "10:30:00 " + STOP), ["10:01:00-10:30:00 unknown"]),
    ("killed, without a store", (
        on("10:01:00"), off("10:03:00", BOB, more=" new"), "11" + START[2:], on("11:00:01", more=" new")),
     ["10:01:00-10:03:00 unknown", "11:00:01-11:00:01 unknown"]),
    ("a restart without a store, and no new handshake", (
        on("10:01:00"), "10:02:00 " + STOP, "10:02:10" + START[8:], on("10:02:11", shook="10:01:00", more=" new"),
        off("10:09:00", shook="10:05:00")), ["10:01:00-10:05:00 ended"]),
    ("a restart without a store, offline since", (
        on("10:01:00"), "10:02:00 " + STOP, "10:09:10" + START[8:], off("10:09:11", shook="10:01:30", more=" new")),
     ["10:01:00-10:01:30 ended"]),
    ("a restart without a store, offline after another handshake", (
        on("10:01:00"), "10:02:00 " + STOP, "10:09:10" + START[8:], off("10:09:11", shook="10:03:30", more=" new")),
     ["10:01:00-10:02:00 unknown"]),
    ("a restart without a store, not reported any more", (
        off("10:01:00", BOB, more=" new"), on("10:01:00"), "10:02:00 " + STOP, "10:09:10" + START[8:],
        off("10:09:11", BOB, more=" new")), ["10:01:00-10:02:00 unknown"]),
    ("a restart with a store", (
        on("10:01:00"), "10:02:00 " + STOP, "10:09:10" + START[8:],
        "10:09:11 [WARN] Not watching from 2023-10-27 10:01:59 to 2023-10-27 10:09:11", off("10:30:00", shook="10:20:00")),
     ["10:01:00-10:20:00 ended"]),
    ("a restart that watches another interface", (
        on("10:01:00"), "10:02:00 " + STOP, "10:09:10" + START[8:] + ", Interface: wg1,wg2"), ["10:01:00-10:02:00 unknown"]),
    ("a store that came back late", (
        START, on("10:00:30", shook="10:00:20", more=" new"),
        "10:05:00" + START[8:], on("10:05:00", shook="10:04:50", more=" new"),
        "10:00:40 [WARN] Not watching from 2023-10-27 09:00:00 to 2023-10-27 10:00:40", on("10:00:50", BOB),
        off("10:30:00", shook="10:20:00")),
     ["10:00:20-10:00:30 unknown", "10:00:50-10:00:50 unknown", "10:04:50-10:20:00 ended"]),
    ("the clock was set", (
        on("10:01:00"), "11:02:00 [WARN] The wall clock was set forward by 1h 0m", off("11:09:00", shook="11:05:00")),
     ["10:01:00-11:05:00 ended"]),
    ("a name", (on("10:01:00", "alice-läptop@home " + ANN), off("10:09:00", "bob " + ANN, shook="10:05:00")),
     ["10:01:00-10:05:00 ended"]),
    ("received bytes, after a handshake that is too old", (
        START, on("10:30:00", shook="10:20:00")), ["10:30:00-10:30:00 unknown"]),
    ("an end by received bytes, before a handshake", (
        START, on("10:30:00", shook="10:20:00"), off("10:40:00", shook="10:20:00")), ["10:30:00-10:30:00 ended"]),
    ("the clock is set back", (
        START, on("10:13:50", shook="10:13:40"), "09:13:20 [WARN] The wall clock was set back by 1h 0m",
        off("09:26:50", shook="09:23:40"), "09:30:00 " + STOP), ["10:13:40-09:23:40 ended"]),
)  # fmt: skip


@pytest.mark.parametrize("name, lines, expected", CASES, ids=[case[0] for case in CASES])
def test_what_lines_mean(name: str, lines: Sequence[str], expected: List[str], tmp_path: Path) -> None:
    assert [" ".join(word.split()[2:]) for word in only(tmp_path, *lines)] == expected
    # Everything counts once, whatever there is twice.
    assert [" ".join(word.split()[2:]) for word in told(rebuilt(tmp_path, text(*lines), text(*lines)))] == expected


def test_a_length_is_without_the_steps_of_the_clock(tmp_path: Path) -> None:
    lines = (START, on("10:13:50", shook="10:13:40"), "09:13:20 [WARN] The wall clock was set back by 1h 0m",
             off("09:26:50", shook="09:23:40"), "09:30:00 " + STOP)  # fmt: skip
    for copies in (1, 2):
        trails = rebuilt(tmp_path, *[text(*lines)] * copies)
        assert [s.length for s in trails.sessions(Query(), 0.0, Period())] == [600.0]


def test_a_gap_counts_once(tmp_path: Path) -> None:
    lines = (
        START, on("10:00:10", shook="10:00:00"),
        "10:10:00 [WARN] Readings are more than two intervals apart: what happens between them is not seen",
        "10:10:30 [WARN] Readings are on time again after 2m 30s", off("10:50:00", shook="10:46:00"),
    )  # fmt: skip
    for copies in (1, 2, 3):
        trails = rebuilt(tmp_path, *[text(*lines)] * copies)
        assert [wg_monitor.stamp(int(gap.stop))[11:] for gap in trails.history(Query(), 0.0).gaps] == ["10:10:00"]
        assert [s.unwatched for s in trails.sessions(Query(), 0.0, Period())] == [120.0]


def test_a_name_is_the_one_of_the_beginning(tmp_path: Path) -> None:
    trails = rebuilt(tmp_path, text(on("10:01:00", "alice-läptop@home " + ANN), off("10:09:00", "bob " + ANN)))
    assert [s.name for s in trails.sessions(Query(), 0.0, Period())] == ["alice-läptop@home"]
    assert trails.find("alice-läptop@home") == trails.find("AbC") == trails.find(WHOLE % ("a" * 1)) == {ANN}


def test_the_length_is_without_the_steps_of_the_clock(tmp_path: Path) -> None:
    lines = (on("10:01:00"), "11:02:00 [WARN] The wall clock was set forward by 1h 0m", off("11:09:00", shook="11:05:00"))
    assert [s.length for s in rebuilt(tmp_path, text(*lines)).sessions(Query(), 0.0, Period())] == [240]


def test_endpoints_in_the_order_of_their_use(tmp_path: Path) -> None:
    roaming = "10:41:00 ROAMING [wg0] %s ([2001:db8::7]:5) [IP: 10.0.0.1] from 192.0.2.1:6" % ANN
    trails = rebuilt(tmp_path, text(on("10:01:00"), roaming, off("10:45:00", shook="10:44:00").replace("1:5)", "1:7)")))
    (session,) = trails.sessions(Query(), 0.0, Period())
    assert session.endpoints == ("192.0.2.1:5", "192.0.2.1:6", "[2001:db8::7]:5", "192.0.2.1:7")


def test_a_json_line_gives_the_whole_key_to_the_text_lines_before_it(tmp_path: Path) -> None:
    trails = rebuilt(tmp_path, text(on("09:01:00"), off("09:09:00", shook="09:05:00"), on("10:01:00"), json.dumps(EVENT)))
    first, second = trails.sessions(Query(), 0.0, Period())
    assert first.peer == second.peer == WHOLE % "a"
    assert (second.number, second.length, second.received, second.sent, second.unwatched) == (7, 301, 5, 6, 1)
    assert second.reason == "idle" and second.endpoints == ("192.0.2.1:5",)


# --- Gaps ---------------------------------------------------------------------------------------------------------

GAPS: Sequence[Tuple[str, Sequence[str], Sequence[str]]] = (
    ("stopped", ("10:02:00 " + STOP, "10:09:10" + START[8:], on("10:09:12", more=" new")), ["10:02:00-10:09:10 None stopped"]),
    ("killed", (on("10:01:00"), "10:09:10" + START[8:], on("10:09:12", more=" new")), ["10:01:00-10:09:10 None "]),
    ("as the store knows it", (
        on("10:01:00"), "10:09:10" + START[8:], "10:09:11 [WARN] Not watching from 2023-10-27 10:08:59 to 2023-10-27 10:09:11",
        "10:19:11 [WARN] Not watching from 2023-10-27 10:15:59 to 2023-10-27 10:19:11"),
     ["10:08:59-10:09:11 None stopped", "10:15:59-10:19:11 None stalled"]),
    ("failed", (START, "10:02:00 [WARN] No reading: wg did not answer within 10s; peers keep their state",
                "10:04:00 [WARN] Readings resumed after 2m 30s"), ["10:01:30-10:04:00 None failed"]),
    ("failed, in the words of 1.1", (START, "10:02:00 [WARN] No reading: x; peers keep their state",
                                     "10:04:00 [WARN] Readings again after 2m 30s"), ["10:01:30-10:04:00 None failed"]),
    ("failed once, which is no gap", (
        START, "10:02:00 [WARN] No reading: x", "10:02:30 [WARN] Readings resumed after 1m 0s"), []),
    ("unreadable", (START, "10:02:00 [WARN] [wg0] cannot be read: its peers keep their state",
                    "12:04:00 [WARN] [wg0] can be read again after 2h 2m"), ["10:02:00-12:04:00 wg0 unreadable"]),
    ("late", (START, "10:02:00 [WARN] Readings are more than two intervals apart: what happens between them is not seen",
              "10:06:00 [WARN] Readings are on time again after 5m 30s"), ["10:00:30-10:04:59 None late"]),
)  # fmt: skip


@pytest.mark.parametrize("name, lines, expected", GAPS, ids=[case[0] for case in GAPS])
def test_when_nobody_watched(name: str, lines: Sequence[str], expected: List[str], tmp_path: Path) -> None:
    assert gaps(rebuilt(tmp_path, text(*lines))) == expected
    assert gaps(rebuilt(tmp_path, text(*lines), text(*lines))) == expected


# --- Keys that look the same --------------------------------------------------------------------------------------

OTHER = "IP: 10.0.0.2"


def test_two_peers_that_show_the_same_key_are_told_apart_by_their_allowed_ips(tmp_path: Path) -> None:
    trails = rebuilt(tmp_path, text(
        START, on("10:01:00", more=" new"), on("10:02:00", more=" new", ips=OTHER), on("10:02:00", where="wg1"),
        off("10:09:00", shook="10:05:00"), off("10:19:00", shook="10:15:00", ips=OTHER), on("10:21:00"),
        on("10:22:00", ips=OTHER),
    ))  # fmt: skip
    assert told(trails) == [
        "wg0 AbC1dEf2 10:01:00-10:05:00 ended", "wg0 AbC1dEf2#2 10:02:00-10:15:00 ended",
        "wg1 AbC1dEf2 10:02:00-10:22:00 unknown", "wg0 AbC1dEf2 10:21:00-10:22:00 unknown",
        "wg0 AbC1dEf2#2 10:22:00-10:22:00 unknown",
    ]  # fmt: skip
    assert trails.notes == [HANDSHAKES % 2]


def test_where_they_cannot_be_told_apart_the_report_says_so(tmp_path: Path) -> None:
    lines = (START, on("10:01:00", more=" new", ips="IP: N/A"), on("10:02:00", more=" new", ips="IP: N/A"))
    trails = rebuilt(tmp_path, text(*lines))
    assert any("Several keys look like %s on wg0" % ANN in note for note in trails.notes)


def test_a_peer_whose_allowed_ips_change_stays_one(tmp_path: Path) -> None:
    changed = "10:03:00 CHANGED [wg0] %s (192.0.2.1:5) [IP: 10.0.0.2] from [IP: 10.0.0.1]" % ANN
    lines = (on("10:01:00", more=" new"), changed, off("10:09:00", shook="10:05:00", ips=OTHER), on("10:21:00", ips=OTHER))
    trails = rebuilt(tmp_path, text(START, *lines))
    assert told(trails) == ["wg0 AbC1dEf2 10:01:00-10:05:00 ended", "wg0 AbC1dEf2 10:21:00-10:21:00 unknown"]
    assert [change[3] for change in trails.found.changes] == ["10.0.0.1/32", "10.0.0.2/32"]


# --- The older tool -----------------------------------------------------------------------------------------------


class OlderTool:
    """Writes the lines of the older tool about random peers, and knows what happened. At each start everybody is new, an
    interface that disappears is not reported, and REMOVED may come without OFFLINE."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.now = chance, 1_700_000_000
        self.lines: List[str] = []
        self.shook: Dict[str, int] = {}  # of the online peers: the last handshake
        self.began: Dict[str, int] = {}
        self.last: Dict[str, int] = {}
        self.sessions: List[Tuple[str, int, Optional[int]]] = []  # peer, start and end; None = unknown
        self.peers = ["Peer%04d...4xYz567=" % number for number in range(8)]

    def say(self, words: str) -> None:
        self.lines.append("%s %s" % (wg_monitor.stamp(self.now), words))

    def line(self, kind: str, peer: str, more: str = "") -> str:
        where = self.chance.choice(("(192.0.2.1:51820)", "((none))"))
        shook = wg_monitor.handshake_text(self.last.get(peer, 0), wg_monitor.stamp(self.now)[:10])
        return "%-7s [wg0] %s %s [IP: 10.0.0.%s]%s (handshake: %s)" % (kind, peer, where, peer[7], more, shook)

    def end(self, peer: str, known: bool) -> None:
        self.sessions.append((peer, self.began.pop(peer), self.last[peer] if known else None))
        del self.shook[peer]

    def live(self) -> None:
        """A run from its start to its end."""
        self.say("Monitor started | Interval: 30s, Threshold: 180s, Stats: 3600s")
        before, self.before = self.now, getattr(self, "before", 0)
        self.now += 1
        for peer in list(self.shook):
            if self.now - self.last[peer] >= 180:
                self.end(peer, True)
        for peer in self.peers:
            if peer in self.shook:
                self.say(self.line("ONLINE", peer, " new"))
            else:
                self.say(self.line("OFFLINE", peer, " new"))
        self.before = before
        for _ in range(self.chance.randrange(5, 40)):
            self.now += 30
            for peer in self.peers:
                if peer in self.shook and self.now - self.last[peer] >= 180:
                    self.say(self.line("OFFLINE", peer))
                    self.end(peer, True)
                elif self.chance.random() < 0.25:
                    self.last[peer] = self.now - self.chance.randrange(30)
                    if peer not in self.shook:
                        self.began[peer] = self.last[peer]
                        self.say(self.line("ONLINE", peer))
                    self.shook[peer] = self.last[peer]
                elif self.chance.random() < 0.02:
                    removed = self.line("REMOVED", peer)
                    self.say("[WARN] " + removed)
                    if peer in self.shook:
                        self.end(peer, True)
                    self.last.pop(peer, None)
        self.now += 5
        self.say("Received signal 15, shutting down gracefully...")
        self.say("Monitor stopped gracefully.")
        self.now += self.chance.choice((1, 5, 100, 400))


@pytest.mark.parametrize("seed", range(20))
def test_the_older_tool(seed: int, tmp_path: Path) -> None:
    tool = OlderTool(random.Random(seed))
    for _ in range(6):
        tool.live()
    trails = rebuilt(tmp_path, "\n".join(tool.lines) + "\n")
    assert trails.notes[0].startswith("Sessions of these trails that may have lasted longer") and len(trails.notes) == 1
    ended = [(s.peer, s.start, s.until) for s in trails.sessions(Query(), 0.0, Period()) if s.state == "ended"]
    assert sorted(ended) == sorted((peer, start, end) for peer, start, end in tool.sessions)
    still = [(s.peer, s.start) for s in trails.sessions(Query(), 0.0, Period()) if s.state == "unknown"]
    assert sorted(still) == sorted(tool.began.items())


# --- Files --------------------------------------------------------------------------------------------------------

STORY = [START, on("10:01:00", more=" new"), off("10:09:00", shook="10:05:00"), on("11:01:00"), on("11:02:00", BOB),
         off("11:09:00", shook="11:05:00"), off("11:20:00", BOB, shook="11:15:00"), "11:30:00 " + STOP]  # fmt: skip
SESSIONS = [
    "wg0 AbC1dEf2 10:01:00-10:05:00 ended", "wg0 AbC1dEf2 11:01:00-11:05:00 ended", "wg0 BbC1dEf2 11:02:00-11:15:00 ended",
]  # fmt: skip


@pytest.mark.parametrize("parts", [
    [STORY], [STORY[:3], STORY[3:]], [STORY[3:], STORY[:3]], [STORY[4:], STORY[2:4], STORY[:2]], [STORY, STORY],
    [STORY[2:], STORY[:5]], [STORY[:5], STORY[1:4], STORY[3:], STORY],
], ids=["one", "two", "reversed", "three", "twice", "overlapping", "a mess"])  # fmt: skip
def test_files_are_put_in_order_and_overlaps_count_once(parts: List[List[str]], tmp_path: Path) -> None:
    trails = rebuilt(tmp_path, *(text(*lines) for lines in parts))
    assert told(trails) == SESSIONS and gaps(trails) == []
    assert trails.found.lost["beginnings"] == 0


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_archives_are_known_by_their_content(pack: Any, tmp_path: Path) -> None:
    first, second = pack(text(*STORY[:3]).encode()), pack(text(*STORY[3:5]).encode())
    trails = rebuilt(tmp_path, first + second, text(*STORY[5:]))
    assert told(trails) == SESSIONS


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
@pytest.mark.parametrize("damage", ["torn", "changed"])
def test_a_damaged_archive_is_a_warning(
    pack: Any, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = bytearray(pack(text(*STORY[:3], *("[WARN] %d" % random.random() for _ in range(99))).encode()))
    if damage == "torn":
        del packed[-12:]
    else:
        packed[len(packed) // 2 : len(packed) // 2 + 9] = b"\xff" * 9
    trails = rebuilt(tmp_path, bytes(packed), text(*STORY))
    assert told(trails) == SESSIONS
    assert "trail.1 is damaged: " in capsys.readouterr().err


def test_an_archive_that_needs_too_much_memory_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    trails = rebuilt(tmp_path, lzma.compress(b"x", filters=filters), text(*STORY))
    assert told(trails) == SESSIONS
    assert "is damaged: Memory usage limit" in capsys.readouterr().err


def test_a_last_line_that_is_cut_is_a_warning_and_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trails = rebuilt(tmp_path, text(*STORY) + DAY + on("11:40:00"))
    assert told(trails) == SESSIONS
    assert capsys.readouterr().err == "wg_monitor: %s ends in the middle of a line, which does not count\n" % trails.path


def test_a_binary_file_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trails = rebuilt(tmp_path, bytes(range(256)) * 99 + b"\n", text(*STORY))
    assert told(trails) == SESSIONS
    said = capsys.readouterr().err
    assert "trail.1 is no trail: none of its lines counts" in said and said.isprintable() is False and "\x1b" not in said


def test_an_empty_file_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(rebuilt(tmp_path, "", text(*STORY))) == SESSIONS
    assert capsys.readouterr().err == ""


def test_windows_line_ends_and_empty_lines(tmp_path: Path) -> None:
    trails = rebuilt(tmp_path, text(*STORY).replace("\n", "\r\n") + "\n\n")
    assert told(trails) == SESSIONS and trails.notes == rebuilt(tmp_path, text(*STORY)).notes


def test_lines_that_do_not_parse_are_counted_and_shown_with_verbose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = [DAY + on("11:31:00")[:70], "\x1b[2Jhello\u202e", '{"event": "ONLINE"}', "[" * 9000, "{" * 9000, '{"time": 5}', "5"]
    trails = rebuilt(tmp_path, text(*STORY) + "\n".join(torn) + "\n", verbose=True)
    assert told(trails) == SESSIONS
    assert trails.notes[0] == "Lines that do not parse and do not count: 7."
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "wg_monitor: %s, line 10 does not parse: ?[2Jhello?" % trails.path
    assert len(said) == 7 and all(line.isprintable() and len(line) < 400 for line in said)
    rebuilt(tmp_path, text(*STORY) + "\n".join(torn) + "\n")
    assert capsys.readouterr().err == ""


def test_standard_input_and_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "trail").write_text(text(*STORY[:3]))
    command = [sys.executable, "-IS", str(MODULE), "sessions", "--format", "csv", "--from-log", str(tmp_path / "trail"), "-"]
    environment = {"PATH": os.environ["PATH"], "TZ": "UTC"}
    packed = gzip.compress(text(*STORY[3:]).encode())
    done = subprocess.run(command, input=packed, stdout=subprocess.PIPE, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0 and len(done.stdout.decode().splitlines()) == 4


@pytest.mark.parametrize("path, words", [("missing", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(path: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot be read: %s" % words):
        Trails([str(tmp_path / path)], Zone())


# --- The journal --------------------------------------------------------------------------------------------------


def journal_json(lines: Iterable[str], delay: float = 0.7) -> str:
    """As `journalctl -o json` prints what went to standard error, with systemd's own lines."""
    out = []
    for line in ("2023-10-27 09:59:59 Starting WireGuard peer monitor...", *lines):
        at = (parse(line[:19]) + delay) * 1e6
        more = {"SYSLOG_IDENTIFIER": "systemd" if "Starting" in line else "wg-monitor", "_PID": "7", "PRIORITY": "6"}
        message: Any = line[20:] if line[-1] == ")" else [*line[20:].encode()]
        out.append(json.dumps({"__REALTIME_TIMESTAMP": "%d" % at, "MESSAGE": message, **more}))
    return "\n".join([*out, '{"MESSAGE": null, "__REALTIME_TIMESTAMP": "5"}']) + "\n"


def short_iso(lines: Iterable[str], offset: str = "+0000") -> str:
    out = ["-- Journal begins at Fri 2023-10-27 09:00:00 UTC, ends at Fri 2023-10-27 23:00:00 UTC. --",
           "2023-10-27T09:59:59%s host systemd[1]: Starting WireGuard peer monitor..." % offset]  # fmt: skip
    out += ["%sT%s%s host wg-monitor[7]: %s" % (line[:10], line[11:19], offset, line[20:]) for line in lines]
    return "\n".join([*out, "-- Boot 1234 --"]) + "\n"


def parse(stamp: str) -> float:
    return Zone().walls(datetime.fromisoformat(stamp))[0]


@pytest.mark.parametrize("shape", [journal_json, short_iso])
def test_the_journal(shape: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = shape(text(*STORY).splitlines())
    trails = rebuilt(tmp_path, journal)
    assert told(trails) == SESSIONS and trails.reader.skipped == 0
    assert told(rebuilt(tmp_path, journal, text(*STORY))) == SESSIONS
    assert capsys.readouterr().err == ""


def test_json_lines_in_the_journal(tmp_path: Path) -> None:
    message = json.dumps(EVENT)
    line = json.dumps({"__REALTIME_TIMESTAMP": "1698400869000000", "MESSAGE": message, "SYSLOG_IDENTIFIER": "wg-monitor"})
    (session,) = rebuilt(tmp_path, line + "\n").sessions(Query(), 0.0, Period())
    assert session.number == 7 and session.start == parse("2023-10-27 10:01:00")


def test_a_handshake_just_before_midnight_in_a_line_just_after_it(tmp_path: Path) -> None:
    line = on("23:59:59", shook="23:59:50")[9:]
    journal = "2023-10-28T00:00:01+0000 host wg-monitor[7]: %s\n" % line
    (session,) = rebuilt(tmp_path, journal).sessions(Query(), 0.0, Period())
    assert session.start == parse("2023-10-27 23:59:50")


# --- Local time ---------------------------------------------------------------------------------------------------

BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"


def starts(trails: Trails) -> List[str]:
    with zone("UTC"):
        return [wg_monitor.stamp(int(session.start))[11:] for session in trails.sessions(Query(), 0.0, Period())]


@pytest.mark.parametrize("announced", [True, False])
def test_a_repeated_hour_is_read_so_that_time_goes_on(announced: bool, tmp_path: Path) -> None:
    lines: List[str] = []
    for hour, minute in ((1, 50), (2, 10), (2, 50), (2, 10), (2, 50), (3, 10)):
        peer = "Peer%04d...4xYz567=" % len(lines)
        if announced and len(lines) == 3:
            lines.append("2023-10-29 02:00:10 [WARN] Local time is now UTC+01:00, it was UTC+02:00")
        time = "%02d:%02d:10" % (hour, minute)
        lines.append("2023-10-29 " + on(time, peer, "%02d:%02d:00" % (hour, minute)))
    with zone(BERLIN):
        trails = rebuilt(tmp_path, text(*lines))
        assert starts(trails) == ["23:50:00", "00:10:00", "00:50:00", "01:10:00", "01:50:00", "02:10:00"]


def test_an_announced_offset_counts_even_if_the_zone_never_has_it(tmp_path: Path) -> None:
    lines = (on("10:01:00"), "13:00:00 [WARN] Local time is now UTC+02:00, it was UTC+00:00", on("13:01:00", BOB),
             "12:00:00 [WARN] Local time is now UTC+00:00, it was UTC+02:00", on("12:01:00", "C" + ANN[1:]))  # fmt: skip
    trails = rebuilt(tmp_path, text(*lines))
    assert starts(trails) == ["10:01:00", "11:01:00", "12:01:00"]
    assert "The trails announce UTC+02:00, which this time zone does not have then: is --timezone right?" in trails.notes


def test_a_time_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    with zone(BERLIN):
        trails = rebuilt(tmp_path, "2023-03-26 %s\n" % on("02:30:00"))
        assert "Times that do not exist in this time zone: 1. Is --timezone right?" in trails.notes


@pytest.mark.once  # needs Python 3.9
def test_the_zone_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    path.write_text(text(*STORY))
    answer = report("sessions", "--from-log", str(path), "--timezone", "Asia/Tokyo", "--format", "json")
    assert json.loads(answer.out)[0]["session_start"] == "2023-10-27T10:01:00+09:00"


# --- The command --------------------------------------------------------------------------------------------------


def test_the_command_filters_and_sums_up(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    path.write_text(text(*STORY))
    command = ("sessions", "--from-log", str(path))
    assert len(json.loads(report(*command, "--peer", "BbC", "--format", "json").out)) == 1
    assert len(json.loads(report(*command, "--ip", "10.0.0.1", "--format", "json").out)) == 3
    assert len(json.loads(report(*command, "--since", "2023-10-27 11:00", "--format", "json").out)) == 2
    assert len(json.loads(report(*command, "--summary", "--format", "json").out)) == 3
    lines = report(*command).lines
    assert lines[1].split()[:6] == [ANN, "wg0", "2023-10-27", "10:01:00", "10:05:00", "4m"]
    assert lines[-2:] == ["Watched from 2023-10-27 10:00:00 to 2023-10-27 11:30:00. Of later times, nothing is known.",
                          HANDSHAKES % 3]  # fmt: skip


def test_trails_and_a_store_together_are_refused() -> None:
    with pytest.raises(Refusal, match="--from-log: it reads trails instead of a store"):
        report("sessions", "--store", "state.db", "--from-log", "trail")


def test_the_command_needs_no_privileges(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    path.write_text(text(*STORY))
    os.chmod(path, 0o644)
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        os.chmod(directory, directory.stat().st_mode | 0o055)
    command = "import os, sys; os.geteuid() or os.setuid(65534); sys.path.insert(0, %r); import wg_monitor; wg_monitor.main()"
    python = shutil.which("python3", path="/usr/bin") or sys.executable  # others may not be able to read that of root
    wanted = [python, "-B", "-c", command % str(MODULE.parent), "sessions", "--from-log", str(path), "--format", "csv"]
    done = subprocess.run(wanted, capture_output=True, text=True, timeout=PATIENCE_S, env={"TZ": "UTC"})
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4)


def test_while_a_monitor_writes_to_the_trail_its_peers_are_online(tmp_path: Path) -> None:
    trail = wg_monitor.Trail(str(tmp_path / "trail"))
    trail.open()
    trail.write([text(START, on("10:01:00"), on("10:05:00", BOB)).encode()])
    trails = Trails([str(tmp_path / "trail")], Zone())
    trail.close()
    assert told(trails) == ["wg0 AbC1dEf2 10:01:00-10:05:00 online", "wg0 BbC1dEf2 10:05:00-10:05:00 online"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_after_a_second_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trail"
    path.write_text(text(*STORY, *("11:59:59 [WARN] %d" % number for number in range(20_000))))
    for stream, ticks, shown in ((Terminal(), 0.9, True), (Terminal(), 0.0, False), (io.StringIO(), 0.9, False)):
        clock = iter(range(1000))
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(wg_report, "time", SimpleNamespace(monotonic=lambda c=clock, t=ticks: next(c) * t))
        assert told(Trails([str(path)], Zone())) == SESSIONS
        said = stream.getvalue()
        assert ("\rReading [" in said and said.endswith("\r\x1b[K")) if shown else said == ""


# --- Hostile input ------------------------------------------------------------------------------------------------


VALUES: Sequence[Any] = (
    None, True, -1, 2**70, 1.5, float("nan"), "", "x", [], {}, "9999-12-31T23:59:59+00:00", "\x1b[2J", 10**400,
)  # fmt: skip
SPOILERS = ("", "9", "\x00", "\x1b", "[", "(", "\u00e9", " ", "...", "\u2028")


def mutated(chance: random.Random, plain: Sequence[str]) -> str:
    line = chance.choice(plain)
    if chance.random() < 0.4:
        changes = {name: chance.choice(VALUES) for name in chance.sample(sorted(EVENT), chance.randrange(3))}
        line = json.dumps({**EVENT, "new": True, "name": "ann", "from": "x", **changes})
    if chance.random() < 0.1:
        stamp = chance.choice(("5", 5, None, "x"))
        line = json.dumps({"MESSAGE": chance.choice((*VALUES, line)), "__REALTIME_TIMESTAMP": stamp})
    for _ in range(chance.choice((0, 0, 1, 2, 5))):
        place = chance.randrange(len(line) + 1)
        line = line[:place] + chance.choice(SPOILERS) + line[place + 1 :]
    return line


def test_mutated_lines_never_raise(tmp_path: Path) -> None:
    chance = random.Random(5)
    plain = text(*STORY, *(line for _, lines, _ in (*CASES, *GAPS) for line in lines)).splitlines()
    trails = rebuilt(tmp_path, "".join(mutated(chance, plain) + "\n" for _ in range(20_000)))
    assert list(trails.sessions(Query(), 0.0, Period())) and trails.reader.skipped > 1000
    path = str(tmp_path / "trail.1")
    for words in ([], ["--summary"], ["--format", "csv"], ["--format", "json"], ["--ip", "10.0.0.1"]):
        answer = report("sessions", "--from-log", path, *words)
        assert "\x1b" not in answer.out + answer.err and "\x00" not in answer.out + answer.err


MEASURE = """
import sys
sys.path.insert(0, %r)
import wg_monitor, wg_report
trails = wg_report.Trails(sys.argv[1:], wg_report.Zone())
print(sum(1 for _ in trails.sessions(wg_report.Query(), 0.0, wg_report.Period())))
print(next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM")))
print(trails.notes)
""" % str(MODULE.parent)


def measured(data: Iterable[bytes], *paths: str) -> Tuple[int, int, str]:
    """Sessions, peak memory in MiB, and the notes, of this standard input."""
    command = [sys.executable, "-c", MEASURE, *paths, "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    for part in data:
        process.stdin.write(part)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err.decode()
    lines = out.decode().splitlines()
    return int(lines[0]), int(lines[1]), lines[2] + err.decode()


@pytest.mark.heavy
@pytest.mark.once
def test_a_line_of_a_gigabyte_takes_no_memory() -> None:
    count, memory, notes = measured([text(*STORY[:6]).encode(), *[b"x" * (1 << 20)] * 1024, b"\n", text(*STORY[6:]).encode()])
    assert count == 3 and memory < 64 and "Lines that do not parse and do not count: 1" in notes


@pytest.mark.heavy
@pytest.mark.once
def test_a_bomb_takes_no_memory() -> None:
    packed = io.BytesIO()
    packer = gzip.GzipFile(fileobj=packed, mode="wb")
    packer.write(text(*STORY).encode())
    for _ in range(512):
        packer.write(bytes(1 << 20))
    packer.close()
    count, memory, _ = measured([packed.getvalue()])
    assert count == 3 and memory < 64


@pytest.mark.heavy
def test_a_thousand_keys_that_show_the_same_are_bounded(tmp_path: Path) -> None:
    event = {"event": "ONLINE", "interface": "wg0", "endpoint": None, "allowed_ips": "", "handshake": None, "session": 1}
    lines = [START, *(on("10:01:00", more=" new", ips="IP: 10.0.%d.%d" % (n // 256, n % 256)) for n in range(1000))]
    for number in range(1000):
        key = "AbC1dEf2%028d4xYz567=" % number
        lines.append(json.dumps({**event, "time": "2023-10-27T10:02:00+00:00", "peer": key}))
    trails = rebuilt(tmp_path, text(*lines))
    assert len([s for s in trails.sessions(Query(), 0.0, Period()) if s.number]) == 1000
    assert max(len(peer.twins or ()) for peer in trails.found.peers.values()) == 16


def test_a_full_disk_for_the_sorting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wg_report, "RUN", 2)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))
    with pytest.raises(Refusal, match="the sessions cannot be sorted: No space left on device"):
        rebuilt(tmp_path, text(*STORY))


def test_sessions_that_memory_does_not_hold_come_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wg_report, "RUN", 2)
    trails = rebuilt(tmp_path, text(*STORY))
    assert len(trails.found.shelf.runs) == 1 and told(trails) == told(trails) == SESSIONS


@pytest.mark.heavy
@pytest.mark.once
def test_a_million_peers_are_bounded() -> None:
    lines = (on("10:01:00", "%08d...4xYz567=" % number) for number in range(1_000_000))
    blocks = ("".join(DAY + line + "\n" for line in group).encode() for group in zip(*[lines] * 1000))
    count, memory, notes = measured(blocks)
    assert count == 1_000_000 and memory < 300
    assert "more than" in notes
