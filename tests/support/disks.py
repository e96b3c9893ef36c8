"""Small file systems of a test's own, in a mount namespace of their own: full, read-only, without power.

A child holds the namespace. The test looks into it through /proc/PID/root; daemons are started in it.
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
    """Its file system, to the last byte."""
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
    """Call a function of a test module with a directory of 64 KiB, in a process and a namespace of its own."""
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
    """A file system at `path`, for those who are in its namespace."""

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
        assert self.keeper.stdout.readline() == b"ready\n", "the file system cannot be mounted"

    @property
    def enter(self) -> List[str]:
        """What a command is put behind to see it."""
        return ["nsenter", "--mount=/proc/%d/ns/mnt" % self.keeper.pid]

    @property
    def seen(self) -> Path:
        """How the test reaches it."""
        return Path("/proc/%d/root%s" % (self.keeper.pid, self.path))

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True)

    def fill(self) -> None:
        fill(self.seen)

    def free(self) -> None:
        free(self.seen)

    def read_only(self) -> None:
        """Only while nobody has a file open for writing there. Who enters later has to undo it for himself."""
        self.run("mount", "-o", "remount,ro", str(self.path))

    def pull_the_plug(self) -> None:
        """What was not flushed to the disk is lost, as when the power fails. Only on ext4."""
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
    """A place with such a file system: where the trail lies, or beside it."""

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
        """On a file that stays: mounting it again finds what was on the disk."""
        need("mkfs.ext4", "losetup")
        image = self.path / "image"
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(16 << 20)
            subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        # Whoever ran in the namespace before may outlive his parent by a moment, and holds the disk as it was.
        wait_for("the disk", lambda: not subprocess.check_output(["losetup", "--associated", str(image)]))
        return self.mount("-o loop %s" % image, path)

    def enter(self) -> List[str]:
        return [*(self.disk.enter if self.disk else ()), *super().enter()]
