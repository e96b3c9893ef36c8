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

import sys
from typing import Callable, Iterator, NamedTuple, Sequence

import wg_monitor
from wg_monitor import Refusal

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


# --- The command line ---------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    # The first word is the command.
    raise Refusal("'%s' is not known" % wg_monitor.printable(words[0]), "it is no command", "see --help")


if __name__ == "__main__":
    sys.exit(wg_monitor.main())
