"""The module as a program: one name however it is started, and one form for everything that it refuses."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple

import pytest

import wg_monitor
from harness import MODULE, PROJECT, command_line, launcher
from values import ids

# Every start runs this before the program and the rest of it after the program. The second module is a file of its own
# that imports the daemon by its name, as wg_report.py does.
SITE = """
import atexit

@atexit.register
def compare():
    import sys
    import second
    program = sys.modules["__main__"].main.__globals__
    names = [name for name, value in program.items() if isinstance(value, type) and value.__module__ == program["__name__"]]
    print("classes:", len(names))
    print("differ:", [name for name in names if getattr(second.wg_monitor, name) is not program[name]])
    print("one module:", vars(second.wg_monitor) is program)
    print("copies:", sum(getattr(module, "Refusal", None) is not None for module in set(sys.modules.values())))
"""
SECOND = "import wg_monitor\n"


class Start(NamedTuple):
    name: str
    command: List[str]


STARTS = [
    Start("run as a script", [str(MODULE)]),
    Start("run with -m", ["-m", "wg_monitor"]),
    Start("imported by its launcher", ["launcher"]),
    Start("imported", ["-c", "from wg_monitor import main; import sys; sys.exit(main())"]),
]


@pytest.mark.parametrize("case", STARTS, ids=ids(STARTS))
def test_a_second_file_gets_the_same_classes_however_the_daemon_is_started(tmp_path: Path, case: Start) -> None:
    """A Refusal that the second file raises has to be the one that main() catches."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "second.py").write_text(SECOND)
    (tmp_path / "launcher").write_text(launcher())
    assert "from wg_monitor import main" in launcher()
    command = [str(tmp_path / part) if part == "launcher" else part for part in case.command]
    done = subprocess.run(
        [sys.executable, *command, "--version"],
        cwd=str(PROJECT),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": "%s:%s" % (tmp_path, PROJECT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    said: Dict[str, str] = dict(line.split(": ") for line in done.stdout.splitlines() if ": " in line)
    assert int(said["classes"]) > 20, done.stdout
    assert (said["differ"], said["one module"]) == ("[]", "True"), done.stdout
    assert said["copies"] == "1", "a copy of the module: %s" % done.stdout


STUB = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
print("went on")
def main(): ...
"""


def test_ctrl_c_during_the_imports_of_the_launcher_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "wg_monitor.py").write_text(STUB)
    (tmp_path / "launcher").write_text(launcher().replace(str(PROJECT), str(tmp_path)))
    done = subprocess.run([sys.executable, "-IS", str(tmp_path / "launcher")], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


# --- Refusals -----------------------------------------------------------------------------------------------------


class Refused(NamedTuple):
    name: str
    arguments: List[str]
    variables: Dict[str, str]
    words: str
    code: int = 2


REFUSED = [
    Refused(
        "a flag",
        ["--interval", "soon"],
        {},
        "--interval: 'soon' is invalid: no default replaces it; use whole seconds from 1 to 31536000",
    ),
    Refused(
        "a variable",
        ["--from-environment"],
        {"INTERVAL": "soon"},
        "INTERVAL: 'soon' is invalid: no default replaces it; use whole seconds from 1 to 31536000",
    ),
    Refused(
        "a flag that overrides a variable",
        ["--from-environment", "--log-format=xml"],
        {"LOG_FORMAT": "json"},
        "--log-format: 'xml' is invalid: no default replaces it; use text or json",
    ),
    Refused(
        "what could forge a line",
        ["--liveness", "a\x1b[31m\n[ERROR] forged"],
        {},
        "--liveness: 'a?[31m [ERROR] forged' is invalid: no default replaces it; use handshake or traffic",
    ),
    Refused("an unknown flag", ["--no-such-flag"], {}, "invalid usage: unknown argument '--no-such-flag'; see --help"),
]


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_a_refusal_is_one_line_that_names_the_setting_as_it_was_given(case: Refused) -> None:
    done = command_line(*case.arguments, environment=case.variables)
    assert (done.stderr, done.stdout) == ("wg_monitor: %s\n" % case.words, "")
    assert done.returncode == case.code


def test_check_shows_a_refusal_in_the_same_form() -> None:
    done = command_line("check", "--interval", "soon")
    (line,) = [line for line in done.stdout.splitlines() if re.match(r"\S+ +settings ", line)]
    words = "--interval: 'soon' is invalid: no default replaces it; use whole seconds from 1 to 31536000"
    assert line == "FAIL  settings     " + words
    assert done.returncode == 2


def test_the_holder_of_a_lock_is_found_while_it_opens_and_closes_files(tmp_path: Path) -> None:
    """The list of a process's open files is outdated as soon as it is read. Here, it has the directory that is listed."""
    path = tmp_path / "store.lock"
    low = os.open("/dev/null", os.O_RDONLY)
    lock = wg_monitor.lock_file(str(path))
    os.close(low)  # the next file that this process opens comes before the lock in the list
    try:
        assert wg_monitor.use_of(str(path)) == ", in use by process %d (%s)" % (os.getpid(), comm())
    finally:
        os.close(lock)
    assert wg_monitor.use_of(str(path)) == ""


def test_the_holder_of_a_lock_is_found_while_others_come_and_go(tmp_path: Path) -> None:
    """The kernel shows its locks a page at a time: while those before it go, a lock may move past the reader."""
    crowd = """if True:
        import fcntl, sys
        files = [open("%s/%d" % (sys.argv[1], number), "w") for number in range(200)]
        while True:
            for how in (fcntl.LOCK_EX, fcntl.LOCK_UN):
                for file in files:
                    fcntl.flock(file, how)
    """
    lock = wg_monitor.lock_file(str(tmp_path / "store.lock"))
    others = [tmp_path / "a", tmp_path / "b"]
    for other in others:
        other.mkdir()
    children = [subprocess.Popen([sys.executable, "-c", crowd, str(other)]) for other in others]
    try:
        waited = time.monotonic() + 30
        while Path("/proc/locks").read_text().count("FLOCK") < 100:
            assert time.monotonic() < waited
        assert [wg_monitor.use_of(str(tmp_path / "store.lock")) for _ in range(200)].count("") == 0
    finally:
        for child in children:
            child.kill()
            child.wait()
        os.close(lock)


def comm() -> str:
    return Path("/proc/self/comm").read_text().strip()
