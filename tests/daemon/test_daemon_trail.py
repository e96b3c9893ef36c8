"""The trail of a running daemon: rotation, deletion, a full disk, a second monitor."""

import fcntl
import json
import re
import signal
import stat
import subprocess
from typing import List

import pytest

from device import peer
from expected import now, told
from harness import (
    Place,
    lines_of,
    texts,
    wait_for,
)
from scale import scaled


def all_lines(place: Place) -> List[str]:
    """The lines of the rotated trails and of the current one, in order."""
    paths = sorted(place.logs.glob("wg_monitor.log.*")) + [place.trail]
    return [line for path in paths for line in lines_of(path)]


def test_a_trail_that_is_rotated_repeatedly_loses_and_tears_no_line(place: Place) -> None:
    device = place.device(peers=[peer(0, now())])
    monitor = place.start()
    monitor.match("ONLINE .*")
    rounds = scaled(20)
    for number in range(1, rounds + 1):
        place.trail.rename(place.logs / ("wg_monitor.log.%03d" % number))
        device.publish([peer(number * 100 + i, now()) for i in range(50)])
        wait_for("the new trail", lambda: len([t for t in texts(lines_of(place.trail)) if "ONLINE" in t]) == 50)
    assert monitor.stop() == 0
    lines = texts(all_lines(place))
    assert len([text for text in lines if text.startswith("ONLINE ")]) == rounds * 50 + 1
    assert len([text for text in lines if text.startswith("REMOVED ")]) == rounds * 50 - 49
    assert len(lines) == len(set(lines)) == rounds * 100 - 48 + 2
    assert lines == texts(monitor.console())


def test_a_deleted_trail_is_created_again(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    monitor = place.start()
    monitor.match("ONLINE .*")
    place.trail.unlink()
    device.publish([])
    monitor.match("REMOVED .*")
    assert len(lines_of(place.trail)) == 1
    assert stat.S_IMODE(place.trail.stat().st_mode) == 0o640


def test_a_trail_whose_directory_disappears_receives_its_lines_once_the_directory_exists_again(place: Place) -> None:
    directory = place.logs / "deep"
    directory.mkdir()
    device = place.device(peers=[peer(1, now())])
    monitor = place.start("--log-path", "/var/log/deep/trail")
    wait_for("ONLINE", lambda: any(" ONLINE " in line for line in lines_of(directory / "trail")))
    (directory / "trail").unlink()
    (directory / ".trail.lock").unlink()
    directory.rmdir()
    device.publish([])
    monitor.hear(r"\[WARN\] /var/log/deep/trail cannot be written: No such file or directory.*")
    monitor.hear(r"REMOVED .*")
    directory.mkdir()
    wait_for("the kept lines", lambda: any(" REMOVED " in line for line in lines_of(directory / "trail")))
    assert monitor.stop() == 0
    assert lines_of(directory / "trail") == monitor.console()[2:]


def test_a_full_disk_tears_no_line(place: Place) -> None:
    disk = place.logs / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "none", str(disk)], check=True)
    place.stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=True)
    trail = disk / "trail"
    device = place.device(peers=[])
    monitor = place.start("--log-path", "/var/log/disk/trail")
    wait_for("a trail", lambda: lines_of(trail))
    (disk / "ballast").write_bytes(b"x" * 57_000)
    device.publish([peer(number, now()) for number in range(500)])  # 50 KiB of lines
    monitor.hear(r"\[WARN\] /var/log/disk/trail cannot be written: No space left on device.*")
    device.settle()
    (disk / "ballast").unlink()
    monitor.hear(r"\[WARN\] /var/log/disk/trail can be written again after .*")
    assert monitor.stop() == 0
    assert lines_of(trail) == monitor.console()
    assert len([text for text in texts(lines_of(trail)) if text.startswith("ONLINE ")]) == 500


@pytest.mark.parametrize("umask", ["000", "077", "777"])
def test_the_first_trail_has_its_mode_whatever_the_umask(place: Place, umask: str) -> None:
    device = place.device()
    script = place.script("with-umask", 'umask %s; exec "$@"\n' % umask)
    place.start(wrapper=str(script))
    device.settle()
    assert stat.S_IMODE(place.trail.stat().st_mode) == 0o640


def test_a_second_monitor_on_the_same_trail_reports_to_the_console_only(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    service = place.start()
    service.see(told("ONLINE", one, "new"))
    by_hand = place.start("--debug")
    by_hand.hear(r"\[WARN\] .*another monitor.*")
    by_hand.hear(re.escape(told("ONLINE", one, "new")))
    device.publish([])
    by_hand.hear(re.escape(told("REMOVED", one)))
    service.see(told("REMOVED", one))
    assert by_hand.stop() == 0
    assert service.stop() == 0
    assert lines_of(place.trail) == service.console()


def test_a_second_monitor_cannot_take_a_trail_that_was_just_rotated(place: Place) -> None:
    """Between a rotation and the next line, no process has the new file."""
    one = peer(1, now())
    device = place.device(peers=[one])
    service = place.start()
    service.see(told("ONLINE", one, "new"))
    rotated = place.logs / "wg_monitor.log.1"
    place.trail.rename(rotated)
    place.trail.touch(0o640)
    by_hand = place.start("--debug")
    by_hand.hear(r"\[WARN\] .*another monitor.*")
    by_hand.hear(re.escape(told("ONLINE", one, "new")))
    assert not place.trail.read_bytes()
    device.publish([])
    service.see(told("REMOVED", one))
    assert by_hand.stop() == 0
    assert service.stop() == 0
    assert lines_of(rotated) + lines_of(place.trail) == service.console()


def test_the_lines_of_a_second_monitor_with_a_store_wait_until_the_first_one_ends(place: Place) -> None:
    one = peer(1, now())
    place.device(peers=[one])
    service = place.start()
    service.see(told("ONLINE", one, "new"))
    place.trail.rename(place.logs / "wg_monitor.log.1")
    second = place.start("--state-path", str(place.path / "state.db"))
    second.hear(r"\[WARN\] .*/wg_monitor.log cannot be written: another monitor writes to it; .*")
    second.hear(re.escape(told("ONLINE", one, "new")))
    assert service.stop() == 0
    second.match(r"\[WARN\] .*/wg_monitor.log can be written again after .*")
    assert second.stop() == 0
    assert lines_of(place.trail) == service.console()[-1:] + second.console()


def test_who_may_only_read_the_trail_cannot_silence_it(place: Place) -> None:
    one = peer(1, now())
    device = place.device(peers=[one])
    place.trail.touch(0o640)
    reader = place.trail.open("rb")
    place.stack.callback(reader.close)
    fcntl.flock(reader, fcntl.LOCK_EX)
    monitor = place.start()
    monitor.see(told("ONLINE", one, "new"))
    place.trail.rename(place.logs / "wg_monitor.log.1")
    place.trail.touch(0o640)
    other = place.trail.open("rb")
    place.stack.callback(other.close)
    fcntl.flock(other, fcntl.LOCK_EX)
    device.publish([])
    monitor.see(told("REMOVED", one))
    assert monitor.stop() == 0
    assert not [line for line in monitor.console() if "[WARN]" in line]


def test_the_lock_names_its_holder_and_outlives_it(place: Place) -> None:
    lock = place.logs / ".wg_monitor.log.lock"
    device = place.device()
    first = place.start()
    device.settle()
    assert lock.read_text() == "%d\n" % first.pid
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    inode = lock.stat().st_ino
    first.stop(signal.SIGKILL)
    second = place.start()
    second.hear("Monitor started .*")
    assert (lock.read_text(), lock.stat().st_ino) == ("%d\n" % second.pid, inode)
    assert second.stop() == 0
    assert lines_of(place.trail) == first.console() + second.console()


def test_a_lock_that_cannot_be_used_is_a_fault_that_passes(place: Place) -> None:
    lock = place.logs / ".wg_monitor.log.lock"
    lock.symlink_to(place.path / "elsewhere")
    one = peer(1, now())
    place.device(peers=[one])
    monitor = place.start()
    why = "its lock /var/log/.wg_monitor.log.lock cannot be used: it is a link"
    monitor.hear(r"\[WARN\] /var/log/wg_monitor.log cannot be written: %s; its lines are kept in memory" % why)
    monitor.hear(re.escape(told("ONLINE", one, "new")))
    assert not place.trail.exists() and not (place.path / "elsewhere").exists()
    lock.unlink()
    monitor.match(r"\[WARN\] /var/log/wg_monitor.log can be written again after .*")
    assert monitor.stop() == 0
    assert lines_of(place.trail) == monitor.console()


def test_after_a_change_of_the_format_the_first_character_tells_which_format_a_line_has(place: Place) -> None:
    device = place.device(peers=[peer(1, now())])
    store = str(place.path / "state.db")
    for log_format in ("text", "json", "text"):
        former = place.trail.read_bytes() if place.trail.exists() else b""
        monitor = place.start("--state-path", store, "--log-format", log_format)
        device.publish([peer(1, now())])
        device.settle()
        assert monitor.stop() == 0
        assert place.trail.read_bytes().startswith(former)
    lines = lines_of(place.trail)
    assert {line[0] for line in lines} >= {"2", "{"}
    for line in lines:
        if line.startswith("{"):
            assert json.loads(line)["seq"]
        else:
            assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line)


def test_an_incomplete_last_line_does_not_merge_with_the_next(place: Place) -> None:
    place.trail.write_text("2023-10-27 10:00:00 torn")
    place.trail.chmod(0o640)
    device = place.device()
    monitor = place.start()
    device.settle()
    monitor.stop()
    assert lines_of(place.trail)[0] == "2023-10-27 10:00:00 torn"
    assert lines_of(place.trail)[1:] == monitor.console()
