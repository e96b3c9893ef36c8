"""The documents describe what the module does: settings, warnings, tables, commands and files. The two READMEs are equal."""

import ast
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import pytest

import wg_monitor
from harness import PROJECT

pytestmark = pytest.mark.once

ENGLISH, CHINESE = "README.md", "README_zh.md"
READMES = (ENGLISH, CHINESE)
EVENTS, HOOK, STORE = "docs/events.md", "docs/hook.md", "docs/store.md"
PERFORMANCE = "docs/performance.md"
PAGES = sorted("docs/" + path.name for path in (PROJECT / "docs").glob("*.md"))
README_LINES = 200
COLUMNS = 130
OTHER_FLAGS = {"--help", "--version", "--from-environment"}

# The units set these. The default file shows their values instead of the defaults of the program.
SET_BY_UNITS = {"STATE_PATH": "/var/lib/wg-monitor/state.db"}


def read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def words(text: str) -> str:
    return " ".join(text.split())


# --- A document taken apart ---------------------------------------------------------------------------------------


class Block(NamedTuple):
    language: str
    lines: Tuple[str, ...]


class Section(NamedTuple):
    level: int
    title: str
    blocks: Tuple[Block, ...]
    tables: Tuple[Tuple[Tuple[str, ...], ...], ...]  # rows of cells; the first row is the heading
    prose: str  # everything but code blocks and headings; includes tables


def cells(row: str) -> Tuple[str, ...]:
    return tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1])


def take_tables(lines: List[str]) -> Iterator[Tuple[Tuple[str, ...], ...]]:
    table: List[Tuple[str, ...]] = []
    for line in lines + [""]:
        if line.startswith("|"):
            table.append(cells(line))
        elif table:
            assert re.fullmatch(r"[-: ]+", "".join(table[1])), "the second row of a table must be its ruler: %s" % (table[1],)
            yield (table[0], *table[2:])
            table = []


def sections(name: str) -> List[Section]:
    found: List[Section] = []
    level, title = 0, ""
    blocks: List[Block] = []
    prose: List[str] = []
    block: List[str] = []
    fence = ""

    def close() -> None:
        if level:
            found.append(Section(level, title, tuple(blocks), tuple(take_tables(prose)), "\n".join(prose)))
        blocks.clear()
        prose.clear()

    for line in read(name).splitlines():
        if fence:
            if line == "```":
                blocks.append(Block(fence, tuple(block)))
                fence = ""
            else:
                block.append(line)
        elif line.startswith("```"):
            fence, block = line[3:], []
            assert fence, "a code block without a language in %s, in %r" % (name, title)
        elif re.match("#+ ", line):
            close()
            level, title = len(line.split(" ")[0]), line.lstrip("# ")
        else:
            prose.append(line)
    assert not fence, "a code block of %s is never closed" % name
    close()
    return found


def without_comments(block: Block) -> Tuple[str, ...]:
    """The lines of a block without its comments, which are in the reader's language."""
    stripped = (re.sub(r"(^|\s)\s*#(?!!).*", "", line).rstrip() for line in block.lines)
    return tuple(line for line in stripped if line)


def spans(text: str) -> List[str]:
    return re.findall(r"`([^`\n]+)`", text)


def links(text: str) -> List[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def slug(title: str) -> str:
    """The anchor that GitHub creates for a heading."""
    return re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")


def settings_table(name: str) -> List[Tuple[str, ...]]:
    for section in sections(name):
        for table in section.tables:
            if spans(table[1][0]) == [wg_monitor.OPTIONS[0].variable]:
                return list(table[1:])
    pytest.fail("%s has no table of settings" % name)


# --- Settings: one table in the module, four documents ------------------------------------------------------------


@pytest.mark.parametrize("name", READMES)
def test_a_readmes_table_of_settings_matches_the_module(name: str) -> None:
    documented = [tuple("".join(spans(cell)) for cell in row[:3]) for row in settings_table(name)]
    assert documented == [(o.variable, o.flag, o.default) for o in wg_monitor.OPTIONS]


def test_the_english_readme_has_the_meanings_of_the_module() -> None:
    assert [row[3].replace("`", "") for row in settings_table(ENGLISH)] == [o.meaning for o in wg_monitor.OPTIONS]


def test_the_default_file_lists_every_setting_with_its_meaning_and_default() -> None:
    text = read("wg-monitor.default")
    documented = re.findall(r"^# (.+)\n(?:# .+\n)*#([A-Z_]+)=(.*)$", text, re.M)
    expected = [(o.meaning, o.variable, SET_BY_UNITS.get(o.variable, o.default)) for o in wg_monitor.OPTIONS]
    assert documented == expected
    assert not re.search("^[^#\n]", text, re.M), "the default file sets nothing"


def test_the_service_sets_what_the_default_file_shows() -> None:
    documented = dict(re.findall(r"^Environment=([A-Z_]+)=(.*)$", read("wg-monitor.service"), re.M))
    assert documented == SET_BY_UNITS


def test_the_manual_lists_every_flag_with_its_variable_default_and_meaning() -> None:
    manual = read("wg-monitor.8").replace(" Ns Op = Ns Ar BOOLEAN\n", "\n")
    listed = re.findall(r"^\.It Fl -(\S+)(?: Ar (\S+))?\n\.Pq Ev (\S+)(?: ; No default Li (\S+))?\n\.br\n(.+)$", manual, re.M)
    expected = [(o.flag[2:], o.metavar, o.variable, o.default, o.meaning) for o in wg_monitor.OPTIONS]
    assert listed == expected


def test_the_manuals_synopsis_has_the_same_flags_in_the_same_order() -> None:
    synopsis = read("wg-monitor.8").split(".Sh SYNOPSIS")[1].split(".Sh DESCRIPTION")[0]
    listed = re.findall(r"^\.Op Fl -(.+?)(?: Ns Op = Ns Ar BOOLEAN)?$", synopsis, re.M)
    documented = [tuple(words(item).split(" Ar ")) for item in listed]
    options = [(o.flag[2:], o.metavar) if o.metavar else (o.flag[2:],) for o in wg_monitor.OPTIONS]
    assert documented == [("from-environment",), *options]


def test_help_and_manual_have_the_same_flags() -> None:
    documented = set(re.findall(r"(?<![\w-])--[a-z-]+", wg_monitor.build_parser().format_help()))
    assert documented == {o.flag for o in wg_monitor.OPTIONS} | OTHER_FLAGS
    manual = read("wg-monitor.8").split(".Bl -tag -width Ds", 1)[1].split(".El", 1)[0]
    assert {"--" + flag for flag in re.findall(r"^\.It Fl (?:h , )?-(\S+)", manual, re.M)} == documented


@pytest.mark.parametrize("option", wg_monitor.OPTIONS, ids=lambda option: str(option.variable))
def test_help_shows_the_meaning_and_variable_of_a_setting(option: wg_monitor.Option) -> None:
    documented = words(wg_monitor.build_parser().format_help())
    meaning = option.meaning if option.metavar else option.meaning.split(":")[0]
    # argparse may break a line after a hyphen
    text = documented[documented.rindex(option.flag) :].replace("- ", "-")
    assert text.startswith(words("%s %s %s" % (option.flag, option.metavar or "[=BOOLEAN]", meaning)).replace("- ", "-"))
    assert option.variable in text[: len(meaning) + 100]


# --- What the module reports, and what the pages explain ---------------------------------------------------------


def constants(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if sys.version_info < (3, 8):
            if isinstance(child, ast.Str):
                yield child.s
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


REPORTERS = ("warn", "report", "Fault")
WORDS_OF_WARNINGS = ("words", "recover", "start", "no_setting")  # functions whose results are texts of warnings


def function_called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def values_of(name: str, function: ast.AST) -> Iterator[ast.AST]:
    """What a function assigns to a variable, or yields to it in a loop."""
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.For)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for target in targets for each in ast.walk(target)):
                yield node.iter if isinstance(node, ast.For) else node.value


def texts_in(value: ast.AST, function: ast.AST, functions: Dict[str, List[ast.AST]], known: Set[object]) -> Iterator[str]:
    """The strings of a value, of the variables in it, and of the results of the functions that make texts."""
    yield from constants(value)
    for node in ast.walk(value):
        if isinstance(node, ast.Name) and (function, node.id) not in known:
            known.add((function, node.id))
            for assigned in values_of(node.id, function):
                yield from texts_in(assigned, function, functions, known)
        if isinstance(node, ast.Call) and function_called(node) in WORDS_OF_WARNINGS:
            for called in functions[function_called(node)]:
                for result in ast.walk(called):
                    if isinstance(result, (ast.Return, ast.Yield)) and result.value is not None:
                        yield from texts_in(result.value, called, functions, known)


def warnings_of_the_module() -> List[str]:
    """The texts of `[WARN]` lines: the arguments of `warn(…)`, `report(…)` and, after its kind and its subject,
    `Fault(…)`."""
    functions: Dict[str, List[ast.AST]] = {}
    for node in ast.walk(ast.parse(read("wg_monitor.py"))):
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(node)
    found: List[str] = []
    for function in [each for namesakes in functions.values() for each in namesakes]:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and function_called(node) in REPORTERS:
                for argument in node.args[2 if function_called(node) == "Fault" else 0 :]:
                    found += texts_in(argument, function, functions, set())
    texts = list(dict.fromkeys(found))
    return [text for text in texts if len(text.replace("%s", "").replace("%d", "").split()) >= 3]


def pattern(sentence: str) -> str:
    return re.sub("%[sd]", ".+?", re.escape(sentence).replace(r"\%", "%"))


def explained_warnings(name: str) -> List[str]:
    for section in sections(name):
        for table in section.tables:
            if any("No reading" in row[0] for row in table[1:]):
                return [span for row in table[1:] for span in spans(row[0])]
    pytest.fail("%s has no table of warnings" % name)


def test_the_module_has_warnings() -> None:
    assert len(warnings_of_the_module()) > 30


@pytest.mark.parametrize("sentence", warnings_of_the_module())
def test_every_warning_is_explained(sentence: str) -> None:
    assert any(re.search(pattern(sentence), documented) for documented in explained_warnings(EVENTS))


@pytest.mark.parametrize("documented", explained_warnings(EVENTS) if (PROJECT / EVENTS).exists() else [])
def test_every_explained_warning_exists_in_the_module(documented: str) -> None:
    every = set(constants(ast.parse(read("wg_monitor.py")))) - wg_monitor.WARNING_IDS.keys()
    texts = [text for text in every if len(text.split()) >= 3 and len(text) < 200 and re.search("[a-z]{3}", text)]
    assert any(re.search(pattern(text), documented) for text in texts)


@pytest.mark.parametrize("documented", explained_warnings(EVENTS) if (PROJECT / EVENTS).exists() else [])
def test_every_warning_has_a_kind_of_its_own_in_the_journal(documented: str) -> None:
    record = wg_monitor.Record(1, wg_monitor.Event("WARN", 0.0), b"", wg_monitor.HOOK_NONE)
    assert wg_monitor.journal_fields(record, "[WARN] " + documented).get("MESSAGE_ID")


def test_the_page_lists_the_ids_of_the_journal() -> None:
    listed = re.findall(r"^\| `([0-9a-f]{32})` \| `(.*)` \|$", read("docs/journal.md"), re.M)
    assert [each for each, _ in listed] == [*wg_monitor.MESSAGE_IDS.values(), *wg_monitor.WARNING_IDS.values()]
    for identifier, shown in listed[len(wg_monitor.MESSAGE_IDS) :]:
        (part,) = [part for part, value in wg_monitor.WARNING_IDS.items() if value == identifier]
        assert part in shown.replace("…", " ") + " ", "the page shows another line"


def test_the_page_lists_the_fields_of_the_journal() -> None:
    ended = wg_monitor.Ended(wg_monitor.Session(1, 0.0, 0.0, 0, 0, 0.0, ""), 0.0, 1.0, 1, 1, "idle")
    event = wg_monitor.Event("OFFLINE", 0.0, "wg0", "key", "1.2.3.4:5", "10.0.0.1/32", 1, 0, name="a", ended=ended)
    fields = wg_monitor.journal_fields(wg_monitor.Record(1, event, b"", wg_monitor.HOOK_NONE), "text")
    section = read("docs/journal.md").split("## Fields")[1].split("## ")[0]
    listed = re.findall("`([A-Z_]+)`", "".join(re.findall(r"^\| ([^|]*) \|", section, re.M)))
    assert sorted(listed) == sorted(fields)


@pytest.mark.parametrize("kind", wg_monitor.EVENT_KINDS)
@pytest.mark.parametrize("name", [*READMES, EVENTS, "wg-monitor.8"])
def test_every_event_is_explained(name: str, kind: str) -> None:
    assert kind in read(name)


@pytest.mark.parametrize("name", [HOOK, "wg-monitor.8"])
def test_every_variable_of_the_hook_is_explained(name: str) -> None:
    record = wg_monitor.Record(1, wg_monitor.Event("ONLINE", 0.0, "wg0"), b"", wg_monitor.HOOK_DUE)
    documented = read(name)
    assert not [variable for variable in wg_monitor.hook_environment(record) if variable not in documented]


@pytest.mark.parametrize("name", [HOOK, "docs/operations.md"])
def test_a_page_shows_what_check_reports_about_an_unfit_hook(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = tmp_path / "on-change"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o777)
    wg_monitor.check({}, {"ON_CHANGE_SCRIPT": str(hook)})
    (reported,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL  hook ")]
    assert reported.replace(str(tmp_path), "/opt/wg-monitor") in read(name).splitlines()


@pytest.mark.parametrize(("unit", "instance"), [("wg-monitor.service", ""), ("wg-monitor@.service", "wg-none")])
def test_check_assumes_what_the_unit_sets(unit: str, instance: str, capsys: pytest.CaptureFixture[str]) -> None:
    wg_monitor.check({}, None, instance)
    told = capsys.readouterr().out
    set_by_unit = re.findall(r"^Environment(?:=[A-Z_]+|File)=-?(.*)$", read(unit), re.M)
    assert len(set_by_unit) == (4 if instance else 2)
    assert [value for value in set_by_unit if value.replace("%i", instance) not in told] == []


def test_check_accepts_the_settings_files_that_the_documents_show() -> None:
    shown = [block for section in sections("docs/operations.md") for block in section.blocks if block.language == "sh"]
    files = [read("wg-monitor.default"), re.sub("(?m)^#(?=[A-Z])", "", read("wg-monitor.default"))]
    for text in [*("\n".join(block.lines) + "\n" for block in shown if block.lines[0].startswith("#")), *files]:
        found = list(wg_monitor.assignments(text))
        assert {name for _, name, _ in found} <= {option.variable for option in wg_monitor.OPTIONS}
    assert len(found) == len(wg_monitor.OPTIONS) and len(shown) == 1


def refused(attempt: Callable[[], object]) -> str:
    with pytest.raises(wg_monitor.Refusal) as refusal:
        attempt()
    return "wg_monitor: %s" % refusal.value


def test_a_page_shows_how_the_daemon_rejects_a_setting(tmp_path: Path) -> None:
    settings = wg_monitor.parse_settings({"log_path": "/etc/trail"}, {})
    store = str(tmp_path / "state.db")
    holder = wg_monitor.Store(store)
    lines = [
        refused(lambda: wg_monitor.parse_settings({"interval": "soon"}, {})),
        refused(lambda: wg_monitor.place_of_trail(settings)),
        refused(lambda: wg_monitor.Store(store)).replace(store, SET_BY_UNITS["STATE_PATH"]),
    ]
    holder.close()
    assert [line for line in read("docs/operations.md").splitlines() if line.startswith("wg_monitor: ")] == lines


def test_the_changelog_begins_with_this_version() -> None:
    """An unreleased section may precede it."""
    versions = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.M)
    assert versions[versions[0] == "Unreleased"] == wg_monitor.VERSION


# --- The store: the page describes the schema ---------------------------------------------------------------------


def new_store() -> "sqlite3.Connection":
    """A database with the schema that the module creates."""
    database = sqlite3.connect(":memory:")
    for migration in wg_monitor.MIGRATIONS:
        database.executescript(migration)
    return database


def test_the_page_describes_every_table_and_column() -> None:
    database = new_store()
    schema: Dict[str, List[str]] = {}
    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        schema[name] = sorted(row[1] for row in database.execute("PRAGMA table_info(%s)" % name))
    described: Dict[str, List[str]] = {}
    for section in sections(STORE):
        for table in section.tables:
            if table[0][0] == "column":
                described[section.title] = sorted(name for row in table[1:] for name in spans(row[0]))
    assert described == schema


def test_the_page_names_the_schemas_version() -> None:
    assert "`PRAGMA user_version` is %d." % wg_monitor.SCHEMA in read(STORE)


def queries() -> List[str]:
    blocks = [block for section in sections(STORE) for block in section.blocks]
    found = ["\n".join(block.lines) for block in blocks if block.language == "sql"]
    for block in blocks:
        found += re.findall(r'state\.db "(\s.*?)"$', "\n".join(block.lines), re.M | re.S)
    return found


def test_the_page_erases_a_peer_from_every_table() -> None:
    database = new_store()
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    peers = {t for t in tables if "public_key" in [row[1] for row in database.execute("PRAGMA table_info(%s)" % t)]}
    assert set(re.findall(r"^DELETE FROM (\w+) WHERE public_key IN erased;$", read(STORE), re.M)) == peers


def test_every_query_of_the_page_runs() -> None:
    database = new_store()
    assert len(queries()) >= 4
    for query in queries():
        assert database.execute(query).fetchall() == []


# --- The installation by hand -------------------------------------------------------------------------------------


def test_by_hand_and_the_installer_make_the_same_command() -> None:
    by_hand = re.search(r"tee /usr/local/bin/wg-monitor <<'END'\n(.*?)\nEND\n", read("docs/operations.md"), re.S)
    installer = read("install.sh")
    made = re.search(r'"\$scratch/command" <<END\n(.*?)\nEND\n', installer, re.S)
    assert by_hand and made
    constants = dict(re.findall(r"^([A-Z_]+)=(\S+)$", installer, re.M))
    assert by_hand.group(1) == re.sub(r"\$([A-Z_]+)", lambda name: constants[name.group(1)], made.group(1))


def test_by_hand_installs_the_manual_page_where_the_installer_does() -> None:
    place = re.search(r"^MANUAL=(\S+)$", read("install.sh"), re.M)
    assert place
    assert "install -D -m 0644 wg-monitor.8 %s\n" % place.group(1) in read("docs/operations.md")


# --- The two READMEs are equals ----------------------------------------------------------------------------------


def pairs() -> List[Tuple[Section, Section]]:
    return list(zip(sections(ENGLISH), sections(CHINESE)))


def test_the_readmes_have_the_same_headings() -> None:
    assert [s.level for s in sections(ENGLISH)] == [s.level for s in sections(CHINESE)]


def test_the_readmes_have_the_same_code_blocks_but_for_comments() -> None:
    for english, chinese in pairs():
        assert [b.language for b in english.blocks] == [b.language for b in chinese.blocks], english.title
        assert [without_comments(b) for b in english.blocks] == [without_comments(b) for b in chinese.blocks]


def test_the_readmes_have_the_same_tables() -> None:
    for english, chinese in pairs():
        shapes = [[[len(row) for row in table] for table in section.tables] for section in (english, chinese)]
        assert shapes[0] == shapes[1], english.title


@pytest.mark.parametrize("name", [ENGLISH, *PAGES])
def test_every_row_of_a_table_has_as_many_cells_as_its_heading(name: str) -> None:
    for section in sections(name):
        for table in section.tables:
            assert {len(row) for row in table} == {len(table[0])}, section.title


def test_the_readmes_name_the_same_things_in_each_section() -> None:
    for english, chinese in pairs():
        missing = Counter(spans(english.prose)) - Counter(spans(chinese.prose))
        surplus = Counter(spans(chinese.prose)) - Counter(spans(english.prose))
        assert not missing and not surplus, "in %r, Chinese lacks %s, has %s" % (english.title, missing, surplus)


def test_the_readmes_have_the_same_numbers_in_each_table() -> None:
    for english, chinese in pairs():
        for ours, theirs in zip(english.tables, chinese.tables):
            for row, other in zip(ours[1:], theirs[1:]):
                assert re.findall(r"\d[\d,.]*\d|\d", " ".join(row)) == re.findall(r"\d[\d,.]*\d|\d", " ".join(other))


def test_the_readmes_link_to_the_same_places() -> None:
    for english, chinese in pairs():
        ours = [link for link in links(english.prose) if not link.startswith("#") and link not in READMES]
        theirs = [link for link in links(chinese.prose) if not link.startswith("#") and link not in READMES]
        assert ours == theirs, english.title


# --- Links and files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*READMES, *PAGES, "CHANGELOG.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    for link in links(read(name)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        assert (PROJECT / target).exists(), link
        if anchor:
            assert anchor in {slug(section.title) for section in sections(target)}, link


@pytest.mark.parametrize("name", READMES)
def test_a_readme_links_to_every_page(name: str) -> None:
    assert PAGES and set(PAGES) <= set(links(read(name)))


@pytest.mark.parametrize("name", READMES)
def test_a_readme_is_short(name: str) -> None:
    assert len(read(name).splitlines()) <= README_LINES


def columns(line: str) -> int:
    """The width on a terminal, where a Chinese character takes two columns."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


@pytest.mark.parametrize("name", [*READMES, *PAGES, "CHANGELOG.md"])
def test_prose_is_not_wider_than_a_window(name: str) -> None:
    lines = [line for section in sections(name) for line in section.prose.splitlines() if not line.startswith("|")]
    assert [line for line in lines if columns(line) > COLUMNS] == []


def test_the_benchmark_has_one_table() -> None:
    marks = [name for name in (*READMES, *PAGES) for _ in re.findall("<!-- benchmark: (?:begin|end) -->", read(name))]
    assert marks == [PERFORMANCE, PERFORMANCE]


def named_files(name: str) -> List[str]:
    """Names in code that look like files of this project and do not follow a directory of the system."""
    text = read(name)
    code = " ".join(spans(text)) + " " + " ".join(line for s in sections(name) for b in s.blocks for line in b.lines)
    ours = r"(?:(?:\./)?(?:tests|contrib|docs|\.ci)/[\w./-]*\w|\./[\w.-]+|(?:wg[-_]monitor|install)@?\.\w+|[A-Z][\w]*\.md)"
    return sorted(set(re.findall(r"(?<![^\s'\"(=])(%s)(?![^\s'\";,)])" % ours, code)))


@pytest.mark.parametrize("name", READMES)
def test_a_readme_names_the_files_to_install_and_run(name: str) -> None:
    named = {"wg_monitor.py", "contrib/demo.py", "./install.sh", "./tests/run"}
    assert named <= set(named_files(name))


@pytest.mark.parametrize("name", [*READMES, *PAGES])
def test_every_file_that_a_document_names_exists(name: str) -> None:
    named = named_files(name)
    ours_elsewhere = {"wg_monitor.log"}  # the last component of the trail's path
    assert not [file for file in named if file not in ours_elsewhere and not (PROJECT / file).exists()]


# --- The manual page ---------------------------------------------------------------------------------------------


def test_mandoc_finds_nothing_to_complain_about() -> None:
    if not shutil.which("mandoc"):
        reason = "mandoc is not installed (apt-get install mandoc)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    lint = subprocess.run(
        ["mandoc", "-Tlint", str(PROJECT / "wg-monitor.8")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Ignore complaints about other manual pages that this machine has not indexed.
    assert [line for line in lint.stdout.splitlines() if "mandoc.db" not in line] == []
