"""How the output of `wg` is parsed: valid lines become values, invalid ones are counted, and secrets are discarded."""

import copy
import os
from array import array
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Union

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
    plain,
    read,
    unreadable,
    whole_lines,
)
from wg_monitor import COUNTER_MAX, EPOCH_MAX, HOT_READINGS, Memo, Moved, PeerLine, Reading, Renewed, Settings, Table

ALICE = P("alice", 0, 7, 9)
GOOD = peer_line("wg0", ALICE)
WG0, WG1 = interface_line("wg0"), interface_line("wg1")
BOB = peer_line("wg0", P("bob"))


class Dump(NamedTuple):
    """A text and what the parser finds in it: peers as interface/name, invalid lines by interface."""

    name: str
    text: str
    interfaces: Sequence[str] = ("wg0",)
    peers: Sequence[str] = ("wg0/bob",)
    invalid: Optional[Dict[str, int]] = None
    known: Optional[Dict[str, int]] = None  # invalid lines if wg0 is known; None = the same


def field(number: int, value: str) -> str:
    """The line of a valid peer with one field replaced, and another valid peer after it."""
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
    Dump("an interface without keys and without a port", "wg0\t(none)\t(none)\t0\toff\n" + BOB),
    Dump("an interface with a firewall mark", "wg0\t%s\t%s\t51820\t0xca6c\n%s" % (PRIVATE_KEY, key("self"), BOB)),
    Dump("a peer without an endpoint", field(3, "(none)"), peers=BOTH),
    Dump("a peer with an IPv6 endpoint", field(3, "[2001:db8::1]:51820"), peers=BOTH),
    Dump("a peer with a scoped endpoint", field(3, "[fe80::1%eth0]:51820"), peers=BOTH),
    Dump("a peer without a preshared key", field(2, "(none)"), peers=BOTH),
    Dump("a peer without allowed IPs", field(4, "(none)"), peers=BOTH),
    Dump("a peer with 3,000 allowed IPs", field(4, MANY_IPS), peers=BOTH),
    Dump("a peer without a handshake", field(5, "0"), peers=BOTH),
    Dump("a peer with the largest counter", field(6, str(2**63 - 1)), peers=BOTH),
    Dump("a peer with a keepalive", field(8, "65535"), peers=BOTH),
    Dump("the last handshake before the year 10000", field(5, "253402300799"), peers=BOTH),
    # invalid
    Dump("a handshake in the year 10000", field(5, "253402300800"), invalid=ONE),
    Dump("a handshake of 20 digits", field(5, "1" * 20), invalid=ONE),
    Dump("a negative handshake", field(5, "-1"), invalid=ONE),
    Dump("an empty handshake", field(5, ""), invalid=ONE),
    Dump("a handshake in Arabic digits", field(5, "١٢٣"), invalid=ONE),
    Dump("a handshake with a space", field(5, " 5"), invalid=ONE),
    Dump("a handshake with an exponent", field(5, "1e3"), invalid=ONE),
    Dump("a counter of 2**63", field(6, str(2**63)), invalid=ONE),
    Dump("a counter of 20 digits", field(7, "0" * 19 + "1"), invalid=ONE),
    Dump("a counter of 100,000 digits", field(7, "1" * 100_000), invalid=ONE),
    Dump("a negative counter", field(7, "-5"), invalid=ONE),
    Dump("a counter with an underscore", field(6, "1_0"), invalid=ONE),
    Dump("a keepalive that is a word", field(8, "on"), invalid=ONE),
    Dump("a keepalive of 6 digits", field(8, "123456"), invalid=ONE),
    Dump("an endpoint of 5,000 characters", field(3, "1" * 5000), invalid=ONE),
    Dump("an endpoint with a space", field(3, "192.0.2.1 :5"), invalid=ONE),
    Dump("an endpoint with an escape sequence", field(3, "\x1b[2J"), invalid=ONE),
    Dump("an endpoint with a direction mark", field(3, "\u202e1.2.3.4:5"), invalid=ONE),
    Dump("an empty endpoint", field(3, ""), invalid=ONE),
    Dump("allowed IPs with a line separator", field(4, "10.0.0.1/32\u2028"), invalid=ONE),
    Dump("allowed IPs with letters", field(4, "example.org/32"), invalid=ONE),
    Dump("a public key that is too short", field(1, key("alice")[1:]), invalid=ONE),
    Dump("a public key that is too long", field(1, "A" + key("alice")), invalid=ONE),
    Dump("a public key with a foreign character", field(1, key("al-ce")), invalid=ONE),
    Dump("a public key without padding", field(1, "A" * 44), invalid=ONE),
    Dump("one field too few", WG0 + GOOD.rpartition("\t")[0] + "\n" + BOB, invalid=ONE),
    Dump("one field too many", WG0 + GOOD[:-1] + "\t0\n" + BOB, invalid=ONE),
    Dump("the 8 fields of `wg show wg0 dump`", WG0 + GOOD[4:] + BOB, invalid=UNCLEAR),
    Dump("a carriage return at the end", WG0 + GOOD[:-1] + "\r\n" + BOB, invalid=ONE),
    Dump("an empty line", WG0 + "\n" + BOB, invalid=UNCLEAR),
    Dump("text without a tab", WG0 + "wg0 is fine\n" + BOB, invalid=UNCLEAR),
    Dump("a name of 16 characters", WG0 + dump("wg12345678901234") + BOB, invalid=UNCLEAR),
    Dump("a name with a slash", WG0 + dump("../wg1") + BOB, invalid=UNCLEAR),
    Dump("an empty name", WG0 + dump("") + BOB, invalid=UNCLEAR),
    Dump("the same peer twice", WG0 + BOB + BOB, invalid=ONE),
    Dump("the same interface twice", WG0 + BOB + WG0, invalid=ONE),
    Dump("a peer before its interface", GOOD + WG0 + BOB, invalid=UNCLEAR, known=ONE),
    Dump("a peer of a missing interface", WG0 + BOB + peer_line("wg1", ALICE), invalid=UNCLEAR),
    Dump("an interface's line with a port of 6 digits", WG1.replace("51820", "518200") + WG0 + BOB, invalid=UNCLEAR),
    Dump("an interface's line with one field too few", WG1.replace("\t51820", "") + WG0 + BOB, invalid=UNCLEAR),
    Dump("an interface's line with one field too many", WG1.replace("\toff", "\toff\toff") + WG0 + BOB, invalid=UNCLEAR),
    Dump("two invalid lines of one interface, one of another", WG0 + "wg0\t\nwg0\t\nwg1\t\n" + BOB, invalid={"wg0": 2, "": 1}),
]  # fmt: skip


@pytest.mark.parametrize("case", DUMPS, ids=ids(DUMPS))
def test_parse(case: Dump) -> None:
    reading, _ = read(case.text)
    assert reading.interfaces == set(case.interfaces)
    peers = [peer.identity for peer in whole_lines(reading)]
    assert [interface + "/" + name_of(public_key) for interface, public_key in peers] == list(case.peers)
    assert reading.present == set(peers)
    assert reading.invalid == (case.invalid or {})


def known_after(reading: Reading, settings: Optional[Settings] = None) -> Table:
    table = Table()
    wg_monitor.decide(table, reading, START, settings or chosen())
    return table


@pytest.mark.parametrize("case", DUMPS, ids=ids(DUMPS))
def test_parse_after_a_valid_reading(case: Dump) -> None:
    """The reading before has as many lines, all valid, so that the parser skims the lines that did not change."""
    lines = case.text.count("\n")
    names = ["bob", "alice"] + ["peer%d" % n for n in range(60)]
    before, memo = read(dump("wg0", *(P(name, 0) for name in names[: lines - 1]))) if lines else read("")
    table = known_after(before)
    reading, _ = read(case.text, table=table, memo=memo)
    assert reading.interfaces == set(case.interfaces)
    assert reading.invalid == (case.known or case.invalid or {})
    if reading.present is not None:
        assert reading.present == {identity(*peer.split("/")) for peer in case.peers}


def test_the_name_in_an_invalid_line_is_trusted_if_it_is_configured() -> None:
    text = "wg0\tinvalid\n"
    assert read(text, settings=chosen(interface=frozenset(["wg0"])))[0].invalid == {"wg0": 1}


def test_the_name_in_an_invalid_line_may_be_the_end_of_a_key() -> None:
    """The line begins in the middle of a secret: its first field is never reported."""
    for secret in SECRETS:
        reading, _ = read(WG0 + secret[-12:] + "\t192.0.2.1:5\n")
        assert reading.invalid == {"": 1}


def test_bytes_that_are_no_text_invalidate_their_own_line_only() -> None:
    for invalid in (b"\xff", b"wg0\t\xff\xfe\n"[:-1], b"\x00", b"wg0\t" + bytes(range(11, 256))):
        text = WG0.encode() + invalid + b"\n" + BOB.encode()
        reading = wg_monitor.parse(blocks(text), "", Memo(), (), frozenset())
        assert [peer.identity for peer in whole_lines(reading)] == [identity("wg0", "bob")]
        assert sum(reading.invalid.values()) == 1


def test_every_field_of_a_peer_is_parsed() -> None:
    reading, _ = read(WG0 + GOOD)
    (peer,) = reading.peers
    assert peer == (identity("wg0", "alice"), 7, 9, START.wall, "192.0.2.1:51820", "10.0.0.1/32")


def test_fields_that_a_peer_lacks_are_empty() -> None:
    (peer,) = whole_lines(read(dump("wg0", P("alice", NEVER_SHOOK, endpoint="", ips="")))[0])
    assert (peer.endpoint, peer.allowed_ips, peer.handshake) == ("", "", 0)


# --- Watched interfaces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        (WG0 + GOOD + dump("wg1", P("bob")), ""),
        (dump("wg1", P("bob")) + WG0 + GOOD, ""),
        (WG0 + GOOD + "wg1\tinvalid\n", ""),
        (WG0 + GOOD, unreadable("wg1")),
    ],
    ids=["another after it", "another before it", "an invalid line of another", "another is unreadable"],
)
def test_unwatched_interfaces_are_skipped(text: str, complaints: str) -> None:
    reading, _ = read(text, complaints, settings=chosen(interface=frozenset(["wg0"])))
    assert reading.interfaces == {"wg0"}
    assert reading.present == {identity("wg0", "alice")}
    assert (reading.invalid, reading.unreadable) == ({}, frozenset())


def test_a_line_of_an_unclear_interface_may_belong_to_a_watched_one() -> None:
    assert read(WG0 + "invalid\n", settings=chosen(interface=frozenset(["wg0"])))[0].invalid == {"": 1}


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
    Complaint("other messages", "Warning: something else\nwg0 is not fine\n", set()),
    Complaint("an invalid name", "Unable to access interface ../../etc: No such device\n", set(), 1),
    Complaint("a name with an escape sequence", "Unable to access interface \x1b[2J: No such device\n", set(), 1),
    Complaint("a name that is too long", unreadable("wg12345678901234"), set(), 1),
    Complaint("an empty name", unreadable(""), set(), 1),
    Complaint("a message that is cut short", "Unable to access interface wg0", set()),
    Complaint("a message within another", "cannot: Unable to access interface wg0: x\n", set()),
]


@pytest.mark.parametrize("case", COMPLAINTS, ids=ids(COMPLAINTS))
def test_complaints(case: Complaint) -> None:
    reading, _ = read("", case.text)
    assert reading.unreadable == case.unreadable
    assert reading.invalid == ({"": case.unclear} if case.unclear else {})


# --- Unchanged lines ----------------------------------------------------------------------------------------------


class Watch:
    """Takes readings one after another and returns how much of each was parsed.

    "same": every block was identical to the one before. "skimmed": every line was in its place. "whole": neither."""

    def __init__(self) -> None:
        self.table = Table()
        self.memo: Optional[Memo] = None
        self.seconds = 0

    def take(self, text: str, complaints: str = "", **changes: Any) -> List[str]:
        self.seconds += 30
        now, before = at(self.seconds), self.memo.blocks if self.memo else {}
        reading, self.memo = read(text, complaints, self.table, self.memo, chosen(**changes))
        wg_monitor.decide(self.table, reading, now, chosen(**changes))
        how = ["whole"]
        if reading.present is None:
            same = before == self.memo.blocks and all(block.digest is not None for block in before.values())
            how = ["same"] if same else ["skimmed"]
        return how + [line_told(line) for line in reading.peers]


def line_told(line: Union[Moved, Renewed, PeerLine]) -> str:
    """A peer's line in a few words: its name and, unless the whole line was parsed, which part was."""
    name = name_of(line[0][1])
    if isinstance(line, PeerLine):
        return name
    assert type(line) is tuple
    return name + (": counters" if len(line) == 3 else ": handshake")


def watched(*peers: P) -> Watch:
    watch = Watch()
    watch.take(dump("wg0", *peers))
    return watch


A, B = P("alice", 0, 5, 5), P("bob", 0, 5, 5)


def test_identical_output_is_not_parsed() -> None:
    watch = watched(A, B)
    assert [watch.take(dump("wg0", A, B)) for _ in range(3)] == [["same"], ["same"], ["same"]]


def test_only_changed_lines_are_parsed() -> None:
    assert watched(A, B).take(dump("wg0", A, B._replace(endpoint="192.0.2.2:1"))) == ["skimmed", "bob"]
    assert watched(A, B).take(dump("wg0", A, B._replace(ips=""))) == ["skimmed", "bob"]


def test_of_a_line_with_a_new_handshake_only_handshake_and_counters_are_parsed() -> None:
    assert watched(A, B).take(dump("wg0", A, B._replace(shook=20, rx=9))) == ["skimmed", "bob: handshake"]


def test_of_a_line_with_new_counters_only_the_counters_are_parsed() -> None:
    """A block with a changed line is skimmed once more, since such a line usually changes again."""
    c, d, e = (P("peer%d" % number, 0, 5, 5) for number in range(3))
    watch = watched(A, c, d, B, e)
    after = dump("wg0", A._replace(rx=6), c, d, B._replace(tx=7), e)
    assert watch.take(after) == ["skimmed", "alice: counters", "bob: counters"]
    assert [(row.rx, row.tx) for row in watch.table.rows.values()] == [(6, 5), (5, 5), (5, 5), (5, 7), (5, 5)]
    assert [watch.take(after), watch.take(after)] == [["skimmed"], ["same"]]


def test_lines_that_all_change_are_not_compared_for_a_while_and_then_again() -> None:
    """Whether a block keeps digests of its lines or not, every change is found: also a return to former values."""
    watch = watched(A, B)
    both = ["skimmed", "alice: counters", "bob: counters"]
    for number in range(2 * HOT_READINGS):
        assert watch.take(dump("wg0", A._replace(rx=6 + number), B._replace(rx=6 + number))) == both
    for rx in (5, 6, 5):
        assert watch.take(dump("wg0", A._replace(rx=rx), B._replace(rx=rx))) == both
        assert [row.rx for row in watch.table.rows.values()] == [rx, rx]
    quiet = [watch.take(dump("wg0", A, B)) for _ in range(HOT_READINGS + 3)]
    assert quiet[0] == both and quiet[-2:] == [["same"], ["same"]]
    assert watch.take(dump("wg0", A, B._replace(tx=7))) == ["skimmed", "bob: counters"]


def test_a_line_with_a_new_keepalive_shows_unchanged_counters() -> None:
    watch = watched(A, B)
    after = dump("wg0", A) + peer_line("wg0", B).replace("off\n", "25\n")
    assert watch.take(after) == ["skimmed", "bob: counters"]
    assert [(row.rx, row.tx) for row in watch.table.rows.values()] == [(5, 5), (5, 5)]


def test_a_counter_that_falls_is_parsed_like_any_other() -> None:
    """The parser does not compare counters. The decisions notice that one fell."""
    reading, memo = read(dump("wg0", A, B))
    reading, _ = read(dump("wg0", A._replace(rx=4), B._replace(rx=0, tx=4)), memo=memo)
    assert reading.peers == [(identity("wg0", "alice"), 4, 5), (identity("wg0", "bob"), 0, 4)]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"rx": COUNTER_MAX}, "alice: counters"),
        ({"tx": COUNTER_MAX - 1}, "alice: counters"),
        ({"shook": EPOCH_MAX - START.wall}, "alice"),
        ({"shook": EPOCH_MAX - START.wall, "rx": 6}, "alice"),
    ],
    ids=["received", "sent", "a handshake", "a handshake and bytes"],
)
def test_numbers_up_to_the_maximum_are_valid(changes: Dict[str, Any], found: str) -> None:
    assert watched(A, B).take(dump("wg0", A._replace(**changes), B)) == ["skimmed", found]


@pytest.mark.parametrize(
    "change",
    [{"rx": COUNTER_MAX + 1}, {"tx": 10**19}, {"shook": EPOCH_MAX + 1 - START.wall}, {"rx": -1}],
    ids=["received", "sent", "a handshake", "a negative number"],
)
def test_a_number_beyond_the_maximum_makes_its_line_invalid(change: Dict[str, Any]) -> None:
    reading, memo = read(dump("wg0", A, B))
    reading, _ = read(dump("wg0", A._replace(**change), B), table=known_after(reading), memo=memo)
    assert reading.invalid == ONE
    assert reading.present == {identity("wg0", "bob")}


@pytest.mark.parametrize(
    "text",
    [dump("wg0", A), dump("wg0", A, B, P("carol")), dump("wg0", B, A), dump("wg0", A, P("carol")), dump("wg1", A, B)],
    ids=["one fewer", "one more", "in another order", "another peer", "on another interface"],
)
def test_output_with_other_peers_is_parsed_in_full(text: str) -> None:
    assert watched(A, B).take(text)[0] == "whole"


def test_the_output_is_parsed_in_full_until_every_line_is_valid() -> None:
    watch = watched(A)
    invalid = dump("wg0", A) + "invalid\n"
    good = dump("wg0", A)
    assert [watch.take(text)[0] for text in (invalid, invalid, good, good, good)] == [
        "whole", "whole", "whole", "same", "same",
    ]  # fmt: skip


def test_a_complaint_about_an_unclear_interface_causes_a_full_parse() -> None:
    assert watched(A).take(dump("wg0", A), unreadable("?"))[0] == "whole"


def test_an_unreadable_interface_causes_no_full_parse() -> None:
    watch = watched(A)
    assert [watch.take(dump("wg0", A), unreadable("wg1")) for _ in range(2)] == [["same"], ["same"]]


def test_a_change_of_an_interface_s_own_line_causes_a_full_parse() -> None:
    assert watched(A).take(dump("wg0", A).replace("51820\toff", "51821\toff", 1))[0] == "whole"


@pytest.mark.parametrize("liveness", ["handshake", "traffic"])
@pytest.mark.parametrize(
    "line",
    ["1700000000\t1\t2\toff\n", WG0[:-1] + "\t1\t2\toff\n", WG0[:-4] + "1700000000\t1\t2\toff\n"],
    ids=["truncated", "extended", "extended by a handshake"],
)
def test_an_interface_s_own_line_that_looks_like_a_peer_s_is_invalid(line: str, liveness: str) -> None:
    settings = chosen(liveness=liveness)
    reading, memo = read(dump("wg0", A), settings=settings)
    reading, _ = read(line + peer_line("wg0", A), "", known_after(reading, settings), memo, settings)
    assert sum(reading.invalid.values()) == 2, "the line of its peer is invalid as well: no interface precedes it"


def test_the_output_is_read_in_blocks_of_whole_lines() -> None:
    long = P("carol", ips=",".join(["fd00::/64"] * 20_000))
    text = dump("wg0", *(P("peer%d" % number) for number in range(1_000)), long, B).encode()
    probe = wg_monitor.Probe("/no/wg")
    probe.output, probe.errors = wg_monitor.anonymous_file(), wg_monitor.anonymous_file()
    try:
        for _ in range(2):  # the second output has nothing of the first
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


# --- Side effects -------------------------------------------------------------------------------------------------


READINGS = [
    dump("wg0", A, B),
    dump("wg0", A._replace(rx=4), B._replace(shook=20, tx=9)),
    dump("wg0", A._replace(rx=4), B._replace(shook=20, tx=9, endpoint="192.0.2.9:9", ips="")),
    dump("wg0", B, P("carol")) + dump("wg1", A),
    dump("wg1", A) + "wg1\tinvalid\n",
    "",
]


@pytest.mark.parametrize("now", range(len(READINGS)))
@pytest.mark.parametrize("before", range(len(READINGS)))
def test_parsing_changes_only_the_memo(before: int, now: int) -> None:
    """Parsing has no access to the table. It gets the names of the known interfaces only."""
    watch = Watch()
    watch.take(READINGS[before])
    state, asked = plain(watch.table), 0

    def names() -> Iterator[str]:
        nonlocal asked
        for name, _ in watch.table.rows:
            asked += 1
            yield name

    assert watch.memo is not None
    memo, twin = watch.memo, copy.deepcopy(watch.memo)
    reading = wg_monitor.parse(blocks(READINGS[now].encode()), unreadable("wg9"), memo, names(), frozenset())
    assert plain(watch.table) == state
    assert not asked or reading.invalid, "the names are read only if a line is invalid"
    known = [name for name, _ in watch.table.rows]
    again = wg_monitor.parse(blocks(READINGS[now].encode()), unreadable("wg9"), twin, known, frozenset())
    assert again == reading, "the same memo and the same output give the same reading"
    assert plain(twin) == plain(memo)


# --- Secrets ------------------------------------------------------------------------------------------------------


def test_no_value_holds_a_secret() -> None:
    for case in DUMPS:
        reading, memo = read(case.text)
        table = Table()
        events = wg_monitor.decide(table, reading, START, chosen())
        held = everything((reading, memo, table, events))
        assert not any(secret in text for secret in SECRETS for text in held)


def test_the_search_for_secrets_finds_them() -> None:
    assert any(PRESHARED_KEY in text for text in everything([{"a": (GOOD,)}]))


def everything(value: Any) -> List[str]:
    """All text in a value and its parts."""
    if isinstance(value, (str, bytes)):
        return [value if isinstance(value, str) else value.decode("latin-1")]
    if isinstance(value, (wg_monitor.Row, wg_monitor.Memo)):
        return everything([getattr(value, name) for name in value.__slots__])
    if isinstance(value, Table):
        return everything(vars(value))
    if isinstance(value, dict):
        return everything(list(value.items()))
    if isinstance(value, (tuple, list, set, frozenset, array)):
        return [text for part in value for text in everything(part)]
    assert value is None or isinstance(value, (bool, int, float)), value
    return []


def test_no_exception_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in the middle of a reading has no text of a line in its message."""

    class Broken(Exception):
        pass

    def broken(*_: Any) -> None:
        raise Broken

    monkeypatch.setattr(wg_monitor, "PeerLine", broken)
    with pytest.raises(Broken) as caught:
        read(WG0 + GOOD)
    assert not any(secret in str(caught.value) for secret in SECRETS)
