"""The lines that the peers of a scripted device produce in the trail, on the console and in the output of `wg`."""

import re
import time
from typing import List

from device import PRESHARED_KEY, PRIVATE_KEY, Peer, key
from harness import Daemon, local_time

MONITOR_STARTED = "Monitor started | Interval: 1s, Threshold: 180s, Stats: 3600s"


def now() -> int:
    return int(time.time())


def short(it: Peer) -> str:
    return it.public_key[:8] + "..." + it.public_key[-8:]


def told(kind: str, it: Peer, tail: str = "handshake", iface: str = "wg0") -> str:
    """The text of a line about a peer with one host address. `tail` is `handshake`, `new`, or the text itself."""
    shaken = "(handshake: %s)" % (local_time(it.handshake)[11:] if it.handshake else "Never")
    tail = {"handshake": shaken, "new": "new " + shaken}.get(tail, tail)
    ip = it.allowed_ips.replace("/32", "")
    return "%-7s [%s] %s (%s) [IP: %s] %s" % (kind, iface, short(it), it.endpoint or "N/A", ip, tail)


def events(monitor: Daemon) -> List[str]:
    """The trail's lines except those of the start and the end."""
    return [text for text in monitor.trail() if not text.startswith("Monitor ")]


def dump(*peers: Peer, iface: str = "wg0") -> bytes:
    """What `wg show all dump` prints."""
    lines = ["\t".join((iface, PRIVATE_KEY, key("public"), "51820", "off"))]
    for it in peers:
        fields = iface, it.public_key, PRESHARED_KEY, it.endpoint or "(none)", it.allowed_ips or "(none)"
        lines.append("\t".join((*fields, str(it.handshake), str(it.rx), str(it.tx), "off")))
    return "".join(line + "\n" for line in lines).encode()


def console_oddities(monitor: Daemon) -> List[str]:
    """Lines on the console that are not the program's own: tracebacks and messages of the interpreter."""
    return [line for line in monitor.console() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z[]", line)]
