"""A report is evidence: random histories go through the monitor's pipeline and store, and the commands are asked about them.

The truth is kept apart from the monitor: a world of peers, and what the documented rules say about each of its readings
(tests/pure/test_model.py compares the store with the same truth). What the commands must answer is counted here from it,
without the code of either module.
"""

import copy
import datetime
import io
import ipaddress
import json
import math
import random
import sqlite3
import tempfile
from contextlib import closing, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pytest

import wg_report
from scale import scaled
from test_model import Clock, Expected, Happening, History, Record, Run
from values import key, zone
from wg_monitor import Identity, Moment, Settings
from world import NAMES, Sample, World

HISTORIES = scaled(25)
READINGS = 100  # per history
ZONES = ("UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "<+1345>-13:45")
NETWORKS = (
    "10.0.0.1/32", "10.0.0.2/32", "10.0.0.0/24", "10.1.0.0/16", "10.1.7.0/24", "2001:db8:1::/64", "2001:db8:1::7/128",
)  # fmt: skip
ADDRESSES = ("10.0.0.1", "10.0.0.2", "10.0.0.9", "10.1.7.7", "10.1.8.8", "2001:db8:1::7", "2001:db8:1::8", "10.9.9.9")
HOSTS = ("192.0.2.1", "198.51.100.7", "2001:db8::7", "198.51.100.70", "192.0.2.10")

# --- The truth ----------------------------------------------------------------------------------------------------


class Fact(NamedTuple):
    """A session as it was, as far as the store can know it."""

    identity: Identity
    start: float
    until: float  # of an open one: the last reading
    ended: bool
    length: float
    received: int
    sent: int
    endpoints: str
    unwatched: float
    reason: Optional[str]
    name: Optional[str]  # when it began
    watched: float  # an open one that somebody watches goes on at least until now; otherwise -inf
    ips: Tuple[str, ...]  # the allowed IPs of the reading before it and of the one that saw it: it began between them

    def overlaps(self, since: float, until: float) -> bool:
        return (self.start < until or self.start == since) and self.reaches(since)

    def reaches(self, wall: float) -> bool:
        return max(self.start, self.until, self.watched) >= wall

    def in_brief(self, seconds: Callable[[float], int]) -> Tuple[Any, ...]:
        more = (self.received, self.sent, self.endpoints, self.reason, self.name, round(self.unwatched))
        return (*self.identity, seconds(self.start), seconds(self.until), round(self.length), *more)


class Tunnels(World):
    """On an interface, WireGuard routes a network to one peer: whoever gets it takes it from the others."""

    def live(self) -> None:
        before = copy.deepcopy(self.links)
        super().live()
        for link, members in self.links.items():
            for name, p in members.items():
                old = before.get(link, {}).get(name)
                if old is None or old.ips != p.ips:
                    wanted = self.chance.sample(NETWORKS, self.chance.choice((0, 1, 1, 2, 3)))
                    for other, q in members.items():
                        ips = [ip for ip in q.ips.split(",") if ip and ip not in wanted]
                        members[other] = q._replace(ips=",".join(wanted if other == name else ips))


class Named(Expected):
    """Peers have the names that a file says at the reading."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.names: Dict[str, str] = {}  # by key

    def take(self, sample: Sample, now: Moment) -> List[Happening]:
        happened = super().take(sample, now)
        for identity, record in self.peers.items():
            # A name that its file no longer has goes after the reading: what is removed with it is reported by name.
            name, former = self.names.get(identity[1], ""), getattr(record, "name", "")
            if record.session is not None and not hasattr(record.session, "name"):
                record.session.name = name or former  # type: ignore[attr-defined]
            record.name = name  # type: ignore[attr-defined]
        return happened


class Held(NamedTuple):
    """The allowed IPs that one reading showed."""

    wall: float
    ips: Dict[Identity, str]


class Chronicle(History):
    """A history, and what the commands must say about it."""

    def __init__(self, seed: int, directory: str, ask: Callable[["Chronicle"], None]) -> None:
        super().__init__(seed, directory)
        self.world = Tunnels(self.chance)
        self.settings = self.settings._replace(peer_names=(directory + "/names",))
        self.expected: Named = Named(self.settings)
        self.versions = 0
        self.rename()
        self.ask = ask
        self.whole: List[Tuple[int, Moment]] = []  # the readings, with the number of their run
        self.runs = 0
        # What each run knows as the last reading before it: after a crash and a reboot, the last save.
        self.known: Dict[int, Optional[Moment]] = {}
        self.held: List[Held] = []
        # Of each session: the allowed IPs around its beginning, and the time of the reading that saw it first.
        self.ips: Dict[Tuple[Identity, float], Tuple[str, ...]] = {}
        self.seen: Dict[Tuple[Identity, float], float] = {}
        self.steps = 0
        self.begun = self.world.now.wall
        self.running = True

    def rename(self) -> None:
        """Some peers have other names from now on, or none."""
        self.expected.names = {key(name): name + self.chance.choice(("-laptop", "-phone", "")) for name in NAMES[1:]}
        if self.chance.random() < 0.5:
            del self.expected.names[key(self.chance.choice(NAMES[1:]))]
        lines = ["%s %s\n" % pair for pair in self.expected.names.items()]
        self.versions += 1  # a file that was changed twice within a tick of the clock has another size
        Path(self.directory, "names").write_text("".join([*lines, "# "]).ljust(300 + self.versions, "x") + "\n")

    def read(self, run: Run) -> None:
        if self.chance.random() < 0.05:
            self.rename()
        last, before = self.expected.last, {identity: record.ips for identity, record in self.expected.peers.items()}
        super().read(run)
        if self.expected.last is not last:
            self.whole.append((self.runs, self.world.now))
            self.held.append(Held(self.world.now.wall, {i: record.ips for i, record in self.expected.peers.items()}))
            for identity, record in self.expected.peers.items():
                if record.session is not None:
                    around = (before.get(identity, record.ips), record.ips)
                    self.ips.setdefault((identity, record.session.start), around)
                    self.seen.setdefault((identity, record.session.start), self.world.now.wall)
        if self.chance.random() < 0.03:
            self.ask(self)

    def restart(self, run: Run, politely: bool, reboot: bool) -> Run:
        follow = super().restart

        def ended(politely_: bool) -> None:
            end(politely_)
            if politely and self.expected.last is not None:
                self.expected.happened = []
                self.expected.save(self.world.now, True)
            self.running = False
            self.ask(self)
            self.running = True

        end, run.end = run.end, ended  # type: ignore[method-assign, assignment]
        self.runs += 1
        run = follow(run, politely, reboot)
        self.known[self.runs] = self.expected.last
        return run

    def compare_sessions(self) -> None:
        self.expected.happened = []
        self.expected.save(self.world.now, True)
        self.running = False
        self.ask(self)

    # What it amounts to

    @property
    def last(self) -> Moment:
        """The last reading."""
        assert self.expected.last is not None
        return self.expected.last

    @property
    def late(self) -> bool:
        """Whether nobody watches, as far as a reader can see: it knows only the wall clock."""
        return self.world.now.wall - self.last.wall > 2 * self.settings.interval + 1

    @property
    def saved(self) -> Dict[Identity, Record]:
        """The peers, as the store has them: counters are as old as the last save."""
        found: Dict[Identity, Record] = self.expected.on_disk[0]
        return found

    @property
    def unread(self) -> Dict[str, float]:
        """Since when an interface cannot be read, as far as the store shows."""
        _, links, _, saved, _, walls = self.expected.on_disk
        limit = -math.inf if saved is None else saved.wall - 2 * self.settings.interval - 1
        return {link: walls[link] for link, up in links.items() if up and walls[link] < limit}

    def facts(self) -> List[Fact]:
        """All sessions, those of a peer in their order."""
        found = []
        unread, now = self.unread, self.world.now.wall if self.running and not self.late else -math.inf
        for s in self.expected.sessions:
            seen, _, length, received, sent, endpoints, reason = s.figures
            ips = self.ips[s.identity, s.start]
            found.append(
                Fact(
                    s.identity, s.start, seen, True, length, received, sent, endpoints, s.unwatched, reason,
                    getattr(s, "name", None) or None, -math.inf, ips,
                )  # fmt: skip
            )
        for identity, record in self.saved.items():
            session = record.session
            if session is not None:
                until = unread.get(identity[0], self.last.wall)
                watched = now if until == self.last.wall else -math.inf
                length = max(0.0, self.last.boot - session.began - (self.last.wall - until))
                numbers = (length, record.rx - session.rx, record.tx - session.tx)
                ips = self.ips[identity, session.start]
                name = getattr(session, "name", None) or None
                reason = None if watched > -math.inf else "unknown"
                rest = (session.unwatched, reason, name, watched, self.ips[identity, session.start])
                ends = " ".join(session.endpoints)
                found.append(Fact._make((identity, session.start, until, False, *numbers, ends, *rest)))
        return found

    def holders(self, address: str) -> List[Dict[str, Set[Identity]]]:
        """For each reading: on each interface, the peer with the longest prefix that contains the address. There may be
        two, as far as anybody can see, if the line of the one that lost it is invalid."""
        found = []
        for held in self.held:
            longest: Dict[str, int] = {}
            holders: Dict[str, Set[Identity]] = {}
            for identity, ips in held.ips.items():
                prefix, link = longest_prefix(address, ips), identity[0]
                if prefix > longest.get(link, -1):
                    longest[link], holders[link] = prefix, set()
                if prefix >= 0 and prefix == longest[link]:
                    holders[link].add(identity)
            found.append(holders)
        return found

    def gaps(self) -> List[Tuple[float, float]]:
        """When no interface was watched: between two runs, and between two readings that are too far apart."""
        found: List[Tuple[float, float]] = []
        for (run, before), (following, after) in zip(self.whole, self.whole[1:]):
            if run != following or after.boot - before.boot > 2 * self.settings.interval + 1:
                known = self.known.get(following) if run != following else before
                found.append(((known or before).wall, after.wall))
        return joined(found)


@lru_cache(maxsize=None)
def longest_prefix(address: str, ips: str) -> int:
    wanted = ipaddress.ip_address(address)
    networks = [ipaddress.ip_network(ip) for ip in ips.split(",") if ip]
    return max([n.prefixlen for n in networks if n.version == wanted.version and wanted in n], default=-1)


def joined(stretches: Sequence[Tuple[float, float]]) -> List[Tuple[float, float]]:
    found: List[Tuple[float, float]] = []
    for start, stop in sorted(stretches):
        if found and found[-1][1] >= start:
            start, end = found.pop()
            stop = max(stop, end)
        found.append((start, stop))
    return found


# --- The commands -------------------------------------------------------------------------------------------------


def command(chronicle: Chronicle, *words: str) -> Tuple[Any, int]:
    """What a command prints as JSON, and its exit code."""
    output, errors = io.StringIO(), io.StringIO()
    form = ("--json",) if words[0] == "status" else ("--format", "json")
    with redirect_stdout(output), redirect_stderr(errors):
        code = wg_report.main([words[0], "--store", chronicle.directory + "/state.db", *words[1:], *form])
    return json.loads(output.getvalue()), code


def seconds(text: Optional[str]) -> Optional[int]:
    return None if text is None else int(datetime.datetime.fromisoformat(text).timestamp())


def told(row: Dict[str, Any]) -> Tuple[Any, ...]:
    """A session as the command told it, in the form of Fact.in_brief."""
    bytes_ = (row["received_bytes"], row["sent_bytes"])
    brief = (row["interface"], row["peer"], seconds(row["session_start"]), seconds(row["last_seen"]), row["length_s"])
    return (*brief, *bytes_, " ".join(row["endpoints"]), row["reason"], row["name"], row["unwatched_s"])


def expect(chronicle: Chronicle, facts: Sequence[Fact], *words: str) -> List[Dict[str, Any]]:
    """Asks for sessions that must be these."""
    rows, code = command(chronicle, "sessions", *words)
    assert code == 0
    assert sorted(map(told, rows), key=repr) == sorted((fact.in_brief(math.floor) for fact in facts), key=repr)
    starts = [seconds(row["session_start"]) or 0 for row in rows]
    assert starts == sorted(starts)  # the newest last
    for row in rows:
        assert row["endpoint"] == (row["endpoints"][-1] if row["endpoints"] else None)
        assert row.get("online", False) == (row["reason"] is None)
    return list(rows)


def moments(chronicle: Chronicle, facts: Sequence[Fact]) -> Iterator[float]:
    """Moments at which answers change, and others."""
    chance = random.Random(len(facts))
    edges = sorted({wall for fact in facts for wall in (fact.start, fact.until)} | {chronicle.last.wall})
    for _ in range(6):
        edge = chance.choice(edges)
        yield max(0.0, edge + chance.choice((0.0, 0.0, -0.125, 0.125, -40.0, 40.0, chance.randrange(-4000, 4000) / 8)))


def ask_sessions(chronicle: Chronicle) -> None:
    if not chronicle.whole:
        return
    facts = chronicle.facts()
    chance = random.Random(len(facts))
    rows = expect(chronicle, facts)
    numbers = [row["session"] for row in rows]
    assert len(set(numbers)) == len(numbers)
    beginnings = {(f.identity, math.floor(f.start)): f.ips for f in facts}
    if not chronicle.steps:
        for row in rows:
            ips = beginnings[(row["interface"], row["peer"]), seconds(row["session_start"]) or 0]
            assert row["allowed_ips"] in ips
    asked = list(moments(chronicle, facts))
    for since, until in zip(asked[::2], asked[1::2]):
        since, until = sorted((since, until))
        chosen = [fact for fact in facts if fact.overlaps(since, until)]
        expect(chronicle, chosen, "--since", "@%r" % since, "--until", "@%r" % until)
        expect(chronicle, [fact for fact in facts if fact.reaches(until)], "--since", "@%r" % until)
        expect(chronicle, [fact for fact in facts if fact.start < since], "--until", "@%r" % since)
    for moment in asked:
        present = [fact for fact in facts if fact.overlaps(moment, moment)]
        expect(chronicle, present, "--present", "@%r" % moment)
        assert len({fact.identity for fact in present}) == len(present) or chronicle.steps
    if facts:
        some = chance.choice(facts)
        peer = some.identity[1]
        expect(chronicle, [f for f in facts if f.identity[1] == peer], "--peer", peer)
        expect(chronicle, [f for f in facts if f.identity[0] == some.identity[0]], "--interface", some.identity[0])
        expect(chronicle, [f for f in facts if f.length >= some.length // 1], "--min-length", "%ds" % some.length)
        if some.name:  # the sessions that had the name, and others of the peers that have or had it
            rows, _ = command(chronicle, "sessions", "--peer", some.name)
            found, namesakes = {told(row) for row in rows}, {f.identity[1] for f in facts if f.name == some.name}
            namesakes |= {i[1] for i, record in chronicle.saved.items() if getattr(record, "name", "") == some.name}
            assert found >= {f.in_brief(math.floor) for f in facts if f.name == some.name}
            assert found <= {f.in_brief(math.floor) for f in facts if f.identity[1] in namesakes}
        if some.reason:
            expect(chronicle, [f for f in facts if f.reason == some.reason], "--reason", some.reason)
    newest = sorted((fact.start for fact in facts), reverse=True)[:5]
    last, _ = command(chronicle, "sessions", "--last", "5")
    assert [seconds(row["session_start"]) for row in last] == [math.floor(start) for start in reversed(newest)] or chronicle.steps


def ask_addresses(chronicle: Chronicle) -> None:
    """The exact time at which an address moved lies between two readings: what either says may be told."""
    if not chronicle.whole or chronicle.steps:
        return
    facts = chronicle.facts()
    for host in HOSTS:
        ends = [fact for fact in facts if host in [strip(end) for end in fact.endpoints.split()]]
        rows, _ = command(chronicle, "sessions", "--ip", host)
        assert sorted(map(told, rows), key=repr) == sorted((fact.in_brief(math.floor) for fact in ends), key=repr)
    walls = [-math.inf, *(held.wall for held in chronicle.held), math.inf]
    for address in ADDRESSES:
        certain, possible = set(), set()
        for n, holders in enumerate(chronicle.holders(address), 1):
            for fact in facts:
                mine = holders.get(fact.identity[0], set())
                if fact.identity in mine:
                    if fact.start <= walls[n] <= fact.until and len(mine) == 1:
                        certain.add(fact.in_brief(math.floor))
                    seen = chronicle.seen[fact.identity, fact.start]
                    if fact.start <= walls[n + 1] and max(fact.until, seen) >= walls[n - 1]:
                        possible.add(fact.in_brief(math.floor))
        rows, _ = command(chronicle, "sessions", "--ip", address)
        found = set(map(told, rows))
        assert certain <= found <= possible, address


def strip(endpoint: str) -> str:
    return endpoint.rpartition(":")[0].strip("[]")


def ask_status(chronicle: Chronicle) -> None:
    if not chronicle.whole:
        return
    rows, code = command(chronicle, "status")
    assert code == 0
    expected = {}
    seen, unread = chronicle.running and not chronicle.late, chronicle.unread
    for identity, record in chronicle.saved.items():
        session = record.session
        gone = record.ended.wall if record.ended.boot >= record.made else record.shown
        since = session.start if session else gone or None
        numbers = (record.rx - session.rx, record.tx - session.tx) if session else (None, None)
        expected[identity] = (
            session is not None if seen and identity[0] not in unread else None, getattr(record, "name", "") or None,
            None if since is None or not record.shown else math.floor(since), record.endpoint or None, record.ips,
            record.shown or None, *numbers,
        )  # fmt: skip
    found = {
        (row["interface"], row["peer"]): (
            row["online"], row["name"], seconds(row["since"]), row["endpoint"], row["allowed_ips"], seconds(row["handshake"]),
            row["received_bytes"], row["sent_bytes"],
        )
        for row in rows
    }  # fmt: skip
    assert found == expected
    assert {seconds(row["last_reading"]) for row in rows} <= {math.floor(chronicle.last.wall)}
    for (_, peer), _ in sorted(expected.items()):
        others = [state for (_, other), (state, *_) in expected.items() if other == peer]
        code = 3 if False in others else 1 if None in others else 0
        assert command(chronicle, "status", "--peer", peer)[1] == code


# --- Sums ---------------------------------------------------------------------------------------------------------


def part(fact: Fact, since: float, until: float) -> float:
    """How much of a session lies in a period, counted as spread evenly over it."""
    if fact.until <= fact.start:
        return float(since <= fact.start < until)
    return max(0.0, min(fact.until, until) - max(fact.start, since)) / (fact.until - fact.start)


def ask_summary(chronicle: Chronicle) -> None:
    facts = chronicle.facts() if chronicle.whole else []
    if not facts:
        return
    asked = sorted(moments(chronicle, facts))
    check_summary(chronicle, facts, -math.inf, math.inf)
    check_summary(chronicle, facts, asked[0], asked[-1])
    if not chronicle.steps:
        check_share(chronicle, facts)


def check_summary(chronicle: Chronicle, facts: Sequence[Fact], since: float, until: float) -> None:
    words = ["--since", "@%r" % since] if since > 0 else []
    words += ["--until", "@%r" % until] if until < math.inf else []
    rows, _ = command(chronicle, "sessions", "--summary", *words)
    chosen = [fact for fact in facts if fact.overlaps(since, until)]
    *peers, every = rows
    found = {(row["interface"], row["peer"]): row for row in peers}
    assert found.keys() == {fact.identity for fact in chosen} and len(found) == len(peers)
    for identity, row in [*found.items(), (None, every)]:
        mine = [fact for fact in chosen if identity in (None, fact.identity)]
        lengths = sorted(fact.length for fact in mine)
        middle = lengths[(len(lengths) - 1) // 2 : len(lengths) // 2 + 1]
        hosts = {strip(endpoint) for fact in mine for endpoint in fact.endpoints.split()}
        assert row["sessions"] == len(mine)
        assert row["online_s"] == pytest.approx(sum(part(f, since, until) * f.length for f in mine), abs=0.01)
        assert row["longest_s"] == pytest.approx(max(lengths, default=0))
        assert row["median_s"] == pytest.approx(sum(middle) / len(middle) if middle else 0, abs=0.001)
        assert row["received_bytes"] == (sum(fact.received for fact in mine) if mine else None)
        assert row["sent_bytes"] == (sum(fact.sent for fact in mine) if mine else None)
        assert row["beyond"] == any(part(fact, since, until) < 1 for fact in mine)
        assert row["addresses"] == len(hosts)
        if not chronicle.steps and identity is not None:
            in_order = sorted(mine, key=lambda fact: fact.start)
            breaks = sum(fact.reason == "unreachable" for fact in in_order[:-1])
            assert row["interruptions"] == breaks
            hours = row["online_s"] / 3600
            assert row["interruptions_per_hour"] == (pytest.approx(breaks / hours, rel=0.01) if hours * 3600 >= 1 else None)


def check_share(chronicle: Chronicle, facts: Sequence[Fact]) -> None:
    with closing(sqlite3.connect("file:%s/state.db?mode=ro" % chronicle.directory, uri=True)) as database:
        gaps = database.execute("SELECT interface, start, stop FROM unwatched").fetchall()
        begun = min(filter(None, database.execute("SELECT min(wall), (SELECT min(start) FROM runs) FROM events").fetchone()))
    if not chronicle.running:  # a gap is saved with the next event or checkpoint
        assert joined([(start, stop) for link, start, stop in gaps if link is None]) == chronicle.gaps()
    # A crash before the first reading leaves nothing of a run.
    assert chronicle.begun <= begun <= chronicle.whole[0][1].wall or chronicle.steps
    first = min(begun, chronicle.last.wall)
    rows, _ = command(chronicle, "sessions", "--summary")
    for row in rows[:-1]:
        mine = [fact for fact in facts if fact.identity == (row["interface"], row["peer"])]
        unread = [(since, chronicle.last.wall) for link, since in chronicle.unread.items() if link == row["interface"]]
        dark = joined([*unread, *((start, stop) for link, start, stop in gaps if link in (None, row["interface"]))])
        lost = sum(common(dark, first, chronicle.last.wall))
        unwatched = sum(min(fact.unwatched, sum(common(dark, fact.start, fact.until))) for fact in mine)
        total = chronicle.last.wall - first - lost
        assert row["unwatched_s"] == pytest.approx(unwatched, abs=0.01)
        share = min(1.0, max(0.0, sum(fact.length for fact in mine) - unwatched) / total) if total else None
        assert row["share"] == (pytest.approx(share, abs=0.001) if share is not None else None)


def common(stretches: Sequence[Tuple[float, float]], since: float, until: float) -> Iterator[float]:
    return (max(0.0, min(stop, until) - max(start, since)) for start, stop in stretches)


def ask_usage(chronicle: Chronicle) -> None:
    facts = chronicle.facts() if chronicle.whole else []
    if not facts:
        return
    first, last = min(fact.start for fact in facts), max(fact.until for fact in facts)
    unit = "day" if last - first < 40 * 86_400 else "month"
    rows, _ = command(chronicle, "sessions", "--by", unit)
    assert sum(row["received_bytes"] or 0 for row in rows) == sum(fact.received for fact in facts)
    assert sum(row["sent_bytes"] or 0 for row in rows) == sum(fact.sent for fact in facts)
    assert sum(row["online_s"] for row in rows) == pytest.approx(sum(fact.length for fact in facts), abs=0.01 * len(rows))
    for n, row in enumerate(rows):
        begin, end = datetime.datetime.fromisoformat(row["start"]), datetime.datetime.fromisoformat(row["stop"])
        assert row["unit"] == begin.isoformat()[: 10 if unit == "day" else 7]
        if n:
            assert begin.isoformat()[11:19] == "00:00:00" and rows[n - 1]["stop"] == row["start"]
        since = -math.inf if n == 0 else begin.timestamp()
        until = math.inf if n == len(rows) - 1 else end.timestamp()
        mine = [f for f in facts if f.start < until and (f.until > since or f.start >= since)]
        mine = [f for f in mine if part(f, since, until) or f.until > f.start or f.start >= since]
        assert (row["sessions"], row["peers"]) == (len(mine), len({fact.identity for fact in mine}))
        assert row["online_s"] == pytest.approx(sum(part(f, since, until) * f.length for f in mine), abs=0.01)
        assert row["estimated"] == any(part(fact, since, until) < 1 for fact in mine)
        share = sum(part(f, since, until) * f.received for f in mine)
        assert row["received_bytes"] is None or abs(row["received_bytes"] - share) <= len(mine)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(HISTORIES))
@pytest.mark.parametrize("question", [ask_sessions, ask_addresses, ask_status, ask_summary, ask_usage])
def test_what_the_commands_say_is_what_happened(
    question: Callable[[Chronicle], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, zone(ZONES[seed % len(ZONES)]):
        chronicle = Chronicle(seed, directory, question)
        step = chronicle.world.step

        def stepped() -> None:
            chronicle.steps += 1
            step()

        chronicle.world.step = stepped  # type: ignore[method-assign]
        Clock(chronicle.world, monkeypatch)
        chronicle.go()
