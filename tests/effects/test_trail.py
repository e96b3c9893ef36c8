"""The trail and the outbox before it, against real files and file systems."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest

import wg_monitor
from disks import fill, free, on_a_small_disk
from harness import need
from scale import scaled
from values import chosen, ids
from wg_monitor import (
    BACKLOG_MAX,
    HOOK_NONE,
    Delivered,
    Event,
    Moment,
    Outbox,
    Position,
    Record,
    Session,
    Store,
    StoreFault,
    Table,
    Trail,
    TrailBusy,
)

NOW = Moment(1_700_000_000.0, 5_000.0)


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[Trail]:
    made = Trail(str(tmp_path / "trail.log"))
    yield made
    made.close()


def tell(trail: Trail, *lines: str) -> int:
    """What the outbox does for each batch."""
    trail.position()
    done, error = trail.write([line.encode() + b"\n" for line in lines])
    if error is not None:
        raise error
    return done


def told(path: Path) -> List[str]:
    """Whole lines only: a torn last one is a failure."""
    text = path.read_text()
    assert not text or text.endswith("\n"), "torn: %r" % text[-80:]
    return text.split("\n")[:-1]


# --- One file after another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_trail_has_its_mode_whatever_the_umask_says(trail: Trail, umask: int) -> None:
    before = os.umask(umask)
    try:
        tell(trail, "first")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(trail.path).st_mode) == 0o640


def test_a_trail_that_exists_is_appended_to_and_keeps_its_mode(trail: Trail) -> None:
    path = Path(trail.path)
    path.write_text("from before\n")
    path.chmod(0o600)
    tell(trail, "new")
    assert told(path) == ["from before", "new"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_is_open_for_appending_and_not_for_children(trail: Trail) -> None:
    trail.open()
    assert fcntl.fcntl(trail.descriptor, fcntl.F_GETFL) & os.O_APPEND
    assert not os.get_inheritable(trail.descriptor)


def test_a_line_goes_to_a_new_file_when_the_trail_was_moved(trail: Trail) -> None:
    path = Path(trail.path)
    tell(trail, "one")
    path.rename(path.with_suffix(".1"))
    tell(trail, "two")
    assert told(path.with_suffix(".1")) == ["one"]
    assert told(path) == ["two"]


def test_a_line_goes_to_the_new_file_that_logrotate_made(trail: Trail) -> None:
    path = Path(trail.path)
    tell(trail, "one")
    path.rename(path.with_suffix(".1"))
    path.touch(0o640)
    made = path.stat().st_ino
    tell(trail, "two")
    assert told(path) == ["two"] and path.stat().st_ino == made


def test_a_deleted_trail_is_made_anew(trail: Trail) -> None:
    tell(trail, "one")
    os.unlink(trail.path)
    tell(trail, "two")
    assert told(Path(trail.path)) == ["two"]


@pytest.mark.parametrize("lose", [os.unlink, lambda path: os.rename(path, path + ".1")], ids=["deleted", "moved"])
@pytest.mark.parametrize("wait", [False, True], ids=["at-the-next-line", "after-a-reload"])
def test_a_new_trail_has_the_group_of_the_last_one(trail: Trail, lose: Callable[[str], None], wait: bool) -> None:
    need()
    tell(trail, "one")
    os.chown(trail.path, 0, 4)
    tell(trail, "two")
    lose(trail.path)
    if wait:
        trail.reopen()
    tell(trail, "three")
    status = os.stat(trail.path)
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4, 0o640)


def test_a_trail_is_created_without_the_right_to_give_it_a_group(tmp_path: Path) -> None:
    need("setpriv")
    path = tmp_path / "trail.log"
    path.touch(0o640)
    os.chown(str(path), 0, 4)
    script = """
import os, sys, wg_monitor
trail = wg_monitor.Trail(sys.argv[1])
for line in (b"one\\n", b"two\\n"):
    trail.position()
    assert trail.write([line]) == (1, None)
    os.rename(trail.path, trail.path + "." + line.decode().strip())
"""
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(wg_monitor.__file__))
    command = ["setpriv", "--bounding-set=-chown", sys.executable, "-c", script, str(path)]
    assert subprocess.run(command, env=environment).returncode == 0
    assert [told(Path("%s.%s" % (path, name))) for name in ("one", "two")] == [["one"], ["two"]]
    assert os.stat("%s.two" % path).st_gid == 0


def test_a_trail_that_was_emptied_goes_on_at_its_beginning(trail: Trail) -> None:
    tell(trail, "one", "two")
    os.truncate(trail.path, 0)
    position = trail.position()
    assert position.size == 0
    tell(trail, "three")
    assert Path(trail.path).read_bytes() == b"three\n"


def test_a_directory_that_goes_and_comes_back_costs_no_line(trail: Trail, tmp_path: Path) -> None:
    trail.path = str(tmp_path / "logs" / "trail.log")
    directory = Path(trail.path).parent
    directory.mkdir()
    tell(trail, "one")
    directory.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        trail.position()
    (tmp_path / "away").rename(directory)
    tell(trail, "two")
    assert told(Path(trail.path)) == ["one", "two"]


def test_what_somebody_left_unfinished_does_not_swallow_the_next_line(trail: Trail) -> None:
    path = Path(trail.path)
    path.write_text("half a li")
    tell(trail, "whole")
    assert told(path) == ["half a li", "whole"]


def test_rotations_under_load_lose_and_tear_no_line(trail: Trail) -> None:
    path, ended, rotated = Path(trail.path), threading.Event(), []  # type: Path, threading.Event, List[Path]

    def rotate() -> None:
        while not ended.wait(0.001):
            if path.exists():
                aside = path.with_name("%s.%05d" % (path.name, len(rotated)))
                path.rename(aside)
                rotated.append(aside)

    thread = threading.Thread(target=rotate)
    thread.start()
    lines = ["line %d %s" % (number, "x" * (number % 300)) for number in range(scaled(3000))]
    try:
        for line in lines:
            assert tell(trail, line) == 1
    finally:
        ended.set()
        thread.join()
    everywhere = [line for each in [*rotated, path] if each.exists() for line in told(each)]
    assert everywhere == lines
    assert rotated


# --- What cannot be a trail ---------------------------------------------------------------------------------------


class Unfit(NamedTuple):
    name: str
    make: Callable[[Path, Path], object]  # trail, another file
    why: str


def make_fifo(path: Path, other: Path) -> None:
    os.mkfifo(str(path))


def make_device(path: Path, other: Path) -> None:
    need()
    os.mknod(str(path), 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # /dev/full: a write would be noticed


def make_socket(path: Path, other: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))


def give_away(path: Path, other: Path) -> None:
    need()
    path.touch()
    os.chown(str(path), 65534, 65534)


UNFIT = [
    Unfit("a link", lambda path, other: path.symlink_to(other), "symbolic link"),
    Unfit("a link to nothing", lambda path, other: path.symlink_to(other.with_suffix(".none")), "symbolic link"),
    Unfit("a second name of another file", lambda path, other: os.link(str(other), str(path)), "2 names"),
    Unfit("a named pipe that nobody reads", make_fifo, "not a regular file"),
    Unfit("a device", make_device, "not a regular file"),
    Unfit("a socket", make_socket, "No such device"),
    Unfit("a directory", lambda path, other: path.mkdir(), "directory"),
    Unfit("somebody else's file", give_away, "belongs to"),
]


@pytest.mark.parametrize("case", UNFIT, ids=ids(UNFIT))
def test_it_is_refused_and_untouched(trail: Trail, tmp_path: Path, case: Unfit) -> None:
    other = tmp_path / "shadow"
    other.write_text("root:secret\n")
    case.make(Path(trail.path), other)
    trail.take_lock()
    before, count = os.lstat(trail.path), len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=case.why):
        trail.position()
    assert other.read_text() == "root:secret\n"
    after = os.lstat(trail.path)
    assert (before.st_mode, before.st_size, before.st_uid) == (after.st_mode, after.st_size, after.st_uid)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".trail.log.lock", "shadow", "trail.log"]
    assert len(os.listdir("/proc/self/fd")) == count, "a descriptor was left open"


def test_a_directory_that_is_a_link_is_refused(trail: Trail, tmp_path: Path) -> None:
    """The path is resolved once, at the start: a link there now was put there since."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    trail.path = str(tmp_path / "link" / "trail.log")
    with pytest.raises(OSError):
        trail.position()
    assert not list((tmp_path / "real").iterdir())


def test_what_takes_the_trails_place_later_is_refused_too(trail: Trail, tmp_path: Path) -> None:
    other = tmp_path / "shadow"
    other.write_text("root:secret\n")
    tell(trail, "one")
    os.unlink(trail.path)
    os.symlink(str(other), trail.path)
    with pytest.raises(OSError, match="symbolic link"):
        trail.position()
    os.unlink(trail.path)
    tell(trail, "two")
    assert other.read_text() == "root:secret\n"
    assert told(Path(trail.path)) == ["two"]


# --- One writer ---------------------------------------------------------------------------------------------------

HOLD = """
import sys, wg_monitor
trail = wg_monitor.Trail(sys.argv[1])
trail.open()
print("held", flush=True)
sys.stdin.read()
"""


def lock_of(trail: Trail) -> Path:
    path = Path(trail.path)
    return path.with_name(".%s.lock" % path.name)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_second_writer_is_kept_out_until_the_first_one_ends(trail: Trail, end: int) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, trail.path],
        cwd=str(Path(wg_monitor.__file__).parent),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(TrailBusy):
        trail.position()
    assert wg_monitor.open_own_trail(trail.path, waiting=False) is None
    assert wg_monitor.open_own_trail(trail.path, waiting=True) is not None
    assert lock_of(trail).read_text() == "%d\n" % holder.pid, "a monitor without the lock changed it"
    holder.send_signal(end)
    holder.communicate()
    assert lock_of(trail).read_text() == "%d\n" % holder.pid
    tell(trail, "mine")
    assert told(Path(trail.path)) == ["mine"]
    assert lock_of(trail).read_text() == "%d\n" % os.getpid()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_new_lock_is_for_its_owner_only_whatever_the_umask_says(trail: Trail, umask: int) -> None:
    before = os.umask(umask)
    try:
        trail.open()
    finally:
        os.umask(before)
    assert stat.S_IMODE(lock_of(trail).stat().st_mode) == 0o600
    assert not os.get_inheritable(trail.lock)


def test_a_lock_that_others_can_read_is_closed_to_them_and_an_old_pid_is_replaced(trail: Trail) -> None:
    lock_of(trail).write_text("4294967295\nand more\n")
    lock_of(trail).chmod(0o644)
    trail.open()
    assert stat.S_IMODE(lock_of(trail).stat().st_mode) == 0o600
    assert lock_of(trail).read_text() == "%d\n" % os.getpid()


@pytest.mark.parametrize("anew", [False, True], ids=["moved", "moved and made anew"])
def test_the_lock_is_held_from_a_rotation_to_the_next_line(trail: Trail, anew: bool) -> None:
    tell(trail, "one")
    os.rename(trail.path, trail.path + ".1")
    if anew:
        Path(trail.path).touch(0o640)
    with pytest.raises(TrailBusy):
        Trail(trail.path).open()
    trail.reopen()  # as SIGHUP does
    with pytest.raises(TrailBusy):
        Trail(trail.path).open()
    tell(trail, "two")
    with pytest.raises(TrailBusy):
        Trail(trail.path).open()
    assert told(Path(trail.path)) == ["two"]


def test_a_lock_on_the_trail_itself_concerns_nobody(trail: Trail) -> None:
    Path(trail.path).touch(0o640)
    with open(trail.path) as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        tell(trail, "one")
    assert told(Path(trail.path)) == ["one"]


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_a_lock_that_was_deleted_or_replaced_is_taken_anew(trail: Trail, replaced: bool) -> None:
    tell(trail, "one")
    count = len(os.listdir("/proc/self/fd"))
    lock_of(trail).rename(lock_of(trail).with_name("aside"))
    if replaced:
        lock_of(trail).touch(0o644)
    tell(trail, "two")
    assert lock_of(trail).read_text() == "%d\n" % os.getpid()
    assert stat.S_IMODE(lock_of(trail).stat().st_mode) == 0o600
    with pytest.raises(TrailBusy):
        Trail(trail.path).open()
    assert told(Path(trail.path)) == ["one", "two"]
    assert len(os.listdir("/proc/self/fd")) == count, "a descriptor was left open"


def test_a_new_lock_that_another_monitor_took_costs_no_line(trail: Trail) -> None:
    outbox = Outbox(None, trail)
    put(outbox, [1])
    pass_on(outbox)
    lock_of(trail).unlink()
    other = Trail(trail.path)
    tell(other, "line 77")
    put(outbox, [2, 3])
    for _ in range(2):
        with pytest.raises(TrailBusy):
            pass_on(outbox)
    other.close()
    pass_on(outbox)
    assert numbers_in(Path(trail.path)) == [1, 77, 2, 3]


# What the warning says about the lock, for what cannot be a trail either.
UNFIT_LOCKS = dict(zip((case.name for case in UNFIT), ["it is a link"] * 2 + ["it has 2 names"] + ["not a regular file"] * 4))


@pytest.mark.parametrize("case", UNFIT, ids=ids(UNFIT))
def test_a_lock_that_is_unfit_is_refused_and_untouched(trail: Trail, tmp_path: Path, case: Unfit) -> None:
    other = tmp_path / "shadow"
    other.write_text("root:secret\n")
    case.make(lock_of(trail), other)
    before, count = os.lstat(str(lock_of(trail))), len(os.listdir("/proc/self/fd"))
    why = UNFIT_LOCKS.get(case.name, case.why)
    for _ in range(2):
        with pytest.raises(OSError, match="^its lock %s cannot be used: .*%s" % (lock_of(trail), why)) as caught:
            trail.position()
        assert not isinstance(caught.value, TrailBusy)
    after = os.lstat(str(lock_of(trail)))
    assert (before.st_mode, before.st_size, before.st_uid) == (after.st_mode, after.st_size, after.st_uid)
    assert other.read_text() == "root:secret\n" and not os.path.exists(trail.path)
    assert len(os.listdir("/proc/self/fd")) == count, "a descriptor was left open"


def the_lock_is_held_on_a_full_disk_without_a_pid(disk: Path) -> None:
    trail = Trail(str(disk / "trail.log"))
    tell(trail, "first")
    trail.close()
    lock_of(trail).write_bytes(b"")
    fill(disk)
    trail.position()
    assert lock_of(trail).read_bytes() == b""
    with pytest.raises(TrailBusy):
        Trail(trail.path).open()
    free(disk)
    tell(trail, "second")
    assert told(Path(trail.path)) == ["first", "second"]
    trail.close()


# --- A full disk --------------------------------------------------------------------------------------------------


def write_until_full(trail: Trail) -> int:
    """Lines of 100 bytes until one is cut; how many are whole. A page has no place for a whole number of them."""
    whole = 0
    while True:
        trail.position()
        line = ("%08d " % whole).ljust(99, "x").encode() + b"\n"
        done, error = trail.write([line])
        whole += done
        if error is not None:
            assert done == 0 and trail.cut and line.startswith(trail.cut)
            return whole


def cut_trail(disk: Path) -> Tuple[Trail, int]:
    """A trail whose disk is full, and how many whole lines it took before it cut one."""
    trail = Trail(str(disk / "trail.log"))
    tell(trail, "first")
    fill(disk)
    return trail, write_until_full(trail)


def finish_cut_line(trail: Trail, number: int, *more: str) -> None:
    trail.position()
    line = ("%08d " % number).ljust(99, "x").encode() + b"\n"
    lines = [line, *(text.encode() + b"\n" for text in more)]
    assert trail.write(lines) == (len(lines), None)


def a_line_cut_by_a_full_disk_is_finished_where_it_began(disk: Path) -> None:
    trail, whole = cut_trail(disk)
    size = Path(trail.path).stat().st_size
    assert trail.position().size == size - len(trail.cut)
    assert trail.write([("%08d " % whole).ljust(99, "x").encode() + b"\n"])[0] == 0  # still full
    assert Path(trail.path).stat().st_size == size
    free(disk)
    finish_cut_line(trail, whole, "next")
    lines = told(Path(trail.path))
    assert [line[:8] for line in lines[1:-1]] == ["%08d" % number for number in range(whole + 1)]
    assert {len(line) for line in lines[1:-1]} == {99}
    assert lines[-1] == "next"
    trail.close()


def it_is_finished_in_the_file_that_was_moved_meanwhile(disk: Path) -> None:
    trail, whole = cut_trail(disk)
    rotated = disk / "trail.log.1"
    Path(trail.path).rename(rotated)
    trail.reopen()  # as SIGHUP does
    free(disk)
    finish_cut_line(trail, whole)
    tell(trail, "next")
    assert len(told(rotated)) == whole + 2
    assert told(Path(trail.path)) == ["next"]
    trail.close()


def it_is_written_whole_where_that_file_was_deleted(disk: Path) -> None:
    trail, whole = cut_trail(disk)
    Path(trail.path).unlink()
    free(disk)
    finish_cut_line(trail, whole)
    assert [len(line) for line in told(Path(trail.path))] == [99]
    trail.close()


def it_is_written_whole_where_that_file_was_emptied(disk: Path) -> None:
    trail, whole = cut_trail(disk)
    os.truncate(trail.path, 0)  # as `: > trail.log` does
    free(disk)
    finish_cut_line(trail, whole, "next")
    assert [line[:8] for line in told(Path(trail.path))] == ["%08d" % whole, "next"]
    trail.close()


def it_is_written_whole_where_that_file_was_truncated_elsewhere(disk: Path) -> None:
    """In the middle of an earlier line, at a byte that the cut line ends with as well."""
    trail, whole = cut_trail(disk)
    os.truncate(trail.path, len("first\n") + 100 + 50)
    free(disk)
    finish_cut_line(trail, whole, "next")
    lines = told(Path(trail.path))
    assert [line[:8] for line in lines] == ["first", "%08d" % 0, "%08d" % 1, "%08d" % whole, "next"]
    assert [len(line) for line in lines] == [5, 99, 50, 99, 4]
    trail.close()


def it_is_written_whole_where_something_else_was_appended(disk: Path) -> None:
    trail, whole = cut_trail(disk)
    cut = trail.cut.decode()
    free(disk)
    with open(trail.path, "a") as file:
        file.write(" a stranger")
    finish_cut_line(trail, whole, "next")
    lines = told(Path(trail.path))
    assert lines[whole + 1 :] == [cut + " a stranger", ("%08d " % whole).ljust(99, "x"), "next"]
    trail.close()


def it_is_written_whole_in_the_new_file_where_the_moved_one_was_emptied(disk: Path) -> None:
    trail, whole = cut_trail(disk)
    rotated = disk / "trail.log.1"
    Path(trail.path).rename(rotated)
    os.truncate(str(rotated), 0)
    free(disk)
    finish_cut_line(trail, whole)
    assert [len(line) for line in told(Path(trail.path))] == [99] and not rotated.read_bytes()
    trail.close()


def an_unfinished_line_is_not_mended_in_a_way_that_tears_it_when_the_disk_is_full(disk: Path) -> None:
    """Somebody's half line fills the last byte: the newline that it lacks finds no room, and nothing else may go."""
    trail = Trail(str(disk / "trail.log"))
    Path(trail.path).write_bytes(b"h" * 4096)
    fill(disk)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            trail.position()
    free(disk)
    tell(trail, "whole")
    assert told(Path(trail.path)) == ["h" * 4096, "whole"]
    trail.close()


# --- After a crash ------------------------------------------------------------------------------------------------


class Crash(NamedTuple):
    name: str
    found: bytes  # what stands in the file from where the lines were to go
    struck: int
    cut: int
    after: bytes = b""  # what stands there once the rest is written


LINES = [b"one\n", b"two\n", b"three\n"]
CRASHES = [
    Crash("nothing was written", b"", 0, 0, b"one\ntwo\nthree\n"),
    Crash("a part of the first line", b"o", 0, 1, b"one\ntwo\nthree\n"),
    Crash("all of a line but its end", b"one", 0, 3, b"one\ntwo\nthree\n"),
    Crash("a line and a part of the next", b"one\ntw", 1, 2, b"one\ntwo\nthree\n"),
    Crash("two lines", b"one\ntwo\n", 2, 0, b"one\ntwo\nthree\n"),
    Crash("everything", b"one\ntwo\nthree\n", 3, 0, b"one\ntwo\nthree\n"),
    Crash("lines with somebody else's between", b"one\nstrange\ntwo\nth", 2, 2, b"one\nstrange\ntwo\nthree\n"),
    Crash("somebody else's half line", b"one\nstra", 1, 0, b"one\nstra\ntwo\nthree\n"),
    Crash("a line that only begins like ours", b"one\ntwofold\n", 1, 0, b"one\ntwofold\ntwo\nthree\n"),
]


@pytest.mark.parametrize("case", CRASHES, ids=ids(CRASHES))
def test_lines_are_struck_out_and_a_torn_one_is_finished(trail: Trail, case: Crash) -> None:
    path = Path(trail.path)
    path.write_bytes(b"before\n" + case.found)
    position = Position(path.stat().st_dev, path.stat().st_ino, len(b"before\n"))
    struck = trail.resume(position, LINES)
    assert (struck, len(trail.cut)) == (case.struck, case.cut)
    if struck < len(LINES):
        trail.position()
        assert trail.write(LINES[struck:]) == (len(LINES) - struck, None)
    assert path.read_bytes() == b"before\n" + case.after


def test_a_torn_line_is_finished_in_the_file_that_was_rotated_meanwhile(tmp_path: Path, trail: Trail) -> None:
    path, rotated = Path(trail.path), tmp_path / "trail-20231027.log"
    path.write_bytes(b"before\none\ntw")
    position = Position(path.stat().st_dev, path.stat().st_ino, 7)
    path.rename(rotated)
    path.touch()
    trail.open()
    assert trail.resume(position, LINES) == 1
    trail.position()
    assert trail.write(LINES[1:2]) == (1, None)
    tell(trail, "three")
    assert rotated.read_bytes() == b"before\none\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_an_inode_that_is_gone_or_was_given_to_a_younger_file_is_not_found(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"short")
    status = path.stat()
    for position in (Position(status.st_dev, status.st_ino, 6), Position(status.st_dev, status.st_ino + 1, 0)):
        with pytest.raises(FileNotFoundError, match="^the former trail file is gone$"):
            wg_monitor.find_inode(str(tmp_path), position)
        with pytest.raises(FileNotFoundError, match="^the former trail file is gone$"):
            Trail(str(tmp_path / "trail.log")).resume(position, LINES)
    # A reboot may have given the disk another number.
    found = wg_monitor.find_inode(str(tmp_path), Position(status.st_dev + 1, status.st_ino, 5))
    assert os.path.samestat(os.fstat(found), status)
    os.close(found)


# --- The outbox ---------------------------------------------------------------------------------------------------


def record(seq: int, text: Optional[str] = None) -> Record:
    line = (text or "line %d" % seq).encode() + b"\n"
    return Record(seq, Event("TEST", NOW.wall), line, HOOK_NONE)


def put(outbox: Outbox, numbers: Sequence[int]) -> None:
    for seq in numbers:
        assert outbox.delivered.last + 1 == seq
        outbox.put(record(seq))


def pass_on(outbox: Outbox) -> None:
    """As the monitor does at the end of a turn, but that errors are raised."""
    outbox.save(Table(), NOW, checkpoint=False, steady=0.0, utc_offset="+00:00")
    outbox.write()


def store_in(directory: Path) -> Store:
    """A new one, open and loaded."""
    store = Store(str(directory / "state.db"))
    store.open()
    store.load(chosen(), NOW, NOW.wall)
    return store


def numbers_in(path: Path) -> List[int]:
    return [int(line.split()[1]) for line in told(path)]


def test_lines_leave_memory_once_they_are_written(trail: Trail) -> None:
    outbox = Outbox(None, trail)
    put(outbox, range(1, 25_001))
    pass_on(outbox)
    assert not outbox.unwritten and not outbox.unsaved
    status = os.stat(trail.path)
    assert outbox.delivered == Delivered(25_000, (), Position(status.st_dev, status.st_ino, status.st_size))
    assert numbers_in(Path(trail.path)) == list(range(1, 25_001))


UNTOLD = ("nothing to tell", "another monitor's trail", "a trail that is gone", "a trail that is full")


@pytest.mark.parametrize("why", UNTOLD)
def test_what_the_store_writes_ahead_stays_bounded_where_no_line_reaches_the_trail(
    trail: Trail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    store = store_in(tmp_path)
    outbox = Outbox(store, None if why == UNTOLD[1] else trail)
    if why == UNTOLD[2]:
        trail.path = str(tmp_path / "later" / "trail.log")
    monkeypatch.setattr(trail, "write", lambda lines: (0, OSError(errno.ENOSPC, "full")))
    for number in range(1, 2_001 if why == UNTOLD[0] else 401):
        if why != UNTOLD[0]:
            outbox.put(record(number, "x" * 20_000))
        try:
            pass_on(outbox)
        except OSError:
            assert why in UNTOLD[2:]
    pages = os.stat(str(tmp_path / "state.db-wal")).st_size // 4096
    store.close()
    assert wg_monitor.WAL_PAGES <= pages < 2 * wg_monitor.WAL_PAGES


def test_memory_is_bounded_and_what_it_had_no_room_for_is_counted(trail: Trail, tmp_path: Path) -> None:
    directory = tmp_path / "later"
    trail.path = str(directory / "trail.log")
    outbox = Outbox(None, trail)
    for first in (1, BACKLOG_MAX // 2, BACKLOG_MAX):
        put(outbox, range(first, first + BACKLOG_MAX // 2 if first > 1 else BACKLOG_MAX // 2))
        with pytest.raises(OSError):
            pass_on(outbox)
    last = outbox.delivered.last
    assert len(outbox.unwritten) == BACKLOG_MAX
    assert outbox.lost == {"trail": last - BACKLOG_MAX} and last > BACKLOG_MAX
    assert outbox.delivered.missing == ((last - BACKLOG_MAX + 1, last),)
    directory.mkdir()
    pass_on(outbox)
    assert numbers_in(Path(trail.path)) == list(range(last - BACKLOG_MAX + 1, last + 1))
    assert not outbox.unwritten and not outbox.delivered.missing


def the_line_that_is_in_the_trail_by_half_is_not_dropped(disk: Path) -> None:
    trail = Trail(str(disk / "trail.log"))
    tell(trail, "line 0")
    fill(disk)
    outbox = Outbox(None, trail)
    put(outbox, range(1, 1000))
    with pytest.raises(OSError, match="No space"):
        pass_on(outbox)
    assert trail.cut, "the page had room for a whole number of lines"
    half = outbox.unwritten[0].seq
    put(outbox, range(1000, 1000 + BACKLOG_MAX))
    assert len(outbox.unwritten) == BACKLOG_MAX and outbox.unwritten[0].seq == half
    assert outbox.delivered.missing == ((half, half), (1001, 999 + BACKLOG_MAX))
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    pass_on(outbox)
    numbers = numbers_in(Path(trail.path))
    assert numbers[: half + 1] == list(range(half + 1))
    assert numbers[half + 1 :] == list(range(1001, 1000 + BACKLOG_MAX))
    assert outbox.lost == {"trail": 1000 - half}
    trail.close()


def test_with_a_store_nothing_is_lost_however_long_the_trail_is_gone(trail: Trail, tmp_path: Path) -> None:
    directory = tmp_path / "later"
    trail.path = str(directory / "trail.log")
    store = store_in(tmp_path)
    outbox = Outbox(store, trail)
    last = BACKLOG_MAX + 25_000
    for first in range(1, last, 25_000):
        put(outbox, range(first, first + 25_000))
        with pytest.raises(OSError):
            pass_on(outbox)
    assert len(outbox.unwritten) == BACKLOG_MAX and not outbox.unsaved
    assert outbox.delivered.missing == ((1, last),)
    directory.mkdir()
    pass_on(outbox)
    assert numbers_in(Path(trail.path)) == list(range(1, last + 1))
    assert not outbox.lost
    store.close()


# --- A store that comes back --------------------------------------------------------------------------------------


def left_over(tmp_path: Path, trail: Trail, written: bytes) -> Position:
    """A store with three lines, of which the trail has got this much when the last run was killed."""
    path = Path(trail.path)
    path.write_bytes(b"before\n")
    position = Position(path.stat().st_dev, path.stat().st_ino, len(b"before\n"))
    store = store_in(tmp_path)
    records = [record(seq) for seq in (1, 2, 3)]
    store.save(records, Table(), NOW, Delivered(3, ((1, 3),), position), checkpoint=False, steady=0.0, utc_offset="")
    store.close()
    path.write_bytes(b"before\n" + written)
    return position


def without_a_store(tmp_path: Path, trail: Trail, numbers: Sequence[int]) -> Outbox:
    """The outbox of a run that could not load its store, and began with these lines."""
    outbox = Outbox(Store(str(tmp_path / "state.db")), trail)
    outbox.delivered = Delivered(numbers[0] - 1)
    put(outbox, numbers)
    return outbox


def come_back(outbox: Outbox, sessions: Optional[Dict[int, Session]] = None) -> str:
    assert outbox.store is not None
    outbox.store.open()
    loaded = outbox.store.load(chosen(), NOW, NOW.wall)
    return outbox.adopt(loaded.delivered, sessions or {})


LEFT = [
    ("none of its lines", b"", [1, 2, 3, 10, 11]),
    ("one of its lines", b"line 1\n", [1, 2, 3, 10, 11]),
    ("a line and a half", b"line 1\nlin", [1, 2, 3, 10, 11]),
    ("all of its lines", b"line 1\nline 2\nline 3\n", [1, 2, 3, 10, 11]),
]


@pytest.mark.parametrize(("name", "written", "numbers"), LEFT, ids=ids(LEFT))
def test_lines_that_a_store_brings_back_come_before_those_that_wait(
    tmp_path: Path, trail: Trail, name: str, written: bytes, numbers: List[int]
) -> None:
    position = left_over(tmp_path, trail, written)
    outbox = without_a_store(tmp_path, trail, [10, 11])
    assert come_back(outbox) == ""
    pass_on(outbox)
    assert told(Path(trail.path)) == ["before", *("line %d" % number for number in numbers)]
    assert outbox.delivered.missing == () and outbox.delivered.last == 11
    assert outbox.delivered.position == position._replace(size=os.stat(trail.path).st_size)
    assert outbox.store and [seq for seq, _ in outbox.store.lines(1, 99, 99)] == numbers
    outbox.store.close()


def test_lines_that_a_store_brings_back_come_after_those_that_did_not_wait(tmp_path: Path, trail: Trail) -> None:
    left_over(tmp_path, trail, b"line 1\n")
    outbox = without_a_store(tmp_path, trail, [10, 11])
    with pytest.raises(StoreFault, match="it is not open"):
        outbox.write()
    assert told(Path(trail.path)) == ["before", "line 1", "line 10", "line 11"]
    outbox.put(record(12))
    assert come_back(outbox) == ""
    assert outbox.delivered.missing == ((2, 3), (12, 12))
    pass_on(outbox)
    assert told(Path(trail.path))[4:] == ["line 2", "line 3", "line 12"]
    assert outbox.store and [seq for seq, _ in outbox.store.lines(1, 99, 99)] == [1, 2, 3, 10, 11, 12]
    outbox.store.close()


def test_lines_of_a_trail_that_is_gone_may_be_duplicated_and_are_not_lost(tmp_path: Path, trail: Trail) -> None:
    left_over(tmp_path, trail, b"line 1\n")
    with open(trail.path, "rb"):  # so that no younger file gets the inode
        Path(trail.path).unlink()
        outbox = without_a_store(tmp_path, trail, [10])
        warning = come_back(outbox)
    assert warning == "3 lines may be duplicated: the former trail file is gone"
    pass_on(outbox)
    assert numbers_in(Path(trail.path)) == [1, 2, 3, 10]
    assert outbox.store
    outbox.store.close()


def test_lines_that_only_the_store_has_delay_nothing_while_it_fails(tmp_path: Path, trail: Trail) -> None:
    """A store that was loaded fails while the trail has gaps: the lines in memory pass."""
    left_over(tmp_path, trail, b"")
    outbox = without_a_store(tmp_path, trail, [10])
    come_back(outbox)
    assert outbox.store
    outbox.store.close_database()
    with pytest.raises(StoreFault, match="it is not open"):
        outbox.write()
    assert told(Path(trail.path)) == ["before", "line 10"]
    assert outbox.delivered.missing == ((1, 3),)
    assert outbox.store.open()
    pass_on(outbox)
    assert told(Path(trail.path)) == ["before", "line 10", "line 1", "line 2", "line 3"]
    outbox.store.close()


def test_what_memory_had_no_room_for_is_not_looked_for_in_a_store_that_never_had_it(tmp_path: Path, trail: Trail) -> None:
    trail.path = str(tmp_path / "later" / "trail.log")
    last = 10 + BACKLOG_MAX
    outbox = without_a_store(tmp_path, trail, range(10, last + 1))
    assert len(outbox.unwritten) == BACKLOG_MAX and outbox.lost == {"trail": 1, "store": 1}
    (tmp_path / "later").mkdir()
    with pytest.raises(StoreFault, match="it is not open"):
        outbox.write()
    assert numbers_in(Path(trail.path)) == list(range(11, last + 1))
    assert outbox.delivered.missing == ()


def test_waiting_events_get_the_sessions_of_the_store_that_go_on(tmp_path: Path, trail: Trail) -> None:
    left_over(tmp_path, trail, b"line 1\nline 2\nline 3\n")
    outbox = without_a_store(tmp_path, trail, [10])
    own = [Session(number, 100.0, 50.0, 0, 0, 0.0, "here") for number in (7, 8, 9)]
    for number, session in enumerate(own, 11):
        event = record(number).event._replace(interface="wg0", public_key="key %d" % number, session=session, online=1)
        outbox.put(record(number)._replace(event=event))
    goes_on = {7: own[0]._replace(number=1), 9: own[2]._replace(number=2, start=3.0)}
    come_back(outbox, goes_on)
    assert [waiting.seq for waiting in outbox.unsaved] == [10, 11, 12, 13]
    assert [waiting.event.session for waiting in outbox.unsaved] == [None, goes_on[7], own[1], goes_on[9]]
    assert outbox.store
    outbox.store.close()


def test_a_line_is_on_the_disk_before_the_store_is_told(
    tmp_path: Path, trail: Trail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that survives a power failure: commit, write, fsync, mark; the directory too for a new file."""
    happened: List[str] = []
    fsync, mark, write = os.fsync, Store.mark_trail, os.write

    def fsync_(descriptor: int) -> None:
        fsync(descriptor)
        happened.append("fsync " + ("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "trail"))

    def write_(descriptor: int, data: bytes) -> int:
        happened.append("write")
        return write(descriptor, data)

    def mark_(self: Store, *arguments: object) -> None:
        happened.append("mark")
        mark(self, *arguments)  # type: ignore[arg-type]

    def save_(self: Store, *arguments: object, **more: object) -> None:
        save(self, *arguments, **more)  # type: ignore[arg-type]
        happened.append("commit")

    save = Store.save
    trail.take_lock()
    store = store_in(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync_)
    monkeypatch.setattr(os, "write", write_)
    monkeypatch.setattr(Store, "mark_trail", mark_)
    monkeypatch.setattr(Store, "save", save_)
    outbox = Outbox(store, trail)
    put(outbox, [1, 2])
    pass_on(outbox)
    put(outbox, [3])
    pass_on(outbox)
    store.close()
    once = ["commit", "write", "fsync trail", "mark"]
    assert happened == ["fsync directory", *once, *once]


@pytest.mark.parametrize(
    "case",
    [
        a_line_cut_by_a_full_disk_is_finished_where_it_began,
        it_is_finished_in_the_file_that_was_moved_meanwhile,
        it_is_written_whole_where_that_file_was_deleted,
        it_is_written_whole_where_that_file_was_emptied,
        it_is_written_whole_where_that_file_was_truncated_elsewhere,
        it_is_written_whole_where_something_else_was_appended,
        it_is_written_whole_in_the_new_file_where_the_moved_one_was_emptied,
        the_lock_is_held_on_a_full_disk_without_a_pid,
        an_unfinished_line_is_not_mended_in_a_way_that_tears_it_when_the_disk_is_full,
        the_line_that_is_in_the_trail_by_half_is_not_dropped,
    ],
    ids=lambda case: case.__name__,
)
def test_on_a_disk_of_64_kilobytes(tmp_path: Path, case: Callable[[Path], None]) -> None:
    on_a_small_disk(case, tmp_path)
