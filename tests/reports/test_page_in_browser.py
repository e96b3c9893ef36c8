"""The page in a real browser: Debian's Chromium, driven over WebDriver."""

import re
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from browser import Browser
from company import END, HOUR, company
from harness import need
from pages import history, session, write
from values import key, zone
from wg_report import ONLINE, Gap

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("utc")]

SIZES = [(1360, 900), (820, 1180), (360, 740)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three days of two peers."""
    ann = [session("ann", (50 - n) * HOUR, (49 - n) * HOUR, "unreachable" if n == 5 else "idle",
                   endpoints=("192.0.2.%d:1" % n,)) for n in (0, 5, 20)]  # fmt: skip
    bob = [session("bob", 44 * HOUR, 42 * HOUR), session("bob", 5 * HOUR, 0, "", state=ONLINE)]
    gaps = [Gap("", None, END - 30 * HOUR, END - 26 * HOUR, "stopped")]
    return write(tmp_path / "page.html", history(*ann, *bob, hours=72, gaps=gaps))


def tip(browser: Browser) -> List[str]:
    """The lines of what is told about a bar."""
    return [] if browser.run("return document.querySelector('#tip').hidden") else browser.texts("#tip")[0].split("\n")


def facts(browser: Browser, row: int) -> List[str]:
    """The first words of the bars in a row."""
    texts = browser.texts("li:nth-child(%d) .r text" % row)
    return [text.split(" · ")[0] for text in texts]


def shown_day(browser: Browser) -> str:
    return "".join(browser.texts("#zoom strong")).replace(",", "")


# --- At rest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES, ids=["screen", "tablet", "phone"])
def test_the_page_is_quiet_and_accessible(browser: Browser, tmp_path: Path, size: Any, dark: bool) -> None:
    path = write(tmp_path / "page.html", company(12, 14))
    browser.open(path, size[0], size[1], dark, touch=size[0] < 400)
    assert browser.logs("browser") == []
    assert browser.requests() == [path.as_uri()]
    assert browser.violations() == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.run("return document.querySelectorAll('[style]').length") == 0
    colour = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(21, 24, 27)" if dark else "rgb(252, 252, 251)")


@pytest.mark.parametrize("scripts", [True, False], ids=["with the script", "without"])
def test_a_phone_shows_names_above_their_rows_and_the_newest_days(browser: Browser, tmp_path: Path, scripts: bool) -> None:
    browser.open(write(tmp_path / "page.html", company(12, 14)), 360, 740, touch=True, scripts=scripts)
    boxes = browser.run("""
        return [...document.querySelectorAll('ol li')].map(row => {
            const [name, bars] = [...row.children].map(part => part.getBoundingClientRect())
            return [name.left, name.bottom, bars.top, bars.right, innerWidth]
        })""")
    assert len(boxes) == 12
    for left, bottom, top, right, width in boxes:
        assert 0 <= left < 40 and bottom <= top + 1
        assert width - 40 < right <= width


def test_without_the_script_everything_but_zoom_and_sorting_is_there(browser: Browser, small: Path) -> None:
    browser.open(small, scripts=False)
    assert browser.run("return document.querySelector('#zoom').hidden")
    assert browser.texts("thead button") == []
    shown = "return [...document.querySelectorAll('.r text')].filter(e => getComputedStyle(e).display !== 'none').length"
    assert browser.run(shown) == 0
    browser.point_at(".r g")
    assert browser.run(shown) == 1
    browser.move(5, 5)
    assert browser.run(shown) == 0
    browser.run("document.querySelectorAll('.r g')[1].focus()")
    assert browser.run("return document.activeElement.querySelector('text').getComputedTextLength()") > 100
    browser.run("document.querySelector('summary').click()")
    assert browser.run("return document.querySelector('details table').getBoundingClientRect().height") > 100


# --- Telling ------------------------------------------------------------------------------------------------------


def test_hover_focus_and_tap_tell_about_the_right_session(browser: Browser, small: Path) -> None:
    told = ["ann", "2026-11-21 17:00:00 – 18:00:00", "1h 0m", "192.0.2.5:1", "received 2.0 KiB, sent 1.0 KiB",
            "ended unreachable"]  # fmt: skip
    browser.open(small)
    browser.point_at("li:nth-child(1) .r rect", 1)
    assert tip(browser) == told
    browser.move(5, 5)
    assert tip(browser) == []
    browser.run("document.querySelector('li:nth-child(1) .r g').focus()")
    browser.press("Right")
    assert tip(browser) == told
    assert browser.run("return document.activeElement.getAttribute('aria-label')") == ", ".join(told[1:])
    browser.press("Right")
    assert tip(browser)[1] == "2026-11-22 08:00:00 – 09:00:00"
    browser.press("Left", "Left")
    assert tip(browser)[3] == "192.0.2.0:1"
    browser.press("Tab")
    assert tip(browser)[0] == "bob"
    browser.open(small, 360, 740, touch=True)
    browser.point_at("li:nth-child(2) .r rect", 1, touch=True)
    assert tip(browser)[0] == "bob" and tip(browser)[-1] == "still connected"
    assert shown_day(browser) == ""


def test_a_bar_of_a_pixel_is_found_beside_the_pointer(browser: Browser, tmp_path: Path) -> None:
    source = history(session("ann", 30 * HOUR, 30 * HOUR - 20), hours=72)
    browser.open(write(tmp_path / "page.html", source))
    box = browser.run("const b = document.querySelector('.r rect').getBoundingClientRect(); return [b.x, b.y]")
    browser.move(box[0] + 5, box[1] + 6)
    assert tip(browser)[0] == "ann"


def test_time_that_nobody_watched_is_told_by_the_browser_itself(browser: Browser, small: Path) -> None:
    browser.open(small)
    under = browser.run("""const gap = document.querySelector('section .gap').getBoundingClientRect()
        const row = document.querySelector('.r').getBoundingClientRect()
        return document.elementFromPoint(gap.x + gap.width / 2, row.y + 5).textContent""")
    assert under == "not watched · 2026-11-22 08:00:00 – 12:00:00 · the monitor was stopped"


# --- Sorting ------------------------------------------------------------------------------------------------------


def peers(browser: Browser) -> List[str]:
    return browser.texts("#peers + div tbody th bdi")


def test_the_peers_are_sorted_by_click_and_by_key(browser: Browser, tmp_path: Path) -> None:
    source = history(
        session("ann", 9 * HOUR, 8 * HOUR, received=5000), session("bob", 8 * HOUR, 5 * HOUR, received=9 << 30),
        session("cyd", 5 * HOUR, 3 * HOUR, received=None), session("cyd", 2 * HOUR, 1 * HOUR - 1, received=None),
    )  # fmt: skip
    browser.open(write(tmp_path / "page.html", source))
    assert peers(browser) == ["cyd", "bob", "ann"]
    browser.point_at("#peers + div thead button", 0, click=True)
    assert peers(browser) == ["ann", "bob", "cyd"]
    browser.point_at("#peers + div thead button", 0, click=True)
    assert peers(browser) == ["cyd", "bob", "ann"]
    browser.run("document.querySelectorAll('#peers + div thead button')[5].focus()")
    browser.press("Enter")
    assert peers(browser) == ["bob", "ann", "cyd"]
    browser.press("Space")
    assert peers(browser) == ["cyd", "ann", "bob"]
    sorted_by = browser.run("return [...document.querySelectorAll('th')].map(head => head.getAttribute('aria-sort'))")
    assert [value for value in sorted_by if value] == ["ascending"]


# --- Zooming ------------------------------------------------------------------------------------------------------


def test_zoomed_to_a_day_by_click_and_back(browser: Browser, small: Path) -> None:
    browser.open(small)
    whole = facts(browser, 1)
    box = browser.run("const b = document.querySelector('.r').getBoundingClientRect(); return [b.x, b.y, b.width]")
    browser.move(box[0] + box[2] * 20 / 72, box[1] + 15, click=True)
    assert shown_day(browser) == "Saturday 21 November 2026"
    assert facts(browser, 1) == ["2026-11-21 12:00:00 – 13:00:00", "2026-11-21 17:00:00 – 18:00:00"]
    assert browser.run("return document.querySelector('.r rect').getAttribute('x')") == "50%"
    assert browser.texts(".scale text") == ["%02d:00" % hour for hour in range(0, 24, 2)]
    assert browser.violations() == []
    browser.point_at("#later", click=True)
    assert shown_day(browser) == "Sunday 22 November 2026"
    assert facts(browser, 1) == whole[2:]
    assert len(browser.texts("section .gap")) == 1
    browser.point_at("#whole", click=True)
    assert (shown_day(browser), facts(browser, 1)) == ("", whole)
    assert browser.logs("browser") == []


def test_zoomed_by_key_and_back(browser: Browser, small: Path) -> None:
    browser.open(small)
    browser.run("document.querySelector('li:nth-child(2) .r g').focus()")
    browser.press("Enter")
    assert shown_day(browser) == "Saturday 21 November 2026"
    assert browser.run("return document.activeElement.id") == "whole"
    browser.press("Tab", "Space")
    assert shown_day(browser) == "Friday 20 November 2026"
    browser.press("Escape")
    assert shown_day(browser) == ""
    browser.run("document.querySelector('#earlier').focus()")
    browser.press("Enter")
    assert shown_day(browser) == "Monday 23 November 2026"
    assert facts(browser, 2) == ["2026-11-23 09:00:00 – 14:00:00"]
    assert browser.texts("li:nth-child(2) .r g.o text")[0].endswith("still connected")
    browser.press("Enter")
    assert shown_day(browser) == "Sunday 22 November 2026"


def test_a_bar_that_begins_before_the_period_leads_to_its_first_day(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path / "page.html", history(session("ann", 90 * HOUR, HOUR), hours=100), since=END - 50 * HOUR))
    browser.run("document.querySelector('.r g').focus()")
    browser.press("Enter")
    assert shown_day(browser) == "Saturday 21 November 2026"


def test_what_is_merged_comes_apart_in_a_day(browser: Browser, tmp_path: Path) -> None:
    source = history(*(session("ann", 30 * HOUR - n * 600, 30 * HOUR - n * 600 - 300) for n in range(4)), hours=365 * 24)
    browser.open(write(tmp_path / "page.html", source))
    (merged,) = browser.texts(".r text")
    assert "4 sessions" in merged
    browser.run("document.querySelector('.r g').focus()")
    browser.press("Enter")
    assert facts(browser, 1) == ["2026-11-22 08:%d0:00 – 08:%d5:00" % (n, n) for n in range(4)]


def test_a_day_has_only_its_part_of_the_period(browser: Browser, small: Path) -> None:
    """What was outside is not in the page, and must not look like absence."""
    browser.open(small)
    browser.point_at("#earlier", click=True)
    assert browser.texts(".scale text") == ["%02d:00" % hour for hour in range(0, 14, 2)]
    last = browser.run("const box = document.querySelector('li:nth-child(2) rect'); return box.getAttribute('width')")
    assert abs(float(last.rstrip("%")) - 500 / 14) < 0.01


@pytest.mark.parametrize(("day", "hours"), [(1_774_738_800, 23), (1_792_879_200, 25)])
def test_a_day_on_which_the_clock_changes(browser: Browser, tmp_path: Path, day: int, hours: int) -> None:
    with zone("Europe/Berlin"):
        source = history(session("ann", END - day - 7200, END - day - 10_000), hours=365 * 24)
        browser.open(write(tmp_path / "page.html", source))
    browser.run("document.querySelector('.r g').focus()")
    browser.press("Enter")
    assert len(browser.texts("section .l")) == hours
    labels = browser.texts(".scale text")
    assert labels == (["00:00"] + ["%02d:00" % hour for hour in range(4, 24, 2)] if hours == 23 else
                      ["00:00", "02:00", "02:00"] + ["%02d:00" % hour for hour in range(4, 24, 2)])  # fmt: skip


def test_a_period_of_less_than_a_day_has_no_zoom(browser: Browser, small: Path, tmp_path: Path) -> None:
    browser.open(write(tmp_path / "hour.html", history(session("ann", 1800, 60)), since=END - HOUR))
    assert browser.run("return document.querySelector('#zoom').hidden")
    browser.point_at(".r", click=True)
    assert shown_day(browser) == ""


# --- Hostile names ------------------------------------------------------------------------------------------------

NAMES = ["<b>bold</b>", "\"'><img src=x onerror=hacked=1>", "</script><script>hacked=1</script>", "\u05d0\u05d1\u05d2", "全" * 64,
         "x" * 64, "&amp;lt;"]  # fmt: skip


def test_hostile_names_are_texts(browser: Browser, tmp_path: Path) -> None:
    made = [session(name, 40 * HOUR, 30 * HOUR, peer=key("k%d" % n), endpoints=(name + ":1",)) for n, name in enumerate(NAMES)]
    path = write(tmp_path / "page.html", history(*made, hours=72))
    browser.open(path)
    assert sorted(browser.texts(".name bdi")) == sorted(NAMES)
    assert sorted(peers(browser)) == sorted(NAMES)
    row = browser.texts(".name bdi").index(NAMES[2])
    browser.point_at(".r rect", row)
    assert tip(browser)[0] == NAMES[2] and tip(browser)[3] == NAMES[2] + ":1"
    browser.point_at(".r rect", row, click=True)
    assert shown_day(browser) != ""
    browser.point_at(".r rect", row)
    assert tip(browser)[0] == NAMES[2] and tip(browser)[3] == NAMES[2] + ":1"
    assert browser.run("return typeof hacked") == "undefined"
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    heights = browser.run("return [...document.querySelectorAll('ol li')].map(row => row.getBoundingClientRect().height)")
    assert len(set(heights)) == 1
    assert browser.logs("browser") == [] and browser.requests() == [path.as_uri()]


def test_nothing_else_may_run(browser: Browser, tmp_path: Path) -> None:
    """Markup that slipped through would not run, either."""
    path = write(tmp_path / "page.html", history(session("ann", 300, 200)))
    slipped = "<script>hacked=1</script><img src=x onerror=hacked=1><p style='color:red' id=slipped>x</p>"
    path.write_text(path.read_text(encoding="utf-8").replace("<footer>", slipped + "<footer>"), encoding="utf-8")
    browser.open(path)
    assert browser.run("return typeof hacked") == "undefined"
    assert browser.run("return getComputedStyle(document.querySelector('#slipped')).color") != "rgb(255, 0, 0)"


# --- Paper --------------------------------------------------------------------------------------------------------


def sheets(path: Path) -> Dict[str, Any]:
    need("pdfinfo", "pdftotext", root=False)
    info = subprocess.run(["pdfinfo", str(path)], stdout=subprocess.PIPE, check=True).stdout.decode()
    text = subprocess.run(["pdftotext", "-layout", str(path), "-"], stdout=subprocess.PIPE, check=True).stdout.decode()
    size = re.search(r"Page size: +([0-9.]+) x ([0-9.]+)", info)
    assert size is not None
    return {"size": (round(float(size.group(1))), round(float(size.group(2)))), "pages": text.rstrip("\f").split("\f")}


def test_the_page_is_printed_on_landscape_a4(browser: Browser, tmp_path: Path) -> None:
    source = company(12, 3)
    browser.open(write(tmp_path / "page.html", source))
    browser.print(tmp_path / "page.pdf")
    found = sheets(tmp_path / "page.pdf")
    assert found["size"] == (842, 595)
    count = len(browser.texts("details tbody tr"))
    pages = found["pages"]
    assert 2 + count // 40 <= len(pages) <= 3 + count // 25
    assert "alice-laptop" in pages[0] and "Zoom to a day" not in "".join(pages)
    # The sessions are there, though they were folded, and their head is on each sheet.
    assert sum(len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", page)) for page in pages) >= count
    assert all("Endpoint" in page for page in pages[2:-1])


def test_a_long_timeline_is_printed_row_by_row(browser: Browser, tmp_path: Path) -> None:
    made = [session("p%03d" % n, (23 - n % 20) * HOUR, (22 - n % 20) * HOUR) for n in range(120)]
    browser.open(write(tmp_path / "page.html", history(*made)))
    browser.print(tmp_path / "page.pdf")
    pages = sheets(tmp_path / "page.pdf")["pages"]
    assert 4 <= len(pages) <= 16
    for n in range(120):
        assert sum(page.count("p%03d" % n) for page in pages) == 3  # timeline, peers, sessions
