"""A small world of interfaces and peers that live at random, with its clocks, and what `wg` prints about it."""

import math
import random
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple

from values import START, P, interface_line, key, peer_line, unreadable
from wg_monitor import Identity, Moment

LINKS = ("wg0", "wg1", "site-b")
NAMES = ("alice", "bob", "carol", "dave", "eve")
ENDPOINTS = ("192.0.2.1:51820", "192.0.2.1:9999", "198.51.100.7:1", "[2001:db8::7]:51820", "")
IPS = ("10.0.0.1/32", "10.0.0.2/32,10.1.0.0/24", "10.1.0.0/24,10.0.0.2/32", "")


class Sample(NamedTuple):
    """What `wg` shows at a reading."""

    links: Dict[str, Dict[str, P]]  # the printed ones, with the peers whose lines are valid
    hidden: Set[str]  # unreadable, or with an invalid line of their own
    invalid: Set[str]  # printed, with an invalid line
    unclear: bool  # a line or a complaint has an unclear interface
    text: str
    complaints: str


class World:
    """Interfaces and peers that change at random, and clocks."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.boot, self.offset = START.boot, START.wall - START.boot
        self.boots = 0
        self.links: Dict[str, Dict[str, P]] = {}
        self.blind: Set[str] = set()
        self.shook: Dict[Identity, float] = {}  # boot time of the last handshake, if there was one
        for _ in range(12):
            self.live()

    @property
    def now(self) -> Moment:
        return Moment(self.boot + self.offset, self.boot)

    def wait(self, least: float, most: float) -> None:
        """Waits for a number of eighths of a second, which floating point numbers add exactly."""
        self.boot += self.chance.randrange(int(least * 8), int(most * 8) + 1) / 8

    def live(self) -> None:
        """Makes one random change."""
        deeds = (
            [self.shake] * 8 + [self.receive] * 6 + [self.send] * 4 + [self.roam] * 2
            + [self.allow, self.add, self.add, self.remove, self.move, self.up, self.up, self.down, self.renew]
        )
        self.chance.choice(deeds)()

    def some_peer(self) -> Optional[Tuple[str, P]]:
        peers = [(link, p) for link, members in self.links.items() for p in members.values()]
        return self.chance.choice(peers) if peers else None

    def change(self, **changes: Any) -> None:
        """Changes these fields of a random peer. Counters grow by the given number."""
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
        """Creates an interface anew: its peers keep their configuration only."""
        if self.links:
            self.made_anew(self.chance.choice(sorted(self.links)))

    def made_anew(self, link: str) -> None:
        for name, p in self.links[link].items():
            self.links[link][name] = P(name, endpoint=self.chance.choice((p.endpoint, "")), ips=p.ips)
            self.shook.pop((link, key(name)), None)

    def blink(self) -> None:
        """Chooses the interfaces that are unreadable from now on."""
        self.blind = {link for link in LINKS if self.chance.random() < 0.15}

    def step(self) -> None:
        """Sets the wall clock."""
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
        hidden, invalid = self.blind & self.links.keys(), set()
        lines: List[str] = []
        complaints = unreadable(*sorted(hidden))
        for link in self.chance.sample(sorted(self.links), len(self.links)):
            if link in hidden:
                continue
            members = dict(self.links[link])
            if faults and self.chance.random() < 0.04:
                hidden.add(link)
                invalid.add(link)
                lines += [link + "\tinvalid\n"] + [peer_line(link, p) for p in members.values()]
                continue
            lines.append(interface_line(link))
            for p in list(members.values()):
                if faults and self.chance.random() < 0.03:
                    invalid.add(link)
                    lines.append(self.spoil(peer_line(link, p)))
                    del members[p.name]
                else:
                    lines.append(peer_line(link, p))
            links[link] = members
        unclear = faults and self.chance.random() < 0.03
        if unclear and self.chance.random() < 0.5:
            complaints += unreadable("w g 0")
        elif unclear:
            lines.insert(self.chance.randrange(len(lines) + 1), "invalid\n")
        return Sample(links, hidden, invalid, unclear, "".join(lines), complaints)

    def spoil(self, line: str) -> str:
        link, public, rest = line.split("\t", 2)
        return self.chance.choice((link + "\t" + public + "\n", "\t".join((link, public[1:], rest)), line[:-1] + "\t\n"))
