"""Names of peers: what is accepted as one, and which comment of which file names whom.

The corpus in tests/inputs/names has a file for each convention, and beside it the names that it holds."""

import io
import random
import re
import unicodedata
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

import pytest

import wg_monitor
from harness import PROJECT
from scale import characters, scaled
from values import PRESHARED_KEY, PRIVATE_KEY, ids

CORPUS = sorted(path for path in (PROJECT / "tests/inputs/names").iterdir() if path.suffix != ".expected")
KEY = re.compile("[A-Za-z0-9+/]{43}=")
ANN, BOB, EVE = (letter * 42 + "A=" for letter in "abe")

# --- What a name is -----------------------------------------------------------------------------------------------


class Text(NamedTuple):
    name: str
    given: str
    safe: str


SAFE = [
    Text("letters, digits and signs stay", "a.b_c@d+e-f9", "a.b_c@d+e-f9"),
    Text("anything else becomes an underscore", "Al (home), #1/2=3", "Al__home____1_2_3"),
    Text("white space around it goes", " \t alice \r", "alice"),
    Text("it begins with a letter or a digit", "=+-@._alice", "alice"),
    Text("a formula begins with none", '=HYPERLINK("x")', "HYPERLINK__x__"),
    Text("signs alone are no name", "-- * --", ""),
    Text("nothing is no name", "", ""),
    Text("two dots stay", "a..b", "a..b"),
    Text("three dots would pose as a short key", "AbC1dEf2...4xYz5678", "AbC1dEf2_4xYz5678"),
    Text("so would more", "a......b", "a_b"),
    Text("other dots do not make three", "a…b..․", "a_b.._"),
    Text("a line end forges no line", "a\n2026-11-23 ONLINE", "a_2026-11-23_ONLINE"),
    Text("brackets forge no interface", "x [wg1] y", "x__wg1__y"),
    Text("quotes and braces forge no label", 'a",b="c}', "a__b__c_"),
    Text("a separator of CSV", "a,b;c\td|e", "a_b_c_d_e"),
    Text("HTML", "<b>&amp;", "b__amp_"),
    Text("other scripts stay", "李雷-Zoë-Ωμέγα-Жук", "李雷-Zoë-Ωμέγα-Жук"),
    Text("with their marks", "हिन्दी ไทยได้ שָׁלוֹם", "हिन्दी_ไทยได้_שָׁלוֹם"),
    Text("with their digits", "غرفة ٣", "غرفة_٣"),
    Text("it is composed", "Zoe\u0308", "Zo\u00eb"),
    Text("a mark without a letter", "\u0301a\u0301 \u0301", "\u00e1__"),
    Text("a mark on a digit", "1\u0301", "1_"),
    Text("an enclosing mark", "a\u20dd", "a_"),
    Text("more marks than any script has", "q" + "\u0323\u0301" * 20, "q" + "\u0323" * 4 + "_" * 36),
    Text("a picture", "\U0001f600 alice \U0001f600", "alice__"),
    Text("numbers that are no digits", "a²Ⅷ½", "a___"),
    Text("letters that show nothing", "a\u3164b\u115f", "a_b_"),
    Text("only such a letter", "\u3164", ""),
    Text("marks that show nothing", "a\ufe0fb\u034f\U000e0100", "a_b__"),
    Text("directions", "a\u202eb\u200f", "a_b_"),
    Text("controls and separators", "a\x1b[31m\x00\x85\u2028b", "a__31m___b"),
    Text("halves of surrogate pairs", "a\ud800b", "a_b"),
    Text("what was no UTF-8", b"a\xffb".decode("utf-8", "replace"), "a_b"),
    Text("64 characters", "ab" * 40, "ab" * 32),
    Text("a private key", PRIVATE_KEY, ""),
    Text("a preshared key in words", "psk is " + PRESHARED_KEY, ""),
    Text("a key without its end", PRIVATE_KEY[:-2], ""),
    Text("a key in hexadecimal digits", "0123456789abcdef" * 4, ""),
    Text("what introduces a key", "PrivateKey: " + PRIVATE_KEY[:20], ""),
    Text("what introduces a preshared key", "pre-shared key " + PRIVATE_KEY[:20], ""),
]


@pytest.mark.parametrize("case", SAFE, ids=ids(SAFE))
def test_safe_name(case: Text) -> None:
    safe = wg_monitor.safe_name(case.given)
    assert safe == case.safe
    assert wg_monitor.safe_name(safe) == safe


@pytest.mark.parametrize("secret", [PRIVATE_KEY, PRIVATE_KEY[:-1], PRIVATE_KEY.encode().hex()[:64]])
@pytest.mark.parametrize("filler", ["#", "a ", "=  "])
def test_no_part_of_a_key_is_in_a_name_wherever_the_text_is_cut(secret: str, filler: str) -> None:
    for length in [*range(200, 380), *range(560, 720)]:
        text = (filler * length)[:length] + " " + secret
        told = [*wg_monitor.parse_names(io.StringIO("# %s\n[Peer]\nPublicKey = %s\n" % (text, ANN)))]
        for name in [wg_monitor.safe_name(text), *(name for _, _, name, _ in told)]:
            assert not any(secret[start : start + 8] in name for start in range(len(secret) - 8))


def test_only_the_beginning_of_a_long_text_is_looked_at() -> None:
    """A file may have one line of 16 MiB, which would hold the monitor up for half a minute."""
    assert wg_monitor.safe_name("a" + " " * 1000 + PRIVATE_KEY) == "a" + "_" * 63
    assert wg_monitor.comment("#a " + "b " * 1000 + PRIVATE_KEY) == ["#a " + ("b " * 150)[:297]]


def allowed(character: str) -> bool:
    return character in "._@+-" or unicodedata.category(character)[0] == "L" or unicodedata.category(character) == "Nd"


def test_every_character_of_a_name_is_allowed() -> None:
    for number in characters():
        first, second = wg_monitor.safe_name(chr(number) + "a"), wg_monitor.safe_name("a" + chr(number))
        assert first == "a" or (allowed(first[0]) and first[0] not in "._@+-")
        for character in first + second:
            assert allowed(character) or unicodedata.category(character) in ("Mn", "Mc")
            assert wg_monitor.printable(character) == character and not character.isspace()


def test_random_text_makes_a_safe_name() -> None:
    chance = random.Random(5)
    alphabet = "ab1.._@+-=[]{}\"'#;,:/\\ \t\n\r\0é\u0301\u0323\u202e\u3164\ufe0f李\U0001f600"
    for _ in range(scaled(20_000)):
        text = "".join(chance.choice(alphabet) for _ in range(chance.randrange(90)))
        name = wg_monitor.safe_name(text)
        assert len(name) <= 64 and "..." not in name and name == unicodedata.normalize("NFC", name)
        assert name == "" or name[0].isalnum()
        assert wg_monitor.safe_name(name) == name


# --- The corpus ---------------------------------------------------------------------------------------------------

Names = Dict[str, Tuple[str, str]]  # of each key: the name and the rule


def expected(path: Path) -> Names:
    rows = [row.split("\t") for row in Path(str(path) + ".expected").read_text(encoding="utf-8").splitlines()]
    return {key: (name, rule) for name, key, rule in rows}


def names_in(text: str) -> Names:
    """Those that a file gives to its peers."""
    found: Names = {}
    for _, key, name, rule in wg_monitor.parse_names(io.StringIO(text, newline="\n")):
        if key:
            found.setdefault(key, (name, rule))
    return found


def read(path: Path) -> str:
    with wg_monitor.open_names(str(path)) as file:
        return file.read()


def problems_in(text: str) -> List[str]:
    return [name for _, key, name, _ in wg_monitor.parse_names(io.StringIO(text, newline="\n")) if not key]


def secrets_of(path: Path) -> Set[str]:
    """The keys of a file that are not the public keys of its peers."""
    return set(KEY.findall(path.read_text(encoding="utf-8"))) - set(expected(path))


FORMS = {
    "as it is": lambda data: data,
    "with CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "without the last newline": lambda data: data[:-1],
    "with a byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "with all of them": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")[:-2],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: str(path.name))
def test_the_corpus(path: Path, form: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(FORMS[form](path.read_bytes()))
    text = read(tmp_path / "names")
    assert names_in(text) == {key: named for key, named in expected(path).items() if named[0]}
    assert problems_in(text) == []


def test_the_corpus_has_every_rule_and_secrets() -> None:
    rules = {rule for path in CORPUS for _, rule in expected(path).values()}
    forms = {form for _, *forms in wg_monitor.NAME_FORMS for form in forms}
    only = {"the only comment " + words for words in wg_monitor.ONLY_COMMENT.values()}
    assert rules - {"none"} == forms | only | {"list", "clients.txt", "JSON"}
    assert sum(len(secrets_of(path)) for path in CORPUS) > 40


def test_the_number_of_a_line_is_that_of_the_section_or_of_the_line_in_a_list() -> None:
    for path in CORPUS:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, key, _, rule in wg_monitor.parse_names(io.StringIO(path.read_text(encoding="utf-8"))):
            if rule == "JSON":
                assert number == 0
            elif path.suffix == ".txt":
                assert key in lines[number - 1]
            else:
                assert re.match(r"(?i)\[(WireGuard)?Peer\]", lines[number - 1])
                assert key in "\n".join(lines[number : number + 6])


class File(NamedTuple):
    name: str
    text: str
    names: Dict[str, str]
    problems: Sequence[str] = ()


PEER = "[Peer]\nPublicKey = %s\nAllowedIPs = 10.0.0.2/32\n"
WRONG_KEY = "the public key in line %d is invalid, or not the only one of a [Peer]"
NO_LIST = "line %d is neither KEY NAME nor NAME KEY EPOCH ADDRESS, and before any section"

FILES = [
    File("nothing", "", {}),
    File("comments", "# a\n#b\n", {}),
    File("an interface", "[Interface]\nPrivateKey = %s\n" % PRIVATE_KEY, {}),
    File("a name of a peer without a key", "[Peer]\n# Name = ann\n", {}),
    File("a list with a malformed line", "%s ann\nwhat is this\n%s bob\n" % (ANN, BOB), {ANN: "ann", BOB: "bob"}, [NO_LIST % 2]),
    File("a list with sections", "%s ann\n[Peer]\n%s bob\n" % (ANN, BOB), {ANN: "ann", BOB: "bob"}),
    File("settings without a section", "Name = x\n", {}, [NO_LIST % 1]),
    File("a list of secrets", "%s %s\n" % (ANN, PRIVATE_KEY), {}),
    File("a private key in a list", "x " + PRIVATE_KEY, {}, [NO_LIST % 1]),
    File("a name with line ends of other kinds", "%s a\x0b%s\u2028b\x85c\n" % (ANN, BOB), {}),
    File("the same in a comment", "# Name: a\r\x85[Peet]\u2028x\n" + PEER % ANN, {ANN: "a__Peet__x"}),
    File("a comment that poses as a section", "# Name: a [Peer]\n" + PEER % ANN, {}),
    File("the first of two names wins", "%s ann\n%s bob\n" % (ANN, ANN), {ANN: "ann"}),
    File("an invalid public key", PEER % "x" + "\n# bob\n" + PEER % BOB, {BOB: "bob"}, [WRONG_KEY % 2]),
    File("a key outside a peer", "[Interface]\nPublicKey = %s\n" % ANN, {}, [WRONG_KEY % 2]),
    File(
        "a missing header",
        "[Peer]\n# Name = ann\nPublicKey = %s\n# Name = bob\nPublicKey = %s\n" % (ANN, BOB),
        {ANN: "ann"},
        [WRONG_KEY % 5],
    ),
    File("a comment at the end of a section", PEER % ANN + "# Name = ann\n\n" + PEER % BOB, {ANN: "ann"}),
    File("a comment before the next section", PEER % ANN + "# Name = bob\n" + PEER % BOB, {}),
    File("a comment before the next section names it", PEER % ANN + "# bob\n" + PEER % BOB, {BOB: "bob"}),
    File("a comment behind a blank line", PEER % ANN + "\n# Name = ann\nPersistentKeepalive = 25\n", {}),
    File("a blank line before the key", "[Peer]\n\n# Name = ann\n\nPublicKey = %s\n" % ANN, {ANN: "ann"}),
    File(
        "a comment after an end",
        "### begin ann ###\n" + PEER % ANN + "### end ann ###\n# bob\n" + PEER % BOB,
        {ANN: "ann", BOB: "bob"},
    ),
    File("the order of rules", "### begin a ###\n[Peer]\n# Name = b\n# friendly_name = c\nPublicKey = " + ANN, {ANN: "c"}),
    File("a rule that gives no name", "# bob\n[Peer]\n# friendly_name = ---\nPublicKey = " + ANN, {ANN: "bob"}),
    File("a peer that is commented out", "# eve\n#[Peer]\n# Name = eve\n#PublicKey = %s\n" % EVE + PEER % ANN, {}),
    File("a commented-out peer with other comments", "# [peer]\n## ann\n\n" + PEER % ANN, {}),
    File("a disabled one", "#[disabled] [Peer]\n#[disabled] # Name = eve\n" + PEER % ANN, {}),
    File("a header that lost its line end", "# ann[Peer]\nPublicKey = %s\n" % ANN + PEER % BOB, {}, [WRONG_KEY % 2]),
    File("a key in a comment", "# %s\n" % PRIVATE_KEY + PEER % ANN, {}),
    File("a key in a comment beside a name", "# %s\n# ann\n" % PRIVATE_KEY + PEER % ANN, {ANN: "ann"}),
    File("a key as a name", "[Peer]\n# Name = %s\nPublicKey = %s\n" % (PRIVATE_KEY, ANN), {}),
    File("a friendly_json with escapes", '# friendly_json = {"name": "A\\"b"}\n' + PEER % ANN, {}),
    File("the same inside", '[Peer]\n# friendly_json = {"name": "A\\"b"}\nPublicKey = ' + ANN, {ANN: "A__b"}),
    File("JSON without names", '{"publicKey": "%s"}' % ANN, {}),
    File("JSON with other values", '[{"publicKey": 5, "name": "a"}, {"publicKey": "%s", "name": ["b"]}]' % ANN, {}),
    File(
        "a list of objects",
        '[{"PublicKey": "%s", "Name": "a"}, [{"public_key": "%s", "hostname": "b"}]]' % (ANN, BOB),
        {ANN: "a", BOB: "b"},
    ),
    File("JSON with a key that is none", '{"publicKey": "%s", "name": "a"}' % ANN[1:], {}),
    File("JSON with a secret as a name", '{"publicKey": "%s", "name": "%s"}' % (ANN, PRIVATE_KEY), {}),
    File("JSON with numbers beyond limits", '{"publicKey": "%s", "name": "a", "x": %s}' % (ANN, "9" * 5000), {ANN: "a"}),
    File("half of a JSON file", '{"x":\n\n{"publicKey": "%s", "name": "a"}, ' % ANN, {}, ["line 3 is not valid JSON"]),
    File("JSON that is too deep", '{"x":' + "[" * 100_000, {}, ["line 1 is not valid JSON"]),
    File("an array that is too deep", "[" * 100_000, {}, ["line 1 is not valid JSON"]),
    File("an empty array", "[]", {}),
    File("an empty object", "{}", {}),
    File("NUL", "\0\n", {}, [NO_LIST % 1]),
]


@pytest.mark.parametrize("case", FILES, ids=ids(FILES))
def test_a_file(case: File) -> None:
    assert {key: name for key, (name, _) in names_in(case.text).items()} == case.names
    assert problems_in(case.text) == list(case.problems)


def test_no_line_makes_the_parser_slow() -> None:
    """Each of these takes a moment, and would take hours if a pattern tried all ways to match it. The limit is the
    suite's: a test that hangs is ended."""
    hostile = [" " * 100_000, "#" * 100_000, "/" * 100_000, "# " + "/ " * 50_000, "# " + "a: b > " * 10_000, "# x (" * 20_000]
    hostile += ['# friendly_json = {"name": "' * 5_000, "A" * 100_000, "= " * 50_000, "[ " * 50_000, "# Name: " * 20_000]
    for line in hostile:
        for frame in ("%s", "[Peer]\n%s\nPublicKey = " + ANN + "\n", "%s\n" + PEER % ANN, '{"a": "%s"}'):
            names_in(frame % line)
    names_in("[Peer]\n" + "# x\n" * 100_000 + "PublicKey = " + ANN)


# --- Mutations ----------------------------------------------------------------------------------------------------

SIGNS = ["\n", "\r", "\0", "#", ";", "[", "]", "{", "}", '"', "=", ":", "/", " ", "\t", "\\", "a", "9", "é", "\u2028", "\ufeff"]
WORDS = ["[Peer]", "#[Peer]\n", "[Interface]\n", "# Name = mallory\n", "# mallory\n", "\n\n", "### end x ###\n"]
WORDS += ['"name": "mallory"', "### begin mallory ###\n", "PublicKey = x\n", "PublicKey = %s\n" % EVE, "\n[Peer]\n"]
WORDS += ["# friendly_name = mallory"]


def block_of(lines: List[str], key: str) -> Tuple[int, int]:
    """The first line of a peer's block, and the line after it: its section with the comments above, or its line in a list,
    or its object."""
    at = next(number for number, line in enumerate(lines) if key in line and not line.startswith("#"))
    first = last = at
    if lines[at].lower().startswith("publickey"):
        while not lines[first].startswith("["):
            first -= 1
        while first and lines[first - 1].startswith(("#", ";")) and not re.match("#.?\\[|#.*(end|END_PEER) ", lines[first - 1]):
            first -= 1
        while last + 1 < len(lines) and lines[last + 1] and not lines[last + 1].startswith("["):
            last += 1
        if last + 1 < len(lines) and lines[last + 1]:  # the comments there are the next one's
            while lines[last].startswith("#") and not re.match("#.*(end|END_PEER) ", lines[last]):
                last -= 1
    elif lines[at].lstrip().startswith('"'):
        while not lines[first].strip().endswith("{"):
            first -= 1
        while not lines[last].strip().startswith("}"):
            last += 1
    return first, last + 1


def mutate(chance: random.Random, block: str) -> str:
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(block) + 1)
        lines = block.split("\n")
        line = chance.randrange(len(lines))
        kind = chance.randrange(7)
        if kind == 0:
            block = block[:at] + block[at + 1 :]
        elif kind == 1:
            block = block[:at] + chance.choice(SIGNS) + block[at:]
        elif kind == 2:
            block = block[:at] + chance.choice(SIGNS) + block[at + 1 :]
        elif kind == 3:
            block = block[:at] + chance.choice(WORDS) + block[at:]
        elif kind == 4:
            block = "\n".join(lines[:line] + lines[line + 1 :])
        elif kind == 5:
            block = "\n".join([*lines[:line], lines[line], *lines[line:]])
        else:
            other = chance.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
            block = "\n".join(lines)
    return block


def test_mutated_files() -> None:
    """Whatever happens inside one peer's block: no exception, no secret, and no other peer has another name. JSON that is
    malformed gives no name at all, and then the former ones stay."""
    chance = random.Random(13)
    changed = malformed = 0
    for number in range(scaled(10_000)):
        path = CORPUS[number % len(CORPUS)]
        text, before = path.read_text(encoding="utf-8"), names_in(path.read_text(encoding="utf-8"))
        key = chance.choice(sorted(before))
        lines = text.split("\n")
        first, end = block_of(lines, key)
        block = mutate(chance, "\n".join(lines[first:end]))
        mutated = "\n".join([*lines[:first], block, *lines[end:]])
        found, wrong = names_in(mutated), problems_in(mutated)
        malformed += bool(wrong)
        changed += found != before
        output = " ".join([*(name for name, _ in found.values()), *wrong])
        for secret in [*secrets_of(path), *before]:
            assert not any(secret[at : at + 14] in output for at in range(len(secret) - 14)), mutated
        if any("JSON" in why for why in wrong):
            continue
        if end < len(lines) and lines[end] and block.split("\n")[-1].lstrip().startswith(("#", ";")):
            continue  # without a blank line between them, a comment at the end of the block is one of the next peer
        others = {other: named for other, named in before.items() if other != key}
        assert {other: found.get(other) for other in others} == others, (path.name, key, block)
        assert set(found) - set(before) <= {EVE} | set(KEY.findall(block)), (path.name, key, block)
    assert changed > scaled(10_000) // 4 and malformed > scaled(10_000) // 20


def test_random_bytes() -> None:
    chance = random.Random(17)
    parts = [ANN, BOB, PRIVATE_KEY, "[Peer]\n", "[Interface]\n", "PublicKey = ", "AllowedIPs = ", "# ", "Name = ", "### begin "]
    parts += ["\n", "\r\n", " ", "=", '"', "}", "]", "friendly_name = ", "ann", "\xff", "\0", "\ufeff"]
    parts += ['{"publicKey":"', '","name":"']
    for _ in range(scaled(5_000)):
        text = "".join(chance.choice(parts) for _ in range(chance.randrange(60)))
        output = " ".join([*(name for name, _ in names_in(text).values()), *problems_in(text)])
        assert PRIVATE_KEY[:14] not in output and ANN[:14] not in output


