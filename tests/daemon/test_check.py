"""`wg-monitor check`: one line for each thing that has to be fit, and the exit code of the first misfit."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

import pytest

from device import PRESHARED_KEY, PRIVATE_KEY, peer
from expected import dump, now
from harness import (
    MODULE,
    Place,
    alive,
    command_line,
    lines_of,
    need,
    wait_for,
)
from settings_files import REFUSED


@pytest.fixture(autouse=True)
def tools() -> None:
    need("unshare", "wg")


# $1 appears as /etc/default. The state directory is there, as after the service's first start.
SYSTEM = """
mount --bind "$1" /etc/default && mount -t tmpfs none /var/lib && mkdir -m 0700 /var/lib/wg-monitor || exit 99
shift
exec "$@"
"""
STORE = "/var/lib/wg-monitor/state.db"
TRAIL = "/var/log/wg_monitor.log"
NOT_SET = "none (%s is not set)"


class Checked(NamedTuple):
    code: int
    lines: List[str]  # with one space between the columns

    def about(self, *things: str) -> List[str]:
        return [line for line in self.lines if line.split()[1] in things]

    @property
    def failed(self) -> List[str]:
        return [line for line in self.lines if line.startswith("FAIL ")]


def check(
    place: Place, *arguments: str, environment: Optional[Dict[str, str]] = None, system: str = SYSTEM, **files: bytes
) -> Checked:
    """Run `check` on a system with these files in /etc/default: `wg_monitor` is /etc/default/wg-monitor."""
    defaults = place.path / "default"
    defaults.mkdir(exist_ok=True)
    for name, text in files.items():
        (defaults / name.replace("_", "-")).write_bytes(text)
    behind = [*place.enter(), "sh", "-c", system, "sh", str(defaults)]
    done = command_line("check", *arguments, behind=behind, environment=environment)
    assert not done.stderr and PRIVATE_KEY not in done.stdout and PRESHARED_KEY not in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())
    return Checked(done.returncode, [" ".join(line.split()) for line in done.stdout.splitlines()])


def ok(**things: str) -> List[str]:
    """What `check` says about a fresh system, except for some things."""
    usual = {
        "file": "/etc/default/wg-monitor",
        "settings": "Interval: 30s, Threshold: 180s, Stats: 3600s",
        "permission": "root",
        "wg": "/usr/bin/wg",
        "reading": "no interface; 0 peers",
        "trail": TRAIL,
        "store": STORE,
        "hook": NOT_SET % "ON_CHANGE_SCRIPT",
    }
    return ["ok %s %s" % thing for thing in {**usual, **things}.items()]


# --- Which settings it reads --------------------------------------------------------------------------------------


def test_check_reads_what_the_service_reads_and_makes_no_file(place: Place) -> None:
    place.device(peers=[peer(1, now()), peer(2)])
    hook = place.script("hook", "true\n")
    text = "# settings\nTHRESHOLD='240'\nON_CHANGE_SCRIPT=%s\nTZ=UTC\n" % hook
    found = check(place, wg_monitor=text.encode())
    settings = "Interval: 30s, Threshold: 240s, Stats: 3600s"
    assert found == (0, ok(settings=settings, reading="wg0; 2 peers", hook=str(hook)))
    assert list(place.logs.iterdir()) == []


def test_the_settings_file_need_not_exist(place: Place) -> None:
    assert check(place) == (0, ok(file="/etc/default/wg-monitor: No such file or directory"))


def test_check_reads_what_an_instance_reads(place: Place) -> None:
    place.device("wg0", [peer(1)])
    place.device("wg1", [peer(2)])
    found = check(place, "wg0", wg_monitor=b"INTERVAL=x\n", wg_monitor_wg0=b"INTERVAL=5\n")
    assert found.code == 0
    assert found.lines == ok(
        file="/etc/default/wg-monitor-wg0",
        settings="Interval: 5s, Threshold: 180s, Stats: 3600s, Interface: wg0",
        reading="wg0; 1 peer",
        trail="/var/log/wg_monitor-wg0.log",
        store="/var/lib/wg-monitor/state-wg0.db",
    )


def test_an_empty_value_in_the_file_unsets_what_the_unit_sets(place: Place) -> None:
    place.device("wg1", [peer(2)])
    found = check(place, "wg0", wg_monitor_wg0=b"INTERFACE=\nSTATE_PATH=''\n")
    expected = ok(
        file="/etc/default/wg-monitor-wg0",
        reading="wg1; 1 peer",
        trail="/var/log/wg_monitor-wg0.log",
        store=NOT_SET % "STATE_PATH",
    )
    assert found == (0, expected)


def test_flags_override_what_the_service_reads(place: Place) -> None:
    found = check(place, "--interval", "7", "--state-path=", "--debug", wg_monitor=b"INTERVAL=x\nTHRESHOLD=90\n")
    assert found == (0, ok(settings="Interval: 7s, Threshold: 90s, Stats: 3600s"))


def test_the_environment_replaces_the_file_only_on_request(place: Place) -> None:
    """Then the settings are those of `wg-monitor --from-environment`, which knows no unit."""
    variables, text = {"THRESHOLD": "90"}, b"THRESHOLD=120\n"
    found = check(place, environment=variables, wg_monitor=text)
    assert found == (0, ok(settings="Interval: 30s, Threshold: 120s, Stats: 3600s"))
    found = check(place, "--from-environment", environment=variables, wg_monitor=text)
    assert found == (0, ok(settings="Interval: 30s, Threshold: 90s, Stats: 3600s", store=NOT_SET % "STATE_PATH")[1:])


# --- Settings -----------------------------------------------------------------------------------------------------


def test_check_reports_every_wrong_setting(place: Place) -> None:
    hook = place.script("hook", "true\n", 0o777)
    text = "INTERVAL=0\nDEBUG=maybe\nLOG_PATH=/etc/trail\nSTATE_PATH=state.db\nON_CHANGE_SCRIPT=%s\n" % hook
    found = check(place, "--threshold", "abc", wg_monitor=text.encode())
    assert found.code == 2
    assert [line.partition(":")[0] for line in found.failed] == [
        "FAIL settings INTERVAL",
        "FAIL settings --threshold",
        "FAIL settings STATE_PATH",
        "FAIL settings DEBUG",
        "FAIL trail LOG_PATH",
        "FAIL hook ON_CHANGE_SCRIPT",
    ]
    assert len(found.about("settings")) == 4 and not found.about("store")


def test_the_exit_code_is_that_of_the_first_misfit(place: Place) -> None:
    hook = place.script("hook", "true\n", 0o777)
    place.wg("true")
    assert place.fake_wg is not None
    place.fake_wg.chmod(0o644)
    found = check(place, "--log-path", "/etc/wg-monitor-test", "--on-change-script", str(hook))
    assert found.code == 5
    assert [line.split()[1] for line in found.failed] == ["wg", "trail", "hook"]
    assert not found.about("reading")


def test_check_reports_every_unknown_name_and_every_refused_line_by_its_number(place: Place) -> None:
    text = b"INTERVALL=5\n\nexport DEBUG=1\nFOO=bar\nTHRESHOLD=$(touch %s)\nLOG_FMT='json'\n" % str(place.path / "ran").encode()
    found = check(place, wg_monitor=text)
    assert found.code == 2
    unlike = "is invalid: a shell and systemd read it differently; use NAME='VALUE'"
    assert found.about("file") == [
        "ok file /etc/default/wg-monitor",
        "FAIL file line 1: INTERVALL is not a setting and has no effect; similar ones: INTERVAL",
        "FAIL file line 3: 'export DEBUG=1' %s" % unlike,
        "FAIL file line 4: FOO is not a setting and has no effect; similar ones: none",
        "FAIL file line 5: 'THRESHOLD=$(touch %s)' %s" % (place.path / "ran", unlike),
        "FAIL file line 6: LOG_FMT is not a setting and has no effect; similar ones: LOG_PATH, LOG_FORMAT",
    ]
    assert found.lines[6:] == ok()[1:]
    assert not (place.path / "ran").exists()


@pytest.mark.once
def test_no_refused_line_gets_past_the_command(place: Place) -> None:
    for case in REFUSED:
        found = check(place, wg_monitor=case.text)
        assert found.code == 2, case.name
        numbers = [int(line.split()[3].rstrip(":")) for line in found.failed if "' is invalid: a shell" in line]
        assert numbers == case.lines, case.name


def test_a_name_in_the_environment_is_reported_if_it_is_nearly_a_setting(place: Place) -> None:
    found = check(place, "--from-environment", environment={"INTERVALL": "5", "FOO": "bar"})
    assert found.failed == ["FAIL settings INTERVALL is not a setting and has no effect; similar ones: INTERVAL"]
    assert found.code == 2


def test_before_its_first_start_the_service_has_no_directory_for_the_store(place: Place) -> None:
    """systemd creates it, but no other one that somebody chose."""
    before = SYSTEM.replace(" && mkdir -m 0700 /var/lib/wg-monitor", "")
    found = check(place, system=before)
    assert found.about("store") == ["ok store %s, whose directory the first start creates" % STORE]
    assert found.code == 0
    other = check(place, system=before, wg_monitor=b"STATE_PATH=/var/lib/other/state.db\n")
    assert other.failed and other.failed == other.about("store")
    flag = check(place, "--state-path", STORE, system=before)
    assert flag.failed and flag.failed == flag.about("store")


def test_a_settings_file_that_cannot_be_read(place: Place) -> None:
    (place.path / "default/wg-monitor").mkdir(parents=True)
    found = check(place)
    assert found.failed == ["FAIL file /etc/default/wg-monitor: Is a directory"] and found.code == 1


@pytest.mark.parametrize(
    ("text", "misfit"), [(b"THRESHOLD=30", "THRESHOLD: '30'"), (b"THRESHOLD=60\nINTERVAL=90", "THRESHOLD: '60'")]
)
def test_a_threshold_that_is_not_above_the_interval(place: Place, text: bytes, misfit: str) -> None:
    found = check(place, wg_monitor=text)
    (line,) = found.failed
    assert line.startswith("FAIL settings %s is not above the interval: " % misfit)
    assert found.code == 2


# --- The reading --------------------------------------------------------------------------------------------------


def test_an_interface_that_does_not_exist(place: Place) -> None:
    place.device("wg0", [peer(1)])
    found = check(place, wg_monitor=b"INTERFACE=wg0,wg7\n")
    assert found.failed == ["FAIL reading wg0; 1 peer; [wg7] no such WireGuard interface yet"]
    assert found.code == 1


READINGS = [
    ("exit 3", "wg exited with status 3"),
    ("echo 'wg: %s' >&2; exit 1" % PRIVATE_KEY, "wg exited with status 1: wg: (key)"),
    ("printf 'wg0\\tno line'", "the output of wg breaks off"),
    ("kill -9 $$", "wg was ended by SIGKILL"),
]


@pytest.mark.parametrize(("behaviour", "words"), READINGS, ids=["a status", "a key in its words", "half a line", "a signal"])
def test_a_wg_that_fails(place: Place, behaviour: str, words: str) -> None:
    place.wg(behaviour)
    found = check(place)
    assert found.failed == ["FAIL reading " + words] and found.code == 1


def test_a_wg_that_cannot_be_executed(place: Place) -> None:
    place.wg("true")
    assert place.fake_wg is not None
    place.fake_wg.write_bytes(b"\x7fELF")
    found = check(place)
    assert found.failed == ["FAIL reading /usr/bin/wg cannot be run: Exec format error"] and found.code == 1


def test_what_wg_cannot_read_or_prints_in_no_known_form(place: Place) -> None:
    place.wg_prints(dump(peer(1)) + b"wg0\t%s\n" % PRIVATE_KEY.encode(), "Unable to access interface wg1: x\n")
    found = check(place)
    faults = "[wg1] cannot be read: its peers keep their state; [wg0] 1 line from wg is invalid: no peer is reported"
    (line,) = found.failed
    assert line.startswith("FAIL reading wg0; 1 peer; " + faults) and found.code == 1
    assert check(place, "wg2").failed == ["FAIL reading no interface; 0 peers; [wg2] no such WireGuard interface yet"]


def test_a_wg_that_hangs_is_killed(place: Place) -> None:
    pids = place.path / "pids"
    place.wg("trap '' TERM; echo $$ >>%s; sleep 300" % pids)
    found = check(place)
    assert found.failed == ["FAIL reading wg did not answer within 10s"] and found.code == 1
    (pid,) = lines_of(pids)
    wait_for("the end of wg", lambda: not alive(int(pid)))


def test_without_permission_wg_is_not_run(place: Place) -> None:
    place.wg("exit 0")
    done = command_line("check", "--from-environment", behind=[*place.enter(), "unshare", "--user"])
    assert done.returncode == 4
    things = [line.split()[:2] for line in done.stdout.splitlines()]
    assert things[1] == ["FAIL", "permission"] and ["ok", "wg"] in things
    assert not [thing for _, thing in things if thing == "reading"]
    assert place.run_count() == 0


# --- Who holds the store and the trail ----------------------------------------------------------------------------

HOLD = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Another process holds the lock of a file. Yields its process id."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_the_process_that_holds_the_trail_is_named(place: Place) -> None:
    lock = place.logs / ".wg_monitor.log.lock"
    with held(lock) as pid:
        name = Path("/proc/%d/comm" % pid).read_text().strip()
        assert check(place, wg_monitor=b"") == (0, ok(trail="%s, in use by process %d (%s)" % (TRAIL, pid, name)))
    assert check(place, wg_monitor=b"") == (0, ok())
    assert [path.name for path in place.logs.iterdir()] == [lock.name]


def test_a_running_monitor_is_named_as_the_one_that_holds_the_store(place: Place) -> None:
    store = place.path / "state.db"
    device = place.device()
    monitor = place.start("--state-path", str(store))
    device.settle()
    name = Path("/proc/%d/comm" % monitor.pid).read_text().strip()
    found = check(place, wg_monitor=b"STATE_PATH=%s\n" % str(store).encode())
    assert found.about("store") == ["ok store %s, in use by process %d (%s)" % (store, monitor.pid, name)]
    assert found.code == 0
    assert monitor.stop() == 0
    assert check(place).about("store") == ["ok store %s" % store]


def test_another_file_with_the_same_inode_elsewhere_does_not_count(place: Place) -> None:
    """Every file system has inodes of its own. The first file of a new tmpfs usually has the same number."""
    here, there = place.path / "here", place.path / "there"
    script = """
    for place in "$1" "$2"; do mkdir "$place"; mount -t tmpfs none "$place"; done
    touch "$1/.trail.lock" "$2/.trail.lock"
    stat --format=%%i "$1/.trail.lock" "$2/.trail.lock"
    exec flock "$2/.trail.lock" %s -I %s check --from-environment --log-path "$1/trail"
    """ % (sys.executable, MODULE)
    need("flock")
    behind = [*place.enter(), "sh", "-c", script, "sh", str(here), str(there)]
    done = subprocess.run(behind, stdout=subprocess.PIPE, text=True, check=True)
    first, second, *lines = done.stdout.splitlines()
    assert first == second
    assert "ok    trail        %s" % (here / "trail") in lines
