"""The files of PEER_NAMES: which ones are read, when they are read again, and what stays when one cannot be read."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import pytest

import wg_monitor
from harness import need
from values import PRIVATE_KEY, ids
from wg_monitor import Names

ANN, BOB, EVE = (letter * 42 + "A=" for letter in "abe")
NO_FILE = "neither a regular file of at most 16 MiB nor a directory that can be listed"
PEER = "# %s\n[Peer]\nPublicKey = %s\n\n"


def look(names: Names) -> Dict[str, str]:
    """The names, of files without a fault."""
    assert names.look() == []
    return dict(names.known)


def told(names: Names) -> List[str]:
    return [fault.begins for fault in names.look()]


def test_a_list(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_text("%s ann\n%s bob\n" % (ANN, BOB))
    assert look(Names([str(file)])) == {ANN: "ann", BOB: "bob"}


def test_the_files_of_a_directory(tmp_path: Path) -> None:
    for name in ("wg0.conf", "60-wg1.netdev", ".hidden.conf", "wg0.conf.bak", "clients.txt", "conf", "x.conf.tmp"):
        (tmp_path / name).write_text(PEER % (name, (name.replace(".", "").replace("-", "") + "A" * 42)[:43] + "="))
    assert sorted(look(Names([str(tmp_path)])).values()) == ["60-wg1.netdev", "wg0.conf"]


def test_the_first_file_wins(tmp_path: Path) -> None:
    (tmp_path / "b.conf").write_text(PEER % ("b", ANN) + PEER % ("bob", BOB))
    (tmp_path / "a.conf").write_text(PEER % ("a", ANN))
    (tmp_path / "list").write_text("%s first\n%s eve\n" % (BOB, EVE))
    folder, file = str(tmp_path), str(tmp_path / "list")
    assert look(Names([folder, file])) == {ANN: "a", BOB: "bob", EVE: "eve"}
    assert look(Names([file, folder])) == {ANN: "a", BOB: "first", EVE: "eve"}
    assert look(Names([str(tmp_path / "b.conf"), folder])) == {ANN: "b", BOB: "bob"}


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "names").write_text(ANN + " ann")
    (tmp_path / "link.conf").symlink_to(tmp_path / "names")
    assert look(Names([str(tmp_path)])) == {ANN: "ann"}


class Change(NamedTuple):
    name: str
    make: Callable[[Path], Any]


def replaced(path: Path) -> None:
    """As an editor does it, with the size and the time of the former file."""
    status = path.stat()
    fresh = path.with_name("fresh")
    fresh.write_text(ANN + " new\n")
    os.utime(str(fresh), ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.replace(path)


def touched(path: Path) -> None:
    status = path.stat()
    path.write_text(ANN + " new\n")
    os.utime(str(path), ns=(status.st_atime_ns, status.st_mtime_ns + 1))


CHANGES = [
    Change("another size", lambda path: path.write_text(ANN + " newer")),
    Change("another time", touched),
    Change("another inode", replaced),
]


@pytest.mark.parametrize("change", CHANGES, ids=ids(CHANGES))
def test_a_changed_file_is_read_again(tmp_path: Path, change: Change) -> None:
    file = tmp_path / "names"
    file.write_text(ANN + " old\n")
    names = Names([str(file)])
    assert look(names) == {ANN: "old"}
    change.make(file)
    assert look(names)[ANN].startswith("new")


def test_files_without_a_change_are_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text(ANN + " ann\n")
    (tmp_path / "b.conf").write_text("what is this\n")
    (tmp_path / "c.conf").mkdir()
    names = Names([str(tmp_path), str(tmp_path / "none")])
    wrong, known, files = names.look(), names.known, dict(names.files)
    assert len(wrong) == 3
    assert names.look() == wrong
    assert names.known is known
    assert all(names.files[path] is file for path, file in files.items() if "none" not in path and "c.conf" not in path)


def test_a_file_that_is_removed_takes_its_names_along(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text(ANN + " ann\n")
    (tmp_path / "b.conf").write_text(BOB + " bob\n")
    names = Names([str(tmp_path)])
    assert look(names) == {ANN: "ann", BOB: "bob"}
    (tmp_path / "a.conf").unlink()
    assert look(names) == {BOB: "bob"}
    (tmp_path / "c.conf").write_text(EVE + " eve\n")
    assert look(names) == {BOB: "bob", EVE: "eve"}


def test_a_malformed_file_keeps_its_names_beside_the_new_ones(tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text(PEER % ("ann", ANN) + PEER % ("bob", BOB))
    names = Names([str(file)])
    assert look(names) == {ANN: "ann", BOB: "bob"}
    file.write_text(PEER % ("anna", ANN) + PEER % ("bob", BOB[1:]) + PEER % ("eve", EVE))
    assert told(names) == [
        "The names from %s stay as they are: the public key in line 7 is invalid, or not the only one of a [Peer]" % file
    ]
    assert names.known == {ANN: "anna", BOB: "bob", EVE: "eve"}
    file.write_text(PEER % ("anna", ANN))
    assert look(names) == {ANN: "anna"}


def test_malformed_json_keeps_all_names(tmp_path: Path) -> None:
    file = tmp_path / "wg0.json"
    whole = '{"a": {"publicKey": "%s", "name": "ann"},\n"b": {"publicKey": "%s", "name": "bob"}}' % (ANN, BOB)
    file.write_text(whole)
    names = Names([str(file)])
    assert look(names) == {ANN: "ann", BOB: "bob"}
    file.write_text(whole[:-2])
    assert told(names) == ["The names from %s stay as they are: line 2 is not valid JSON" % file]
    assert names.known == {ANN: "ann", BOB: "bob"}


def no_file(path: Path) -> None:
    path.unlink()


def no_regular_file(path: Path) -> None:
    path.unlink()
    os.mkfifo(str(path))


def a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def too_large(path: Path) -> None:
    os.truncate(str(path), wg_monitor.NAMES_MAX + 1)


class Damage(NamedTuple):
    name: str
    make: Callable[[Path], None]
    why: str


DAMAGES = [
    Damage("it is missing", no_file, "No such file or directory"),
    Damage("it is a FIFO that nobody writes to", no_regular_file, NO_FILE),
    Damage("it is a link to itself", a_loop, "Too many levels of symbolic links"),
    Damage("it is too large", too_large, NO_FILE),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=ids(DAMAGES))
def test_a_file_that_cannot_be_read_keeps_its_names(tmp_path: Path, damage: Damage) -> None:
    file = tmp_path / "names"
    file.write_text(ANN + " ann\n")
    names = Names([str(file)])
    assert look(names) == {ANN: "ann"}
    damage.make(file)
    (fault,) = names.look()
    assert (fault.kind, fault.subject) == ("names", str(file))
    assert fault.begins == "The names from %s stay as they are: %s" % (file, damage.why)
    assert fault.ends == "Names are read from %s again" % file
    assert names.known == {ANN: "ann"}
    if os.path.lexists(str(file)):
        file.unlink()
    file.write_text(ANN + " back\n")
    assert look(names) == {ANN: "back"}


def test_a_directory_with_the_name_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "x.conf").mkdir()
    (tmp_path / "y.conf").write_text(ANN + " ann\n")
    names = Names([str(tmp_path)])
    held = os.listdir("/proc/self/fd")
    for _ in range(5):
        assert told(names) == ["The names from %s/x.conf stay as they are: %s" % (tmp_path, NO_FILE)]
    assert names.known == {ANN: "ann"}
    assert os.listdir("/proc/self/fd") == held


def test_a_file_of_the_kernel_that_has_nothing_to_say_is_empty(tmp_path: Path) -> None:
    """Whoever may write to the directory may put such a link there."""
    need()
    (tmp_path / "x.conf").symlink_to("/proc/kmsg")
    (tmp_path / "y.conf").write_text(ANN + " ann\n")
    names = Names([str(tmp_path)])
    for _ in range(3):  # the first one may read former messages
        names.look()
    assert names.known == {ANN: "ann"}


def test_a_device_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a watchdog starts it."""
    (tmp_path / "x.conf").symlink_to("/dev/null")
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("opened"))
    assert told(Names([str(tmp_path)])) == ["The names from %s/x.conf stay as they are: %s" % (tmp_path, NO_FILE)]


def test_a_directory_that_cannot_be_listed_keeps_its_names(tmp_path: Path) -> None:
    folder, away, other = tmp_path / "wireguard", tmp_path / "away", tmp_path / "list"
    folder.mkdir()
    (folder / "a.conf").write_text(ANN + " ann\n")
    other.write_text("%s other\n%s bob\n" % (ANN, BOB))
    names = Names([str(folder), str(other)])
    assert look(names) == {ANN: "ann", BOB: "bob"}
    folder.rename(away)
    assert told(names)[0] == "The names from %s stay as they are: No such file or directory" % folder
    assert names.known == {ANN: "ann", BOB: "bob"}
    away.rename(folder)
    assert look(names) == {ANN: "ann", BOB: "bob"}


def test_a_file_without_permission_is_read_when_it_has_one() -> None:
    """Its time, size and inode stay the same."""
    need()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        file = folder + "/names"
        Path(file).write_text(ANN + " ann\n")
        os.chmod(file, 0o600)
        names = Names([file])
        try:
            os.seteuid(65534)
            assert told(names) == ["The names from %s stay as they are: Permission denied" % file]
            os.seteuid(0)
            os.chmod(file, 0o644)
            os.seteuid(65534)
            assert look(names) == {ANN: "ann"}
        finally:
            os.seteuid(0)


def test_a_byte_order_mark_and_bytes_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"\xef\xbb\xbf" + ANN.encode() + b" a\xffn\r\n" + BOB.encode() + b" bob")
    assert look(Names([str(tmp_path / "names")])) == {ANN: "a_n", BOB: "bob"}


def test_nothing_but_names_and_public_keys_stays(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("[Interface]\nPrivateKey = %s\n" % PRIVATE_KEY + PEER % ("ann", ANN))
    (tmp_path / "b.conf").write_text('{"x": "%s"' % PRIVATE_KEY)
    (tmp_path / "c.conf").write_text("%s\n" % PRIVATE_KEY[1:])
    names = Names([str(tmp_path)])
    said = " ".join(told(names)) + repr(names.files) + repr(names.known)
    assert PRIVATE_KEY[1:20] not in said and ANN in said and len(names.look()) == 2


def test_the_name_of_a_file_cannot_forge_a_line(tmp_path: Path) -> None:
    (tmp_path / "a\n2026-11-23\x1b.conf").write_text("?")
    (said,) = told(Names([str(tmp_path)]))
    assert "\n" not in said and "\x1b" not in said


def test_a_directory_that_cannot_be_listed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> List[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    (tmp_path / "wg0.conf").write_text(PEER % ("ann", ANN))
    names = Names([str(tmp_path)])
    assert look(names) == {ANN: "ann"}
    monkeypatch.setattr(os, "listdir", refuse)
    assert told(names) == ["The names from %s stay as they are: %s" % (tmp_path, NO_FILE)]
    assert names.known == {ANN: "ann"}
