"""Text from outside becomes printable, and numbers become readable."""

import errno
import random
import unicodedata
from typing import List, NamedTuple, Tuple

import pytest

import wg_monitor
from scale import characters, scaled
from values import PRESHARED_KEY, PRIVATE_KEY, ids, zone

pytestmark = pytest.mark.usefixtures("utc")

AUTUMN = 1_698_400_800  # 2023-10-27 10:00:00 UTC


class Text(NamedTuple):
    name: str
    given: str
    shown: str


LONG_PATH = "/var/lib/wg-monitor/a_directory/of/many/parts"

PRINTABLE = [
    Text("plain text stays", "wg0: no such device", "wg0: no such device"),
    Text("letters of other scripts stay", "Größe 大小", "Größe 大小"),
    Text("line ends and tabs become spaces", "a\nb\rc\td", "a b c d"),
    Text("the escape character of a sequence is replaced", "\x1b[31mred\x1b[0m", "?[31mred?[0m"),
    Text("eight-bit control characters are replaced", "a\x9b31m", "a?31m"),
    Text("NUL and DEL are replaced", "a\0b\x7f", "a?b?"),
    Text("line and paragraph separators of Unicode are replaced", "a\u2028b\u2029c\x85d", "a?b?c?d"),
    Text("bidirectional marks are replaced", "a\u202eb\u2066c\u200fd", "a?b?c?d"),
    Text("invisible characters are replaced", "a\u200bb\ufeffc\xadd", "a?b?c?d"),
    Text("halves of surrogate pairs are replaced", "a\ud800b\udcffc", "a?b?c"),
    Text("a private key is hidden", "key: " + PRIVATE_KEY, "key: (key)"),
    Text("a preshared key is hidden", PRESHARED_KEY + "!", "(key)!"),
    Text("a key in hexadecimal digits is hidden", "private_key=" + "0123456789abcdef" * 4, "private_key=(key)"),
    Text("a long path is not taken for a key", LONG_PATH, LONG_PATH),
    Text("long text is cut", "x y " * 100, "x y " * 49 + "x..."),
    Text("text of the maximum length is not cut", "ab " * 66 + "ab", "ab " * 66 + "ab"),
]


@pytest.mark.parametrize("case", PRINTABLE, ids=ids(PRINTABLE))
def test_printable(case: Text) -> None:
    assert wg_monitor.printable(case.given) == case.shown


def test_no_character_that_could_forge_a_line_is_printable() -> None:
    for number in characters():
        character = chr(number)
        shown = wg_monitor.printable(character)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert shown in "? " and len(shown) == 1, hex(number)
        assert len(shown.splitlines()) == 1


def test_the_maximum_length_is_a_parameter() -> None:
    assert wg_monitor.printable("abcdefghij", 8) == "abcde..."


def test_a_system_error_appears_in_the_systems_words() -> None:
    assert wg_monitor.reason_of(OSError(errno.ENOSPC, "No space left on device", "/x")) == "No space left on device"


def test_any_other_error_appears_as_printable_text() -> None:
    assert wg_monitor.reason_of(ValueError("bad\x1b" + PRIVATE_KEY)) == "bad?(key)"


def test_a_key_is_shortened_to_its_ends() -> None:
    assert wg_monitor.short_key("AbC1dEf2" + "x" * 27 + "4xYz567=") == "AbC1dEf2...4xYz567="


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m 0s"), (130, "2m 10s"), (3599, "59m 59s"), (3600, "1h 0m"),
        (11_100, "3h 5m"), (86_399, "23h 59m"), (86_400, "1d 0h"), (187_200, "2d 4h"), (31_536_000, "365d 0h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, shown: str) -> None:
    assert wg_monitor.duration(seconds) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 peers"), (1, "1 peer"), (2, "2 peers")])
def test_counted(number: int, shown: str) -> None:
    assert wg_monitor.counted(number, "peer") == shown


class Local(NamedTuple):
    name: str
    zone: str
    wall: float
    shown: str


TIMES = [
    Local("UTC", "UTC", AUTUMN, "2023-10-27T10:00:00+00:00"),
    Local("east, in summer", "Europe/Berlin", AUTUMN, "2023-10-27T12:00:00+02:00"),
    Local("east, in winter", "Europe/Berlin", AUTUMN + 604_800, "2023-11-03T11:00:00+01:00"),
    Local("west", "America/New_York", AUTUMN, "2023-10-27T06:00:00-04:00"),
    Local("half an hour west", "XXX3:30", AUTUMN, "2023-10-27T06:30:00-03:30"),
    Local("three quarters east", "XXX-5:45", AUTUMN, "2023-10-27T15:45:00+05:45"),
    Local("fractions of a second are cut", "UTC", AUTUMN + 0.999, "2023-10-27T10:00:00+00:00"),
    Local("the epoch", "UTC", 0, "1970-01-01T00:00:00+00:00"),
    Local("before the epoch", "UTC", -9e9, "1970-01-01T00:00:00+00:00"),
    Local("beyond the last year of four digits", "UTC", 9e18, "9999-12-30T23:59:59+00:00"),
]


@pytest.mark.parametrize("case", TIMES, ids=ids(TIMES))
def test_local_time(case: Local) -> None:
    with zone(case.zone):
        assert wg_monitor.rfc3339(case.wall) == case.shown
        assert wg_monitor.stamp(int(case.wall)) == case.shown[:19].replace("T", " ")
        assert wg_monitor.utc_offset(case.wall) == case.shown[19:]


class Shook(NamedTuple):
    name: str
    handshake: int
    date: str
    shown: str


HANDSHAKES = [
    Shook("never", 0, "2023-10-27", "Never"),
    Shook("on the line's own date", AUTUMN, "2023-10-27", "10:00:00"),
    Shook("the day before", AUTUMN - 36_001, "2023-10-27", "2023-10-26 23:59:59"),
    Shook("at midnight of the line's own date", AUTUMN - 36_000, "2023-10-27", "00:00:00"),
    Shook("a year before", AUTUMN - 31_536_000, "2023-10-27", "2022-10-27 10:00:00"),
    Shook("in the future", AUTUMN + 86_400, "2023-10-27", "2023-10-28 10:00:00"),
    Shook("the latest that is parsed", wg_monitor.EPOCH_MAX, "2023-10-27", "9999-12-30 23:59:59"),
]


@pytest.mark.parametrize("case", HANDSHAKES, ids=ids(HANDSHAKES))
def test_handshake(case: Shook) -> None:
    assert wg_monitor.handshake_text(case.handshake, case.date) == case.shown


def test_the_date_of_a_handshake_is_local() -> None:
    with zone("XXX-14"):
        assert wg_monitor.handshake_text(AUTUMN, "2023-10-28") == "00:00:00"


MANY = ["10.0.%d.%d/32" % (n // 256, n % 256) for n in range(3000)]
BARE = [ip[:-3] for ip in MANY]

IPS = [
    Text("none", "", "[IP: N/A]"),
    Text("one host", "10.0.0.1/32", "[IP: 10.0.0.1]"),
    Text("one IPv6 host", "fd00::1/128", "[IP: fd00::1]"),
    Text("two hosts", "10.0.0.1/32,fd00::1/128", "[IPs: 10.0.0.1, fd00::1]"),
    Text("a host beside networks is shown alone", "10.1.0.0/24,10.0.0.1/32,0.0.0.0/0", "[IP: 10.0.0.1]"),
    Text("hosts beside networks are shown alone", "10.0.0.1/32,10.1.0.0/24,10.0.0.2/32", "[IPs: 10.0.0.1, 10.0.0.2]"),
    Text("one network", "10.1.0.0/24", "[IPs: 10.1.0.0/24]"),
    Text("two networks", "10.1.0.0/24,fd00::/64", "[IPs: 10.1.0.0/24, fd00::/64]"),
    Text("everything", "0.0.0.0/0,::/0", "[IPs: 0.0.0.0/0, ::/0]"),
    Text("a network with the prefix length of an IPv4 host", "fd00::/32,fd00::1/128", "[IP: fd00::1]"),
    Text("sixteen hosts", ",".join(MANY[:16]), "[IPs: %s]" % ", ".join(BARE[:16])),
    Text("3,000 hosts are counted", ",".join(MANY), "[IPs: %s, 2984 more]" % ", ".join(BARE[:16])),
]


@pytest.mark.parametrize("case", IPS, ids=ids(IPS))
def test_allowed_ips(case: Text) -> None:
    assert wg_monitor.ips_text(case.given) == case.shown


def test_a_long_address_is_cut() -> None:
    shown = wg_monitor.ips_text("f" * 5000 + "/24")
    assert shown == "[IPs: %s]" % ("f" * 50)


CHANGES = [
    Text("10.0.0.2/32", "10.0.0.1/32", "[IP: 10.0.0.2] from [IP: 10.0.0.1]"),
    Text("", "10.0.0.1/32", "[IP: N/A] from [IP: 10.0.0.1]"),
    Text("10.0.0.1/32,10.1.0.0/24", "10.0.0.1/32", "[IPs: 10.1.0.0/24, 10.0.0.1] from [IP: 10.0.0.1]"),
    Text(
        "10.0.0.1/32,10.1.0.0/24",
        "10.0.0.1/32,10.2.0.0/24",
        "[IPs: 10.1.0.0/24, 10.0.0.1] from [IPs: 10.2.0.0/24, 10.0.0.1]",
    ),
    Text(
        ",".join(MANY[:20]),
        ",".join(MANY[:19] + ["10.9.9.9/32"]),
        "[IPs: 10.0.0.19, %s, 4 more] from [IPs: 10.9.9.9, %s, 4 more]" % ((", ".join(BARE[:15]),) * 2),
    ),
    Text("10.0.0.1/32,10.1.0.0/24", "10.0.0.2/32,10.1.0.0/24", "[IP: 10.0.0.1] from [IP: 10.0.0.2]"),
    Text("10.1.0.0/24", "10.0.0.1/32,10.1.0.0/24", "[IPs: 10.1.0.0/24] from [IP: 10.0.0.1]"),
    Text(
        "10.77.0.2/32,10.77.0.9/32,0.0.0.0/0",
        "10.77.0.2/32,10.20.0.0/16",
        "[IPs: 10.77.0.9, 0.0.0.0/0, 10.77.0.2] from [IPs: 10.20.0.0/16, 10.77.0.2]",
    ),
    Text("10.0.0.2/32,::/0", "10.0.0.1/32,10.1.0.0/24", "[IPs: 10.0.0.2, ::/0] from [IPs: 10.0.0.1, 10.1.0.0/24]"),
    Text("", "10.0.0.1/32,10.1.0.0/24", "[IP: N/A] from [IPs: 10.0.0.1, 10.1.0.0/24]"),
    Text(",".join(MANY[:20]), "", "[IPs: %s, 4 more] from [IP: N/A]" % ", ".join(BARE[:16])),
    Text(
        "10.0.0.1/32",
        "10.0.0.2/32," + ",".join("10.%d.0.0/16" % n for n in range(20)),
        "[IP: 10.0.0.1] from [IPs: 10.0.0.2, %s, 5 more]" % ", ".join("10.%d.0.0/16" % n for n in range(15)),
    ),
]


@pytest.mark.parametrize(
    ("after", "before", "shown"),
    CHANGES,
    ids=[
        "another host", "none left", "a network beside the host", "another network beside the host", "the last of many",
        "another host, and the networks are the same", "the host is gone and the network stays",
        "another host, and a network came too", "another host, and networks came and went", "a host and a network are gone",
        "every host of many, and none before", "many networks that a host hid",
    ],
)  # fmt: skip
def test_changed_allowed_ips(after: str, before: str, shown: str) -> None:
    assert wg_monitor.changed_ips_text(after, before) == shown


def shown_in(text: str) -> Tuple[List[str], int]:
    """What stands between the brackets, and how many more there are."""
    shown = text[text.index(": ") + 2 : -1].split(", ")
    more = int(shown.pop().split(" ")[0]) if shown[-1].endswith(" more") else 0
    return ([] if shown == ["N/A"] else shown), more


def test_every_address_and_network_that_came_or_went_is_shown() -> None:
    """In the short form if that shows them all, otherwise first in the long one, up to its bound."""
    chance, long_forms = random.Random(7), 0
    networks = ["10.%d.0.0/16" % n for n in range(8)] + ["fd00:%d::/32" % n for n in range(4)] + ["0.0.0.0/0", "::/0"]
    pool = [*MANY[:12], *("fd00::%d/128" % n for n in range(6)), *networks]
    for _ in range(scaled(20_000)):
        before = chance.sample(pool, chance.choice((0, 1, 2, 3, 5, len(pool))))
        after = [ip for ip in before if chance.random() < 0.7] + chance.sample(pool, chance.choice((0, 1, 2, 18)))
        after = chance.sample(list(dict.fromkeys(after)), len(set(after)))
        came = [wg_monitor.host_of(ip) or ip for ip in after if ip not in before]
        went = [wg_monitor.host_of(ip) or ip for ip in before if ip not in after]
        short = [wg_monitor.ips_text(",".join(ips)) for ips in (after, before)]
        told = wg_monitor.changed_ips_text(",".join(after), ",".join(before)).split(" from ")
        if short[0] != short[1] and all(set(d) <= set(shown_in(text)[0]) for d, text in zip((came, went), short)):
            assert told == short
            continue
        long_forms += 1
        for ips, difference, text in zip((after, before), (came, went), told):
            shown, more = shown_in(text)
            assert len(shown) == min(len(ips), 16) and len(shown) + more == len(ips)
            assert shown[: len(difference)] == difference[:16]
            assert set(shown) <= {wg_monitor.host_of(ip) or ip for ip in ips}
    assert long_forms > scaled(20_000) // 10
