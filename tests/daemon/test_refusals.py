"""Invalid settings: one line on the console, exit status 2, and no file made."""

import os
import re
import stat
from pathlib import Path
from typing import Dict, Optional

import pytest

from expected import MONITOR_STARTED
from harness import (
    Place,
    command_line,
    need,
)


@pytest.fixture(autouse=True)
def tools() -> None:
    need("unshare", "wg")


INVALID_FLAGS = {
    "an interval of zero": "--interval 0",
    "a word for an interval": "--interval abc",
    "a float for an interval": "--interval 1e3",
    "a fraction": "--interval 1.5",
    "a negative interval": "--interval=-1",
    "a sign": "--interval=+5",
    "white space": "--interval=5\t",
    "digits that are not ASCII": "--interval \uff15",
    "underscores": "--interval 1_0",
    "more than a year": "--interval 31536001",
    "a threshold of zero": "--threshold 0",
    "a statistics interval of zero": "--stats-interval 0",
    "a hook timeout of zero": "--script-timeout 0",
    "a history of zero days": "--history-days 0",
    "more than a hundred years": "--history-days 36501",
    "a path for an interface": "--interface ../x",
    "a name that is too long": "--interface abcdefghijklmnop",
    "an empty name": "--interface wg0,,wg1",
    "an escape in a name": "--interface wg\x1b[2J",
    "an unknown format": "--log-format xml",
    "a format in capitals": "--log-format JSON",
    "an unknown liveness": "--liveness ping",
    "an unknown event": "--script-events ONLINE,SOMETIMES",
    "an unknown flag": "--intervall 5",
    "an abbreviated flag": "--inter 5",
    "an unknown command": "start",
    "a flag without its value": "--interval",
    "an invalid value for a switch": "--debug=perhaps",
}


def rejected(*flags: str, environment: Optional[Dict[str, str]] = None, code: int = 2) -> str:
    """Run the daemon with invalid settings and return its one line."""
    done = command_line(*flags, environment=environment)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.endswith("\n") and done.stderr[:-1].isprintable(), done.stderr
    return done.stderr[:-1]


def misplaced(name: str, path: str, why: str, remedy: str = "choose another path") -> str:
    """The line about a path that cannot be used."""
    return "wg_monitor: %s: '%s' cannot be used: %s; %s" % (name, path, why, remedy)


@pytest.mark.parametrize("flags", INVALID_FLAGS.values(), ids=INVALID_FLAGS.keys())
def test_an_invalid_flag_is_rejected_with_one_line_and_creates_no_file(place: Place, flags: str) -> None:
    line = rejected("--log-path", str(place.path / "trail"), *flags.split(" ", 1))
    assert not (place.path / "trail").exists()
    variable = flags.split(" ")[0].split("=")[0].lstrip("-")
    assert variable.replace("-", "_").lower() in line.replace("-", "_").lower()


INVALID_VARIABLES = {
    "INTERVAL": "0",
    "THRESHOLD": "1e3",
    "STATS_INTERVAL": "never",
    "LIVENESS": "1",
    "LOG_FORMAT": "csv",
    "INTERFACE": "wg0;reboot",
    "SCRIPT_TIMEOUT": "-1",
    "SCRIPT_EVENTS": "online",
    "HISTORY_DAYS": "forever",
    "DEBUG": "maybe",
    "LOG_PATH": "trail.log",
    "STATE_PATH": "state.db",
    "ON_CHANGE_SCRIPT": "hook.sh",
}


@pytest.mark.parametrize("variable, value", INVALID_VARIABLES.items(), ids=INVALID_VARIABLES.keys())
def test_an_invalid_variable_is_rejected_by_name_and_value(place: Place, variable: str, value: str) -> None:
    environment = {"LOG_PATH": str(place.path / "trail"), variable: value}
    line = rejected("--from-environment", environment=environment)
    assert variable in line and value in line
    assert not (place.path / "trail").exists()


def test_variables_count_only_with_from_environment_and_a_flag_overrides_them(place: Place) -> None:
    device = place.device()
    variables = {"THRESHOLD": "200", "STATS_INTERVAL": "", "INTERFACE": ""}
    monitor = place.start("--from-environment", environment={**variables, "INTERVAL": "9"})
    device.settle()
    monitor.stop()
    assert monitor.trail()[0] == "Monitor started | Interval: 1s, Threshold: 200s, Stats: 3600s"
    deaf = place.start(environment={"THRESHOLD": "0", "DEBUG": "nonsense"})
    device.settle()
    deaf.hear(MONITOR_STARTED.replace("|", r"\|"))
    assert deaf.stop() == 0


def make_trail(place: Place, kind: str) -> str:
    """Create something that is unfit as a trail, and return its path."""
    path = place.path / "trail"
    if kind == "a link":
        path.symlink_to(place.path / "elsewhere")
    elif kind == "a link to nowhere":
        path.symlink_to("/etc/wg-monitor-test")
    elif kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(str(path))
    elif kind == "a device":
        os.mknod(str(path), 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "a file with two names":
        path.touch()
        os.link(str(path), str(place.path / "second"))
    elif kind == "somebody else's file":
        path.touch()
        os.chown(str(path), 65534, -1)
    elif kind == "in a directory that leads outside":
        path.symlink_to("/etc")
        path = path / "wg-monitor-test"
    elif kind == "in a directory that is not there":
        path = path / "trail"
    elif kind == "in a file":
        path.touch()
        path = path / "trail"
    return str(path)


# Why, and what to do about it: {} is the directory.
UNFIT_FILES = {
    "a link": "it is a link; choose another path",
    "a link to nowhere": "it is a link; choose another path",
    "a directory": "it is not a regular file; choose another path",
    "a pipe": "it is not a regular file; choose another path",
    "a device": "it is not a regular file; choose another path",
    "a file with two names": "it has 2 names, a trail has one; choose another path",
    "somebody else's file": "it belongs to nobody; choose another path",
    "in a directory that leads outside": "it is not under /var/log or /tmp; choose a path there",
    "in a directory that is not there": "there is no directory {}; create it first",
    "in a file": "there is no directory {}; create it first",
}


@pytest.mark.parametrize("kind", UNFIT_FILES)
def test_an_unfit_trail_is_rejected(place: Place, kind: str) -> None:
    path = make_trail(place, kind)
    before = sorted(str(each) for each in place.path.rglob("*"))
    why, remedy = UNFIT_FILES[kind].format(os.path.dirname(path)).split("; ")
    assert rejected("--log-path", path) == misplaced("--log-path", path, why, remedy)
    assert sorted(str(each) for each in place.path.rglob("*")) == before
    assert not os.path.exists("/etc/wg-monitor-test")


OUTSIDE = {
    "outside": "/etc/wg-monitor-test",
    "outside by dots": "/var/log/../../etc/wg-monitor-test",
    "an allowed directory's name with a suffix": "/var/log-evil/wg-monitor-test",
    "relative": "wg-monitor-test",
    "an allowed directory itself": "/tmp",
    "an allowed directory with a slash": "/tmp/",
    "a dot": "/tmp/.",
    "two dots": "/tmp/..",
    "a newline": "/tmp/wg-monitor\ntest",
    "an escape": "/tmp/wg-monitor\x1b[2Jtest",
    "a direction mark": "/tmp/wg-monitor\u202etest",
    "a line separator": "/tmp/wg-monitor\u2028test",
    "bytes that are not UTF-8": "/tmp/wg-monitor\udcfftest",
}


NO_PLACE = ("it is not under /var/log or /tmp", "choose a path there")
NO_PATH = "is invalid: no default replaces it; use an absolute path, without a slash at its end and control characters"


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_trail_outside_the_allowed_directories_is_rejected(path: str) -> None:
    line = rejected("--log-path", path)
    if path.startswith("/") and not path.endswith("/") and path.isprintable():
        assert line == misplaced("--log-path", path, *NO_PLACE)
    else:
        assert re.fullmatch("wg_monitor: --log-path: '[ -~]+' " + NO_PATH, line)
    assert not os.path.lexists(path) or os.path.isdir(path)


def test_a_directory_that_only_begins_like_an_allowed_one_is_rejected(place: Place) -> None:
    """Paths are compared by component, not by prefix."""
    evil = Path("/tmp-wg-monitor-%d" % os.getpid())
    evil.mkdir()
    try:
        trail = str(evil / "trail")
        assert rejected("--log-path", trail) == misplaced("--log-path", trail, *NO_PLACE)
        assert list(evil.iterdir()) == []
    finally:
        evil.rmdir()


NO_STORE_HERE = "cannot be used: it is not under /var/lib or /run or /tmp; choose a path there"
UNFIT_STORES = {
    "outside": ("/etc/wg-monitor-test.db", NO_STORE_HERE),
    "in the directory of the trails": ("/var/log/wg-monitor-test.db", NO_STORE_HERE),
    "in a directory that everyone can write": (
        "/tmp/wg-monitor-test.db",
        "cannot be used: others can write to /tmp (root, mode 1777); choose another path",
    ),
    "relative": ("state.db", NO_PATH),
}


@pytest.mark.parametrize("path, words", UNFIT_STORES.values(), ids=UNFIT_STORES.keys())
def test_an_unfit_store_is_rejected(place: Place, path: str, words: str) -> None:
    line = rejected("--log-path", str(place.path / "trail"), "--state-path", path)
    assert line == "wg_monitor: --state-path: '%s' %s" % (path, words)
    assert not os.path.exists(path)
    assert not (place.path / "trail").exists()


@pytest.mark.parametrize("name", ["theirs", "theirs/mine"])
def test_a_store_whose_directory_others_can_replace_is_rejected(place: Place, name: str) -> None:
    need()
    theirs = place.path / "theirs"
    (theirs / "mine").mkdir(parents=True)
    os.chown(str(theirs), 65534, -1)
    path = place.path / name / "state.db"
    line = rejected("--log-path", str(place.path / "trail"), "--state-path", str(path))
    why = "others can replace its directory: %s belongs to nobody" % theirs
    assert line == misplaced("--state-path", str(path), why, "choose another path")


def make_hook(place: Place, kind: str) -> str:
    directory = place.path / "hooks"
    directory.mkdir()
    hook = place.script("hooks/hook", "true\n")
    if kind == "missing":
        hook.unlink()
    elif kind == "a directory":
        hook.unlink()
        hook.mkdir()
    elif kind == "not executable":
        hook.chmod(0o644)
    elif kind == "writable by its group":
        hook.chmod(0o775)
    elif kind == "writable by all":
        hook.chmod(0o757)
    elif kind == "somebody else's":
        os.chown(str(hook), 65534, -1)
    elif kind == "in a directory that others write to":
        directory.chmod(0o775)
    elif kind == "in somebody else's directory":
        os.chown(str(directory), 65534, -1)
    elif kind == "behind somebody else's link":
        os.chown(str(directory), 65534, -1)
        (directory / "link").symlink_to(place.script("fit", "true\n"))
        return str(directory / "link")
    elif kind == "a link to somebody else's":
        os.chown(str(hook), 65534, -1)
        (place.path / "link").symlink_to(hook)
        return str(place.path / "link")
    return str(hook)


# Why: {0} is the path, {1} its directory.
UNFIT_HOOKS = {
    "missing": "No such file or directory",
    "a directory": "it is not a regular file",
    "not executable": "it is not executable",
    "writable by its group": "it is writable by others (mode 0775)",
    "writable by all": "it is writable by others (mode 0757)",
    "somebody else's": "it belongs to nobody",
    "in a directory that others write to": "{1} is writable by others (mode 0775)",
    "in somebody else's directory": "{1} belongs to nobody",
    "behind somebody else's link": "{1} belongs to nobody",
    "a link to somebody else's": "it belongs to nobody",
}


@pytest.mark.parametrize("kind", UNFIT_HOOKS)
def test_an_unfit_hook_is_rejected(place: Place, kind: str) -> None:
    hook = make_hook(place, kind)
    line = rejected("--log-path", str(place.path / "trail"), "--on-change-script", hook)
    why = UNFIT_HOOKS[kind].format(hook, os.path.dirname(hook))
    remedy = "make it an executable file that only root can change"
    assert line == "wg_monitor: --on-change-script: '%s' is unfit: %s; %s" % (hook, why, remedy)
    assert not (place.path / "trail").exists()


def test_an_unwritable_directory_is_reported_with_its_owner(place: Place) -> None:
    """Root without CAP_DAC_OVERRIDE, as under the units, needs the same permissions as any user."""
    need("setpriv")
    os.chown(str(place.logs), 65534, 65534)
    bound = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    done = command_line("--log-path", str(place.trail), behind=bound)
    assert done.returncode == 4
    mode = stat.S_IMODE(place.logs.stat().st_mode)
    why = "root may not write to %s (nobody, mode %04o)" % (place.logs, mode)
    line = misplaced("--log-path", str(place.trail), why, "change its owner or choose another path")
    assert done.stderr == line + "\n"
    assert not place.trail.exists()


def test_a_second_monitor_on_the_same_store_is_rejected(place: Place) -> None:
    device = place.device()
    store = str(place.path / "state.db")
    place.start("--state-path", store)
    device.settle()
    second = place.start("--state-path", store, "--log-path", "/var/log/second.log")
    assert second.wait() == 1
    words = "--state-path: '%s' is in use by another monitor: a store has one writer; stop it or choose another path"
    assert second.console() == ["wg_monitor: " + words % store]
    assert not (place.logs / "second.log").exists()
