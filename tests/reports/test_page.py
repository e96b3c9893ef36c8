"""What the page of `wg-monitor sessions --format html` says and draws."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

import wg_report
from company import DAY, END, HOUR, company
from pages import Element, history, page_of, parsed, session
from reports import report, run
from values import key, zone
from wg_monitor import Refusal
from wg_report import ONLINE, TEXTS, UNKNOWN, Gap, Period, Zone

pytestmark = pytest.mark.usefixtures("utc")


def bars(page: Element) -> List[Element]:
    """The bars of the timeline."""
    return [bar for row in page.one("div", id="time").all("svg", kind="r") for bar in row.all("g")]


def facts(bar: Element) -> List[str]:
    return bar.one("text").text.split(" · ")


def place(bar: Element) -> Tuple[float, float]:
    """Where a bar begins and how long it is, in percent of the period."""
    box = bar.one("rect").attributes
    return float(box["x"].rstrip("%")), float(box["width"].rstrip("%"))


def mark(bar: Element) -> str:
    return "".join(use.attributes["href"] for use in bar.all("use"))


def scale(page: Element) -> List[str]:
    return [label.text for label in page.one("svg", kind="scale").all("text")]


def data(page: Element) -> Dict[str, Any]:
    return json.loads(page.one("script", id="data").own)  # type: ignore[no-any-return]


def numbers(page: Element) -> Dict[str, str]:
    return {pair.one("dt").text: pair.one("dd").text for pair in page.one("dl").all("div")}


# --- A file that may be mailed ------------------------------------------------------------------------------------


def test_nothing_but_its_own_style_and_script_may_run() -> None:
    text = page_of(company())
    page = parsed(text)
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    rules = dict(rule.split(None, 1) for rule in re.split(r";\s+", policy))

    def hashed(content: str) -> str:
        return "'sha256-%s'" % base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    (script,) = [element for element in page.all("script") if "type" not in element.attributes]
    assert rules == {
        "default-src": "'none'",
        "style-src": hashed(page.one("style").own),
        "script-src": hashed(script.own),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not re.findall(r"\s(?:style|on[a-z]+|src|srcset|action)=", text.replace(script.own, ""))
    assert {link[:1] for link in re.findall(r'href="?([^\s">]*)', text)} == {"#"}
    assert "url(" not in page.one("style").own.replace("url(#hatch)", "")


HOSTILE = (
    "<script>hacked=1</script>",
    "</script><script>hacked=1</script>",
    "</title></style><img src=x onerror=hacked=1>",
    "\"'><svg onload=hacked=1>",
    "&lt;b&gt; &amp;",
    "<!-- --><![CDATA[",
    "\u202egnp.exe",
    "全" * 64,
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_adds_no_element(text: str) -> None:
    def made(words: str) -> Element:
        one = session("ann", 9000, 5000, name=words, endpoints=(words, words + ":²"), interface=words, gateway=words)
        one = one._replace(peer=words + "...", allowed_ips=words)
        gap = Gap(words, None, END - 900, END - 800, words)
        found = history(one, one._replace(reason=words, start=END - 300), gateway=words, gaps=[gap])
        return parsed(page_of(found._replace(path="/tmp/" + words), notes=[words]))

    def outline(element: Element) -> List[Any]:
        return [element.name, sorted(element.attributes), [outline(child) for child in element.children]]

    page, plain = made(text), made("plain")
    assert outline(page) == outline(plain)
    shown = text.replace("\u202e", "?")
    assert page.one("div", kind="name").one("bdi").text == shown
    assert shown in facts(bars(page)[0])[2]
    assert shown in data(page)["hosts"]


def test_the_parts_come_one_after_the_other() -> None:
    source = company(40, 30)
    pieces = list(wg_report.page(source.sessions(Period()), [source], Period(), END, Zone()))
    assert max(map(len, pieces)) < sum(map(len, pieces)) / 10


# --- The timeline -------------------------------------------------------------------------------------------------


def test_a_bar_lies_where_the_peer_was_connected() -> None:
    page = parsed(page_of(history(session("ann", 18 * HOUR, 12 * HOUR), session("ann", 6 * HOUR, 5 * HOUR))))
    assert [place(bar) for bar in bars(page)] == [(25.0, 25.0), (75.0, 4.17)]
    assert facts(bars(page)[0]) == [
        "2026-11-22 20:00:00 – 2026-11-23 02:00:00",
        "6h 0m",
        "192.0.2.1:51820",
        "received 2.0 KiB, sent 1.0 KiB",
        "fell silent",
    ]


def test_a_bar_ends_at_the_edges_of_the_period() -> None:
    source = history(session("ann", 18 * HOUR, 6 * HOUR))
    page = parsed(page_of(source, since=END - 12 * HOUR, until=END - 8 * HOUR))
    (bar,) = bars(page)
    assert place(bar) == (0.0, 100.0) and mark(bar) == ""
    assert facts(bar)[:2] == ["2026-11-22 20:00:00 – 2026-11-23 08:00:00", "12h 0m"]


@pytest.mark.parametrize("reason", ["idle", "unreachable", "interface-down", "removed", "reset", "unknown", ""])
def test_how_a_session_ended_is_a_mark_and_a_word(reason: str) -> None:
    page = parsed(page_of(history(session("ann", 18 * HOUR, 6 * HOUR, reason))))
    (bar,) = bars(page)
    assert "class" not in bar.attributes
    assert mark(bar) == ("" if reason in ("idle", "") else "#" + reason)
    if mark(bar):
        assert use_of(bar) == 75.0
        assert facts(bar)[-1] in page.one("ul", id="legend").text
        assert page.all("path", id=reason) + page.all("circle", id=reason)


def use_of(bar: Element) -> float:
    return float(bar.one("use").attributes["x"].rstrip("%"))


def test_marks_differ_in_shape_and_in_colour() -> None:
    page = parsed(page_of(history()))
    shapes = [shape.attributes for shape in page.all("path") + page.all("circle")]
    assert {shape["id"] for shape in shapes} == set(wg_report.MARKED)
    assert len({shape.get("d", "circle") for shape in shapes}) == len(shapes)


def test_a_session_that_goes_on_has_a_colour_of_its_own() -> None:
    going = session("ann", 6 * HOUR, 0, "", state=ONLINE)
    page = parsed(page_of(history(going, session("bob", 3 * HOUR, HOUR, "", state=UNKNOWN))))
    first, second = bars(page)
    assert (first.attributes["class"], facts(first)[-1], mark(first)) == ("o", "still connected", "")
    assert ("class" in second.attributes, facts(second)[-1], mark(second)) == (False, "end unknown", "#unknown")
    assert [name.all("i") != [] for name in page.all("div", kind="name")] == [True, False]
    assert numbers(page)["online now"] == "1"
    assert "online now" in scale(page)


def test_several_endpoints_and_time_not_watched_are_told() -> None:
    one = session("ann", 18 * HOUR, 6 * HOUR, endpoints=("a:1", "b:2", "c:3"), unwatched=600.0, received=None, sent=None)
    page = parsed(page_of(history(one)))
    assert facts(bars(page)[0])[1:] == ["12h 0m", "c:3 and 2 more", "a part of it not watched", "fell silent"]


def test_rows_are_sorted_by_name_and_have_the_key() -> None:
    one, two = session("zoe", 300, 200), session("Ann", 200, 100)
    nameless = session("bob", 100, 50, name="")
    same = session("eve", 90, 40, name="Ann")
    trail = session("", 80, 30, name="", peer="AbC1dEf2...4xYz5678")
    names = parsed(page_of(history(one, two, nameless, same, trail))).all("div", kind="name")
    assert [name.text for name in names] == [
        "Ann Ann/////", "Ann eve/////", "zoe", "AbC1dEf2...4xYz5678", "bob/////...///////=",
    ]  # fmt: skip
    assert [name.attributes["title"].split("\n")[1] for name in names] == [
        key("Ann"), key("eve"), key("zoe"), "AbC1dEf2...4xYz5678", key("bob"),
    ]  # fmt: skip


def test_each_interface_of_each_gateway_has_its_own_rows_and_gaps() -> None:
    fra = history(session("ann", 300, 200, gateway="fra"), gateway="fra", gaps=[Gap("fra", None, END - 7200, END - 3600, "late")])
    gaps = [Gap("ber", "wg1", END - 20 * HOUR, END - 14 * HOUR, "unreadable")]
    two = [session("ann", 400, 100, gateway="ber", interface=name) for name in ("wg0", "wg1")]
    page = parsed(page_of(fra, history(*two, gateway="ber", gaps=gaps, hours=48), since=END - 24 * HOUR))
    time = page.one("div", id="time")
    assert [head.text for head in time.all("h2")] == ["wg0 on ber", "wg1 on ber", "wg0 on fra"]
    drawn = [(band.attributes["x"], band.attributes["width"]) for band in time.all("rect", kind="gap")]
    assert drawn == [("16.67%", "25.00%"), ("91.67%", "4.17%")]
    assert [len(part.all("rect", kind="gap")) for part in time.all("section")] == [0, 1, 1]
    found = [gap[0][:2] for gap in data(page)["gaps"] if gap]
    assert found == [[END - 20 * HOUR, END - 14 * HOUR], [END - 7200, END - 3600]]


def test_time_before_and_after_the_record_is_not_watched() -> None:
    page = parsed(page_of(history(session("ann", 300, 200), hours=6), since=END - 12 * HOUR, now=END + 12 * HOUR))
    bands = page.all("rect", kind="gap")
    titles = [band.one("title").text for band in bands if band.all("title")]
    assert titles == [
        "not watched · 2026-11-23 02:00:00 – 08:00:00 · nothing was recorded yet",
        "not watched · 2026-11-23 14:00:00 – 2026-11-24 02:00:00 · after the last reading",
    ]
    assert numbers(page)["time watched"] == "25 %"


def test_a_short_gap_can_be_seen_and_is_listed() -> None:
    gaps = [Gap("", None, END - 7200, END - 7190, "late"), Gap("", None, END - 3600, END - 3590, "odd")]
    page = parsed(page_of(history(session("ann", 9000, 300), gaps=gaps)))
    bands = page.one("div", id="time").all("rect", kind="gap")
    said = ["not watched · 2026-11-23 12:00:00 – 12:00:10 · wg was slow", "not watched · 2026-11-23 13:00:00 – 13:00:10"]
    assert [(band.attributes["width"], band.one("title").text) for band in bands] == [("0.15%", words) for words in said]
    rows = [row.all("td")[0].text.strip() for row in page.one("details").all("tr") if "not watched" in row.text]
    assert rows == said[::-1]


# --- The scale ----------------------------------------------------------------------------------------------------

SCALES = [
    (7 / 60, "Mon 23 14:55"),
    (1, "14:00 14:05 14:10 14:15 14:20 14:25 14:30 14:35 14:40 14:45 14:50 14:55"),
    (5, "10:00 10:30 11:00 11:30 12:00 12:30 13:00 13:30 14:00 14:30"),
    (24, "16:00 18:00 20:00 22:00 Mon 23 02:00 04:00 06:00 08:00 10:00 12:00 14:00"),
    (72, "18:00 Sat 21 06:00 12:00 18:00 Sun 22 06:00 12:00 18:00 Mon 23 06:00 12:00"),
    (7 * 24, "Mon 16 Tue 17 12:00 Wed 18 12:00 Thu 19 12:00 Fri 20 12:00 Sat 21 12:00 Sun 22 12:00 Mon 23"),
    (14 * 24, "Tue 10 Wed 11 Thu 12 Fri 13 Sat 14 Sun 15 Mon 16 Tue 17 Wed 18 Thu 19 Fri 20 Sat 21 Sun 22 Mon 23"),
    (30 * 24, "26 Oct 2 Nov 9 Nov 16 Nov"),
    (90 * 24, "31 Aug 7 Sep 14 Sep 21 Sep 28 Sep 5 Oct 12 Oct 19 Oct 26 Oct 2 Nov 9 Nov 16 Nov"),
    (365 * 24, "Dec Jan 2026 Feb Mar Apr May Jun Jul Aug Sep Oct Nov"),
    (3 * 365 * 24, "Jan 2024 Apr Jul Oct Jan 2025 Apr Jul Oct Jan 2026 Apr Jul Oct"),
    (100 * 365 * 24, None),
]


@pytest.mark.parametrize(("hours", "labels"), SCALES)
def test_the_scale_fits_the_period(hours: float, labels: str) -> None:
    with zone("Europe/Berlin"):
        page = parsed(page_of(history(session("ann", 300, 200)), since=max(0.0, END - hours * HOUR)))
    said = [text for text in scale(page) if not text.startswith("UTC")]
    assert len(said) <= 16
    if labels is not None:
        assert " ".join(said) == labels


def test_the_legend_explains_what_is_drawn() -> None:
    one = session("ann", 5 * HOUR, HOUR, reason="removed")
    assert "removed" in parsed(page_of(history(one))).one("ul", id="legend").text
    assert "removed" not in parsed(page_of(history(one), until=END - 4.5 * HOUR)).one("ul", id="legend").text


def test_time_after_the_last_reading_is_not_watched_if_the_next_one_does_not_come(store: Path) -> None:
    late = " · after the last reading"
    assert late not in report("sessions", "--store", str(store), "--format", "html", now=220).out
    assert late in report("sessions", "--store", str(store), "--format", "html", now=300).out


def test_lines_stand_at_local_midnights() -> None:
    with zone("Asia/Kolkata"):
        page = parsed(page_of(history(session("ann", 300, 200)), since=END - 10 * DAY))
    back = page.one("svg", kind="back")
    # END is 19:30 in India.
    assert [line.attributes["x1"] for line in back.all("line")][-1] == "%.2f%%" % (100 - 19.5 / 24 * 10)
    weekends = back.all("rect", kind="w")
    assert [(w.attributes["x"], w.attributes["width"]) for w in weekends] == [
        ("1.88%", "10.00%"), ("11.88%", "10.00%"), ("71.88%", "10.00%"), ("81.88%", "10.00%"),
    ]  # fmt: skip


CHANGES = [  # the beginning of the day, its hours as the clock shows them
    (1_774_738_800.0, 23, "00:00 02:00 04:00 06:00 08:00 10:00 12:00 14:00 16:00 18:00 20:00 22:00", "UTC+02:00"),
    (1_792_879_200.0, 25, "00:00 02:00 02:00 04:00 06:00 08:00 10:00 12:00 14:00 16:00 18:00 20:00 22:00", "UTC+01:00"),
]


@pytest.mark.parametrize(("begin", "hours", "labels", "offset"), CHANGES)
def test_a_clock_change_is_shown(begin: float, hours: int, labels: str, offset: str) -> None:
    with zone("Europe/Berlin"):
        end = begin + hours * HOUR
        source = history(session("ann", END - begin - 4 * HOUR, END - begin - 5 * HOUR))
        page = parsed(page_of(source, since=begin, until=end))
        said = scale(page)
    wanted = labels.split(" ")
    if hours == 23:
        wanted.remove("02:00")  # the clock skips it
    day = wanted[0]
    assert day == "00:00" and said[0] in ("Sun 29", "Sun 25")
    assert [label for label in said[1:] if not label.startswith("UTC")][: len(wanted) - 1] == wanted[1:]
    assert offset in said
    (line,) = page.one("svg", kind="back").all("line", kind="c")
    assert line.attributes["x1"] == "%.2f%%" % (100 / hours * (2 if hours == 23 else 3))
    found = data(page)
    assert found["offsets"][1][0] == begin + (2 if hours == 23 else 3) * HOUR
    assert [b - a for a, b in zip(found["days"], found["days"][1:])][0] == hours * HOUR


# --- Limits, which the page states --------------------------------------------------------------------------------


def test_bars_that_are_narrower_than_a_pixel_are_merged_into_one_that_says_so() -> None:
    pixel = 24 * HOUR / wg_report.PIXELS
    short = [session("ann", 12 * HOUR - n * 20, 12 * HOUR - n * 20 - 10, reason) for n, reason in enumerate(
        ["idle", "unreachable", "idle"])]  # fmt: skip
    wide = session("ann", 6 * HOUR, 6 * HOUR - 2 * pixel)
    page = parsed(page_of(history(*short, wide)))
    merged, alone = bars(page)
    assert facts(merged) == [
        "2026-11-23 02:00 – 02:00",
        "connected for 30s",
        "3 sessions",
        "received 6.0 KiB, sent 3.0 KiB",
        "2 × fell silent, 1 × ended unreachable",
    ]
    assert merged.attributes["class"] == "m3" and mark(merged) == ""
    assert facts(alone)[2] == "192.0.2.1:51820"
    assert "Sessions of a peer that are shorter than 1m 26s" in page.one("footer").text
    assert "3 sessions" not in page.one("details").text and len(page.one("details").all("tr")) == 5


def test_a_bar_of_another_peer_or_of_a_session_that_goes_on_is_never_merged() -> None:
    going = session("ann", 10, 0, "", state=ONLINE)
    page = parsed(page_of(history(session("ann", 40, 30), session("bob", 35, 25), going)))
    assert [facts(bar)[1] for bar in bars(page)] == ["10s", "10s", "10s"]
    assert "shorter" not in page.one("footer").text


@pytest.mark.once
def test_no_session_is_lost_in_a_large_page() -> None:
    source = company(300, 365, pace=0.25, most=50_000)
    text = page_of(source)
    page = parsed(text)
    assert len(text.encode()) <= 6_000_000
    drawn = bars(page)
    assert len(drawn) <= wg_report.BARS_MAX
    held = [re.match("[0-9]+(?= sessions)", facts(bar)[2]) for bar in drawn]
    assert sum(int(one.group()) if one else 1 for one in held) == 50_000
    assert sum(len(row.split(" ")) for row in data(page)["rows"]) == 50_000
    assert "shorter than 7d 0h" in page.one("footer").text
    details = page.one("details")
    assert len([row for row in details.all("tr") if len(row.all("td")) == 7]) == wg_report.LISTED_MAX
    assert "the newest 5,000 of 50,000." in details.one("summary").text
    assert "--format csv" in details.one("summary").text


def test_only_the_newest_sessions_can_be_zoomed_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wg_report, "ZOOMED_MAX", 2)
    page = parsed(page_of(history(*(session("ann", n * HOUR, n * HOUR - 1800) for n in (5, 4, 3)))))
    assert len(data(page)["rows"][0].split(" ")) == 2
    assert "only the newest 2 sessions" in page.one("footer").text


def test_nobody_was_connected() -> None:
    page = parsed(page_of(history(), since=END - DAY))
    assert "Nobody was connected in this period." in page.one("div", id="time").text
    assert numbers(page)["sessions"] == "0"


# --- Numbers and tables -------------------------------------------------------------------------------------------


def test_the_numbers_on_top() -> None:
    gap = Gap("", None, END - 8 * HOUR, END - 2 * HOUR, "stopped")
    two = [session("ann", 18 * HOUR, 12 * HOUR), session("bob", 6 * HOUR, 0, "", state=ONLINE, received=3 << 30)]
    page = parsed(page_of(history(*two, gaps=[gap])))
    assert numbers(page) == {
        "peers seen": "2", "online now": "1", "sessions": "2", "hours online": "12", "received": "3.0 GiB",
        "sent": "2.0 KiB", "time watched": "75 %",
    }  # fmt: skip


def test_the_peers_are_listed_by_the_time_that_they_were_online() -> None:
    source = history(session("ann", 3 * HOUR, 2 * HOUR), session("bob", 18 * HOUR, 12 * HOUR), session("bob", 6 * HOUR, 5 * HOUR))
    table = parsed(page_of(source)).all("table")[0]
    rows = [[cell.text.strip() for cell in row.all("td")] for row in table.all("tr")[1:]]
    assert rows == [
        ["2", "7h 0m", "29 %", "6h 0m", "4.0 KiB", "2.0 KiB", "2026-11-23 09:00"],
        ["1", "1h 0m", "4 %", "1h 0m", "2.0 KiB", "1.0 KiB", "2026-11-23 12:00"],
    ]
    assert [cell.attributes["data-v"] for cell in table.all("tr")[1].all("td")][:2] == ["2", "25200"]
    (sorted_by,) = [head for head in table.all("th") if "aria-sort" in head.attributes]
    assert (sorted_by.text.strip(), sorted_by.attributes["aria-sort"]) == ("online", "descending")


def test_the_sessions_and_the_times_that_nobody_watched_are_listed_the_newest_first() -> None:
    gaps = [Gap("", None, END - 4 * HOUR, END - 3 * HOUR, "stopped"), Gap("", None, END - 20 * HOUR, END - 19 * HOUR, "late")]
    going = session("bob", HOUR, 0, "", state=ONLINE, received=None)
    source = history(session("ann", 6 * HOUR, 2 * HOUR, unwatched=HOUR), going, gaps=gaps)
    rows = parsed(page_of(source)).one("details").all("tr")[1:]
    assert [[cell.text.strip() for cell in row.children] for row in rows] == [
        ["bob", "2026-11-23 13:00:00", "–", "1h 0m", "192.0.2.1:51820", "", "1.0 KiB", "still connected"],
        ["wg0", "not watched · 2026-11-23 10:00:00 – 11:00:00 · the monitor was stopped"],
        ["ann", "2026-11-23 08:00:00", "2026-11-23 12:00:00", "4h 0m", "192.0.2.1:51820", "2.0 KiB", "1.0 KiB",
         "fell silent · a part of it not watched"],
        ["wg0", "not watched · 2026-11-22 18:00:00 – 19:00:00 · wg was slow"],
    ]  # fmt: skip


def test_bytes_that_may_not_belong_to_the_period_are_marked() -> None:
    source = history(session("ann", 18 * HOUR, 6 * HOUR), session("bob", 5 * HOUR, 4 * HOUR))
    page = parsed(page_of(source, since=END - 12 * HOUR))
    rows = page.all("table")[0].all("tr")[1:]
    assert [row.all("td")[4].text for row in rows] == ["2.0 KiB*", "2.0 KiB"]
    assert page.one("p", kind="note").text.startswith("* Some of these bytes")


def test_the_page_says_what_it_was_made_from() -> None:
    words = parsed(page_of(history(session("ann", 300, 200)), notes=["14:00 exists twice."])).one("footer").text
    assert "14:00 exists twice." in words
    assert "from /var/lib/wg-monitor/state.db on 23 November 2026, 14:00." in words


# --- Words and colours --------------------------------------------------------------------------------------------


def entries() -> List[Tuple[str, str, str]]:
    found = []
    for entry in re.split("\n|; ", TEXTS.strip()):
        name, _, said = entry.partition(" = ")
        english, chinese = said.split(" | ")
        found.append((name, english, chinese))
    return found


def test_every_text_is_in_both_languages() -> None:
    names = [name for name, _, _ in entries()]
    assert len(set(names)) == len(names)
    for _, english, chinese in entries():
        assert english and chinese
        assert len(re.findall(r"\{[01]?\}", english)) == len(re.findall(r"\{[01]?\}", chinese))
    assert {name for name, _, chinese in entries() if chinese.isascii()} == {"lang", "locale", "months"}


def test_a_chinese_page_has_no_english_words() -> None:
    text = page_of(company(12, 14), chinese=True)
    page = parsed(text)
    assert page.one("html").attributes["lang"] == "zh-CN"
    for element in page.all("script") + page.all("style"):
        element.own = ""
    names = {peer.text for peer in page.all("bdi")}
    words = page.text
    for name in names:
        words = words.replace(name, "")
    words = re.sub(r"\S{8}\.\.\.\S{8}|/var/lib\S+|wg_monitor [0-9.]+|wg0?|UTC|[KMG]iB|\bB\b", "", words)
    assert re.findall("[A-Za-z]{2,}", words) == []
    assert "2026年11月23日 14:00" in words


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_marks_stand_out_from_the_paper(scheme: int) -> None:
    style = parsed(page_of(history())).one("style").own
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground in ("paper", "weekend"):
        assert {name for name in ("ink", "soft", "now") if contrast(colours[name], colours[ground]) < 4.5} == set()
    shapes = ("past", "now", "warn", "bad", "other", "hatch")
    assert {name for name in shapes if contrast(colours[name], colours["paper"]) < 3} == set()


# --- The command --------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page(store: Path) -> None:
    answer = report("sessions", "--format", "html", "--store", str(store))
    page = parsed(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert [name.text for name in page.all("div", kind="name")] == ["alice-laptop", "bob/////...///////=", "cyd/////...///////="]
    assert facts(bars(page)[0])[2:] == [
        "198.51.100.88:37089 and 1 more", "received 3.0 MiB, sent 4.8 KiB", "a part of it not watched", "fell silent",
    ]  # fmt: skip
    assert numbers(page)["online now"] == "1"


def test_filters_and_periods_hold_for_the_page(store: Path) -> None:
    words = ["--lang", "zh", "--peer", "alice-laptop", "--since", "1h", "--store", str(store)]
    answer = report("sessions", "--format", "html", *words)
    page = parsed(answer.out)
    assert [name.text for name in page.all("div", kind="name")] == ["alice-laptop"]
    assert "谁在何时在线" in page.one("h1").text


def test_the_page_is_utf8_whatever_the_locale(store: Path) -> None:
    behind = ["env", "LANG=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"]
    answer = run("sessions", "--format", "html", "--store", str(store), behind=behind)
    assert "2023-11-14 22:13:15 – 22:14:20" in answer.out


@pytest.mark.parametrize("words", [["--summary"], ["--by", "day"]])
def test_sums_have_no_page_of_their_own(store: Path, words: List[str]) -> None:
    with pytest.raises(Refusal, match="--format html"):
        report("sessions", "--format", "html", *words, "--store", str(store))
