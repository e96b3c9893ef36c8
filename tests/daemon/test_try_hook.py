"""`wg-monitor test-hook [EVENT]`: one run of the configured hook, for an event of a made-up peer."""

import re
from pathlib import Path
from typing import Dict, List, Optional

import pytest

import wg_monitor
from harness import Place, alive, command_line, lines_of, need, wait_for

# $1 appears as /etc/default.
SYSTEM = 'mount --bind "$1" /etc/default || exit 99; shift; exec "$@"'
SHOW = 'env | grep -v "^PWD=\\|^SHLVL=\\|^_=\\|^OLDPWD=" | sort >%s; echo "line one"; echo "line two"; '


class Tried:
    def __init__(self, place: Place, *words: str, settings: str = "", environment: Optional[Dict[str, str]] = None) -> None:
        need("unshare")
        defaults = place.path / "default"
        defaults.mkdir(exist_ok=True)
        (defaults / "wg-monitor").write_text(settings)
        behind = [*place.enter(), "sh", "-c", SYSTEM, "sh", str(defaults)]
        done = command_line("test-hook", *words, behind=behind, environment=environment)
        self.code, self.lines, self.errors = done.returncode, done.stdout.splitlines(), done.stderr

    @property
    def environment(self) -> Dict[str, str]:
        return dict(line.split("=", 1) for line in self.lines[:-1])


def hook(place: Place, end: str = "exit 0") -> Path:
    return place.script("hook", SHOW % (place.path / "saw") + end + "\n")


def saw(place: Place) -> Dict[str, str]:
    return dict(line.split("=", 1) for line in lines_of(place.path / "saw"))


@pytest.mark.parametrize("kind", wg_monitor.EVENT_KINDS)
def test_the_hook_gets_the_environment_that_is_shown(place: Place, kind: str) -> None:
    tried = Tried(place, kind, settings="ON_CHANGE_SCRIPT=%s\n" % hook(place))
    assert (tried.code, tried.errors) == (0, "")
    assert tried.environment == saw(place)
    assert tried.environment["PEER_EVENT"] == kind and tried.environment["PEER_SEQ"] == "0"
    peer = "" if kind.startswith("IF") else r" \S+"
    words = r"Hook for %s \[wg-test\]%s exited with status 0: line one line two \(\d+\.\d s\)" % (kind, peer)
    assert re.fullmatch(words, tried.lines[-1])


def test_each_kind_of_event_has_the_variables_that_apply_to_it() -> None:
    filled = {}
    for kind in wg_monitor.EVENT_KINDS:
        record = wg_monitor.Record(0, wg_monitor.made_up(kind, 1e9), b"", wg_monitor.HOOK_DUE)
        found = wg_monitor.hook_environment(record)
        filled[kind] = {name[5:] for name, value in found.items() if value and name.startswith("PEER_")}
    interface = {"SEQ", "EVENT", "TIME", "IFACE", "HANDSHAKE", "ONLINE", "TEXT"}
    peer = interface | {"NAME", "PUBKEY", "ENDPOINT", "ALLOWED_IPS", "SESSION", "SESSION_START"}
    ended = peer | {"REASON", "LAST_SEEN", "SESSION_SECONDS", "SESSION_RX", "SESSION_TX"}
    assert filled == {
        "ONLINE": peer | {"FIRST_SEEN"},
        "OFFLINE": ended,
        "ROAMING": peer | {"FIRST_SEEN", "PREVIOUS_ENDPOINT"},
        "CHANGED": peer,
        "REMOVED": ended,
        "IFDOWN": interface,
        "IFUP": interface,
    }


def test_the_peer_is_nobodys() -> None:
    """The addresses are those for documentation; the key has the form of one, and could not be mistaken for one."""
    event = wg_monitor.made_up("ROAMING", 1e9)
    line = "\t".join((str(event.interface), str(event.public_key), "(none)", str(event.endpoint)))
    line += "\t%s\t1\t2\t3\toff" % event.allowed_ips
    assert wg_monitor.parse_peer(line.encode()) is not None
    assert str(event.public_key).startswith("test/hook/")
    assert {str(event.endpoint)[:11], event.before[:11]} == {"203.0.113.7", "198.51.100."}


def test_without_an_event_the_peer_goes(place: Place) -> None:
    tried = Tried(place, "--on-change-script", str(hook(place)))
    assert (tried.code, tried.environment["PEER_EVENT"]) == (0, "OFFLINE")


ENDS = [
    ("exit 3", r"exited with status 3: line one line two"),
    ("kill -SEGV $$", r"was ended by SIGSEGV: line one line two"),
    ("sleep 1000 & echo $! >>%s; wait", r"took too long and was killed: line one line two"),
]


@pytest.mark.parametrize(("end", "words"), ENDS, ids=["a status", "a signal", "a timeout"])
def test_a_hook_that_fails_makes_the_exit_code_1(place: Place, end: str, words: str) -> None:
    pids = place.path / "pids"
    path = hook(place, end % pids if "%s" in end else end)
    tried = Tried(place, "ONLINE", "--script-timeout", "1", settings="ON_CHANGE_SCRIPT=%s\n" % path)
    assert tried.code == 1
    assert re.fullmatch(r"Hook for ONLINE \[wg-test\] \S+ %s \(\d+\.\d s\)" % words, tried.lines[-1])
    wait_for("the end of its children", lambda: not any(alive(int(pid)) for pid in lines_of(pids)))


def test_a_hook_that_cannot_be_started_makes_the_exit_code_1(place: Place) -> None:
    path = place.path / "hook"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    tried = Tried(place, settings="ON_CHANGE_SCRIPT=%s\n" % path)
    assert tried.code == 1
    assert re.match(r"The hook is not run: No such file or directory", tried.lines[-1])


class Refused:
    NO_HOOK = "wg_monitor: ON_CHANGE_SCRIPT is not set: there is no hook; set it, or use --on-change-script FILE\n"
    UNFIT = "is unfit: it is writable by others (mode 0777); make it an executable file that only root can change\n"


def test_what_the_daemon_would_refuse_is_refused(place: Place) -> None:
    path = hook(place)
    path.chmod(0o777)
    unfit = Tried(place, settings="ON_CHANGE_SCRIPT=%s\n" % path)
    assert (unfit.code, unfit.lines) == (2, [])
    assert unfit.errors == "wg_monitor: ON_CHANGE_SCRIPT: '%s' %s" % (path, Refused.UNFIT)
    assert Tried(place).errors == Refused.NO_HOOK
    wrong = Tried(place, "--script-timeout", "0", "--on-change-script", str(path))
    assert wrong.code == 2 and wrong.errors.startswith("wg_monitor: --script-timeout: '0' is invalid")
    assert not (place.path / "saw").exists()


USAGE: List[List[str]] = [["GONE"], ["online"], ["ONLINE", "OFFLINE"], ["ONLINE", "--no-such-flag"], [""]]


@pytest.mark.parametrize("words", USAGE)
def test_invalid_usage_runs_nothing(place: Place, words: List[str]) -> None:
    tried = Tried(place, *words, settings="ON_CHANGE_SCRIPT=%s\n" % hook(place))
    assert (tried.code, tried.lines) == (2, [])
    assert tried.errors.startswith("wg_monitor: invalid usage: ")
    assert not (place.path / "saw").exists()


def test_a_flag_overrides_the_file_and_from_environment_replaces_it(place: Place) -> None:
    path = hook(place)
    missing = "ON_CHANGE_SCRIPT=/no/such/hook\n"
    assert Tried(place, settings=missing).code == 2
    assert Tried(place, "--on-change-script", str(path), settings=missing).code == 0
    environment = {"ON_CHANGE_SCRIPT": str(path)}
    assert Tried(place, "IFUP", "--from-environment", settings=missing, environment=environment).code == 0
    assert Tried(place, settings=missing, environment=environment).code == 2
    assert Tried(place, "--from-environment", settings="ON_CHANGE_SCRIPT=%s\n" % path).errors == Refused.NO_HOOK


IGNORING = ["env", "--ignore-signal=CHLD"]


def test_a_parent_that_ignores_the_ends_of_children_hides_none(place: Place) -> None:
    """A child inherits that, and the kernel then forgets how its own children ended."""
    path = place.script("hook", "exit 7\n")
    done = command_line("test-hook", "--on-change-script", str(path), behind=[*place.enter(), *IGNORING])
    assert done.returncode == 1 and "exited with status 7" in done.stdout + done.stderr
    done = command_line("check", behind=[*place.enter(), *IGNORING])
    assert "Traceback" not in done.stderr
