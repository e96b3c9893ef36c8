"""Small file systems in a mount namespace of the test, which it can fill, make read-only or cut from power.

A child process keeps the namespace. The test reads it through /proc/PID/root and starts daemons in it.
"""

import errno
import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Callable, List, Optional, Type

from harness import PROJECT, Place, need, wait_for

EXT4_IOC_SHUTDOWN = 0x8004587D  # linux/fs/ext4/ext4.h
GOING_FLAGS_NOLOGFLUSH = 2

HOLD = 'mount %s "$1" || exit 1; echo ready; read -r line'


def fill(directory: Path) -> None:
    """Fill the directory's file system to the last byte."""
    with (directory / "ballast").open("ab", buffering=0) as ballast:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC


def free(directory: Path) -> None:
    (directory / "ballast").unlink()


def on_a_small_disk(function: Callable[[Path], None], directory: Path) -> None:
    """Call a test module's function with a directory of 64 KiB, in a separate process and mount namespace."""
    need("unshare", "mount")
    call = "import sys; sys.path[:0] = %r; import pathlib, %s as module; module.%s(pathlib.Path(sys.argv[1]))"
    paths = [str(PROJECT), str(Path(__file__).parent), str(Path(function.__code__.co_filename).parent)]
    mount = 'mount -t tmpfs -o size=64k,mode=755 none "$1" && exec "$2" -c "$3" "$1"'
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(directory), sys.executable]
        + [call % (paths, function.__module__, function.__name__)],
        check=True,
    )


class Disk:
    """A file system at `path`, visible inside its mount namespace."""

    def __init__(self, path: Path, options: str) -> None:
        need("unshare", "nsenter", "mount")
        self.path = path
        self.path.mkdir(exist_ok=True)
        self.keeper = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLD % options, "sh", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == b"ready\n", "the file system was not mounted"

    @property
    def enter(self) -> List[str]:
        """The prefix that runs a command inside the namespace."""
        return ["nsenter", "--mount=/proc/%d/ns/mnt" % self.keeper.pid]

    @property
    def seen(self) -> Path:
        """The path by which the test, outside the namespace, reaches the file system."""
        return Path("/proc/%d/root%s" % (self.keeper.pid, self.path))

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True)

    def fill(self) -> None:
        fill(self.seen)

    def free(self) -> None:
        free(self.seen)

    def read_only(self) -> None:
        """Make it read-only. This fails while a file is open for writing there. Each mount namespace made later inherits
        the state and must undo it itself."""
        self.run("mount", "-o", "remount,ro", str(self.path))

    def pull_the_plug(self) -> None:
        """Lose everything that was not flushed to the disk, as in a power failure. Works only on ext4."""
        descriptor = os.open(str(self.seen), os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        if self.keeper.poll() is None:
            self.keeper.communicate(b"\n")

    def __enter__(self) -> "Disk":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class DiskPlace(Place):
    """A place with such a file system, either for the trail or beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: Optional[Disk] = None

    def mount(self, options: str, path: Path) -> Disk:
        self.disk = self.stack.enter_context(Disk(path, options))
        if path == self.logs:
            self.trail = self.disk.seen / "wg_monitor.log"
        return self.disk

    def memory(self, path: Path, kilobytes: int = 1024) -> Disk:
        return self.mount("-t tmpfs -o size=%dk,mode=755 none" % kilobytes, path)

    def ext4(self, path: Path) -> Disk:
        """Mount an image file. It persists, so a later mount finds what was flushed to it."""
        need("mkfs.ext4", "losetup")
        image = self.path / "image"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(16 << 20)
            subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        # A process of the previous namespace may briefly outlive its parent, and keeps the old mount.
        wait_for("the release of the loop device", lambda: not subprocess.check_output(["losetup", "--associated", str(image)]))
        return self.mount("-o loop %s" % image, path)

    def thin(self, path: Path) -> Disk:
        """Mount a disk that is larger than what backs it, the file system that is returned. While that one is full, what
        is written to new places of this disk is lost: fsync fails, but only once for each failed write."""
        need("mkfs.ext4", "losetup")
        backing = self.memory(self.path / "backing", 4096)
        image = str(backing.path / "image")
        backing.run("truncate", "--size", "16M", image)
        backing.run("mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0", image)
        backing.run("mount", "-o", "loop", image, str(path))
        self.trail = Path("/proc/%d/root%s" % (backing.keeper.pid, path)) / "wg_monitor.log"
        return backing

    def enter(self) -> List[str]:
        return [*(self.disk.enter if self.disk else ()), *super().enter()]
