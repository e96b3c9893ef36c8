"""The fixtures of all tests: a place for the daemon, and the turn of those tests that measure."""

import fcntl
from typing import Iterator

import pytest

from harness import Place, need


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests run beside each other, in several workers and several runs. A test marked `alone` waits until no other
    one runs, and no other one starts before it ends. This file is the lock. Linux gives an exclusive lock only when
    nobody holds a shared one, so those tests come last."""
    marks = {mark.name for mark in request.node.iter_markers()}
    if marks & {"machine", "vm"}:
        yield  # They take minutes, and they wait most of that time.
        return
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if "alone" in marks else fcntl.LOCK_SH)
        yield


@pytest.fixture
def place() -> Iterator[Place]:
    need("unshare", "wg")
    with Place() as made:
        yield made
