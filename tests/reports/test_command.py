"""The daemon hands its commands over to the second file: whatever the way in which it was started."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence, Set

import pytest

import wg_report
from harness import PROJECT, launcher, need
from reports import Answer
from values import key
from watcher import query
from wg_monitor import EXIT_FAILURE, EXIT_USAGE


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A directory with both files."""
    for name in ("wg_monitor.py", "wg_report.py"):
        shutil.copy(str(PROJECT / name), str(tmp_path))
    (tmp_path / "command").write_text(launcher().replace(str(PROJECT), str(tmp_path)))
    return tmp_path


def run(*command: str) -> Answer:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]})
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("flags", [[], ["-I"], ["-IS"]], ids=str)
def test_each_way_to_start_it_works(copied: Path, store: Path, flags: Sequence[str]) -> None:
    for file in ("wg_monitor.py", "command"):
        answer = run(sys.executable, *flags, str(copied / file), "sessions", "--store", str(store))
        assert (answer.code, answer.err) == (0, "") and "alice-laptop" in answer.out


def test_a_link_to_the_daemon_leads_to_the_file_beside_it(copied: Path, store: Path) -> None:
    link = copied / "elsewhere" / "wg-monitor.py"
    link.parent.mkdir()
    link.symlink_to(copied / "wg_monitor.py")
    assert run(sys.executable, "-IS", str(link), "sessions", "--store", str(store)).code == 0


def test_a_missing_file_is_named_with_its_place(copied: Path) -> None:
    (copied / "wg_report.py").unlink()
    words = "wg_monitor: status needs %s/wg_report.py: No such file or directory; copy it there from where wg_monitor.py"
    answer = run(sys.executable, "-IS", str(copied / "wg_monitor.py"), "status")
    assert answer == Answer(EXIT_FAILURE, "", words % copied + " comes from\n")


def test_a_file_that_others_can_change_is_not_run(copied: Path, store: Path) -> None:
    need()
    path = copied / "wg_report.py"
    path.write_text("print('evil')\n")
    for mode, owner in ((0o666, 0), (0o644, 65534)):
        path.chmod(mode)
        os.chown(str(path), owner, owner)
        answer = run(sys.executable, "-IS", str(copied / "wg_monitor.py"), "sessions", "--store", str(store))
        assert (answer.code, answer.out) == (EXIT_USAGE, "") and "others can change it" in answer.err


def test_the_daemon_does_not_load_it(copied: Path) -> None:
    (copied / "wg_report.py").write_text("raise AssertionError('loaded')\n")
    assert run(sys.executable, "-IS", str(copied / "wg_monitor.py"), "--help").code == 0
    assert "loaded" not in run(sys.executable, "-IS", str(copied / "wg_monitor.py"), "--interval", "0").err


@pytest.mark.parametrize("words", [
    ["status", "--peer", ""], ["status", "--peer="], ["sessions", "--peer", ""], ["sessions", "--ip", ""],
    ["sessions", "--since="], ["sessions", "--reason", ""], ["status", "--interface", ""], ["sessions", ""],
])  # fmt: skip
def test_an_unset_variable_of_the_shell_asks_for_nobody(store: Path, words: Sequence[str]) -> None:
    answer = run(sys.executable, "-IS", str(PROJECT / "wg_monitor.py"), *words, "--store", str(store))
    text = "wg_monitor: invalid usage: an argument is empty; give it a value; a variable of the shell may be unset\n"
    assert answer == Answer(EXIT_USAGE, "", text)


# --- The documents ------------------------------------------------------------------------------------------------


def flags(command: str) -> Set[str]:
    said = run(sys.executable, "-IS", str(PROJECT / "wg_monitor.py"), command, "--help").out
    return set(re.findall(r"(?<![\w-])--[a-z-]+", said)) - {"--help"}


@pytest.mark.parametrize("command", ["status", "sessions"])
@pytest.mark.parametrize("document", ["docs/reports.md", "wg-monitor.8"])
def test_the_documents_name_every_flag(command: str, document: str) -> None:
    text = (PROJECT / document).read_text(encoding="utf-8").replace(" Fl -", " --").replace(", -", ", --")
    assert {flag for flag in flags(command) if not re.search(re.escape(flag) + r"(?![\w-])", text)} == set()


def test_the_page_names_every_field_and_reason() -> None:
    text = (PROJECT / "docs/reports.md").read_text(encoding="utf-8")
    names = {*wg_report.SESSION_FIELDS, *wg_report.REASONS, *wg_report.SORTS, *wg_report.Usage._fields}
    assert {name for name in names if "`%s`" % name not in text} == set()


def test_the_page_names_the_columns_in_the_order_in_which_they_give_way() -> None:
    text = " ".join((PROJECT / "docs/reports.md").read_text(encoding="utf-8").split())
    lists = re.findall(r"in this order: (.*?); in a summary (.*?); in `status` (.*?)\.", text)
    named = {"the rest of the name": ["PEER"],
             "the seconds": ["CONNECTED", "UNTIL"]}  # fmt: skip
    for listed, name in zip(lists[0], ("sessions", "summary", "status")):
        layout = wg_report.LAYOUTS[name]
        ranked = sorted((title for title in layout if layout[title]), key=lambda title: layout[title])
        assert [t for item in listed.split(", ") for t in named.get(item, [item])] == ranked


def test_the_monitoring_check_of_the_page(store: Path, tmp_path: Path) -> None:
    text = (PROJECT / "docs/reports.md").read_text(encoding="utf-8")
    [line] = re.findall(r"```sh\n(.*)\n```", text)
    tools = tmp_path / "tools"
    tools.mkdir()
    program = "%s -IS %s \"$@\" --store %s" % (sys.executable, PROJECT / "wg_monitor.py", store)
    for name, command in (("wg-monitor", program), ("mail", "cat; echo to $3")):
        (tools / name).write_text("#!/bin/sh\nexec %s\n" % command if name != "mail" else "#!/bin/sh\n%s\n" % command)
        (tools / name).chmod(0o755)
    for table in ("monitor", "interfaces"):
        query(store, "UPDATE %s SET wall = %d" % (table, time.time()))  # the last reading of a monitor that runs
    (store.parent / "state.db.last").unlink()
    for name, said in ((key("bob"), ""), ("alice-laptop", "alice-laptop is offline"), ("nobody", "nobody is offline")):
        done = subprocess.run(
            ["sh", "-c", line.replace("site-b", name)], capture_output=True, text=True,
            env={"PATH": "%s:%s" % (tools, os.environ["PATH"])},
        )  # fmt: skip
        assert done.stdout.startswith(said) and bool(done.stdout) == bool(said)
