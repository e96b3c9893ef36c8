"""Damaged dumps: none of them causes an exception, forges a line or reveals a secret."""

import copy
import json
import random
from typing import Any, Dict, Iterator, List, Tuple

import pytest

import wg_monitor
from scale import scaled
from values import PRESHARED_KEY, PRIVATE_KEY, START, P, at, blocks, chosen, dump, key, plain, unreadable, whole_lines
from wg_monitor import HOOK_DUE, Memo, Reading, Record, Table

DUMPS = max(1000, scaled(100_000))
SEEDS = 20  # the dumps are divided among them
READINGS = 10  # per table

# No line may contain a secret or a useful part of one.
SECRET_PARTS = [secret[start : start + 12] for secret in (PRIVATE_KEY, PRESHARED_KEY) for start in range(0, 33, 4)]

NASTY = [
    "\x1b[2J", "\x1b]0;title\x07", "\n", "\r", "\r\n", "\t", "\t\t", "\0", "\x85", "\x9b", "\u2028", "\u2029", "\u202e",
    "\u200f", "\ufeff", "\ud7ff", "wg0", "wg0\t", "(none)", "off", "-1", "0", "9" * 20, "9" * 5000, "1" * 19, "0x" + "f" * 9,
    "A" * 43 + "=", "/32", ",", "../../etc/passwd", "$(reboot)", "`id`", "%s%n", "' OR 1=1 --", "١٢٣", "é", "\U0001f600",
    "2023-10-27 10:00:00 ONLINE  [wg0] forged", "[ERROR] forged", "=" * 50, "." * 5000, "[2001:db8::1]:51820", "\x7f",
]  # fmt: skip


class Fuzzer:
    """Damages dumps, some a little and some beyond recognition."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def dump(self) -> bytes:
        links = self.chance.sample(("wg0", "wg1", "wg2"), self.chance.randrange(4))
        return "".join(dump(link, *self.peers()) for link in links).encode()

    def peers(self) -> Iterator[P]:
        for name in self.chance.sample(("alice", "bob", "carol", "dave"), self.chance.randrange(5)):
            chance = self.chance
            yield P(
                name,
                chance.choice((-START.wall, -500.0, -10.0, chance.randrange(1000), 1e7)),
                chance.randrange(10**6),
                chance.choice((0, chance.randrange(10**6), 2**63 - 1)),
                chance.choice(("192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1", "")),
                chance.choice(("", "10.0.0.1/32", "10.0.0.1/32,10.0.0.0/24", ",".join(["fd00::/64"] * 30))),
            )

    def damage(self, text: bytes) -> bytes:
        ways = [self.bit, self.insert, self.cut, self.field, self.line, self.splice, self.random]
        for _ in range(self.chance.choice((0, 1, 1, 1, 2, 5))):
            text = self.chance.choice(ways)(text)
        return text

    def somewhere(self, text: bytes) -> int:
        return self.chance.randrange(len(text) + 1)

    def nasty(self) -> bytes:
        return self.chance.choice(NASTY).encode("utf-8", "surrogatepass")

    def bit(self, text: bytes) -> bytes:
        i = self.somewhere(text)
        return text[:i] + bytes(byte ^ 1 << self.chance.randrange(8) for byte in text[i : i + 1]) + text[i + 1 :]

    def insert(self, text: bytes) -> bytes:
        i = self.somewhere(text)
        return text[:i] + self.nasty() + text[i:]

    def cut(self, text: bytes) -> bytes:
        i = self.somewhere(text)
        return text[:i] + text[i + self.chance.choice((1, 5, 50, 500)) :]

    def field(self, text: bytes) -> bytes:
        fields = text.split(b"\t")
        fields[self.chance.randrange(len(fields))] = self.nasty()
        return b"\t".join(fields)

    def line(self, text: bytes) -> bytes:
        lines = text.split(b"\n")
        i, j = self.chance.randrange(len(lines)), self.chance.randrange(len(lines))
        way = self.chance.randrange(4)
        if way == 0:
            lines[i], lines[j] = lines[j], lines[i]
        elif way == 1:
            lines.insert(i, lines[j])
        elif way == 2:
            lines.insert(i, self.nasty())
        else:
            del lines[i]
        return b"\n".join(lines)

    def splice(self, text: bytes) -> bytes:
        i, other = self.somewhere(text), self.dump()
        return text[:i] + other[self.somewhere(other) :]

    def random(self, text: bytes) -> bytes:
        i = self.somewhere(text)
        return text[:i] + bytes(self.chance.randrange(256) for _ in range(self.chance.randrange(100))) + text[i:]


def take(
    table: Table, memo: Memo, output: bytes, complaints: str, boot: float, settings: wg_monitor.Settings, size: int
) -> Tuple[Reading, List[wg_monitor.Fault], List[wg_monitor.Event]]:
    names = [identity[0] for identity in table.rows]
    before = plain(table)
    reading = wg_monitor.parse(blocks(output, size), complaints, memo, names, settings.interface)
    assert plain(table) == before, "parsing changed the table"
    faults = wg_monitor.faults_of(reading, table, settings)
    return reading, faults, wg_monitor.decide(table, reading, at(boot - START.boot), settings)


def check_lines(events: List[wg_monitor.Event], faults: List[wg_monitor.Fault], complaints: str) -> None:
    """Checks every text that a reading causes."""
    texts = [wg_monitor.event_text(event) for event in events]
    for fault in faults:
        texts += [fault.kind, fault.subject, fault.begins, fault.ends]
    texts.append(wg_monitor.printable(complaints))
    for text in texts:
        assert text.isprintable(), ascii(text)
        assert len(text) < 4000
        assert not any(part in text for part in SECRET_PARTS), text
    for seq, event in enumerate(events):
        text = wg_monitor.event_text(event)
        line = wg_monitor.render(seq, event, text, "text").decode()
        assert line[:-1].isprintable() and line.endswith("\n"), ascii(line)
        written = wg_monitor.render(seq, event, text, "json")
        assert written[:-1].isascii() if hasattr(written, "isascii") else True
        assert b"\n" not in written[:-1]
        assert json.loads(written)["event"] == event.kind
        for value in wg_monitor.hook_environment(Record(seq, event, written, HOOK_DUE)).values():
            assert value.isprintable(), ascii(value)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(SEEDS))
def test_damaged_dumps(seed: int) -> None:
    fuzzer = Fuzzer(seed)
    settings: Dict[int, Any] = {0: chosen(), 1: chosen(liveness="traffic"), 2: chosen(interface=frozenset(["wg0"]))}
    table, chosen_settings, text = Table(), settings[0], b""
    memo = Memo()
    for number in range(DUMPS // SEEDS):
        if number % READINGS == 0:
            table, memo, text = Table(), Memo(), fuzzer.dump()
            chosen_settings = settings[fuzzer.chance.randrange(3)]
        output = fuzzer.damage(fuzzer.dump() if fuzzer.chance.random() < 0.3 else text)
        if output and not output.endswith(b"\n"):
            output += b"\n"  # output that breaks off is rejected before it is parsed
        complaints = fuzzer.chance.choice(("", "", "", unreadable("wg2"), fuzzer.nasty().decode("utf-8", "replace")))
        boot = START.boot + number % READINGS * 30
        whole = copy.deepcopy(table)
        size = fuzzer.chance.choice((1, 300, 100_000))
        reading, faults, events = take(table, memo, output, complaints, boot, chosen_settings, size)
        check_lines(events, faults, complaints)
        held = repr((reading, faults, events, plain(memo), plain(table)))
        assert not any(part in held for part in SECRET_PARTS)
        take(whole, Memo(), output, complaints, boot, chosen_settings, 100_000)
        assert plain(table) == plain(whole), output


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(SEEDS))
def test_valid_peers_beside_garbage_are_found(seed: int) -> None:
    """Lines of garbage stand between the lines of three valid peers."""
    fuzzer = Fuzzer(seed)
    for _ in range(DUMPS // SEEDS // 4):
        good = [P(name, 5, 1, 2) for name in ("alice", "bob", "carol")]
        lines = dump("wg0", *good).encode().split(b"\n")[:-1]
        for _ in range(fuzzer.chance.randrange(1, 5)):
            garbage = (fuzzer.damage(fuzzer.chance.choice(lines)) + fuzzer.nasty()).replace(b"\n", b"")
            if wg_monitor.parse_peer(garbage) is None:  # a valid line could be that of a peer that is already there
                lines.insert(fuzzer.chance.randrange(1, len(lines) + 1), garbage)
        reading = wg_monitor.parse(blocks(b"\n".join(lines) + b"\n"), "", Memo(), (), frozenset())
        found = {peer.identity: (peer.handshake, peer.rx, peer.tx) for peer in whole_lines(reading)}
        for p in good:
            assert found["wg0", key(p.name)] == (START.wall + 5, 1, 2), lines
