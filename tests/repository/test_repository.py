"""Checks of the repository: lint, types, shell scripts, white space, and the installation with pip."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import List, Set

import pytest

import wg_monitor
from harness import PROJECT, lacking, need

pytestmark = pytest.mark.once

HOOKS = sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "contrib/hooks").iterdir())
SHELL_SCRIPTS = ["tests/run", ".ci/run", "install.sh", "contrib/pictures.sh", *HOOKS]


def judge(*command: str) -> None:
    """Run a tool that must succeed."""
    need(command[0], root=False)
    done = subprocess.run(command, cwd=str(PROJECT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def sources() -> List[Path]:
    """Every file under version control."""
    need("git", root=False)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=str(PROJECT), stdout=subprocess.PIPE, check=False)
    if listed.returncode:
        lacking("needs a git checkout")
    return [PROJECT / name for name in listed.stdout.decode().split("\0") if name and (PROJECT / name).is_file()]


def test_ruff_reports_nothing() -> None:
    judge("ruff", "check", ".")


def test_mypy_reports_nothing() -> None:
    judge("mypy", "wg_monitor.py", "wg_report.py", "contrib/demo.py", "tests/")


@pytest.mark.parametrize("script", [*SHELL_SCRIPTS, "contrib/completion/wg-monitor"])
def test_shellcheck_reports_nothing(script: str) -> None:
    judge("shellcheck", script)


@pytest.mark.parametrize("script", SHELL_SCRIPTS)
def test_scripts_are_executable(script: str) -> None:
    assert os.access(str(PROJECT / script), os.X_OK)


def test_files_end_with_a_newline_and_no_line_has_trailing_white_space() -> None:
    wrong = []
    for path in sources():
        data = b"" if path.suffix == ".png" else path.read_bytes()
        if data and (not data.endswith(b"\n") or b"\r" in data or any(line != line.rstrip() for line in data.split(b"\n"))):
            wrong.append(str(path))
    assert wrong == []


@pytest.mark.parametrize("module, others", [("wg_monitor.py", set()), ("wg_report.py", {"wg_monitor"})])
def test_the_modules_import_only_the_standard_library(module: str, others: Set[str]) -> None:
    """This includes imports inside functions."""
    tree = ast.parse((PROJECT / module).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    if sys.version_info < (3, 10):
        lacking("needs Python 3.10, which lists the modules of its standard library")
    assert {name.partition(".")[0] for name in names} - others <= sys.stdlib_module_names


def test_the_daemon_imports_the_reports_in_one_place_only() -> None:
    source = (PROJECT / "wg_monitor.py").read_text(encoding="utf-8")
    assert not re.search(r"\bimport wg_report|from wg_report", source)
    assert source.count('"wg_report", path') == 1


# A promise to whoever reads the module before it runs as root.
CODE_LINES_MAX, STATEMENTS_MAX = 3_000, 2_820


def code_lines(source: str) -> Set[int]:
    """The numbers of the lines that hold code: no blank line, no comment, no docstring."""
    empty = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    found: Set[int] = set()
    begins = True  # a string that is a statement of its own is a docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            begins = True
        elif token.type not in empty and not (begins and token.type == tokenize.STRING):
            found.update(range(token.start[0], token.end[0] + 1))
            begins = False
    return found


def test_the_module_stays_within_what_people_read() -> None:
    source = (PROJECT / "wg_monitor.py").read_text(encoding="utf-8")
    lines = len(code_lines(source))
    statements = sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(source)))
    assert lines <= CODE_LINES_MAX, "%d lines of code" % lines
    assert statements <= STATEMENTS_MAX, "%d statements" % statements


# All lines of the second file, and their width.
REPORT_LINES_MAX, REPORT_WIDTH_MAX = 3_312, 120


def test_the_reports_stay_within_what_people_read() -> None:
    lines = (PROJECT / "wg_report.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= REPORT_LINES_MAX, "%d lines" % len(lines)
    assert max(map(len, lines)) <= REPORT_WIDTH_MAX


def test_what_is_counted_as_code() -> None:
    source = '''"""A docstring.

    Its second paragraph."""

# a comment
x = 1  # another one
TEXT = """
not a docstring
"""


def f(a,
      b):
    "A docstring"
    return (a +

            b)
'''
    assert sorted(code_lines(source)) == [6, 7, 8, 9, 12, 13, 15, 17]


def test_pip_installs_the_command(tmp_path: Path) -> None:
    """Install from a copy, because the build leaves files beside the sources."""
    copy = tmp_path / "wg_monitor"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "wg_monitor.py", "wg_report.py"):
        shutil.copy(str(PROJECT / name), str(copy))
    environment = tmp_path / "environment"
    judge(sys.executable, "-m", "venv", str(environment))
    python = str(environment / "bin/python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    probe = [*pip, "download", "--no-deps", "--dest", str(tmp_path), "setuptools"]
    if subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).returncode:
        lacking("needs a package index, for setuptools")
    judge(*pip, "install", str(copy))
    command = str(environment / "bin/wg-monitor")
    said = subprocess.run([command, "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout
    assert said == "wg_monitor %s\n" % wg_monitor.VERSION
    assert subprocess.run([command, "--interval", "0"], stderr=subprocess.PIPE, check=False).returncode == 2
    said = subprocess.run([command, "sessions", "--help"], stdout=subprocess.PIPE, check=True, text=True).stdout
    assert said.startswith("usage: wg-monitor sessions ")
