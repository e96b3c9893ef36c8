"""What `wg-monitor names` says: where each name comes from, which peers have none, and which names nobody has."""

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

import wg_report
from harness import Place, need
from reports import Answer, on_terminal, run, story
from values import PRIVATE_KEY, key

# $1: what appears at /etc/default
ENTER = 'mount --bind "$1" /etc/default || exit 99; shift; exec "$@"'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    need("unshare")
    yield from story(tmp_path / "state.db")


def settings(directory: Path, text: str, instance: str = "") -> List[str]:
    """The prefix that runs a command on a machine with this settings file."""
    folder = directory / "default"
    folder.mkdir(exist_ok=True)
    (folder / ("wg-monitor" + instance)).write_text(text)
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", str(folder)]


def names(store: Path, *words: str, paths: str = "", **how: Any) -> Answer:
    behind = settings(store.parent, "STATE_PATH=%s\nPEER_NAMES='%s'\n" % (store, paths))
    return run("names", *words, behind=behind, **how)


def test_the_table(store: Path, tmp_path: Path) -> None:
    """bob has no name; eve is no peer; ann has two names."""
    (tmp_path / "wg0.conf").write_text(
        "[Interface]\nPrivateKey = %s\n\n### Client Ann's laptop\n[Peer]\nPublicKey = %s\n" % (PRIVATE_KEY, key("ann"))
    )
    (tmp_path / "list").write_text("%s eve\n%s anna\nwhat is this\n" % (key("eve"), key("ann")))
    told = names(store, paths="%s,%s/list,/none" % (tmp_path, tmp_path), width=400)
    assert (told.code, told.err) == (0, "")
    rows = [line.split("  ") for line in told.lines]
    first = "%s/wg0.conf" % tmp_path
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["NAME", "KEY", "FILE", "LINE", "RULE", "NOTE"],
        ["Ann_s_laptop", key("ann"), first, "5", "### Client X"],
        ["eve", key("eve"), "%s/list" % tmp_path, "1", "list", "no such peer"],
        ["anna", key("ann"), "%s/list" % tmp_path, "2", "list", "a second name: %s:5 counts" % first],
        [key("bob"), "no name"],
        ["1 of 2 peers have a name."],
        ["%s/list: line 3 is neither KEY NAME nor NAME KEY EPOCH ADDRESS, and before any section." % tmp_path],
        ["/none: No such file or directory."],
    ]
    assert PRIVATE_KEY not in told.out


def test_json_has_the_lines_of_json_files(store: Path, tmp_path: Path) -> None:
    objects: Dict[str, Any] = {name: {"publicKey": key(name), "name": name} for name in ("ann", "bob")}
    (tmp_path / "wg0.json").write_text(json.dumps(objects, indent=1))
    told = names(store, "--json", "--peer-names", str(tmp_path / "wg0.json"), paths="/none")
    assert (told.code, told.err) == (0, "")
    fields = {"file": str(tmp_path / "wg0.json"), "rule": "JSON", "note": ""}
    assert json.loads(told.out) == [
        {"name": "ann", "key": key("ann"), "line": 3, **fields},
        {"name": "bob", "key": key("bob"), "line": 7, **fields},
    ]


def test_an_instance_has_settings_of_its_own(store: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("%s ann\n" % key("ann"))
    settings(tmp_path, "PEER_NAMES=/none\n")
    behind = settings(tmp_path, "STATE_PATH=%s\nPEER_NAMES=%s/list\n" % (store, tmp_path), "-wg0")
    assert "1 of 2 peers have a name." in run("names", "wg0", behind=behind).lines


def test_without_a_store_wg_says_which_peers_there_are(place: Place, tmp_path: Path) -> None:
    from device import peer

    place.device(peers=[peer(1), peer(2)])
    (tmp_path / "list").write_text("%s one\n" % peer(1).public_key)
    behind = [*place.enter(), *settings(tmp_path, "STATE_PATH=/none\nPEER_NAMES=%s/list\n" % tmp_path)]
    told = run("names", behind=behind)
    assert "1 of 2 peers have a name." in told.lines and peer(2).public_key in told.out


def test_a_single_peer_has_a_name(place: Place, tmp_path: Path) -> None:
    from device import peer

    place.device(peers=[peer(1)])
    (tmp_path / "list").write_text("%s one\n" % peer(1).public_key)
    behind = [*place.enter(), *settings(tmp_path, "STATE_PATH=/none\nPEER_NAMES=%s/list\n" % tmp_path)]
    assert "1 of 1 peer has a name." in run("names", behind=behind).lines


@pytest.mark.parametrize("paths, words, why", [
    ("", [], "wg_monitor: PEER_NAMES is not set: no file gives names to peers; set it, or use --peer-names\n"),
    ("etc", [], "wg_monitor: PEER_NAMES: 'etc' is invalid: "),
    ("/none", ["--peer-names", "x"], "wg_monitor: --peer-names: 'x' is invalid: "),
    ("/none", ["--what"], "wg_monitor: invalid usage: "),
])  # fmt: skip
def test_refusals(store: Path, paths: str, words: List[str], why: str) -> None:
    told = names(store, *words, paths=paths)
    assert told.code == 2 and told.err.startswith(why) and told.out == ""


def test_hostile_text_forges_no_row(store: Path, tmp_path: Path) -> None:
    hostile = "ann\\n%s  x\\u001b[2J\\u202e" % key("bob")
    (tmp_path / "a\n\x1b[31m.conf").write_text('{"publicKey": "%s", "name": "%s"}' % (key("ann"), hostile))
    told = names(store, paths=str(tmp_path))
    assert len(told.lines) == 4 and "\x1b" not in told.out and "\u202e" not in told.out
    assert "Traceback" not in on_terminal("names", "--peer-names", str(tmp_path), width=30)


def test_nothing_to_show() -> None:
    assert list(wg_report.entries_of([], set(), [])) == []
