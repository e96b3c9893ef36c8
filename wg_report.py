#!/usr/bin/env python3
"""Who was connected when: answers from what wg_monitor wrote. It reads, and writes nothing.

    store, trails  --read-->    History     what was recorded: sessions, gaps, and the time that was watched
    [Session]      --select-->  [Session]   those that a query asks for, one at a time, the oldest first
    [Session]      --add up-->  [Total]     of each peer, day, week or month
    any of them    --show-->    table, JSON, CSV, page

The daemon's module hands its commands over to this one, and this one takes its values and texts from there.

Trust boundary: what a store or a trail says may be hostile. It reaches a terminal, a spreadsheet or a browser only
through the functions of the section "Text".

Exit codes: 0 done, 1 failure or an unknown peer, 2 invalid usage, 3 a queried peer is offline, 4 not permitted.
"""

from __future__ import annotations

import re
import sys
from array import array
from bisect import bisect_right
from collections import deque
from datetime import date, datetime, timedelta, timezone
from itertools import chain, islice
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence, Tuple

import wg_monitor
from wg_monitor import DAY_S, EPOCH_MAX, Refusal

# --- Values -------------------------------------------------------------------------------------------------------
# All times are seconds since the epoch.

ENDED, ONLINE, UNKNOWN = "ended", "online", "unknown"  # the states of a session
FOREVER = float("inf")


# A session as it was recorded.
class Session(NamedTuple):
    gateway: str  # the name of the store that it comes from; "" = there is only one
    interface: str
    peer: str  # the whole public key; from a text trail as it stands there: AbC1dEf2...4xYz5678
    name: str  # the peer's name at the beginning; "" = none
    number: int | None  # None = a text trail does not say, like the other fields below
    start: float
    until: float  # ENDED: the last sign of life. ONLINE: the last reading. UNKNOWN: the last time that is certain
    state: str
    length: float  # seconds, without the steps of the wall clock
    endpoints: tuple[str, ...]  # in the order of use
    allowed_ips: str  # when it began, separated by commas
    received: int | None  # bytes that the peer sent: lower bounds
    sent: int | None
    unwatched: float  # seconds of it in which nobody watched
    reason: str  # why it ended; "" = it has not, or nobody knows


# Time in which nobody watched an interface, or any (None).
class Gap(NamedTuple):
    gateway: str
    interface: str | None
    start: float
    stop: float
    why: str  # stopped, stalled, failed, late, unreadable, replaced; "" = a trail does not say


class Period(NamedTuple):
    since: float = -FOREVER
    until: float = FOREVER


# What one source, a store or a set of trails, recorded.
class History(NamedTuple):
    gateway: str
    path: str
    watched: Period  # from the first time that somebody watched to the last reading
    gaps: Sequence[Gap]  # in it, in order
    sessions: Callable[[Period], Iterator[Session]]  # those that overlap a period, in the order of their beginnings
    notes: Sequence[str] = ()  # what a reader has to know about it, a sentence each


# --- Moments ------------------------------------------------------------------------------------------------------

AGO_S = {"w": 7 * DAY_S, "d": DAY_S, "h": 3600, "m": 60, "s": 1}
AGO = re.compile(r"(?:[0-9]{1,9}[wdhms] ?)+(?:ago)?")
EPOCH = re.compile(r"@([0-9]{1,12}(?:\.[0-9]{1,9})?)")
WHEN = re.compile(  # a day or a month, a time of day, an offset: 2026-11-01 14:00, tuesday, 14:00:30, 2026-11-01t13:00z
    r"(?:([a-z]+|[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)(?:[ t](?=.)|$))?"
    r"(?:([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(\.[0-9]{1,9})?)?)?(z|[+-][0-9]{2}:?[0-9]{2})?"
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MOMENTS = """write it like one of these: 90m, 7d, now, today, yesterday, tuesday, 14:00, 2026-11, 2026-11-01,
    2026-11-01 14:00, 2026-11-01T14:00:00+01:00, @1793538000""".replace("\n   ", "")


# Local time: of the machine, or of a zone by its name.
class Zone:
    def __init__(self, name: str = "") -> None:
        self.info = named_zone(name) if name else None

    def local(self, wall: float) -> datetime:
        return datetime.fromtimestamp(min(max(wall, 0.0), EPOCH_MAX - DAY_S), self.info)

    def stamp(self, wall: float) -> str:
        return self.local(wall).isoformat(" ")[:19]

    def rfc3339(self, wall: float) -> str:
        local = self.local(wall).replace(microsecond=0)
        return (local if self.info is not None else local.astimezone()).isoformat()

    def walls(self, local: datetime) -> tuple[float, float]:
        """The times at which the clock shows this. They differ around a clock change: the first is earlier if the clock
        shows it twice, and later if it skips it."""
        first, second = (local.replace(tzinfo=self.info, fold=fold).timestamp() for fold in (0, 1))
        return first, second

    def midnight(self, day: date) -> float:
        # When a day begins: where the clock skips its midnight, at the end of the skip.
        return self.walls(datetime(day.year, day.month, day.day))[0]


def named_zone(name: str) -> Any:
    """Errors: Refusal."""
    found = "--timezone %s" % wg_monitor.printable(name)
    try:
        from zoneinfo import ZoneInfo
    except ImportError:
        raise Refusal(found, "needs Python 3.9 or newer", "set TZ=%s instead" % wg_monitor.printable(name)) from None
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        remedy = "write it like Europe/Berlin or UTC; the package tzdata has the names"
        raise Refusal(found, "this machine knows no such zone", remedy) from None


def parse_moment(text: str, now: float, zone: Zone, end: bool = False) -> tuple[float, str]:
    """A moment as people write it, and a sentence about it if the clock shows it twice or never; otherwise "".

    A text may mean more than an instant: a day, a month, a time that the clock shows twice. Then its beginning counts,
    or with `end` its end: a period includes the days that it is named by. Errors: Refusal."""
    words = " ".join(text.lower().split())
    unknown = Refusal("'%s'" % wg_monitor.printable(text), "it is no time", MOMENTS)
    epoch, when = EPOCH.fullmatch(words), WHEN.fullmatch(words)
    if words == "now":
        return now, ""
    if epoch:
        return min(float(epoch.group(1)), float(EPOCH_MAX)), ""
    if AGO.fullmatch(words):
        return max(0.0, now - sum(int(n) * AGO_S[unit] for n, unit in re.findall(r"([0-9]+)([wdhms])", words))), ""
    if not words or when is None:
        raise unknown
    named, hour, minute, second, fraction, offset = when.groups()
    try:
        first, after = named_days(named or "today", zone.local(now).date())
        if hour is None and offset is None:
            return zone.midnight(after if end else first), ""
        if hour is None or after - first != timedelta(1) or (offset and not named):
            raise unknown
        local = datetime(first.year, first.month, first.day, int(hour), int(minute), int(second or 0))
        wall, note = with_offset(local, offset) if offset else in_zone(local, zone, end)
    except (ValueError, OverflowError):  # there is no 31st of November
        raise unknown from None
    wall += float(fraction or 0)
    if not named and wall > now and not end:
        raise Refusal("'%s'" % words, "it is later than now", "write 'yesterday %s' for the last time" % words)
    return wall, note


def named_days(word: str, today: date) -> tuple[date, date]:
    """The first day of a day or a month, and the day after its last one. Errors: ValueError."""
    if word[0].isdigit():
        first = date.fromisoformat(word if len(word) == 10 else word + "-01")
        if not 1970 <= first.year < 9999:
            raise ValueError("a year that no monitor has seen")
        return first, next_unit(first, "day" if len(word) == 10 else "month")
    if word in ("today", "yesterday"):
        first = today - timedelta(word == "yesterday")
    else:  # the last one that has begun
        names = [name for name in WEEKDAYS if word in (name, name[:3])]
        first = today - timedelta((today.weekday() - WEEKDAYS.index(names[0] if names else word)) % 7)
    return first, next_unit(first, "day")


def with_offset(local: datetime, offset: str) -> tuple[float, str]:
    minutes = 0 if offset == "z" else int(offset[1:3]) * 60 + int(offset[-2:])
    zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return local.replace(tzinfo=zone).timestamp(), ""


def in_zone(local: datetime, zone: Zone, end: bool) -> tuple[float, str]:
    # A time that is skipped counts as if the clock had not been set forward.
    first, second = zone.walls(local)
    if first == second:
        return first, ""
    if first > second:
        note = "%s does not exist, since the clock was set forward: it is read as %s."
        return first, note % (local, zone.stamp(first))
    wall, other = (second, first) if end else (first, second)
    texts = (local, zone.rfc3339(wall), zone.rfc3339(other))
    return wall, "%s exists twice, since the clock was set back: it is read as %s, not as %s." % texts


# --- Sums ---------------------------------------------------------------------------------------------------------
# A session that reaches beyond a period counts with the part of its time that lies in it, as a part of its length.


# What the sessions of one peer amount to in a period; all peers together have no gateway, interface, peer and name.
class Total(NamedTuple):
    gateway: str
    interface: str
    peer: str
    name: str  # the last one
    sessions: int
    online_s: float  # in the period
    unwatched_s: float  # of these, seconds in which nobody watched
    share: float | None  # of the watched time of its interface, from 0 to 1; of all peers: the mean
    longest_s: float  # of the whole sessions
    median_s: float
    interruptions: int  # ends as `unreachable` after which the peer came back, with a session in the period
    interruptions_per_hour: float | None  # online; None = not online for a second
    received_bytes: int | None  # of the whole sessions
    sent_bytes: int | None
    beyond: bool  # a session reaches beyond the period: some of its bytes may not belong to it
    addresses: int  # different ones that it came from


# Usage in a day, a week or a month.
class Usage(NamedTuple):
    unit: str  # 2026-11-01, 2026-W44, 2026-11
    start: float  # the part of it that lies in the period
    stop: float
    sessions: int  # open at some time in it
    peers: int
    online_s: float
    received_bytes: int | None  # those of a session spread evenly over its time
    sent_bytes: int | None
    estimated: bool  # a session reaches beyond it: bytes are spread
    unwatched_s: float  # seconds of it in which some interface was not watched


Stretch = Tuple[float, float]  # a beginning and an end


def watched(history: History, interface: str | None, period: Period) -> list[Stretch]:
    """When an interface was watched, in order; None = every interface."""
    parts: list[Stretch] = []
    begin, end = max(history.watched.since, period.since), min(history.watched.until, period.until)
    for gap in history.gaps:
        if interface is None or gap.interface in (None, interface):
            if begin < min(gap.start, end):
                parts.append((begin, min(gap.start, end)))
            begin = max(begin, gap.stop)
    return parts + [(begin, end)] if begin < end else parts


def overlap(parts: Sequence[Stretch], since: float, until: float) -> float:
    seconds = 0.0
    for number in range(max(0, bisect_right(parts, (since, FOREVER)) - 1), len(parts)):
        start, stop = parts[number]
        if start >= until:
            break
        seconds += max(0.0, min(stop, until) - max(start, since))
    return seconds


def part_of(session: Session, since: float, until: float) -> float:
    """How much of a session lies between two times, from 0 to 1."""
    start, stop = session.start, session.until
    if start >= stop:  # a single handshake, or the wall clock was set back: it counts where it began
        return 1.0 if since <= start < until else 0.0
    return max(0.0, min(stop, until) - max(start, since)) / (stop - start)


def median(lengths: Iterable[float]) -> float:
    ordered = sorted(lengths)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2 if ordered else 0.0


def plus(count: int | None, more: int | None) -> int | None:
    # None = unknown: what is known counts.
    return more if count is None else count if more is None else count + more


# The sessions of one peer so far: what a total needs of them.
class Sum:
    __slots__ = ("name", "lengths", "online", "unwatched", "received", "sent", "beyond", "addresses", "cut", "cuts")

    def __init__(self) -> None:
        self.name = ""
        self.lengths = array("d")
        self.online = self.unwatched = 0.0
        self.received: int | None = None
        self.sent: int | None = None
        self.beyond = self.cut = False  # `cut`: the last session ended as `unreachable`
        self.cuts = 0
        self.addresses: set[str] = set()

    def add(self, session: Session, period: Period, parts: Sequence[Stretch]) -> None:
        # `parts`: when the session's interface was watched in the period.
        self.name = session.name or self.name
        self.lengths.append(session.length)
        self.received = plus(self.received, session.received)
        self.sent = plus(self.sent, session.sent)
        self.cuts += self.cut
        self.cut = session.reason == "unreachable"
        for endpoint in session.endpoints:
            self.addresses.add(wg_monitor.address(endpoint))
        part = part_of(session, *period)
        self.online += session.length * part
        self.beyond |= part != 1
        if session.unwatched:  # it has a part in a gap, which goes on after its end maybe
            since, until = max(session.start, period.since), min(session.until, period.until)
            self.unwatched += max(0.0, min(session.unwatched, until - since - overlap(parts, since, until)))

    def total(self, who: tuple[str, str, str], watched_s: float) -> Total:
        self.addresses.discard("")
        seen, hours = max(0.0, self.online - self.unwatched), self.online / 3600
        return Total(
            *who,
            self.name,
            len(self.lengths),
            round(self.online, 3),
            round(self.unwatched, 3),
            min(1.0, seen / watched_s) if watched_s else None,
            max(self.lengths, default=0.0),
            median(self.lengths),
            self.cuts,
            self.cuts / hours if self.online >= 1 else None,
            self.received,
            self.sent,
            self.beyond,
            len(self.addresses),
        )


def add_up(sessions: Iterable[Session], histories: Iterable[History], period: Period) -> tuple[list[Total], Total]:
    """The total of each peer, and the one of all. `sessions`: those of a peer in order."""
    sums: dict[tuple[str, str, str], Sum] = {}
    sources = {history.gateway: history for history in histories}
    parts: dict[tuple[str, str], list[Stretch]] = {}
    for session in sessions:
        who = session[:3]
        if who not in sums:
            sums[who] = Sum()
        if who[:2] not in parts:
            parts[who[:2]] = watched(sources[session.gateway], session.interface, period)
        sums[who].add(session, period, parts[who[:2]])
    times = {link: overlap(stretches, *period) for link, stretches in parts.items()}
    every, watched_s = Sum(), 0.0
    totals = []
    for who, one in sums.items():
        totals.append(one.total(who, times[who[:2]]))
        watched_s += times[who[:2]]
        every.lengths.extend(one.lengths)
        every.addresses |= one.addresses
        every.online += one.online
        every.unwatched += one.unwatched
        every.cuts += one.cuts
        every.beyond |= one.beyond
        every.received, every.sent = plus(every.received, one.received), plus(every.sent, one.sent)
    return totals, every.total(("", "", ""), watched_s)


def first_of_unit(day: date, unit: str) -> date:
    # Weeks begin on Monday: ISO 8601.
    return day if unit == "day" else day - timedelta(day.weekday()) if unit == "week" else day.replace(day=1)


def next_unit(first: date, unit: str) -> date:
    if unit == "month":
        return (first.replace(day=28) + timedelta(4)).replace(day=1)
    return first + timedelta(7 if unit == "week" else 1)


def unit_name(first: date, unit: str) -> str:
    return "%d-W%02d" % first.isocalendar()[:2] if unit == "week" else first.isoformat()[: 7 if unit == "month" else 10]


# The sessions so far that were open in one unit.
class Bucket:
    def __init__(self, first: date, unit: str, zone: Zone, begin: float) -> None:
        self.name, self.after = unit_name(first, unit), next_unit(first, unit)
        self.start, self.stop = max(begin, zone.midnight(first)), zone.midnight(self.after)
        self.sessions, self.online, self.estimated = 0, 0.0, False
        self.peers: set[tuple[str, ...]] = set()
        self.received: int | None = None
        self.sent: int | None = None

    def add(self, session: Session, until: float) -> None:
        # `until`: the end of the period.
        stop = min(self.stop, until)
        before, after = 0.0, 1.0
        if not self.start <= session.start <= session.until < stop:
            before, after = part_of(session, -FOREVER, self.start), part_of(session, -FOREVER, stop)
        if after > before or self.start <= session.start < stop:
            self.sessions += 1
            self.peers.add(session[:3])
            self.online += session.length * (after - before)
            self.received = plus(self.received, share_of(session.received, before, after))
            self.sent = plus(self.sent, share_of(session.sent, before, after))
            self.estimated |= after - before < 1

    def usage(self, end: float, parts: Sequence[Stretch]) -> Usage:
        stop = min(self.stop, end)
        numbers = (self.sessions, len(self.peers), round(self.online, 3), self.received, self.sent, self.estimated)
        unwatched = stop - self.start - overlap(parts, self.start, stop)
        return Usage(self.name, self.start, stop, *numbers, round(unwatched, 3))


def share_of(count: int | None, before: float, after: float) -> int | None:
    # All shares of a count make up the count.
    if count is None:
        return None
    return (count if after == 1 else int(count * after)) - (count if before == 1 else int(count * before))


def buckets_from(begin: float, unit: str, zone: Zone) -> Iterator[Bucket]:
    first = first_of_unit(zone.local(begin).date(), unit)
    while True:
        bucket = Bucket(first, unit, zone, begin)
        first = bucket.after
        if bucket.start < bucket.stop:  # there are days that a country has skipped
            yield bucket


def add_up_by(
    unit: str, sessions: Iterable[Session], histories: Sequence[History], period: Period, zone: Zone
) -> Iterator[Usage]:
    """The usage in each day, week or month of a period, from the first time that somebody watched to the last.
    `sessions`: in the order of their beginnings."""
    starts, stops = zip(*(history.watched for history in histories))
    gaps = sorted((gap for history in histories for gap in history.gaps), key=lambda gap: gap.start)
    parts = watched(histories[0]._replace(watched=Period(max(starts), min(stops)), gaps=gaps), None, period)
    stream = iter(sessions)
    oldest = list(islice(stream, 1))
    begin = max(period.since, min((*starts, *(session.start for session in oldest))))
    end = min(period.until, max(stops))
    coming = buckets_from(begin, unit, zone)
    buckets = deque([next(coming)])  # those that a session may still reach
    for session in chain(oldest, stream):
        until = min(session.until, period.until)
        end = max(end, until)
        while buckets[-1].stop <= max(session.start, until):
            buckets.append(next(coming))
        while buckets[0].stop <= session.start:
            yield buckets.popleft().usage(end, parts)
        for bucket in buckets:
            if bucket.start > until and bucket.start > session.start:
                break
            bucket.add(session, period.until)
    while begin < end and buckets[0].start < end:
        yield buckets.popleft().usage(end, parts)
        buckets = buckets or deque([next(coming)])


# --- The command line ---------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    # The first word is the command.
    raise Refusal("'%s' is not known" % wg_monitor.printable(words[0]), "it is no command", "see --help")


if __name__ == "__main__":
    sys.exit(wg_monitor.main())
