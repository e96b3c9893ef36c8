"""Random histories of a small world, compared with what the documented rules say about them.

The expected events follow from the state of the world at each reading and at the one before. The monitor under test
reads the output that `wg` would print.
"""

import copy
import json
import math
import os
import random
import signal
import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest

import wg_monitor
from scale import scaled
from values import START, P, blocks, chosen, dump, give, give_nothing, key, plain, read
from wg_monitor import EVENT_KINDS, NEVER, Identity, Memo, Moment, Settings, Table
from world import LINKS, Sample, World

HISTORIES = scaled(100)
READINGS = 100  # per history


# --- The expected events ------------------------------------------------------------------------------------------


class Session:
    def __init__(self, identity: Identity, start: float, began: float, rx: int, tx: int, endpoint: str) -> None:
        self.identity, self.start, self.began, self.rx, self.tx = identity, start, began, rx, tx
        self.endpoints = [endpoint] if endpoint else []
        self.unwatched = 0.0
        self.figures: Tuple[Any, ...] = ()  # when it has ended


class Record:
    """What is known about a peer."""

    def __init__(self, p: P) -> None:
        self.endpoint, self.ips, self.handshake, self.shown = "", p.ips, 0, 0
        self.made = self.heard = NEVER
        self.heard_wall = NEVER
        self.ended = Moment(NEVER, NEVER)  # the last sign of life in the former session
        self.last = (p.rx, p.tx)
        self.rx = self.tx = 0  # totals of all counters
        self.sent_since = 0  # bytes since the last sign of life
        self.session: Optional[Session] = None


Happening = Dict[str, Any]


class Expected:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.peers: Dict[Identity, Record] = {}
        self.links: Dict[str, bool] = {}  # True = up
        self.read: Dict[str, float] = {}  # boot time of the last reading without an invalid line
        self.first = True  # no reading of this run yet
        self.sessions: List[Session] = []  # the ended ones
        self.seen: Dict[str, float] = {}  # boot time at which this run last read a link
        self.watched = math.inf  # boot time of the last reading before this run
        self.last: Optional[Moment] = None  # the last reading
        self.happened: List[Happening] = []
        self.hidden: Set[str] = set()  # links that could not be read at the last reading
        self.walls: Dict[str, float] = {}  # wall clock at the last reading of a link
        self.unread: Dict[str, float] = {}  # for how long before `watched` the run before had not read a link
        self.on_disk: Tuple[Any, ...] = ({}, {}, {}, None, NEVER, {})

    # State that outlives a run

    def save(self, now: Moment, every: bool) -> None:
        """Saves what the store has: every peer at a checkpoint, the peers with events at any other save."""
        peers, _, _, _, complete, _ = self.on_disk
        touched = {(event["interface"], event["peer"]) for event in self.happened if "peer" in event}
        for identity in peers.keys() | self.peers.keys() if every else touched:
            peers.pop(identity, None)
            if identity in self.peers:
                record = self.peers[identity]
                record.heard_wall = now.wall - (now.boot - record.heard)
                peers[identity] = copy.deepcopy(record)
        if every and self.last is not None:
            complete = self.last.boot
        self.on_disk = (peers, dict(self.links), dict(self.read), self.last, complete, dict(self.walls))

    def restart(self, rebooted: Optional[Moment]) -> None:
        peers, links, read, saved, complete, self.walls = copy.deepcopy(self.on_disk)
        self.peers, self.links = peers, links
        if rebooted is not None:
            self.last, complete = saved, NEVER  # the small file with the last reading belongs to another boot
        self.read = {link: min(boot, complete) for link, boot in read.items()}
        self.first = True
        self.seen = {}
        self.watched = math.inf if self.last is None else self.last.boot
        self.unread, self.hidden = {}, set()
        if saved is not None and self.last is not None:
            self.unread = {link: self.last.wall - self.walls[link] for link in self.blind_at(saved)}
        if rebooted is not None and self.last is not None:
            self.watched = rebooted.boot - max(0.0, rebooted.wall - self.last.wall)
        if rebooted is not None:
            for record in self.peers.values():
                # The wall clock places the last sign of life. The others keep their distance to it.
                latest = max(record.handshake, record.heard_wall)
                zero = self.place(latest, rebooted) - latest
                record.made = zero + record.handshake if record.handshake else NEVER
                record.heard = zero + record.heard_wall
                record.ended = Moment(record.ended.wall, zero + record.ended.wall)
                if record.session is not None:
                    record.session.began = zero + record.session.start
            self.on_disk = (copy.deepcopy(self.peers), dict(links), read, self.last, complete, dict(self.walls))

    def blind_at(self, saved: Moment) -> List[str]:
        """The links that could not be read at the last save, as far as the store shows."""
        limit = saved.wall - 2 * self.settings.interval - 1
        return [link for link, up in self.links.items() if up and self.walls[link] < limit]

    def take_gap(self, link: str, sessions: List[Session], now: Moment) -> None:
        """Adds the time since the link was last read, if it is too long, to the sessions that were open then and span
        it: open ones, and those with a sign of life after its beginning."""
        gap = self.gap(link, now)
        for session in sessions if gap else ():
            if session.identity[0] == link and (not session.figures or session.figures[0] > now.wall - gap + 0.001):
                session.unwatched += gap
        self.seen[link] = now.boot

    def gap(self, link: str, now: Moment) -> float:
        gap = now.boot - self.seen.get(link, self.watched - self.unread.get(link, 0.0))
        return gap if gap > (2 * self.settings.interval + 1 if link in self.seen else 0) else 0.0

    # One reading

    def place(self, wall: float, now: Moment) -> float:
        return now.boot - max(0.0, now.wall - wall)

    def report(self, kind: str, link: str, peer: str = "", **more: Any) -> None:
        event = {"event": kind, "interface": link}
        if peer:
            event["peer"] = peer
        event.update(more)
        self.happened.append(event)

    def end(self, record: Record, reason: str, now: Moment) -> Dict[str, Any]:
        session, record.session = record.session, None
        if session is None:
            return {}
        # Bytes that came while nobody watched came at its beginning, or later.
        heard = record.heard - (self.gap(session.identity[0], now) if record.heard == now.boot else 0)
        last = max(record.made, heard, session.began)
        if last == session.began:
            seen = session.start
        elif last == record.made:
            seen = float(record.shown)
        elif last < 0:  # before this boot, under another wall clock
            seen = session.start + last - session.began
        else:
            seen = now.wall - (now.boot - heard)
        record.ended = Moment(seen, last)
        received, sent = record.rx - session.rx, record.tx - session.tx
        endpoints = " ".join(session.endpoints)
        session.figures = (seen, now.wall, last - session.began, received, sent, endpoints, reason)
        self.sessions.append(session)
        return {"reason": reason, "received_bytes": received, "sent_bytes": sent, "online": False}

    def take(self, sample: Sample, now: Moment) -> List[Happening]:
        self.happened = []
        before = [record.session for record in self.peers.values() if record.session is not None]
        wanted = self.settings.interface or set(LINKS)
        links = {link: members for link, members in sample.links.items() if link in wanted}
        hidden, invalid, unclear = sample.hidden & wanted, sample.invalid & wanted, sample.unclear
        # The name in an invalid line is trusted only if a valid line, a peer or a setting has it.
        doubtful = (hidden & invalid) - {link for link, _ in self.peers} - self.settings.interface
        if doubtful:
            hidden, invalid, unclear = hidden - doubtful, invalid - doubtful, True
        for link, members in links.items():
            if not self.links.get(link, self.first):
                self.report("IFUP", link, peers=len(members))
        for link, up in list(self.links.items()):
            if up and link not in links and link not in hidden and not unclear:
                self.go_down(link, now)
                if link in self.hidden:
                    self.take_gap(link, before, now)
        for identity in list(self.peers):
            link, peer = identity
            if link in links and not unclear and link not in invalid:
                if peer not in {key(name) for name in links[link]}:
                    figures = self.end(self.peers[identity], "removed", now)
                    del self.peers[identity]
                    self.report("REMOVED", link, peer, **figures)
        for link, members in links.items():
            for p in members.values():
                self.look(link, p, now)
        for link in links:
            self.take_gap(link, before, now)
            self.links[link] = True
            self.walls[link] = now.wall
            if not unclear and link not in invalid:
                self.read[link] = now.boot
        if self.first:
            for link in hidden:
                if link not in self.links:
                    self.links[link], self.walls[link] = True, now.wall
        self.first, self.last, self.hidden = False, now, hidden - invalid
        return self.happened

    def go_down(self, link: str, now: Moment) -> None:
        self.links[link] = False
        mine = {identity: record for identity, record in self.peers.items() if identity[0] == link}
        online = sum(record.session is not None for record in mine.values())
        self.report("IFDOWN", link, peers=len(mine), online_peers=online)
        for (_, peer), record in mine.items():
            if record.session is not None:
                self.report("OFFLINE", link, peer, **self.end(record, "interface-down", now))

    def look(self, link: str, p: P, now: Moment) -> None:
        """Takes the line of one peer."""
        identity, handshake = (link, key(p.name)), int(START.wall + p.shook)
        new = identity not in self.peers
        record = self.peers.setdefault(identity, Record(p))
        old = copy.copy(record)
        if old.session is not None and not handshake:
            figures = self.end(record, "reset", now)  # with the figures from before
            self.report("OFFLINE", link, identity[1], **figures)
        # bytes
        rx, tx = (new - old if new >= old else new for new, old in zip((p.rx, p.tx), record.last))
        record.last = (p.rx, p.tx)
        record.rx, record.tx, record.sent_since = record.rx + rx, record.tx + tx, record.sent_since + tx
        if rx:
            record.heard = now.boot
        if rx or handshake != record.handshake:
            record.sent_since = 0
        # handshake
        if not handshake:
            record.made = NEVER
        elif handshake != record.handshake:
            record.made = self.place(handshake, now)
            if handshake > record.handshake and not new:
                record.made = max(record.made, min(now.boot, self.read.get(link, NEVER)))
        record.handshake, record.shown = handshake, handshake or record.shown
        record.endpoint, record.ips = p.endpoint or record.endpoint, p.ips
        # state
        sign = record.made
        if self.settings.liveness == "traffic":
            sign = max(sign, record.heard)
        alive = handshake != 0 and now.boot - sign < self.settings.threshold
        session = record.session
        if alive and session is None:
            began, start = record.made, float(handshake)
            if now.boot - began >= self.settings.threshold:  # received bytes brought the peer online
                began, start = sign, now.wall - (now.boot - sign)
            if began < record.ended.boot:  # sessions do not overlap
                start, began = record.ended
            record.session = Session(identity, start, began, old.rx, old.tx, record.endpoint)
            self.report("ONLINE", link, identity[1], new=new, endpoint=record.endpoint or None, online=True)
        elif new:
            self.report("OFFLINE", link, identity[1], new=True, online=False)
        elif session is not None and not alive:
            reason = "unreachable" if record.sent_since else "idle"
            self.report("OFFLINE", link, identity[1], new=False, **self.end(record, reason, now))
        elif session is not None and record.endpoint != old.endpoint:
            if record.endpoint not in session.endpoints:
                session.endpoints.append(record.endpoint)
            if old.endpoint and host(record.endpoint) != host(old.endpoint):
                self.report("ROAMING", link, identity[1], endpoint=record.endpoint, **{"from": old.endpoint})
        if set(old.ips.split(",")) != set(record.ips.split(",")):
            self.report("CHANGED", link, identity[1], allowed_ips=record.ips, **{"from": old.ips})


def host(endpoint: str) -> str:
    return endpoint[: endpoint.rfind(":")] if endpoint else ""


# --- The monitor under test ---------------------------------------------------------------------------------------


class Silent(wg_monitor.Console):
    def write(self, record: wg_monitor.Record, stamped: bool) -> None:
        pass


class Run:
    """One run of the monitor with a real store and trail. The test calls it instead of its loop."""

    def __init__(self, directory: str, settings: Settings) -> None:
        handlers = {number: signal.getsignal(number) for number in wg_monitor.Wakeup.SIGNALS}
        self.stack = ExitStack()
        self.trail = wg_monitor.Trail(directory + "/trail")
        self.trail.open()
        self.store = wg_monitor.Store(directory + "/state.db")
        notifier = wg_monitor.Notifier({})  # type: ignore[arg-type]
        self.monitor = wg_monitor.Monitor(settings, "/no/wg", Silent(""), self.trail, self.store, notifier)
        self.stack.callback(os.close, self.monitor.wakeup.reader)
        self.stack.callback(lambda: os.close(signal.set_wakeup_fd(-1)))
        for number, handler in handlers.items():
            self.stack.callback(signal.signal, number, handler)
        self.monitor.open()

    def end(self, politely: bool) -> None:
        if politely:
            self.monitor.finish()
        else:
            self.trail.close()
            self.store.close()
        self.stack.close()


class Clock:
    """Replaces the clocks, since a test cannot set those of the machine."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(wg_monitor, "moment", lambda: world.now)
        patch.setattr(wg_monitor, "boot_id", lambda: "boot-%d" % world.boots)


class History:
    """A world, the monitor that watches it, and the expected events."""

    def __init__(self, seed: int, directory: str) -> None:
        self.chance = random.Random(seed)
        self.directory = directory
        self.world = World(self.chance)
        self.settings = self.with_another_rule(chosen(log_format="json"))
        if self.chance.random() < 0.2:
            self.settings = self.settings._replace(interface=frozenset(("wg0", "site-b")))
        self.expected = Expected(self.settings)
        # After a reboot only the wall clock shows ages. If it was set as well, no expectation is possible.
        self.reboots = self.chance.random() < 0.5
        self.trail = self.events_of(Path(directory, "trail"))

    def with_another_rule(self, settings: Settings) -> Settings:
        return settings._replace(
            threshold=self.chance.choice((60, 120, 180)),
            liveness=self.chance.choice(("handshake", "handshake", "traffic")),
        )

    def events_of(self, trail: Path) -> Iterator[List[Happening]]:
        """The events in the trail since the last call."""
        trail.touch()
        with trail.open() as file:
            while True:
                lines = [json.loads(line) for line in file]
                yield [line for line in lines if line["event"] in EVENT_KINDS]

    def go(self) -> None:
        run = Run(self.directory, self.settings)
        for _ in range(READINGS):
            dice = self.chance.random()
            if dice < 0.03:
                run = self.restart(run, politely=self.chance.random() < 0.5, reboot=self.reboots and self.chance.random() < 0.6)
            elif dice < 0.05 and not self.reboots:
                self.world.step()
            elif dice < 0.12:
                self.world.blink()
            self.world.wait(25, 35) if self.chance.random() < 0.85 else self.world.wait(35, 400)
            for _ in range(self.chance.choice((0, 0, 1, 1, 2, 3, 10))):
                self.world.live()
                self.world.wait(0, 8)
            self.read(run)
        self.world.wait(1, 1)
        run.end(politely=True)
        self.compare_sessions()

    def read(self, run: Run) -> None:
        now, numbered = self.world.now, run.monitor.outbox.delivered.last
        if self.chance.random() < 0.04:
            give_nothing(run.monitor)
            self.expected.happened = []
            every = False
        else:
            sample = self.world.sample(faults=True)
            every = self.chance.random() < 0.05
            run.monitor.checkpoint = 0.0 if every else math.inf
            expected = self.expected.take(sample, now)
            give(run.monitor, sample.text, sample.complaints)
            assert run.store.saved is not None
            every = run.store.saved["complete"] == now.boot  # after blind time as well
            events = next(self.trail)
            assert in_order(narrowed(events, expected)) == in_order(expected)
            for event in events:
                assert event["time"] == wg_monitor.rfc3339(now.wall)
        if every or run.monitor.outbox.delivered.last > numbered:
            self.expected.save(now, every)
        rows = run.monitor.table.rows
        online = {identity for identity, row in rows.items() if row.session is not None}
        assert online == {identity for identity, record in self.expected.peers.items() if record.session is not None}
        assert run.monitor.table.online == len(online)
        assert rows.keys() == self.expected.peers.keys()

    def restart(self, run: Run, politely: bool, reboot: bool) -> Run:
        run.end(politely)
        if politely:
            self.expected.happened = []
            if run.monitor.table.last is not None:
                self.expected.save(self.world.now, True)
        self.world.wait(0, 60)
        if reboot:
            self.world.reboot()
        if self.chance.random() < 0.3:
            self.settings = self.expected.settings = self.with_another_rule(self.settings)
        run = Run(self.directory, self.settings)
        next(self.trail)
        self.expected.restart(self.world.now if reboot else None)
        return run

    def compare_sessions(self) -> None:
        with sqlite3.connect(self.directory + "/state.db") as database:
            rows = database.execute(
                "SELECT interface, public_key, start, last_seen, detected, length, received, sent, endpoints, reason,"
                " unwatched FROM sessions WHERE reason IS NOT NULL ORDER BY detected, interface, public_key, start"
            ).fetchall()
            still = database.execute("SELECT interface, public_key FROM sessions WHERE reason IS NULL").fetchall()
        database.close()
        expected = [(*session.identity, session.start, *session.figures, session.unwatched) for session in self.expected.sessions]
        assert sorted(rows) == sorted(expected)
        open_ones = [identity for identity, record in self.expected.peers.items() if record.session is not None]
        assert sorted(still) == sorted(open_ones)


def narrowed(events: List[Happening], expected: List[Happening]) -> List[Happening]:
    """The events of the trail, without the fields that the expected events lack."""
    fields = {(e["event"], e["interface"], e.get("peer")): e.keys() for e in expected}
    narrow = []
    for event in events:
        event.setdefault("new", False)
        names = fields.get((event["event"], event["interface"], event.get("peer")), event.keys())
        narrow.append({name: value for name, value in event.items() if name in names})
    return narrow


def in_order(events: List[Happening]) -> List[str]:
    return sorted(json.dumps(event, sort_keys=True) for event in events)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_the_trail_and_the_sessions_are_as_expected(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:  # in memory, where syncs take no time
        history = History(seed, directory)
        Clock(history.world, monkeypatch)
        history.go()


def test_sessions_of_interfaces_that_are_no_longer_watched_end_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(random.Random(0))
    Clock(world, monkeypatch)
    world.boot = START.boot + 10
    both = dump("wg0", P("alice", 5)) + dump("wg1", P("bob", 7))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for names, seconds in (((), 40), (("wg0",), 70), ((), 100)):  # type: Tuple[str, ...], int
            run = Run(directory, chosen(log_format="json", interface=frozenset(names)))
            give(run.monitor, both)
            world.boot = START.boot + seconds
            both = both.replace("\t0\t0\toff", "\t9\t0\toff")
            give(run.monitor, both)
            run.end(politely=True)
        lines = [json.loads(line) for line in Path(directory, "trail").read_text().splitlines()]
        events = [(event["event"], event["interface"], event.get("new", False)) for event in lines if "peer" in event]
        with sqlite3.connect(directory + "/state.db") as database:
            sessions = database.execute("SELECT interface, last_seen, received, reason FROM sessions ORDER BY number").fetchall()
        database.close()
    assert events == [("ONLINE", "wg0", True), ("ONLINE", "wg1", True), ("ONLINE", "wg1", False)]
    assert sessions == [
        ("wg0", None, None, None),
        ("wg1", START.wall + 40, 9, "unknown"),
        ("wg1", None, None, None),
    ]


# --- Properties ---------------------------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_without_clock_steps_the_true_ages_decide(seed: int) -> None:
    chance = random.Random(seed)
    world, settings = World(chance), chosen(threshold=chance.choice((60, 120, 180)))
    table = Table()
    memo: Optional[Memo] = None
    for _ in range(READINGS):
        world.wait(20, 100)
        for _ in range(chance.choice((0, 1, 5))):
            world.live()
        sample, now = world.sample(faults=False), world.now
        reading, memo = read(sample.text, "", table, memo, settings)
        wg_monitor.decide(table, reading, now, settings)
        assert set(table.rows) >= {(link, key(name)) for link, members in world.links.items() for name in members}
        for identity, row in table.rows.items():
            age = now.boot - world.shook.get(identity, NEVER)
            if not settings.threshold - 1 < age < settings.threshold:  # `wg` prints whole seconds
                assert (row.session is not None) == (age < settings.threshold)


@pytest.mark.heavy
@pytest.mark.parametrize("liveness", ["handshake", "traffic"])
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_skimming_gives_the_same_result_as_parsing_in_full(seed: int, liveness: str) -> None:
    chance = random.Random(seed)
    world, settings = World(chance), chosen(liveness=liveness)
    if chance.random() < 0.2:
        settings = settings._replace(interface=frozenset(("wg0",)))
    table, memo = Table(), Memo()
    skimmed = 0
    for _ in range(READINGS):
        world.wait(20, 100)
        if chance.random() < 0.05:
            world.blink()
        for _ in range(chance.choice((0, 1, 1, 5))):
            world.live()
        sample, now = world.sample(faults=chance.random() < 0.2), world.now
        output, whole = sample.text.encode(), copy.deepcopy(table)
        text, names = blocks(output, chance.choice((1, 300, 3000))), [name for name, _ in table.rows]
        reading = wg_monitor.parse(text, sample.complaints, memo, names, settings.interface)
        skimmed += reading.present is None
        events = wg_monitor.decide(table, reading, now, settings)
        in_full = wg_monitor.parse([output] if output else [], sample.complaints, Memo(), names, settings.interface)
        same_events = wg_monitor.decide(whole, in_full, now, settings)
        assert plain(table) == plain(whole)
        assert sorted(map(wg_monitor.event_text, events)) == sorted(map(wg_monitor.event_text, same_events))
        if chance.random() < 0.1:  # a checkpoint: each later change must mark its row again
            for row in table.rows.values():
                row.unsaved = False
    assert skimmed
