"""What becomes of the text of `wg`: good lines become values, bad ones are counted, secrets end here."""

import os
from array import array
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set

import pytest

import wg_monitor
from values import (
    NEVER_SHOOK,
    PRESHARED_KEY,
    PRIVATE_KEY,
    SECRETS,
    START,
    P,
    at,
    blocks,
    chosen,
    dump,
    identity,
    ids,
    interface_line,
    key,
    name_of,
    peer_line,
    read,
    unreadable,
)
from wg_monitor import EMPTY, Memo, Table

ALICE = P("alice", 0, 7, 9)
GOOD = peer_line("wg0", ALICE)
WG0, WG1 = interface_line("wg0"), interface_line("wg1")
BOB = peer_line("wg0", P("bob"))


class Dump(NamedTuple):
    """A text, and what is found in it: peers as interface/name, spoiled lines by interface."""

    name: str
    text: str
    interfaces: Sequence[str] = ("wg0",)
    peers: Sequence[str] = ("wg0/bob",)
    spoiled: Optional[Dict[str, int]] = None
    known: Optional[Dict[str, int]] = None  # spoiled lines, where wg0 is known; None = the same ones


def field(number: int, value: str) -> str:
    """A good peer's line with one other field, and a good peer after it."""
    fields = GOOD[:-1].split("\t")
    fields[number] = value
    return WG0 + "\t".join(fields) + "\n" + BOB


BOTH = ("wg0/alice", "wg0/bob")
ONE = {"wg0": 1}
UNCLEAR = {"": 1}
MANY_IPS = ",".join("10.%d.%d.%d/32" % (n >> 16, n >> 8 & 255, n & 255) for n in range(3000))

DUMPS = [
    Dump("no interface at all", "", (), ()),
    Dump("an interface without peers", WG0, peers=()),
    Dump("an interface with two peers", WG0 + GOOD + BOB, peers=BOTH),
    Dump("two interfaces", WG0 + GOOD + dump("wg1", P("bob")), ("wg0", "wg1"), ("wg0/alice", "wg1/bob")),
    Dump("every kind of character in a name", dump("aZ9_=+.-", P("bob")), ("aZ9_=+.-",), ("aZ9_=+.-/bob",)),
    Dump("a name of 15 characters", dump("wg1234567890123", P("bob")), ("wg1234567890123",), ("wg1234567890123/bob",)),
    Dump("an interface without keys, listening nowhere", "wg0\t(none)\t(none)\t0\toff\n" + BOB),
    Dump("an interface with a firewall mark", "wg0\t%s\t%s\t51820\t0xca6c\n%s" % (PRIVATE_KEY, key("self"), BOB)),
    Dump("a peer without endpoint", field(3, "(none)"), peers=BOTH),
    Dump("a peer with an endpoint of the sixth version", field(3, "[2001:db8::1]:51820"), peers=BOTH),
    Dump("a peer with a scoped endpoint", field(3, "[fe80::1%eth0]:51820"), peers=BOTH),
    Dump("a peer without preshared key", field(2, "(none)"), peers=BOTH),
    Dump("a peer without allowed IPs", field(4, "(none)"), peers=BOTH),
    Dump("a peer with 3,000 allowed IPs", field(4, MANY_IPS), peers=BOTH),
    Dump("a peer that never shook hands", field(5, "0"), peers=BOTH),
    Dump("a peer with the greatest counters", field(6, str(2**63 - 1)), peers=BOTH),
    Dump("a peer with keepalive", field(8, "65535"), peers=BOTH),
    Dump("the last handshake before the year 10000", field(5, "253402300799"), peers=BOTH),
    # spoiled
    Dump("a handshake of the year 10000", field(5, "253402300800"), spoiled=ONE),
    Dump("a handshake of 20 digits", field(5, "1" * 20), spoiled=ONE),
    Dump("a negative handshake", field(5, "-1"), spoiled=ONE),
    Dump("a handshake of no digits", field(5, ""), spoiled=ONE),
    Dump("a handshake of other digits", field(5, "١٢٣"), spoiled=ONE),
    Dump("a handshake with a space", field(5, " 5"), spoiled=ONE),
    Dump("a handshake with an exponent", field(5, "1e3"), spoiled=ONE),
    Dump("a counter of 2**63", field(6, str(2**63)), spoiled=ONE),
    Dump("a counter of 20 digits", field(7, "0" * 19 + "1"), spoiled=ONE),
    Dump("a counter of 100,000 digits", field(7, "1" * 100_000), spoiled=ONE),
    Dump("a negative counter", field(7, "-5"), spoiled=ONE),
    Dump("a counter with an underscore", field(6, "1_0"), spoiled=ONE),
    Dump("a keepalive of no sense", field(8, "on"), spoiled=ONE),
    Dump("a keepalive of 6 digits", field(8, "123456"), spoiled=ONE),
    Dump("an endpoint of 5,000 characters", field(3, "1" * 5000), spoiled=ONE),
    Dump("an endpoint with a space", field(3, "192.0.2.1 :5"), spoiled=ONE),
    Dump("an endpoint with an escape sequence", field(3, "\x1b[2J"), spoiled=ONE),
    Dump("an endpoint with a direction mark", field(3, "\u202e1.2.3.4:5"), spoiled=ONE),
    Dump("an endpoint that is empty", field(3, ""), spoiled=ONE),
    Dump("allowed IPs with a separator of lines", field(4, "10.0.0.1/32\u2028"), spoiled=ONE),
    Dump("allowed IPs with letters", field(4, "example.org/32"), spoiled=ONE),
    Dump("a public key that is short", field(1, key("alice")[1:]), spoiled=ONE),
    Dump("a public key that is long", field(1, "A" + key("alice")), spoiled=ONE),
    Dump("a public key of another alphabet", field(1, key("al-ce")), spoiled=ONE),
    Dump("a public key without its end", field(1, "A" * 44), spoiled=ONE),
    Dump("one field too few", WG0 + GOOD.rpartition("\t")[0] + "\n" + BOB, spoiled=ONE),
    Dump("one field too many", WG0 + GOOD[:-1] + "\t0\n" + BOB, spoiled=ONE),
    Dump("the 8 fields of `wg show wg0 dump`", WG0 + GOOD[4:] + BOB, spoiled=UNCLEAR),
    Dump("a carriage return at the end", WG0 + GOOD[:-1] + "\r\n" + BOB, spoiled=ONE),
    Dump("an empty line", WG0 + "\n" + BOB, spoiled=UNCLEAR),
    Dump("text without a tab", WG0 + "wg0 is fine\n" + BOB, spoiled=UNCLEAR),
    Dump("a name of 16 characters", WG0 + dump("wg12345678901234") + BOB, spoiled=UNCLEAR),
    Dump("a name with a slash", WG0 + dump("../wg1") + BOB, spoiled=UNCLEAR),
    Dump("a name that is empty", WG0 + dump("") + BOB, spoiled=UNCLEAR),
    Dump("a peer twice", WG0 + BOB + BOB, spoiled=ONE),
    Dump("an interface's own line twice", WG0 + BOB + WG0, spoiled=ONE),
    Dump("a peer before its interface", GOOD + WG0 + BOB, spoiled=UNCLEAR, known=ONE),
    Dump("a peer of an interface that is not there", WG0 + BOB + peer_line("wg1", ALICE), spoiled=UNCLEAR),
    Dump("an own line with a port of 6 digits", WG1.replace("51820", "518200") + WG0 + BOB, spoiled=UNCLEAR),
    Dump("an own line with one field too few", WG1.replace("\t51820", "") + WG0 + BOB, spoiled=UNCLEAR),
    Dump("an own line with one field too many", WG1.replace("\toff", "\toff\toff") + WG0 + BOB, spoiled=UNCLEAR),
    Dump("two spoiled lines of one, one of another", WG0 + "wg0\t\nwg0\t\nwg1\t\n" + BOB, spoiled={"wg0": 2, "": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", DUMPS, ids=ids(DUMPS))
def test_parse(case: Dump) -> None:
    reading, _ = read(case.text)
    assert reading.interfaces == set(case.interfaces)
    assert [peer.identity[0] + "/" + name_of(peer.identity[1]) for peer in reading.peers] == list(case.peers)
    assert reading.present == {peer.identity for peer in reading.peers}
    assert reading.spoiled == (case.spoiled or {})


@pytest.mark.parametrize("case", DUMPS, ids=ids(DUMPS))
def test_the_same_comes_out_after_a_good_reading(case: Dump) -> None:
    """A good reading of as many lines was before, so that only the lines that changed are looked at."""
    lines = case.text.count("\n")
    names = ["bob", "alice"] + ["peer%d" % n for n in range(60)]
    before, memo = read(dump("wg0", *(P(name, 0) for name in names[: lines - 1]))) if lines else read("")
    table, _ = wg_monitor.decide(EMPTY, before, START, chosen())
    reading, _ = read(case.text, table=table, memo=memo, boot=at(30).boot)
    assert reading.interfaces == set(case.interfaces)
    assert reading.spoiled == (case.known or case.spoiled or {})
    if reading.present is not None:
        assert reading.present == {identity(*peer.split("/")) for peer in case.peers}


def test_the_name_in_a_spoiled_line_is_believed_where_the_settings_vouch_for_it() -> None:
    text = "wg0\tspoiled\n"
    assert read(text, settings=chosen(interface=frozenset(["wg0"])))[0].spoiled == {"wg0": 1}


def test_the_name_in_a_spoiled_line_may_be_the_end_of_a_key() -> None:
    """A line torn in the middle of a secret: what stands first in the rest is never told."""
    for secret in SECRETS:
        reading, _ = read(WG0 + secret[-12:] + "\t192.0.2.1:5\n")
        assert reading.spoiled == {"": 1}


def test_bytes_that_are_no_text_spoil_their_own_line_only() -> None:
    for spoiled in (b"\xff", b"wg0\t\xff\xfe\n"[:-1], b"\x00", b"wg0\t" + bytes(range(11, 256))):
        text = WG0.encode() + spoiled + b"\n" + BOB.encode()
        reading = wg_monitor.parse(blocks(text), "", Memo(), {}, chosen(), START.boot)
        assert [peer.identity for peer in reading.peers] == [identity("wg0", "bob")]
        assert sum(reading.spoiled.values()) == 1


def test_the_fields_of_a_peer() -> None:
    reading, _ = read(WG0 + GOOD)
    (peer,) = reading.peers
    assert peer.identity == identity("wg0", "alice")
    assert (peer.endpoint, peer.allowed_ips, peer.handshake) == ("192.0.2.1:51820", "10.0.0.1/32", START.wall)
    assert (peer.meter.rx, peer.meter.tx) == (7, 9)


def test_what_a_peer_has_not_is_empty() -> None:
    (peer,) = read(dump("wg0", P("alice", NEVER_SHOOK, endpoint="", ips="")))[0].peers
    assert (peer.endpoint, peer.allowed_ips, peer.handshake) == ("", "", 0)


# --- Only what is wanted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (WG0 + GOOD + dump("wg1", P("bob")), ""),
        (dump("wg1", P("bob")) + WG0 + GOOD, ""),
        (WG0 + GOOD + "wg1\tspoiled\n", ""),
        (WG0 + GOOD, unreadable("wg1")),
    ],
    ids=["another one after it", "another one before it", "a spoiled line of another one", "another one unreadable"],
)
def test_other_interfaces_than_the_wanted_do_not_count(text: str, complaints: str) -> None:
    reading, _ = read(text, complaints, settings=chosen(interface=frozenset(["wg0"])))
    assert reading.interfaces == {"wg0"}
    assert reading.present == {identity("wg0", "alice")}
    assert (reading.spoiled, reading.unreadable) == ({}, frozenset())


def test_a_line_of_unclear_interface_may_be_a_wanted_one_s() -> None:
    assert read(WG0 + "spoiled\n", settings=chosen(interface=frozenset(["wg0"])))[0].spoiled == {"": 1}


# --- Standard error -----------------------------------------------------------------------------------------------


class Complaint(NamedTuple):
    name: str
    text: str
    unreadable: Set[str]
    unclear: int = 0


COMPLAINTS = [
    Complaint("nothing", "", set()),
    Complaint("one interface", "Unable to access interface wg0: Operation not permitted\n", {"wg0"}),
    Complaint("two interfaces", unreadable("wg0", "wg1"), {"wg0", "wg1"}),
    Complaint("another reason", "Unable to access interface wg0: Protocol not supported\n", {"wg0"}),
    Complaint("other words", "Warning: something else\nwg0 is not fine\n", set()),
    Complaint("a name that is none", "Unable to access interface ../../etc: No such device\n", set(), 1),
    Complaint("a name with an escape sequence", "Unable to access interface \x1b[2J: No such device\n", set(), 1),
    Complaint("a name that is too long", unreadable("wg12345678901234"), set(), 1),
    Complaint("a name that is empty", unreadable(""), set(), 1),
    Complaint("words cut short", "Unable to access interface wg0", set()),
    Complaint("words within words", "cannot: Unable to access interface wg0: x\n", set()),
]


@pytest.mark.parametrize("case", COMPLAINTS, ids=ids(COMPLAINTS))
def test_complaints(case: Complaint) -> None:
    reading, _ = read("", case.text)
    assert reading.unreadable == case.unreadable
    assert reading.spoiled == ({"": case.unclear} if case.unclear else {})


# --- What is left out, because it stands as before ----------------------------------------------------------------


class Watch:
    """Readings one after another, and how much of each had to be parsed."""

    def __init__(self) -> None:
        self.table: Table = EMPTY
        self.memo: Optional[Memo] = None
        self.seconds = 0

    def take(self, text: str, complaints: str = "", **changes: Any) -> List[str]:
        self.seconds += 30
        now, before = at(self.seconds), dict(self.memo.blocks) if self.memo else None
        reading, self.memo = read(text, complaints, self.table, self.memo, now.boot, chosen(**changes))
        self.table, _ = wg_monitor.decide(self.table, reading, now, chosen(**changes))
        how = ["whole"]
        if reading.present is None:
            how = ["same"] if before == self.memo.blocks else ["skimmed"]
        return how + [name_of(peer.identity[1]) for peer in reading.peers]


def watched(*peers: P) -> Watch:
    watch = Watch()
    watch.take(dump("wg0", *peers))
    return watch


A, B = P("alice", 0, 5, 5), P("bob", 0, 5, 5)


def test_identical_output_is_not_parsed() -> None:
    assert watched(A, B).take(dump("wg0", A, B)) == ["same"]


def test_of_lines_that_changed_only_those_are_parsed() -> None:
    assert watched(A, B).take(dump("wg0", A, B._replace(shook=20))) == ["skimmed", "bob"]


def test_of_lines_that_only_moved_bytes_only_the_counters_are() -> None:
    watch = watched(A, B)
    assert watch.take(dump("wg0", A._replace(rx=6), B._replace(tx=7))) == ["skimmed"]
    assert [(k.meter.rx, k.meter.tx) for k in watch.table.peers.values()] == [(6, 5), (5, 7)]


def test_a_counter_that_falls_is_looked_at() -> None:
    assert watched(A, B).take(dump("wg0", A._replace(rx=4), B._replace(tx=4))) == ["skimmed", "alice", "bob"]


@pytest.mark.parametrize(
    "text",
    [dump("wg0", A), dump("wg0", A, B, P("carol")), dump("wg0", B, A), dump("wg0", A, P("carol")), dump("wg1", A, B)],
    ids=["one fewer", "one more", "in another order", "another one", "on another interface"],
)
def test_other_peers_are_parsed_whole(text: str) -> None:
    assert watched(A, B).take(text)[0] == "whole"


def test_a_spoiled_line_has_all_parsed_until_it_is_gone() -> None:
    watch = watched(A)
    spoiled = dump("wg0", A) + "spoiled\n"
    assert [watch.take(text)[0] for text in (spoiled, spoiled, dump("wg0", A), dump("wg0", A))] == [
        "whole", "whole", "whole", "same",
    ]  # fmt: skip


def test_a_complaint_of_unclear_interface_has_all_parsed() -> None:
    assert watched(A).take(dump("wg0", A), unreadable("?"))[0] == "whole"


def test_an_unreadable_interface_does_not_have_all_parsed() -> None:
    assert watched(A).take(dump("wg0", A), unreadable("wg1")) == ["same"]


def test_a_change_of_an_interface_s_own_line_has_all_parsed() -> None:
    assert watched(A).take(dump("wg0", A).replace("51820\toff", "51821\toff", 1))[0] == "whole"


@pytest.mark.parametrize("liveness", ["handshake", "traffic"])
@pytest.mark.parametrize(
    "line", ["1700000000\t1\t2\toff\n", WG0[:-1] + "\t1\t2\toff\n"], ids=["cut down", "grown longer"]
)
def test_an_interface_s_own_line_that_looks_like_a_peer_s_is_spoiled(line: str, liveness: str) -> None:
    settings = chosen(liveness=liveness)
    reading, memo = read(dump("wg0", A), settings=settings)
    table, _ = wg_monitor.decide(EMPTY, reading, START, settings)
    reading, _ = read(line + peer_line("wg0", A), "", table, memo, at(30).boot, settings)
    assert sum(reading.spoiled.values()) == 2, "and its peer's, before which no interface's stands any more"


def test_the_output_is_read_in_blocks_of_whole_lines() -> None:
    long = P("carol", ips=",".join(["fd00::/64"] * 20_000))
    text = dump("wg0", *(P("peer%d" % number) for number in range(1_000)), long, B).encode()
    probe = wg_monitor.Probe("/no/wg")
    probe.output, probe.errors = wg_monitor.anonymous_file(), wg_monitor.anonymous_file()
    try:
        for _ in range(2):  # what is read next has nothing of what was read before
            os.write(probe.output, text)
            found = list(probe.blocks(len(text)))
            assert b"".join(found) == text
            assert all(block.endswith(b"\n") for block in found)
            longer = [block for block in found if len(block) > wg_monitor.BLOCK]
            assert longer == [block for block in found if b"carol" in block]
            assert len(found) > 2
            probe.clear()
            assert os.fstat(probe.output).st_size == 0
            text = WG0.encode() * 2_000
    finally:
        os.close(probe.output)
        os.close(probe.errors)


# --- Secrets ------------------------------------------------------------------------------------------------------


def test_no_value_holds_a_secret() -> None:
    for case in DUMPS:
        reading, memo = read(case.text)
        table, events = wg_monitor.decide(EMPTY, reading, START, chosen())
        held = everything((reading, memo, table, events))
        assert not any(secret in text for secret in SECRETS for text in held)


def test_the_search_for_secrets_finds_them() -> None:
    assert any(PRESHARED_KEY in text for text in everything([{"a": (GOOD,)}]))


def everything(value: Any) -> List[str]:
    """All text in a value and in what it is made of."""
    if isinstance(value, (str, bytes)):
        return [value if isinstance(value, str) else value.decode("latin-1")]
    if isinstance(value, (wg_monitor.Meter, wg_monitor.Memo)):
        return everything([getattr(value, name) for name in value.__slots__])
    if isinstance(value, wg_monitor.Peers):
        return everything(value.fields)
    if isinstance(value, dict):
        return everything(list(value.items()))
    if isinstance(value, (tuple, list, set, frozenset, array)):
        return [text for part in value for text in everything(part)]
    assert value is None or isinstance(value, (bool, int, float)), value
    return []


def test_no_exception_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks in the middle of a reading, its words have passed the text of no line."""

    class Broken(Exception):
        pass

    def broken(*_: Any) -> None:
        raise Broken

    monkeypatch.setattr(wg_monitor, "meet", broken)
    with pytest.raises(Broken) as caught:
        read(WG0 + GOOD)
    assert not any(secret in str(caught.value) for secret in SECRETS)
