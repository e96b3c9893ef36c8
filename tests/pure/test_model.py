"""Random histories of a small world, held against what the contract says of them.

The truth is computed from what the world looked like at each reading, whole and without any memory but the last
reading's, by the rules as they are written; the monitor under test reads the text that `wg` would have printed.
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
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

import wg_monitor
from scale import scaled
from values import START, P, blocks, chosen, dump, give, interface_line, key, peer_line, read, unreadable
from wg_monitor import EMPTY, EVENT_KINDS, NEVER, Identity, Memo, Moment, Settings, Table

HISTORIES = scaled(100)
READINGS = 100  # in a history

LINKS = ("wg0", "wg1", "site-b")
NAMES = ("alice", "bob", "carol", "dave", "eve")
ENDPOINTS = ("192.0.2.1:51820", "192.0.2.1:9999", "198.51.100.7:1", "[2001:db8::7]:51820", "")
IPS = ("10.0.0.1/32", "10.0.0.2/32,10.1.0.0/24", "10.1.0.0/24,10.0.0.2/32", "")


# --- The world ----------------------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What there was to be seen at a reading."""

    links: Dict[str, Dict[str, P]]  # those that `wg` printed, with the peers whose lines can be read
    hidden: Set[str]  # not to be read, or its own line is spoiled
    spoiled: Set[str]  # printed, but a line of it is spoiled
    unclear: bool  # something of unclear interface was printed
    text: str
    complaints: str


class World:
    """Interfaces and peers that live at random, and clocks."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.boot, self.offset = START.boot, START.wall - START.boot
        self.boots = 0
        self.links: Dict[str, Dict[str, P]] = {}
        self.blind: Set[str] = set()
        self.shook: Dict[Identity, float] = {}  # boot time of the last handshake, for those who had one
        for _ in range(12):
            self.live()

    @property
    def now(self) -> Moment:
        return Moment(self.boot + self.offset, self.boot)

    def wait(self, least: float, most: float) -> None:
        """In eighths of a second, which floating point numbers add without a rest."""
        self.boot += self.chance.randrange(int(least * 8), int(most * 8) + 1) / 8

    def live(self) -> None:
        """One thing that happens."""
        deeds = (
            [self.shake] * 8 + [self.receive] * 6 + [self.send] * 4 + [self.roam] * 2
            + [self.allow, self.add, self.add, self.remove, self.move, self.up, self.up, self.down, self.renew]
        )
        self.chance.choice(deeds)()

    def some_peer(self) -> Optional[Tuple[str, P]]:
        peers = [(link, p) for link, members in self.links.items() for p in members.values()]
        return self.chance.choice(peers) if peers else None

    def change(self, **changes: Any) -> None:
        """To a peer, what it says; numbers are added."""
        some = self.some_peer()
        if some is not None:
            link, p = some
            for field, value in changes.items():
                old = getattr(p, field)
                p = p._replace(**{field: old + value if field in ("rx", "tx") else value})
            self.links[link][p.name] = p
            if "shook" in changes:
                self.shook[link, key(p.name)] = self.boot

    def shake(self) -> None:
        self.change(shook=math.floor(self.now.wall) - START.wall, rx=148, tx=92)

    def receive(self) -> None:
        self.change(rx=self.chance.randrange(1, 5000), tx=self.chance.choice((0, 32)))

    def send(self) -> None:
        self.change(tx=self.chance.randrange(1, 5000))

    def roam(self) -> None:
        self.change(endpoint=self.chance.choice(ENDPOINTS), rx=self.chance.choice((0, 32)))

    def allow(self) -> None:
        self.change(ips=self.chance.choice(IPS))

    def add(self) -> None:
        if self.links:
            members = self.links[self.chance.choice(sorted(self.links))]
            name = self.chance.choice(NAMES)
            members.setdefault(name, P(name, ips=self.chance.choice(IPS), endpoint=self.chance.choice(ENDPOINTS)))

    def remove(self) -> None:
        some = self.some_peer()
        if some is not None:
            del self.links[some[0]][some[1].name]
            self.shook.pop((some[0], key(some[1].name)), None)

    def move(self) -> None:
        self.remove()
        self.add()

    def up(self) -> None:
        self.links.setdefault(self.chance.choice(LINKS), {})

    def down(self) -> None:
        if self.chance.random() < 0.5:
            link = self.chance.choice(LINKS)
            self.links.pop(link, None)
            self.shook = {identity: shook for identity, shook in self.shook.items() if identity[0] != link}

    def renew(self) -> None:
        """An interface made anew knows its peers by its configuration only."""
        if self.links:
            self.made_anew(self.chance.choice(sorted(self.links)))

    def made_anew(self, link: str) -> None:
        for name, p in self.links[link].items():
            self.links[link][name] = P(name, endpoint=self.chance.choice((p.endpoint, "")), ips=p.ips)
            self.shook.pop((link, key(name)), None)

    def blink(self) -> None:
        """Other interfaces are to be read, and others not."""
        self.blind = {link for link in LINKS if self.chance.random() < 0.15}

    def step(self) -> None:
        """Somebody sets the wall clock."""
        by = self.chance.choice((1.0, 30.0, 100.0, 3600.0, 31_536_000.0))
        wall = self.chance.choice((self.now.wall + by, self.now.wall - by, START.wall + self.boot - START.boot, 1000.0))
        self.offset = max(0.0, wall) - self.boot

    def reboot(self) -> None:
        wall = self.now.wall + self.chance.randrange(10, 600)
        self.boots += 1
        self.boot = self.chance.randrange(80, 800) / 8
        self.offset = wall - self.boot
        for link in sorted(self.links):
            self.made_anew(link)
            if self.chance.random() < 0.2:
                del self.links[link]

    def sample(self, faults: bool) -> Sample:
        links: Dict[str, Dict[str, P]] = {}
        hidden, spoiled = self.blind & self.links.keys(), set()
        lines: List[str] = []
        complaints = unreadable(*sorted(hidden))
        for link in self.chance.sample(sorted(self.links), len(self.links)):
            if link in hidden:
                continue
            members = dict(self.links[link])
            if faults and self.chance.random() < 0.04:
                hidden.add(link)
                spoiled.add(link)
                lines += [link + "\tspoiled\n"] + [peer_line(link, p) for p in members.values()]
                continue
            lines.append(interface_line(link))
            for p in list(members.values()):
                if faults and self.chance.random() < 0.03:
                    spoiled.add(link)
                    lines.append(self.spoil(peer_line(link, p)))
                    del members[p.name]
                else:
                    lines.append(peer_line(link, p))
            links[link] = members
        unclear = faults and self.chance.random() < 0.03
        if unclear and self.chance.random() < 0.5:
            complaints += unreadable("w g 0")
        elif unclear:
            lines.insert(self.chance.randrange(len(lines) + 1), "spoiled\n")
        return Sample(links, hidden, spoiled, unclear, "".join(lines), complaints)

    def spoil(self, line: str) -> str:
        link, public, rest = line.split("\t", 2)
        return self.chance.choice((link + "\t" + public + "\n", "\t".join((link, public[1:], rest)), line[:-1] + "\t\n"))


# --- The truth ----------------------------------------------------------------------------------------------------


class Session:
    def __init__(self, identity: Identity, start: float, began: float, rx: int, tx: int, endpoint: str) -> None:
        self.identity, self.start, self.began, self.rx, self.tx = identity, start, began, rx, tx
        self.endpoints = [endpoint] if endpoint else []
        self.unwatched = 0.0
        self.figures: Tuple[Any, ...] = ()  # once it has ended


class Record:
    """What is known of a peer."""

    def __init__(self, p: P) -> None:
        self.endpoint, self.ips, self.handshake, self.shown = "", p.ips, 0, 0
        self.made = self.heard = NEVER
        self.heard_wall = NEVER
        self.last = (p.rx, p.tx)
        self.rx = self.tx = 0  # all that was ever counted
        self.sent_since = 0  # since the last sign of life
        self.session: Optional[Session] = None


Happening = Dict[str, Any]


class Truth:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.peers: Dict[Identity, Record] = {}
        self.links: Dict[str, bool] = {}  # whether they are up
        self.read: Dict[str, float] = {}  # boot time of the last reading without a spoiled line
        self.first = True  # reading of this run
        self.sessions: List[Session] = []  # that have ended
        self.spanning: List[Session] = []  # that were open when the run began
        self.last: Optional[Moment] = None  # reading
        self.happened: List[Happening] = []
        self.on_disk: Tuple[Any, ...] = ({}, {}, {}, None, NEVER)

    # What is remembered from run to run

    def save(self, now: Moment, every: bool) -> None:
        """What a store has: all that is known at a checkpoint, in between the peers to whom something happened."""
        peers, _, _, _, complete = self.on_disk
        touched = {(event["interface"], event["peer"]) for event in self.happened if "peer" in event}
        for identity in peers.keys() | self.peers.keys() if every else touched:
            peers.pop(identity, None)
            if identity in self.peers:
                record = self.peers[identity]
                record.heard_wall = now.wall - (now.boot - record.heard)
                peers[identity] = copy.deepcopy(record)
        if every and self.last is not None:
            complete = self.last.boot
        self.on_disk = (peers, dict(self.links), dict(self.read), self.last, complete)

    def restart(self, rebooted: Optional[Moment]) -> None:
        peers, links, read, self.last, complete = copy.deepcopy(self.on_disk)
        self.peers, self.links = peers, links
        if rebooted is not None:
            complete = NEVER
        self.read = {link: min(boot, complete) for link, boot in read.items()}
        self.first = True
        self.spanning = [record.session for record in self.peers.values() if record.session is not None]
        if rebooted is not None:
            for record in self.peers.values():
                # The last sign of life is placed by the wall clock, the others as far before it as they were.
                latest = max(record.handshake, record.heard_wall)
                zero = self.place(latest, rebooted) - latest
                record.made = zero + record.handshake if record.handshake else NEVER
                record.heard = zero + record.heard_wall
                if record.session is not None:
                    record.session.began = zero + record.session.start
            self.on_disk = (copy.deepcopy(self.peers), dict(links), read, self.last, complete)

    def take_gap(self, gap: float, watched: Moment) -> None:
        """Nobody watched the sessions that go on, or had a sign of life after the last reading before."""
        for session in self.spanning:
            if not session.figures or session.figures[0] > watched.wall:
                session.unwatched += gap

    # One reading

    def place(self, wall: float, now: Moment) -> float:
        return now.boot - max(0.0, now.wall - wall)

    def tell(self, kind: str, link: str, peer: str = "", **more: Any) -> None:
        event = {"event": kind, "interface": link}
        if peer:
            event["peer"] = peer
        event.update(more)
        self.happened.append(event)

    def end(self, record: Record, reason: str, now: Moment) -> Dict[str, Any]:
        session, record.session = record.session, None
        if session is None:
            return {}
        last = max(record.made, record.heard, session.began)
        if last == session.began:
            seen = session.start
        elif last == record.made:
            seen = float(record.shown)
        elif last < 0:  # before this boot, whose wall clock is another one
            seen = session.start + last - session.began
        else:
            seen = now.wall - (now.boot - record.heard)
        received, sent = record.rx - session.rx, record.tx - session.tx
        endpoints = " ".join(session.endpoints)
        session.figures = (seen, now.wall, last - session.began, received, sent, endpoints, reason)
        self.sessions.append(session)
        return {"reason": reason, "received_bytes": received, "sent_bytes": sent, "online": False}

    def take(self, sample: Sample, now: Moment) -> List[Happening]:
        self.happened = []
        wanted = self.settings.interface or set(LINKS)
        links = {link: members for link, members in sample.links.items() if link in wanted}
        hidden, spoiled, unclear = sample.hidden & wanted, sample.spoiled & wanted, sample.unclear
        # The name in a spoiled line is not believed without a good line, a peer or a setting of that name.
        doubtful = (hidden & spoiled) - {link for link, _ in self.peers} - self.settings.interface
        if doubtful:
            hidden, spoiled, unclear = hidden - doubtful, spoiled - doubtful, True
        for link, members in links.items():
            if not self.links.get(link, self.first):
                self.tell("IFUP", link, peers=len(members))
        for link, up in list(self.links.items()):
            if up and link not in links and link not in hidden and not unclear:
                self.go_down(link, now)
        for identity in list(self.peers):
            link, peer = identity
            if link in links and not unclear and link not in spoiled:
                if peer not in {key(name) for name in links[link]}:
                    figures = self.end(self.peers[identity], "removed", now)
                    del self.peers[identity]
                    self.tell("REMOVED", link, peer, **figures)
        for link, members in links.items():
            for p in members.values():
                self.look(link, p, now)
        for link in links:
            self.links[link] = True
            if not unclear and link not in spoiled:
                self.read[link] = now.boot
        if self.first:
            for link in hidden:
                self.links.setdefault(link, True)
        self.first, self.last = False, now
        return self.happened

    def go_down(self, link: str, now: Moment) -> None:
        self.links[link] = False
        mine = {identity: record for identity, record in self.peers.items() if identity[0] == link}
        online = sum(record.session is not None for record in mine.values())
        self.tell("IFDOWN", link, peers=len(mine), online_peers=online)
        for (_, peer), record in mine.items():
            if record.session is not None:
                self.tell("OFFLINE", link, peer, **self.end(record, "interface-down", now))

    def look(self, link: str, p: P, now: Moment) -> None:
        """One peer's line."""
        identity, handshake = (link, key(p.name)), int(START.wall + p.shook)
        new = identity not in self.peers
        record = self.peers.setdefault(identity, Record(p))
        old = copy.copy(record)
        if old.session is not None and not handshake:
            figures = self.end(record, "reset", now)  # with what was known before
            self.tell("OFFLINE", link, identity[1], **figures)
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
            if now.boot - began >= self.settings.threshold:  # it was the bytes
                began, start = sign, now.wall - (now.boot - sign)
            record.session = Session(identity, start, began, old.rx, old.tx, record.endpoint)
            self.tell("ONLINE", link, identity[1], new=new, endpoint=record.endpoint or None, online=True)
        elif new:
            self.tell("OFFLINE", link, identity[1], new=True, online=False)
        elif session is not None and not alive:
            reason = "unreachable" if record.sent_since else "idle"
            self.tell("OFFLINE", link, identity[1], new=False, **self.end(record, reason, now))
        elif session is not None and host(record.endpoint) != host(old.endpoint):
            if record.endpoint not in session.endpoints:
                session.endpoints.append(record.endpoint)
            if old.endpoint:
                self.tell("ROAMING", link, identity[1], endpoint=record.endpoint, **{"from": old.endpoint})
        if set(old.ips.split(",")) != set(record.ips.split(",")):
            self.tell("CHANGED", link, identity[1], allowed_ips=record.ips, **{"from": old.ips})


def host(endpoint: str) -> str:
    return endpoint[: endpoint.rfind(":")] if endpoint else ""


# --- The monitor under test ---------------------------------------------------------------------------------------


class Silent(wg_monitor.Console):
    def write(self, level: int, line: bytes, stamped: bool) -> None:
        pass


class Run:
    """One life of the monitor, with its real store and trail, in the test's hands instead of its loop's."""

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
    """The clocks, which cannot be set without those of everybody else on the machine."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(wg_monitor, "moment", lambda: world.now)
        patch.setattr(wg_monitor, "boot_id", lambda: "boot %d" % world.boots)


class History:
    """A world, the monitor that watches it, and the truth."""

    def __init__(self, seed: int, directory: str) -> None:
        self.chance = random.Random(seed)
        self.directory = directory
        self.world = World(self.chance)
        self.settings = chosen(
            log_format="json",
            threshold=self.chance.choice((60, 120, 180)),
            liveness=self.chance.choice(("handshake", "handshake", "traffic")),
        )
        if self.chance.random() < 0.2:
            self.settings = self.settings._replace(interface=frozenset(("wg0", "site-b")))
        self.truth = Truth(self.settings)
        # After a reboot only the wall clock tells how old things are: where it was set as well, there is no truth.
        self.reboots = self.chance.random() < 0.5
        self.watched: Optional[Moment] = None
        self.same_boot = True
        self.trail = self.told_of(Path(directory, "trail"))

    def told_of(self, trail: Path) -> Iterator[List[Happening]]:
        """The events that came to the trail since it was asked last."""
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
        now, numbered = self.world.now, run.monitor.outbox.seq
        if self.chance.random() < 0.04:
            run.monitor.no_reading("it is only a test")
            self.truth.happened = []
            every = False
        else:
            sample = self.world.sample(faults=True)
            every = not run.monitor.ready or self.chance.random() < 0.05
            run.monitor.checkpoint = 0.0 if every else math.inf
            expected = self.truth.take(sample, now)
            if self.watched is not None:
                gap = now.boot - self.watched.boot if self.same_boot else max(0.0, now.wall - self.watched.wall)
                self.truth.take_gap(gap, self.watched)
                self.watched = None
            give(run.monitor, sample.text, sample.complaints)
            told = next(self.trail)
            assert in_order(narrowed(told, expected)) == in_order(expected)
            for event in told:
                assert event["time"] == wg_monitor.rfc3339(now.wall)
        if every or run.monitor.outbox.seq > numbered:
            self.truth.save(now, every)
        online = {identity for identity, known in run.monitor.table.peers.items() if known.session is not None}
        assert online == {identity for identity, record in self.truth.peers.items() if record.session is not None}
        assert run.monitor.table.online == len(online)
        assert set(run.monitor.table.peers) == set(self.truth.peers)

    def restart(self, run: Run, politely: bool, reboot: bool) -> Run:
        run.end(politely)
        if politely:
            self.truth.happened = []
            if run.monitor.table.last is not None:
                self.truth.save(self.world.now, True)
        self.world.wait(0, 60)
        if reboot:
            self.world.reboot()
        run = Run(self.directory, self.settings)
        next(self.trail)
        self.truth.restart(self.world.now if reboot else None)
        self.watched, self.same_boot = self.truth.last, not reboot
        return run

    def compare_sessions(self) -> None:
        with sqlite3.connect(self.directory + "/state.db") as database:
            rows = database.execute(
                "SELECT interface, public_key, start, last_seen, detected, length, received, sent, endpoints, reason,"
                " unwatched FROM sessions WHERE reason IS NOT NULL ORDER BY detected, interface, public_key, start"
            ).fetchall()
            still = database.execute("SELECT interface, public_key FROM sessions WHERE reason IS NULL").fetchall()
        database.close()
        truth = [(*session.identity, session.start, *session.figures, session.unwatched) for session in self.truth.sessions]
        assert sorted(rows) == sorted(truth)
        open_ones = [identity for identity, record in self.truth.peers.items() if record.session is not None]
        assert sorted(still) == sorted(open_ones)


def narrowed(told: List[Happening], expected: List[Happening]) -> List[Happening]:
    """What is told, without the fields that the truth does not speak of."""
    spoken = {(e["event"], e["interface"], e.get("peer")): e.keys() for e in expected}
    narrow = []
    for event in told:
        event.setdefault("new", False)
        names = spoken.get((event["event"], event["interface"], event.get("peer")), event.keys())
        narrow.append({name: value for name, value in event.items() if name in names})
    return narrow


def in_order(events: List[Happening]) -> List[str]:
    return sorted(json.dumps(event, sort_keys=True) for event in events)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_the_trail_and_the_sessions_are_the_truth(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:  # where waiting for the disk takes no time
        history = History(seed, directory)
        Clock(history.world, monkeypatch)
        history.go()


def test_sessions_of_interfaces_that_are_not_watched_any_more_end_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
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
        told = [json.loads(line) for line in Path(directory, "trail").read_text().splitlines()]
        events = [(event["event"], event["interface"], event.get("new", False)) for event in told if "peer" in event]
        with sqlite3.connect(directory + "/state.db") as database:
            sessions = database.execute("SELECT interface, last_seen, received, reason FROM sessions ORDER BY number").fetchall()
        database.close()
    assert events == [("ONLINE", "wg0", True), ("ONLINE", "wg1", True), ("ONLINE", "wg1", False)]
    assert sessions == [
        ("wg0", None, None, None),
        ("wg1", START.wall + 40, 9, "unknown"),
        ("wg1", None, None, None),
    ]


# --- What holds without any rule ----------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_without_steps_of_the_clock_the_true_ages_decide(seed: int) -> None:
    chance = random.Random(seed)
    world, settings = World(chance), chosen(threshold=chance.choice((60, 120, 180)))
    table = EMPTY
    memo: Optional[Memo] = None
    for _ in range(READINGS):
        world.wait(20, 100)
        for _ in range(chance.choice((0, 1, 5))):
            world.live()
        sample, now = world.sample(faults=False), world.now
        reading, memo = read(sample.text, "", table, memo, now.boot, settings)
        table, _ = wg_monitor.decide(table, reading, now, settings)
        assert set(table.peers) >= {(link, key(name)) for link, members in world.links.items() for name in members}
        for identity, known in table.peers.items():
            age = now.boot - world.shook.get(identity, NEVER)
            if not settings.threshold - 1 < age < settings.threshold:  # `wg` prints whole seconds
                assert (known.session is not None) == (age < settings.threshold)


def plain(table: Table) -> Tuple[Any, ...]:
    """A table that can be compared: meters are compared by what they show."""
    peers = {
        identity: known._replace(meter=[getattr(known.meter, name) for name in known.meter.__slots__])  # type: ignore[arg-type]
        for identity, known in table.peers.items()
    }
    return (peers, *table[1:])


@pytest.mark.heavy
@pytest.mark.parametrize("liveness", ["handshake", "traffic"])
@pytest.mark.parametrize("seed", range(HISTORIES))
def test_what_is_skimmed_is_what_is_parsed_whole(seed: int, liveness: str) -> None:
    chance = random.Random(seed)
    world, settings = World(chance), chosen(liveness=liveness)
    if chance.random() < 0.2:
        settings = settings._replace(interface=frozenset(("wg0",)))
    table = EMPTY
    memo = Memo()
    skimmed = 0
    for _ in range(READINGS):
        world.wait(20, 100)
        if chance.random() < 0.05:
            world.blink()
        for _ in range(chance.choice((0, 1, 1, 5))):
            world.live()
        sample, now = world.sample(faults=chance.random() < 0.2), world.now
        output, whole = sample.text.encode(), copy.deepcopy(table)
        text = blocks(output, chance.choice((1, 300, 3000)))
        reading = wg_monitor.parse(text, sample.complaints, memo, table.peers, settings, now.boot)
        skimmed += reading.present is None
        table, events = wg_monitor.decide(table, reading, now, settings)
        reading = wg_monitor.parse([output] if output else [], sample.complaints, Memo(), whole.peers, settings, now.boot)
        whole, same_events = wg_monitor.decide(whole, reading, now, settings)
        assert plain(table) == plain(whole)
        assert sorted(map(wg_monitor.event_text, events)) == sorted(map(wg_monitor.event_text, same_events))
    assert skimmed
