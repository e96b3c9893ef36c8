"""The settings file as `check` reads it: alike in real shells, and never executed. tests/machine asks the real systemd."""

import os
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

import wg_monitor
from harness import need
from settings_files import ALIKE, REFUSED, Line, Refused
from values import ids

SHELLS = ["sh", "dash", "bash", "bash --posix"]
TRACE = Path("/tmp/wg-monitor-executed")  # what would appear if a line ran


def read(text: bytes, path: Path) -> List[Tuple[int, str, str]]:
    path.write_bytes(text)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(wg_monitor.assignments(file.read()))


def sourced(shell: str, path: Path) -> Dict[str, str]:
    """The variables that a real shell has after it read the file as the documents say."""
    done = subprocess.run(
        [*shell.split(), "-c", 'set -eua; . "$0"; exec env -0', str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stdout
    pairs = (entry.split("=", 1) for entry in done.stdout.decode().split("\0")[:-1])
    return {name: value for name, value in pairs if name not in ("PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_")}


@pytest.mark.parametrize("case", ALIKE, ids=ids(ALIKE))
def test_what_is_accepted(tmp_path: Path, case: Line) -> None:
    found = read(case.text, tmp_path / "settings")
    assert all(name for _, name, _ in found)
    assert {name: value for _, name, value in found} == case.values


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("case", ALIKE, ids=ids(ALIKE))
def test_a_shell_reads_what_is_accepted_alike(tmp_path: Path, case: Line, shell: str) -> None:
    need(shell.split()[0], root=False)
    (tmp_path / "settings").write_bytes(case.text)
    assert sourced(shell, tmp_path / "settings") == case.values


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_what_is_refused_by_its_line(tmp_path: Path, case: Refused) -> None:
    found = read(case.text, tmp_path / "settings")
    assert [number for number, name, _ in found if not name] == case.lines
    assert {name: value for _, name, value in found if name} == case.values
    assert all(value for _, name, value in found if not name)
    assert not TRACE.exists()


def test_lines_are_counted_across_continued_ones(tmp_path: Path) -> None:
    found = read(b"A=1\n\nB='\n\n'\nC=\\\n3\nD=$x\nE=5\n", tmp_path / "settings")
    assert [(number, name) for number, name, _ in found] == [(1, "A"), (3, "B"), (6, "C"), (8, ""), (9, "E")]
