"""The ready-made hooks of contrib/hooks, run as the daemon runs them, against a server on the loopback interface."""

import email
import email.policy
import json
import os
import re
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple
from urllib.parse import parse_qsl, unquote

import pytest

import wg_monitor
from harness import PATIENCE_S, PROJECT, need
from values import key

HOOKS = PROJECT / "contrib/hooks"
BY_CURL = ("matrix", "ntfy", "telegram", "webhook")
ALL = ("mail", *BY_CURL)
SHELLS = ("sh", "bash")
# The hooks do not depend on the Python that runs the tests.
pytestmark = pytest.mark.once

TOKEN = "tk_4vZk1Q9secret"
LINES_MAX = 29

PEER = {
    "PEER_EVENT": "OFFLINE",
    "PEER_IFACE": "wg0",
    "PEER_PUBKEY": key("alice"),
    "PEER_ENDPOINT": "203.0.113.7:51820",
    "PEER_ALLOWED_IPS": "10.0.0.2/32,fd00::2/128",
    "PEER_HANDSHAKE": "1700000000",
    "PEER_ONLINE": "0",
    "PEER_SEQ": "42",
    "PEER_NAME": "alice-laptop",
    "PEER_TIME": "1700000190",
    "PEER_NEW": "",
    "PEER_REASON": "unreachable",
    "PEER_LAST_SEEN": "1700000010",
    "PEER_PREVIOUS_ENDPOINT": "",
    "PEER_FIRST_SEEN": "",
    "PEER_SESSION": "7",
    "PEER_SESSION_START": "1699991960",
    "PEER_SESSION_SECONDS": "8050",
    "PEER_SESSION_RX": "1288490188",
    "PEER_SESSION_TX": "0",
    "PEER_TEXT": "OFFLINE [wg0] alice-laptop AbC1dEf2...4xYz5678 (203.0.113.7:51820) [IP: 10.0.0.2]",
}
STRINGS = "event iface pubkey endpoint allowed_ips name reason previous_endpoint text".split()

SAID = PEER["PEER_TEXT"] + ", online for 134 min (unreachable)"
ROAMING = dict(PEER, PEER_EVENT="ROAMING", PEER_REASON="", PEER_SESSION_SECONDS="", PEER_FIRST_SEEN="1")
OF_INTERFACE = dict.fromkeys(PEER, "")
OF_INTERFACE.update(PEER_EVENT="IFDOWN", PEER_IFACE="wg0", PEER_SEQ="43", PEER_TIME="1700000190", PEER_HANDSHAKE="0")
OF_INTERFACE.update(PEER_ONLINE="0", PEER_TEXT="IFDOWN  [wg0] 12 peers, 3 were online")


class Request(NamedTuple):
    method: str
    path: str
    headers: List[Tuple[str, str]]
    body: bytes
    # Those of the hook's processes, while curl waits for the answer.
    arguments: str
    environments: str


def processes(group: int, what: str) -> str:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) == group:
                found.append((entry / what).read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
    return b"\0".join(found).decode("utf-8", "surrogateescape")


class Server:
    """Records each request whole, and answers with a status. Without a status, it never answers."""

    def __init__(self) -> None:
        self.requests: List[Request] = []
        self.status = 200
        self.group = 0
        self.starting = threading.Lock()  # held until the group of the hook is known
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with server.starting:
                    seen = processes(server.group, "cmdline"), processes(server.group, "environ")
                request = Request(self.command, self.path, self.headers.items(), body, *seen)
                server.requests.append(request)
                if not server.status:
                    server.closing.wait(PATIENCE_S)
                    return
                self.send_response(server.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"reply")

            do_GET = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.listener.server_port
        self.thread = threading.Thread(target=self.listener.serve_forever, args=(0.02,))
        self.thread.start()

    def stop_listening(self) -> None:
        if self.thread.is_alive():
            self.listener.shutdown()
            self.thread.join()
            self.listener.socket.close()

    def close(self) -> None:
        self.closing.set()
        self.stop_listening()
        self.listener.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    need("curl", root=False)
    made = Server()
    yield made
    made.close()


# What the comment of each hook tells the administrator to write. Telegram's token is a part of the URL.
PATHS = {
    "matrix": "/_matrix/client/v3/rooms/!ops:example.org/send/m.room.message",
    "ntfy": "/topic",
    "telegram": "/bot%s/sendMessage" % TOKEN,
    "webhook": "/wireguard?from=gw1",
}


class Setup:
    """A hook, its file, and the programs that it finds first."""

    def __init__(self, directory: Path, server: Server, hook: str) -> None:
        self.server, self.hook = server, hook
        self.programs = directory / "bin"
        self.programs.mkdir()
        self.mail, self.arguments = directory / "mail", directory / "arguments"
        self.canary = directory / "canary"
        self.program("sendmail", 'printf "%%s\\n" "$@" >%s; cat >>%s' % (self.arguments, self.mail))
        self.conf = directory / (hook + ".conf")
        self.write()

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text("#!/bin/sh\n%s\n" % text)
        (self.programs / name).chmod(0o755)

    def write(self, *lines: str) -> None:
        if self.hook == "mail":
            lines = ("To: ops@example.org, root", *lines)
        elif self.hook == "telegram":
            lines = ('url = "%s%s"' % (self.server.url, PATHS["telegram"]), 'data = "chat_id=-1001"', *lines)
        else:
            bearer = 'header = "Authorization: Bearer %s"' % TOKEN
            lines = ('url = "%s%s"' % (self.server.url, PATHS[self.hook]), bearer, *lines)
        self.conf.write_text("\n".join(lines) + "\n")
        self.conf.chmod(0o600)

    def run(self, peer: Dict[str, str], shell: str = "sh", prefix: Sequence[str] = ()) -> Tuple[int, str]:
        """The exit status, and what it printed to standard error."""
        environment = dict(peer, PATH="%s:%s" % (self.programs, wg_monitor.SEARCH_PATH), LANG="C.UTF-8", HOME="/")
        command = [*prefix, shell, str(HOOKS / self.hook), str(self.conf)]
        if prefix:
            command.pop()
        with self.server.starting:
            done = subprocess.Popen(
                command,
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            self.server.group = done.pid
        try:
            output, errors = done.communicate(timeout=PATIENCE_S)
        finally:
            if done.poll() is None:
                os.killpg(done.pid, signal.SIGKILL)
                done.communicate()
        assert output == b""
        return done.returncode, errors.decode("utf-8", "surrogateescape")

    def fails(self, *words: str, peer: Dict[str, str] = PEER, prefix: Sequence[str] = ()) -> None:
        """It fails with one line, which names the hook, holds these words, and not the token."""
        status, said = self.run(peer, prefix=prefix)
        assert status == 1
        assert said.startswith(self.hook + ": ") and said.endswith("\n") and said.count("\n") == 1, said
        assert [word for word in words if word not in said] == [], said
        assert TOKEN not in said

    def request(self) -> Request:
        """The only request."""
        (request,) = self.server.requests
        return request


@pytest.fixture
def setup(tmp_path: Path, server: Server, hook: str) -> Setup:
    return Setup(tmp_path, server, hook)


def headers_of(request: Request) -> Dict[str, str]:
    """All headers but those that curl adds to every request."""
    names = [name for name, _ in request.headers]
    assert len(names) == len(set(names)), "a header came twice"
    found = dict(request.headers)
    assert found.pop("User-Agent").startswith("curl/") and found.pop("Accept") == "*/*"
    assert found.pop("Host").startswith("127.0.0.1:") and found.pop("Content-Length") == str(len(request.body))
    return found


def unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    assert len(pairs) == len(dict(pairs)), "a member came twice"
    return dict(pairs)


def spaced(text: str) -> str:
    """Without control characters, of which none can be in a JSON string or in a header."""
    return re.sub("[\x01-\x1f\x7f]", " ", text)


def member(name: str, value: str) -> Any:
    if name in STRINGS:
        return spaced(value)
    return int(value) if re.fullmatch("0|[1-9][0-9]*", value) else None


def check_request(request: Request, hook: str, peer: Dict[str, str], said: str) -> None:
    bearer = {"Authorization": "Bearer " + TOKEN}
    path, headers = request.path, headers_of(request)
    if hook == "ntfy":
        assert (request.method, path) == ("POST", PATHS[hook])
        assert headers == dict(bearer, **{"Content-Type": "application/x-www-form-urlencoded"})
        assert request.body.decode() == said
    elif hook == "telegram":
        assert (request.method, path) == ("POST", PATHS[hook])
        assert headers == {"Content-Type": "application/x-www-form-urlencoded"}
        fields = parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
        preview = ("link_preview_options", '{"is_disabled":true}')
        assert fields == [("chat_id", "-1001"), ("text", said), preview]
    elif hook == "matrix":
        number = ".".join([peer["PEER_IFACE"], peer["PEER_SEQ"], peer["PEER_TIME"]])
        number = re.sub(rb"[^A-Za-z0-9.]", b"_", number.encode()).decode()
        assert (request.method, path) == ("PUT", PATHS[hook] + "/" + number)
        assert headers == dict(bearer, **{"Content-Type": "application/json"})
        message = json.loads(request.body.decode(), object_pairs_hook=unique)
        assert message == {"msgtype": "m.text", "body": spaced(said)}
    else:
        assert (request.method, path) == ("POST", PATHS[hook])
        assert headers == dict(bearer, **{"Content-Type": "application/json"})
        names = {variable: variable[len("PEER_") :].lower() for variable in peer}
        expected = {name: member(name, peer[variable]) for variable, name in names.items()}
        assert json.loads(request.body.decode(), object_pairs_hook=unique) == expected


def check_mail(data: bytes, peer: Dict[str, str], said: str) -> None:
    head, _, body = data.partition(b"\n\n")
    assert [line for line in head.split(b"\n") if b"=?" in line and len(line) > 76] == []
    for word in re.findall(r"=\?UTF-8\?Q\?(.*?)\?=", head.decode("ascii")):
        unquote(word.replace("=", "%"), errors="strict")
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert message.defects == []
    assert message.keys() == [
        "To",
        "Subject",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
        "Auto-Submitted",
    ]
    subject = "%s [%s] %s" % (peer["PEER_EVENT"], peer["PEER_IFACE"], peer["PEER_NAME"] or peer["PEER_PUBKEY"])
    assert message["To"] == "ops@example.org, root"
    assert message["Subject"].strip() == spaced(subject).strip()
    assert (message.get_content_type(), message.get_content_charset()) == ("text/plain", "utf-8")
    assert body.endswith(b"\n")
    assert [part.decode() for part in body.split(b"\n")], "a line ends within a character"
    assert body.replace(b"\n", b"").decode() == said.replace("\n", "")


def check(setup: Setup, peer: Dict[str, str], said: str) -> None:
    if setup.hook == "mail":
        assert setup.server.requests == []
        assert setup.arguments.read_text().split() == ["-i", "-t"]
        check_mail(setup.mail.read_bytes(), peer, said)
    else:
        check_request(setup.request(), setup.hook, peer, said)


# --- What is delivered --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("hook", ALL)
def test_an_event_is_delivered_once(setup: Setup, shell: str) -> None:
    assert setup.run(PEER, shell) == (0, "")
    check(setup, PEER, SAID)


@pytest.mark.parametrize("hook", ["matrix"])
@pytest.mark.parametrize("line", ['url = "%s"', "url=%s", '--url "%s" ', "url: %s\t", '  url = "%s"'])
def test_matrix_adds_its_id_to_the_url_however_it_is_written(setup: Setup, line: str) -> None:
    url, bearer = setup.conf.read_text().splitlines()
    setup.conf.write_text("%s\n%s\n" % (line % url.split('"')[1], bearer))
    assert setup.run(PEER) == (0, "")
    check(setup, PEER, SAID)


@pytest.mark.parametrize("hook", ALL)
def test_an_address_never_seen_before_is_pointed_out(setup: Setup) -> None:
    assert setup.run(ROAMING) == (0, "")
    check(setup, ROAMING, ROAMING["PEER_TEXT"] + ", from an address never seen before")


@pytest.mark.parametrize("hook", ALL)
def test_every_address_of_a_new_peer_is_new(setup: Setup) -> None:
    peer = dict(ROAMING, PEER_EVENT="ONLINE", PEER_NEW="1")
    assert setup.run(peer) == (0, "")
    check(setup, peer, peer["PEER_TEXT"])


@pytest.mark.parametrize("hook", ALL)
def test_an_event_of_an_interface_is_delivered(setup: Setup) -> None:
    assert setup.run(OF_INTERFACE) == (0, "")
    check(setup, OF_INTERFACE, OF_INTERFACE["PEER_TEXT"])


def test_the_webhook_posts_every_variable_of_the_daemon() -> None:
    record = wg_monitor.Record(1, wg_monitor.Event("ONLINE", 1.0, "wg0"), b"", wg_monitor.HOOK_DUE)
    variables = {name for name in wg_monitor.hook_environment(record) if name.startswith("PEER_")}
    assert variables and variables <= set(PEER)


@pytest.mark.parametrize("hook", ["mail"])
def test_no_line_of_a_mail_is_too_long_for_smtp(setup: Setup) -> None:
    networks = ["[IPs: %s]" % ", ".join("10.%d.%d.0/24" % (n // 250, n % 250) for n in range(500)), *["é" * 60] * 50]
    assert setup.run(dict(PEER, PEER_REASON="", PEER_TEXT=" ".join(networks))) == (0, "")
    lines = setup.mail.read_bytes().split(b"\n")
    assert max(map(len, lines)) <= 998
    assert " ".join(networks).replace(" ", "") in b"".join(lines).replace(b" ", b"").decode()


@pytest.mark.parametrize("hook", ALL)
def test_without_an_argument_the_file_in_etc_is_read(setup: Setup) -> None:
    """As the daemon runs it. The hook sees a directory of the test in place of /etc."""
    need("unshare")
    etc = setup.programs.parent / "etc"
    (etc / "wg-monitor").mkdir(parents=True)
    moved = etc / "wg-monitor" / setup.conf.name
    setup.conf.rename(moved)
    setup.conf = moved
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', str(etc)]
    assert setup.run(PEER, prefix=enter) == (0, "")
    check(setup, PEER, SAID)
    setup.conf.unlink()
    setup.fails("/etc/wg-monitor/%s.conf is missing" % setup.hook, prefix=enter)


# --- Hostile values -----------------------------------------------------------------------------------------------

HOSTILE = [
    '"',
    "\\",
    '\\"',
    "\\\\n\\u0000",
    "'",
    "$PATH ${PATH} $(touch CANARY) `touch CANARY`",
    "a[$(touch CANARY)]",
    "1 + a[$(touch CANARY)]",
    "'; touch CANARY; '",
    '"; touch CANARY; "',
    "%s%n%d%%",
    "-",
    "-o CANARY",
    "--output=CANARY",
    "@/etc/hostname",
    "<CANARY",
    "&text=other&chat_id=1",
    "a|b/c&d#e?f",
    "/../../other",
    '", "body": "other',
    '"}, {"',
    'x"\nurl = "http://127.0.0.1:1/"\noutput = "CANARY"\n',
    "x\r\nX-Injected: 1\r\n\r\nbody",
    "x\nBcc: everyone@example.org\n\nbody",
    "x\n.\nQUIT",
    "END",
    "x\nEND\ntouch CANARY",
    "\t\x1b[31m\x7f",
    "!",
    "(",
    "=?UTF-8?Q?=41?=",
    "状态-naïve-🙂",
    "é" * 64,
    "𝕏" * 64,
    " leading and trailing ",
    "*",
    "~",
    "9" * 12,
]


def hostile_ids() -> List[str]:
    return ["%d-%s" % (number, re.sub(r"\W+", "-", value, flags=re.ASCII)[:20]) for number, value in enumerate(HOSTILE)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("value", HOSTILE, ids=hostile_ids())
@pytest.mark.parametrize("hook", ALL)
def test_no_value_breaks_out(setup: Setup, shell: str, value: str) -> None:
    """Every variable has the hostile value, even those for which the daemon accepts only digits."""
    peer = dict.fromkeys(PEER, value.replace("CANARY", str(setup.canary)))
    assert setup.run(peer, shell) == (0, "")
    value = peer["PEER_TEXT"]
    digits = re.match("[0-9]*", value, re.ASCII)
    assert digits
    minutes = int(digits.group() or 0) // 60
    check(setup, peer, "%s, online for %d min (%s)" % (value, minutes, value))
    assert not setup.canary.exists()


# --- Failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", BY_CURL)
def test_ps_shows_neither_the_token_nor_the_peer(setup: Setup) -> None:
    need()
    assert setup.run(PEER) == (0, "")
    request = setup.request()
    assert "curl\0--disable" in request.arguments and PEER["PEER_TEXT"] in request.environments
    assert TOKEN not in request.arguments + request.environments
    assert PEER["PEER_NAME"] not in request.arguments


@pytest.mark.parametrize("hook", BY_CURL)
@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_status_of_success_is_success(setup: Setup, status: int) -> None:
    setup.server.status = status
    assert setup.run(PEER) == (0, "")


@pytest.mark.parametrize("hook", BY_CURL)
@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 429, 500, 503])
def test_a_status_of_failure_is_reported_and_nothing_is_sent_twice(setup: Setup, status: int) -> None:
    setup.server.status = status
    setup.fails("not delivered", "HTTP status %d" % status)
    assert len(setup.server.requests) == 1


@pytest.mark.parametrize("hook", BY_CURL)
def test_a_server_that_is_down_is_reported(setup: Setup) -> None:
    setup.server.stop_listening()
    setup.fails("not delivered", "exit status 7 of curl")


@pytest.mark.parametrize("hook", BY_CURL)
def test_a_server_that_never_answers_is_given_up(setup: Setup) -> None:
    """The administrator's own limit overrides that of the hook."""
    setup.server.status = 0
    setup.write("max-time = 1")
    setup.fails("not delivered", "exit status 28 of curl")
    assert len(setup.server.requests) == 1


@pytest.mark.parametrize("hook", BY_CURL)
def test_a_hook_gives_up_before_the_daemon_does(hook: str) -> None:
    text = (HOOKS / hook).read_text()
    limits = [int(number) for number in re.findall(r"--max-time (\d+)", text)]
    waits = [int(number) for number in re.findall(r"--connect-timeout (\d+)", text)]
    (allowed,) = [int(option.default) for option in wg_monitor.OPTIONS if option.variable == "SCRIPT_TIMEOUT"]
    assert len(limits) == len(waits) == 1 and waits < limits and limits[0] < allowed
    assert text.index("--max-time") < text.index("--config"), "what comes later overrides"


@pytest.mark.parametrize("hook", BY_CURL)
@pytest.mark.parametrize("line", [TOKEN, "header %s" % TOKEN, '"%s' % TOKEN, "url", "heder = %s" % TOKEN, "verbose"])
def test_a_file_with_a_mistake_does_not_show_the_token(setup: Setup, line: str) -> None:
    setup.server.status = 500
    setup.write(line)
    setup.fails("not delivered")


@pytest.mark.parametrize("hook", BY_CURL)
def test_without_curl_nothing_is_delivered(setup: Setup) -> None:
    setup.program("curl", "exit 127")
    setup.fails("not delivered", "exit status 127 of curl")


@pytest.mark.parametrize("hook", ["mail"])
def test_a_failure_of_sendmail_is_reported(setup: Setup) -> None:
    setup.program("sendmail", "exit 75")
    setup.fails("not delivered", "sendmail ended with exit status 75")


@pytest.mark.parametrize("hook", ALL)
def test_a_missing_file_is_reported(setup: Setup) -> None:
    setup.conf.unlink()
    setup.fails(str(setup.conf), "is missing")


@pytest.mark.parametrize("hook", ALL)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666])
def test_a_file_that_others_can_read_or_change_is_refused(setup: Setup, mode: int) -> None:
    setup.conf.chmod(mode)
    setup.fails("others may read or change " + str(setup.conf), "0600")
    assert setup.server.requests == [] and not setup.mail.exists()


@pytest.mark.parametrize("hook", ALL)
def test_a_file_of_another_user_is_refused(setup: Setup) -> None:
    need()
    os.chown(str(setup.conf), 65534, 0)
    setup.fails("others may read or change " + str(setup.conf))
    assert setup.server.requests == [] and not setup.mail.exists()


@pytest.mark.parametrize("hook", ALL)
def test_a_directory_is_refused(setup: Setup) -> None:
    inside = setup.conf.with_name("other")
    setup.conf.rename(inside)
    setup.conf.mkdir()
    inside.rename(setup.conf / "file")
    setup.fails(str(setup.conf))


# --- The files ----------------------------------------------------------------------------------------------------


def test_these_are_all_hooks() -> None:
    assert sorted(path.name for path in HOOKS.iterdir()) == sorted(ALL)


@pytest.mark.parametrize("hook", ALL)
def test_a_hook_is_short_and_says_how_to_install_it(hook: str) -> None:
    text = (HOOKS / hook).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= LINES_MAX and max(map(len, lines)) <= 120
    assert lines[0] == "#!/bin/sh" and lines[1].startswith("# Hook for wg_monitor: ") and "Needs " in lines[1]
    commands = [line[len("#   ") :] for line in lines if line.startswith("#   sudo ")]
    assert commands == [
        "sudo install -D contrib/hooks/%s /opt/wg-monitor/%s" % (hook, hook),
        f"sudo install -D -m 0600 /dev/null /etc/wg-monitor/{hook}.conf && sudoedit /etc/wg-monitor/{hook}.conf",
    ]
    assert "conf=${1:-/etc/wg-monitor/%s.conf}\n" % hook in text
