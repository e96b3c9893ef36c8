"""The hook runner, the notifier and the console with real processes, sockets and pipes."""

import os
import random
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import pytest

import wg_monitor
from harness import MODULE, PATIENCE_S, alive, lacking, lines_of, need, wait_for
from values import SECRETS, ids, key
from wg_monitor import (
    HOOK_DONE,
    HOOK_DROPPED,
    HOOK_DUE,
    HOOK_OUTPUT_MAX,
    HOOKS_WAITING_MAX,
    Event,
    HookRunner,
    Notifier,
    Record,
    Run,
)

# --- The hook runner ----------------------------------------------------------------------------------------------


RECORD = 'echo $PEER_SEQ $PEER_PUBKEY >>"${0%/*}/ran"\n'


class Hooks:
    """A runner and its hook in a directory that belongs to root. The directory of pytest may belong to another user."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="wg-monitor-test-", dir="/tmp")
        self.path = Path(self.directory.name)
        self.script = self.path / "hook"
        self.log = self.path / "log"
        self.poll = select.poll()
        self.runner = HookRunner(str(self.script), 30, self.poll, 0)
        self.ended: List[Run] = []
        self.complaints: List[str] = []
        self.seq = 0
        self.obstacle = ExitStack()  # what keeps the script from being run, until it is closed

    def write(self, text: str, interpreter: str = "/bin/sh") -> None:
        self.script.write_text("#!%s\n%s\n" % (interpreter, text))
        self.script.chmod(0o700)

    def add(self, peer: str = "peer", kind: str = "ONLINE") -> None:
        self.seq += 1
        peer_fields = (key(peer), "192.0.2.1:51820", "10.0.0.1/32", 1_700_000_000, 1)
        event = Event(kind, 1_700_000_100.0, "wg0", *peer_fields)
        self.runner.queue.add(Record(self.seq, event, b"its line\n", HOOK_DUE), 0.0)

    def turn(self) -> None:
        """As the monitor does, but for the rest that it does."""
        self.complaints += self.runner.start(0.0)
        for reader, _ in self.poll.poll(20):
            self.runner.hear(reader)
        self.ended += self.runner.reap()

    def logged(self) -> int:
        """Take a turn and count the lines that the hook has written."""
        self.turn()
        return len(lines_of(self.log))

    def run_out(self) -> List[Run]:
        """Take turns until no hook runs or waits. Returns the runs that ended since the last call."""

        def idle() -> bool:
            self.turn()
            return not self.runner.running and not self.runner.queue.waiting

        wait_for("the hooks' end", idle)
        ended, self.ended = self.ended, []
        return ended

    def one(self, text: str, timeout_s: int = 30) -> Run:
        """Run a hook with this text and return the run."""
        self.write(text)
        self.runner.timeout_s = timeout_s
        self.add()
        (run,) = self.run_out()
        return run

    def close(self) -> None:
        self.obstacle.close()
        for run in self.runner.running.values():
            wg_monitor.kill_group(run.process.pid)
        self.runner.queue.waiting.clear()
        self.run_out()
        self.directory.cleanup()


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    made = Hooks()
    yield made
    made.close()


def test_a_hook_gets_its_environment_and_nothing_else(hooks: Hooks) -> None:
    """The interpreter is `cat`, because a shell adds variables."""
    hooks.write("", interpreter="/bin/cat /proc/self/environ")
    os.environ["WG_MONITOR_SECRET"] = "leaked"
    try:
        hooks.add("alice", "OFFLINE")
        (run,) = hooks.run_out()
    finally:
        del os.environ["WG_MONITOR_SECRET"]
    words = [word for word in run.said.decode().split("\0") if not word.startswith("#!")]
    assert dict(word.split("=", 1) for word in words) == {
        "PATH": "/usr/bin:/usr/sbin:/bin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": "/",
        "PEER_EVENT": "OFFLINE",
        "PEER_IFACE": "wg0",
        "PEER_PUBKEY": key("alice"),
        "PEER_ENDPOINT": "192.0.2.1:51820",
        "PEER_ALLOWED_IPS": "10.0.0.1/32",
        "PEER_HANDSHAKE": "1700000000",
        "PEER_ONLINE": "1",
        "PEER_SEQ": "1",
        "PEER_TIME": "1700000100",
        "PEER_TEXT": wg_monitor.event_text(run.record.event),
        **dict.fromkeys(("PEER_NEW", "PEER_FIRST_SEEN", "PEER_REASON", "PEER_LAST_SEEN", "PEER_PREVIOUS_ENDPOINT"), ""),
        **dict.fromkeys(("PEER_NAME", "PEER_SESSION", "PEER_SESSION_START", "PEER_SESSION_SECONDS"), ""),
        **dict.fromkeys(("PEER_SESSION_RX", "PEER_SESSION_TX"), ""),
    }


def test_a_hook_starts_in_the_root_directory_without_input_or_descriptors_in_a_new_session(hooks: Hooks) -> None:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        run = hooks.one("readlink /proc/$$/cwd /proc/$$/fd/0; cut -d' ' -f1,5,6 /proc/$$/stat; ls /proc/$$/fd; cat")
    finally:
        os.close(descriptor)
    place, stdin, ids_, *descriptors = run.said.decode().split("\n")[:-1]
    assert (place, stdin) == ("/", "/dev/null")
    assert len(set(ids_.split())) == 1, "process, group and session differ"
    # The shell keeps the script open as descriptor 10 or above.
    assert [number for number in descriptors if int(number) < 10] == ["0", "1", "2"]


def test_no_more_than_four_hooks_run_at_once(hooks: Hooks) -> None:
    go = hooks.path / "go"
    os.mkfifo(str(go))
    hooks.write("echo begun >>%s; read line <%s" % (hooks.log, go))
    for number in range(9):
        hooks.add("peer%d" % number)
    wait_for("four hooks", lambda: hooks.logged() == 4)
    for _ in range(20):
        hooks.turn()
    assert len(lines_of(hooks.log)) == len(hooks.runner.running) == 4
    descriptor = os.open(str(go), os.O_RDWR)
    os.write(descriptor, b"\n" * 9)
    assert len(hooks.run_out()) == 9
    os.close(descriptor)


def test_hooks_of_one_peer_run_in_order_and_do_not_overlap(hooks: Hooks) -> None:
    hooks.write(
        f"echo $PEER_PUBKEY $PEER_SEQ >>{hooks.log}; sleep 0.0$((PEER_SEQ % 3)); echo $PEER_PUBKEY end >>{hooks.log}"
    )
    for number in range(48):
        hooks.add("peer%d" % (number * number % 5))
    hooks.run_out()
    lines = [line.split() for line in lines_of(hooks.log)]
    assert len(lines) == 96
    for peer in {line[0] for line in lines}:
        mine = [line[1] for line in lines if line[0] == peer]
        assert mine[1::2] == ["end"] * (len(mine) // 2), "two hooks of one peer overlapped"
        assert mine[::2] == sorted(mine[::2], key=int)


def test_a_slow_hook_of_one_peer_does_not_delay_other_peers(hooks: Hooks) -> None:
    hooks.write('echo $PEER_SEQ >>%s; [ "$PEER_PUBKEY" != %s ] || sleep 1000' % (hooks.log, key("slow")))
    hooks.add("slow")
    hooks.add("slow")
    for number in range(20):
        hooks.add("peer%d" % number)
    wait_for("the others", lambda: hooks.logged() == 21 and len(hooks.runner.running) == 1)
    assert len(hooks.runner.running) == len(hooks.runner.queue.waiting) == 1


def test_a_timeout_kills_the_hook_and_all_its_children(hooks: Hooks) -> None:
    family = "trap '' TERM; (trap '' TERM; sleep 1000 & echo $! >>{0}; wait) & echo $! >>{0}; echo $$ >>{0}; wait"
    run = hooks.one(family.format(hooks.log), timeout_s=1)
    assert run.overdue and "took too long and was killed" in run.words()
    pids = [int(line) for line in lines_of(hooks.log)]
    assert len(pids) == 3
    wait_for("the end of all three processes", lambda: not any(map(alive, pids)))


def test_a_timeout_spares_a_process_that_left_the_process_group_of_the_hook(hooks: Hooks) -> None:
    """The documents say so. Under the units, it ends with the service: see tests/machine."""
    need("setsid", root=False)
    stay = "sleep 1000 & echo stays $! >>%s" % hooks.log
    leave = "setsid sh -c 'echo leaves $$ >>%s; exec sleep 1000' &" % hooks.log
    run = hooks.one("%s\n%s\nwait" % (stay, leave), timeout_s=1)
    assert run.overdue
    pids = {who: int(pid) for who, pid in map(str.split, lines_of(hooks.log))}
    try:
        wait_for("the end of the one that stayed", lambda: not alive(pids["stays"]))
        assert alive(pids["leaves"])
    finally:
        os.kill(pids["leaves"], signal.SIGKILL)


def test_a_child_of_the_hook_that_keeps_the_output_open_does_not_delay_its_end(hooks: Hooks) -> None:
    before = len(os.listdir("/proc/self/fd"))
    run = hooks.one("sleep 1000 & echo $! >%s; echo said; exit 3" % hooks.log)
    assert (run.process.returncode, run.said, run.overdue) == (3, b"said\n", False)
    assert len(os.listdir("/proc/self/fd")) == before
    os.kill(int(lines_of(hooks.log)[0]), signal.SIGKILL)


def test_a_hook_may_close_its_output_and_continue(hooks: Hooks) -> None:
    run = hooks.one("exec >&- 2>&-; sleep 0.2; exit 4")
    assert run.process.returncode == 4


WORDS = [
    ("success", "exit 0", "exited with status 0"),
    ("a status", "exit 7", "exited with status 7"),
    ("a signal", "kill -SEGV $$", "was ended by SIGSEGV"),
    ("a signal without a name", "kill -40 $$", "was ended by signal 40"),
    ("what it said, in one line", "echo one; echo two >&2; exit 1", "exited with status 1: one two"),
]


@pytest.mark.parametrize("name, text, words", WORDS, ids=[case[0] for case in WORDS])
def test_the_end_of_a_hook_is_reported_in_words(hooks: Hooks, name: str, text: str, words: str) -> None:
    run = hooks.one(text)
    assert run.words() == "Hook for ONLINE [wg0] %s %s" % (wg_monitor.short_key(key("peer")), words)
    assert hooks.runner.queue.marks == {1: HOOK_DONE}


def test_endless_output_is_limited_and_does_not_affect_other_hooks(hooks: Hooks) -> None:
    hooks.write('[ "$PEER_PUBKEY" = %s ] || exec yes loud; exit 5' % key("quiet"))
    hooks.runner.timeout_s = 1
    for name in ("loud", "loud2", "loud3", "quiet", "quiet2"):
        hooks.add(name)
    runs = {run.record.event.public_key: run for run in hooks.run_out()}
    assert runs[key("quiet")].process.returncode == 5
    assert runs[key("loud")].overdue and len(runs[key("loud")].said) == HOOK_OUTPUT_MAX
    assert len(runs[key("loud")].words()) < HOOK_OUTPUT_MAX + 200


def test_long_output_is_cut_to_its_beginning(hooks: Hooks) -> None:
    run = hooks.one("seq 1 100000; exit 1")
    assert run.process.returncode == 1
    assert run.said == "".join("%d\n" % number for number in range(1, 2000)).encode()[:HOOK_OUTPUT_MAX]


def test_the_report_of_a_hook_is_one_printable_line_without_a_key(hooks: Hooks) -> None:
    hostile = "\x1b[31mred\n2023-10-27 10:00:00 ONLINE  [wg0] forged\u2028and\u202eback\x00end " + SECRETS[0]
    output = hooks.path / "output"
    output.write_bytes(hostile.encode() + b"\xff\xfe")
    words = hooks.one("cat %s; exit 1" % output).words()
    assert words.isprintable() and SECRETS[0] not in words
    assert "red" in words and "forged" in words and "end" in words


def test_the_oldest_of_too_many_waiting_hooks_are_discarded_and_marked(hooks: Hooks) -> None:
    for _ in range(HOOKS_WAITING_MAX + 5):
        hooks.add()
    assert len(hooks.runner.queue.waiting) == HOOKS_WAITING_MAX
    assert hooks.runner.queue.lost == 5
    assert hooks.runner.queue.marks == dict.fromkeys(range(1, 6), HOOK_DROPPED)
    hooks.runner.queue.waiting.clear()


class Obstacle(NamedTuple):
    name: str
    begin: Callable[[Hooks], object]  # `hooks.obstacle` ends it
    why: str


def go_missing(hooks: Hooks) -> None:
    away = hooks.script.rename(hooks.path / "away") or hooks.path / "away"  # Python 3.7 returns None
    hooks.obstacle.callback(away.rename, hooks.script)


def become_writable(hooks: Hooks) -> None:
    hooks.script.chmod(0o777)
    hooks.obstacle.callback(hooks.script.chmod, 0o700)


def become(text: str) -> Callable[[Hooks], object]:
    def begin(hooks: Hooks) -> None:
        hooks.obstacle.callback(hooks.script.write_text, hooks.script.read_text())
        hooks.script.write_text(text)

    return begin


def be_written(hooks: Hooks) -> None:
    hooks.obstacle.enter_context(hooks.script.open("a"))


def use_up_descriptors(hooks: Hooks) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    hooks.obstacle.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
    with open("/dev/null") as file:
        next_one = file.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, limits[1]))


OBSTACLES = [
    Obstacle("is missing", go_missing, "No such file or directory"),
    Obstacle("is unfit", become_writable, "it is writable by others (mode 0777)"),
    Obstacle("is no program", become("neither a script nor a program\n"), "Exec format error"),
    Obstacle("has no interpreter", become("#!/no/such/interpreter\n"), "No such file or directory"),
    Obstacle("is being written", be_written, "Text file busy"),
    Obstacle("gets no descriptor", use_up_descriptors, "Too many open files"),
]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=ids(OBSTACLES))
def test_runs_wait_in_order_while_the_hook(hooks: Hooks, obstacle: Obstacle) -> None:
    hooks.write(RECORD)
    hooks.add("one")
    hooks.run_out()
    before = len(os.listdir("/proc/self/fd"))
    obstacle.begin(hooks)
    for number in range(12):
        hooks.add("peer%d" % (number % 3))
    for _ in range(5):
        hooks.turn()
    assert hooks.runner.unfit.startswith(obstacle.why)  # Python 3.7 adds the path
    assert [record.seq for record in hooks.runner.queue.waiting.values()] == list(range(2, 14))
    assert hooks.runner.queue.marks == {1: HOOK_DONE}
    hooks.obstacle.close()
    assert len(hooks.run_out()) == 12
    assert hooks.runner.unfit == ""
    assert hooks.complaints == []
    assert hooks.runner.queue.marks == dict.fromkeys(range(1, 14), HOOK_DONE)
    mine = [line.split() for line in lines_of(hooks.path / "ran")]
    for number in range(3):
        seqs = [int(seq) for seq, peer in mine if peer == key("peer%d" % number)]
        assert len(seqs) == 4 and seqs == sorted(seqs)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_attempt_that_fails_is_not_repeated_at_once(hooks: Hooks) -> None:
    """A failed start ends a process, whose SIGCHLD wakes the loop: without a pause, the loop would never rest."""
    ended: List[int] = []
    former = signal.signal(signal.SIGCHLD, lambda *_: ended.append(1))
    try:
        hooks.write("", interpreter="/no/such/interpreter")
        hooks.add()
        for _ in range(1000):
            assert list(hooks.runner.start(0.0)) == []
        assert len(hooks.runner.queue.waiting) == 1
        assert 1 <= len(ended) < 100
    finally:
        signal.signal(signal.SIGCHLD, former)


def test_the_oldest_of_too_many_runs_that_wait_for_the_hook_are_discarded(hooks: Hooks) -> None:
    for _ in range(HOOKS_WAITING_MAX + 5):
        hooks.add()
        hooks.complaints += hooks.runner.start(0.0)
    assert hooks.runner.unfit == "No such file or directory"
    assert (hooks.complaints, hooks.runner.queue.lost) == ([], 5)
    assert [record.seq for record in hooks.runner.queue.waiting.values()] == list(range(6, HOOKS_WAITING_MAX + 6))
    assert hooks.runner.queue.marks == dict.fromkeys(range(1, 6), HOOK_DROPPED)


def test_a_run_whose_environment_is_too_large_fails_and_does_not_hold_up_the_others(hooks: Hooks) -> None:
    hooks.write("echo $PEER_SEQ >>%s" % hooks.log)
    hooks.seq += 1
    event = Event("ONLINE", 1_700_000_100.0, "wg0", key("many"), "", ",".join(["10.0.0.0/8"] * 20_000), 0, 1)
    hooks.runner.queue.add(Record(hooks.seq, event, b"its line\n", HOOK_DUE), 0.0)
    hooks.add("few")
    hooks.run_out()
    assert hooks.complaints == ["Hook for ONLINE [wg0] could not be run: Argument list too long"]
    assert lines_of(hooks.log) == ["2"]
    assert hooks.runner.queue.marks == {1: HOOK_DONE, 2: HOOK_DONE}


# --- Which hook is fit --------------------------------------------------------------------------------------------


NOBODY = 65534


def unfitness(path: str) -> str:
    """Why a hook must not run; "" if it may."""
    return wg_monitor.judge_script(path)[1]


def chmod(path: Path, mode: int) -> None:
    path.chmod(mode)


def give(path: Path, user: int) -> None:
    need()
    os.chown(str(path), user, user)


def remove(path: Path) -> None:
    path.unlink()


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(str(path), 0o700)


def to_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


class Hook(NamedTuple):
    name: str
    spoil: Callable[[Path], object]
    why: str


UNFIT = [
    Hook("a group may write to it", lambda path: chmod(path, 0o770), "it is writable by others (mode 0770)"),
    Hook("everybody may write to it", lambda path: chmod(path, 0o707), "it is writable by others (mode 0707)"),
    Hook("nobody may run it", lambda path: chmod(path, 0o600), "it is not executable"),
    Hook("it belongs to another user", lambda path: give(path, 65534), "it belongs to nobody"),
    Hook("it belongs to a user without a name", lambda path: give(path, 54321), "it belongs to user 54321"),
    Hook("it does not exist", remove, "No such file or directory"),
    Hook("it is a directory", to_directory, "it is not a regular file"),
    Hook("it is a pipe", to_fifo, "it is not a regular file"),
    Hook("it is a loop of links", to_loop, "Too many levels of symbolic links"),
    Hook("its directory is writable by others", lambda path: chmod(path.parent, 0o777), "is writable by others"),
    Hook("its directory is somebody else's", lambda path: give(path.parent, 65534), "belongs to nobody"),
    Hook("a directory above can be written", lambda path: chmod(path.parent.parent, 0o772), "is writable by others"),
    Hook("a directory above is somebody else's", lambda path: give(path.parent.parent, 65534), "belongs to nobody"),
]


def deep(hooks: Hooks) -> Path:
    directory = hooks.path / "above" / "beside"
    directory.mkdir(parents=True)
    path = directory / "hook"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o700)
    return path


@pytest.mark.parametrize("case", UNFIT, ids=ids(UNFIT))
def test_a_hook_is_unfit_if(hooks: Hooks, case: Hook) -> None:
    path = deep(hooks)
    assert unfitness(str(path)) == ""
    case.spoil(path)
    assert case.why in unfitness(str(path))
    path.parent.parent.chmod(0o700)
    path.parent.chmod(0o700)


def test_a_relative_path_is_unfit() -> None:
    assert unfitness("hook") == "it is not an absolute path"


def test_a_link_is_fit_if_its_target_and_all_directories_on_the_way_are(hooks: Hooks) -> None:
    path = deep(hooks)
    link = hooks.path / "link"
    link.symlink_to(path)
    assert unfitness(str(link)) == ""
    path.chmod(0o777)
    assert "writable by others" in unfitness(str(link))
    path.chmod(0o700)
    open_to_all = hooks.path / "open"
    open_to_all.mkdir()
    (open_to_all / "link").symlink_to(path)
    open_to_all.chmod(0o777)
    assert "writable by others" in unfitness(str(open_to_all / "link"))


def test_a_sticky_directory_is_fit_only_if_it_belongs_to_root(hooks: Hooks) -> None:
    need()
    path = deep(hooks)
    chmod(path.parent, 0o1777)
    assert unfitness(str(path)) == ""
    give(path.parent, 65534)
    assert "belongs to nobody" in unfitness(str(path))


def link(path: Path, target: object, owner: int = 0) -> Path:
    path.symlink_to(str(target))
    os.lchown(str(path), owner, owner)
    return path


def chain(mine: Path, length: int) -> Path:
    for number in range(length):
        link(mine / ("%d" % number), "%d" % (number - 1) if number else "hook")
    return mine / ("%d" % (length - 1))


# In: `mine` is root's and holds the hook, `theirs` is nobody's, everybody may write to `sticky` and `open`.
class Way(NamedTuple):
    name: str
    make: Callable[[Path], object]  # returns the path, relative to the directory that holds those four
    why: str  # {0} is that directory


def further_link(at: Path) -> str:
    link(at / "mine/last", "hook")
    link(at / "theirs/step", at / "mine/last", NOBODY)
    link(at / "mine/first", "../theirs/step")
    return "mine/first"


def link_to_directory(at: Path) -> str:
    link(at / "theirs/here", "../mine", NOBODY)
    link(at / "mine/there", at / "theirs/here")
    return "mine/there/hook"


def parent_behind_link(at: Path) -> str:
    """The kernel's `..` leads to `theirs`, not to `mine`."""
    (at / "theirs/deep").mkdir()
    link(at / "theirs/step", "../mine/hook", NOBODY)
    link(at / "mine/in", "../theirs/deep")
    return "mine/in/../step"


def through_open(at: Path) -> str:
    link(at / "open/step", "../mine/hook")
    link(at / "mine/first", "../open/step")
    return "mine/first"


def through_sticky(at: Path, owner: int) -> str:
    link(at / "sticky/step", "../mine/hook", owner)
    link(at / "mine/first", "../sticky/step")
    return "mine/first"


def back_and_forth(at: Path) -> str:
    (at / "mine/in").mkdir()
    link(at / "mine/in/up", "..")
    link(at / "mine/out", "./in//../in/up")
    return "mine/./out//hook"


WAYS = [
    Way("a link in another's directory to a further link", further_link, "{0}/theirs belongs to nobody"),
    Way("a link in another's directory to a directory", link_to_directory, "{0}/theirs belongs to nobody"),
    Way("the parent of another's directory", lambda at: "theirs/../mine/hook", "{0}/theirs belongs to nobody"),
    Way("a link beside the directory behind a link", parent_behind_link, "{0}/theirs belongs to nobody"),
    Way("a link in a directory open to all", through_open, "{0}/open is writable by others (mode 0777)"),
    Way("another's link in a sticky one", lambda at: through_sticky(at, NOBODY), "{0}/sticky/step belongs to nobody"),
    Way("root's link in a sticky one", lambda at: through_sticky(at, 0), ""),
    Way("another's link that only root can change", lambda at: link(at / "mine/link", "hook", NOBODY), ""),
    Way("relative links, dots and slashes", back_and_forth, ""),
    Way("forty links", lambda at: chain(at / "mine", 40), ""),
    Way("more links than the kernel follows", lambda at: chain(at / "mine", 41), "Too many levels of symbolic links"),
    Way("a slash after the file", lambda at: "mine/hook/", "Not a directory"),
    Way("a directory that is a file", lambda at: "mine/hook/../hook", "Not a directory"),
]


@pytest.mark.parametrize("way", WAYS, ids=ids(WAYS))
def test_the_way_to_a_hook_leads_through(hooks: Hooks, way: Way) -> None:
    need()
    for name, mode in (("mine", 0o755), ("theirs", 0o755), ("sticky", 0o1777), ("open", 0o777)):
        (hooks.path / name).mkdir()
        (hooks.path / name).chmod(mode)
    give(hooks.path / "theirs", NOBODY)
    script = hooks.path / "mine/hook"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    path = os.path.join(str(hooks.path), str(way.make(hooks.path)))
    real, why = wg_monitor.judge_script(path)
    assert why == way.why.format(hooks.path)
    assert why or real == str(script)


def test_a_link_in_tmp_leads_to_a_hook_only_if_it_belongs_to_root(hooks: Hooks) -> None:
    need()
    hooks.write("true")
    name = Path(str(hooks.path) + "-link")
    try:
        assert unfitness(str(link(name, hooks.script))) == ""
        os.lchown(str(name), NOBODY, NOBODY)
        assert unfitness(str(name)) == "%s belongs to nobody" % name
    finally:
        name.unlink()


def test_a_link_in_usr_local_bin_to_opt_is_fit() -> None:
    need()
    with tempfile.TemporaryDirectory(prefix="wg-monitor-test-", dir="/opt") as directory:
        script = Path(directory) / "hook"
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        name = link(Path("/usr/local/bin") / Path(directory).name, script)
        try:
            assert wg_monitor.judge_script(str(name)) == (str(script), "")
        finally:
            name.unlink()


@pytest.mark.parametrize("path", ["/bin/sh", "/sbin/../bin/true", "/usr/bin/awk", "/usr/bin/python3", "/../bin/./env"])
def test_a_program_of_the_system_is_fit(path: str) -> None:
    """Often behind links: /bin -> usr/bin, awk -> /etc/alternatives/awk, python3 -> python3.11."""
    if not os.path.exists(path):
        lacking("needs " + path)
    assert wg_monitor.judge_script(path) == (os.path.realpath(path), "")


def test_links_are_followed_as_the_kernel_follows_them(hooks: Hooks) -> None:
    """Thousands of random paths in a tangle of random links."""
    chance = random.Random(8)
    names = [*("a", "b", "c", "hook") * 2, "..", ".", "", "l0", "l1", "l2"]
    top = hooks.path / "1/2/3/4/5/6/7/8/9"  # so deep that no `..` leads out of the test's directory
    directories = [top, *(top / name for name in ("a", "a/b", "c"))]
    for directory in directories:
        directory.mkdir(parents=True)

    def way() -> str:
        return "/".join(chance.choice(names) for _ in range(chance.randint(1, 5)))

    for directory in directories:
        (directory / "hook").write_text("#!/bin/sh\n")
        (directory / "hook").chmod(0o700)
        for name in ("l0", "l1", "l2"):
            link(directory / name, way() if chance.random() < 0.8 else "%s/%s" % (top, way()))
    found = 0
    for _ in range(5000):
        path = "%s/%s" % (top, way())
        try:
            descriptor = os.open(path, os.O_PATH)
        except OSError as error:
            assert wg_monitor.judge_script(path)[1] == error.strerror, path
            continue
        real = os.readlink("/proc/self/fd/%d" % descriptor)
        os.close(descriptor)
        assert real.startswith(str(hooks.path))
        why = "" if os.path.isfile(real) else "it is not a regular file"
        assert wg_monitor.judge_script(path) == (real, why), path
        found += not why
    assert found > 100


# --- The service manager ------------------------------------------------------------------------------------------


def notifier(**values: str) -> Tuple[Notifier, "os._Environ[str]"]:
    """A notifier made from an environment with these values, and what it leaves of that environment."""
    saved = dict(os.environ)
    try:
        os.environ.update(values)
        return Notifier(os.environ), os.environ.copy()  # type: ignore[return-value]
    finally:
        os.environ.clear()
        os.environ.update(saved)


def test_the_service_manager_is_notified_through_its_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        sender, left = notifier(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="30000000")
        sender.tell("READY=1", "STATUS=3 of 12 peers online, 2 interfaces")
        assert manager.recv(4096) == b"READY=1\nSTATUS=3 of 12 peers online, 2 interfaces"
    assert sender.watchdog_s == 30
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(left)


def test_an_abstract_socket_works() -> None:
    name = "wg-monitor-test-%d" % os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        notifier(NOTIFY_SOCKET="@" + name)[0].tell("READY=1")
        assert manager.recv(4096) == b"READY=1"


def test_a_service_manager_that_does_not_listen_or_read_blocks_nothing(tmp_path: Path) -> None:
    notifier(NOTIFY_SOCKET=str(tmp_path / "nobody"))[0].tell("READY=1")
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "full"))
        sender, _ = notifier(NOTIFY_SOCKET=str(tmp_path / "full"))
        for number in range(5000):
            sender.tell("STATUS=%d" % number)
        assert manager.recv(4096) == b"STATUS=0"
    assert len(os.listdir("/proc/self/fd")) == before


WATCHDOGS: List[Tuple[str, Dict[str, str], float]] = [
    ("none", {}, 0),
    ("its own", {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, 5),
    ("another process's", {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, 0),
    ("nonsense", {"WATCHDOG_USEC": "soon"}, 0),
]


@pytest.mark.parametrize("name, values, seconds", WATCHDOGS, ids=[case[0] for case in WATCHDOGS])
def test_the_watchdog_interval_is_read(name: str, values: Dict[str, str], seconds: float) -> None:
    assert notifier(NOTIFY_SOCKET="/run/nowhere", **values)[0].watchdog_s == seconds
    assert notifier(**values)[0].watchdog_s == 0, "the watchdog has an interval without a socket"


# --- The console --------------------------------------------------------------------------------------------------

WRITE = """
import sys, wg_monitor
wg_monitor.JOURNAL = "/nowhere"
console = wg_monitor.Console(sys.argv[1])
for number in range(int(sys.argv[2])):
    if number % 1000 == 0:
        console.begin()
    line = b"2023-10-27 10:00:00 line %d " % number + b"x" * int(sys.argv[3]) + b"\\n"
    console.write(wg_monitor.Record(number, wg_monitor.Event("WARN", 0.0), line, 0), True)
print(console.dropped)
"""


def writer(error: int, lines: int, length: int, stream: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITE, stream, str(lines), str(length)],
        cwd=str(MODULE.parent),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=error,
    )


def dropped(process: "subprocess.Popen[bytes]") -> int:
    return int(process.communicate(timeout=PATIENCE_S)[0])


KINDS = ["pipe", "stream socket", "terminal"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unread_console_does_not_block(kind: str) -> None:
    """The writer finishes. Lines that do not fit are counted as lost, and all others are complete."""
    if kind == "pipe":
        reader, error = os.pipe()
    elif kind == "terminal":
        reader, error = os.openpty()
    else:
        pair = socket.socketpair()
        reader, error = pair[0].detach(), pair[1].detach()
    process = writer(error, 3000, 200)
    lost = dropped(process)
    assert 0 < lost < 3000
    os.close(error)
    os.set_blocking(reader, False)
    seen = b""
    try:
        while True:
            data = os.read(reader, 65536)
            if not data:
                break
            seen += data
    except OSError:
        pass
    os.close(reader)
    lines = seen.replace(b"\r", b"").split(b"\n")
    assert all(line.startswith(b"2023-10-27 10:00:00 line ") and line.endswith(b"x" * 200) for line in lines[:-1])
    assert abs(len(lines) - 1 - (3000 - lost)) <= 1


def test_a_slow_reader_gets_every_line() -> None:
    reader, error = os.pipe()
    process = writer(error, 300, 500)
    os.close(error)
    with open(reader, "rb") as file:
        lines = []
        for line in file:
            lines.append(line)
            time.sleep(0.0005)
    assert dropped(process) == 0
    assert [int(line.split()[3]) for line in lines] == list(range(300))


def test_lines_longer_than_an_atomic_write_to_a_pipe_are_not_torn() -> None:
    reader, error = os.pipe()
    process = writer(error, 20, 100_000)
    os.close(error)
    with open(reader, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    assert dropped(process) == 0
    assert {len(line) for line in lines} == {len(b"2023-10-27 10:00:00 line 0 ") + n + 100_000 for n in (0, 1)}


def test_the_consoles_descriptor_keeps_its_flags() -> None:
    """The shell shares the terminal and must not find it non-blocking afterwards."""
    reader, error = os.openpty()
    writer(error, 1, 1).communicate()
    assert os.get_blocking(error)
    os.close(reader)
    os.close(error)


@pytest.mark.parametrize("which", ["stderr", "stdout"])
def test_the_journal_is_recognized_on_either_stream(tmp_path: Path, which: str) -> None:
    """Lines to the journal have the priority of sd-daemon(3) and no time stamp."""
    journal = tmp_path / "journal"
    with journal.open("wb") as file:
        status = os.fstat(file.fileno())
        command = [sys.executable, "-c", WRITE, "%d:%d" % (status.st_dev, status.st_ino), "2", "3"]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, which: file}
        subprocess.run(command, cwd=str(MODULE.parent), check=True, **streams)  # type: ignore[call-overload]
    assert stat.S_ISREG(status.st_mode)
    assert lines_of(journal)[:2] == ["<4>line 0 xxx", "<4>line 1 xxx"]
