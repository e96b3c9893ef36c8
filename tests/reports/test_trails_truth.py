"""Random histories, recorded in a store and in trails: the sessions that are rebuilt from the trails agree with the store
on everything that a trail can know.

The monitor's own pipeline plays each history. Every line is rendered as text and as JSON, and a mixed trail changes its
format at each start of the monitor.
"""

import math
import random
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

import wg_monitor
from scale import scaled
from test_model import Clock, Run
from values import chosen, give, zone
from wg_monitor import Event
from wg_report import ENDED, UNKNOWN, Period, Query, Session, Trails, Zone
from world import World

HISTORIES = scaled(50)
READINGS = 100  # per history
ZONES = ("UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "<+1345>-13:45")


class Stored(NamedTuple):
    """A row of the store's table of sessions."""

    number: int
    interface: str
    public_key: str
    start: float
    last_seen: Optional[float]
    detected: Optional[float]
    length: float
    received: int
    sent: int
    endpoints: str
    unwatched: float
    reason: Optional[str]


class Chronicle:
    """A random history, with a store and three trails of it."""

    def __init__(self, seed: int, directory: str, patch: pytest.MonkeyPatch) -> None:
        self.chance, self.directory = random.Random(seed), directory
        self.world = World(self.chance)
        self.settings = chosen(threshold=180)
        self.lines: Dict[str, List[bytes]] = {"text": [], "json": [], "mixed": []}
        self.events: List[Event] = []
        self.mixed = "text"
        self.kills: List[float] = []
        self.reboots = self.chance.random() < 0.5
        self.steps = not self.reboots and self.chance.random() < 0.4
        self.faults = self.chance.random() < 0.5  # which interface a trail's line is about is not always clear then
        Clock(self.world, patch)
        render = wg_monitor.render

        def render_all(seq: int, event: Event, text: str, log_format: str) -> bytes:
            lines = {kind: render(seq, event, text, kind) for kind in ("text", "json")}
            for kind, line in (*lines.items(), ("mixed", lines[self.mixed])):
                self.lines[kind].append(line)
            self.events.append(event)
            return lines["text"]

        patch.setattr(wg_monitor, "render", render_all)
        patch.setattr("time.time", lambda: self.world.now.wall)

    def start(self) -> Run:
        if self.chance.random() < 0.3:
            liveness = self.chance.choice(("handshake", "handshake", "traffic"))
            self.settings = self.settings._replace(threshold=self.chance.choice((60, 120, 180)), liveness=liveness)
        self.mixed = self.chance.choice(("text", "json"))
        run = Run(self.directory, self.settings)
        run.monitor.note("START", wg_monitor.started_text(self.settings))
        return run

    def go(self) -> None:
        run = self.start()
        for _ in range(READINGS):
            dice = self.chance.random()
            if dice < 0.03:
                politely = self.chance.random() < 0.5
                if not politely:
                    self.kills.append(self.world.now.wall)
                run.end(politely)
                self.world.wait(6, 60)
                if self.reboots and self.chance.random() < 0.6:
                    self.world.reboot()
                run = self.start()
            elif dice < 0.05 and self.steps:
                self.world.step()
            elif dice < 0.12 and self.faults:
                self.world.blink()
            self.world.wait(25, 35) if self.chance.random() < 0.85 else self.world.wait(35, 400)
            for _ in range(self.chance.choice((0, 0, 1, 1, 2, 3, 10))):
                self.world.live()
                self.world.wait(0, 8)
            if self.chance.random() < 0.04:
                run.monitor.no_reading("this is a test")
            else:
                sample = self.world.sample(self.faults)
                give(run.monitor, sample.text, sample.complaints)
        self.world.wait(1, 1)
        run.end(politely=True)

    def stored(self) -> List[Stored]:
        with closing(sqlite3.connect(self.directory + "/state.db")) as database:
            rows = database.execute("SELECT %s FROM sessions ORDER BY number" % ", ".join(Stored._fields))
            return [Stored(*row) for row in rows]

    def rebuilt(self, kind: str) -> Trails:
        path = Path(self.directory, kind)
        path.write_bytes(b"".join(self.lines[kind]))
        return Trails([str(path)], Zone())


def of_peers(rows: List[Any], key: Any) -> Dict[Tuple[str, str], List[Any]]:
    peers: Dict[Tuple[str, str], List[Any]] = {}
    for row in rows:
        peers.setdefault(key(row), []).append(row)
    return peers


def sessions_of(trails: Trails) -> List[Session]:
    found = list(trails.sessions(Query(), 0.0, Period()))
    assert [session.start for session in found] == sorted(session.start for session in found)
    return found


def in_order_of_lines(sessions: List[Session]) -> List[Session]:
    return sorted(sessions, key=lambda session: (session.number is None, session.number or 0))


@pytest.fixture
def chronicle(seed: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chronicle]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, zone(random.Random(seed).choice(ZONES)):
        made = Chronicle(seed, directory, monkeypatch)
        made.go()
        yield made


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_json_lines_say_what_the_store_says(chronicle: Chronicle) -> None:
    stored = chronicle.stored()
    trails = chronicle.rebuilt("json")
    found = {session.number: session for session in sessions_of(trails)}
    assert found.keys() == {row.number for row in stored}
    begins = {e.session.number: e for e in chronicle.events if e.kind == "ONLINE" and e.session is not None}
    ends = {e.ended.session.number: e for e in chronicle.events if e.ended is not None}
    for row in stored:
        session = found[row.number]
        assert (session.interface, session.peer) == (row.interface, row.public_key)
        if row.reason is None or row.last_seen is None:
            assert (session.state, session.reason, session.received) == (UNKNOWN, "unknown", None)
            continue
        assert session.state == ENDED
        assert (session.start, session.until) == (math.floor(row.start), math.floor(row.last_seen))
        figures = (round(row.length), row.received, row.sent, round(row.unwatched), row.reason)
        assert (session.length, session.received, session.sent, session.unwatched, session.reason) == figures
        used = row.endpoints.split()
        first = begins[row.number].endpoint
        assert session.endpoints[:1] == (first,) or not first
        assert set(session.endpoints) <= {*used, ends[row.number].endpoint}


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
@pytest.mark.parametrize("kind", ["text", "mixed"])
def test_text_lines_say_what_the_store_says_as_far_as_they_can(chronicle: Chronicle, kind: str) -> None:
    begins = {e.session.number: e for e in chronicle.events if e.kind == "ONLINE" and e.session is not None}
    rules: Dict[int, int] = {}
    rule = 0
    for event, line in zip(chronicle.events, chronicle.lines["text"]):
        if event.kind == "START":
            rule = int(line.partition(b"Threshold: ")[2].partition(b"s")[0])
        if event.session is not None:
            rules.setdefault(event.session.number, rule)
    stored = of_peers(chronicle.stored(), lambda row: (row.interface, wg_monitor.short_key(row.public_key)))
    trails = chronicle.rebuilt(kind)
    assert trails.found.unclear == {} and trails.found.lost["beginnings"] == 0
    found = of_peers(sessions_of(trails), lambda session: (session.interface, wg_monitor.short_key(session.peer)))
    assert {peer: len(rows) for peer, rows in found.items()} == {peer: len(rows) for peer, rows in stored.items()}
    if chronicle.steps:
        return  # their order is not the one of their beginnings
    for peer, rows in stored.items():
        for row, session in zip(rows, found[peer]):
            begin = begins[row.number]
            if begin.handshake and begin.wall - begin.handshake < rules[row.number]:
                assert session.start == math.floor(row.start), (row, session)
            else:  # received bytes: after a restart, those of a reading before it
                assert math.floor(row.start) <= session.start <= begin.wall, (row, session)
            if row.reason is None or row.last_seen is None:
                assert session.state == UNKNOWN
                continue
            assert session.state == ENDED
            assert session.until <= row.last_seen
            if session.received is None:
                assert session.reason == (row.reason if row.reason in ("removed", "interface-down") else "")
                # The store does not have what it had not saved when the monitor was killed. Of several late readings, a
                # trail says when the first one and the last one were.
                killed = any(row.start <= kill <= (row.detected or 0) for kill in chronicle.kills)
                late = any(gap.why == "late" and gap.start <= session.until <= gap.stop + 61 for gap in trails.found.gaps)
                if session.until == math.floor(row.last_seen) and not (chronicle.faults or killed or late):
                    assert abs(row.unwatched - session.unwatched) < 5, (row, session)
