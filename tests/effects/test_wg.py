"""One run of wg: real processes that print, fail or hang, and the answer that the monitor makes of them."""

import errno
import os
from pathlib import Path
from typing import Iterator

import pytest

import wg_monitor
from harness import wait_for
from values import START, at
from wg_monitor import Answer, Moment, Probe


class Clock:
    """Replaces the clocks, since a test cannot set those of the machine."""

    def __init__(self) -> None:
        self.now = START


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(wg_monitor, "moment", lambda: made.now)
    return made


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    """A probe that runs a script. The script waits until the test releases it."""
    script = tmp_path / "wg"
    script.write_text(
        "#!/bin/sh\nwhile [ ! -e %s ]; do sleep 0.02; done\n. %s\n" % (tmp_path / "gate", tmp_path / "gate")
    )
    script.chmod(0o755)
    made = Probe(str(script))
    yield made
    if made.pid:
        made.kill()
        os.waitpid(made.pid, 0)
    for descriptor in (made.output, made.errors):
        if descriptor >= 0:
            os.close(descriptor)


def release(probe: Probe, text: str) -> Answer:
    """The answer after the script has run this text."""
    gate = Path(probe.wg).with_name("gate")
    gate.with_name("next").write_text(text)
    gate.with_name("next").replace(gate)
    return wait_for("the end of wg", probe.answer)


@pytest.mark.parametrize(
    ("step", "wall"),
    [(0.0, 0.0), (3600.0, 0.0), (-3600.0, -3600.0)],
    ids=["steady", "set forward", "set back"],
)
def test_a_reading_has_the_time_at_which_wg_was_started(probe: Probe, clock: Clock, step: float, wall: float) -> None:
    """The earlier one, if the wall clock was set meanwhile: so no handshake looks older than it is."""
    probe.start()
    clock.now = at(8.0, step)
    answer = release(probe, "echo x")
    assert answer == Answer(2, "", "", Moment(START.wall + wall, START.boot))
    probe.clear()


@pytest.mark.parametrize("text", ["exit 3", "kill -KILL $$", "printf x"])
def test_a_failed_run_has_the_time_at_which_wg_was_started(probe: Probe, clock: Clock, text: str) -> None:
    probe.start()
    clock.now = at(8.0)
    answer = release(probe, text)
    assert answer.why and answer.at == START


def test_a_run_that_takes_too_long_is_killed_and_says_so_once(
    probe: Probe, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wg_monitor, "WG_TIMEOUT_S", 0)
    probe.start()
    assert probe.answer() == Answer(0, "", "wg did not answer within 0s", START)
    wait_for("the end of wg", lambda: probe.answer() is None and not probe.pid)
    assert probe.output < 0, "the former files may still be written to"


def test_the_output_about_one_interface_gets_its_column(probe: Probe) -> None:
    probe.start("wg0", "dump", interface="wg0")
    answer = release(
        probe, "printf 'private\\tpublic\\n'; head -c 70000 /dev/zero | tr '\\0' x; echo; echo 'last\tline'"
    )
    blocks = list(probe.blocks(answer.size))
    assert len(blocks) > 1
    assert b"".join(blocks) == b"wg0\tprivate\tpublic\nwg0\t" + b"x" * 70_000 + b"\nwg0\tlast\tline\n"
    probe.clear()


def test_a_file_that_cannot_be_made_leaves_no_other_one_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def make() -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real()

    real = wg_monitor.anonymous_file
    monkeypatch.setattr(wg_monitor, "anonymous_file", make)
    probe = wg_monitor.Probe("/bin/false")
    held = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(OSError):
            probe.start("all", "dump")
    assert len(os.listdir("/proc/self/fd")) == held + 1
