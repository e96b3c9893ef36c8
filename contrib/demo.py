#!/usr/bin/env python3
"""A tour in seconds: a small company's fortnight, as wg_monitor records it. No WireGuard, no root, no installation.

    python3 contrib/demo.py [--seed NUMBER] [DIRECTORY]

The company is made up. What `wg show all dump` would print about it goes, minute by minute on a simulated clock,
through the daemon's own parsing, decisions, renderings, store and trail. Then the commands of wg_monitor answer from
that store.
The same seed always gives the same fortnight.
"""

import argparse
import base64
import contextlib
import hashlib
import os
import random
import shlex
import signal
import sys
import tempfile
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

import wg_monitor
import wg_report

ZONE = "CET-1CEST,M3.5.0,M10.5.0/3"  # in POSIX form, which needs no data of the system
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
BEGIN = 1_794_265_200.0  # Tuesday, 10 November 2026, 00:00 in that zone
END = BEGIN + 13 * DAY + 14 * HOUR + 52 * MINUTE
INTERVAL = 60
REKEY = 120.0  # WireGuard renews a handshake in use after this long

KILLED, RESTARTED = BEGIN + 5 * DAY + 22 * HOUR, BEGIN + 6 * DAY + 5 * HOUR + 40 * MINUTE
DOWN = (BEGIN + 9 * DAY + 7 * HOUR, BEGIN + 9 * DAY + 7 * HOUR + 4 * MINUTE)  # wg-quick down and up, for an update
REMOVED = BEGIN + 10 * DAY + 16 * HOUR + 5 * MINUTE  # the contractor
STRANGE = BEGIN + 12 * DAY + 3 * HOUR + 12 * MINUTE  # from an address never seen before

HOMES = {
    "alice": "203.0.113.7", "bob": "203.0.113.24", "carol": "203.0.113.61", "dave": "203.0.113.88",
    "erin": "203.0.113.102", "frank": "198.51.100.23", "grace": "203.0.113.140", "heidi": "[2001:db8:77::8]",
    "ivan": "203.0.113.201", "site": "198.51.100.200", "backup": "203.0.113.5",
}  # fmt: skip
MOBILE = ("192.0.2.14", "192.0.2.77", "192.0.2.130", "[2001:db8:a::1f]")
PEERS = (
    "alice-laptop", "alice-phone", "bob-laptop", "carol-home", "dave-phone", "erin-laptop", "frank-contractor",
    "grace-laptop", "heidi-phone", "ivan-laptop", "site-hamburg", "backup-nas",
)  # fmt: skip


# Time during which a peer is there.
class Stint(NamedTuple):
    begin: float
    end: float
    endpoints: Sequence[Tuple[float, str]]  # from when on, and from where
    received: float  # bytes a second that the peer sends
    sent: float
    vanishes: bool = False  # it falls silent while it is still being sent to


# --- The company --------------------------------------------------------------------------------------------------


class Chance:
    """Random numbers that are the same on every Python: only random() is promised to be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def between(self, least: float, most: float) -> float:
        return least + (most - least) * self.random()

    def happens(self, probability: float) -> bool:
        return self.random() < probability

    def one_of(self, things: Sequence[str]) -> str:
        return things[int(self.random() * len(things))]


def laptop(owner: str, chance: Chance, days: Sequence[int]) -> Iterator[Stint]:
    """Two to four stints on a working day, now and then with a walk to a café."""
    for day in days:
        at = BEGIN + day * DAY + chance.between(8.0, 9.3) * HOUR
        for _ in range(int(chance.between(2, 4.99))):
            end = at + chance.between(0.6, 2.8) * HOUR
            endpoints = [(at, "%s:%d" % (HOMES[owner], chance.between(32768, 61000)))]
            if chance.happens(0.2):
                walk = at + (end - at) * chance.between(0.3, 0.7)
                endpoints.append((walk, "%s:%d" % (chance.one_of(MOBILE), chance.between(1024, 65000))))
            yield Stint(at, end, endpoints, chance.between(3e3, 3e4), chance.between(1e4, 2e5), chance.happens(0.15))
            at = end + chance.between(0.2, 1.1) * HOUR
            if at > BEGIN + day * DAY + 18.5 * HOUR:
                break


def phone(owner: str, chance: Chance) -> Iterator[Stint]:
    """Many short stints on every day, at home and on the way, which often end without a good-bye."""
    at = BEGIN + chance.between(6, 8) * HOUR
    while at < END:
        hour = (at - BEGIN) % DAY / HOUR
        if 6 <= hour < 23:
            end = at + chance.between(4, 95) * MINUTE
            address = HOMES[owner] if chance.happens(0.5) else chance.one_of(MOBILE)
            endpoints = [(at, "%s:%d" % (address, chance.between(1024, 65000)))]
            if chance.happens(0.25):
                endpoints.append(
                    (at + (end - at) / 2, "%s:%d" % (chance.one_of(MOBILE), chance.between(1024, 65000)))
                )
            yield Stint(at, end, endpoints, chance.between(5e2, 5e3), chance.between(2e3, 3e4), chance.happens(0.4))
            at = end
        at += chance.between(60, 420) * MINUTE


def always(address: str, received: float, sent: float, *breaks: Tuple[float, float]) -> Iterator[Stint]:
    at = BEGIN - 3 * HOUR
    for begin, end in (*breaks, (END + DAY, 0.0)):
        yield Stint(at, begin, [(at, address)], received, sent, True)
        at = end


def fortnight(seed: int) -> Dict[str, List[Stint]]:
    chance = Chance(seed)
    workdays = [0, 1, 2, 3, 6, 7, 8, 9, 10, 13]
    stints: Dict[str, List[Stint]] = {}
    for name in PEERS:
        owner, _, kind = name.partition("-")
        if kind == "laptop":
            stints[name] = [*laptop(owner, chance, workdays)]
        elif kind == "phone":
            stints[name] = [*phone(owner, chance)]
        elif kind == "contractor":
            stints[name] = [
                Stint(
                    BEGIN + day * DAY + chance.between(9, 9.8) * HOUR,
                    BEGIN + day * DAY + chance.between(16.3, 17.6) * HOUR,
                    [(BEGIN, "%s:51820" % HOMES[owner])],
                    chance.between(2e4, 6e4),
                    chance.between(5e3, 2e4),
                )
                for day in (0, 1, 2, 6, 7, 8, 9, 10)
            ]
    night = BEGIN + 4 * DAY + 3.2 * HOUR  # carol's router restarts
    stints["carol-home"] = [*always(HOMES["carol"] + ":51820", 1.1e4, 1.2e5, (night, night + 21 * MINUTE))]
    stints["site-hamburg"] = [*always(HOMES["site"] + ":51820", 6.2e4, 1.9e4)]
    stints["backup-nas"] = [
        Stint(
            BEGIN + day * DAY + 1 * HOUR,
            BEGIN + day * DAY + chance.between(2.6, 3.4) * HOUR,
            [(BEGIN, "%s:40404" % HOMES["backup"])],
            chance.between(8e5, 2e6),
            1e4,
        )
        for day in range(14)
    ]
    strange = Stint(STRANGE, STRANGE + 41 * MINUTE, [(STRANGE, "192.0.2.222:55555")], 4e3, 9e4)
    stints["ivan-laptop"] = sorted([*stints["ivan-laptop"], strange])
    # Somebody is there at the end.
    now = [(END - 2.25 * HOUR, "%s:49152" % HOMES["alice"])]
    stints["alice-laptop"] = [s for s in stints["alice-laptop"] if s.end < now[0][0]] + [
        Stint(now[0][0], END + DAY, now, 2.1e4, 1.6e5)
    ]
    return stints


def key(name: str) -> str:
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode()


# What `wg` shows of a peer.
class Link:
    def __init__(self, name: str, number: int, stints: Sequence[Stint]) -> None:
        self.stints = list(stints)
        self.head = "wg0\t%s\t(none)\t" % key(name)
        self.ips = "\t10.8.0.%d/32%s\t" % (number + 2, ",10.20.0.0/16" if name.startswith("site") else "")
        self.endpoint, self.handshake, self.rx, self.tx = "(none)", 0.0, 0.0, 0.0

    def forget(self) -> None:
        # The interface is created anew.
        self.endpoint, self.handshake, self.rx, self.tx = "(none)", 0.0, 0.0, 0.0

    def pass_time(self, before: float, now: float) -> None:
        while self.stints and self.stints[0].end + 5 * MINUTE < now:
            self.stints.pop(0)
        stint = self.stints[0] if self.stints else None
        if stint is None or now < stint.begin:
            return
        passed = now - max(before, stint.begin)
        if now < stint.end:
            self.handshake = stint.begin + (now - stint.begin) // REKEY * REKEY
            self.endpoint = [endpoint for since, endpoint in stint.endpoints if since <= now][-1]
            self.rx += stint.received * passed + 148
            self.tx += stint.sent * passed + 92
        elif stint.vanishes:
            self.tx += 148 * passed

    def line(self) -> str:
        numbers = (self.head, self.endpoint, self.ips, self.handshake, self.rx, self.tx)
        return "%s%s%s%d\t%d\t%d\t25\n" % numbers


# --- The daemon, on a simulated clock -----------------------------------------------------------------------------


class Quiet:
    """A console that shows nothing."""

    dropped = 0

    def begin(self) -> None:
        pass

    def write(self, *_: object) -> None:
        pass


class Clock:
    wall = BEGIN

    @classmethod
    def moment(cls) -> wg_monitor.Moment:
        return wg_monitor.Moment(cls.wall, cls.wall - BEGIN + 3 * DAY)


class Company:
    """The gateway of the company, and the daemon that watches it."""

    def __init__(self, directory: str, seed: int) -> None:
        self.directory = directory
        stints = fortnight(seed)
        self.links = {name: Link(name, number, stints[name]) for number, name in enumerate(PEERS)}
        self.store, self.trail = directory + "/state.db", directory + "/wg_monitor.log"
        self.configuration = directory + "/wg0.conf"
        self.configure()
        flags = {"interval": str(INTERVAL), "state_path": self.store, "peer_names": self.configuration}
        self.settings = wg_monitor.parse_settings(flags, {})
        self.monitor = self.started()

    def configure(self) -> None:
        with open(self.configuration, "w", encoding="utf-8") as file:
            file.write("[Interface]\nListenPort = 51820\n")
            for name in self.links:
                file.write("\n[Peer]\n# Name = %s\nPublicKey = %s\n" % (name, key(name)))

    def started(self) -> wg_monitor.Monitor:
        store, trail = wg_monitor.Store(self.store), wg_monitor.Trail(self.trail)
        trail.open()
        manager = wg_monitor.Notifier(os.environ)
        quiet: Any = Quiet()
        monitor = wg_monitor.Monitor(self.settings, "/usr/bin/wg", quiet, trail, store, manager)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the monitor's own loop does not run here
        monitor.open()
        monitor.reading_at = Clock.moment()
        monitor.note("START", wg_monitor.started_text(self.settings))
        return monitor

    def killed(self) -> None:
        # It has no time to say good-bye.
        for sink in (self.monitor.store, self.monitor.trail):
            assert sink is not None
            sink.close()

    def read(self) -> None:
        text = ""
        if not DOWN[0] <= Clock.wall < DOWN[1]:
            text = "wg0\t(none)\t%s\t51820\toff\n" % key("wg0")
            text += "".join(link.line() for link in self.links.values())
        answer = wg_monitor.Answer(len(text), "", "", Clock.moment())
        self.monitor.take(answer, [text.encode()] if text else [])
        self.monitor.conclude()

    def live(self) -> None:
        before = BEGIN
        watching = True
        while Clock.wall <= END:
            for link in self.links.values():
                link.pass_time(before, Clock.wall)
            if before < DOWN[0] <= Clock.wall:
                for link in self.links.values():
                    link.forget()
            if before < REMOVED <= Clock.wall:
                del self.links["frank-contractor"]
                self.configure()
            if watching and KILLED <= Clock.wall < RESTARTED:
                self.killed()
                watching = False
            if not watching and Clock.wall >= RESTARTED:
                self.monitor = self.started()
                watching = True
            if watching:
                self.read()
            before = Clock.wall
            Clock.wall += INTERVAL
        Clock.wall = before + 12  # twelve seconds after the last reading
        self.monitor.flush(checkpoint=True)


# --- The tour -----------------------------------------------------------------------------------------------------

TOUR: Tuple[Tuple[str, str], ...] = (
    ("Every change is a line of the trail.", "tail -n 6 /var/log/wg_monitor.log"),
    ("Who is online now, and since when?", "wg-monitor status"),
    ("Who was connected in the last two days, from where, and why did it end?", "wg-monitor sessions --since 2d"),
    ("Who was connected on Wednesday at 10:00?", "wg-monitor sessions --present '2026-11-18 10:00'"),
    ("Who came from the address that the monitor had never seen before?", "wg-monitor sessions --ip 192.0.2.222"),
    ("What does the fortnight amount to?", "wg-monitor sessions --summary"),
)


def show(company: Company, command: str) -> None:
    words = shlex.split(command)
    print("$ " + command, flush=True)
    if words[0] == "wg-monitor":
        wg_report.main([*words[1:], "--store", company.store])
    else:
        with open(company.trail, encoding="utf-8") as file:
            sys.stdout.writelines(file.readlines()[-int(words[2]) :])
    print(flush=True)


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show what wg_monitor records, with a made-up company.")
    parser.add_argument("--seed", type=int, default=7, metavar="NUMBER", help="another number, another fortnight")
    parser.add_argument("directory", nargs="?", help="an empty one for the files; default: a temporary one")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    arguments = parse_arguments(argv)
    directory = arguments.directory or tempfile.mkdtemp(prefix="wg-monitor-demo-")
    os.makedirs(directory, exist_ok=True)
    if os.listdir(directory):
        print("demo.py: %s is not empty; choose another directory" % directory, file=sys.stderr)
        return 2
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "120")
    os.environ["TZ"] = ZONE
    time.tzset()
    wg_monitor.moment = Clock.moment
    company = Company(os.path.abspath(directory), arguments.seed)
    company.live()
    print("A small company's fortnight, as wg_monitor records it. It is Monday, 23 November 2026, 14:52.\n")
    for question, command in TOUR:
        print("# " + question)
        show(company, command)
    page = os.path.join(directory, "report.html")
    with open(page, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        wg_report.main(["sessions", "--format", "html", "--store", company.store])
    company.killed()
    print("# All of it at a glance: open this page in a browser.")
    print("$ wg-monitor sessions --format html > report.html")
    print(page)
    print("\nTo go on asking, at this company's time:")
    print("$ TZ=%s python3 wg_monitor.py sessions --since 2026-11-21 --store %s" % (ZONE, shlex.quote(company.store)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
