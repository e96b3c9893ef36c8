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

import os
import re
import stat
import sys
from array import array
from bisect import bisect_right
from collections import deque
from contextlib import closing, suppress
from datetime import date, datetime, timedelta, timezone
from heapq import merge
from itertools import chain, islice
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, NoReturn, Sequence, Tuple

import wg_monitor
from wg_monitor import DAY_S, EPOCH_MAX, EXIT_FAILURE, EXIT_NOT_PERMITTED, Refusal, printable

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


# --- Text ---------------------------------------------------------------------------------------------------------
# What comes from a store or a trail reaches a terminal or a spreadsheet only through these functions.

FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # a spreadsheet takes a cell that begins so for a formula
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
GREEN_BOLD, YELLOW_BOLD, CYAN, DIM = "\x1b[32m\x1b[1m", "\x1b[33m\x1b[1m", "\x1b[36m", "\x1b[2m"
RESET = "\x1b[0m"


def width_of(text: str) -> int:
    # The columns of a terminal that a text takes: two for wide characters, none for marks over the one before.
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    marks = ("Mn", "Me")
    return sum(
        0 if category(c) in marks or "\u1160" <= c <= "\u11ff" else 1 + (east_asian_width(c) in "WF") for c in text
    )


def fit(text: str, columns: int) -> str:
    # The beginning of a text that is too wide.
    if width_of(text) <= columns:
        return text
    text = text[:columns]
    while width_of(text) >= columns:
        text = text[:-1]
    return text + "…"


def pad(text: str, columns: int, right: bool = False) -> str:
    space = " " * (columns - width_of(text))
    return space + text if right else text + space


def size_text(count: int | None) -> str:
    # Three digits: 1.2 GiB, 14.1 MiB, 310 MiB. What is not known stays empty.
    if count is None or count < 1024:
        return "" if count is None else "%d B" % count
    size, unit = count / 1024, 0
    while size >= 999.5 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return "%.*f %s" % (0 if size >= 99.95 else 1, size, UNITS[unit])


def hosts_text(allowed_ips: str) -> str:
    # The tunnel addresses, or the networks if there is none: 10.0.0.2, 10.0.0.3
    ips = wg_monitor.hosts_or_all(allowed_ips.split(",") if allowed_ips else [])
    more = ["%d more" % (len(ips) - wg_monitor.IPS_SHOWN)] if len(ips) > wg_monitor.IPS_SHOWN else []
    return printable(", ".join([wg_monitor.host_of(ip) or ip for ip in ips[: wg_monitor.IPS_SHOWN]] + more))


def shown_name(name: str, peer: str) -> str:
    return printable(name, 64) if name else printable(wg_monitor.short_key(peer))


def listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""


def clean(text: str) -> str:
    # Like printable, but keys stay.
    return "".join(c if c.isprintable() else "?" for c in text[:10_000])


def cell_of_csv(value: object) -> object:
    # Numbers stay numbers. A text that a spreadsheet would run gets the apostrophe that makes it a text.
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, (int, float)):
        return "" if value is None else value
    text = clean(str(value))
    return "'" + text if str(value).startswith(FORMULA) else text


# Colours as `wg show` has them, and on the same conditions.
class Paint:
    def __init__(self) -> None:
        mode = os.environ.get("WG_COLOR_MODE", "auto")
        terminal = sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.on = mode == "always" or (mode != "never" and terminal)

    def __call__(self, text: str, colour: str) -> str:
        return colour + text + RESET if self.on and colour and text.strip() else text

    def units(self, text: str) -> str:
        return re.sub("[KMGTP]i?B|[dhms]\\b", CYAN + "\\g<0>" + RESET, text) if self.on else text


# --- Choosing -----------------------------------------------------------------------------------------------------

Key = Tuple[str, str]  # interface, public key
Change = Tuple[str, str, float, "str | None"]  # interface, public key, since when, allowed IPs; None = removed


# Which sessions a query asks for, beside the period.
class Query(NamedTuple):
    keys: frozenset[str] | None = None  # None = of all peers
    names: frozenset[str] = frozenset()  # or of these names
    interfaces: frozenset[str] = frozenset()  # empty = all, like the next two
    reasons: frozenset[str] = frozenset()
    address: str = ""
    shortest: float = 0.0
    last: int = 0  # the newest ones; 0 = all


def touches(session: Session, period: Period) -> bool:
    # Whether they overlap. A period that is one moment includes it; any other does not include its end.
    begun = session.start < period.until or session.start == period.since
    return begun and (session.until >= period.since or session.state == ONLINE)


def chooser(query: Query, held: Mapping[Key, Sequence[Stretch]], period: Period) -> Callable[[Session], bool]:
    """Whether a query asks for a session. `held`: when which peer held the tunnel address that is asked for."""
    starts = ("[%s]" % query.address, "[%s%%" % query.address) if ":" in query.address else (query.address + ":",)

    def wanted(session: Session) -> bool:
        peer, address = (session.interface, session.peer), query.address
        if query.keys is not None and session.peer not in query.keys and session.name not in query.names:
            return False
        if query.interfaces and session.interface not in query.interfaces:
            return False
        if session.length < query.shortest or (query.reasons and session.reason not in query.reasons):
            return False
        if not address or any(endpoint.startswith(starts) for endpoint in session.endpoints):
            return True
        since, until = max(session.start, period.since), min(session.until, period.until)
        return any(start <= max(since, until) and since <= stop for start, stop in held.get(peer, ()))

    return wanted


def holders_of(address: str, changes: Iterable[Change]) -> dict[Key, list[Stretch]]:
    """When which peer held a tunnel address: the one with the longest prefix that contains it, on each interface."""
    from ipaddress import ip_address, ip_network

    wanted = ip_address(address)

    def longest(ips: str | None) -> int:
        networks = [ip_network(ip, strict=False) for ip in (ips or "").split(",") if ip]
        return max([n.prefixlen for n in networks if n.version == wanted.version and wanted in n], default=-1)

    held: dict[Key, list[Stretch]] = {}
    prefixes: dict[str, dict[str, int]] = {}  # of the peers on each interface that have one
    holder: dict[str, tuple[str, float]] = {}  # on each interface: its key, since when
    gone: dict[Key, float] = {}  # when a peer was removed
    for interface, key, since, ips in changes:
        peers, prefix, appears = prefixes.setdefault(interface, {}), longest(ips), (interface, key) not in held
        peers.pop(key, None)
        if prefix >= 0:
            peers[key] = prefix
        held.setdefault((interface, key), [])
        now = max(peers, key=lambda peer: (peers[peer], peer == key), default="")
        before, start = holder.get(interface, ("", since))
        if now != before:
            if before:
                held[interface, before].append((start, since))
            # A peer that appears may have been there before the reading that showed it, but not while it was removed.
            early = gone.get((interface, key), -FOREVER if appears else since) if now == key else since
            holder[interface] = (now, early)
        gone.pop((interface, key), None)
        if ips is None:
            gone[interface, key] = since
    for interface, (key, start) in holder.items():
        if key:
            held[interface, key].append((start, FOREVER))
    return {peer: stretches for peer, stretches in held.items() if stretches}


# --- Reading a store ----------------------------------------------------------------------------------------------

STORES = "/var/lib/wg-monitor"
BATCH = 5000  # sessions that are read at once
# What schemas 1 and 2 lack of schema 3. Every event of a peer shows its allowed IPs.
OLDER = """
    CREATE TEMP VIEW monitor AS SELECT *, '' AS id, 0 AS stamp, 0 AS last_session FROM main.monitor;
    CREATE TEMP VIEW peers AS SELECT *, '' AS name, NULL AS ended, NULL AS ended_wall FROM main.peers;
    CREATE TEMP VIEW sessions AS SELECT *, '' AS name FROM main.sessions;
    CREATE TEMP VIEW runs AS SELECT 0 AS number, 0.0 AS start, 0 AS interval, 0 AS threshold, '' AS liveness,
        '' AS interfaces WHERE 0;
    CREATE TEMP VIEW unwatched AS SELECT 0.0 AS start, 0.0 AS stop, '' AS interface, '' AS why WHERE 0;
    CREATE TEMP VIEW allowed_ips AS SELECT seq AS number, interface, public_key, wall AS since,
        CASE WHEN kind <> 'REMOVED' THEN allowed_ips END AS ips FROM main.events WHERE public_key IS NOT NULL"""
SESSIONS = """SELECT number, interface, public_key, name, start, last_seen, length, endpoints, received, sent, unwatched,
    reason, began, received_before, sent_before FROM sessions
    WHERE start <= ? AND (last_seen IS NULL OR last_seen >= ?) AND number > ? AND number < ?"""


# What a store says about the present.
class Present(NamedTuple):
    last: float  # the last reading
    boot: float  # the same on the boot clock
    boot_id: str
    monitor: str  # the process that runs, in words; "" = none
    since: float  # the first time that somebody watched
    rule: tuple[int, int, str, str] | None  # interval, threshold, liveness, interfaces; None = an old store
    peers: Mapping[Key, tuple[str, int | None, int, int]]  # its name, its open session, bytes received and sent in all
    changes: Sequence[Change]  # in order
    gaps: Sequence[Gap]

    def is_blind(self, now: float) -> bool:
        # Whether nobody watches now, although the monitor may run.
        return not self.monitor or (self.rule is not None and now - self.last > 2 * self.rule[0] + 1)


# A database that somebody else writes. It is opened for each question anew, so that no transaction stays open while
# the output blocks, and nothing is ever written: neither by a lock nor by a checkpoint.
class Store:
    # Errors of its methods: Refusal, OSError.
    def __init__(self, gateway: str, path: str) -> None:
        self.gateway, self.path = gateway, os.path.abspath(path)
        self.version = 0
        self.found: Present | None = None
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise self.refusal("is no store", "it is not a regular file", "name a store, such as state.db")
            with open(self.path, "rb"):
                pass
        except FileNotFoundError:
            raise self.refusal("does not exist", "no monitor has written it", "name a store with --store") from None
        self.version = int(self.ask("PRAGMA user_version")[0][0])
        tables = {row[0] for row in self.ask("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables >= wg_monitor.TABLES or self.version < 1:
            raise self.refusal("is no store", "it is a database of another program", "name a store, such as state.db")
        if self.version > wg_monitor.SCHEMA:
            why = "it has schema %d, this one knows %d" % (self.version, wg_monitor.SCHEMA)
            raise self.refusal("was written by a newer wg_monitor", why, "install that version")

    def refusal(self, what: str, why: str, remedy: str) -> Refusal:
        return Refusal("%s %s" % (printable(self.path), what), why, remedy, EXIT_FAILURE)

    def ask(self, statement: str, values: Any = ()) -> list[Any]:
        return list(self.read(lambda database: database.execute(statement, values).fetchall()))

    def read(self, work: Callable[[Any], Any]) -> Any:
        """What `work` reads from the database, in one transaction. Errors: Refusal."""
        import sqlite3
        from urllib.parse import quote

        while True:
            state = self.state()
            # SQLite would leave files beside a store that nobody has open, unless it knows that nobody changes it.
            mode = "ro" if state is None else "ro&immutable=1"
            try:
                uri = "file:%s?mode=%s" % (quote(os.fsencode(self.path)), mode)
                with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
                    database.execute("PRAGMA trusted_schema = OFF")
                    database.execute("PRAGMA temp_store = MEMORY")
                    if 0 < self.version < wg_monitor.SCHEMA:
                        database.executescript(OLDER)
                    database.execute("BEGIN")
                    found = work(database)
            except (sqlite3.Error, wg_monitor.StoreFault, OverflowError, TypeError, ValueError) as error:
                what, remedy = "cannot be read", "if it is damaged, the last backup may help"
                raise self.refusal(what, wg_monitor.reason_of(error), remedy) from None
            if state is None or state == self.state():
                return found  # else a monitor has begun to write to it

    def state(self) -> tuple[int, ...] | None:
        # What changes if somebody writes to a store that nobody has open; None = somebody may have it open.
        if os.path.lexists(self.path + "-wal") or wg_monitor.use_of(self.path + ".lock"):
            return None
        status = os.stat(self.path)
        return status.st_ino, status.st_size, status.st_mtime_ns

    @property
    def present(self) -> Present:
        # As it was at the first use.
        if self.found is None:
            monitor = wg_monitor.use_of(self.path + ".lock").partition("by ")[2]
            note = self.note()  # before the database: if they do not fit, the database is newer
            self.found = self.read(lambda database: present_of(database, note, monitor, self.gateway))
        return self.found

    def note(self) -> dict[str, str]:
        # The small file beside the store.
        try:
            descriptor = os.open(self.path + ".last", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return {}
        with open(descriptor, "rb") as file:
            text = file.read(wg_monitor.NOTE_SIZE).decode("ascii", "replace")
        return dict(pair.partition("=")[::2] for pair in text.split())

    def history(self, query: Query, now: float) -> History:
        present = self.present
        notes = []
        if self.version < wg_monitor.SCHEMA:
            notes.append("%s is of an older version, which did not record when nobody watched." % printable(self.path))
        watched = Period(present.since, present.last)
        gaps = [gap for gap in present.gaps if not query.interfaces or gap.interface in (None, *query.interfaces)]
        sessions = lambda period: self.sessions(query, now, period)  # noqa: E731
        return History(self.gateway, self.path, watched, gaps, sessions, notes)

    def watching(self, now: float) -> bool:
        return not self.present.is_blind(now)

    def sessions(self, query: Query, now: float, period: Period) -> Iterator[Session]:
        """The sessions that a query asks for and that overlap a period, in the order of their beginnings."""
        held = holders_of(query.address, self.present.changes) if query.address else {}
        where, values = condition(query, held)
        after, before = -1, 2**62
        statement = SESSIONS + where + " ORDER BY number%s LIMIT %d" % (" DESC" if query.last else "", BATCH)
        convert, wanted = Converter(self.gateway, self.present, now), chooser(query, held, period)
        # The numbers have the order of the beginnings, but for those that one reading saw: few are not in it.
        kept: list[tuple[float, int, Session]] = []
        while True:
            numbers = [period.until, period.since, after, before, *values]
            sessions = self.read(lambda database: [convert(*row) for row in database.execute(statement, numbers)])  # noqa: B023
            chosen = (session for session in sessions if touches(session, period) and wanted(session))
            kept += [(session.start, session.number or 0, session) for session in chosen]
            kept.sort()
            if not sessions or len(kept) >= query.last > 0:
                yield from (session for _, _, session in kept)
                return
            if query.last:
                before = sessions[-1].number
            else:
                after = sessions[-1].number
                yield from (session for _, _, session in kept[:-BATCH])
                del kept[:-BATCH]

    def find(self, text: str) -> set[str]:
        """The keys of the peers that a text means: a name, a key, the beginning of a key, or a short key. Errors: Refusal,
        if it is the beginning of several."""
        named = {key for (_, key), peer in self.present.peers.items() if text == peer[0]}
        named = named or {key for (key,) in self.ask("SELECT DISTINCT public_key FROM sessions WHERE name = ?", [text])}
        if named or not re.fullmatch(r"[A-Za-z0-9+/]{1,43}=?|[A-Za-z0-9+/]{8}\.\.\.[A-Za-z0-9+/=]{0,8}", text):
            return named
        first = text.partition("...")[0]
        statement = "SELECT DISTINCT public_key FROM sessions WHERE public_key >= ? AND public_key < ?"
        keys = {key for (key,) in self.ask(statement, [first, first + "~"])}
        keys |= {change[1] for change in self.present.changes} | {key for _, key in self.present.peers}
        keys = {key for key in keys if means(text, key)}
        if len(keys) > 1:
            raise several_peers(text, sorted(keys))
        return keys


def rows(database: Any, kinds: str, statement: str) -> Iterator[Any]:
    # SQLite's columns hold any type. `kinds`: text, int or real for each, with a `?` if it may be NULL.
    expected = [
        (wg_monitor.KINDS[kind.rstrip("?")], type(None) if kind.endswith("?") else ()) for kind in kinds.split()
    ]
    for row in database.execute(statement):
        if not all(map(isinstance, row, expected)):
            raise ValueError("a row has a foreign shape")
        yield row


def present_of(database: Any, note: Mapping[str, str], monitor: str, gateway: str) -> Present:
    saved = [*rows(database, "real real text int text", "SELECT wall, boot, id, stamp, boot_id FROM monitor")]
    wall, boot, *save = saved[0] if saved else (0.0, 0.0, "", 0, "")
    if save[0] and [note.get(name) for name in ("id", "stamp", "boot_id")] == [str(value) for value in save]:
        wall, boot = float(note["wall"]), float(note["boot"])
    statement = "SELECT interface, public_key, name, session, past_rx + rx, past_tx + tx FROM peers"
    peers = {row[:2]: row[2:] for row in rows(database, "text text text int? int int", statement)}
    statement = "SELECT interface, public_key, since, ips FROM allowed_ips ORDER BY number"
    changes = list(rows(database, "text text real text?", statement))
    statement = "SELECT interface, start, stop, why FROM unwatched ORDER BY start"
    gaps = [Gap(gateway, *gap) for gap in rows(database, "text? real real text", statement) if gap[2] > gap[1]]
    statement = "SELECT interval, threshold, liveness, interfaces FROM runs ORDER BY number DESC LIMIT 1"
    rules = [*rows(database, "int int text text", statement), None]
    firsts = "SELECT min(start) FROM runs UNION SELECT min(start) FROM sessions UNION SELECT min(wall) FROM events"
    since = min((first for (first,) in rows(database, "real?", firsts) if first is not None), default=wall)
    return Present(wall, boot, str(save[2]), monitor, min(since, wall), rules[0], peers, changes, gaps)


def condition(query: Query, held: Iterable[Key]) -> tuple[str, list[Any]]:
    # The part of a query that SQLite decides, and its values. It may let more pass than asked for.
    where = ""
    values: list[Any] = []

    def one_of(column: str, texts: Iterable[str]) -> str:
        values.extend(texts)
        return "%s IN (%s)" % (column, ", ".join("?" for _ in texts))

    if query.keys is not None:  # the plus: the order of the numbers matters more than the index of the keys
        where += " AND (%s OR %s)" % (one_of("+public_key", query.keys), one_of("name", query.names))
    if query.shortest:
        where += " AND (length IS NULL OR length >= ?)"
        values.append(query.shortest)
    if query.address:
        where += " AND (instr(endpoints, ?)"
        values.append(query.address)
        where += " OR %s)" % one_of("+public_key", {key for _, key in held})
    return where, values


# Makes a session of a row.
class Converter:
    def __init__(self, gateway: str, present: Present, now: float) -> None:
        self.gateway, self.present = gateway, present
        self.open = {session: key for key, (_, session, _, _) in present.peers.items() if session is not None}
        self.state = UNKNOWN if present.is_blind(now) else ONLINE
        self.ips: dict[Key, list[tuple[float, str | None]]] = {}
        for interface, key, since, ips in present.changes:
            self.ips.setdefault((interface, key), []).append((since, ips))

    def __call__(
        self, number: int, interface: str, key: str, name: str, start: float, last_seen: float | None,
        length: float | None, endpoints: str, received: int | None, sent: int | None, unwatched: float,
        reason: str | None, began: float, received_before: int, sent_before: int,
    ) -> Session:  # fmt: skip
        state = ENDED
        if reason is None or last_seen is None or length is None:
            state, reason, last_seen, length = UNKNOWN, "", start, 0.0
            if self.open.get(number) == (interface, key):
                _, _, received, sent = self.present.peers[interface, key]
                received, sent = max(0, received - received_before), max(0, sent - sent_before)
                state, last_seen, length = self.state, self.present.last, max(0.0, self.present.boot - began)
        (
            (received or 0) + (sent or 0) + unwatched,
            interface + key + name + endpoints + reason,
        )  # TypeError: a foreign type
        if not (0 <= start <= EPOCH_MAX and 0 <= last_seen <= EPOCH_MAX and 0 <= length < 2**60):
            raise ValueError("session %d has an impossible time" % number)
        changes = self.ips.get((interface, key), ())
        ips = changes[0][1] if len(changes) == 1 else ips_at(changes, start)
        return Session(
            self.gateway, interface, key, name, number, start, last_seen, state, length,
            tuple(endpoints.split()), ips or "", received, sent, unwatched, reason,
        )  # fmt: skip


def ips_at(changes: Sequence[tuple[float, str | None]], wall: float) -> str | None:
    # The allowed IPs of a peer at a time. It may have connected before the first reading that showed it.
    current: str | None = None
    for since, ips in changes:
        if since > wall and current is not None:
            break
        current = ips
    return current


# --- Showing ------------------------------------------------------------------------------------------------------

ROWS_MEASURED = 1000  # the first ones, before a table is laid out


class Column(NamedTuple):
    title: str
    cell: Callable[[Any], str]
    rank: int = 0  # the lowest gives way first, if the terminal is too narrow; 0 = it stays
    brief: Callable[[Any], str] | None = None  # what it then shows instead
    right: bool = False
    colour: Callable[[Any], str] = lambda item: ""


# Prints rows as they come. The columns fit the first rows and the terminal; no line is longer than that.
class Table:
    def __init__(self, columns: Sequence[Column], first: Sequence[Any], indent: str = "") -> None:
        import shutil

        self.room, self.indent, self.paint = shutil.get_terminal_size().columns, indent, Paint()
        self.gone: list[str] = []  # the titles of columns that gave way
        self.columns = list(columns)
        self.widths = {column: self.measure(column, first) for column in columns}
        while sum(self.widths.values()) + 2 * len(self.widths) - 2 + len(indent) > self.room:
            column = min(filter(lambda c: c.rank, self.columns), key=lambda c: c.rank, default=None)
            if column is None:
                break
            place = self.columns.index(column)
            del self.widths[column], self.columns[place]
            if column.brief is None:
                self.gone.append(column.title)
            else:
                column = column._replace(cell=column.brief, rank=0)
                self.columns.insert(place, column)
                self.widths[column] = self.measure(column, first)

    def measure(self, column: Column, items: Iterable[Any]) -> int:
        return max([width_of(column.title), *(width_of(column.cell(item)) for item in items)])

    def line(self, cells: Sequence[str], colours: Sequence[str]) -> str:
        room, parts = self.room - len(self.indent), []
        for column, cell, colour in zip(self.columns, cells, colours):
            last = column is self.columns[-1] and not column.right
            text = fit(cell if last else pad(cell, self.widths[column], column.right), room)
            room -= width_of(text) + 2
            parts.append(self.paint(text, colour) if colour != CYAN else self.paint.units(text))
            if room < 1:
                break
        return self.indent + "  ".join(parts).rstrip()

    def head(self) -> str:
        return self.line([column.title for column in self.columns], [DIM] * len(self.columns))

    def row(self, item: Any) -> str:
        return self.line([c.cell(item) for c in self.columns], [c.colour(item) for c in self.columns])

    def note(self, text: str, indent: str = "") -> str:
        # A sentence, on as many lines as it takes.
        import textwrap

        return "\n".join(self.paint(line, DIM) for line in textwrap.wrap(text, self.room, subsequent_indent=indent))


def in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    stream = iter(items)
    while True:
        batch = list(islice(stream, size))
        if not batch:
            return
        yield batch


def write_json(rows: Iterable[Mapping[str, Any]]) -> None:
    import json

    before = "["
    for batch in in_batches(rows, ROWS_MEASURED):
        print(before + ",\n ".join(json.dumps(row) for row in batch), end="")
        before = ",\n "
    print("]" if before != "[" else "[]")


def write_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    # The mark at the beginning tells spreadsheets that this is UTF-8.
    import csv

    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", newline="")
    print("\ufeff", end="")
    writer = csv.DictWriter(sys.stdout, names, quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: cell_of_csv(row.get(name)) for name in names})


def show_notes(notes: Iterable[str], on_stdout: bool = True) -> None:
    table = Table([], [])
    for note in notes:
        print(
            *([table.note(note)] if on_stdout else ["wg_monitor:", note]), file=sys.stdout if on_stdout else sys.stderr
        )


# --- The command status -------------------------------------------------------------------------------------------


# A peer as it is now.
class Peer(NamedTuple):
    gateway: str
    interface: str
    key: str
    name: str
    online: bool
    since: float | None  # None = unknown, or it was never online
    endpoint: str
    allowed_ips: str
    handshake: int  # the last one known; 0 = never
    received: int | None  # in the session; None = it is offline
    sent: int | None


# A run of `wg show all dump`, to be parsed for each store.
class Probed(NamedTuple):
    probe: wg_monitor.Probe
    answer: wg_monitor.Answer


def run_wg() -> Probed:
    """Errors: Refusal."""
    import time

    wg_monitor.judge_permission()
    probe = wg_monitor.Probe(wg_monitor.find_wg())
    try:
        probe.start("all", "dump")
    except OSError as error:
        raise Refusal("%s cannot be run" % probe.wg, wg_monitor.reason_of(error), "try it", EXIT_FAILURE) from None
    answer = None
    while answer is None:
        time.sleep(0.002)
        answer = probe.answer()
    if answer.why:
        raise Refusal("wg gave no answer", answer.why, "try 'wg show'", EXIT_FAILURE)
    return Probed(probe, answer)


# The state table of a store, without the lock and the files that its writer holds.
class Loader(wg_monitor.Store):
    def __init__(self, database: Any, wanted: str, rebooted: wg_monitor.Moment | None) -> None:
        self.database = database
        names = frozenset(wanted.split(",")) if wanted else frozenset()
        complete = None if rebooted else database.execute("SELECT complete FROM monitor").fetchone()[0]
        self.table, _ = self.load_table(names, complete, rebooted)


def load_table(store: Store | None, now: wg_monitor.Moment) -> tuple[wg_monitor.Table, wg_monitor.Settings]:
    # What the monitor knows, and the rule by which it decides.
    environment: dict[str, str] = {}
    if store is None:
        return wg_monitor.Table(), wg_monitor.parse_settings({}, environment)
    present = store.present
    if present.rule is not None:
        environment = dict(zip(("INTERVAL", "THRESHOLD", "LIVENESS", "INTERFACE"), map(str, present.rule)))
    rebooted = None if present.boot_id in ("", wg_monitor.boot_id()) else now
    table = store.read(lambda database: Loader(database, environment.get("INTERFACE", ""), rebooted).table)
    return table, wg_monitor.parse_settings({}, environment)


def peers_of(store: Store | None, probed: Probed | None, now: wg_monitor.Moment) -> tuple[list[Peer], wg_monitor.Table]:
    """The peers as the store shows them; with a run of `wg`, as the monitor would see them in its next reading."""
    table, settings = load_table(store, now)
    if probed is not None:
        blocks, complaints = probed.probe.blocks(probed.answer.size), probed.answer.complaints
        reading = wg_monitor.parse(blocks, complaints, wg_monitor.Memo(), (), settings.interface)
        wg_monitor.decide(table, reading, probed.answer.at, settings)
    peers = []
    for (interface, key), row in sorted(table.rows.items()):
        session, name = row.session, ""
        if store is not None and (interface, key) in store.present.peers:
            name = store.present.peers[interface, key][0]
        since: float | None = None
        received = sent = None
        if session is not None:
            since = session.start if store is not None else None
            received = max(0, row.received - session.received_before) if store is not None else row.received
            sent = max(0, row.transmitted - session.sent_before) if store is not None else row.transmitted
        elif store is not None and row.shown:
            since = row.ended.wall if row.ended.wall > 0 else float(row.shown)
        gateway = "" if store is None else store.gateway
        address = (row.endpoint, row.allowed_ips, row.shown)
        peers.append(Peer(gateway, interface, key, name, session is not None, since, *address, received, sent))
    return peers, table


SORTS: dict[str, Callable[[Peer], Any]] = {
    "name": lambda peer: (not peer.name, peer.name, peer.key),
    "since": lambda peer: -(peer.since or 0),
    "handshake": lambda peer: -peer.handshake,
    "traffic": lambda peer: -((peer.received or 0) + (peer.sent or 0)),
}


def status_fields(peer: Peer, last: float | None, zone: Zone) -> dict[str, Any]:
    def when(wall: float | None) -> str | None:
        return zone.rfc3339(wall) if wall else None

    fields: dict[str, Any] = {"gateway": peer.gateway} if peer.gateway else {}
    fields.update(interface=peer.interface, peer=peer.key, name=peer.name or None, online=peer.online)
    fields.update(since=when(peer.since), endpoint=peer.endpoint or None, allowed_ips=peer.allowed_ips)
    fields.update(handshake=when(peer.handshake), received_bytes=peer.received, sent_bytes=peer.sent)
    fields.update(last_reading=when(last))
    return fields


def status_columns(now: float, gateways: bool) -> list[Column]:
    def ago(peer: Peer) -> str:
        return wg_monitor.duration(now - peer.handshake) + " ago" if peer.handshake else "never"

    def since(peer: Peer) -> str:
        unknown = "unknown" if peer.online or peer.handshake else "never"
        return wg_monitor.duration(now - peer.since) if peer.since else unknown

    def state(peer: Peer) -> str:
        return GREEN_BOLD if peer.online else ""

    return [
        Column("PEER", lambda p: shown_name(p.name, p.key), 8, lambda p: brief_name(p.name, p.key), colour=yellow),
        *([Column("GATEWAY", lambda p: printable(p.gateway, 64), 6)] if gateways else []),
        Column("STATE", lambda p: "online" if p.online else "offline", colour=state),
        Column("SINCE", since, 7, colour=cyan),
        Column("ENDPOINT", lambda p: printable(p.endpoint) or "-", 4),
        Column("HANDSHAKE", ago, 3, colour=cyan),
        Column("RECEIVED", lambda p: size_text(p.received) or "-", 2, right=True, colour=cyan),
        Column("SENT", lambda p: size_text(p.sent) or "-", 1, right=True, colour=cyan),
    ]


def brief_name(name: str, peer: str) -> str:
    return fit(printable(name), 14) if name else printable(peer[:8]) + "..."


def yellow(item: Any) -> str:
    return YELLOW_BOLD


def green(item: Any) -> str:
    return GREEN_BOLD


def cyan(item: Any) -> str:
    return CYAN


def heading(name: str, peers: Sequence[Peer], up: bool, store: Store | None, now: float, zone: Zone) -> str:
    # wg0  2 of 3 online, watched since 2026-11-20 09:12, last reading 12s ago
    parts = ["%d of %d online" % (sum(peer.online for peer in peers), len(peers))]
    if not up:
        parts.append("the interface is down")
    if store is None:
        return ", ".join([*parts, "no store: only what wg shows now"])
    present = store.present
    gaps = [gap.stop for gap in present.gaps if gap.interface in (None, name)]
    since = max([present.since, *gaps])
    if present.is_blind(now):
        parts.append("no monitor runs" if not present.monitor else "the monitor is blind")
    else:
        parts.append("watched since %s" % zone.stamp(since)[:16])
    parts.append("last reading %s ago" % wg_monitor.duration(now - present.last) if present.last else "no reading yet")
    return ", ".join(parts)


def status(words: Sequence[str]) -> int:
    parser = new_parser("status", "Show who is online now, since when, and from where.")
    add_common(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--online", action="store_true", help="only the peers that are online")
    group.add_argument("--offline", action="store_true", help="only the peers that are offline")
    parser.add_argument(
        "--sort", choices=sorted(SORTS), help="order of the peers; default: who is online, then by name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = """Exit codes: 0 done, 1 failure or an unknown peer, 2 invalid usage, 3 a peer named with --peer is
        offline, 4 not permitted."""
    options = parser.parse_args(words)
    zone, now = Zone(options.timezone), wg_monitor.moment()
    stores = open_stores(options.store, needed=False)
    probed: Probed | None = None
    notes = []
    if not options.store:  # what was named may come from another machine
        try:
            probed = run_wg()
        except Refusal as refusal:
            if not stores:
                raise
            notes.append("Handshakes and bytes are those of the last checkpoint: %s." % refusal)
    names, gateways = names_of(options.interface), len(stores) > 1
    everything = [(store, *peers_of(store, probed, now)) for store in (stores or (None,))]
    wanted = wanted_peers(options.peer, [peer for _, peers, _ in everything for peer in peers])
    code = 3 if wanted is not None and any(not peer.online for peer in wanted) else 0
    sort = SORTS[options.sort] if options.sort else lambda peer: (not peer.online, *SORTS["name"](peer))
    parts = []  # store, interface, whether it is up, its peers
    for store, peers, table in everything:
        for name in sorted({peer.interface for peer in peers} | table.interfaces.keys()):
            chosen = [p for p in peers if p.interface == name and (wanted is None or p in wanted)]
            if (not names or name in names) and (wanted is None or chosen):
                parts.append((store, name, name not in table.interfaces or table.interfaces[name].up, chosen))
    shown = [
        [p for p in chosen if p.online >= options.online and p.online <= (not options.offline)] for *_, chosen in parts
    ]
    shown = [sorted(peers, key=sort) for peers in shown]
    if gateways:
        notes.append("Read: %s." % ", ".join(printable(store.path) for store in stores))
    if options.json:
        lasts = [None if store is None else store.present.last for store, *_ in parts]
        write_json(status_fields(p, last, zone) for last, peers in zip(lasts, shown) for p in peers)
        show_notes(notes, on_stdout=False)
        return code
    table_ = Table(status_columns(now.wall, gateways), [peer for peers in shown for peer in peers], "  ")
    for (store, name, up, chosen), peers in zip(parts, shown):
        name, text = printable(name), heading(name, chosen, up, store, now.wall, zone)
        print(fit(name + "  " + text, table_.room).replace(name, table_.paint(name, GREEN_BOLD), 1))
        if peers:
            print("\n".join([table_.head(), *map(table_.row, peers)]))
    if not parts:
        print("No WireGuard interface" + ("" if not names else " of this name") + ".")
    show_notes(notes)
    return code


def wanted_peers(texts: Sequence[str], peers: Sequence[Peer]) -> list[Peer] | None:
    # Those that --peer names. Errors: Refusal.
    if not texts:
        return None
    wanted = []
    for text in texts:
        found = [peer for peer in peers if peer.name == text] or [p for p in peers if means(text, p.key)]
        if not found:
            raise unknown_peer(text)
        if len({peer.key for peer in found if peer.name != text}) > 1:
            raise several_peers(text, sorted({peer.key for peer in found}))
        wanted += found
    return wanted


# --- The command sessions -----------------------------------------------------------------------------------------

SESSION_FIELDS = (
    "interface", "peer", "name", "session", "session_start", "last_seen", "length_s", "endpoint", "endpoints",
    "allowed_ips", "received_bytes", "sent_bytes", "unwatched_s", "reason", "online",
)  # fmt: skip
REASONS = ("idle", "unreachable", "interface-down", "removed", "reset", "unknown")


def session_fields(session: Session, zone: Zone) -> dict[str, Any]:
    # Named as in the trail with LOG_FORMAT=json.
    s = session
    start, until, endpoint = zone.rfc3339(s.start), zone.rfc3339(s.until), s.endpoints[-1] if s.endpoints else None
    values = (
        s.interface, s.peer, s.name or None, s.number, start, until, round(s.length), endpoint, list(s.endpoints),
        s.allowed_ips, s.received, s.sent, round(s.unwatched), s.reason or None, True,
    )  # fmt: skip
    fields = {"gateway": s.gateway} if s.gateway else {}
    return {**fields, **dict(zip(SESSION_FIELDS if s.state == ONLINE else SESSION_FIELDS[:-1], values))}


def end_text(stop: float, start: float, zone: Zone) -> str:
    # The time alone if it is on the day of the beginning.
    text = zone.stamp(stop)
    return text[11:] if text[:10] == zone.stamp(start)[:10] else text


def until_text(session: Session, zone: Zone, brief: bool = False) -> str:
    # The star says that nobody watched for a part of the session.
    text = {ONLINE: "still on" if brief else "still connected", UNKNOWN: "unknown"}.get(session.state, "")
    if not text:
        text = end_text(session.until, session.start, zone)
        text = text[5 * (len(text) > 8) : -3] if brief else text
    return text + "*" if session.unwatched else text


def endpoint_text(session: Session) -> str:
    more = " (+%d)" % (len(session.endpoints) - 1) if len(session.endpoints) > 1 else ""
    return printable(session.endpoints[-1]) + more if session.endpoints else "-"


def session_columns(zone: Zone, gateways: bool) -> list[Column]:
    return [
        *([Column("GATEWAY", lambda s: printable(s.gateway, 64), 10)] if gateways else []),
        Column("PEER", lambda s: shown_name(s.name, s.peer), 4, lambda s: brief_name(s.name, s.peer), colour=yellow),
        Column("IFACE", lambda s: printable(s.interface), 7, colour=green),
        Column("CONNECTED", lambda s: zone.stamp(s.start), 5, lambda s: zone.stamp(s.start)[:16]),
        Column("UNTIL", lambda s: until_text(s, zone), 5, lambda s: until_text(s, zone, brief=True)),
        Column("LENGTH", lambda s: wg_monitor.duration(s.length), 8, colour=cyan),
        Column("ENDPOINT", endpoint_text, 9),
        Column("TUNNEL ADDRESS", lambda s: hosts_text(s.allowed_ips), 3),
        Column("RECEIVED", lambda s: size_text(s.received), 2, right=True, colour=cyan),
        Column("SENT", lambda s: size_text(s.sent), 1, right=True, colour=cyan),
        Column("ENDED", lambda s: printable(s.reason), 6),
    ]


def gap_text(gap: Gap, zone: Zone) -> str:
    where = "[%s] " % printable(gap.interface) if gap.interface else ""
    why = " (%s)" % printable(gap.why) if gap.why else ""
    return "%snot watched from %s to %s%s" % (where, zone.stamp(gap.start), end_text(gap.stop, gap.start, zone), why)


def show_sessions(sessions: Iterable[Session], gaps: Sequence[Gap], zone: Zone, gateways: bool) -> tuple[int, int]:
    """Prints a table, with the time that nobody watched in lines of its own. Returns how many sessions of how many peers
    it holds."""
    table: Table | None = None
    count, peers, waiting, spans = 0, set(), deque(gaps), False
    for batch in in_batches(sessions, ROWS_MEASURED):
        lines = []
        if table is None:
            table = Table(session_columns(zone, gateways), batch)
            lines.append(table.head())
        for session in batch:
            while waiting and waiting[0].start <= session.start:
                lines.append(table.note("-- " + gap_text(waiting.popleft(), zone)))
            lines.append(table.row(session))
            spans |= session.unwatched > 0
            peers.add(session[:3])
        count += len(batch)
        print("\n".join(lines))
    table = table or Table([], [])
    for gap in waiting:
        print(table.note("-- " + gap_text(gap, zone)))
    if spans:
        print(table.note("* Nobody watched for a part of this session."))
    if table.gone:
        print(table.note("Too narrow for: %s. --format csv has everything." % ", ".join(table.gone)))
    return count, len(peers)


def watched_texts(histories: Sequence[History], presents: Sequence[bool], zone: Zone) -> Iterator[str]:
    # Where the answer comes from, and when it may be incomplete. `presents`: whether somebody watches now.
    for history, watching in zip(histories, presents):
        first, last = history.watched
        if last <= first:
            text = "nothing was recorded yet"
        elif watching:
            text = "watched since %s" % zone.stamp(first)
        else:
            text = "watched from %s to %s, and not since" % (zone.stamp(first), zone.stamp(last))
        name = "%s (%s)" % (printable(history.gateway), printable(history.path)) if history.gateway else ""
        yield "%s: %s." % (name, text) if name else text[0].upper() + text[1:] + "."
        yield from history.notes


def total_columns(zone: Zone, gateways: bool) -> list[Column]:
    def share(total: Total) -> str:
        return "" if total.share is None else "%.1f %%" % (100 * total.share)

    def size(count: int | None, total: Total) -> str:
        return size_text(count) + ("+" if total.beyond and count is not None else "")

    return [
        *([Column("GATEWAY", lambda t: printable(t.gateway, 64), 10)] if gateways else []),
        Column("PEER", total_name, 6, lambda t: brief_name(t.name, t.peer) if t.peer else "all", colour=yellow),
        Column("IFACE", lambda t: printable(t.interface), 7, colour=green),
        Column("SESSIONS", lambda t: str(t.sessions), right=True),
        Column("ONLINE", lambda t: wg_monitor.duration(t.online_s), right=True, colour=cyan),
        Column("SHARE", share, 9, right=True),
        Column("LONGEST", lambda t: wg_monitor.duration(t.longest_s), 4, right=True, colour=cyan),
        Column("MEDIAN", lambda t: wg_monitor.duration(t.median_s), 3, right=True, colour=cyan),
        Column("BREAKS/H", lambda t: "%.2f" % (t.interruptions_per_hour or 0), 2, right=True),
        Column("RECEIVED", lambda t: size(t.received_bytes, t), 8, right=True, colour=cyan),
        Column("SENT", lambda t: size(t.sent_bytes, t), 8, right=True, colour=cyan),
        Column("ADDRESSES", lambda t: str(t.addresses), 1, right=True),
    ]


def total_name(total: Total) -> str:
    return shown_name(total.name, total.peer) if total.peer else "all"


def usage_columns(unit: str) -> list[Column]:
    def size(count: int | None, usage: Usage) -> str:
        return ("~" if usage.estimated and count else "") + size_text(count)

    return [
        Column(unit.upper(), lambda u: u.unit),
        Column("SESSIONS", lambda u: str(u.sessions), 3, right=True),
        Column("PEERS", lambda u: str(u.peers), 4, right=True),
        Column("ONLINE", lambda u: wg_monitor.duration(u.online_s), right=True, colour=cyan),
        Column("RECEIVED", lambda u: size(u.received_bytes, u), 2, right=True, colour=cyan),
        Column("SENT", lambda u: size(u.sent_bytes, u), 1, right=True, colour=cyan),
        Column("NOT WATCHED", lambda u: wg_monitor.duration(u.unwatched_s) if u.unwatched_s else "", 5, right=True),
    ]


def show_sums(columns: Sequence[Column], items: Sequence[Any]) -> None:
    table = Table(columns, items)
    print("\n".join([table.head(), *map(table.row, items)]))
    if any(getattr(item, "beyond", False) for item in items):
        print(table.note("+ Includes the bytes of whole sessions that reach beyond the period."))
    if any(getattr(item, "estimated", False) for item in items):
        print(table.note("~ The bytes of a session that reaches beyond are spread evenly over its time."))
    if table.gone:
        print(table.note("Too narrow for: %s. --format csv has everything." % ", ".join(table.gone)))


def sum_fields(item: Any, zone: Zone) -> dict[str, Any]:
    fields = {name: value if value != "" else None for name, value in item._asdict().items()}
    for name in fields.keys() & {"start", "stop"}:
        fields[name] = zone.rfc3339(getattr(item, name))
    return fields


def period_of(options: Any, now: float, zone: Zone) -> tuple[Period, list[str]]:
    # The period that is asked for, and what there is to say about it. Errors: Refusal.
    if options.present is not None and (options.since is not None or options.until is not None):
        raise Refusal("invalid usage", "--present goes without --since and --until", "see --help")
    begin, end = options.present or options.since, options.present or options.until
    since, note = parse_moment(begin, now, zone) if begin else (-FOREVER, "")
    until, other = parse_moment(end, now, zone, end=True) if end else (FOREVER, "")
    if since > until:
        found = "--since %s" % printable(begin)
        raise Refusal(found, "it is later than --until %s" % printable(end), "exchange the two")
    return Period(since, until), [text for text in dict.fromkeys((note, other)) if text]


def query_of(options: Any, sources: Sequence[Any]) -> Query:
    """Errors: Refusal."""
    keys: set[str] = set()
    for text in options.peer:
        meant: set[str] = set().union(*(source.find(text) for source in sources))
        if not meant:
            raise unknown_peer(text)
        keys |= meant
    address = ""
    if options.ip:
        import socket

        family = socket.AF_INET6 if ":" in options.ip else socket.AF_INET
        try:  # as `wg` prints it
            address = socket.inet_ntop(family, socket.inet_pton(family, options.ip))
        except (OSError, ValueError):
            found, remedy = "--ip %s" % printable(options.ip), "write it like 203.0.113.7, 10.0.0.2 or 2001:db8::7"
            raise Refusal(found, "it is no address", remedy) from None
    reasons = names_of(options.reason)
    if reasons - set(REASONS):
        found = "--reason %s" % printable(min(reasons - set(REASONS)))
        raise Refusal(found, "no session ends so", "choose from " + ", ".join(REASONS))
    shortest = length_of(options.min_length) if options.min_length else 0.0
    chosen = frozenset(keys) if options.peer else None
    return Query(
        chosen, frozenset(options.peer), names_of(options.interface), reasons, address, shortest, options.last or 0
    )


def length_of(text: str) -> float:
    words = text.lower().replace(" ", "")
    if not re.fullmatch("([0-9]{1,9}[wdhms])+|[0-9]{1,9}", words):
        remedy = "write it like 90s, 5m, 1h30m or 2d"
        raise Refusal("--min-length %s" % printable(text), "it is no length", remedy)
    return float(sum(int(n) * AGO_S[unit or "s"] for n, unit in re.findall("([0-9]+)([wdhms]?)", words)))


def sessions_parser() -> Any:
    parser = new_parser("sessions", "Show who was connected when, from where, how much, and why it ended.")
    add_common(parser)
    add = parser.add_argument
    add("-s", "--since", metavar="MOMENT", help="sessions that were open at or after this moment")
    add("-t", "--until", metavar="MOMENT", help="sessions that began before it; a day counts until its end")
    add("-p", "--present", metavar="MOMENT", help="who was connected then; a day counts as a whole")
    add("-n", "--last", metavar="N", type=positive, help="only the newest N")
    add("--ip", metavar="ADDRESS", help="that came from this address, or whose peer had this tunnel address then")
    add("--reason", metavar="REASON", action="append", default=[], help="that ended so: " + ", ".join(REASONS))
    add("--min-length", metavar="LENGTH", help="that lasted so long: 90s, 5m, 1h30m")
    sums = parser.add_mutually_exclusive_group()
    sums.add_argument("--summary", action="store_true", help="one line for each peer, and one for all")
    sums.add_argument("--by", choices=("day", "week", "month"), help="usage over time")
    add("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    parser.epilog = (
        "MOMENT: %s. Exit codes: 0 done, 1 failure or an unknown peer, 2 invalid usage, 4 not permitted."
        % (MOMENTS.partition("these: ")[2])
    )
    return parser


def positive(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not int(text):
        raise ValueError(text)
    return int(text)


def sessions(words: Sequence[str]) -> int:
    options = sessions_parser().parse_args(words)
    zone, now = Zone(options.timezone), wg_monitor.moment().wall
    period, notes = period_of(options, now, zone)
    sources = open_stores(options.store)
    query = query_of(options, sources)
    histories = [source.history(query, now) for source in sources]
    watching = [source.watching(now) for source in sources]
    stream: Iterable[Session] = merge(*(h.sessions(period) for h in histories), key=lambda session: session.start)
    if len(histories) == 1:
        stream = histories[0].sessions(period)
    if query.last:
        newest = deque(stream, query.last)
        stream = newest
        period = period._replace(since=max(period.since, newest[0].start)) if newest else period
    gaps = [g for h in histories for g in h.gaps if g.start < period.until and g.stop > period.since]
    gaps.sort(key=lambda gap: gap.start)
    gateways = len(sources) > 1 or bool(sources[0].gateway)
    notes += watched_texts(histories, watching, zone)
    if options.summary or options.by:
        sum_up(options, stream, histories, period, zone, gateways)
    elif options.format == "json":
        write_json(session_fields(session, zone) for session in stream)
    elif options.format == "csv":
        names = ("gateway", *SESSION_FIELDS) if gateways else SESSION_FIELDS
        write_csv(names, (dict(session_fields(s, zone), endpoints=" ".join(s.endpoints)) for s in stream))
    else:
        count, peers = show_sessions(stream, gaps, zone, gateways)
        found = "%s of %s" % (wg_monitor.counted(count, "session"), wg_monitor.counted(peers, "peer"))
        notes.insert(0, found + "." if count else "No session" + asked_text(options, period, zone) + ".")
    show_notes(notes, options.format == "table")
    return 0


def sum_up(
    options: Any, stream: Iterable[Session], histories: Sequence[History], period: Period, zone: Zone, gateways: bool
) -> None:
    items: list[Any]
    names: Sequence[str] = Total._fields
    if options.by:
        items, names = list(add_up_by(options.by, stream, histories, period, zone)), Usage._fields
    else:
        totals, total = add_up(stream, histories, period)
        items = [*sorted(totals, key=lambda t: (not t.name, t.name, t[:3])), total]
    rows = (sum_fields(item, zone) for item in items)
    if options.format == "json":
        write_json(rows)
    elif options.format == "csv":
        write_csv(names, rows)
    else:
        show_sums(usage_columns(options.by) if options.by else total_columns(zone, gateways), items)


def asked_text(options: Any, period: Period, zone: Zone) -> str:
    # What was asked for, in words.
    text = " of " + listed([printable(peer) for peer in options.peer]) if options.peer else ""
    if period.since == period.until:
        return text + " at " + zone.stamp(period.since)
    text += " from %s" % zone.stamp(period.since) if period.since > -FOREVER else ""
    return text + (" until %s" % end_text(period.until, period.since, zone) if period.until < FOREVER else "")


# --- The command line ---------------------------------------------------------------------------------------------


def new_parser(command: str, description: str) -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise Refusal("invalid usage", printable(message), "see wg-monitor %s --help" % command)

    parser = Parser("wg-monitor " + command, allow_abbrev=False, description=description)
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    return parser


def add_common(parser: Any) -> None:
    # What both commands share.
    add = parser.add_argument
    add(
        "--peer",
        metavar="PEER",
        action="append",
        default=[],
        help="a name, a key, or the beginning of a key; repeatable",
    )
    add("--interface", metavar="NAME", action="append", default=[], help="only this interface; repeatable")
    add(
        "--store", metavar="[NAME=]FILE", action="append", default=[],
        help="read this store; repeatable, and NAME is then a column; default: those in " + STORES,
    )  # fmt: skip
    add("--timezone", metavar="ZONE", default="", help="such as Europe/Berlin; default: the machine's")


def names_of(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(name for text in texts for name in text.split(",") if name)


def means(text: str, key: str) -> bool:
    # Whether a text is a key, the beginning of one, or a short one.
    first, _, last = text.partition("...")
    return len(first) > 0 and key.startswith(first) and key.endswith(last)


def unknown_peer(text: str) -> Refusal:
    found = "--peer %s" % clean(text)
    return Refusal(found, "no peer has this name or key", "wg-monitor status lists the peers", EXIT_FAILURE)


def several_peers(text: str, keys: Sequence[str]) -> Refusal:
    more = ", ..." if len(keys) > 3 else ""
    return Refusal("--peer %s" % clean(text), "it means %s%s" % (", ".join(keys[:3]), more), "write more of the key")


def open_stores(texts: Sequence[str], needed: bool = True) -> list[Store]:
    """Those that were named, or those of this machine. Errors: Refusal, PermissionError."""
    pairs = [("", text) for text in texts]
    if not texts:
        try:
            names = [name for name in sorted(os.listdir(STORES)) if re.fullmatch(r"state(-.+)?\.db", name)]
        except FileNotFoundError:
            names = []
        pairs = [("", STORES + "/" + name) for name in names]
    for n, (_, text) in enumerate(pairs):
        name, equals, path = text.partition("=")
        named = equals and "/" not in name
        pairs[n] = (
            (name, path) if named else (os.path.basename(text).rpartition(".")[0] if len(pairs) > 1 else "", text)
        )
    if not pairs and needed:
        why, remedy = "%s holds none" % STORES, "start the monitor with STATE_PATH, or name a store with --store"
        raise Refusal("there is no store", why, remedy, EXIT_FAILURE)
    twice = len({name for name, _ in pairs}) < len(pairs)
    return [Store(path if twice else name, path) for name, path in pairs]


def as_root(words: Sequence[str]) -> str:
    # The command that root has to type.
    from shlex import quote

    program = sys.argv[0] if sys.argv[0].endswith(".py") else ""
    return clean(" ".join(["sudo", *(["python3", quote(program)] if program else ["wg-monitor"]), *map(quote, words)]))


def silence_output() -> None:
    # What is still in the buffer is not written when the interpreter ends.
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"status": status, "sessions": sessions}


def main(words: Sequence[str]) -> int:
    # The first word is the command.
    if words[0] not in COMMANDS:
        raise Refusal("'%s' is not known" % printable(words[0]), "it is no command", "see --help")
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # what the terminal cannot show
    try:
        code = COMMANDS[words[0]](words[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # such as `| head`
        silence_output()
        return 0
    except PermissionError as error:
        found = "%s cannot be read" % printable(str(error.filename))
        raise Refusal(found, "only root can read it", "type: " + as_root(words), EXIT_NOT_PERMITTED) from None
    except OSError as error:
        silence_output()
        found = (
            "%s cannot be read" % printable(str(error.filename)) if error.filename else "the output cannot be written"
        )
        raise Refusal(found, wg_monitor.reason_of(error), "nothing else is wrong", EXIT_FAILURE) from None


if __name__ == "__main__":
    sys.exit(wg_monitor.main())
