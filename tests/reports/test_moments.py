"""Moments as people write them, in local time and in other zones, around clock changes and around mistakes."""

import sys
import time
from typing import Tuple

import pytest

import wg_report
from values import zone
from wg_monitor import Refusal, rfc3339, stamp
from wg_report import Zone, parse_moment

NOW = 1_793_622_896.5  # Monday, 2026-11-02 12:34:56.5 UTC
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"

CASES = [
    # (text, what it means as a beginning, what it means as an end), in UTC
    ("now", "2026-11-02 12:34:56", "2026-11-02 12:34:56"),
    ("30s", "2026-11-02 12:34:26", "2026-11-02 12:34:26"),
    ("90m", "2026-11-02 11:04:56", "2026-11-02 11:04:56"),
    ("2h", "2026-11-02 10:34:56", "2026-11-02 10:34:56"),
    ("7d", "2026-10-26 12:34:56", "2026-10-26 12:34:56"),
    ("1w", "2026-10-26 12:34:56", "2026-10-26 12:34:56"),
    ("1d12h", "2026-11-01 00:34:56", "2026-11-01 00:34:56"),
    ("2h 14m ago", "2026-11-02 10:20:56", "2026-11-02 10:20:56"),
    ("999999999w", "1970-01-01 00:00:00", "1970-01-01 00:00:00"),
    ("today", "2026-11-02 00:00:00", "2026-11-03 00:00:00"),
    ("yesterday", "2026-11-01 00:00:00", "2026-11-02 00:00:00"),
    ("yesterday 22:00", "2026-11-01 22:00:00", "2026-11-01 22:00:00"),
    ("today 22:00", "2026-11-02 22:00:00", "2026-11-02 22:00:00"),
    ("9:05", "2026-11-02 09:05:00", "2026-11-02 09:05:00"),
    ("12:34:56", "2026-11-02 12:34:56", "2026-11-02 12:34:56"),
    ("monday", "2026-11-02 00:00:00", "2026-11-03 00:00:00"),
    ("Tue", "2026-10-27 00:00:00", "2026-10-28 00:00:00"),
    ("sunday 14:00", "2026-11-01 14:00:00", "2026-11-01 14:00:00"),
    ("2026-11-01", "2026-11-01 00:00:00", "2026-11-02 00:00:00"),
    ("2028-02-29", "2028-02-29 00:00:00", "2028-03-01 00:00:00"),
    ("2026-11", "2026-11-01 00:00:00", "2026-12-01 00:00:00"),
    ("2025-12", "2025-12-01 00:00:00", "2026-01-01 00:00:00"),
    ("1970-01-01", "1970-01-01 00:00:00", "1970-01-02 00:00:00"),
    (" 2026-11-01  14:00 ", "2026-11-01 14:00:00", "2026-11-01 14:00:00"),
    ("2026-11-01 14:00:30", "2026-11-01 14:00:30", "2026-11-01 14:00:30"),
    ("2026-11-01T14:00", "2026-11-01 14:00:00", "2026-11-01 14:00:00"),
    ("2026-11-01T14:00:30Z", "2026-11-01 14:00:30", "2026-11-01 14:00:30"),
    ("2026-11-01t14:00:30.25z", "2026-11-01 14:00:30", "2026-11-01 14:00:30"),
    ("2026-11-01T14:00:30+01:00", "2026-11-01 13:00:30", "2026-11-01 13:00:30"),
    ("2026-11-01 14:00-0330", "2026-11-01 17:30:00", "2026-11-01 17:30:00"),
    ("@1793538000", "2026-11-01 13:00:00", "2026-11-01 13:00:00"),
    ("@0", "1970-01-01 00:00:00", "1970-01-01 00:00:00"),
    ("@999999999999", "9999-12-31 23:59:59", "9999-12-31 23:59:59"),
]


def utc(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(wall))


@pytest.mark.parametrize("text, begins, ends", CASES, ids=[case[0] for case in CASES])
def test_a_moment_has_a_beginning_and_an_end(text: str, begins: str, ends: str) -> None:
    with zone("UTC"):
        found = [parse_moment(text, NOW, Zone(), end) for end in (False, True)]
    assert [(utc(wall), note) for wall, note in found] == [(begins, ""), (ends, "")]


def test_fractions_of_a_second_count() -> None:
    with zone("UTC"):
        assert parse_moment("2026-11-01T14:00:30.25Z", NOW, Zone())[0] % 1 == 0.25
        assert parse_moment("now", NOW, Zone())[0] == NOW
        assert parse_moment("@1793538000.5", NOW, Zone())[0] == 1_793_538_000.5


@pytest.mark.parametrize(
    "text",
    ["", " ", "soon", "7", "7y", "-7d", "7 d", "d", "@", "@-1", "2026", "2026-13-01", "2026-11-31", "2026-1-1", "20261101",
     "2026-11 14:00", "25:00", "14:60", "14:00:60", "14", "14:00Z", "2026-11-01Z", "2026-11-01 Z", "2026-11-01 14:00+24:00",
     "0001-01-01", "1969-12-31", "9999-12-31", "last tuesday", "tues", "tomorrow", "٣d", "２026-11-01",
     "7d\n14:00\x00", "now 14:00", "2026-11-01 14:00 Europe/Berlin", "1" * 400 + "d", "@" + "9" * 400],
)  # fmt: skip
def test_a_text_that_is_no_time_is_refused_with_what_is_allowed(text: str) -> None:
    with zone("UTC"), pytest.raises(Refusal) as refused:
        parse_moment(text, NOW, Zone())
    message = str(refused.value)
    assert "it is no time" in message and "2026-11-01T14:00:00+01:00" in message
    assert message.isprintable() and refused.value.code == 2


def test_a_time_of_day_later_than_now_is_refused_as_a_beginning_and_allowed_as_an_end() -> None:
    with zone("UTC"):
        with pytest.raises(Refusal) as refused:
            parse_moment("22:00", NOW, Zone())
        assert "write 'yesterday 22:00'" in str(refused.value)
        assert utc(parse_moment("22:00", NOW, Zone(), True)[0]) == "2026-11-02 22:00:00"


def moment(text: str, name: str, end: bool = False) -> Tuple[str, str]:
    with zone(name):
        wall, note = parse_moment(text, NOW, Zone(), end)
        return rfc3339(wall), note


def test_local_time_is_the_machines() -> None:
    assert moment("2026-11-01 14:00", BERLIN) == ("2026-11-01T14:00:00+01:00", "")
    assert moment("today", "<+1345>-13:45") == ("2026-11-03T00:00:00+13:45", "")
    assert moment("7d", BERLIN) == ("2026-10-26T13:34:56+01:00", "")  # days of 24 hours


def test_a_day_with_a_clock_change_has_23_or_25_hours() -> None:
    assert moment("2026-03-29", BERLIN) == ("2026-03-29T00:00:00+01:00", "")
    assert moment("2026-03-29", BERLIN, True) == ("2026-03-30T00:00:00+02:00", "")
    assert moment("2026-10-25", BERLIN, True) == ("2026-10-26T00:00:00+01:00", "")


def test_a_time_that_does_not_exist_is_read_as_if_the_clock_had_not_changed() -> None:
    for end in (False, True):
        text, note = moment("2026-03-29 02:30", BERLIN, end)
        assert text == "2026-03-29T03:30:00+02:00"
        assert note == (
            "2026-03-29 02:30:00 does not exist, since the clock was set forward: it is read as 2026-03-29 03:30:00."
        )


def test_a_time_that_exists_twice_begins_with_the_first_and_ends_with_the_second() -> None:
    first, second = "2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"
    note = "2026-10-25 02:30:00 exists twice, since the clock was set back: it is read as %s, not as %s."
    assert moment("2026-10-25 02:30", BERLIN) == (first, note % (first, second))
    assert moment("2026-10-25 02:30", BERLIN, True) == (second, note % (second, first))
    assert moment(second, BERLIN) == (second, "")


def test_a_day_whose_midnight_does_not_exist_begins_when_the_clock_was_set_forward() -> None:
    cuba = "CST5CDT,M3.2.0/0,M11.1.0/1"
    assert moment("2026-03-08", cuba) == ("2026-03-08T01:00:00-04:00", "")
    assert moment("2026-03-07", cuba, True) == ("2026-03-08T01:00:00-04:00", "")
    assert moment("2026-11-01", cuba) == ("2026-11-01T00:00:00-04:00", "")  # the first of two


def test_texts_are_those_of_the_trail() -> None:
    with zone(BERLIN):
        for wall in (0.0, 0.9, 1_793_538_000.75, NOW, 1_774_747_800.0, 253_402_300_799.0):
            assert (Zone().stamp(wall), Zone().rfc3339(wall)) == (stamp(int(wall)), rfc3339(wall))
        assert Zone().stamp(-5.0) == "1970-01-01 01:00:00"
        assert Zone().stamp(float("inf")) == Zone().stamp(253_402_300_799.0)


@pytest.mark.once  # needs Python 3.9
def test_another_zone_is_read_and_written() -> None:
    with zone("UTC"):
        tokyo = Zone("Asia/Tokyo")
        wall, note = parse_moment("2026-11-01 14:00", NOW, tokyo)
        assert (utc(wall), note) == ("2026-11-01 05:00:00", "")
        assert (tokyo.stamp(wall), tokyo.rfc3339(wall)) == ("2026-11-01 14:00:00", "2026-11-01T14:00:00+09:00")
        assert utc(parse_moment("today", NOW, tokyo)[0]) == "2026-11-01 15:00:00"


@pytest.mark.once  # needs Python 3.9
def test_clock_changes_of_another_zone_are_its_own() -> None:
    with zone("UTC"):
        berlin = Zone("Europe/Berlin")
        wall, note = parse_moment("2026-03-29 02:30", NOW, berlin)
        assert (berlin.rfc3339(wall), "does not exist" in note) == ("2026-03-29T03:30:00+02:00", True)
        wall, note = parse_moment("2026-10-25 02:30", NOW, berlin, True)
        assert (berlin.rfc3339(wall), "exists twice" in note) == ("2026-10-25T02:30:00+01:00", True)
        assert parse_moment("2011-12-30", NOW, Zone("Pacific/Apia"))[0] == (
            parse_moment("2011-12-31", NOW, Zone("Pacific/Apia"))[0]
        )


@pytest.mark.once  # needs Python 3.9
@pytest.mark.parametrize(
    "name", ["Mars/Base", "Europe", "../etc/passwd", "/etc/passwd", "Europe/Berlin\n", "\0", "é", "x" * 5000]
)
def test_a_zone_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        Zone(name)
    assert "knows no such zone" in str(refused.value) and "Europe/Berlin" in str(refused.value)
    assert str(refused.value).isprintable()


def test_another_zone_needs_a_newer_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.7 and 3.8 have no such module. None in its place has the same effect."""
    monkeypatch.setitem(sys.modules, "zoneinfo", None)
    with pytest.raises(Refusal) as refused:
        Zone("Europe/Berlin")
    assert str(refused.value) == "--timezone Europe/Berlin: needs Python 3.9 or newer; set TZ=Europe/Berlin instead"


def test_every_example_of_the_message_is_a_moment() -> None:
    examples = wg_report.MOMENTS.partition(": ")[2].split(", ")
    assert len(examples) == 12
    with zone("UTC"):
        for text in examples:
            parse_moment(text, NOW + 7200, Zone())
