"""Fixtures that several files share: a place for the daemon, a store, local time, and the lock that lets a test run alone."""

import fcntl
import signal
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

import wg_monitor
from harness import Place, need
from reports import story
from values import at, zone

# Whoever runs the tests may ignore them (nohup, and a shell for what it runs in the background), and the programs under
# test would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests run in parallel, in several workers and several runs. A test marked `alone` waits until no other test runs,
    and no other test starts before it ends. The lock is this file. Linux grants an exclusive lock only while no shared
    one is held, so these tests usually run last."""
    marks = {mark.name for mark in request.node.iter_markers()}
    if marks & {"machine", "vm"}:
        yield  # These take minutes and wait most of that time.
        return
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if "alone" in marks else fcntl.LOCK_SH)
        yield


@pytest.fixture
def place() -> Iterator[Place]:
    need("unshare", "wg")
    with Place() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """A store that a monitor keeps open."""
    yield from story(tmp_path / "state.db")


@pytest.fixture
def utc() -> Iterator[None]:
    """Local time is UTC."""
    with zone("UTC"):
        yield


@pytest.fixture
def signals() -> Iterator[None]:
    """A monitor in the test's own process replaces the handlers of signals."""
    handlers: Dict[int, Any] = {number: signal.getsignal(number) for number in wg_monitor.Wakeup.SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> List[wg_monitor.Moment]:
    """The simulated clock of a monitor in the test's own process: its only element, which the test replaces."""
    moments = [at(0)]
    monkeypatch.setattr(wg_monitor, "moment", lambda: moments[0])
    monkeypatch.setattr(wg_monitor, "boot_id", lambda: "boot")
    return moments
