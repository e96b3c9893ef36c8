"""A made-up company whose people were connected: histories of any size for reports, the same for the same seed.

Laptops work on weekdays and roam, phones flap, homes and sites stay for days, a machine fetches backups at night, and a
contractor's peer is removed. The monitor was down for one night, and its interface once.
"""

import base64
import random
import time
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence

from wg_report import ENDED, ONLINE, Gap, History, Period, Session

END = 1_795_442_400.0  # Monday, 23 November 2026, 14:00 UTC
HOUR, DAY = 3600.0, 86_400.0
PEOPLE = (
    "alice bob carol dave erin frank grace heidi ivan judy mallory niaj olivia peggy rupert sybil trent victor walter "
    "yvonne zoe anna ben clara david emma felix greta hugo ida jonas karla leon mia noah oskar paula quirin rosa"
).split()


def key_of(rng: random.Random) -> str:
    return base64.b64encode(bytes(rng.randrange(256) for _ in range(32))).decode()


class Person(NamedTuple):
    name: str
    kind: str
    key: str
    endpoint: str
    ip: str


def people(count: int, rng: random.Random) -> List[Person]:
    """The first dozen has one of each kind, whatever the count."""
    some = ["site-hamburg", "alice-laptop", "alice-phone", "bob-laptop", "carol-home", "dave-phone", "erin-laptop",
            "frank-contractor", "grace-laptop", "heidi-phone", "ivan-laptop", "backup-nas"]  # fmt: skip
    kinds = ["laptop", "phone", "laptop", "home"]
    number = 0
    while len(some) < count:
        name = "%s-%s" % (PEOPLE[number % len(PEOPLE)], kinds[number // len(PEOPLE) % 4])
        again = number // (4 * len(PEOPLE))
        number += 1
        name += "-%d" % (again + 1) if again else ""
        if name not in some:
            some.append(name)
    found: List[Person] = []
    for name in some[:count]:
        home = "203.0.113.%d:%d" % (rng.randrange(1, 255), rng.randrange(1024, 65_536))
        found.append(Person(name, name.split("-")[1], key_of(rng), home, "10.8.%d.%d/32" % divmod(len(found) + 2, 250)))
    return found


def spans(person: Person, begin: float, end: float, pace: float, rng: random.Random) -> Iterator[List[float]]:
    """Beginnings and lengths, in order. `pace`: how many sessions compared with the usual ones."""
    day = begin - begin % DAY
    while day < end:
        weekday = time.gmtime(day).tm_wday < 5
        if person.kind in ("laptop", "contractor"):
            at, night = day + rng.gauss(8.2, 0.5) * HOUR, day + rng.gauss(17.5, 0.8) * HOUR
            if weekday and rng.random() < 0.92 * min(1, pace):
                while at < night:
                    length = min(rng.lognormvariate(0.7, 0.8) / max(1, pace) * HOUR, night - at)
                    yield [at, length]
                    at += length + rng.expovariate(1) * HOUR + 200
        elif person.kind == "phone":
            at = day + rng.gauss(6.5, 0.7) * HOUR
            while at < day + 23 * HOUR:
                length = rng.lognormvariate(-1.6, 1.2) * HOUR
                yield [at, length]
                at += length + rng.expovariate(0.6 * pace * (1 if weekday else 0.4)) * HOUR + 200
        elif person.kind == "nas":
            yield [day + 1.4 * HOUR, rng.uniform(1.5, 2.6) * HOUR]
        day += DAY
    if person.kind in ("hamburg", "home"):
        at = begin
        while at < end:
            length = rng.expovariate(1 / (9 * DAY if person.kind == "hamburg" else 4 * DAY / pace)) + HOUR
            yield [at, length]
            at += length + rng.uniform(0.1, 3) * HOUR


def sessions_of(person: Person, begin: float, end: float, pace: float, down: float, rng: random.Random,
                gateway: str, interface: str) -> Iterator[Session]:  # fmt: skip
    """The interface went down once, at `down`. A contractor's peer was removed after two thirds of the time."""
    found = list(spans(person, begin, end, pace, rng))
    if person.kind == "contractor":
        found = [span for span in found if span[0] < begin + (end - begin) * 0.68]
    free, address = 0.0, person.endpoint
    for place, (start, length) in enumerate(found):
        start, until = max(start, free), start + length
        pieces = [(start, down, "interface-down"), (down + 90, until, "")] if start < down < until else [(start, until, "")]
        for start, until, reason in pieces:
            if not start < min(until, end):
                continue
            if rng.random() < 0.25:
                address = "198.51.100.%d:%d" % (rng.randrange(1, 255), rng.randrange(1024, 65_536))
            roamed = address != person.endpoint and person.kind == "laptop"
            usual = "unreachable" if rng.random() < 0.15 else "idle"
            if person.kind == "contractor" and place == len(found) - 1:
                usual = "removed"
            online, until = until >= end, min(until, end)
            received = int((until - start) * rng.lognormvariate(9, 1.4))
            yield Session(
                gateway, interface, person.key, person.name, 0, start, until, ONLINE if online else ENDED, until - start,
                (person.endpoint, address) if roamed else (address,), person.ip, received,
                int(received * rng.uniform(0.05, 0.4)), 0.0, "" if online else reason or usual,
            )  # fmt: skip
            free = until + 200


def company(
    count: int = 12,
    days: float = 14,
    seed: int = 1,
    end: float = END,
    gateway: str = "",
    interface: str = "wg0",
    most: Optional[int] = None,
    pace: float = 1.0,
) -> History:
    """A history of `count` peers. `most`: at most that many sessions."""
    rng = random.Random(seed)
    begin = end - days * DAY
    made: List[Session] = []
    for person in people(count, rng):
        made += sessions_of(person, begin, end, pace, begin + (end - begin) * 0.66, rng, gateway, interface)
    made = sorted((session for session in made if session.until > begin), key=lambda session: session.start)
    if most is not None and len(made) > most:
        made = [made[number] for number in sorted(rng.sample(range(len(made)), most))]
    made = [session._replace(number=number) for number, session in enumerate(made, 1)]
    night = begin + (end - begin) * 0.43
    gaps = [
        Gap(gateway, None, night, night + min(6 * HOUR, (end - begin) / 40), "stopped"),
        Gap(gateway, None, begin + (end - begin) * 0.71, begin + (end - begin) * 0.71 + 95, "late"),
    ]

    def chosen(period: Period) -> Iterator[Session]:
        return (session for session in made if session.start <= period.until and session.until >= period.since)

    return History(gateway, "/var/lib/wg-monitor/state.db", Period(begin, end), gaps, chosen)


def all_sessions(histories: Sequence[History], period: Optional[Period] = None) -> Iterable[Session]:
    found = [session for history in histories for session in history.sessions(period or Period())]
    return sorted(found, key=lambda session: session.start)
