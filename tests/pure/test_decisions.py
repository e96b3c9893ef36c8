"""The table of events, the rules of time and the ends of sessions, case by case; and that no branch is left out."""

from functools import lru_cache
from typing import Any, List, Mapping, NamedTuple, Tuple

import pytest

import wg_monitor
from branches import record
from values import START, Case, P, Step, at, chosen, dump, figures, identity, ids, peer_line, play, read, unreadable
from wg_monitor import (
    EMPTY,
    NEVER,
    Ended,
    Event,
    Interface,
    Known,
    Mark,
    Meter,
    Moment,
    Peers,
    Reading,
    Session,
    Table,
    Trouble,
)

SPOILED = "wg0\tspoiled\n"
UNCLEAR = "spoiled\n"
OTHER = "198.51.100.7:40000"
TRAFFIC = chosen(liveness="traffic")
ONLY_WG0 = chosen(interface=frozenset(["wg0"]))


def wg0(*peers: P) -> str:
    return dump("wg0", *peers)


def alice(shook: float = 0, **more: Any) -> str:
    """wg0 with one peer."""
    return wg0(P("alice", shook, **more))


NEVER_SHOOK = wg0(P("alice"))
NEW = ["ONLINE wg0 alice new"]

EVENTS = [
    # not known, online
    Case("a peer that is online at the first reading is new", [Step(1, alice(), NEW)]),
    Case("a peer that appears online later is new", [Step(0, wg0()), Step(30, alice(29), NEW)]),
    Case("a new peer one second short of the threshold is online", [Step(179, alice(), NEW)]),
    Case("two peers are told in the order of wg", [
        Step(0, wg0(P("bob", 0), P("alice", 0)), ["ONLINE wg0 bob new", "ONLINE wg0 alice new"]),
    ]),
    Case("the same key on two interfaces is two peers", [
        Step(0, alice() + dump("wg1", P("alice", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 alice new"]),
    ]),
    # not known, not online
    Case("a peer that never shook hands is new and offline", [Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"])]),
    Case("a new peer at the threshold is offline", [Step(180, alice(), ["OFFLINE wg0 alice new"])]),
    Case("a peer that is added without a handshake is new and offline", [
        Step(0, wg0()), Step(30, NEVER_SHOOK, ["OFFLINE wg0 alice new"]),
    ]),
    # offline, online
    Case("the first handshake makes a peer online", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, alice(25), ["ONLINE wg0 alice"]),
    ]),
    Case("a peer that comes back is online, not new", [
        Step(0, alice(), NEW), Step(180, alice(), ["OFFLINE wg0 alice idle"]), Step(300, alice(299), ["ONLINE wg0 alice"]),
    ]),
    Case("a handshake that is old when it is first seen makes nobody online", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(300, alice(60)),
    ]),
    Case("one who comes online from elsewhere does not roam", [
        Step(0, alice(-200), ["OFFLINE wg0 alice new"]), Step(30, alice(29, endpoint=OTHER), ["ONLINE wg0 alice"]),
    ]),
    # online, not online
    Case("a peer goes offline at the threshold, though its line stands as before", [
        Step(0, alice(), NEW), Step(179, alice()), Step(180, alice(), ["OFFLINE wg0 alice idle"]), Step(210, alice()),
    ]),
    Case("a peer goes offline though another one's line moved", [
        Step(0, wg0(P("alice"), P("bob", 0)), ["OFFLINE wg0 alice new", "ONLINE wg0 bob new"]),
        Step(90, wg0(P("alice", 89), P("bob", 0)), ["ONLINE wg0 alice"]),
        Step(180, wg0(P("alice", 179), P("bob", 0)), ["OFFLINE wg0 bob idle"]),
    ]),
    Case("a peer goes offline though its own bytes move", [
        Step(0, alice(), NEW), Step(180, alice(tx=5), ["OFFLINE wg0 alice unreachable"]),
    ]),
    Case("a peer goes offline after readings that failed", [
        Step(0, alice(), NEW), Step(1000, alice(), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("fresh handshakes keep a peer online", [Step(0, alice(), NEW)] + [Step(t, alice(t - 1)) for t in (120, 240, 360)]),
    # online, another address
    Case("another address is roaming", [
        Step(0, alice(), NEW), Step(30, alice(endpoint=OTHER), ["ROAMING wg0 alice from 192.0.2.1:51820"]),
    ]),
    Case("another address of the sixth version is roaming", [
        Step(0, alice(endpoint="[2001:db8::1]:9"), NEW),
        Step(30, alice(endpoint="[2001:db8::2]:9"), ["ROAMING wg0 alice from [2001:db8::1]:9"]),
    ]),
    Case("another port alone is no event", [Step(0, alice(), NEW), Step(30, alice(endpoint="192.0.2.1:9"))]),
    Case("roaming there and back is two events", [
        Step(0, alice(), NEW),
        Step(30, alice(endpoint=OTHER), ["ROAMING wg0 alice from 192.0.2.1:51820"]),
        Step(60, alice(), ["ROAMING wg0 alice from " + OTHER]),
    ]),
    Case("an endpoint where none was is no roaming", [
        Step(0, alice(endpoint=""), NEW), Step(30, alice(endpoint=OTHER)),
    ]),
    Case("an endpoint that is gone is no roaming, and is remembered", [
        Step(0, alice(), NEW), Step(30, alice(endpoint="")),
        Step(60, alice(endpoint=OTHER), ["ROAMING wg0 alice from 192.0.2.1:51820"]),
    ]),
    Case("an offline peer does not roam", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, wg0(P("alice", endpoint=OTHER))),
    ]),
    Case("a peer that goes offline does not roam", [
        Step(0, alice(), NEW), Step(180, alice(endpoint=OTHER), ["OFFLINE wg0 alice idle"]),
    ]),
    # known, other allowed IPs
    Case("other allowed IPs of an online peer are a change", [
        Step(0, alice(), NEW), Step(30, alice(ips="10.0.0.2/32"), ["CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    Case("other allowed IPs of an offline peer are a change", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]),
        Step(30, wg0(P("alice", ips="10.0.0.1/32,10.1.0.0/24")), ["CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    Case("allowed IPs in another order are no change", [
        Step(0, alice(ips="10.0.0.1/32,10.0.0.2/32"), NEW), Step(30, alice(ips="10.0.0.2/32,10.0.0.1/32")),
    ]),
    Case("losing all allowed IPs is a change", [
        Step(0, alice(), NEW), Step(30, alice(ips=""), ["CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    Case("one can roam and change, in this order", [
        Step(0, alice(), NEW),
        Step(30, alice(endpoint=OTHER, ips=""), [
            "ROAMING wg0 alice from 192.0.2.1:51820", "CHANGED wg0 alice from 10.0.0.1/32",
        ]),
    ]),
    Case("one can come online and change, in this order", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]),
        Step(30, alice(29, ips=""), ["ONLINE wg0 alice", "CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    # interface gone
    Case("an interface that goes is told once, with its online peers", [
        Step(0, wg0(P("alice", 0), P("bob")), ["ONLINE wg0 alice new", "OFFLINE wg0 bob new"]),
        Step(30, "", ["IFDOWN wg0 2 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, ""),
    ]),
    Case("an interface that goes without online peers is told alone", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, "", ["IFDOWN wg0 1 0 online"]),
    ]),
    Case("one interface goes, another stays", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(30, dump("wg1", P("bob", 0)), ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
    ]),
    Case("two interfaces go", [
        Step(0, wg0() + dump("wg1")), Step(30, "", ["IFDOWN wg0 0 0 online", "IFDOWN wg1 0 0 online"]),
    ]),
    # interface there
    Case("interfaces at the start are not told", [Step(0, wg0())]),
    Case("an interface that is not there at the start is told when it comes", [
        Step(0, ""), Step(30, NEVER_SHOOK, ["IFUP wg0 1", "OFFLINE wg0 alice new"]), Step(60, NEVER_SHOOK),
    ]),
    Case("an interface that comes back changes no peer by itself", [
        Step(0, alice(), NEW),
        Step(30, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, NEVER_SHOOK, ["IFUP wg0 1"]),
        Step(90, alice(85), ["ONLINE wg0 alice"]),
    ]),
    Case("an interface that comes back with a fresh handshake has its peer online", [
        Step(0, alice(), NEW),
        Step(30, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, alice(50), ["IFUP wg0 1", "ONLINE wg0 alice"]),
    ]),
    Case("a peer that is missing when its interface comes back is removed", [
        Step(0, alice(), NEW),
        Step(30, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, wg0(), ["IFUP wg0 0", "REMOVED wg0 alice"]),
    ]),
    Case("one interface goes while another of as many lines comes", [
        Step(0, alice(), NEW),
        Step(30, dump("wg1", P("alice", 0)), [
            "IFUP wg1 1", "IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down", "ONLINE wg1 alice new",
        ]),
    ]),
    # missing peer
    Case("an online peer that is missing is removed, and its session ends", [
        Step(0, alice(), NEW), Step(30, wg0(), ["REMOVED wg0 alice removed"]), Step(60, wg0()),
    ]),
    Case("an offline peer that is missing is removed", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, wg0(), ["REMOVED wg0 alice"]),
    ]),
    Case("a peer that comes again after it was removed is new", [
        Step(0, alice(), NEW), Step(30, wg0(), ["REMOVED wg0 alice removed"]), Step(60, alice(), NEW),
    ]),
    Case("a peer that is replaced by another one", [
        Step(0, alice(), NEW), Step(30, wg0(P("bob", 0)), ["REMOVED wg0 alice removed", "ONLINE wg0 bob new"]),
    ]),
    Case("a peer that moves to another interface", [
        Step(0, alice() + dump("wg1"), NEW),
        Step(30, wg0() + dump("wg1", P("alice")), ["REMOVED wg0 alice removed", "OFFLINE wg1 alice new"]),
    ]),
    Case("peers in another order are the same ones", [
        Step(0, wg0(P("alice", 0), P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg0 bob new"]),
        Step(30, wg0(P("bob", 0), P("alice", 0))),
    ]),
    # not readable
    Case("peers of an unreadable interface keep their state, until they can be seen", [
        Step(0, alice(), NEW), Step(30, "", complaints=unreadable("wg0")), Step(500, "", complaints=unreadable("wg0")),
        Step(530, alice(), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a peer that shook hands while its interface was unreadable stays online", [
        Step(0, alice(), NEW), Step(500, "", complaints=unreadable("wg0")), Step(530, alice(520)),
    ]),
    Case("an unreadable interface does not keep others from being judged", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(180, dump("wg1", P("bob", 0)), ["OFFLINE wg1 bob idle"], complaints=unreadable("wg0")),
    ]),
    Case("an interface that is unreadable at the start has not just come when it can be read", [
        Step(0, "", complaints=unreadable("wg0")), Step(30, alice(), NEW),
    ]),
    Case("an interface that comes unreadable is told when it can be read", [
        Step(0, wg0()), Step(30, wg0(), complaints=unreadable("wg1")),
        Step(60, wg0() + dump("wg1", P("bob", 0)), ["IFUP wg1 1", "ONLINE wg1 bob new"]),
    ]),
    Case("an interface that comes and goes unreadable is not told", [
        Step(0, wg0()), Step(30, wg0(), complaints=unreadable("wg1")), Step(60, wg0()),
    ]),
    Case("an interface that goes after it was unreadable is told", [
        Step(0, alice(), NEW), Step(30, "", complaints=unreadable("wg0")),
        Step(60, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
    ]),
    Case("a complaint about no certain interface lets nobody be removed or go down", [
        Step(0, alice() + dump("wg1"), NEW), Step(30, wg0(), complaints=unreadable("\x1b[31m")),
        Step(60, wg0(), ["IFDOWN wg1 0 0 online", "REMOVED wg0 alice removed"]),
    ]),
    # spoiled lines
    Case("nobody is removed from an interface with a spoiled line", [
        Step(0, alice(), NEW), Step(30, wg0() + SPOILED), Step(60, wg0(), ["REMOVED wg0 alice removed"]),
    ]),
    Case("nobody grows old whose line may be the spoiled one", [
        Step(0, alice(), NEW), Step(500, wg0() + SPOILED), Step(530, alice(529)),
    ]),
    Case("a spoiled line does not keep the others from being judged", [
        Step(0, wg0(P("alice", 0), P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg0 bob new"]),
        Step(180, alice() + SPOILED, ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a spoiled line of one interface is no shield for another one's peers", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(30, wg0() + SPOILED + dump("wg1"), ["REMOVED wg1 bob removed"]),
    ]),
    Case("a line of unclear interface suspends REMOVED and IFDOWN everywhere", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(30, wg0() + UNCLEAR),
        Step(60, wg0(), ["IFDOWN wg1 1 1 online", "OFFLINE wg1 bob interface-down", "REMOVED wg0 alice removed"]),
    ]),
    Case("an interface whose own line is spoiled is not gone", [
        Step(0, alice(), NEW), Step(30, SPOILED + peer_line("wg0", P("alice", 0))), Step(60, alice()),
    ]),
    Case("an interface may come among spoiled lines", [
        Step(0, ""), Step(30, wg0() + SPOILED, ["IFUP wg0 0"]), Step(60, UNCLEAR + wg0() + dump("wg1"), ["IFUP wg1 0"]),
    ]),
    # handshakes that fall to 0
    Case("a handshake that falls to 0 ends the session", [
        Step(0, alice(), NEW), Step(30, NEVER_SHOOK, ["OFFLINE wg0 alice reset"]), Step(60, alice(59), ["ONLINE wg0 alice"]),
    ]),
    Case("a handshake that falls to 0 when it was old already is told as that", [
        Step(0, alice(), NEW), Step(500, NEVER_SHOOK, ["OFFLINE wg0 alice reset"]),
    ]),
    Case("a handshake of an offline peer that falls to 0 is no event", [
        Step(0, alice(-200), ["OFFLINE wg0 alice new"]), Step(30, NEVER_SHOOK),
    ]),
    # the setting INTERFACE
    Case("peers of other interfaces do not count", [
        Step(0, alice() + dump("wg1", P("bob", 0)), NEW), Step(30, alice() + dump("wg1")), Step(60, alice()),
        Step(90, alice(), complaints=unreadable("wg1")),
    ], ONLY_WG0),
    Case("an interface that is watched goes while another one's line takes its place", [
        Step(0, wg0() + dump("wg1", P("bob", 0))),
        Step(30, dump("wg1", P("bob", 0), P("carol", 0)), ["IFDOWN wg0 0 0 online"]),
    ], ONLY_WG0),
    # a restart with a store
    Case("a restart is silent where nothing changed", [
        Step(0, alice() + dump("wg1"), NEW), Step(30, alice() + dump("wg1"), restart=True), Step(60, alice() + dump("wg1")),
    ]),
    Case("after a restart, what went is told", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(500, wg0(P("carol", 499)), [
            "IFDOWN wg1 1 1 online", "OFFLINE wg1 bob interface-down", "REMOVED wg0 alice removed", "ONLINE wg0 carol new",
        ], restart=True),
    ]),
    Case("an interface that was down before a restart and is up after it is told", [
        Step(0, wg0()), Step(30, "", ["IFDOWN wg0 0 0 online"]), Step(60, wg0(), ["IFUP wg0 0"], restart=True),
    ]),
]

CLOCKS = [
    Case("a wall clock set forward makes nobody old", [
        Step(0, alice(), NEW), Step(30, alice(), clock=3600), Step(180, alice(), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("a wall clock set back keeps nobody young", [
        Step(0, alice(), NEW), Step(30, alice(), clock=-3600), Step(180, alice(), ["OFFLINE wg0 alice idle"], clock=-3600),
    ]),
    Case("a wall clock set to 1970 and back is no event", [
        Step(0, alice(), NEW), Step(30, alice(), clock=-START.wall), Step(60, alice()), Step(90, alice(89)),
    ]),
    Case("a handshake before the clock was set forward is as young as the last reading allows", [
        Step(0, alice(), NEW), Step(30, alice(20), clock=3600), Step(179, alice(20), clock=3600),
        Step(180, alice(20), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("a handshake after the clock was set forward is placed by the wall clock", [
        Step(0, alice(), NEW), Step(30, alice(3620), clock=3600), Step(199, alice(3620), clock=3600),
        Step(200, alice(3620), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("a handshake after the clock was set back moved back, and is placed by the wall clock", [
        Step(0, alice(), NEW), Step(30, alice(20 - 3600), clock=-3600), Step(199, alice(20 - 3600), clock=-3600),
        Step(200, alice(20 - 3600), ["OFFLINE wg0 alice idle"], clock=-3600),
    ]),
    Case("a handshake in the future has age 0, and ages from there", [
        Step(0, alice(9999), NEW), Step(179, alice(9999)), Step(180, alice(9999), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake that moved further into the future is fresh", [
        Step(0, alice(9999), NEW), Step(179, alice(10000)), Step(358, alice(10000)),
        Step(359, alice(10000), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("the same handshake keeps its place across a restart, whatever the clock", [
        Step(0, alice(), NEW), Step(179, alice(), restart=True, clock=9999),
        Step(180, alice(), ["OFFLINE wg0 alice idle"], clock=9999),
    ]),
    Case("a handshake that moved while its interface could not be read can be as old as that", [
        Step(0, alice(), NEW), Step(100, "", complaints=unreadable("wg0")),
        Step(200, alice(10), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake that moved while its line was spoiled can be as old as that", [
        Step(0, alice(), NEW), Step(100, wg0() + SPOILED), Step(200, alice(10), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake that moved among lines of unclear interface can be as old as that", [
        Step(0, alice(), NEW), Step(100, wg0() + UNCLEAR), Step(200, alice(10), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("the last reading of the interface bounds the age, not the last of another one", [
        Step(0, alice() + dump("wg1"), NEW), Step(100, dump("wg1"), complaints=unreadable("wg0")),
        Step(200, alice(10) + dump("wg1"), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("a new peer's handshake is placed by the wall clock", [
        Step(0, wg0()), Step(30, alice(), ["OFFLINE wg0 alice new"], clock=3600),
    ]),
]

LIVENESS = [
    Case("by traffic, received bytes keep a peer online", [
        Step(0, alice(), NEW), Step(170, alice(rx=10)), Step(349, alice(rx=10)),
        Step(350, alice(rx=10), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, sent bytes keep nobody online", [
        Step(0, alice(), NEW), Step(170, alice(tx=10)), Step(180, alice(tx=20), ["OFFLINE wg0 alice unreachable"]),
    ], TRAFFIC),
    Case("by traffic, received bytes bring a peer back", [
        Step(0, alice(), NEW), Step(180, alice(), ["OFFLINE wg0 alice idle"]), Step(210, alice(rx=1), ["ONLINE wg0 alice"]),
    ], TRAFFIC),
    Case("by traffic, bytes count only after a handshake", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, wg0(P("alice", rx=148))),
    ], TRAFFIC),
    Case("by traffic, bytes count only where there was a reading before", [
        Step(500, alice(rx=10), ["OFFLINE wg0 alice new"]), Step(530, alice(rx=10)),
    ], TRAFFIC),
    Case("by traffic, a fresh handshake counts without bytes", [
        Step(0, alice(), NEW), Step(170, alice(165)), Step(344, alice(165)),
        Step(345, alice(165), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, a counter that starts anew has grown", [
        Step(0, alice(rx=50), NEW), Step(170, alice(rx=10)), Step(200, alice(rx=10)),
        Step(350, alice(rx=10), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, identical output lets a peer grow old", [
        Step(0, alice(), NEW), Step(30, alice(rx=9)), Step(209, alice(rx=9)), Step(210, alice(rx=9), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, nobody grows old whose line may be the spoiled one", [
        Step(0, alice(), NEW), Step(500, wg0() + SPOILED), Step(530, alice(rx=5)),
    ], TRAFFIC),
    Case("by handshakes, received bytes keep nobody online", [
        Step(0, alice(), NEW), Step(170, alice(rx=10)), Step(180, alice(rx=20), ["OFFLINE wg0 alice idle"]),
    ]),
]

SESSIONS = [
    Case("a session goes from its handshake to its last one", [
        Step(5, alice(), ["ONLINE at 0"]), Step(120, alice(118)),
        Step(400, alice(118), ["OFFLINE idle: 0 to 118, 118 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session of one handshake has no length", [
        Step(5, alice(), ["ONLINE at 0"]),
        Step(400, alice(), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("received bytes are a sign of life, dated at the reading that saw them", [
        Step(5, alice(), ["ONLINE at 0"]), Step(120, alice(rx=7)),
        Step(400, alice(rx=7), ["OFFLINE idle: 0 to 120, 120 long, 7 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes sent after the last sign of life, and none back, mean unreachable", [
        Step(5, alice(), ["ONLINE at 0"]), Step(30, alice(rx=7, tx=7)), Step(60, alice(rx=7, tx=9)),
        Step(400, alice(rx=7, tx=9), ["OFFLINE unreachable: 0 to 30, 30 long, 7 in, 9 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes sent with the last sign of life mean nothing", [
        Step(5, alice(tx=100), ["ONLINE at 0"]), Step(30, alice(29, tx=300)), Step(60, alice(29, rx=1, tx=500)),
        Step(400, alice(29, rx=1, tx=500), ["OFFLINE idle: 0 to 60, 60 long, 1 in, 400 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes that came with the handshake that began a session are its own", [
        Step(0, wg0(P("alice", rx=10, tx=20)), ["OFFLINE"]), Step(30, alice(29, rx=110, tx=220), ["ONLINE at 29"]),
        Step(400, alice(29, rx=110, tx=220), ["OFFLINE idle: 29 to 30, 1 long, 100 in, 200 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes from before a peer was known are nobody's", [
        Step(5, alice(rx=1000, tx=1000), ["ONLINE at 0"]),
        Step(400, alice(rx=1000, tx=1000), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("counters that fall start anew, and totals go on", [
        Step(5, alice(rx=50, tx=60), ["ONLINE at 0"]), Step(30, alice(rx=70, tx=80)), Step(60, alice(rx=4, tx=3)),
        Step(400, alice(rx=4, tx=3), ["OFFLINE idle: 0 to 60, 60 long, 24 in, 23 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a counter of sent bytes that falls counts as sent since", [
        Step(5, alice(rx=50, tx=60), ["ONLINE at 0"]), Step(60, alice(rx=50, tx=3)),
        Step(400, alice(rx=50, tx=3), ["OFFLINE unreachable: 0 to 0, 0 long, 0 in, 3 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session shows its endpoints in the order of their use", [
        Step(0, alice(), ["ONLINE at 0"]), Step(1, alice(endpoint=OTHER), ["ROAMING at 0"]),
        Step(2, alice(), ["ROAMING at 0"]), Step(3, alice(endpoint="203.0.113.9:1"), ["ROAMING at 0"]),
        Step(400, alice(endpoint="203.0.113.9:1"), [
            "OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820 198.51.100.7:40000 203.0.113.9:1",
        ]),
    ], words=figures),
    Case("a session that began without an endpoint shows those that came", [
        Step(0, alice(endpoint=""), ["ONLINE at 0"]), Step(1, alice(endpoint=OTHER)),
        Step(400, alice(endpoint=OTHER), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 198.51.100.7:40000"]),
    ], words=figures),
    Case("the end with the interface has the figures that were known", [
        Step(0, alice(rx=5), ["ONLINE at 0"]), Step(60, alice(rx=9, tx=9)),
        Step(90, "", ["IFDOWN", "OFFLINE interface-down: 0 to 60, 60 long, 4 in, 9 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("the end by removal has the figures that were known", [
        Step(0, alice(rx=5), ["ONLINE at 0"]), Step(60, alice(55, rx=5, tx=9)),
        Step(90, wg0(), ["REMOVED removed: 0 to 55, 55 long, 0 in, 9 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("the end by a reset has the handshake from before", [
        Step(0, alice(), ["ONLINE at 0"]), Step(60, alice(55)),
        Step(90, NEVER_SHOOK, ["OFFLINE reset: 0 to 55, 55 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("the end by a reset has the bytes from before", [
        Step(0, alice(rx=5), ["ONLINE at 0"]), Step(60, alice(rx=9)),
        Step(90, wg0(P("alice", rx=3, tx=2)), ["OFFLINE reset: 0 to 60, 60 long, 4 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session's length does not follow the wall clock", [
        Step(0, alice(), ["ONLINE at 0"]), Step(60, alice(3655), clock=3600),
        Step(400, alice(3655), ["OFFLINE idle: 0 to 3655, 55 long, 0 in, 0 out, 192.0.2.1:51820"], clock=3600),
    ], words=figures),
    Case("a handshake that the clock moved before the session's start does not make it negative", [
        Step(0, alice(), ["ONLINE at 0"]), Step(10, alice(-3610), clock=-3600),
        Step(400, alice(-3610), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820"], clock=-3600),
    ], words=figures),
    Case("by traffic, a session that bytes begin starts at the reading that saw them, and has them", [
        Step(500, alice(rx=10, tx=10), ["OFFLINE"]), Step(530, alice(rx=30, tx=20), ["ONLINE at 530"]),
        Step(560, alice(rx=35, tx=20)),
        Step(900, alice(rx=35, tx=20), ["OFFLINE idle: 530 to 560, 30 long, 25 in, 10 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("by traffic, a session that a handshake begins starts at it, whatever came with it", [
        Step(0, wg0(P("alice")), ["OFFLINE"]), Step(30, alice(20, rx=100), ["ONLINE at 20"]),
        Step(60, "", ["IFDOWN", "OFFLINE interface-down: 20 to 30, 10 long, 100 in, 0 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("by traffic, a handshake that is just too old begins no session, the bytes with it do", [
        Step(0, wg0(P("alice")), ["OFFLINE"]), Step(210, alice(30, rx=5), ["ONLINE at 210"]),
    ], TRAFFIC, figures),
    Case("by traffic, the same where the whole output had to be parsed", [
        Step(500, alice(rx=10, tx=10), ["OFFLINE"]), Step(530, alice(rx=30, tx=20) + dump("wg1"), ["IFUP", "ONLINE at 530"]),
        Step(900, alice(rx=30, tx=20), ["IFDOWN", "OFFLINE idle: 530 to 530, 0 long, 20 in, 10 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("by traffic, bytes seen before the interface went are the last sign of life", [
        Step(0, alice(), ["ONLINE at 0"]), Step(60, alice(rx=3)), Step(90, alice(rx=3)),
        Step(91, "", ["IFDOWN", "OFFLINE interface-down: 0 to 60, 60 long, 3 in, 0 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("a peer that roams for months keeps its last 32 endpoints", [
        Step(0, alice(endpoint="192.0.2.0:1"), ["ONLINE at 0"]),
        *(Step(n, alice(endpoint="192.0.2.%d:1" % n), ["ROAMING at 0"]) for n in range(1, 40)),
        Step(400, alice(endpoint="192.0.2.39:1"), [
            "OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, " + " ".join("192.0.2.%d:1" % n for n in range(8, 40)),
        ]),
    ], words=figures),
]

CASES = EVENTS + CLOCKS + LIVENESS + SESSIONS


class Call(NamedTuple):
    """One call of one decision."""

    name: str
    function: str
    arguments: Tuple[Any, ...]
    answer: Any


@lru_cache(maxsize=None)
def meter_of(iface: str, name: str) -> Meter:
    return Meter(identity(iface, name), 10, 20)


METER = meter_of("wg0", "alice")
KNOWN = Known("", "", 1000, 1000, 77.0, b"", METER)
SESSION = Session(1, 1000.0, -50.0, 1, 2, 0.0, "here")
UP, DOWN = Interface(True, 0.0, START.wall), Interface(False, 0.0, START.wall)
DAY = 86_400.0


def table(**interfaces: Interface) -> Table:
    known = {identity(name, "alice"): KNOWN._replace(meter=meter_of(name, "alice")) for name in interfaces}
    return EMPTY._replace(peers=known, interfaces=interfaces, last=START)


def interfaces(*names: str) -> Reading:
    return Reading(frozenset(names), Peers(), None)


def with_session(name: str, number: int, unwatched: float = 0.0) -> Known:
    session = SESSION._replace(number=number, unwatched=unwatched)
    return KNOWN._replace(meter=meter_of("wg0", name), packed=session.packed())


def ended(number: int, last_seen: float, unwatched: float = 0.0) -> Event:
    return Event("OFFLINE", 0.0, "wg0", KNOWN, ended=Ended(number, 0.0, last_seen, 0.0, 0, 0, "", unwatched, "idle"))


def peers(*every: Known) -> Table:
    return EMPTY._replace(peers={known.identity: known for known in every})


def trouble_keys(troubles: List[Trouble]) -> List[str]:
    return [trouble.key for trouble in troubles]


CALLS = [
    Call("no handshake has no place", "place", (0, None, NEVER, at(0)), NEVER),
    Call("a first handshake is placed by the wall clock", "place", (1_700_000_000, None, NEVER, at(30)), START.boot),
    Call("the same handshake keeps its place", "place", (1000, KNOWN, 0.0, at(30)), 77.0),
    Call("a handshake that moved forward is no older than the reading before", "place", (1001, KNOWN, 5020.0, at(30)), 5020.0),
    Call("a handshake that moved forward may be younger", "place", (1_700_000_025, KNOWN, 5020.0, at(30)), 5025.0),
    Call("a boot clock behind the last reading makes no negative age", "place", (1001, KNOWN, 9000.0, at(30)), 5030.0),
    Call("a handshake that moved back is placed by the wall clock", "place", (999, KNOWN, 5020.0, Moment(1029.0, 50.0)), 20.0),
    Call("a handshake in the future is placed now", "place", (1_700_009_999, None, NEVER, at(30)), 5030.0),
    Call("by handshakes only they count", "last_sign", (5.0, 9.0, chosen()), 5.0),
    Call("by traffic the later one counts", "last_sign", (5.0, 9.0, TRAFFIC), 9.0),
    Call("by traffic a later handshake counts", "last_sign", (9.0, 5.0, TRAFFIC), 9.0),
    Call("the address is the endpoint without its port", "address", ("192.0.2.1:5",), "192.0.2.1"),
    Call("the address of the sixth version keeps its brackets", "address", ("[2001:db8::1]:5",), "[2001:db8::1]"),
    Call("no endpoint has no address", "address", ("",), ""),
    Call("the same allowed IPs are no others", "other_ips", ("a,b", "a,b"), False),
    Call("allowed IPs in another order are no others", "other_ips", ("a,b", "b,a"), False),
    Call("more allowed IPs are others", "other_ips", ("a", "a,b"), True),
    Call("none are others than some", "other_ips", ("", "a"), True),
    Call("nobody without a session ends one", "end_session", (None, KNOWN, METER.mark(), "idle", at(0)), None),
    Call(
        "a session that ended before this boot is dated by its own clock",
        "end_session",
        (SESSION, KNOWN._replace(made=-40.0), Mark(11, 22, -20.0), "idle", Moment(9e8, 30.0)),
        Ended(1, 1000.0, 1030.0, 30.0, 10, 20, "here", 0.0, "idle"),
    ),
    Call(
        "a session whose last sign of life is not in its beginning is dated by the clock of now",
        "end_session",
        (SESSION, KNOWN, Mark(0, 0, 90.0), "idle", Moment(5000.0, 100.0)),
        Ended(1, 1000.0, 4990.0, 140.0, 0, 0, "here", 0.0, "idle"),
    ),
    Call(
        "sessions that go on through a gap are marked, those that began after it are not",
        "span",
        (peers(KNOWN, with_session("bob", 3, 5.0), with_session("carol", 4)), [], 3, Moment(1000.0, 0.0), 60.0),
        (peers(KNOWN, with_session("bob", 3, 65.0), with_session("carol", 4)), []),
    ),
    Call(
        "sessions that ended are marked where they had a sign of life in the gap",
        "span",
        (
            EMPTY,
            [ended(3, 1001.0, 5.0), ended(3, 1000.0), ended(4, 1001.0), Event("IFUP", 0.0, "wg0")],
            3,
            Moment(1000.0, 0.0),
            60.0,
        ),
        (EMPTY, [ended(3, 1001.0, 65.0), ended(3, 1000.0), ended(4, 1001.0), Event("IFUP", 0.0, "wg0")]),
    ),
    Call("nothing sent since means idle", "silence", (KNOWN,), "idle"),
    Call("a steady clock made no step", "clock_step", (at(0), at(30)), 0.0),
    Call("a second is no step", "clock_step", (at(0), at(30, 1.0)), 0.0),
    Call("a tenth of the time between is no step", "clock_step", (at(0), at(30, -3.0)), 0.0),
    Call("more than a tenth is one", "clock_step", (at(0), at(30, -3.5)), -3.5),
    Call("a second in a short time is no step", "clock_step", (at(0), at(1, 1.0)), 0.0),
    Call("a clock set forward", "clock_step", (at(0), at(30, 3600.0)), 3600.0),
    Call("a clock set back", "clock_step", (at(0), at(30, -3600.0)), -3600.0),
    Call("a clock that is being slewed made no step", "clock_step", (at(0), at(3600, 300.0)), 0.0),
    Call("an interface that is up is not forgotten", "forget", (table(wg0=UP), at(9 * DAY), 7), (table(wg0=UP), [])),
    Call("an interface that went lately is not forgotten", "forget", (table(wg0=DOWN), at(7 * DAY), 7), (table(wg0=DOWN), [])),
    Call(
        "an interface that went long ago is forgotten with its peers",
        "forget",
        (table(wg0=DOWN, wg1=UP), at(7 * DAY + 1), 7),
        (table(wg1=UP), ["wg0"]),
    ),
    Call(
        "an interface that comes back among unchanged lines has no peers to count",
        "decide_interfaces",
        (table(wg0=DOWN), interfaces("wg0"), at(30)),
        ({"wg0": Interface(True, 5030.0, START.wall + 30)}, [wg_monitor.Event("IFUP", START.wall + 30, "wg0")]),
    ),
]

TROUBLES = [
    Call("a good reading has no trouble", "troubles_in", (interfaces("wg0"), table(wg0=UP), chosen()), []),
    Call(
        "unreadable interfaces are troubles, each one",
        "troubles_in",
        (interfaces()._replace(unreadable=frozenset(["wg1", "wg0"])), table(wg0=UP), chosen()),
        ["unreadable wg0", "unreadable wg1"],
    ),
    Call(
        "spoiled lines are a trouble for each interface, and for none",
        "troubles_in",
        (interfaces("wg0")._replace(spoiled={"wg0": 2, "": 1}), table(wg0=UP), chosen()),
        ["spoiled ", "spoiled wg0"],
    ),
    Call("an interface that is set but was never there", "troubles_in", (interfaces(), EMPTY, ONLY_WG0), ["absent wg0"]),
    Call("an interface that is set and there", "troubles_in", (interfaces("wg0"), EMPTY, ONLY_WG0), []),
    Call("an interface that goes while it is watched is an event", "troubles_in", (interfaces(), table(wg0=UP), ONLY_WG0), []),
    Call(
        "an interface that is set and went before the start",
        "troubles_in",
        (interfaces(), table(wg0=DOWN)._replace(last=None), ONLY_WG0),
        ["absent wg0"],
    ),
    Call(
        "an interface that goes between two runs is an event",
        "troubles_in",
        (interfaces(), table(wg0=UP)._replace(last=None), ONLY_WG0),
        [],
    ),
    Call(
        "an interface that is set and unreadable is not absent",
        "troubles_in",
        (interfaces()._replace(unreadable=frozenset(["wg0"])), EMPTY, ONLY_WG0),
        ["unreadable wg0"],
    ),
    Call(
        "an interface that is set may hide in a line of unclear interface",
        "troubles_in",
        (interfaces()._replace(spoiled={"": 1}), EMPTY, ONLY_WG0),
        ["spoiled "],
    ),
]


def call(case: Call, names: Mapping[str, Any]) -> None:
    answer = names[case.function](*case.arguments)
    assert (trouble_keys(answer) if case.function == "troubles_in" else answer) == case.answer


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_readings(case: Case) -> None:
    assert play(case, vars(wg_monitor)) == [list(step.events) for step in case.steps]


@pytest.mark.parametrize("case", CALLS + TROUBLES, ids=ids(CALLS + TROUBLES))
def test_decision(case: Call) -> None:
    call(case, vars(wg_monitor))


def test_a_peer_that_was_sent_to_in_vain_is_unreachable() -> None:
    meter = Meter(METER.identity, 10, 20)
    meter.count(10, 21, 30.0)
    assert wg_monitor.silence(KNOWN._replace(meter=meter)) == "unreachable"


def test_a_peer_that_stands_as_before_is_the_same_value() -> None:
    """Else thousands of new ones would be made whenever the output is parsed whole."""
    reading, _ = read(alice())
    table, _ = wg_monitor.decide(EMPTY, reading, at(0), chosen())
    reading, _ = read(alice(rx=5), table=table, boot=at(30).boot)
    again, _ = wg_monitor.decide(table, reading, at(30), chosen())
    assert again.peers[identity("wg0", "alice")] is table.peers[identity("wg0", "alice")]


@pytest.mark.parametrize("cases", [EVENTS, CLOCKS, LIVENESS, SESSIONS], ids=["events", "clocks", "liveness", "sessions"])
def test_every_case_has_a_name_of_its_own(cases: List[Case]) -> None:
    assert len({case.name for case in cases}) == len(cases)


def test_every_branch_of_the_decisions_is_taken() -> None:
    names, recorder = record(wg_monitor, "Decisions")
    for case in CASES:
        play(case, names)
    for single in CALLS + TROUBLES:
        call(single, names)
    assert recorder.wanted
    assert recorder.missing() == []


def test_the_recorder_misses_what_is_not_taken() -> None:
    """The proof above would be worth nothing if it could not fail."""
    names, recorder = record(wg_monitor, "Decisions")
    names["last_sign"](1.0, 2.0, chosen())
    missing = recorder.missing()
    assert any("liveness" in place and place.endswith("never True") for place in missing)
    assert not any("liveness ==" in place and "return max" in place and place.endswith("never False") for place in missing)
