"""A scripted WireGuard device: the real `wg` prints the peers that a test chooses.

`wg` sends `get=1` to each /run/wireguard/NAME.sock, in the cross-platform userspace protocol (wireguard.com/xplatform,
"Configuration Protocol"): keys in hexadecimal, one attribute per line, then `errno=0` and an empty line. A Device answers
with the peers that were published last.

`python3 tests/support/device.py NAME COUNT [DIRECTORY]` serves COUNT online peers until a signal ends it.
"""

import base64
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from types import TracebackType
from typing import Iterable, List, NamedTuple, Optional, Type

SOCKETS = "/run/wireguard"


def key(seed: object) -> str:
    """A key in the format of `wg`. The same seed gives the same key."""
    return base64.b64encode(hashlib.sha256(str(seed).encode()).digest()).decode()


def hexadecimal(base64_key: str) -> str:
    return base64.b64decode(base64_key).hex()


PRIVATE_KEY = key("the device's private key")
PRESHARED_KEY = key("every peer's preshared key")


class Peer(NamedTuple):
    """A peer of the device. `_replace` gives its later state."""

    public_key: str
    endpoint: str = ""  # "" = none
    allowed_ips: str = ""  # separated by commas, each with its prefix length
    handshake: int = 0  # seconds since the epoch; 0 = never
    rx: int = 0
    tx: int = 0
    keepalive: int = 0
    preshared_key: str = PRESHARED_KEY

    def lines(self) -> Iterable[str]:
        yield "public_key=" + hexadecimal(self.public_key)
        yield "preshared_key=" + hexadecimal(self.preshared_key)
        yield "protocol_version=1"
        if self.endpoint:
            yield "endpoint=" + self.endpoint
        yield "last_handshake_time_sec=%d" % self.handshake
        yield "last_handshake_time_nsec=0"
        yield "tx_bytes=%d" % self.tx
        yield "rx_bytes=%d" % self.rx
        yield "persistent_keepalive_interval=%d" % self.keepalive
        for allowed_ip in self.allowed_ips.split(",") if self.allowed_ips else ():
            yield "allowed_ip=" + allowed_ip


def peer(number: int, handshake: int = 0) -> Peer:
    """The peer with this number, from which its key, endpoint and address are derived."""
    address = "10.%d.%d.%d" % (number >> 16 & 255, number >> 8 & 255, number & 255)
    return Peer(key(number), "192.0.2.1:%d" % (1024 + number % 60_000), address + "/32", handshake)


def answer(peers: Iterable[Peer], errno: int = 0) -> bytes:
    lines = ["private_key=" + hexadecimal(PRIVATE_KEY), "listen_port=51820"]
    for each in peers:
        lines += each.lines()
    return "\n".join([*lines, "errno=%d" % errno, "", ""]).encode()


class Device:
    """A socket that answers with the peers published last, from its creation until it is closed."""

    def __init__(self, directory: str, name: str, peers: Iterable[Peer] = ()) -> None:
        self.path = os.path.join(directory, name + ".sock")
        self.name = name
        self.free = threading.Event()  # while it is cleared, requests get no answer
        self.free.set()
        self.changed = threading.Condition()
        self.response = b""
        self.asked = 0  # requests since the response was set
        self.publish(peers)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.closed = False
        threading.Thread(target=self.serve, daemon=True).start()

    def publish(self, peers: Iterable[Peer]) -> None:
        """Answer with these peers from the next request on."""
        self.respond(answer(peers))

    def fail(self, errno: int) -> None:
        """Answer with an error from now on, as after a fault in the process that serves the interface."""
        self.respond(b"errno=%d\n\n" % errno)

    def respond(self, response: bytes) -> None:
        with self.changed:
            self.response, self.asked = response, 0

    def hang(self) -> None:
        self.free.clear()

    def resume(self) -> None:
        self.free.set()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection: socket.socket) -> None:
        with connection:
            try:
                question = b""
                while not question.endswith(b"\n\n"):
                    data = connection.recv(4096)
                    if not data:
                        return  # `wg` first connects only to check that the socket is served
                    question += data
                with self.changed:
                    response = self.response
                    self.asked += 1
                    self.changed.notify_all()
                self.free.wait()
                connection.sendall(response if question == b"get=1\n\n" else b"errno=95\n\n")
            except OSError:
                pass  # `wg` was killed meanwhile

    def settle(self, patience_s: float = 60) -> None:
        """Wait until the monitor has processed what was published last. It sends a request only after it has processed
        the previous answer, so the second request proves that the first answer is processed."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.asked >= 2, patience_s):
                raise AssertionError("%s received only %d requests in %d s" % (self.name, self.asked, patience_s))

    def close(self) -> None:
        """Remove the interface."""
        if not self.closed:
            self.closed = True
            os.unlink(self.path)
            self.listener.shutdown(socket.SHUT_RDWR)  # ends accept(), which close() alone does not
            self.listener.close()
            self.free.set()

    def __enter__(self) -> "Device":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def crowd(count: int, handshake: int) -> List[Peer]:
    return [peer(number, handshake) for number in range(count)]


def main() -> int:
    name, count = sys.argv[1], int(sys.argv[2])
    directory = sys.argv[3] if len(sys.argv) > 3 else SOCKETS
    os.makedirs(directory, 0o700, exist_ok=True)
    with Device(directory, name, crowd(count, int(time.time()))):
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    # Blocked before the first thread starts: threads inherit the mask, and sigwait receives the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())
