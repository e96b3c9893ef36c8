"""The decisions, case by case: events, clocks, signs of life and sessions. The cases take every branch."""

import copy
from inspect import isgenerator
from typing import Any, FrozenSet, List, Mapping, NamedTuple, Optional, Tuple, Union

import pytest

import wg_monitor
from branches import record
from values import (
    START,
    Case,
    P,
    Step,
    at,
    chosen,
    dump,
    figures,
    identity,
    ids,
    key,
    peer_line,
    plain,
    play,
    read,
    unreadable,
)
from wg_monitor import (
    COUNTER_MAX,
    ENDPOINTS_MAX,
    NEVER,
    Ended,
    Event,
    Fault,
    Identity,
    Interface,
    Moment,
    Moved,
    PeerLine,
    Reading,
    Renewed,
    Row,
    Session,
    Settings,
    Table,
)

INVALID = "wg0\tinvalid\n"
UNCLEAR = "invalid\n"
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
    # an unknown peer that is online
    Case("a peer that is online at the first reading is new", [Step(1, alice(), NEW)]),
    Case("a peer that appears online later is new", [Step(0, wg0()), Step(30, alice(29), NEW)]),
    Case("a new peer one second short of the threshold is online", [Step(179, alice(), NEW)]),
    Case("events of two peers are in the order of wg", [
        Step(0, wg0(P("bob", 0), P("alice", 0)), ["ONLINE wg0 bob new", "ONLINE wg0 alice new"]),
    ]),
    Case("the same key on two interfaces means two peers", [
        Step(0, alice() + dump("wg1", P("alice", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 alice new"]),
    ]),
    # an unknown peer that is offline
    Case("a new peer without a handshake is offline", [Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"])]),
    Case("a new peer at the threshold is offline", [Step(180, alice(), ["OFFLINE wg0 alice new"])]),
    Case("a peer that is added later without a handshake is new and offline", [
        Step(0, wg0()), Step(30, NEVER_SHOOK, ["OFFLINE wg0 alice new"]),
    ]),
    Case("a new peer without allowed IPs changes when it gets some", [
        Step(0, alice(ips=""), NEW), Step(30, alice(), ["CHANGED wg0 alice"]),
    ]),
    # an offline peer comes online
    Case("the first handshake brings a peer online", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, alice(25), ["ONLINE wg0 alice"]),
    ]),
    Case("a peer that comes back online is not new", [
        Step(0, alice(), NEW), Step(180, alice(), ["OFFLINE wg0 alice idle"]), Step(300, alice(299), ["ONLINE wg0 alice"]),
    ]),
    Case("a handshake that is too old when it is first seen brings no peer online", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(300, alice(60)),
    ]),
    Case("a peer that comes online from another address does not roam", [
        Step(0, alice(-200), ["OFFLINE wg0 alice new"]), Step(30, alice(29, endpoint=OTHER), ["ONLINE wg0 alice"]),
    ]),
    # an online peer goes offline
    Case("a peer with an unchanged line goes offline at the threshold", [
        Step(0, alice(), NEW), Step(179, alice()), Step(180, alice(), ["OFFLINE wg0 alice idle"]), Step(210, alice()),
    ]),
    Case("a peer goes offline while another peer's line changes", [
        Step(0, wg0(P("alice"), P("bob", 0)), ["OFFLINE wg0 alice new", "ONLINE wg0 bob new"]),
        Step(90, wg0(P("alice", 89), P("bob", 0)), ["ONLINE wg0 alice"]),
        Step(180, wg0(P("alice", 179), P("bob", 0)), ["OFFLINE wg0 bob idle"]),
    ]),
    Case("a peer goes offline although its byte counters change", [
        Step(0, alice(), NEW), Step(180, alice(tx=5), ["OFFLINE wg0 alice unreachable"]),
    ]),
    Case("a peer goes offline after failed readings", [
        Step(0, alice(), NEW), Step(1000, alice(), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("fresh handshakes keep a peer online", [Step(0, alice(), NEW)] + [Step(t, alice(t - 1)) for t in (120, 240, 360)]),
    # an online peer has another address
    Case("a new address is roaming", [
        Step(0, alice(), NEW), Step(30, alice(endpoint=OTHER), ["ROAMING wg0 alice from 192.0.2.1:51820"]),
    ]),
    Case("a new IPv6 address is roaming", [
        Step(0, alice(endpoint="[2001:db8::1]:9"), NEW),
        Step(30, alice(endpoint="[2001:db8::2]:9"), ["ROAMING wg0 alice from [2001:db8::1]:9"]),
    ]),
    Case("a new port alone is no event", [Step(0, alice(), NEW), Step(30, alice(endpoint="192.0.2.1:9"))]),
    Case("a new port alone is no event with IPv6 either", [
        Step(0, alice(endpoint="[2001:db8::1]:5"), NEW), Step(30, alice(endpoint="[2001:db8::1]:9")),
    ]),
    Case("roaming there and back causes two events", [
        Step(0, alice(), NEW),
        Step(30, alice(endpoint=OTHER), ["ROAMING wg0 alice from 192.0.2.1:51820"]),
        Step(60, alice(), ["ROAMING wg0 alice from " + OTHER]),
    ]),
    Case("a first endpoint is no roaming", [
        Step(0, alice(endpoint=""), NEW), Step(30, alice(endpoint=OTHER)),
    ]),
    Case("a missing endpoint is no roaming, and the last one stays known", [
        Step(0, alice(), NEW), Step(30, alice(endpoint="")),
        Step(60, alice(endpoint=OTHER), ["ROAMING wg0 alice from 192.0.2.1:51820"]),
    ]),
    Case("an offline peer does not roam", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, wg0(P("alice", endpoint=OTHER))),
    ]),
    Case("a peer that goes offline does not roam", [
        Step(0, alice(), NEW), Step(180, alice(endpoint=OTHER), ["OFFLINE wg0 alice idle"]),
    ]),
    # a known peer has other allowed IPs
    Case("new allowed IPs of an online peer are a change", [
        Step(0, alice(), NEW), Step(30, alice(ips="10.0.0.2/32"), ["CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    Case("new allowed IPs of an offline peer are a change", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]),
        Step(30, wg0(P("alice", ips="10.0.0.1/32,10.1.0.0/24")), ["CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    Case("allowed IPs in another order are no change", [
        Step(0, alice(ips="10.0.0.1/32,10.0.0.2/32"), NEW), Step(30, alice(ips="10.0.0.2/32,10.0.0.1/32")),
    ]),
    Case("the loss of all allowed IPs is a change", [
        Step(0, alice(), NEW), Step(30, alice(ips=""), ["CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    Case("a peer roams and changes at one reading, in this order", [
        Step(0, alice(), NEW),
        Step(30, alice(endpoint=OTHER, ips=""), [
            "ROAMING wg0 alice from 192.0.2.1:51820", "CHANGED wg0 alice from 10.0.0.1/32",
        ]),
    ]),
    Case("a peer comes online and changes at one reading, in this order", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]),
        Step(30, alice(29, ips=""), ["ONLINE wg0 alice", "CHANGED wg0 alice from 10.0.0.1/32"]),
    ]),
    # an interface disappears
    Case("an interface that disappears is reported once, with its online peers", [
        Step(0, wg0(P("alice", 0), P("bob")), ["ONLINE wg0 alice new", "OFFLINE wg0 bob new"]),
        Step(30, "", ["IFDOWN wg0 2 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, ""),
    ]),
    Case("an interface without online peers that disappears causes one event", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, "", ["IFDOWN wg0 1 0 online"]),
    ]),
    Case("one interface disappears and another stays", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(30, dump("wg1", P("bob", 0)), ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
    ]),
    Case("two interfaces disappear", [
        Step(0, wg0() + dump("wg1")), Step(30, "", ["IFDOWN wg0 0 0 online", "IFDOWN wg1 0 0 online"]),
    ]),
    # an interface appears
    Case("interfaces that exist at the start cause no event", [Step(0, wg0())]),
    Case("an interface that appears after the start causes an event", [
        Step(0, ""), Step(30, NEVER_SHOOK, ["IFUP wg0 1", "OFFLINE wg0 alice new"]), Step(60, NEVER_SHOOK),
    ]),
    Case("the return of an interface alone changes no peer", [
        Step(0, alice(), NEW),
        Step(30, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, NEVER_SHOOK, ["IFUP wg0 1"]),
        Step(90, alice(85), ["ONLINE wg0 alice"]),
    ]),
    Case("an interface that returns with a fresh handshake brings its peer online", [
        Step(0, alice(), NEW),
        Step(30, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, alice(50), ["IFUP wg0 1", "ONLINE wg0 alice"]),
    ]),
    Case("a peer that is missing when its interface returns is removed", [
        Step(0, alice(), NEW),
        Step(30, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
        Step(60, wg0(), ["IFUP wg0 0", "REMOVED wg0 alice"]),
    ]),
    Case("one interface disappears while another with as many lines appears", [
        Step(0, alice(), NEW),
        Step(30, dump("wg1", P("alice", 0)), [
            "IFUP wg1 1", "IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down", "ONLINE wg1 alice new",
        ]),
    ]),
    # a peer is missing
    Case("a missing online peer is removed, and its session ends", [
        Step(0, alice(), NEW), Step(30, wg0(), ["REMOVED wg0 alice removed"]), Step(60, wg0()),
    ]),
    Case("a missing offline peer is removed", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, wg0(), ["REMOVED wg0 alice"]),
    ]),
    Case("a peer that returns after its removal is new", [
        Step(0, alice(), NEW), Step(30, wg0(), ["REMOVED wg0 alice removed"]), Step(60, alice(), NEW),
    ]),
    Case("another peer replaces a peer", [
        Step(0, alice(), NEW), Step(30, wg0(P("bob", 0)), ["REMOVED wg0 alice removed", "ONLINE wg0 bob new"]),
    ]),
    Case("a peer moves to another interface", [
        Step(0, alice() + dump("wg1"), NEW),
        Step(30, wg0() + dump("wg1", P("alice")), ["REMOVED wg0 alice removed", "OFFLINE wg1 alice new"]),
    ]),
    Case("peers in another order are the same peers", [
        Step(0, wg0(P("alice", 0), P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg0 bob new"]),
        Step(30, wg0(P("bob", 0), P("alice", 0))),
    ]),
    # an interface is unreadable
    Case("peers of an unreadable interface keep their state until it can be read again", [
        Step(0, alice(), NEW), Step(30, "", complaints=unreadable("wg0")), Step(500, "", complaints=unreadable("wg0")),
        Step(530, alice(), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a peer with a handshake while its interface is unreadable stays online", [
        Step(0, alice(), NEW), Step(500, "", complaints=unreadable("wg0")), Step(530, alice(520)),
    ]),
    Case("peers of other interfaces age out while one interface is unreadable", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(180, dump("wg1", P("bob", 0)), ["OFFLINE wg1 bob idle"], complaints=unreadable("wg0")),
    ]),
    Case("an interface that is unreadable at the start causes no IFUP when it can be read", [
        Step(0, "", complaints=unreadable("wg0")), Step(30, alice(), NEW),
    ]),
    Case("an interface that appears unreadable causes IFUP when it can be read", [
        Step(0, wg0()), Step(30, wg0(), complaints=unreadable("wg1")),
        Step(60, wg0() + dump("wg1", P("bob", 0)), ["IFUP wg1 1", "ONLINE wg1 bob new"]),
    ]),
    Case("an interface that appears and disappears unreadable causes no event", [
        Step(0, wg0()), Step(30, wg0(), complaints=unreadable("wg1")), Step(60, wg0()),
    ]),
    Case("an unreadable interface that disappears causes IFDOWN", [
        Step(0, alice(), NEW), Step(30, "", complaints=unreadable("wg0")),
        Step(60, "", ["IFDOWN wg0 1 1 online", "OFFLINE wg0 alice interface-down"]),
    ]),
    Case("a complaint about an unclear interface suspends REMOVED and IFDOWN", [
        Step(0, alice() + dump("wg1"), NEW), Step(30, wg0(), complaints=unreadable("\x1b[31m")),
        Step(60, wg0(), ["IFDOWN wg1 0 0 online", "REMOVED wg0 alice removed"]),
    ]),
    # a line is invalid
    Case("an invalid line suspends REMOVED on its interface", [
        Step(0, alice(), NEW), Step(30, wg0() + INVALID), Step(60, wg0(), ["REMOVED wg0 alice removed"]),
    ]),
    Case("a peer whose line may be the invalid one does not age out", [
        Step(0, alice(), NEW), Step(500, wg0() + INVALID), Step(530, alice(529)),
    ]),
    Case("an invalid line does not keep the other peers from aging out", [
        Step(0, wg0(P("alice", 0), P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg0 bob new"]),
        Step(180, alice() + INVALID, ["OFFLINE wg0 alice idle"]),
    ]),
    Case("an invalid line of one interface does not suspend REMOVED on another", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(30, wg0() + INVALID + dump("wg1"), ["REMOVED wg1 bob removed"]),
    ]),
    Case("a line of an unclear interface suspends REMOVED and IFDOWN everywhere", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(30, wg0() + UNCLEAR),
        Step(60, wg0(), ["IFDOWN wg1 1 1 online", "OFFLINE wg1 bob interface-down", "REMOVED wg0 alice removed"]),
    ]),
    Case("an interface with an invalid line of its own causes no IFDOWN", [
        Step(0, alice(), NEW), Step(30, INVALID + peer_line("wg0", P("alice", 0))), Step(60, alice()),
    ]),
    Case("an interface that appears among invalid lines causes IFUP", [
        Step(0, ""), Step(30, wg0() + INVALID, ["IFUP wg0 0"]), Step(60, UNCLEAR + wg0() + dump("wg1"), ["IFUP wg1 0"]),
    ]),
    # a handshake falls to 0
    Case("a handshake that falls to 0 ends the session", [
        Step(0, alice(), NEW), Step(30, NEVER_SHOOK, ["OFFLINE wg0 alice reset"]), Step(60, alice(59), ["ONLINE wg0 alice"]),
    ]),
    Case("a handshake that falls to 0 ends the session as reset even if it was old", [
        Step(0, alice(), NEW), Step(500, NEVER_SHOOK, ["OFFLINE wg0 alice reset"]),
    ]),
    Case("a handshake of an offline peer that falls to 0 causes no event", [
        Step(0, alice(-200), ["OFFLINE wg0 alice new"]), Step(30, NEVER_SHOOK),
    ]),
    # the setting INTERFACE
    Case("peers of unwatched interfaces cause no event", [
        Step(0, alice() + dump("wg1", P("bob", 0)), NEW), Step(30, alice() + dump("wg1")), Step(60, alice()),
        Step(90, alice(), complaints=unreadable("wg1")),
    ], ONLY_WG0),
    Case("a watched interface disappears while another one's line takes its place", [
        Step(0, wg0() + dump("wg1", P("bob", 0))),
        Step(30, dump("wg1", P("bob", 0), P("carol", 0)), ["IFDOWN wg0 0 0 online"]),
    ], ONLY_WG0),
    # a restart with a store
    Case("a restart without a change causes no event", [
        Step(0, alice() + dump("wg1"), NEW), Step(30, alice() + dump("wg1"), restart=True), Step(60, alice() + dump("wg1")),
    ]),
    Case("a restart reports what disappeared before it", [
        Step(0, alice() + dump("wg1", P("bob", 0)), ["ONLINE wg0 alice new", "ONLINE wg1 bob new"]),
        Step(500, wg0(P("carol", 499)), [
            "IFDOWN wg1 1 1 online", "OFFLINE wg1 bob interface-down", "REMOVED wg0 alice removed", "ONLINE wg0 carol new",
        ], restart=True),
    ]),
    Case("an interface that was down before a restart and is up after it causes IFUP", [
        Step(0, wg0()), Step(30, "", ["IFDOWN wg0 0 0 online"]), Step(60, wg0(), ["IFUP wg0 0"], restart=True),
    ]),
]

CLOCKS = [
    Case("a handshake that is too old when it is seen, after a time without readings, ends the session", [
        Step(0, alice(), NEW), Step(600, alice(200), ["OFFLINE wg0 alice idle"]), Step(630, alice(200)),
    ]),
    Case("a handshake that is too old when it is seen keeps a peer online whose bytes are younger", [
        Step(0, alice(), NEW), Step(600, alice(200, rx=5)), Step(770, alice(200, rx=5)),
        Step(780, alice(200, rx=5), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("a wall clock set forward ages no peer", [
        Step(0, alice(), NEW), Step(30, alice(), clock=3600), Step(180, alice(), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("a wall clock set back does not keep a peer online", [
        Step(0, alice(), NEW), Step(30, alice(), clock=-3600), Step(180, alice(), ["OFFLINE wg0 alice idle"], clock=-3600),
    ]),
    Case("a wall clock set to 1970 and back causes no event", [
        Step(0, alice(), NEW), Step(30, alice(), clock=-START.wall), Step(60, alice()), Step(90, alice(89)),
    ]),
    Case("a new handshake from before a step forward is as old as the last reading at most", [
        Step(0, alice(), NEW), Step(30, alice(20), clock=3600), Step(179, alice(20), clock=3600),
        Step(180, alice(20), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("the wall clock places a handshake from after a step forward", [
        Step(0, alice(), NEW), Step(30, alice(3620), clock=3600), Step(199, alice(3620), clock=3600),
        Step(200, alice(3620), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("the wall clock places a handshake that a step back moved back", [
        Step(0, alice(), NEW), Step(30, alice(20 - 3600), clock=-3600), Step(199, alice(20 - 3600), clock=-3600),
        Step(200, alice(20 - 3600), ["OFFLINE wg0 alice idle"], clock=-3600),
    ]),
    Case("a handshake in the future has age 0 and ages from then on", [
        Step(0, alice(9999), NEW), Step(179, alice(9999)), Step(180, alice(9999), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake that moves further into the future is fresh", [
        Step(0, alice(9999), NEW), Step(179, alice(10000)), Step(358, alice(10000)),
        Step(359, alice(10000), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake keeps its place across a restart and a clock step", [
        Step(0, alice(), NEW), Step(179, alice(), restart=True, clock=9999),
        Step(180, alice(), ["OFFLINE wg0 alice idle"], clock=9999),
    ]),
    Case("a handshake that moves while its interface is unreadable can be as old as the reading before", [
        Step(0, alice(), NEW), Step(100, "", complaints=unreadable("wg0")),
        Step(200, alice(10), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake that moves while its line is invalid can be as old as the reading before", [
        Step(0, alice(), NEW), Step(100, wg0() + INVALID), Step(200, alice(10), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("a handshake that moves beside a line of an unclear interface can be as old as the reading before", [
        Step(0, alice(), NEW), Step(100, wg0() + UNCLEAR), Step(200, alice(10), ["OFFLINE wg0 alice idle"]),
    ]),
    Case("the last reading of its own interface limits a handshake's age", [
        Step(0, alice() + dump("wg1"), NEW), Step(100, dump("wg1"), complaints=unreadable("wg0")),
        Step(200, alice(10) + dump("wg1"), ["OFFLINE wg0 alice idle"], clock=3600),
    ]),
    Case("the wall clock places a new peer's handshake", [
        Step(0, wg0()), Step(30, alice(), ["OFFLINE wg0 alice new"], clock=3600),
    ]),
]

LIVENESS = [
    Case("by traffic, received bytes keep a peer online", [
        Step(0, alice(), NEW), Step(170, alice(rx=10)), Step(349, alice(rx=10)),
        Step(350, alice(rx=10), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, sent bytes do not keep a peer online", [
        Step(0, alice(), NEW), Step(170, alice(tx=10)), Step(180, alice(tx=20), ["OFFLINE wg0 alice unreachable"]),
    ], TRAFFIC),
    Case("by traffic, received bytes bring a peer back", [
        Step(0, alice(), NEW), Step(180, alice(), ["OFFLINE wg0 alice idle"]), Step(210, alice(rx=1), ["ONLINE wg0 alice"]),
    ], TRAFFIC),
    Case("by traffic, bytes count only after a handshake", [
        Step(0, NEVER_SHOOK, ["OFFLINE wg0 alice new"]), Step(30, wg0(P("alice", rx=148))),
    ], TRAFFIC),
    Case("by traffic, bytes at the first reading do not count", [
        Step(500, alice(rx=10), ["OFFLINE wg0 alice new"]), Step(530, alice(rx=10)),
    ], TRAFFIC),
    Case("by traffic, a fresh handshake counts without bytes", [
        Step(0, alice(), NEW), Step(170, alice(165)), Step(344, alice(165)),
        Step(345, alice(165), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, a counter that restarted counts as received bytes", [
        Step(0, alice(rx=50), NEW), Step(170, alice(rx=10)), Step(200, alice(rx=10)),
        Step(350, alice(rx=10), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, a peer ages out while the output is identical", [
        Step(0, alice(), NEW), Step(30, alice(rx=9)), Step(209, alice(rx=9)), Step(210, alice(rx=9), ["OFFLINE wg0 alice idle"]),
    ], TRAFFIC),
    Case("by traffic, a peer whose line may be the invalid one does not age out", [
        Step(0, alice(), NEW), Step(500, wg0() + INVALID), Step(530, alice(rx=5)),
    ], TRAFFIC),
    Case("by handshakes, received bytes do not keep a peer online", [
        Step(0, alice(), NEW), Step(170, alice(rx=10)), Step(180, alice(rx=20), ["OFFLINE wg0 alice idle"]),
    ]),
]

SESSIONS = [
    Case("a session lasts from its first handshake to its last one", [
        Step(5, alice(), ["ONLINE at 0"]), Step(120, alice(118)),
        Step(400, alice(118), ["OFFLINE idle: 0 to 118, 118 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session of one handshake has no length", [
        Step(5, alice(), ["ONLINE at 0"]),
        Step(400, alice(), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("received bytes are a sign of life at the time of their reading", [
        Step(5, alice(), ["ONLINE at 0"]), Step(120, alice(rx=7)),
        Step(400, alice(rx=7), ["OFFLINE idle: 0 to 120, 120 long, 7 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes sent after the last sign of life mean unreachable", [
        Step(5, alice(), ["ONLINE at 0"]), Step(30, alice(rx=7, tx=7)), Step(60, alice(rx=7, tx=9)),
        Step(400, alice(rx=7, tx=9), ["OFFLINE unreachable: 0 to 30, 30 long, 7 in, 9 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes sent until the last sign of life mean idle", [
        Step(5, alice(tx=100), ["ONLINE at 0"]), Step(30, alice(29, tx=300)), Step(60, alice(29, rx=1, tx=500)),
        Step(400, alice(29, rx=1, tx=500), ["OFFLINE idle: 0 to 60, 60 long, 1 in, 400 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes that came with the first handshake of a session belong to it", [
        Step(0, wg0(P("alice", rx=10, tx=20)), ["OFFLINE"]), Step(30, alice(29, rx=110, tx=220), ["ONLINE at 29"]),
        Step(400, alice(29, rx=110, tx=220), ["OFFLINE idle: 29 to 30, 1 long, 100 in, 200 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("bytes from before a peer was known belong to no session", [
        Step(5, alice(rx=1000, tx=1000), ["ONLINE at 0"]),
        Step(400, alice(rx=1000, tx=1000), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("totals go on when counters restart", [
        Step(5, alice(rx=50, tx=60), ["ONLINE at 0"]), Step(30, alice(rx=70, tx=80)), Step(60, alice(rx=4, tx=3)),
        Step(400, alice(rx=4, tx=3), ["OFFLINE idle: 0 to 60, 60 long, 24 in, 23 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a counter of sent bytes that restarted counts as sent bytes", [
        Step(5, alice(rx=50, tx=60), ["ONLINE at 0"]), Step(60, alice(rx=50, tx=3)),
        Step(400, alice(rx=50, tx=3), ["OFFLINE unreachable: 0 to 0, 0 long, 0 in, 3 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session lists its endpoints in the order of use", [
        Step(0, alice(), ["ONLINE at 0"]), Step(1, alice(endpoint=OTHER), ["ROAMING at 0"]),
        Step(2, alice(), ["ROAMING at 0"]), Step(3, alice(endpoint="203.0.113.9:1"), ["ROAMING at 0"]),
        Step(400, alice(endpoint="203.0.113.9:1"), [
            "OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820 198.51.100.7:40000 203.0.113.9:1",
        ]),
    ], words=figures),
    Case("a session lists a new port of the same address, which is no roaming", [
        Step(0, alice(), ["ONLINE at 0"]), Step(1, alice(endpoint="192.0.2.1:9")), Step(2, alice(endpoint="192.0.2.1:10", rx=1)),
        Step(400, alice(endpoint="192.0.2.1:10", rx=1), [
            "OFFLINE idle: 0 to 2, 2 long, 1 in, 0 out, 192.0.2.1:51820 192.0.2.1:9 192.0.2.1:10",
        ]),
    ], words=figures),
    Case("a session that began without an endpoint lists the later ones", [
        Step(0, alice(endpoint=""), ["ONLINE at 0"]), Step(1, alice(endpoint=OTHER)),
        Step(400, alice(endpoint=OTHER), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 198.51.100.7:40000"]),
    ], words=figures),
    Case("a session that ends with its interface has the last known figures", [
        Step(0, alice(rx=5), ["ONLINE at 0"]), Step(60, alice(rx=9, tx=9)),
        Step(90, "", ["IFDOWN", "OFFLINE interface-down: 0 to 60, 60 long, 4 in, 9 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session that ends by removal has the last known figures", [
        Step(0, alice(rx=5), ["ONLINE at 0"]), Step(60, alice(55, rx=5, tx=9)),
        Step(90, wg0(), ["REMOVED removed: 0 to 55, 55 long, 0 in, 9 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session that ends by a reset has the handshake from before it", [
        Step(0, alice(), ["ONLINE at 0"]), Step(60, alice(55)),
        Step(90, NEVER_SHOOK, ["OFFLINE reset: 0 to 55, 55 long, 0 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a session that ends by a reset has the bytes from before it", [
        Step(0, alice(rx=5), ["ONLINE at 0"]), Step(60, alice(rx=9)),
        Step(90, wg0(P("alice", rx=3, tx=2)), ["OFFLINE reset: 0 to 60, 60 long, 4 in, 0 out, 192.0.2.1:51820"]),
    ], words=figures),
    Case("a step of the wall clock does not change a session's length", [
        Step(0, alice(), ["ONLINE at 0"]), Step(60, alice(3655), clock=3600),
        Step(400, alice(3655), ["OFFLINE idle: 0 to 3655, 55 long, 0 in, 0 out, 192.0.2.1:51820"], clock=3600),
    ], words=figures),
    Case("a handshake before the session's start does not make its length negative", [
        Step(0, alice(), ["ONLINE at 0"]), Step(10, alice(-3610), clock=-3600),
        Step(400, alice(-3610), ["OFFLINE idle: 0 to 0, 0 long, 0 in, 0 out, 192.0.2.1:51820"], clock=-3600),
    ], words=figures),
    Case("by traffic, a session that bytes begin starts at their reading and includes them", [
        Step(500, alice(rx=10, tx=10), ["OFFLINE"]), Step(530, alice(rx=30, tx=20), ["ONLINE at 530"]),
        Step(560, alice(rx=35, tx=20)),
        Step(900, alice(rx=35, tx=20), ["OFFLINE idle: 530 to 560, 30 long, 25 in, 10 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("by traffic, a session that a handshake begins starts at the handshake", [
        Step(0, wg0(P("alice")), ["OFFLINE"]), Step(30, alice(20, rx=100), ["ONLINE at 20"]),
        Step(60, "", ["IFDOWN", "OFFLINE interface-down: 20 to 30, 10 long, 100 in, 0 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("by traffic, bytes begin a session if the handshake with them is just too old", [
        Step(0, wg0(P("alice")), ["OFFLINE"]), Step(210, alice(30, rx=5), ["ONLINE at 210"]),
    ], TRAFFIC, figures),
    Case("by traffic, bytes begin a session in output that is parsed in full as well", [
        Step(500, alice(rx=10, tx=10), ["OFFLINE"]), Step(530, alice(rx=30, tx=20) + dump("wg1"), ["IFUP", "ONLINE at 530"]),
        Step(900, alice(rx=30, tx=20), ["IFDOWN", "OFFLINE idle: 530 to 530, 0 long, 20 in, 10 out, 192.0.2.1:51820"]),
    ], TRAFFIC, figures),
    Case("by traffic, bytes before the interface disappeared are the last sign of life", [
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
    """One call of one decision. Each call gets a copy of the arguments, since rows and tables change in place."""

    name: str
    function: str
    arguments: Tuple[Any, ...]
    answer: Any
    changed: Any = None  # the first argument after the call; None = no argument changes


def row_of(name: str = "alice", iface: str = "wg0", **fields: Any) -> Row:
    """A row that is saved. Its last handshake is at 1000 on the wall clock and at 77 on the boot clock."""
    row = Row(identity(iface, name), 10, 20)
    for field, value in {"handshake": 1000, "shown": 1000, "made": 77.0, "unsaved": False, **fields}.items():
        assert field in Row.__slots__
        setattr(row, field, value)
    return row


def called(name: str, peer: str = "alice", **fields: Any) -> Row:
    """A row of a peer with a name."""
    row = row_of(peer, **fields)
    row.name = name
    return row


SESSION = Session(1, 1000.0, -50.0, 1, 2, 0.0, "here")
UP, DOWN = Interface(True, 0.0, START.wall), Interface(False, 0.0, START.wall)
DAY = 86_400.0
NOW = at(30)
OLD = START.boot + 30 - 180  # a peer with its last sign of life then is offline at NOW
YOUNG = OLD + 1


def table_of(*rows: Row, last: Optional[Moment] = START, **interfaces: Interface) -> Table:
    table = Table()
    table.rows = {row.identity: row for row in rows}
    table.interfaces = interfaces or {"wg0": UP}
    table.last = last
    table.online = sum(row.session is not None for row in rows)
    table.sessions = 7
    return table


def with_alice(**interfaces: Interface) -> Table:
    """A table with one row per interface."""
    return table_of(*(row_of(iface=name) for name in interfaces), last=START, **interfaces)


def changed(table: Table, **fields: Any) -> Table:
    table = copy.deepcopy(table)
    for field, value in fields.items():
        assert field in vars(table)
        setattr(table, field, value)
    return table


def reading_of(*interfaces: str, peers: Tuple[Union[Moved, Renewed, PeerLine], ...] = (), **fields: Any) -> Reading:
    return Reading(frozenset(interfaces), list(peers), None)._replace(**fields)


def line_of(name: str = "alice", rx: int = 10, tx: int = 20, **fields: Any) -> PeerLine:
    """A whole line with the values of such a row, except some fields."""
    return PeerLine(identity("wg0", name), rx, tx, 1000, "", "")._replace(**fields)


def event_of(kind: str, name: str = "alice", iface: str = "wg0", **fields: Any) -> Event:
    """An event at NOW with the values of such a row, except some fields."""
    return Event(kind, NOW.wall, *identity(iface, name), "", "", 1000, 0)._replace(**fields)


def ended(number: int, last_seen: float, unwatched: float = 0.0) -> Event:
    session = Session(number, 0.0, 0.0, 0, 0, unwatched, "")
    return event_of("OFFLINE", ended=Ended(session, last_seen, 0.0, 0, 0, "idle"))


def with_session(name: str, number: int, unwatched: float = 0.0, **fields: Any) -> Row:
    return row_of(name, session=SESSION._replace(number=number, unwatched=unwatched), **fields)


def counted(row: Row, **fields: Any) -> Row:
    """The row with some fields changed, and unsaved."""
    row = copy.deepcopy(row)
    for field, value in {"unsaved": True, **fields}.items():
        assert field in Row.__slots__
        setattr(row, field, value)
    return row


def began(name: str, row: Row, begin: Tuple[float, float], *settings: Settings) -> Call:
    """A peer comes online. `begin`: when its session begins, on the wall clock and on the boot clock."""
    session = Session(8, *begin, 1, 2, 0.0, "")
    before, after = table_of(row), table_of(counted(row, session=session))
    answer = changed(after, sessions=8, due=NEVER)
    return Call(name, "begin_session", (before, row, (1, 2), NOW, *(settings or [chosen()])), None, answer)


# How the session of `row_of(session=SESSION)` ends at its handshake.
END = Ended(SESSION, 1000.0, 127.0, 9, 18, "idle")
MANY_ENDPOINTS = ["192.0.2.%d:1" % number for number in range(ENDPOINTS_MAX)]

PLACES = [
    Call("a peer without a handshake has no place", "place", (0, None, NEVER, at(0)), NEVER),
    Call("the wall clock places a first handshake", "place", (1_700_000_000, None, NEVER, at(30)), START.boot),
    Call("a handshake that moved forward is at most as old as the reading before", "place", (1001, 1000, 5020.0, at(30)), 5020.0),
    Call("a handshake that moved forward may be younger", "place", (1_700_000_025, 1000, 5020.0, at(30)), 5025.0),
    Call("a first handshake after none is at most as old as the reading before", "place", (1001, 0, 5020.0, at(30)), 5020.0),
    Call("a boot clock behind the last reading causes no negative age", "place", (1001, 1000, 9000.0, at(30)), 5030.0),
    Call("the wall clock places a handshake that moved back", "place", (999, 1000, 5020.0, Moment(1029.0, 50.0)), 20.0),
    Call("a handshake in the future is placed now", "place", (1_700_009_999, None, NEVER, at(30)), 5030.0),
    Call("by handshakes, only handshakes count", "sign_of_life", (row_of(made=5.0, heard=9.0), chosen()), 5.0),
    Call("by traffic, later received bytes count", "sign_of_life", (row_of(made=5.0, heard=9.0), TRAFFIC), 9.0),
    Call("by traffic, a later handshake counts", "sign_of_life", (row_of(made=9.0, heard=5.0), TRAFFIC), 9.0),
    Call("a peer one second short of the threshold is alive", "is_alive", (row_of(made=YOUNG), NOW, chosen()), True),
    Call("a peer at the threshold is not alive", "is_alive", (row_of(made=OLD), NOW, chosen()), False),
    Call("a peer without a handshake is not alive", "is_alive", (row_of(handshake=0, heard=NOW.boot), NOW, TRAFFIC), False),
    Call("no sent bytes since the last sign of life mean idle", "silence", (row_of(),), "idle"),
    Call("sent bytes without an answer mean unreachable", "silence", (row_of(tx=21),), "unreachable"),
    Call("a steady clock made no step", "clock_step", (at(0), at(30)), 0.0),
    Call("a difference of a second is no step", "clock_step", (at(0), at(30, 1.0)), 0.0),
    Call("a tenth of the elapsed time is no step", "clock_step", (at(0), at(30, -3.0)), 0.0),
    Call("more than a tenth of the elapsed time is a step", "clock_step", (at(0), at(30, -3.5)), -3.5),
    Call("a second within a second is no step", "clock_step", (at(0), at(1, 1.0)), 0.0),
    Call("a clock set forward made a step", "clock_step", (at(0), at(30, 3600.0)), 3600.0),
    Call("a clock set back made a step", "clock_step", (at(0), at(30, -3600.0)), -3600.0),
    Call("a slewed clock made no step", "clock_step", (at(0), at(3600, 300.0)), 0.0),
]  # fmt: skip

ALICE = identity("wg0", "alice")
ROWS = [
    Call("the same counters change nothing", "count", (row_of(), 10, 20, 30.0), None),
    Call("sent bytes are no sign of life", "count", (row_of(), 10, 25, 30.0), None, counted(row_of(), tx=25)),
    Call(
        "received bytes are a sign of life and answer all sent bytes",
        "count",
        (row_of(), 11, 25, 30.0),
        None,
        counted(row_of(), rx=11, tx=25, sent=25, heard=30.0),
    ),
    Call(
        "a counter of received bytes that fell has restarted, and its value is a sign of life",
        "count",
        (row_of(), 3, 20, 30.0),
        None,
        counted(row_of(), rx=3, past_rx=10, heard=30.0),
    ),
    Call(
        "a counter of received bytes that fell to 0 is no sign of life",
        "count",
        (row_of(heard=5.0), 0, 20, 30.0),
        None,
        counted(row_of(heard=5.0), rx=0, past_rx=10),
    ),
    Call(
        "a counter of sent bytes that fell has restarted, and its value was sent since",
        "count",
        (row_of(), 10, 3, 30.0),
        None,
        counted(row_of(), tx=3, past_tx=20, sent=0),
    ),
    Call(
        "totals do not exceed what the store can hold",
        "count",
        (row_of(rx=COUNTER_MAX, tx=COUNTER_MAX, past_rx=5, past_tx=5), 1, 2, 30.0),
        None,
        counted(row_of(), rx=1, tx=2, past_rx=COUNTER_MAX, past_tx=COUNTER_MAX, sent=2, heard=30.0),
    ),
    Call("a line with the addresses of the row changes nothing", "readdress", (row_of(), line_of()), None),
    Call(
        "a new handshake gets a place of its own and answers all sent bytes",
        "renew",
        (row_of(tx=25), 1001, 5020.0, NOW),
        None,
        counted(row_of(tx=25), handshake=1001, shown=1001, made=5020.0, sent=25),
    ),
    Call(
        "a handshake that fell to 0 has no place, and the last one stays shown",
        "renew",
        (row_of(), 0, 5020.0, NOW),
        None,
        counted(row_of(), handshake=0, made=NEVER),
    ),
    Call(
        "a new endpoint replaces the old one",
        "readdress",
        (row_of(), line_of(endpoint=OTHER)),
        None,
        counted(row_of(), endpoint=OTHER),
    ),
    Call("a missing endpoint leaves the last one known", "readdress", (row_of(endpoint=OTHER), line_of()), None),
    Call("the same endpoint changes nothing", "readdress", (row_of(endpoint=OTHER), line_of(endpoint=OTHER)), None),
    Call(
        "new allowed IPs replace the old ones",
        "readdress",
        (row_of(), line_of(allowed_ips="a")),
        None,
        counted(row_of(), allowed_ips="a"),
    ),
    Call(
        "no allowed IPs replace the old ones",
        "readdress",
        (row_of(allowed_ips="a"), line_of()),
        None,
        counted(row_of()),
    ),
    Call(
        "a session lists a repeated endpoint once",
        "add_endpoint",
        (row_of(endpoint="here", session=SESSION), SESSION),
        None,
        counted(row_of(endpoint="here", session=SESSION)),
    ),
    Call(
        "a session keeps the last endpoints of many",
        "add_endpoint",
        (row_of(endpoint="there"), SESSION._replace(endpoints=" ".join(MANY_ENDPOINTS))),
        None,
        counted(
            row_of(endpoint="there", session=SESSION._replace(endpoints=" ".join([*MANY_ENDPOINTS[1:], "there"]))),
        ),
    ),
    Call(
        "an event has the last known handshake and the open session",
        "event_of",
        ("ROAMING", row_of(handshake=0, endpoint=OTHER, allowed_ips="a", session=SESSION), NOW),
        Event("ROAMING", NOW.wall, *ALICE, OTHER, "a", 1000, 1, session=SESSION),
    ),
    Call(
        "an event of a peer without a session says that it is offline",
        "event_of",
        ("OFFLINE", row_of(), NOW),
        Event("OFFLINE", NOW.wall, *ALICE, "", "", 1000, 0),
    ),
]  # fmt: skip

SAME_IPS = row_of(allowed_ips="a,b")
STEPS = [
    Call(
        "a peer without a session ends none with the interface",
        "follow_interfaces",
        (table_of(row_of(), last=START, wg0=UP), reading_of(), NOW),
        [Event("IFDOWN", NOW.wall, "wg0", peers=1, online_peers=0)],
        table_of(row_of(), last=START, wg0=DOWN),
    ),
    Call(
        "a peer with a session ends it with the interface",
        "follow_interfaces",
        (table_of(row_of(session=SESSION), row_of("bob"), last=START, wg0=UP), reading_of(), NOW),
        [
            Event("IFDOWN", NOW.wall, "wg0", peers=2, online_peers=1),
            event_of("OFFLINE", ended=END._replace(reason="interface-down")),
        ],
        table_of(counted(row_of(), ended=Moment(1000.0, 77.0)), row_of("bob"), last=START, wg0=DOWN),
    ),
    Call(
        "an interface that returns among unchanged lines has no peers to count",
        "follow_interfaces",
        (with_alice(wg0=DOWN), reading_of("wg0"), NOW),
        [Event("IFUP", NOW.wall, "wg0")],
        with_alice(wg0=Interface(True, 0.0, NOW.wall)),
    ),
    Call(
        "an interface that returns counts its own peers",
        "follow_interfaces",
        (with_alice(wg0=DOWN), reading_of("wg0", present={identity("wg0", "alice"), identity("wg1", "bob")}), NOW),
        [Event("IFUP", NOW.wall, "wg0", peers=1)],
        with_alice(wg0=Interface(True, 0.0, NOW.wall)),
    ),
    Call("an output with the same peers removes none", "remove_peers", (with_alice(wg0=UP), reading_of("wg0"), NOW), []),
    Call(
        "a peer remembers when its session ended: at bytes, if they came after the handshake",
        "follow_interfaces",
        (table_of(row_of(session=SESSION, heard=90.0), last=START, wg0=UP), reading_of(), Moment(5000.0, 100.0)),
        [
            Event("IFDOWN", 5000.0, "wg0", peers=1, online_peers=1),
            event_of("OFFLINE", ended=Ended(SESSION, 4990.0, 140.0, 9, 18, "interface-down"))._replace(wall=5000.0),
        ],
        table_of(counted(row_of(heard=90.0), ended=Moment(4990.0, 90.0)), last=START, wg0=DOWN),
    ),
    Call(
        "a peer remembers when its session ended: at its beginning, if nothing came after that",
        "follow_interfaces",
        (table_of(row_of(session=SESSION._replace(began=80.0)), last=START, wg0=UP), reading_of(), NOW),
        [
            Event("IFDOWN", NOW.wall, "wg0", peers=1, online_peers=1),
            event_of("OFFLINE", ended=Ended(SESSION._replace(began=80.0), 1000.0, 0.0, 9, 18, "interface-down")),
        ],
        table_of(counted(row_of(), ended=Moment(1000.0, 80.0)), last=START, wg0=DOWN),
    ),
    Call(
        "a missing peer without a session ends none",
        "remove_peers",
        (with_alice(wg0=UP), reading_of("wg0", present=set()), NOW),
        [event_of("REMOVED")],
        table_of(wg0=UP),
    ),
    Call(
        "a missing peer with a session ends it",
        "remove_peers",
        (table_of(row_of(session=SESSION)), reading_of("wg0", present=set()), NOW),
        [event_of("REMOVED", ended=END._replace(reason="removed"))],
        table_of(),
    ),
    Call(
        "new counters of an unknown peer change nothing",
        "follow_peers",
        (table_of(row_of("bob")), reading_of("wg0", peers=((ALICE, 11, 25),)), NOW, TRAFFIC),
        [],
    ),
    Call(
        "unchanged counters change nothing",
        "follow_peers",
        (table_of(row_of()), reading_of("wg0", peers=((ALICE, 10, 20),)), NOW, chosen()),
        [],
    ),
    Call(
        "by handshakes, new counters of an offline peer change its row only",
        "follow_peers",
        (table_of(row_of()), reading_of("wg0", peers=((ALICE, 11, 25),)), NOW, chosen()),
        [],
        table_of(counted(row_of(), rx=11, tx=25, sent=25, heard=NOW.boot)),
    ),
    Call(
        "by traffic, new counters of an online peer change its row only",
        "follow_peers",
        (table_of(row_of(session=SESSION)), reading_of("wg0", peers=((ALICE, 11, 25),)), NOW, TRAFFIC),
        [],
        table_of(counted(row_of(session=SESSION), rx=11, tx=25, sent=25, heard=NOW.boot)),
    ),
    Call(
        "the same allowed IPs are no change",
        "follow_peer",
        (table_of(), SAME_IPS, line_of(allowed_ips="a,b"), NOW, chosen()),
        [],
    ),
    Call(
        "allowed IPs in another order are no change, but the row has the new order",
        "follow_peers",
        (table_of(SAME_IPS), reading_of("wg0", peers=(line_of(allowed_ips="b,a"),)), NOW, chosen()),
        [],
        table_of(counted(row_of(allowed_ips="b,a"))),
    ),
    Call(
        "more allowed IPs are a change",
        "follow_peers",
        (table_of(row_of(allowed_ips="a")), reading_of("wg0", peers=(line_of(allowed_ips="a,b"),)), NOW, chosen()),
        [event_of("CHANGED", allowed_ips="a,b", before="a")],
        table_of(counted(row_of(allowed_ips="a,b"))),
    ),
    Call(
        "first allowed IPs are a change",
        "follow_peers",
        (table_of(row_of()), reading_of("wg0", peers=(line_of(allowed_ips="a"),)), NOW, chosen()),
        [event_of("CHANGED", allowed_ips="a", before="")],
        table_of(counted(row_of(allowed_ips="a"))),
    ),
    Call(
        "a peer that ages out before all others moves the due time forward",
        "begin_session",
        (changed(table_of(), due=9e9), row_of(made=YOUNG), (1, 2), NOW, chosen()),
        None,
        changed(table_of(), due=YOUNG + 180, sessions=8, online=1),
    ),
    Call(
        "a peer that ages out after another leaves the due time unchanged",
        "begin_session",
        (changed(table_of(), due=5.0), row_of(made=YOUNG), (1, 2), NOW, chosen()),
        None,
        changed(table_of(), due=5.0, sessions=8, online=1),
    ),
    began(
        "a session begins at its handshake if the former one ended before it",
        row_of(made=YOUNG, ended=Moment(1500.0, YOUNG - 1)),
        (1000.0, YOUNG),
    ),
    began(
        "a session may begin at the moment at which the former one ended",
        row_of(made=YOUNG, ended=Moment(1500.0, YOUNG)),
        (1000.0, YOUNG),
    ),
    began(
        "a session begins no earlier than the former one ended",
        row_of(made=YOUNG, ended=Moment(1500.0, YOUNG + 20)),
        (1500.0, YOUNG + 20),
    ),
    began(
        "by traffic, a session that bytes begin starts at them if the former one ended before them",
        row_of(made=77.0, heard=YOUNG, ended=Moment(1500.0, YOUNG - 1)),
        (NOW.wall - 179, YOUNG),
        TRAFFIC,
    ),
    began(
        "by traffic, a session that bytes begin begins no earlier than the former one ended",
        row_of(made=77.0, heard=YOUNG, ended=Moment(1500.0, YOUNG + 20)),
        (1500.0, YOUNG + 20),
        TRAFFIC,
    ),
    Call(
        "a session ends at the handshake if no bytes came after it",
        "end_session",
        (table_of(row_of(session=SESSION)), row_of(session=SESSION), SESSION, "idle", NOW),
        END,
        changed(table_of(row_of(session=SESSION)), online=0),
    ),
    Call(
        "the wall clock of the session's start dates an end before this boot",
        "end_session",
        (table_of(with_session("bob", 2)), row_of(made=-40.0, heard=-20.0), SESSION, "idle", Moment(9e8, 30.0)),
        Ended(SESSION, 1030.0, 30.0, 9, 18, "idle"),
        changed(table_of(with_session("bob", 2)), online=0),
    ),
    Call(
        "the present wall clock dates an end in this boot",
        "end_session",
        (table_of(with_session("bob", 2)), row_of(heard=90.0), SESSION, "idle", Moment(5000.0, 100.0)),
        Ended(SESSION, 4990.0, 140.0, 9, 18, "idle"),
        changed(table_of(with_session("bob", 2)), online=0),
    ),
    Call(
        "counters below those of the beginning cause no negative figures",
        "end_session",
        (table_of(with_session("bob", 2)), row_of(rx=0, tx=0), SESSION, "idle", NOW),
        END._replace(received=0, sent=0),
        changed(table_of(with_session("bob", 2)), online=0),
    ),
    Call(
        "a gap counts in open sessions that began before it, not in later ones",
        "add_gaps",
        (
            table_of(row_of(), with_session("bob", 3, 5.0), with_session("carol", 4), wg0=UP),
            [],
            3,
            {"wg0": 60.0},
            Moment(1060.0, 0.0),
        ),
        [],
        table_of(counted(row_of()), counted(with_session("bob", 3, 65.0)), counted(with_session("carol", 4)), wg0=UP),
    ),
    Call(
        "a gap of another interface does not count",
        "add_gaps",
        (table_of(with_session("bob", 3)), [ended(3, 1001.0)], 3, {"wg1": 60.0}, Moment(1060.0, 0.0)),
        [ended(3, 1001.0)],
    ),
    Call(
        "a gap counts in sessions that ended with a sign of life after its beginning",
        "add_gaps",
        (
            table_of(),
            [ended(3, 1001.0, 5.0), ended(3, 1000.0), ended(4, 1001.0), Event("IFUP", 0.0, "wg0"), event_of("CHANGED")],
            3,
            {"wg0": 60.0},
            Moment(1060.0, 0.0),
        ),
        [ended(3, 1001.0, 65.0), ended(3, 1000.0), ended(4, 1001.0), Event("IFUP", 0.0, "wg0"), event_of("CHANGED")],
    ),
    Call(
        "only a gap above the limit counts",
        "gaps_of",
        (changed(table_of(), seen={"wg0": 9.0, "wg1": 10.0, "wg2": 0.0}), ["wg0", "wg1"], Moment(0.0, 71.0), 61.0),
        {"wg0": 62.0},
    ),
    Call(
        "any time between two runs is a gap",
        "gaps_of",
        (changed(table_of(wg0=UP, wg1=UP), seen={"wg0": 10.0}, watched=7.0), ["wg0", "wg1"], Moment(0.0, 12.0), 61.0),
        {"wg1": 5.0},
    ),
    Call(
        "what the run before could not read at its end is a longer one",
        "gaps_of",
        (changed(table_of(wg0=UP, wg1=UP), watched=7.0, unread={"wg1": 4.0}), ["wg0", "wg1"], Moment(0.0, 12.0), 61.0),
        {"wg0": 5.0, "wg1": 9.0},
    ),
    Call(
        "an interface that was not there was not unwatched",
        "gaps_of",
        (changed(table_of(wg0=UP), watched=7.0), ["wg0", "wg2"], Moment(0.0, 12.0), 61.0),
        {"wg0": 5.0},
    ),
    Call(
        "an interface that was down was watched",
        "gaps_of",
        (changed(table_of(wg0=DOWN, wg1=UP), seen={"wg0": 0.0, "wg1": 0.0}), ["wg0", "wg1"], NOW, 61.0),
        {"wg1": NOW.boot},
    ),
    Call("without an earlier run there is no gap", "gaps_of", (table_of(), ["wg0"], NOW, 61.0), {}),
    Call(
        "a new name replaces the former one, and the row is saved",
        "rename",
        (changed(table_of(called("a")), names={}), {key("alice"): "b", key("bob"): "c"}, True),
        None,
        changed(table_of(called("b", unsaved=True)), names={key("alice"): "b", key("bob"): "c"}),
    ),
    Call(
        "a name that is gone is forgotten",
        "rename",
        (changed(table_of(called("a")), names={key("alice"): "a"}), {}, True),
        None,
        changed(table_of(called("", unsaved=True)), names={}),
    ),
    Call(
        "a name that may only be unreadable stays",
        "rename",
        (changed(table_of(called("a"), called("b", "bob")), names={}), {key("bob"): "d"}, False),
        None,
        changed(table_of(called("a"), called("d", "bob", unsaved=True)), names={key("bob"): "d"}),
    ),
    Call(
        "the same name saves nothing",
        "rename",
        (table_of(called("a"), called("b", "bob", unsaved=True)), {key("alice"): "a", key("bob"): "b"}, True),
        None,
        changed(table_of(called("a"), called("b", "bob", unsaved=True)), names={key("alice"): "a", key("bob"): "b"}),
    ),
    Call(
        "an event has the peer's name",
        "event_of",
        ("REMOVED", called("a"), NOW),
        Event("REMOVED", NOW.wall, *ALICE, "", "", 1000, 0, name="a"),
    ),
    Call(
        "a new peer has the name that its key has",
        "add_peer",
        (changed(table_of(), names={key("alice"): "a"}), PeerLine(ALICE, 1, 2, 0, "", ""), NOW, chosen()),
        Event("OFFLINE", NOW.wall, *ALICE, "", "", 0, 0, new=True, name="a"),
        changed(
            table_of(called("a", rx=1, tx=2, handshake=0, shown=0, made=NEVER, sent=2, unsaved=True)), names={key("alice"): "a"}
        ),
    ),
    Call("an interface that is up stays known", "forget", (with_alice(wg0=UP), at(9 * DAY), 7), []),
    Call("an interface that disappeared lately stays known", "forget", (with_alice(wg0=DOWN), at(7 * DAY), 7), []),
    Call(
        "an interface that disappeared long ago is forgotten with its peers",
        "forget",
        (with_alice(wg0=DOWN, wg1=UP), at(7 * DAY + 1), 7),
        ["wg0"],
        with_alice(wg1=UP),
    ),
]

LATER = SESSION._replace(number=5, start=2000.0, began=150.0, received_before=15, sent_before=25, endpoints="there")


def joined(name: str, old: Row, own: Session, answer: Session, session: Session = SESSION) -> Call:
    return Call(name, "joined", (session, old, own, 60.0), answer)


def gone_on(received_before: int = 1, sent_before: int = 2, unwatched: float = 60.0, endpoints: str = "here there") -> Session:
    """The session of the store, as it goes on."""
    return Session(1, 1000.0, -50.0, received_before, sent_before, unwatched, endpoints)


JOINED = [
    joined("counters that went on have the bytes of the gap", row_of(), LATER, gone_on()),
    joined(
        "counters that did not move went on",
        row_of(),
        LATER._replace(received_before=10, sent_before=20),
        gone_on(),
    ),
    joined(
        "counters that are lower have restarted, and what they had reached counts",
        row_of(),
        LATER._replace(received_before=9, sent_before=19),
        gone_on(1 - 10, 2 - 20),
    ),
    joined(
        "the counter of received bytes may have restarted alone",
        row_of(),
        LATER._replace(received_before=0),
        gone_on(1 - 10),
    ),
    joined("the counter of sent bytes may have restarted alone", row_of(), LATER._replace(sent_before=0), gone_on(1, 2 - 20)),
    joined(
        "what counters had reached before the store was lost counts as well",
        row_of(past_rx=100, past_tx=200),
        LATER,
        gone_on(1 - 100, 2 - 200),
    ),
    joined(
        "counters may have restarted before the store was lost and after",
        row_of(past_rx=100, past_tx=200),
        LATER._replace(received_before=0, sent_before=0),
        gone_on(1 - 110, 2 - 220),
    ),
    joined(
        "the time that nobody watched adds up",
        row_of(),
        LATER._replace(unwatched=7.0),
        gone_on(unwatched=5.0 + 60.0 + 7.0),
        SESSION._replace(unwatched=5.0),
    ),
    joined("an endpoint is listed once", row_of(), LATER._replace(endpoints="here there here"), gone_on()),
    joined("a session without an endpoint adds none", row_of(), LATER._replace(endpoints=""), gone_on(endpoints="here")),
    joined(
        "the first endpoint may be one of this run",
        row_of(),
        LATER,
        gone_on(endpoints="there"),
        SESSION._replace(endpoints=""),
    ),
    joined(
        "of many endpoints the last ones stay",
        row_of(),
        LATER,
        gone_on(endpoints=" ".join([*MANY_ENDPOINTS[1:], "there"])),
        SESSION._replace(endpoints=" ".join(MANY_ENDPOINTS)),
    ),
]


def taken_over(
    name: str, table: Table, past: Table, after: Table, gone: FrozenSet[Identity] = frozenset(), **answer: Session
) -> Call:
    """Sessions up to number 6 began at the first reading of this run. `answer`: `s5` is the session number 5."""
    sessions = {int(number[1:]): session for number, session in answer.items()}
    return Call(name, "take_over", (table, past, gone, 6, 60.0), sessions, changed(after, due=NEVER))


def with_own(session: Optional[Session], **fields: Any) -> Table:
    """A table of this run, in which alice has this session."""
    return changed(table_of(row_of(session=session, **fields)), due=77.0)


TAKEN_OVER = [
    taken_over("nothing comes from an empty store", with_own(LATER), Table(), with_own(LATER)),
    taken_over(
        "a peer that this run has not seen is as the store knows it",
        table_of(row_of("bob")),
        table_of(row_of()),
        table_of(row_of("bob"), row_of()),
    ),
    taken_over(
        "a peer that this run has not seen is still online",
        table_of(row_of("bob")),
        table_of(row_of(session=SESSION)),
        table_of(row_of("bob"), row_of(session=SESSION)),
    ),
    taken_over(
        "a peer that this run has removed stays removed",
        table_of(row_of("bob")),
        table_of(row_of(session=SESSION), row_of("carol")),
        table_of(row_of("bob"), row_of("carol")),
        frozenset([ALICE]),
    ),
    taken_over(
        "a name that the store remembers is compared with the present one",
        changed(table_of(called("b", "bob")), names={key("bob"): "b"}),
        table_of(called("a")),
        changed(table_of(called("b", "bob"), called("a")), names={}),
    ),
    taken_over(
        "a peer that was removed and added again is as this run knows it",
        with_own(None),
        with_own(SESSION),
        with_own(None),
        frozenset([ALICE]),
    ),
    taken_over(
        "a handshake and an endpoint that this run has not seen come from the store",
        with_own(None, handshake=0, shown=0, made=NEVER),
        with_own(None, shown=900, endpoint=OTHER),
        with_own(None, handshake=0, shown=900, made=NEVER, endpoint=OTHER),
    ),
    taken_over(
        "a handshake and an endpoint that this run has seen stay",
        with_own(None, endpoint="here"),
        with_own(None, shown=900, endpoint=OTHER, handshake=900, made=60.0, rx=1, tx=1, allowed_ips="a"),
        with_own(None, endpoint="here"),
    ),
    taken_over(
        "a former session of the store may be the last one",
        with_own(None),
        with_own(None, ended=Moment(900.0, 70.0)),
        with_own(None, ended=Moment(900.0, 70.0)),
    ),
    taken_over(
        "a former session of this run may be the last one",
        with_own(None, ended=Moment(900.0, 70.0)),
        with_own(None, ended=Moment(950.0, 60.0)),
        with_own(None, ended=Moment(900.0, 70.0)),
    ),
    taken_over(
        "a session goes on as the one that the first reading began",
        with_own(LATER),
        with_own(SESSION),
        with_own(gone_on()),
        s5=gone_on(),
    ),
    taken_over(
        "the last session of the first reading goes on",
        with_own(LATER._replace(number=6)),
        with_own(SESSION),
        with_own(gone_on()),
        s6=gone_on(),
    ),
    taken_over(
        "a session that began after the first reading is another one",
        with_own(LATER._replace(number=7)),
        with_own(SESSION),
        with_own(LATER._replace(number=7)),
    ),
    taken_over("a session that the store does not know stays", with_own(LATER), with_own(None), with_own(LATER)),
    taken_over("a session does not go on in a peer that is offline", with_own(None), with_own(SESSION), with_own(None)),
    taken_over(
        "each session that goes on has its own number",
        table_of(row_of(session=LATER), row_of("bob", session=LATER._replace(number=6))),
        table_of(row_of(session=SESSION._replace(number=2)), row_of("bob", session=SESSION)),
        table_of(row_of(session=gone_on()._replace(number=2)), row_of("bob", session=gone_on())),
        s5=gone_on()._replace(number=2),
        s6=gone_on(),
    ),
    taken_over(
        "an interface is as this run knows it, or else as the store does",
        table_of(wg0=UP),
        table_of(wg0=DOWN, wg1=DOWN),
        table_of(wg0=UP, wg1=DOWN),
    ),
    taken_over(
        "sessions are counted on from this run",
        changed(table_of(), sessions=9),
        table_of(),
        changed(table_of(), sessions=9),
    ),
    taken_over(
        "sessions are counted on from the store",
        table_of(),
        changed(table_of(), sessions=9),
        changed(table_of(), sessions=9),
    ),
]

OVERLAPS = [
    Call(
        "a reading of one interface counts as a reading",
        "decide",
        (changed(table_of(wg0=UP), last=at(0)), reading_of("wg0", others=frozenset(["wg1", ""])), at(30), chosen()),
        [],
        changed(table_of(wg0=Interface(True, 5030.0, at(30).wall)), last=at(30), seen={"wg0": 5030.0}, due=float("inf")),
    ),
    Call(
        "of two readings at once, the later one stays the last",
        "decide",
        (changed(table_of(wg0=UP), last=at(31)), reading_of("wg0", others=frozenset(["wg1", ""])), at(30), chosen()),
        [],
        changed(table_of(wg0=Interface(True, 5030.0, at(30).wall)), last=at(31), seen={"wg0": 5030.0}, due=float("inf")),
    ),
    Call(
        "an interface that fails alone is no reading",
        "decide",
        (
            changed(table_of(wg0=UP), last=at(0)),
            reading_of(unreadable=frozenset(["wg0"]), others=frozenset([""])),
            at(30),
            chosen(),
        ),
        [],
        changed(table_of(wg0=UP), last=at(0), due=float("inf")),
    ),
    Call(
        "a list proves that an interface is gone, and says nothing about the others",
        "decide",
        (changed(table_of(wg0=UP, wg1=UP), last=at(0)), reading_of(others=frozenset(["wg1", ""])), at(30), chosen()),
        [Event("IFDOWN", at(30).wall, "wg0")],
        changed(table_of(wg0=DOWN, wg1=UP), last=at(0), due=float("inf")),
    ),
]  # fmt: skip

FAULTS = [
    Call("a good reading has no fault", "faults_of", (reading_of("wg0"), with_alice(wg0=UP), chosen()), []),
    Call(
        "each unreadable interface is a fault",
        "faults_of",
        (reading_of(unreadable=frozenset(["wg1", "wg0"])), with_alice(wg0=UP), chosen()),
        [("unreadable", "wg0"), ("unreadable", "wg1")],
    ),
    Call(
        "invalid lines are one fault per interface, and one for unclear lines",
        "faults_of",
        (reading_of("wg0", invalid={"wg0": 2, "": 1}), with_alice(wg0=UP), chosen()),
        [("invalid", ""), ("invalid", "wg0")],
    ),
    Call(
        "a configured interface that never existed is absent",
        "faults_of",
        (reading_of(), Table(), ONLY_WG0),
        [("absent", "wg0")],
    ),
    Call("a configured interface that exists is no fault", "faults_of", (reading_of("wg0"), Table(), ONLY_WG0), []),
    Call(
        "a watched interface that disappears is an event, not a fault",
        "faults_of",
        (reading_of(), with_alice(wg0=UP), ONLY_WG0),
        [],
    ),
    Call(
        "an interface that disappeared while it was watched is no fault",
        "faults_of",
        (reading_of(), with_alice(wg0=DOWN), ONLY_WG0),
        [],
    ),
    Call(
        "a configured interface that disappeared before the start is absent",
        "faults_of",
        (reading_of(), table_of(row_of(), last=None, wg0=DOWN), ONLY_WG0),
        [("absent", "wg0")],
    ),
    Call(
        "an interface that disappears between two runs is an event, not a fault",
        "faults_of",
        (reading_of(), table_of(row_of(), last=None, wg0=UP), ONLY_WG0),
        [],
    ),
    Call(
        "a configured interface that is unreadable is not absent",
        "faults_of",
        (reading_of(unreadable=frozenset(["wg0"])), Table(), ONLY_WG0),
        [("unreadable", "wg0")],
    ),
    Call(
        "a configured interface with an invalid line is not absent",
        "faults_of",
        (reading_of(invalid={"wg0": 1}), Table(), ONLY_WG0),
        [("invalid", "wg0")],
    ),
    Call(
        "a configured interface may be in a line of an unclear interface",
        "faults_of",
        (reading_of(invalid={"": 1}), Table(), ONLY_WG0),
        [("invalid", "")],
    ),
]  # fmt: skip

CALLS = PLACES + ROWS + STEPS + JOINED + TAKEN_OVER + OVERLAPS + FAULTS


def call(case: Call, names: Mapping[str, Any]) -> None:
    arguments = copy.deepcopy(case.arguments)
    answer = names[case.function](*arguments)
    if isgenerator(answer):
        answer = list(answer)
    if case.function == "faults_of":
        answer = [(fault.kind, fault.subject) for fault in answer]
    assert plain(answer) == plain(case.answer)
    if case.changed is None:
        assert plain(arguments) == plain(case.arguments)
    else:
        assert plain(arguments[0]) == plain(case.changed)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_readings(case: Case) -> None:
    assert play(case, vars(wg_monitor)) == [list(step.events) for step in case.steps]


@pytest.mark.parametrize("case", CALLS, ids=ids(CALLS))
def test_decision(case: Call) -> None:
    call(case, vars(wg_monitor))


def fault_of(reading: Reading, table: Table) -> Fault:
    (fault,) = wg_monitor.faults_of(reading, table, chosen())
    return fault


def test_the_fault_of_an_unreadable_interface_begins_at_its_last_reading() -> None:
    reading = reading_of(unreadable=frozenset(["wg0"]))
    assert fault_of(reading, with_alice(wg0=UP._replace(read=42.0))).since == 42.0
    assert fault_of(reading, Table()).since == NEVER


def test_the_fault_of_invalid_lines_states_their_number_and_what_they_suspend() -> None:
    one = fault_of(reading_of("wg0", invalid={"wg0": 1}), Table())
    assert one.begins == "[wg0] 1 line from wg is invalid: no peer is reported as REMOVED until every line is valid"
    assert one.ends == "[wg0] every line from wg is valid again"
    unclear = fault_of(reading_of("wg0", invalid={"": 2}), Table())
    assert unclear.begins == (
        "2 lines from wg are invalid: no peer is reported as REMOVED and no interface as IFDOWN until every line is valid"
    )
    assert unclear.ends == "every line from wg is valid again"


def test_events_are_in_the_order_of_the_steps() -> None:
    """Interfaces, removed peers, peers of the lines, peers that aged out."""
    table = Table()
    first, memo = read(dump("wg0", P("alice", 0), P("bob", 0)) + dump("wg1"))
    wg_monitor.decide(table, first, at(0), chosen())
    # bob's line is missing, alice's is unchanged, carol's is new, and wg2 replaces wg1.
    second, _ = read(dump("wg0", P("alice", 0), P("carol", 199)) + dump("wg2"), memo=memo, table=table)
    events = wg_monitor.decide(table, second, at(200), chosen())
    assert [event.kind for event in events] == ["IFUP", "IFDOWN", "REMOVED", "ONLINE", "OFFLINE"]


def test_an_unchanged_peer_stays_saved_when_every_line_is_parsed() -> None:
    """Otherwise each checkpoint would write thousands of rows after the output was parsed in full."""
    table = Table()
    for text, unsaved in ((alice(rx=5), True), (alice(rx=5), False), (alice(rx=6), True), (alice(6, rx=6), True)):
        before = table.rows.get(identity("wg0", "alice"))
        reading, _ = read(text, table=table)
        wg_monitor.decide(table, reading, at(30), chosen())
        row = table.rows[identity("wg0", "alice")]
        assert row is before or before is None, "a row lives as long as its peer is known"
        assert row.unsaved == unsaved
        row.unsaved = False


def test_an_event_keeps_its_values_when_its_row_changes() -> None:
    table, events = Table(), []
    steps = [
        alice(rx=1),
        alice(rx=2, endpoint=OTHER),
        alice(40, rx=3, ips="10.0.0.9/32", endpoint=OTHER),
        NEVER_SHOOK,
        alice(100, endpoint="203.0.113.9:1"),
        wg0(),
    ]
    memo: Optional[wg_monitor.Memo] = None
    for number, text in enumerate(steps):
        reading, memo = read(text, table=table, memo=memo)
        for event in wg_monitor.decide(table, reading, at(30 * number), chosen()):
            events.append((event, copy.deepcopy(event)))
    assert [event.kind for event, _ in events] == ["ONLINE", "ROAMING", "CHANGED", "OFFLINE", "CHANGED", "ONLINE", "REMOVED"]
    assert all(event == then for event, then in events)


# What `wg` prints about alice before the store is lost, at the first reading without it, and later.
LOST = [
    ("counters that go on", (5, 50, 60), (70, 110, 90), (80, 200, 100)),
    ("counters that restarted in the gap", (5, 50, 60), (70, 3, 4), (80, 200, 100)),
    ("counters that restarted before it", (5, 0, 2), (70, 110, 90), (80, 200, 100)),
    ("counters that restart each time", (5, 0, 2), (70, 0, 1), (80, 0, 0)),
    ("counters that restart in the run without it", (5, 50, 60), (70, 110, 90), (80, 7, 8)),
    ("only received bytes that restarted", (5, 50, 60), (70, 3, 90), (80, 5, 100)),
]


@pytest.mark.parametrize(("name", "before", "first", "later"), LOST, ids=ids(LOST))
def test_a_session_over_a_lost_store_has_the_figures_of_one_that_was_watched(
    name: str, before: Tuple[int, ...], first: Tuple[int, ...], later: Tuple[int, ...]
) -> None:
    texts = [alice(0, rx=30, tx=40), *(alice(shook, rx=rx, tx=tx) for shook, rx, tx in (before, first, later)), ""]

    def play_on(table: Table, readings: List[int]) -> List[Event]:
        table.last = None
        memo, events = None, []  # type: Optional[wg_monitor.Memo], List[Event]
        for number in readings:
            reading, memo = read(texts[number], table=table, memo=memo)
            events += wg_monitor.decide(table, reading, at(30 * number), chosen())
        return events

    watched, past, table = Table(), Table(), Table()
    expected = play_on(watched, [0, 1, 2, 3, 4])[-1]
    play_on(past, [0, 1])
    table.sessions = past.sessions
    play_on(table, [2])
    last = table.sessions
    play_on(table, [3])
    (session,) = wg_monitor.take_over(table, past, frozenset(), last, 30.0).values()
    assert session.number == 1
    found = play_on(table, [3, 4])[-1]
    assert figures(found) == figures(expected)
    assert found.ended and expected.ended and found.ended.session.unwatched == expected.ended.session.unwatched + 30.0


@pytest.mark.parametrize(
    "cases",
    [EVENTS, CLOCKS, LIVENESS, SESSIONS, CALLS],
    ids=["events", "clocks", "liveness", "sessions", "calls"],
)
def test_every_case_has_a_unique_name(cases: List[Any]) -> None:
    assert len({case.name for case in cases}) == len(cases)


def test_every_branch_of_the_decisions_is_taken() -> None:
    names, recorder = record(wg_monitor, "Decisions")
    for case in CASES:
        play(case, names)
    for single in CALLS:
        call(single, names)
    assert recorder.wanted
    assert recorder.missing() == []


def test_the_recorder_reports_branches_that_are_not_taken() -> None:
    """A proof that cannot fail proves nothing."""
    names, recorder = record(wg_monitor, "Decisions")
    names["sign_of_life"](row_of(), chosen())
    missing = recorder.missing()
    assert any("liveness" in place and place.endswith("never True") for place in missing)
    assert any("def sign_of_life" in place for place in record(wg_monitor, "Decisions")[1].missing())
    assert not any("def sign_of_life" in place for place in missing)
    assert not any("liveness ==" in place and "return max" in place and place.endswith("never False") for place in missing)


def test_the_recorder_reports_what_a_generator_does_not_reach() -> None:
    names, recorder = record(wg_monitor, "Decisions")
    steps = names["remove_peers"](with_alice(wg0=UP), reading_of("wg0", present=set()), NOW)
    assert any("def remove_peers" in place for place in recorder.missing())
    next(steps)
    missing = recorder.missing()
    assert not any("def remove_peers" in place for place in missing)
    assert any("row.session is None else" in place and place.endswith("never False") for place in missing)
    (body,) = [place for place in missing if "def forget" in place]
    assert body.endswith("never True")


@pytest.mark.parametrize(("interface", "missed"), [(UP, True), (DOWN, False)], ids=["empty", "of one element"])
def test_the_recorder_reports_a_comprehension_without_elements(interface: Interface, missed: bool) -> None:
    names, recorder = record(wg_monitor, "Decisions")
    names["forget"](with_alice(wg0=interface), at(8 * DAY), 7)
    places = [place for place in recorder.missing() if "names = [name for" in place and place.endswith("never True")]
    assert bool(places) == missed
