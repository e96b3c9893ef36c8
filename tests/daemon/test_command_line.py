"""The command line: help, version, debug, and what it needs to run. test_check.py has the command check."""

import signal

import pytest

from device import peer
from expected import MONITOR_STARTED, console_oddities, now, told
from harness import (
    Place,
    command_line,
    need,
)


@pytest.fixture(autouse=True)
def tools() -> None:
    need("unshare", "wg")


NOBODY = ["unshare", "--user"]  # an unmapped user without capabilities


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_need_no_root(flag: str) -> None:
    done = command_line(flag, behind=NOBODY)
    assert done.returncode == 0 and done.stdout and not done.stderr


def test_invalid_usage_is_rejected_without_root() -> None:
    assert command_line("--interval", "0", behind=NOBODY).returncode == 2


def test_without_root_the_daemon_says_that_it_needs_root(place: Place) -> None:
    done = command_line("--log-path", str(place.path / "trail"), behind=NOBODY)
    assert done.returncode == 4 and "root" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (place.path / "trail").exists()


def test_without_wg_the_daemon_says_what_to_install(place: Place) -> None:
    place.wg("true")
    assert place.fake_wg is not None
    place.fake_wg.chmod(0o644)
    monitor = place.start()
    assert monitor.wait() == 5
    assert len(monitor.console()) == 1 and "wireguard-tools" in monitor.console()[0]
    assert not place.trail.exists()


@pytest.mark.parametrize(("flag", "steps"), [("--debug=true", True), ("--debug=no", False)])
def test_debug_takes_a_value_which_overrides_the_variable(place: Place, flag: str, steps: bool) -> None:
    device = place.device()
    monitor = place.start("--from-environment", flag, environment={"DEBUG": "false" if steps else "true"})
    device.settle()
    assert monitor.stop() == 0
    assert any(line.startswith("[DEBUG] ") for line in monitor.trail()) == steps


def test_names_that_are_nearly_settings_are_reported_at_the_start(place: Place) -> None:
    device = place.device()
    others = {"HOSTNAME": "x", "HOME": "/", "USER": "root", "INVOCATION_ID": "1", "STATE_DIRECTORY": "/x", "TERM": "dumb"}
    environment = {"LOG_FMT": "json", "INTERVALL": "5", **others}
    monitor = place.start("--from-environment", environment=environment)
    device.settle()
    assert monitor.stop() == 0
    warnings = [
        "[WARN] INTERVALL is not a setting and has no effect; similar ones: INTERVAL",
        "[WARN] LOG_FMT is not a setting and has no effect; similar ones: LOG_PATH, LOG_FORMAT",
    ]
    assert monitor.trail()[:3] == [MONITOR_STARTED, *warnings]
    assert [line for line in monitor.trail() if line.startswith("[WARN]")] == warnings
    assert [line[20:] for line in monitor.console()[:3]] == [MONITOR_STARTED, *warnings]


def test_without_from_environment_no_name_is_reported(place: Place) -> None:
    device = place.device()
    monitor = place.start(environment={"LOG_FMT": "json", "INTERVALL": "5"})
    device.settle()
    assert monitor.stop() == 0
    assert not [line for line in monitor.trail() if line.startswith("[WARN]")]


def test_a_debug_run_by_hand_starts_and_stops(place: Place) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    monitor = place.start("--debug", "--interval", "5", "--threshold", "60")
    monitor.see(told("ONLINE", one, "new"))
    assert monitor.stop(signal.SIGINT) == 0
    assert monitor.trail()[0] == "Monitor started | Interval: 5s, Threshold: 60s, Stats: 3600s"
    assert not console_oddities(monitor)
