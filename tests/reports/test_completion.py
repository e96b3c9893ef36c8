"""The completion of bash: what it offers is what the program takes."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Set

import pytest

import wg_monitor
from device import crowd
from harness import MODULE, PROJECT, Place, command_line, need, wait_for

pytestmark = pytest.mark.once

COMPLETION = PROJECT / "contrib/completion/wg-monitor"
# The options of a completion have an effect only while bash completes.
ASK = """
. "$1"
compopt() { :; }
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_wg_monitor "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

Complete = Callable[..., List[str]]


def with_program(directory: Path, text: str) -> Complete:
    """Completes words where `wg-monitor` is this script. To bash, each sign of --flag=value is a word."""
    need("bash", root=False)
    # The program's own limit of three seconds is a person's patience, and too short on a busy machine.
    for name, script in (("wg-monitor", text), ("timeout", 'shift\nexec "$@"\n')):
        program = directory / name
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)

    def complete(*words: str) -> List[str]:
        command = ["bash", "--norc", "-c", ASK, "bash", str(COMPLETION), "wg-monitor", *words]
        path = "%s:%s" % (directory, wg_monitor.SEARCH_PATH)
        environment = {"PATH": path, "LANG": "C.UTF-8"}
        done = subprocess.run(command, cwd=str(directory), env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split("\n")[:-1] if done.stdout != "\n" else []

    return complete


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    return with_program(tmp_path, 'exec %s -I %s "$@"\n' % (shlex.quote(sys.executable), shlex.quote(str(MODULE))))


def explained(command: str) -> str:
    """The help of a command that exists so far, without the usage."""
    done = command_line(command, "--help")
    return done.stdout.partition("\n\n")[2] if done.returncode == 0 else ""


def flags_of(text: str) -> Set[str]:
    return set(re.findall(r"(?<!\S)--[a-z-]+", "\n".join(re.findall(r"^  (-.*?)(?:  .*)?$", text, re.M))))


def test_the_commands_are_those_of_the_program(complete: Complete) -> None:
    assert complete("") == ["check", "test-hook", *wg_monitor.REPORTS]
    assert complete("s") == ["status", "sessions"]
    assert complete("status", "") == []
    assert complete("test-hook", "") == complete("--script-events", "") == list(wg_monitor.EVENT_KINDS)
    assert complete("sessions", "--peer", "ann", "") == []


def test_the_monitor_and_check_have_its_flags(complete: Complete) -> None:
    flags = {option.flag for option in wg_monitor.OPTIONS} | {"--help", "--version", "--from-environment"}
    for words in (["-"], ["check", "--"], ["test-hook", "--"], ["--debug", "--"], ["--interval", "5", "--"]):
        assert set(complete(*words)) == flags, words
    assert complete("--script-") == ["--script-timeout", "--script-delay", "--script-events"]


@pytest.mark.parametrize("command", wg_monitor.REPORTS)
def test_a_report_has_its_flags_and_their_values(complete: Complete, command: str) -> None:
    text = explained(command)
    assert set(complete(command, "--")) == flags_of(text)
    choices: Dict[str, str] = dict(re.findall(r"^  (?:-., )?(--[a-z-]+) \{(.*?)\}", text, re.M))
    for flag, values in choices.items():
        assert complete(command, flag, "") == complete(command, flag, "=") == values.split(",")
        assert complete(command, flag, "=", values[0]) == [value for value in values.split(",") if value[0] == values[0]]


def test_a_report_with_flags_and_one_with_choices_exist(complete: Complete) -> None:
    assert "--peer" in complete("sessions", "--") and complete("sessions", "--by", "w") == ["week"]


def test_values_of_the_monitors_flags_are_valid(complete: Complete) -> None:
    offered = {"--log-format": "LOG_FORMAT", "--liveness": "LIVENESS"}
    for flag, variable in offered.items():
        values = complete(flag, "")
        assert len(values) == 2
        for value in values:
            wg_monitor.parse_settings({variable.lower(): value}, {})
    assert complete("--debug", "=") == complete("--debug", "=", "") == ["true", "false"]
    assert complete("--debug", "") == complete("--interval", "") == []


def test_files_are_offered_where_a_file_is_meant(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "trail.log").touch()
    for words in (["--log-path"], ["--state-path", "="], ["metrics", "--output"], ["status", "--store", "gw", "="],
                  ["sessions", "--from-log", "a.gz"], ["sessions", "--from-log", "a", "b"], ["--peer-names"]):
        assert complete(*words, "trail") == ["trail.log"], words


def test_a_value_is_looked_up_after_the_usage(tmp_path: Path) -> None:
    complete = with_program(tmp_path, "printf 'usage: x [--all | --file FILE]\\n\\noptions:\\n  --file FILE  one\\n'\n")
    assert complete("--file", "wg-") == ["wg-monitor"]


def test_peers_of_the_store_are_offered(place: Place) -> None:
    peers = crowd(3, int(time.time()))
    place.device("wg0", peers)
    store = place.path / "state.db"
    daemon = place.start("--state-path", str(store))
    wait_for("three lines", lambda: len(daemon.trail()) == 4)
    script = '[ "$*" != "status --json" ] || set -- "$@" --store %s\nexec %s -I %s "$@"\n'
    words = [shlex.quote(word) for word in (str(store), sys.executable, str(MODULE))]
    complete = with_program(place.path, script % tuple(words))
    keys = sorted(peer.public_key for peer in peers)
    assert sorted(complete("status", "--peer", "")) == sorted(complete("sessions", "--peer", "=")) == keys
    assert complete("sessions", "--peer", keys[0][:20]) == [key for key in keys if key.startswith(keys[0][:20])]


HOSTILE = ["$(touch canary)", "`touch canary`", "a;touch canary", "a b", "a\nb", "*", "-x", "", None, "a'", 'a"', "a\\"]


def test_names_are_offered_unless_a_shell_would_act_on_them(tmp_path: Path) -> None:
    """The daemon writes no such name, but a store may come from elsewhere."""
    names = ["alice-laptop", "张三", "bob@home", *HOSTILE]
    peers = [{"name": name, "peer": "KEY%d=$(touch canary)" % number} for number, name in enumerate(names)]
    (tmp_path / "peers").write_text(json.dumps(peers))
    text = '[ "$*" = "status --json" ] && exec cat peers\necho; echo "  --peer PEER  one"\n'
    complete = with_program(tmp_path, text)
    keys = ["KEY%d=touchcanary" % number for number in range(3, len(names))]
    assert complete("status", "--peer", "") == ["alice-laptop", "张三", "bob@home", *keys]
    assert complete("status", "--peer", "张") == ["张三"]
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("text", ["exit 1\n", "echo nothing useful\n"], ids=["fails", "prints something else"])
def test_a_program_without_help_offers_no_flags(tmp_path: Path, text: str) -> None:
    complete = with_program(tmp_path, text)
    assert complete("--") == complete("status", "--peer", "") == complete("x", "y", "") == []
