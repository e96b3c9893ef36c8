"""Records which branches of a module's functions are taken. It compiles them with a recorder in every condition."""

import __future__

import ast
import inspect
import itertools
from types import ModuleType
from typing import Any, Dict, List, Set, Tuple, Union


class Recorder(ast.NodeTransformer):
    """Wraps every condition of a function and records its outcomes.

    It also records that a function, the body of a loop and the element of a comprehension are reached."""

    def __init__(self, source: str) -> None:
        self.source = source.splitlines()
        self.wanted: Set[Tuple[int, bool]] = set()
        self.seen: Set[Tuple[int, bool]] = set()
        self.places: List[str] = []

    def saw(self, place: int, value: Any) -> Any:
        self.seen.add((place, bool(value)))
        return value

    def missing(self) -> List[str]:
        return ["%s: never %s" % (self.places[place], outcome) for place, outcome in sorted(self.wanted - self.seen)]

    def mark(self, node: ast.AST, value: ast.expr, *outcomes: bool) -> ast.expr:
        place, line = len(self.places), getattr(node, "lineno", getattr(value, "lineno", 0))
        self.places.append("line %d, column %d: %s" % (line, value.col_offset, self.source[line - 1].strip()))
        self.wanted |= {(place, outcome) for outcome in outcomes}
        call = ast.Call(ast.Name("_saw", ast.Load()), [ast.Constant(place, kind=None), value], [])
        return ast.copy_location(call, value)

    def reached(self, node: ast.AST, first: ast.stmt) -> ast.stmt:
        true = ast.copy_location(ast.Constant(True, kind=None), first)
        return ast.copy_location(ast.Expr(self.mark(node, true, True)), first)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, self.reached(node, node.body[0]))
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.body.insert(0, self.reached(node, node.body[0]))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        node.test = self.mark(node, node.test, True, False)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        node.test = self.mark(node, node.test, True, False)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        node.test = self.mark(node, node.test, True, False)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Skips the last operand: it decides no branch of its own."""
        self.generic_visit(node)
        node.values[:-1] = [self.mark(value, value, True, False) for value in node.values[:-1]]
        return node

    def visit_ListComp(self, node: Union[ast.ListComp, ast.SetComp, ast.GeneratorExp]) -> ast.AST:
        """Treats the element of a comprehension like the body of a loop."""
        self.generic_visit(node)
        true = ast.copy_location(ast.Constant(True, kind=None), node.elt)
        both = ast.BoolOp(ast.And(), [self.mark(node.elt, true, True), node.elt])
        node.elt = ast.copy_location(both, node.elt)
        return node

    visit_SetComp = visit_GeneratorExp = visit_ListComp

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        node.ifs = [self.mark(test, test, True, False) for test in node.ifs]
        return node


def record(module: ModuleType, section: str) -> Tuple[Dict[str, Any], Recorder]:
    """Returns a module's names, with the functions of one section under a recorder, and the recorder.

    A section extends from its heading `# --- Title ---` to the next heading."""
    source = inspect.getsource(module)
    headings = [number for number, line in enumerate(source.splitlines(), 1) if line.startswith("# --- ")]
    ends = dict(itertools.zip_longest(headings, headings[1:]))
    (first,) = [number for number in headings if source.splitlines()[number - 1].startswith("# --- %s -" % section)]
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if first < node.lineno < (ends[first] or len(source))]
    recorder = Recorder(source)
    ast.fix_missing_locations(recorder.visit(tree))
    names = dict(vars(module), _saw=recorder.saw)
    flags = __future__.annotations.compiler_flag  # Python 3.7 cannot evaluate the annotations
    exec(compile(tree, inspect.getfile(module), "exec", flags), names)
    return names, recorder
