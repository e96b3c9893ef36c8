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

import errno
import gc
import os
import re
import stat
import sys
import time
from array import array
from bisect import bisect_right
from collections import deque
from contextlib import closing, suppress
from datetime import date, datetime, timedelta, timezone
from functools import partial
from heapq import merge
from itertools import groupby, islice
from operator import attrgetter
from shutil import get_terminal_size
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, NoReturn, Sequence, Tuple

import wg_monitor
from wg_monitor import COUNTER_MAX, DAY_S, EPOCH_MAX, EXIT_FAILURE, EXIT_NOT_PERMITTED, Refusal, counted, printable

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
UNITS_MAX = 40_000  # days of a century: a clock that began in 1970 does not take all memory


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


def median(ordered: Sequence[Sequence[float]]) -> float:
    """The median of all these lengths, in milliseconds. Each sequence is in order."""
    count = sum(map(len, ordered))
    return round((ranked(ordered, (count + 1) // 2) + ranked(ordered, count // 2 + 1)) / 2, 3) if count else 0.0


def ranked(ordered: Sequence[Sequence[float]], rank: int) -> float:
    # The length at this place, from 1, of all in order. Halving an interval takes no memory: one list of a million
    # lengths takes 32 MiB, and half a second to sort.
    low, high = -1.0, max(lengths[-1] for lengths in ordered)
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = sum(bisect_right(lengths, middle) for lengths in ordered) >= rank
        low, high = (low, middle) if enough else (middle, high)
    return high


def plus(count: int | None, more: int | None) -> int | None:
    # None = unknown: what is known counts.
    return more if count is None else count if more is None else count + more


# The sessions of one peer so far: what a total needs of them.
class Sum:
    __slots__ = (
        "period", "parts", "name", "lengths", "online", "unwatched", "received", "sent", "beyond", "addresses", "cut",
        "cuts",
    )  # fmt: skip

    def __init__(self, period: Period = Period(), parts: Sequence[Stretch] = ()) -> None:  # noqa: B008
        self.period, self.parts = period, parts  # `parts`: when the peer's interface was watched in it
        self.name = ""
        self.lengths = array("d")
        self.online = self.unwatched = 0.0
        self.received: int | None = None
        self.sent: int | None = None
        self.beyond = self.cut = False  # `cut`: the last session ended as `unreachable`
        self.cuts = 0
        self.addresses: set[str] = set()

    def add(self, session: Session) -> None:
        # A million sessions in 5 s: it calls as little as it can.
        _, _, _, name, _, start, until, _, length, endpoints, _, received, sent, unwatched, reason = session
        if name:
            self.name = name
        self.lengths.append(length)
        if received is not None:
            self.received = received if self.received is None else self.received + received
        if sent is not None:
            self.sent = sent if self.sent is None else self.sent + sent
        self.cuts += self.cut
        self.cut = reason == "unreachable"
        for endpoint in endpoints:
            address = endpoint.rpartition(":")[0]
            if address not in self.addresses:
                self.addresses.add(sys.intern(address))  # thousands of peers come from the same ones
        since, end = self.period
        if not since <= start <= until < end:
            part = part_of(session, since, end)
            length *= part
            self.beyond |= part != 1
        self.online += length
        if unwatched:  # it has a part in a gap, which goes on after its end maybe
            begin, end = max(start, since), min(until, end)
            self.unwatched += max(0.0, min(unwatched, end - begin - overlap(self.parts, begin, end)))

    def total(self, who: tuple[str, str, str], watched_s: float, ordered: Sequence[Sequence[float]]) -> Total:
        # `ordered`: the lengths of its sessions.
        self.addresses.discard("")
        seen, hours = max(0.0, self.online - self.unwatched), self.online / 3600
        return Total(
            *who,
            self.name,
            sum(map(len, ordered)),
            round(self.online, 3),
            round(self.unwatched, 3),
            min(1.0, seen / watched_s) if watched_s else None,
            max((lengths[-1] for lengths in ordered), default=0.0),
            median(ordered),
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
        one = sums.get(who)
        if one is None:
            if who[:2] not in parts:
                parts[who[:2]] = watched(sources[session.gateway], session.interface, period)
            one = sums[who] = Sum(period, parts[who[:2]])
        one.add(session)
    every, all_s = Sum(), 0.0
    totals = []
    for who, one in sums.items():
        watched_s = overlap(one.parts, *period)
        one.lengths = array("d", sorted(one.lengths))
        totals.append(one.total(who, watched_s, [one.lengths]))
        all_s += watched_s
        every.addresses |= one.addresses
        every.online += one.online
        every.unwatched += one.unwatched
        every.cuts += one.cuts
        every.beyond |= one.beyond
        every.received, every.sent = plus(every.received, one.received), plus(every.sent, one.sent)
    return totals, every.total(("", "", ""), all_s, [one.lengths for one in sums.values()])


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
    def __init__(self, first: date, unit: str, zone: Zone) -> None:
        self.first, self.after = first, next_unit(first, unit)
        self.start, self.stop = zone.midnight(first), zone.midnight(self.after)
        self.sessions, self.online, self.estimated = 0, 0.0, False
        self.peers = 0  # a bit for each: a year of days of 10,000 peers takes half a megabyte
        self.received: int | None = None
        self.sent: int | None = None

    def add(self, session: Session, period: Period, peer: int) -> None:
        start, stop = max(self.start, period.since), min(self.stop, period.until)
        before, after = 0.0, 1.0
        if not start <= session.start <= session.until < stop:
            before, after = part_of(session, -FOREVER, start), part_of(session, -FOREVER, stop)
        if after > before or start <= session.start < stop:
            self.sessions += 1
            self.peers |= peer
            self.online += session.length * (after - before)
            self.received = plus(self.received, share_of(session.received, before, after))
            self.sent = plus(self.sent, share_of(session.sent, before, after))
            self.estimated |= after - before < 1


def share_of(count: int | None, before: float, after: float) -> int | None:
    # All shares of a count make up the count.
    if count is None:
        return None
    return (count if after == 1 else int(count * after)) - (count if before == 1 else int(count * before))


# All units from the first one with a session to the last.
class Buckets:
    def __init__(self, unit: str, zone: Zone) -> None:
        self.unit, self.zone = unit, zone
        self.all: list[Bucket] = []
        self.starts: list[float] = []

    def cover(self, since: float, until: float) -> None:
        """Errors: Refusal."""
        while not self.all or self.all[-1].stop <= until:
            first = first_of_unit(self.zone.local(since).date(), self.unit) if not self.all else self.all[-1].after
            self.insert(len(self.all), first)
        while since < self.starts[0]:
            self.insert(0, first_of_unit(self.all[0].first - timedelta(1), self.unit))

    def insert(self, place: int, first: date) -> None:
        if len(self.all) >= UNITS_MAX or first.year >= 9999:
            found, remedy = "--by %s" % self.unit, "choose a period with --since and --until"
            raise Refusal(found, "there are more than %d of them" % UNITS_MAX, remedy)
        self.all.insert(place, Bucket(first, self.unit, self.zone))
        self.starts.insert(place, self.all[place].start)

    def add(self, session: Session, period: Period, peer: int) -> None:
        since = max(session.start, period.since)
        until = max(since, min(session.until, period.until))
        if not self.all or since < self.starts[0] or until >= self.all[-1].stop:
            self.cover(since, until)
        number = bisect_right(self.starts, since) - 1
        while number < len(self.all) and self.starts[number] <= until:
            self.all[number].add(session, period, peer)
            number += 1


def add_up_by(
    unit: str, sessions: Iterable[Session], histories: Sequence[History], period: Period, zone: Zone
) -> Iterator[Usage]:
    """The usage in each day, week or month of a period, from the first time that somebody watched to the last.
    Errors: Refusal."""
    begins, ends = zip(*(history.watched for history in histories))
    gaps = sorted((gap for history in histories for gap in history.gaps), key=lambda gap: gap.start)
    parts = watched(histories[0]._replace(watched=Period(max(begins), min(ends)), gaps=gaps), None, period)
    begin, end = min(begins), max(ends)
    buckets = Buckets(unit, zone)
    peers: dict[tuple[str, ...], int] = {}
    for session in sessions:
        begin, end = min(begin, session.start), max(end, session.until)
        buckets.add(session, period, 1 << peers.setdefault(session[:3], len(peers)))
    begin, end = max(begin, period.since), min(end, period.until)
    if begin < end:
        buckets.cover(begin, end)
    for bucket in buckets.all:
        start, stop = max(begin, bucket.start), min(end, bucket.stop)
        if start < stop or bucket.sessions:  # there are days that a country has skipped
            yield Usage(
                unit_name(bucket.first, unit),
                start,
                stop,
                bucket.sessions,
                bin(bucket.peers).count("1"),
                round(bucket.online, 3),
                bucket.received,
                bucket.sent,
                bucket.estimated,
                round(stop - start - overlap(parts, start, stop), 3),
            )


# --- Text ---------------------------------------------------------------------------------------------------------
# What comes from a store or a trail reaches a terminal or a spreadsheet only through these functions.

FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # a spreadsheet takes a cell that begins so for a formula
UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
GREEN_BOLD, YELLOW_BOLD, CYAN, DIM, RESET = "\x1b[32m\x1b[1m", "\x1b[33m\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


def clean(text: str) -> str:
    # Like printable, but keys stay.
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def width_of(text: str) -> int:
    # The columns of a terminal that a text takes: two for wide characters, none for marks over the one before.
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    marks = [c for c in text if category(c) in ("Mn", "Me") or "\u1160" <= c <= "\u11ff"]
    return len(text) - len(marks) + sum(east_asian_width(c) in "WF" for c in text)


def fit(text: str, columns: int) -> str:
    # The beginning of a text that is too wide.
    if width_of(text) <= columns:
        return text
    while width_of(text) >= columns > 0:
        text = text[: max(columns - 1, len(text) // 2)] if len(text) > 2 * columns else text[:-1]
    return text + "…"


def pad(text: str, columns: int, right: bool) -> str:
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


def length_text(seconds: float) -> str:
    return wg_monitor.duration(min(seconds, EPOCH_MAX))  # a hostile store says infinite


def name_text(name: str, peer: str) -> str:
    return printable(name, 64) if name else printable(wg_monitor.short_key(peer))


def brief_name(name: str, peer: str) -> str:
    return fit(printable(name), 14) if name else printable(peer[:8]) + "..."


def cell_of_csv(value: object) -> object:
    # Numbers stay numbers. A text that a spreadsheet would run gets the apostrophe that makes it a text.
    if value is None or isinstance(value, (bool, int, float)):
        return {None: "", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else value
    return ("'" if str(value).startswith(FORMULA) else "") + clean(str(value))


# Colours as `wg show` has them, and on the same conditions.
class Paint:
    def __init__(self) -> None:
        mode = os.environ.get("WG_COLOR_MODE", "auto")
        terminal = sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.on = mode == "always" or (mode != "never" and terminal)

    def __call__(self, text: str, colour: str) -> str:
        if not self.on or not colour:
            return text
        pattern = r"[KMGTP]i?B|[dhms]\b" if colour == CYAN else r"\S.*\S|\S"  # cyan is for units
        return re.sub(pattern, lambda match: colour + match.group() + RESET, text)


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


def chooser(
    query: Query, held: Mapping[Key, Sequence[Stretch]], period: Period, now: float = FOREVER
) -> Callable[[Session], bool]:
    """Whether a session overlaps a period and a query asks for it. A period that is one moment includes it; any other
    does not include its end. A session that goes on does so up to `now`. `held`: when which peer held the tunnel address
    that is asked for."""
    (since, until), address, every = period, query.address, query._replace(last=0) == Query()
    starts = ("[%s]" % address, "[%s%%" % address) if ":" in address else (address + ":",)

    def wanted(s: Session) -> bool:
        if (s.start >= until and s.start != since) or (s.until < since and (s.state != ONLINE or now < since)):
            return False
        if every:
            return True
        if query.keys is not None and s.peer not in query.keys and s.name not in query.names:
            return False
        if (query.interfaces and s.interface not in query.interfaces) or s.length < query.shortest:
            return False
        if query.reasons and s.reason not in query.reasons:
            return False
        if not address or any(endpoint.startswith(starts) for endpoint in s.endpoints):
            return True
        first, last = max(s.start, since), max(s.start, min(s.until, until))
        return any(start <= max(first, last) and first <= stop for start, stop in held.get((s.interface, s.peer), ()))

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
    known: set[Key] = set()
    gone: dict[Key, float] = {}  # when a peer was removed
    for (interface, since), rows in groupby(changes, key=lambda change: (change[0], change[2])):
        peers, early = prefixes.setdefault(interface, {}), {}
        for _, key, _, ips in rows:  # all that one reading saw
            peer, prefix = (interface, key), longest(ips)
            peers.pop(key, None)
            if prefix >= 0:
                peers[key] = prefix
            # A peer that appears may have been there before the reading that showed it, but not while it was removed.
            early[key] = since if peer in known and peer not in gone else gone.pop(peer, -FOREVER)
            known.add(peer)
            if ips is None:
                gone[peer] = since
        now = max(peers, key=lambda key: (peers[key], key in early), default="")
        before, start = holder.get(interface, ("", since))
        if now != before:
            if before:
                held.setdefault((interface, before), []).append((start, since))
            holder[interface] = (now, early.get(now, since))
    for interface, (key, start) in holder.items():
        if key:
            held.setdefault((interface, key), []).append((start, FOREVER))
    return held


def means(text: str, key: str) -> bool:
    # Whether a text is a key, the beginning of one, or a short one.
    first, _, last = text.partition("...")
    return first != "" and key.startswith(first) and key.endswith(last)


def one_key(text: str, keys: set[str]) -> set[str]:
    """Errors: Refusal, if a text is the beginning of several keys."""
    if len(keys) > 1:
        why = "it means %d peers, among them %s" % (len(keys), " and ".join(sorted(keys)[:2]))
        raise Refusal("--peer %s" % clean(text), why, "write more of the key")
    return keys


def unknown_peer(text: str) -> Refusal:
    why, remedy = "no peer has this name or key", "'wg-monitor status' lists the peers"
    return Refusal("--peer %s" % clean(text), why, remedy, EXIT_FAILURE)


# --- Reading a store ----------------------------------------------------------------------------------------------

STORES = "/var/lib/wg-monitor"
BATCH = 5000  # sessions that are read at once
BEGINNING = attrgetter("start")
# What schemas 1 and 2 lack of schema 3. Every event of a peer shows its allowed IPs.
OLDER = """
    CREATE TEMP VIEW monitor AS SELECT *, '' AS id, 0 AS stamp FROM main.monitor;
    CREATE TEMP VIEW peers AS SELECT *, '' AS name, NULL AS ended, NULL AS ended_wall FROM main.peers;
    CREATE TEMP VIEW sessions AS SELECT *, '' AS name FROM main.sessions;
    CREATE TEMP VIEW runs AS SELECT 0 AS number, 0.0 AS start, 0 AS interval, 0 AS threshold, '' AS liveness,
        '' AS interfaces WHERE 0;
    CREATE TEMP VIEW unwatched AS SELECT 0.0 AS start, 0.0 AS stop, '' AS interface, '' AS why WHERE 0;
    CREATE TEMP VIEW allowed_ips AS SELECT seq AS number, interface, public_key, wall AS since,
        CASE WHEN kind <> 'REMOVED' THEN allowed_ips END AS ips FROM main.events WHERE public_key IS NOT NULL"""
SESSIONS = """SELECT interface, public_key, name, number, start, last_seen, length, endpoints, received, sent, unwatched,
    reason FROM sessions
    WHERE start <= ? AND (last_seen IS NULL OR last_seen >= ?) AND number > ? AND number < ?"""


# A database that somebody else writes. It is opened for each question anew, so that no transaction stays open while
# the output blocks. Nothing is written, not even by a lock of ours or a checkpoint. Errors: Refusal, OSError.
class Store:
    def __init__(self, gateway: str, path: str) -> None:
        self.gateway, self.path, self.version = gateway, os.path.abspath(path), 0
        self.monitor = wg_monitor.use_of(self.path + ".lock").partition("by ")[2]  # the process that runs; "" = none
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise self.refusal("is no store", "it is not a regular file")
        except FileNotFoundError:
            raise self.refusal("does not exist", "no monitor has written it") from None
        if not os.access(self.path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)
        self.version = int(self.ask("PRAGMA user_version")[0][0])
        tables = {row[0] for row in self.ask("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables >= wg_monitor.TABLES or self.version < 1:
            raise self.refusal("is no store", "it is a database of another program")
        if self.version > wg_monitor.SCHEMA:
            why = "it has schema %d, this one knows %d" % (self.version, wg_monitor.SCHEMA)
            raise self.refusal("was written by a newer wg_monitor", why, "install that version")
        note: dict[str, str] = {}  # from the small file, before the database: if they differ, the database is newer
        flags = os.O_NONBLOCK | os.O_NOFOLLOW
        with suppress(OSError), open(
            self.path + ".last", "rb", opener=lambda path, f: os.open(path, f | flags)
        ) as file:
            text = file.read(wg_monitor.NOTE_SIZE).decode("ascii", "replace")
            note = dict(pair.partition("=")[::2] for pair in text.split())
        self.read(partial(self.load, note))

    def load(self, note: Mapping[str, str], database: Any) -> None:
        # What the store says about the present. `last`, `boot`: the last reading, on both clocks.
        saved = rows(database, "real real text text text", "SELECT wall, boot, boot_id, id, '' || stamp FROM monitor")
        wall, boot, *save = saved[0] if saved else (0.0, 0.0, "", "", "")
        if save[1] and [note.get(name) for name in ("boot_id", "id", "stamp")] == save:
            wall, boot = note["wall"], note["boot"]
        self.last, self.boot, self.boot_id = float(wall), float(boot), str(save[0])
        if not 0 <= self.last <= EPOCH_MAX:
            raise ValueError("the last reading has an impossible time")
        statement = "SELECT interface, public_key, name FROM peers"
        self.names: dict[Key, str] = {row[:2]: row[2] for row in rows(database, "text text text", statement)}
        self.newest = rows(database, "int?", "SELECT max(number) FROM sessions")[0][0] or 0  # the last session's number
        statement = """SELECT number, began, past_rx, rx, received_before, past_tx, tx, sent_before
            FROM peers JOIN sessions ON number = peers.session AND reason IS NULL"""
        self.open = {row[0]: row[1:] for row in rows(database, "int real int int int int int int", statement)}
        statement = "SELECT interface, public_key, since, ips FROM allowed_ips ORDER BY number"
        self.changes = rows(database, "text text real text?", statement)
        statement = "SELECT interface, start, stop, why FROM unwatched WHERE stop > start ORDER BY start"
        self.gaps = [Gap(self.gateway, *gap) for gap in rows(database, "text? real real text", statement)]
        statement = "SELECT interval, threshold, liveness, interfaces FROM runs ORDER BY number DESC LIMIT 1"
        self.rule = (rows(database, "int int text text", statement) or [None])[0]  # None = an old store does not say
        firsts = "SELECT min(start) FROM runs UNION SELECT min(start) FROM sessions UNION SELECT min(wall) FROM events"
        begins = [first for (first,) in rows(database, "real?", firsts) if first is not None]
        self.since = min([*begins, self.last])  # the first time that somebody watched

    def refusal(self, what: str, why: str, remedy: str = "name a store, such as %s/state.db" % STORES) -> Refusal:
        return Refusal("%s %s" % (printable(self.path), what), why, remedy, EXIT_FAILURE)

    def ask(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        return list(self.read(lambda database: database.execute(statement, values).fetchall()))

    def read(self, work: Callable[[Any], Any]) -> Any:
        """What `work` reads from the database, in one transaction."""
        import sqlite3
        from urllib.parse import quote

        while True:
            state = self.state()
            # SQLite leaves files beside a store that nobody has open, unless it knows that nobody changes it.
            mode = "mode=ro" if state is None else "mode=ro&immutable=1"
            try:
                uri = "file:%s?%s" % (quote(os.fsencode(self.path)), mode)
                with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as database:
                    database.executescript("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY")
                    database.executescript(OLDER if 0 < self.version < 3 else "")
                    database.execute("BEGIN")
                    found = work(database)
            except (sqlite3.Error, wg_monitor.StoreFault, ArithmeticError, TypeError, ValueError) as error:
                why, remedy = wg_monitor.reason_of(error), "if it is damaged, a backup may help"
                raise self.refusal("cannot be read", why, remedy) from None
            if state is None or state == self.state():
                return found  # otherwise a monitor has begun to write to it

    def state(self) -> tuple[int, ...] | None:
        # What changes if somebody writes to a store that nobody has open; None = somebody may have it open.
        if self.monitor or os.path.lexists(self.path + "-wal"):
            return None
        status = os.stat(self.path)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def history(self, query: Query, now: float) -> History:
        old = "%s is of an older version, which did not record when nobody watched." % printable(self.path)
        watched = Period(self.since, self.last)
        gaps = [gap for gap in self.gaps if not query.interfaces or gap.interface in (None, *query.interfaces)]
        notes = [old] if self.version < 3 else []
        return History(self.gateway, self.path, watched, gaps, partial(self.sessions, query, now), notes)

    def is_watching(self, now: float) -> bool:
        # A monitor that runs may be blind.
        return self.monitor != "" and (self.rule is None or now - self.last <= 2 * self.rule[0] + 1)

    def sessions(self, query: Query, now: float, period: Period) -> Iterator[Session]:
        """Those that a query asks for and that overlap a period, in the order of their beginnings."""
        held = holders_of(query.address, self.changes) if query.address else {}
        wanted, convert = chooser(query, held, period, now), self.converter(now)
        where, values = condition(query, held)
        statement = SESSIONS + where + " ORDER BY number%s LIMIT %d" % (" DESC" if query.last else "", BATCH)
        # The numbers have the order of the beginnings, but for sessions that began between the same readings.
        kept: list[Session] = []
        after, before, more = -1, self.newest + 1, True  # whether younger ones go on is unknown
        while more:
            limits = [period.until, period.since, after, before, *values]
            batch = self.read(partial(lambda limits, db: list(map(convert, db.execute(statement, limits))), limits))
            kept += filter(wanted, batch)
            kept.sort(key=BEGINNING)
            more = len(batch) == BATCH and not len(kept) >= query.last > 0
            if batch:
                after, before = (after, batch[-1].number) if query.last else (batch[-1].number, before)
            ready = kept if not more else [] if query.last else kept[:-BATCH]
            yield from ready
            del kept[: len(ready)]

    def find(self, text: str) -> set[str]:
        """The keys of the peers that a text means: a name, a key, the beginning of a key, or a short key."""
        named = {key for (_, key), name in self.names.items() if text == name}
        named = named or {key for (key,) in self.ask("SELECT DISTINCT public_key FROM sessions WHERE name = ?", [text])}
        first = text.partition("...")[0]
        if named or not first:
            return named
        statement = "SELECT DISTINCT public_key FROM sessions WHERE public_key >= ? AND public_key < ?"
        keys = {key for (key,) in self.ask(statement, [first, first + "~"])}
        keys |= {change[1] for change in self.changes} | {key for _, key in self.names}
        return one_key(text, {key for key in keys if means(text, key)})

    def converter(self, now: float) -> Callable[[Any], Session]:
        # Makes a session of a row.
        state_now = ONLINE if self.is_watching(now) else UNKNOWN
        gateway = self.gateway
        ips: dict[Key, list[tuple[float, str | None]]] = {}
        for interface, key, since, networks in self.changes:
            ips.setdefault((interface, key), []).append((since, networks))

        def convert(row: Any) -> Session:
            interface, key, name, number, start, until, length, endpoints, received, sent, unwatched, reason = row
            state = ENDED
            if reason is None:
                state, reason, until, length = UNKNOWN, "", start, 0.0
                if number in self.open:
                    began, *counts = self.open[number]
                    received, sent = counted_since(*counts[:3]), counted_since(*counts[3:])
                    state, until, length = state_now, self.last, max(0.0, self.boot - began)
            _ = interface + key + name + endpoints + reason  # TypeError: a foreign type
            if not (0 <= start <= EPOCH_MAX and 0 <= until <= EPOCH_MAX and 0 <= length <= EPOCH_MAX):
                raise ValueError("session %d has an impossible time" % number)
            if not (0 <= unwatched <= EPOCH_MAX and 0 <= (received or 0) + (sent or 0) <= 2 * COUNTER_MAX):
                raise ValueError("session %d has an impossible count" % number)
            changes = ips.get((interface, key), ())
            allowed = (changes[0][1] if len(changes) == 1 else ips_at(changes, start)) or ""
            figures = (tuple(endpoints.split(" ") if endpoints else ()), allowed, received, sent, unwatched, reason)
            # Calling the class itself takes a third longer.
            return tuple.__new__(
                Session, (gateway, interface, key, name, number, start, until, state, length, *figures)
            )

        return convert


def counted_since(past: int, count: int, before: int) -> int:
    # Bytes of an open session: SQLite could not add them without an overflow.
    return min(max(0, past + count - before), COUNTER_MAX)


def rows(database: Any, kinds: str, statement: str) -> list[Any]:
    # SQLite's columns hold any type. `kinds`: text, int or real for each, with a `?` if it may be NULL.
    expected = [(wg_monitor.KINDS[kind.rstrip("?")], type(None) if "?" in kind else ()) for kind in kinds.split()]
    found = database.execute(statement).fetchall()
    if not all(all(map(isinstance, row, expected)) for row in found):
        raise ValueError("a row has a foreign shape")
    return list(found)


def condition(query: Query, held: Iterable[Key]) -> tuple[str, list[Any]]:
    # The part of a query that SQLite decides, and its values. It may let more pass than asked for.
    where, values = "", []  # type: str, list[Any]
    holders = {key for _, key in held}
    if query.keys is not None:  # the plus: the order of the numbers matters more than the index of the keys
        places = ", ".join("?" * len(query.keys)), ", ".join("?" * len(query.names))
        where, values = " AND (+public_key IN (%s) OR name IN (%s))" % places, [*query.keys, *query.names]
    if query.address:
        where += " AND (instr(endpoints, ?) OR +public_key IN (%s))" % ", ".join("?" * len(holders))
        values += [query.address, *holders]
    return where, values


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
    colour: str = ""


# A table that fits the first rows and the terminal: its columns give way in the order of their ranks, and no line is
# longer.
class Table:
    def __init__(self, columns: Sequence[Column], first: Sequence[Any], indent: str = "") -> None:
        self.room, self.indent, self.paint = max(1, get_terminal_size().columns - len(indent)), indent, Paint()
        self.gone: list[str] = []  # the titles of columns that gave way
        self.columns = list(columns)
        self.widths = [self.measure(column, first) for column in columns]
        while sum(self.widths) + 2 * len(self.widths) - 2 > self.room and any(column.rank for column in self.columns):
            place = min(range(len(self.columns)), key=lambda n: self.columns[n].rank or 99)
            column = self.columns[place]
            if column.brief is None:
                self.gone.append(column.title)
                del self.columns[place], self.widths[place]
            else:
                self.columns[place] = column = column._replace(cell=column.brief, rank=0)
                self.widths[place] = self.measure(column, first)

    def measure(self, column: Column, items: Iterable[Any]) -> int:
        return max([width_of(column.title), *(width_of(column.cell(item)) for item in items)])

    def row(self, item: Any = None) -> str:
        # Without an item: the heading.
        cells = [column.title if item is None else column.cell(item) for column in self.columns]
        cells = [pad(cell, width, column.right) for column, cell, width in zip(self.columns, cells, self.widths)]
        line = "  ".join(cells).rstrip()
        if width_of(line) > self.room:
            return self.indent + fit(line, self.room)
        if self.paint.on:
            line = "  ".join(self.paint(c, o.colour if item else DIM) for c, o in zip(cells, self.columns)).rstrip()
        return self.indent + line

    def notes(self) -> list[str]:
        return ["Too narrow for: %s. --format csv shows all." % ", ".join(self.gone)] if self.gone else []


def write_json(rows: Iterable[Mapping[str, Any]]) -> None:
    import json

    before = "["
    for row in rows:
        print(before + json.dumps(row), end="")
        before = ",\n "
    print("]" if before != "[" else "[]")


def write_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    import csv

    reconfigure(encoding="utf-8", newline="")
    print("\ufeff", end="")  # tells spreadsheets that this is UTF-8
    writer = csv.writer(sys.stdout, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(names)
    writer.writerows([cell_of_csv(row.get(name)) for name in names] for row in rows)


def show_notes(notes: Iterable[str], table: bool) -> None:
    # Sentences about an answer. Beside what a program reads, they go to standard error.
    import textwrap

    print(end="", flush=True)
    paint, room = Paint(), get_terminal_size().columns
    for note in notes:
        narrow = textwrap.wrap(note, room if note.isascii() else room // 2)  # a wide character takes two columns
        lines = [paint(line, DIM) for line in narrow] if table else ["wg_monitor: " + note]
        print("\n".join(lines), file=sys.stdout if table else sys.stderr)


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


Probed = Tuple[wg_monitor.Probe, wg_monitor.Answer]  # a run of `wg show all dump`, to be parsed for each store


def run_wg() -> Probed:
    """Errors: Refusal."""
    wg_monitor.judge_permission()
    probe, answer = wg_monitor.Probe(wg_monitor.find_wg()), None
    try:
        probe.start("all", "dump")
    except OSError as error:
        raise Refusal("wg cannot be run", wg_monitor.reason_of(error), "try 'wg show'", EXIT_FAILURE) from None
    while answer is None:
        time.sleep(0.002)
        answer = probe.answer()
    if answer.why:
        raise Refusal("wg gave no answer", answer.why, "try 'wg show'", EXIT_FAILURE)
    return probe, answer


# Loads the state table as the monitor does, without the lock and the files of a writer.
class Loader(wg_monitor.Store):
    def __init__(self, database: Any) -> None:
        self.database = database

    def table(self, wanted: frozenset[str], rebooted: wg_monitor.Moment | None) -> wg_monitor.Table:
        complete = self.database.execute("SELECT complete FROM monitor").fetchone()
        return self.load_table(wanted, None if rebooted or not complete else complete[0], rebooted)[0]


def peers_of(store: Store | None, probed: Probed | None, now: wg_monitor.Moment) -> tuple[list[Peer], wg_monitor.Table]:
    """The peers as the store shows them; with a run of `wg`, as the monitor would see them in its next reading."""
    names: Mapping[Key, str] = {}
    table, saved = wg_monitor.Table(), {}
    if store is not None and store.rule is not None:  # the threshold of the monitor, not a guess
        saved = dict(zip(("INTERVAL", "THRESHOLD", "LIVENESS", "INTERFACE"), map(str, store.rule)))
    settings = wg_monitor.parse_settings({}, saved)
    if store is not None:
        rebooted = None if store.boot_id in ("", wg_monitor.boot_id()) else now
        table = store.read(lambda database: Loader(database).table(settings.interface, rebooted))
        names = store.names
    if probed is not None:
        probe, answer = probed
        blocks, memo = probe.blocks(answer.size), wg_monitor.Memo()
        reading = wg_monitor.parse(blocks, answer.complaints, memo, (), settings.interface)
        wg_monitor.decide(table, reading, answer.at, settings)
    peers = []
    for key, row in table.rows.items():
        session, received, sent = row.session, None, None  # type: Any, int | None, int | None
        since = row.ended.wall if row.ended.wall > 0 else float(row.shown)
        if session is not None:
            since, before = (
                session.start,
                (session.received_before, session.sent_before) if store is not None else (0, 0),
            )
            received = counted_since(row.past_rx, row.rx, before[0])
            sent = counted_since(row.past_tx, row.tx, before[1])
        known = max(0.0, min(since, EPOCH_MAX)) or None if store is not None else None
        address: tuple[Any, ...] = (row.endpoint, row.allowed_ips, row.shown, received, sent)
        gateway = "" if store is None else store.gateway
        peers.append(Peer(gateway, *key, names.get(key, ""), session is not None, known, *address))
    return peers, table


SORTS: dict[str, Callable[[Peer], Any]] = {
    "name": lambda peer: (not peer.name, peer.name, peer.key),
    "since": lambda peer: -(peer.since or 0),
    "handshake": lambda peer: -peer.handshake,
    "traffic": lambda peer: -((peer.received or 0) + (peer.sent or 0)),
}


def peer_fields(p: Peer, last: float | None, zone: Zone) -> dict[str, Any]:
    since, handshake, reading = (zone.rfc3339(wall) if wall else None for wall in (p.since, p.handshake, last))
    fields: dict[str, Any] = {"gateway": p.gateway} if p.gateway else {}
    fields.update(interface=p.interface, peer=p.key, name=p.name or None, online=p.online, since=since)
    fields.update(endpoint=p.endpoint or None, allowed_ips=p.allowed_ips, handshake=handshake)
    return {**fields, "received_bytes": p.received, "sent_bytes": p.sent, "last_reading": reading}


def peer_columns(now: float) -> list[Column]:
    def ago(p: Peer) -> str:
        return length_text(now - p.handshake) + " ago" if p.handshake else "never"

    def brief(p: Peer) -> str:
        return brief_name(p.name, p.key)

    def since(p: Peer) -> str:
        return length_text(now - p.since) if p.since else "unknown" if p.handshake else "never"

    return [
        Column("PEER", lambda p: printable(p.name, 64) or brief_name("", p.key), 6, brief, colour=YELLOW_BOLD),
        Column("STATE", lambda p: "online" if p.online else "offline"),
        Column("SINCE", since, 5, colour=CYAN),
        Column("ENDPOINT", lambda p: printable(p.endpoint) or "-", 4),
        Column("HANDSHAKE", ago, 3, colour=CYAN),
        Column("RECEIVED", lambda p: size_text(p.received) or "-", 2, right=True, colour=CYAN),
        Column("SENT", lambda p: size_text(p.sent) or "-", 1, right=True, colour=CYAN),
    ]


def heading(name: str, peers: Sequence[Peer], up: bool, store: Store | None, now: float, zone: Zone) -> str:
    # wg0  2 of 3 online, watched since 2026-11-20 09:12, last reading 12s ago
    parts = ["%s  %d of %d online" % (printable(name), sum(peer.online for peer in peers), len(peers))]
    parts += [] if up else ["the interface is down"]
    if store is None:
        return ", ".join([*parts, "no store: since when is unknown"])
    since = max([store.since, *(gap.stop for gap in store.gaps if gap.interface in (None, name))])
    trouble = "the monitor reads nothing" if store.monitor else "no monitor runs"
    parts.append("watched since %s" % zone.stamp(since)[:16] if store.is_watching(now) else trouble)
    parts.append("last reading %s ago" % length_text(now - store.last) if store.last else "no reading yet")
    return ", ".join(parts)


def status(words: Sequence[str]) -> int:
    parser = new_parser("status", "Show who is online now, since when, and from where.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--online", action="store_true", help="only the peers that are online")
    group.add_argument("--offline", action="store_true", help="only the peers that are offline")
    parser.add_argument("--sort", choices=sorted(SORTS), help="default: who is online, then by name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = EXIT_CODES.replace("usage,", "usage, 3 a peer that --peer names is offline,")
    options = parser.parse_args(words)
    zone, now = Zone(options.timezone), wg_monitor.moment()
    stores = open_stores(options.store, needed=False)
    notes = ["%s: %s." % (printable(s.gateway), printable(s.path)) for s in stores if s.gateway]
    probed: Probed | None = None
    if not options.store:  # what was named may come from another machine
        try:
            probed = run_wg()
        except Refusal as refusal:
            if not stores:
                raise
            notes.append("Handshakes and bytes are as old as the last checkpoint. %s." % refusal)
    parts, wanted = [], set()  # type: list[tuple[Any, str, bool, list[Peer]]], set[Peer]
    for store in stores or (None,):
        peers, table = peers_of(store, probed, now)
        for name in sorted(table.interfaces.keys() | {peer.interface for peer in peers}):
            up = name not in table.interfaces or table.interfaces[name].up
            parts.append((store, name, up, [peer for peer in peers if peer.interface == name]))
    everyone = [peer for *_, peers in parts for peer in peers]
    for text in options.peer:
        found = {peer for peer in everyone if peer.name == text} or {peer for peer in everyone if means(text, peer.key)}
        one_key(text, {peer.key for peer in found if peer.name != text})
        if not found:
            raise unknown_peer(text)
        wanted |= found
    names = names_of(options.interface)
    shown = []
    for store, name, up, peers in parts:
        peers = [peer for peer in peers if not options.peer or peer in wanted]
        if name in (names or (name,)) and (peers or not options.peer):
            peers.sort(key=SORTS[options.sort or "name"])
            peers = peers if options.sort else sorted(peers, key=lambda peer: not peer.online)
            text = heading(name, peers, up, store, now.wall, zone)
            chosen = [p for p in peers if p.online >= options.online and p.online <= (not options.offline)]
            shown.append((store, name, text, chosen))
    if options.json:
        write_json(peer_fields(p, s and s.last, zone) for s, _, _, peers in shown for p in peers)
    else:
        layout = Table(peer_columns(now.wall), [peer for *_, peers in shown for peer in peers], "  ")
        for store, name, text, peers in shown:
            where = "%s: " % printable(store.gateway) if store is not None and store.gateway else ""
            line = fit(where + text, layout.room + 2)
            print(line.replace(printable(name), layout.paint(printable(name), GREEN_BOLD), 1))
            print("".join(line + "\n" for line in map(layout.row, [None, *peers] if peers else [])), end="")
        notes = ["No such WireGuard interface." if names else "No WireGuard interface."] * (not shown) + notes
    show_notes(notes, not options.json)
    return EXIT_OFFLINE if any(not peer.online for peer in wanted) else 0


# --- The command sessions -----------------------------------------------------------------------------------------

REASONS = ("idle", "unreachable", "interface-down", "removed", "reset", "unknown")
SESSION_FIELDS = (
    "interface", "peer", "name", "session", "session_start", "last_seen", "length_s", "endpoint", "endpoints",
    "allowed_ips", "received_bytes", "sent_bytes", "unwatched_s", "reason", "online",
)  # fmt: skip


def session_fields(s: Session, zone: Zone) -> dict[str, Any]:
    # Named as in the trail with LOG_FORMAT=json.
    ends = (zone.rfc3339(s.start), zone.rfc3339(s.until), round(s.length))
    places = (s.endpoints[-1] if s.endpoints else None, list(s.endpoints), s.allowed_ips)
    figures = (s.received, s.sent, round(s.unwatched), s.reason or None, *([True] if s.state == ONLINE else []))
    fields = dict(zip(SESSION_FIELDS, (s.interface, s.peer, s.name or None, s.number, *ends, *places, *figures)))
    return {"gateway": s.gateway, **fields} if s.gateway else fields


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


def hosts_text(session: Session) -> str:
    # The tunnel addresses, or the networks if there is none: 10.0.0.2, 10.0.0.3
    return printable(wg_monitor.ips_text(session.allowed_ips).partition(": ")[2][:-1], 40)


def whose(text: Callable[[str, str], str]) -> Callable[[Any], str]:
    return lambda item: text(item.name, item.peer) if item.peer else "all"


def first_columns(gateways: bool) -> list[Column]:
    # What sessions and sums begin with.
    gateway = [Column("GATEWAY", lambda item: printable(item.gateway, 64), 10)]
    peer = Column("PEER", whose(name_text), 4, whose(brief_name), colour=YELLOW_BOLD)
    return gateway * gateways + [peer, Column("IFACE", lambda item: printable(item.interface), 7, colour=GREEN_BOLD)]


def session_columns(zone: Zone) -> list[Column]:
    return [
        Column("CONNECTED", lambda s: zone.stamp(s.start), 5, lambda s: zone.stamp(s.start)[:16]),
        Column("UNTIL", lambda s: until_text(s, zone), 5, lambda s: until_text(s, zone, brief=True)),
        Column("LENGTH", lambda s: length_text(s.length), 8, colour=CYAN),
        Column("ENDPOINT", endpoint_text, 9),
        Column("TUNNEL ADDRESS", hosts_text, 3),
        Column("RECEIVED", lambda s: size_text(s.received), 2, right=True, colour=CYAN),
        Column("SENT", lambda s: size_text(s.sent), 1, right=True, colour=CYAN),
        Column("ENDED", lambda s: printable(s.reason), 6),
    ]


def total_columns() -> list[Column]:
    def size(count: int | None, total: Total) -> str:
        return size_text(count) + ("+" if total.beyond and count is not None else "")

    return [
        Column("SESSIONS", lambda t: str(t.sessions), right=True),
        Column("ONLINE", lambda t: length_text(t.online_s), right=True, colour=CYAN),
        Column("SHARE", lambda t: "" if t.share is None else "%.1f %%" % (100 * t.share), 9, right=True),
        Column("LONGEST", lambda t: length_text(t.longest_s), 5, right=True, colour=CYAN),
        Column("MEDIAN", lambda t: length_text(t.median_s), 3, right=True, colour=CYAN),
        Column("BREAKS/H", lambda t: "%.2f" % (t.interruptions_per_hour or 0), 2, right=True),
        Column("RECEIVED", lambda t: size(t.received_bytes, t), 8, right=True, colour=CYAN),
        Column("SENT", lambda t: size(t.sent_bytes, t), 8, right=True, colour=CYAN),
        Column("ADDRESSES", lambda t: str(t.addresses), 1, right=True),
    ]


def usage_columns(unit: str) -> list[Column]:
    def size(count: int | None, usage: Usage) -> str:
        return ("~" if usage.estimated and count else "") + size_text(count)

    return [
        Column(unit.upper(), lambda u: u.unit),
        Column("SESSIONS", lambda u: str(u.sessions), 3, right=True),
        Column("PEERS", lambda u: str(u.peers), 4, right=True),
        Column("ONLINE", lambda u: length_text(u.online_s), right=True, colour=CYAN),
        Column("RECEIVED", lambda u: size(u.received_bytes, u), 2, right=True, colour=CYAN),
        Column("SENT", lambda u: size(u.sent_bytes, u), 1, right=True, colour=CYAN),
        Column("NOT WATCHED", lambda u: length_text(u.unwatched_s) if u.unwatched_s else "", 5, right=True),
    ]


def show_sessions(stream: Iterable[Session], gaps: Iterable[Gap], columns: Sequence[Column], zone: Zone) -> list[str]:
    """Prints a table, with the time that nobody watched in lines of its own. Returns what there is to say about it."""
    table, waiting, count, spans = Table([], []), deque(gaps), 0, False
    peers: set[Any] = set()
    stream = iter(stream)
    for batch in iter(lambda: list(islice(stream, ROWS_MEASURED)), []):
        lines = []
        if not count:
            table = Table(columns, batch)
            lines.append(table.row())
        for session in batch:
            while waiting and waiting[0].start <= session.start:
                lines.append(gap_line(waiting.popleft(), table, zone))
            lines.append(table.row(session))
            spans |= session.unwatched > 0
            peers.add(session[:3])
        count += len(batch)
        print("\n".join(lines))
    print("".join(gap_line(gap, table, zone) + "\n" for gap in waiting), end="")
    numbers = (counted(count, "session"), counted(len(peers), "peer"))
    stars = ["* Nobody watched for a part of this session."] if spans else []
    return stars + table.notes() + (["%s of %s." % numbers] if count else [])


def gap_line(gap: Gap, table: Table, zone: Zone) -> str:
    where = "[%s] " % printable(gap.interface) if gap.interface else ""
    why = " (%s)" % printable(gap.why) if gap.why else ""
    text = "%snot watched from %s to %s%s" % (where, zone.stamp(gap.start), end_text(gap.stop, gap.start, zone), why)
    return table.paint(fit("-- " + text, table.room), DIM)


def show_sums(columns: Sequence[Column], items: Sequence[Any]) -> list[str]:
    table = Table(columns, items)
    print("\n".join(map(table.row, [None, *items])))
    notes = []
    if any(getattr(item, "beyond", False) for item in items):
        notes.append("+ Includes the bytes of whole sessions that reach beyond the period.")
    if any(getattr(item, "estimated", False) for item in items):
        notes.append("~ The bytes of a session that reaches beyond are spread evenly over its time.")
    return notes + table.notes()


def sum_fields(item: Any, zone: Zone) -> dict[str, Any]:
    times = {name: zone.rfc3339(getattr(item, name)) for name in ("start", "stop") if hasattr(item, name)}
    return {name: times.get(name, None if value == "" else value) for name, value in item._asdict().items()}


def watched_texts(histories: Sequence[History], watching: Sequence[bool], zone: Zone) -> Iterator[str]:
    # Where an answer comes from, and when it may be incomplete. `watching`: whether somebody watches now.
    for history, watches in zip(histories, watching):
        text = "nothing was recorded"
        if watches:
            text = "watched since %s" % zone.stamp(history.watched.since)
        elif history.watched.until > history.watched.since:
            text = "watched from %s to %s, and not since" % tuple(map(zone.stamp, history.watched))
        name = "%s (%s): " % (printable(history.gateway), printable(history.path)) if history.gateway else ""
        yield (name or text[0].upper()) + text[not name :] + "."
        yield from history.notes


def asked_text(options: Any, period: Period, zone: Zone) -> str:
    # What was asked for, in words.
    text = " of " + ", ".join(map(clean, options.peer)) if options.peer else ""
    if period.since == period.until:
        return text + " at " + zone.stamp(period.since)
    text += " from %s" % zone.stamp(period.since) if period.since > -FOREVER else ""
    return text + (" until %s" % end_text(period.until, period.since, zone) if period.until < FOREVER else "")


def period_of(options: Any, now: float, zone: Zone) -> tuple[Period, list[str]]:
    # The period that is asked for, and what there is to say about it. Errors: Refusal.
    if options.present is not None and (options.since is not None or options.until is not None):
        raise Refusal("invalid usage", "--present goes without --since and --until", "see --help")
    begin, end = options.present or options.since, options.present or options.until
    since, note = parse_moment(begin, now, zone) if begin else (-FOREVER, "")
    until, other = parse_moment(end, now, zone, end=True) if end else (FOREVER, "")
    if since > until:
        found, why = "--since %s" % printable(begin), "it is later than --until %s" % printable(end)
        raise Refusal(found, why, "exchange them")
    return Period(since, until), [text for text in dict.fromkeys((note, other)) if text]


def query_of(options: Any, sources: Sequence[Any]) -> Query:
    """Errors: Refusal."""
    found: list[set[str]] = [set().union(*(source.find(text) for source in sources)) for text in options.peer]
    for text, keys in zip(options.peer, found):
        if not keys:
            raise unknown_peer(text)
    reasons, length = names_of(options.reason), (options.min_length or "0").lower().replace(" ", "")
    if not reasons <= set(REASONS):
        raise Refusal("--reason %s" % printable(min(reasons - set(REASONS))), "no session ends so", ", ".join(REASONS))
    if not re.fullmatch("([0-9]{1,9}[wdhms])+|[0-9]{1,9}", length):
        found_ = "--min-length %s" % printable(options.min_length)
        raise Refusal(found_, "it is no length", "write it like 90s, 5m, 1h30m or 2d")
    shortest = sum(int(n) * AGO_S[unit or "s"] for n, unit in re.findall("([0-9]+)([wdhms]?)", length))
    who: tuple[Any, Any] = (frozenset().union(*found), frozenset(options.peer)) if found else (None, frozenset())
    return Query(*who, names_of(options.interface), reasons, address_of(options.ip), float(shortest), options.last or 0)


def address_of(text: str | None) -> str:
    # As `wg` prints it.
    import socket

    family = socket.AF_INET6 if ":" in (text or "") else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text)) if text else ""
    except (OSError, ValueError):
        remedy = "write it like 203.0.113.7, 10.0.0.2 or 2001:db8::7"
        raise Refusal("--ip %s" % printable(text or ""), "it is no address", remedy) from None


def sessions_parser() -> Any:
    parser = new_parser("sessions", "Show who was connected when, from where, how much, and why it ended.")
    add, sums = parser.add_argument, parser.add_mutually_exclusive_group()
    add("-s", "--since", metavar="MOMENT", help="sessions that were open at or after this moment")
    add("-t", "--until", metavar="MOMENT", help="sessions that began before it; a day counts to its end")
    add("-p", "--present", metavar="MOMENT", help="who was connected then; a day counts as a whole")
    add("-n", "--last", metavar="N", type=wg_monitor.whole_number(1, 10**9, "sessions"), help="only the newest N")
    add("--ip", metavar="ADDRESS", help="that came from this address, or whose peer had this tunnel address then")
    add("--reason", metavar="REASON", action="append", default=[], help="that ended so: " + ", ".join(REASONS))
    add("--min-length", metavar="LENGTH", help="that lasted so long: 90s, 5m, 1h30m")
    sums.add_argument("--summary", action="store_true", help="one line for each peer, and one for all")
    sums.add_argument("--by", choices=("day", "week", "month"), help="usage over time")
    add("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    parser.epilog = "MOMENT: %s. %s" % (MOMENTS.partition("these: ")[2], EXIT_CODES)
    return parser


def sessions(words: Sequence[str]) -> int:
    options = sessions_parser().parse_args(words)
    zone, now = Zone(options.timezone), wg_monitor.moment().wall
    period, notes = period_of(options, now, zone)
    sources = open_stores(options.store)
    query = query_of(options, sources)
    histories = [source.history(query, now) for source in sources]
    streams = [history.sessions(period) for history in histories]
    stream: Iterable[Session] = streams[0] if len(streams) == 1 else merge(*streams, key=BEGINNING)
    asked = period
    if query.last:
        stream = newest = deque(stream, query.last)
        period = period._replace(since=max(period.since, newest[0].start)) if newest else period
    gaps = [gap for h in histories for gap in h.gaps if gap.start < period.until and gap.stop > period.since]
    gateways = any(history.gateway for history in histories)
    names: Sequence[str] = ("gateway", *SESSION_FIELDS) if gateways else SESSION_FIELDS
    items: list[Any] | None = None
    columns = [*first_columns(gateways), *session_columns(zone)]
    if options.by:
        items, names = list(add_up_by(options.by, stream, histories, period, zone)), Usage._fields
        columns = usage_columns(options.by)
    elif options.summary:
        totals, total = add_up(stream, histories, period)
        items, names = [*sorted(totals, key=lambda t: (not t.name, t.name, t[:3])), total], Total._fields
        columns = [*first_columns(gateways), *total_columns()]
    if options.format == "table" and items is not None:
        notes += show_sums(columns, items)
    elif options.format == "table":
        found = show_sessions(stream, sorted(gaps, key=BEGINNING), columns, zone)
        notes += found or ["No session%s." % asked_text(options, asked, zone)]
    else:
        fields: Callable[[Any, Zone], dict[str, Any]] = session_fields if items is None else sum_fields
        rows = (fields(item, zone) for item in (stream if items is None else items))
        if options.format == "json":
            write_json(rows)
        else:
            write_csv(names, (dict(row, endpoints=" ".join(row.get("endpoints", ()))) for row in rows))
        notes += [] if not gaps else ["In %s nobody watched: the table shows them." % counted(len(gaps), "period")]
    told = [source.is_watching(now) for source in sources]
    if options.format == "table" or not all(told):
        notes += watched_texts(histories, told, zone)
    show_notes(notes, options.format == "table")
    return 0


# --- The command names --------------------------------------------------------------------------------------------


# A name in a file, or a peer without one.
class Entry(NamedTuple):
    name: str
    key: str
    file: str
    line: int | None  # of the section, in a configuration
    rule: str
    note: str


def known_keys(path: str) -> set[str]:
    """The keys of the peers that exist: in the store, or without one, in a run of `wg`. Errors: Refusal, OSError."""
    if os.path.lexists(path):
        return {key for _, key in Store("", path).names}
    probe, answer = run_wg()
    reading = wg_monitor.parse(probe.blocks(answer.size), answer.complaints, wg_monitor.Memo(), (), frozenset())
    return {key for _, key in reading.present or ()}


def entries_of(paths: Sequence[str], keys: set[str], notes: list[str]) -> Iterator[Entry]:
    first: dict[str, str] = {}  # where the name stands that counts
    for path in wg_monitor.Names(paths).list_files():
        try:
            text = wg_monitor.read_text(path)
        except OSError as error:
            notes.append("%s: %s." % (printable(path), wg_monitor.reason_of(error)))
            continue
        lines: dict[str, int] = {}
        for number, line in enumerate(text.split("\n") if wg_monitor.JSON_START.match(text) else (), 1):
            lines.update((key, number) for key in wg_monitor.PUBLIC_KEY.findall(line) if key not in lines)
        for number, key, name, rule in wg_monitor.parse_names(text):
            if not key:
                notes.append("%s: %s." % (printable(path), name))
                continue
            number = number or lines.get(key, 0)
            note = "a second name: %s counts" % first[key] if key in first else "" if key in keys else "no such peer"
            first.setdefault(key, "%s:%d" % (path, number))
            yield Entry(name, key, path, number or None, rule, note)
    yield from (Entry("", key, "", None, "", "no name") for key in sorted(keys - first.keys()))


def names(words: Sequence[str]) -> int:
    parser = new_parser("names", "Show where the names of peers come from, and which peers have none.", common=False)
    parser.add_argument("instance", nargs="?", help="take the settings of wg-monitor@INSTANCE, not of wg-monitor")
    parser.add_argument("--peer-names", metavar="PATHS", help="files and directories, instead of those in PEER_NAMES")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = EXIT_CODES.replace(" or an unknown peer", "")
    options = parser.parse_args(words)
    environment, wrong, notes = wg_monitor.settings_of_unit(options.instance)[0], {}, []  # type: Any, Any, list[str]
    settings = wg_monitor.parse_settings({"peer_names": options.peer_names}, environment, wrong)
    if "peer_names" in wrong:
        raise wrong["peer_names"]
    if not settings.peer_names:
        raise Refusal("PEER_NAMES is not set", "no file gives names to peers", "set it, or use --peer-names")
    keys = known_keys(settings.state_path)
    entries = list(entries_of(settings.peer_names, keys, notes))
    named = len(keys & {entry.key for entry in entries if entry.name})
    if options.json:
        write_json(entry._asdict() for entry in entries)
    elif entries:
        layout = Table(NAME_COLUMNS, entries)
        print("".join(line + "\n" for line in map(layout.row, [None, *entries])), end="")
        notes = ["%d of %s have a name." % (named, wg_monitor.counted(len(keys), "peer")), *notes]
        notes += ["Too narrow for: %s. --json shows all." % ", ".join(layout.gone)] * bool(layout.gone)
    show_notes(notes, not options.json)
    return 0


NAME_COLUMNS = [
    Column("NAME", lambda e: printable(e.name), colour=YELLOW_BOLD),
    Column("KEY", lambda e: clean(e.key), 2, lambda e: wg_monitor.short_key(e.key)),
    Column("FILE", lambda e: printable(e.file), 1, lambda e: printable(os.path.basename(e.file))),
    Column("LINE", lambda e: str(e.line or ""), right=True),
    Column("RULE", lambda e: e.rule, 4),
    Column("NOTE", lambda e: printable(e.note), 3, lambda e: e.note.partition(":")[0]),
]


# --- The command line ---------------------------------------------------------------------------------------------

EXIT_OFFLINE = 3
EXIT_CODES = "Exit codes: 0 done, 1 failure or an unknown peer, 2 invalid usage, 4 not permitted."


def new_parser(command: str, description: str, common: bool = True) -> Any:
    # With the options that `status` and `sessions` have in common.
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise Refusal("invalid usage", printable(message), "see wg-monitor %s --help" % command)

    parser = Parser("wg-monitor " + command, allow_abbrev=False, description=description)
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
    if not common:
        return parser
    stores = "read this store; repeatable; NAME becomes a column; default: those in " + STORES
    more: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--peer", metavar="PEER", help="a name, a key, or the beginning of a key; repeatable", **more)
    parser.add_argument("--interface", metavar="NAME", help="only this interface; repeatable", **more)
    parser.add_argument("--store", metavar="[NAME=]FILE", help=stores, **more)
    parser.add_argument("--timezone", metavar="ZONE", default="", help="such as Europe/Berlin; default: the machine's")
    return parser


def names_of(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(name for text in texts for name in text.split(",") if name)


def open_stores(texts: Sequence[str], needed: bool = True) -> list[Store]:
    """Those that were named, or those of this machine. Errors: Refusal, OSError."""
    if not texts:
        with suppress(FileNotFoundError):
            texts = ["%s/%s" % (STORES, n) for n in sorted(os.listdir(STORES)) if re.fullmatch(r"state(-.+)?\.db", n)]
    if not texts and needed:
        why, remedy = "%s holds none" % STORES, "start the monitor with STATE_PATH, or name a store with --store"
        raise Refusal("there is no store", why, remedy, EXIT_FAILURE)
    pairs = [re.fullmatch("(?s)(?:([^/=]+)=)?(.*)", text).groups("") for text in texts]  # type: ignore[union-attr]
    if len(pairs) > 1:
        pairs = [(name or re.sub(r".*/|\.db$", "", path), path) for name, path in pairs]
    twice = len({name for name, _ in pairs}) < len(pairs)
    return [Store(path if twice else name, path) for name, path in pairs]


def as_root(words: Sequence[str]) -> str:
    # The command that root has to type.
    from shlex import quote

    program = ["python3", sys.argv[0]] if sys.argv[0].endswith(".py") else ["wg-monitor"]
    return clean(" ".join(map(quote, ["sudo", *program, *words])))


def reconfigure(**how: str) -> None:
    # Standard output, unless it is closed or something else.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(**how)


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"status": status, "sessions": sessions, "names": names}


def main(words: Sequence[str]) -> int:
    # The first word is the command.
    if words[0] not in COMMANDS:
        raise Refusal("'%s' is not known" % printable(words[0]), "it is no command", "see --help")
    reconfigure(errors="replace")  # what the terminal cannot show
    collecting = gc.isenabled()
    gc.disable()  # a million sessions are as many tuples without a cycle: a tenth of the time, for nothing
    try:
        code = COMMANDS[words[0]](words[1:])
        print(end="", flush=True)
        return code
    except PermissionError as error:
        found = "%s cannot be read" % printable(str(error.filename))
        raise Refusal(found, "only root can read it", "type: " + as_root(words), EXIT_NOT_PERMITTED) from None
    except OSError as error:
        with suppress(OSError, ValueError, AttributeError):  # what is still in the buffer is not written at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # such as `| head`
            return 0
        found = (
            "%s cannot be read" % printable(str(error.filename)) if error.filename else "the output cannot be written"
        )
        raise Refusal(found, wg_monitor.reason_of(error), "try again", EXIT_FAILURE) from None
    finally:
        if collecting:
            gc.enable()


if __name__ == "__main__":
    sys.exit(wg_monitor.main())
