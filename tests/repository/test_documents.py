"""The documents say what the module does: settings, warnings, commands and files, in both languages alike."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from typing import Iterator, List, NamedTuple, Tuple

import pytest

import wg_monitor
from harness import PROJECT

pytestmark = pytest.mark.once

ENGLISH, CHINESE = "README.md", "README_zh.md"
READMES = (ENGLISH, CHINESE)
OTHER_FLAGS = {"--help", "--version", "--from-environment"}

# What the units set for themselves; the default file shows it in place of the program's own default.
SET_BY_UNITS = {"STATE_PATH": "/var/lib/wg-monitor/state.db"}


def read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def words(text: str) -> str:
    return " ".join(text.split())


# --- A README taken apart -----------------------------------------------------------------------------------------


class Block(NamedTuple):
    language: str
    lines: Tuple[str, ...]


class Section(NamedTuple):
    level: int
    title: str
    blocks: Tuple[Block, ...]
    tables: Tuple[Tuple[Tuple[str, ...], ...], ...]  # rows of cells, the heading first
    prose: str  # what is neither block nor heading; tables included


def cells(row: str) -> Tuple[str, ...]:
    return tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1])


def take_tables(lines: List[str]) -> Iterator[Tuple[Tuple[str, ...], ...]]:
    table: List[Tuple[str, ...]] = []
    for line in lines + [""]:
        if line.startswith("|"):
            table.append(cells(line))
        elif table:
            assert re.fullmatch(r"[-: ]+", "".join(table[1])), "a table's second row is its ruler: %s" % (table[1],)
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
    """A block's lines as a machine sees them: comments are in the reader's language."""
    stripped = (re.sub(r"(^|\s)\s*#(?!!).*", "", line).rstrip() for line in block.lines)
    return tuple(line for line in stripped if line)


def spans(text: str) -> List[str]:
    return re.findall(r"`([^`\n]+)`", text)


def links(text: str) -> List[str]:
    return re.findall(r"\]\(([^)\s]+)\)", text)


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")


def settings_table(name: str) -> List[Tuple[str, ...]]:
    for section in sections(name):
        for table in section.tables:
            if spans(table[1][0]) == [wg_monitor.OPTIONS[0].variable]:
                return list(table[1:])
    pytest.fail("%s has no table of settings" % name)


# --- Settings: one table in the module, four documents ------------------------------------------------------------


@pytest.mark.parametrize("name", READMES)
def test_the_readmes_table_of_settings_is_the_modules(name: str) -> None:
    told = [tuple("".join(spans(cell)) for cell in row[:3]) for row in settings_table(name)]
    assert told == [(o.variable, o.flag, o.default) for o in wg_monitor.OPTIONS]


def test_the_english_readme_gives_each_setting_its_own_meaning() -> None:
    assert [row[3].replace("`", "") for row in settings_table(ENGLISH)] == [o.meaning for o in wg_monitor.OPTIONS]


def test_the_default_file_lists_every_setting_with_its_meaning_and_default() -> None:
    text = read("wg-monitor.default")
    told = re.findall(r"^# (.+)\n(?:# .+\n)*#([A-Z_]+)=(.*)$", text, re.M)
    expected = [(o.meaning, o.variable, SET_BY_UNITS.get(o.variable, o.default)) for o in wg_monitor.OPTIONS]
    assert told == expected
    assert not re.search("^[^#\n]", text, re.M), "the default file sets nothing"


def test_the_service_sets_what_the_default_file_shows() -> None:
    told = dict(re.findall(r"^Environment=([A-Z_]+)=(.*)$", read("wg-monitor.service"), re.M))
    assert told == SET_BY_UNITS


def test_the_manual_lists_every_flag_with_its_variable_default_and_meaning() -> None:
    listed = re.findall(r"^\.It Fl -(\S+)(?: Ar (\S+))?\n\.Pq Ev (\S+)(?: ; No default Li (\S+))?\n\.br\n(.+)$",
                        read("wg-monitor.8"), re.M)  # fmt: skip
    expected = [(o.flag[2:], o.metavar, o.variable, o.default, o.meaning) for o in wg_monitor.OPTIONS]
    assert listed == expected


def test_the_manuals_synopsis_has_the_same_flags_in_the_same_order() -> None:
    synopsis = read("wg-monitor.8").split(".Sh SYNOPSIS")[1].split(".Sh DESCRIPTION")[0]
    told = [tuple(words(item).split(" Ar ")) for item in re.findall(r"^\.Op Fl -(.+)$", synopsis, re.M)]
    options = [(o.flag[2:], o.metavar) if o.metavar else (o.flag[2:],) for o in wg_monitor.OPTIONS]
    assert told == [("from-environment",), *options]


def test_help_and_manual_have_the_same_flags() -> None:
    told = set(re.findall(r"(?<![\w-])--[a-z-]+", wg_monitor.build_parser().format_help()))
    assert told == {o.flag for o in wg_monitor.OPTIONS} | OTHER_FLAGS
    manual = read("wg-monitor.8").split(".Bl -tag -width Ds", 1)[1].split(".El", 1)[0]
    assert {"--" + flag for flag in re.findall(r"^\.It Fl (?:h , )?-(\S+)", manual, re.M)} == told


@pytest.mark.parametrize("option", wg_monitor.OPTIONS, ids=lambda option: str(option.variable))
def test_help_tells_a_settings_meaning_and_variable(option: wg_monitor.Option) -> None:
    told = words(wg_monitor.build_parser().format_help())
    meaning = option.meaning if option.metavar else option.meaning.split(":")[0]
    # argparse may break a line behind a hyphen
    text = told[told.rindex(option.flag) :].replace("- ", "-")
    assert text.startswith(words("%s %s %s" % (option.flag, option.metavar, meaning)).replace("- ", "-"))
    assert option.variable in text[: len(meaning) + 100]


# --- What the module says, and what the READMEs explain ----------------------------------------------------------


def constants(node: ast.AST) -> Iterator[str]:
    for child in ast.walk(node):
        if sys.version_info < (3, 8):
            if isinstance(child, ast.Str):
                yield child.s
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value


def warnings_of_the_module() -> List[str]:
    """The sentences of `[WARN]` lines: what `note("WARN", …)`, `Trouble(…)` and `tell_loss(…)` are given."""
    found = []
    for node in ast.walk(ast.parse(read("wg_monitor.py"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        told = [text for argument in node.args for text in constants(argument)]
        if name == "Trouble":
            found += told[1:]
        elif name == "note" and told[:1] == ["WARN"]:
            found += told[1:]
        elif name == "tell_loss":
            found += told
    return [text for text in found if len(text.replace("%s", "").replace("%d", "").split()) >= 3]


def pattern(sentence: str) -> str:
    return re.sub("%[sd]", ".+?", re.escape(sentence).replace(r"\%", "%"))


def explained_warnings(name: str) -> List[str]:
    for section in sections(name):
        for table in section.tables:
            if any("No reading" in row[0] for row in table[1:]):
                return [span for row in table[1:] for span in spans(row[0])]
    pytest.fail("%s has no table of warnings" % name)


def test_the_module_has_warnings_to_explain() -> None:
    assert len(warnings_of_the_module()) > 10


@pytest.mark.parametrize("sentence", warnings_of_the_module())
def test_every_warning_is_explained(sentence: str) -> None:
    assert any(re.search(pattern(sentence), told) for told in explained_warnings(ENGLISH))


@pytest.mark.parametrize("told", explained_warnings(ENGLISH) if (PROJECT / ENGLISH).exists() else [])
def test_every_explained_warning_is_one_that_the_module_gives(told: str) -> None:
    every = [text for text in constants(ast.parse(read("wg_monitor.py"))) if len(text.split()) >= 3 and len(text) < 200]
    assert any(re.search(pattern(text), told) for text in every if re.search("[a-z]{3}", text))


@pytest.mark.parametrize("kind", wg_monitor.EVENT_KINDS)
@pytest.mark.parametrize("name", [*READMES, "wg-monitor.8"])
def test_every_event_is_explained(name: str, kind: str) -> None:
    assert kind in read(name)


@pytest.mark.parametrize("name", [*READMES, "wg-monitor.8"])
def test_every_variable_of_the_hook_is_explained(name: str) -> None:
    job = wg_monitor.Job(1, "ONLINE", "wg0", "", "", "", 0, 1)
    told = read(name)
    assert not [variable for variable in wg_monitor.hook_environment(job) if variable not in told]


def test_the_changelog_begins_with_this_version() -> None:
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.M)[0] == wg_monitor.VERSION


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


def test_every_row_of_a_table_has_as_many_cells_as_its_heading() -> None:
    for section in sections(ENGLISH):
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


@pytest.mark.parametrize("name", [*READMES, "CHANGELOG.md"])
def test_every_link_leads_somewhere(name: str) -> None:
    anchors = {slug(section.title) for section in sections(name)}
    for link in links(read(name)):
        if link.startswith("#"):
            assert link[1:] in anchors
        elif not link.startswith("https://"):
            assert (PROJECT / link).exists(), link


def named_files(name: str) -> List[str]:
    """What stands as code, has no directory of the system before it, and looks like a file of this project."""
    text = read(name)
    code = " ".join(spans(text)) + " " + " ".join(line for s in sections(name) for b in s.blocks for line in b.lines)
    ours = r"(?:(?:\./)?(?:tests|contrib|\.ci)/[\w./-]*\w|\./[\w.-]+|(?:wg[-_]monitor|install)@?\.\w+|[A-Z][\w]*\.md)"
    return sorted(set(re.findall(r"(?<![^\s'\"(=])(%s)(?![^\s'\";,)])" % ours, code)))


@pytest.mark.parametrize("name", READMES)
def test_every_file_that_a_readme_names_exists(name: str) -> None:
    named = named_files(name)
    assert {"wg_monitor.py", "wg-monitor.service", "./install.sh", "./tests/run"} <= set(named)
    ours_elsewhere = {"wg_monitor.log"}  # the trail, named by its last component
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
    # Which other manual pages this machine has indexed is not this page's fault.
    assert [line for line in lint.stdout.splitlines() if "mandoc.db" not in line] == []
