"""Private and preshared keys appear in no output, wherever `wg` prints them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from device import PRESHARED_KEY, PRIVATE_KEY, hexadecimal, peer
from expected import dump
from harness import MODULE, Place, need, wait_for

SECRETS = [
    form
    for secret in (PRIVATE_KEY, PRESHARED_KEY)
    for form in (secret, hexadecimal(secret), secret[:16], secret[-16:], secret.rstrip("="))
]
MISPLACED = {
    "in their own columns": (dump(peer(1, 9)), "", 0),
    "with an exit status": (dump(peer(1, 9)), "Unable to read %s\n" % PRIVATE_KEY, 1),
    "in truncated output": (dump(peer(1, 9))[:-20], "", 0),
    "in the public key's column": (dump(peer(1, 9)).replace(peer(1).public_key.encode(), b"?"), "", 0),
    "as an interface": (dump(peer(1, 9)).replace(b"wg0", PRIVATE_KEY.encode()), "", 0),
    "as an endpoint": (dump(peer(1, 9)).replace(b"192.0.2.1:1025", PRIVATE_KEY.encode()), "", 0),
    "as allowed IPs": (dump(peer(1, 9)).replace(b"10.0.0.1/32", PRESHARED_KEY.encode()), "", 0),
    "as a number": (dump(peer(1, 9)).replace(b"\t9\t", b"\t" + PRIVATE_KEY.encode() + b"\t"), "", 0),
    "on separate lines": (("%s\n%s\n" % (PRIVATE_KEY, PRESHARED_KEY)).encode(), "", 0),
    "with other white space": (dump(peer(1, 9)).replace(b"\t", b" "), "", 0),
    "in an additional field": (dump(peer(1, 9)).replace(b"\n", b"\t%s\n" % PRIVATE_KEY.encode()), "", 0),
    "as an unreadable interface": (dump(), "Unable to access interface %s: no\n" % PRIVATE_KEY, 0),
    "in hexadecimal": (b"", "private_key=%s\n" % hexadecimal(PRIVATE_KEY), 1),
}


@pytest.mark.parametrize("output, errors, status", MISPLACED.values(), ids=MISPLACED.keys())
def test_private_and_preshared_keys_are_in_no_output_at_all(
    place: Place, output: bytes, errors: str, status: int
) -> None:
    hook = place.script("hook", "env >>%s; printf '%%s' \"$*\" >>%s\n" % (place.path / "hook-saw", place.path / "args"))
    store = place.path / "state.db"
    place.wg_prints(output, errors, status)
    monitor = place.start(
        *("--debug", "--stats-interval", "1", "--on-change-script", str(hook), "--state-path", str(store))
    )
    place.settle()
    process = Path("/proc/%d" % monitor.pid)
    seen = [(process / name).read_bytes() for name in ("cmdline", "environ")]
    assert monitor.stop() == 0
    seen += [path.read_bytes() for path in place.path.rglob("*") if path.is_file() and not is_source(path)]
    assert len(seen) >= 6, "expected the trail, console, stdout, store and two files of the process"
    for secret in SECRETS:
        assert not any(secret.encode() in data for data in seen), "an output contains a key"


def is_source(path: Path) -> bool:
    return path.name.startswith(("output-", "errors-")) or path.name == "real-wg"


def test_the_daemon_cannot_dump_core(place: Place) -> None:
    device = place.device()
    monitor = place.start()
    device.settle()
    limits = Path("/proc/%d/limits" % monitor.pid).read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)


@pytest.mark.parametrize("command", ["check", "status", "names"])
def test_a_command_that_runs_wg_cannot_dump_core(place: Place, command: str) -> None:
    need("unshare", "wg")
    place.wg("exec sleep 5")
    (place.path / "wg-monitor").write_text("STATE_PATH=%s/none.db\nPEER_NAMES=/none\n" % place.path)
    system = 'mount --bind "$1" /etc/default && mount -t tmpfs none /var/lib || exit 99; shift; exec "$@"'
    words = [*place.enter(), "sh", "-c", system, "sh", str(place.path), sys.executable, "-IS", str(MODULE), command]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for("a run of wg", lambda: place.run_count() > 0 or process.poll() is not None)
        limits = Path("/proc/%d/limits" % process.pid).read_text()
        process.kill()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.M)
