"""The tour: contrib/demo.py, and what the documents show of it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment}
    command = [sys.executable, "-I", str(PROJECT / "contrib/demo.py"), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=clean, text=True)


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Tuple[str, Path]:
    directory = tmp_path_factory.mktemp("demo")
    done = run(str(directory))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout, directory


def answers(text: str) -> List[List[str]]:
    """Each command and what it printed. As in a document, a command may have `sudo` before it."""
    found: List[List[str]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append([re.sub("^\\$ (sudo )?", "$ ", line)])
        elif found:
            found[-1].append(line)
    return found


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_the_readmes_show_what_the_tour_prints(name: str, tour: Tuple[str, Path]) -> None:
    readme = (PROJECT / name).read_text(encoding="utf-8")
    printed = {command: output for command, *output in answers(tour[0])}
    (trail,) = re.findall(r"```text\n(.*?)```", readme, re.S)
    assert trail.splitlines() == printed["$ tail -n 6 /var/log/wg_monitor.log"][:6]
    shown = [a for block in re.findall(r"```console\n(.*?)```", readme, re.S) for a in answers(block) if a[0] in printed]
    assert len(shown) >= 2
    for command, *output in shown:
        assert output and output == printed[command][: len(output)], command


@pytest.mark.once
def test_the_same_seed_gives_the_same_tour_and_another_seed_another(tour: Tuple[str, Path], tmp_path: Path) -> None:
    texts = []
    for number, arguments in enumerate(([], ["--seed", "8"])):
        directory = tmp_path / str(number)
        done = run(*arguments, str(directory), HOME="/nowhere", TZ="Asia/Kathmandu")
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout.replace(str(directory), "DIRECTORY"))
    assert texts[0] == tour[0].replace(str(tour[1]), "DIRECTORY")
    assert texts[1] != texts[0]


def test_the_tour_leaves_a_store_a_trail_and_a_page(tour: Tuple[str, Path]) -> None:
    text, directory = tour
    assert "\n%s\n" % (directory / "report.html") in text
    assert (directory / "report.html").read_text(encoding="utf-8").startswith("<!")
    command = re.search(r"^\$ (TZ=\S+ python3) wg_monitor.py (sessions --since \S+ --store \S+)$", text, re.M)
    assert command
    run_it = "%s %s %s --peer heidi-phone" % (command.group(1), PROJECT / "wg_monitor.py", command.group(2))
    wide = {**os.environ, "COLUMNS": "140"}
    asked = subprocess.run(run_it, shell=True, stdout=subprocess.PIPE, env=wide, check=True, text=True).stdout
    shown = re.findall(r"^heidi-phone .*$", text.partition("sessions --since 2d")[2].partition("\n\n")[0], re.M)
    assert len(shown) > 2 and [re.split("  +", row)[2:5] for row in shown] == [
        re.split("  +", row)[2:5] for row in asked.splitlines() if row.startswith("heidi-phone")
    ][-len(shown) :]


def test_what_happened_is_in_the_trail(tour: Tuple[str, Path]) -> None:
    trail = (tour[1] / "wg_monitor.log").read_text(encoding="utf-8")
    assert "[WARN] Not watching from 2026-11-15 21:59:00 to 2026-11-16 05:40:00" in trail
    assert re.search(r"REMOVED \[wg0\] frank-contractor ", trail)
    assert re.search(r"IFDOWN  \[wg0\] 12 peers, \d+ were online\n", trail)
    assert " ERROR" not in trail and trail.count("[WARN]") == 1


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = run(str(tmp_path))
    assert done.returncode == 2 and "is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
