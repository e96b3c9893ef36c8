"""What a terminal, a spreadsheet and a pipe get: nothing wraps, nothing is forged, nothing becomes a formula."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import List

import pytest

import wg_monitor
import wg_report
from harness import MODULE, wait_for
from reports import on_terminal, report, run, story
from stores import change
from values import key

pytestmark = pytest.mark.usefixtures("utc")

ESCAPE = re.compile(r"\x1b\[[0-9]*m")
COMMANDS = ("status", "sessions", "sessions --summary", "sessions --by day")


def columns(line: str) -> int:
    """How many columns of a terminal a line takes, counted by another rule than the module's."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in line
    )


# --- The terminal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 20, 7])
@pytest.mark.parametrize("words", COMMANDS)
def test_nothing_wraps(store: Path, words: str, width: int) -> None:
    change(store, "UPDATE sessions SET name = '田中太郎的非常长的笔记本电脑名称' WHERE number = 3",
           "UPDATE peers SET name = 'e\u0301e\u0301e\u0301-long-name-of-a-laptop-that-nobody-needs' WHERE session IS NULL",
           "UPDATE sessions SET endpoints = '[2001:db8:1111:2222:3333:4444:5555:6666]:51820' WHERE number = 2")  # fmt: skip
    for color in ("never", "always"):
        for line in report(*words.split(), "--store", str(store), width=width, color=color).lines:
            assert columns(ESCAPE.sub("", line)) <= width, line


def test_a_wide_note_fits_one_column(store: Path) -> None:
    assert report("sessions", "--store", "é=%s" % store, width=1).code == 0


def test_a_wide_note_does_not_wrap(store: Path) -> None:
    name = "田中太郎的笔记本电脑在东京的办公室里面"
    lines = report("sessions", "--present", "2020-01-01", "--store", "%s=%s" % (name, store), width=40).lines
    assert "".join(lines[1:]).startswith(name) and all(columns(line) <= 40 for line in lines)


@pytest.mark.once
@pytest.mark.parametrize("width", [80, 40])
@pytest.mark.parametrize("words", COMMANDS)
def test_on_a_real_terminal(tmp_path: Path, words: str, width: int) -> None:
    [path] = story(tmp_path / "state.db")
    said = on_terminal(*words.split(), "--store", str(path), width=width)
    lines = ESCAPE.sub("", said).splitlines()
    assert len(lines) > 2 and all(columns(line) <= width for line in lines)
    assert "\x1b[33m\x1b[1malice-laptop\x1b[0m" in said or "--by" in words
    assert not set(said) & {chr(n) for n in range(32)} - {"\n", "\x1b"}
    for variable in (("NO_COLOR", "1"), ("WG_COLOR_MODE", "never")):
        assert "\x1b" not in on_terminal(*words.split(), "--store", str(path), width=width, environment=[variable])


NARROW = """\
PEER          CONNECTED         UNTIL     LENGTH  ENDPOINT
alice-laptop  2023-11-14 22:13  22:14*    1m 5s   198.51.100.88:37089 (+1)
cyd/////...   2023-11-14 22:13  22:16*    2m 50s  [2001:db8::7]:40001
-- not watched from 2023-11-14 22:14:20 to 22:16:00 (stopped)
bob/////...   2023-11-14 22:16  still on  20s     192.0.2.9:999
* Nobody watched for a part of this session.
Too narrow for: SENT, RECEIVED, TUNNEL ADDRESS, ENDED, IFACE.
3 sessions of 3 peers.
Watched since 2023-11-14 22:13:20.
"""


def test_columns_give_way_at_80(store: Path) -> None:
    assert report("sessions", "--store", str(store), width=80).out == NARROW
    lines = report("status", "--store", str(store), width=80).lines
    assert lines[1].split() == ["PEER", "STATE", "SINCE", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"]


GIVE_WAY = {
    "sessions": ["SENT", "RECEIVED", "TUNNEL ADDRESS", "ENDED", "IFACE", "LENGTH", "ENDPOINT"],
    "status": ["SENT", "RECEIVED", "HANDSHAKE", "ENDPOINT"],
    "sessions --summary": ["ADDRESSES", "BREAKS/H", "MEDIAN", "LONGEST", "IFACE", "RECEIVED", "SENT", "SHARE"],
    "sessions --by day": ["SENT", "RECEIVED", "SESSIONS", "PEERS"],
}


@pytest.mark.once
@pytest.mark.parametrize("words", sorted(GIVE_WAY))
def test_columns_give_way_in_one_order(store: Path, words: str) -> None:
    titles, gone = [], []
    for width in range(160, 5, -1):
        lines = report(*words.split(), "--store", str(store), width=width).lines
        head = next((line for line in lines if line.strip().startswith(("PEER", "WHEN"))), "")
        titles.append(re.split(r"  +", head.strip()))
    for wide, narrow in zip(titles, titles[1:]):
        gone += [title for title in wide if title not in narrow and not any("…" in cell for cell in narrow)]
    expected = GIVE_WAY[words]
    assert gone[: len(expected)] == expected


def test_colours_are_those_of_wg(store: Path) -> None:
    out = report("status", "--store", str(store), color="always").out
    assert "\x1b[32m\x1b[1mwg0\x1b[0m  1 of 2 online" in out
    assert "\x1b[33m\x1b[1malice-laptop\x1b[0m" in out
    assert "2\x1b[36mm\x1b[0m 40\x1b[36ms\x1b[0m" in out and "2.0 \x1b[36mKiB\x1b[0m" in out
    assert "\x1b" not in report("status", "--store", str(store), color="auto").out  # no terminal


# --- Hostile text -------------------------------------------------------------------------------------------------

EVIL = "x\n2023-11-14 ONLINE\r\x1b[2J\x1b]0;t\x07\u202egnp.exe\u2028\u200b\x9b31m\t|"


@pytest.fixture
def hostile(store: Path) -> Path:
    for table, column in (("sessions", "name"), ("peers", "name"), ("sessions", "interface"), ("peers", "interface"),
                          ("sessions", "endpoints"), ("peers", "endpoint"), ("allowed_ips", "ips"),
                          ("allowed_ips", "interface"), ("unwatched", "why"), ("unwatched", "interface")):  # fmt: skip
        change(store, "UPDATE %s SET %s = '%s'" % (table, column, EVIL))
    change(store, "UPDATE sessions SET reason = '%s' WHERE reason IS NOT NULL" % EVIL,
           "UPDATE sessions SET public_key = '%s' || number" % EVIL)  # fmt: skip
    return store


@pytest.mark.parametrize("words", [*COMMANDS, "sessions --format csv", "sessions --format json", "status --json",
                                   "sessions --summary --format csv"])  # fmt: skip
def test_hostile_text_moves_no_cursor_and_forges_no_row(hostile: Path, words: str) -> None:
    clean = len(report(*words.split(), "--store", str(hostile), width=500).lines)
    out = report(*words.split(), "--store", str(hostile), width=500).out.replace("\r\n", "\n")
    assert all(c == "\n" or c.isprintable() or c == "\ufeff" for c in out), repr(out)
    assert clean == len(out.split("\n")) - 1
    assert not any(line.startswith("2023-11-14 ONLINE") for line in out.splitlines())


def test_a_hostile_table_has_one_line_per_row(hostile: Path) -> None:
    assert len(report("sessions", "--store", str(hostile), width=500).lines) == 8
    assert len(report("status", "--store", str(hostile), width=500).lines) == 5


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "＋1", "－1", "＠x", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_becomes_a_formula(store: Path, text: str) -> None:
    change(store, *("UPDATE sessions SET %s = '%s'" % (column, text.replace("'", "''"))
                    for column in ("name", "endpoints", "interface", "public_key")),
           "UPDATE sessions SET reason = '%s' WHERE reason IS NOT NULL" % text.replace("'", "''"))  # fmt: skip
    for words in ("sessions", "sessions --summary"):
        out = report(*words.split(), "--format", "csv", "--store", str(store)).out
        rows = list(csv.reader(io.StringIO(out.lstrip("\ufeff"))))
        assert len(rows) >= 3
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(tuple("=+-@\t\r＝＋－＠"))
    assert any(cell.startswith("'") for cell in rows[1])


def test_a_key_that_begins_like_a_formula_is_whole_in_json(store: Path) -> None:
    changed = "+" + key("ann")[1:]
    change(store, "UPDATE sessions SET public_key = '%s'" % changed)
    rows = json.loads(report("sessions", "--format", "json", "--store", str(store)).out)
    assert rows[0]["peer"] == changed
    assert '"\'%s"' % changed in report("sessions", "--format", "csv", "--store", str(store)).out


def test_a_csv_file_is_utf_8_whatever_the_locale(store: Path) -> None:
    change(store, "UPDATE sessions SET name = 'Jörg-手机'")
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, str(MODULE), "sessions", "--store", str(store)]
    data = subprocess.run([*command, "--format", "csv"], stdout=subprocess.PIPE, env=environment, check=True).stdout
    assert data.startswith(b"\xef\xbb\xbf") and "Jörg-手机".encode() in data and data.count(b"\r\n") == 4
    table = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True).stdout
    assert b"J\xf6rg-??" in table  # what this terminal cannot show


# --- Texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, width", [("abc", 3), ("田", 2), ("e\u0301", 1), ("각", 2), ("\u1100\u1161", 2), ("", 0)])
def test_width(text: str, width: int) -> None:
    assert wg_report.width_of(text) == width


@pytest.mark.parametrize("text, room, fitted", [
    ("abcdef", 6, "abcdef"), ("abcdef", 5, "abcd…"), ("田中太郎", 5, "田中…"), ("田中太郎", 4, "田…"),
    ("ab", 1, "…"), ("e\u0301e\u0301e\u0301", 2, "e\u0301…"), ("x" * 9999, 3, "xx…"),
])  # fmt: skip
def test_a_text_that_is_too_wide_is_cut(text: str, room: int, fitted: str) -> None:
    assert wg_report.fit(text, room) == fitted


@pytest.mark.parametrize("count, text", [
    (None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10_189, "10.0 KiB"), (102_348, "99.9 KiB"),
    (102_400, "100 KiB"), (1_048_575, "1.0 MiB"), (310 << 20, "310 MiB"), (2**63 - 1, "8192 PiB"),
])  # fmt: skip
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert wg_report.size_text(count) == text


# --- Pipes and signals --------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_ends_it_quietly(store: Path) -> None:
    for words in (["sessions"], ["sessions", "--format", "csv"], ["sessions", "--format", "json"], ["status"]):
        command = [sys.executable, "-IS", str(MODULE), *words, "--store", str(store)]
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_reported(store: Path) -> None:
    for words in (["sessions"], ["sessions", "--format", "csv"], ["status"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-IS", str(MODULE), *words, "--store", str(store)]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        words_ = "wg_monitor: the output cannot be written: No space left on device; try again\n"
        assert (done.returncode, done.stderr) == (1, words_)


@pytest.mark.parametrize("shape", ["table", "json", "csv", "html"])
def test_closed_standard_streams_change_nothing_else(store: Path, shape: str) -> None:
    """Python has no object for a stream that is closed, and print() would take the other one."""
    outputs = {}
    for closed in ("", ">&-", "2>&-"):
        words = [sys.executable, str(MODULE), "sessions", "--format", shape, "--store", str(store)]
        done = subprocess.run(["sh", "-c", 'exec "$0" -IS "$@" ' + closed, *words], capture_output=True, text=True)
        assert done.returncode == 0 and "Traceback" not in done.stderr
        outputs[closed] = done.stdout.count("\n"), done.stderr
    assert outputs[">&-"] == (0, outputs[""][1])
    assert outputs["2>&-"] == (outputs[""][0], "")


def test_an_interrupt_ends_it_quietly(store: Path) -> None:
    reader, writer = os.pipe()
    change(store, *("INSERT INTO sessions SELECT %d + number, interface, public_key, start, began, received_before,"
                    " sent_before, endpoints, unwatched, start, start, 0.0, 0, 0, 'idle', '' FROM sessions" % (1 << n)
                    for n in range(2, 13)))  # fmt: skip
    command = [sys.executable, "-IS", str(MODULE), "sessions", "--store", str(store)]
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE) as process:
        os.read(reader, 10)
        wait_for("it to block", lambda: Path("/proc/%d/syscall" % process.pid).read_text().split()[0] in ("1", "64"))
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == b""
        assert process.returncode == -signal.SIGINT
    os.close(reader)
    os.close(writer)


# --- The command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "sessions"])
def test_help_names_every_option_and_needs_no_store(command: str) -> None:
    answer = run(command, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "usage: wg-monitor %s" % command in answer.out and "Exit codes: " in answer.out
    assert all(len(line) <= 100 for line in answer.lines)


def test_the_daemons_help_lists_the_commands_without_importing_the_second_file(tmp_path: Path) -> None:
    alone = tmp_path / "wg_monitor.py"
    alone.write_bytes(MODULE.read_bytes())
    said = subprocess.run([sys.executable, "-IS", str(alone), "--help"], stdout=subprocess.PIPE, check=True, text=True)
    words: List[str] = re.findall(r"'(\w+)'", said.stdout)
    assert {"check", *wg_monitor.REPORTS} <= set(words)
