"""What a text of the source can say, read from the source without running it: its constant words, and gaps.

The text of an error is put together from constants, variables and functions. Where it is not constant, it has a gap.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("contextcir", "data_modules", "callbacks", "experiments")
GAP = "…"
MOST = 6  # ways in which one text may read; of more than these only the gap is kept
DEPTH = 4  # of variables and functions that are followed
OPAQUE = ("shown", "one_line", "printable")  # of `contextcir.errors`: data, as a message quotes them
SAME = ("strip", "rstrip", "lstrip", "removesuffix", "removeprefix", "describe", "without_setting")
_PARAMETER = re.compile("\0([^\0]*)\0")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Called(NamedTuple):
    """A function of the project, and the module that has it."""

    module: "Module"
    function: Function


class Module:
    """A source file: its constants, functions, classes, imports and calls."""

    def __init__(self, path: Path, root: Path = ROOT) -> None:
        self.path = path.relative_to(root).as_posix()
        self.name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self.summary = (ast.get_docstring(tree) or "").partition("\n")[0]
        self.constants: dict[str, ast.expr] = {}
        self.functions: dict[str, Function] = {}
        self.classes: list[ast.ClassDef] = []
        self.imports: dict[str, tuple[str, str]] = {}
        self.calls: list[tuple[ast.Call, Place]] = []
        self._walk(tree, Place(self))
        for node in [*tree.body, *(line for kind in self.classes for line in kind.body)]:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.constants.setdefault(node.targets[0].id, node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                self.constants.setdefault(node.target.id, node.value)

    def _walk(self, node: ast.AST, place: "Place") -> None:
        for child in ast.iter_child_nodes(node):
            inner = place
            if isinstance(child, Function):
                self.functions.setdefault(child.name, child)
                inner = Place(self, (*place.functions, child))
            elif isinstance(child, ast.ClassDef):
                self.classes.append(child)
            elif isinstance(child, ast.ImportFrom):
                self.imports |= {alias.asname or alias.name: (child.module or "", alias.name) for alias in child.names}
            elif isinstance(child, ast.Call):
                self.calls.append((child, place))
            if not isinstance(child, ast.Constant | ast.Name | ast.expr_context):  # they hold nothing
                self._walk(child, inner)


class Place(NamedTuple):
    """Where an expression stands: its module, and the functions around it, the innermost last."""

    module: Module
    functions: tuple[Function, ...] = ()


class Sources:
    """All modules of the packages."""

    def __init__(self, root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> None:
        files = sorted(file for package in packages for file in (root / package).rglob("*.py"))
        self.modules = {module.name: module for module in (Module(file, root) for file in files)}
        self._values: dict[int, dict[str, list[ast.expr]]] = {}  # by the identity of the function

    def called(self, call: ast.Call, place: Place) -> Called | None:
        """Return the function of the project that a call is of; a method is looked for in the same module."""
        if isinstance(call.func, ast.Name):
            name = call.func.id
            if name in OPAQUE:
                return None
            if name in place.module.functions:
                return Called(place.module, place.module.functions[name])
            module, name = place.module.imports.get(name, ("", ""))
            found = self.modules.get(module)
            return Called(found, found.functions[name]) if found and name in found.functions else None
        if isinstance(call.func, ast.Attribute) and call.func.attr in place.module.functions:
            return Called(place.module, place.module.functions[call.func.attr])
        return None

    def texts(self, node: ast.expr | None, place: Place, depth: int = DEPTH) -> list[str]:
        """Return the ways in which an expression may read: with gaps, and parameters of functions marked as such."""
        if node is None or depth < 0:
            return [GAP]
        match node:
            case ast.Constant(value=str(value)):
                return [value]
            case ast.Constant():
                return [GAP]
            case ast.JoinedStr(values=values):
                return _joined([self._part(value, place, depth) for value in values])
            case ast.BinOp(op=ast.Add(), left=left, right=right):
                return _joined([self.texts(left, place, depth), self.texts(right, place, depth)])
            case ast.IfExp(body=body, orelse=other):
                return _either([self.texts(body, place, depth), self.texts(other, place, depth)])
            case ast.BoolOp(op=ast.Or(), values=values):
                return _either([self.texts(value, place, depth) for value in values])
            case ast.Name(id=name):
                return self._named(name, place, depth)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name.isupper():
                return self._named(name, place, depth)
            case ast.Call():
                return self._returned(node, place, depth)
        return [GAP]

    def _part(self, node: ast.expr, place: Place, depth: int) -> list[str]:
        """Return the ways of a part within a text: a part that may be missing, or of one letter, is a gap."""
        if not isinstance(node, ast.FormattedValue):
            return self.texts(node, place, depth)
        if node.format_spec is not None or node.conversion == ord("r"):
            return [GAP]
        ways = self.texts(node.value, place, depth)
        return ways if all(len(way.strip()) > 1 or way == GAP for way in ways) and len(ways) < MOST else [GAP]

    def _named(self, name: str, place: Place, depth: int) -> list[str]:
        for function in reversed(place.functions):
            if values := self._assigned(function).get(name):
                return _either([self.texts(value, place, depth - 1) for value in values])
            if name in parameters(function):
                return [f"\0{name}\0"]
        if name in place.module.constants:
            return self.texts(place.module.constants[name], Place(place.module), depth - 1)
        module, name = place.module.imports.get(name, ("", ""))
        found = self.modules.get(module)
        if found is not None and name in found.constants:
            return self.texts(found.constants[name], Place(found), depth - 1)
        return [GAP]

    def _assigned(self, function: Function) -> dict[str, list[ast.expr]]:
        """Return what a function assigns to its variables; not what it makes of their own values."""
        if id(function) not in self._values:
            values: dict[str, list[ast.expr]] = {}
            for name, value in _assignments(function):
                if not any(isinstance(inner, ast.Name) and inner.id == name for inner in ast.walk(value)):
                    values.setdefault(name, []).append(value)
            self._values[id(function)] = values
        return self._values[id(function)]

    def _returned(self, call: ast.Call, place: Place, depth: int) -> list[str]:
        if isinstance(call.func, ast.Attribute):
            if call.func.attr == "format":
                ways = self.texts(call.func.value, place, depth)
                return [re.sub(r"\{[^{}]*\}", GAP, way) for way in ways]
            if call.func.attr in SAME and not isinstance(call.func.value, ast.Name):
                return self.texts(call.func.value, place, depth)
        called = self.called(call, place)
        if called is None or depth == 0:
            return [GAP]
        there = Place(called.module, (called.function,))
        returns = [node.value for node in ast.walk(called.function) if isinstance(node, ast.Return) and node.value]
        ways = _either([self.texts(value, there, depth - 1) for value in returns])
        return list(dict.fromkeys(way for text in ways for way in self.filled(text, call, called, place, depth - 1)))

    def filled(self, text: str, call: ast.Call, called: Called, place: Place, depth: int = DEPTH) -> list[str]:
        """Return a text of a function with its parameters as a call gives them."""
        given = arguments(call, called.function)
        parts: list[list[str]] = []
        for number, part in enumerate(_PARAMETER.split(text)):
            parts.append(
                [part] if number % 2 == 0 else self.texts(given[part], place, depth) if part in given else [GAP]
            )
        return _joined(parts)


def parameters(function: Function) -> list[str]:
    """Return the names of a function's parameters."""
    given = function.args
    return [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def arguments(call: ast.Call, function: Function) -> dict[str, ast.expr]:
    """Return what a call gives, by the names of the function's parameters; defaults where it gives nothing."""
    names = parameters(function)
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    args = function.args
    given = dict(
        zip([arg.arg for arg in reversed([*args.posonlyargs, *args.args])], reversed(args.defaults), strict=False)
    )
    given |= {arg.arg: value for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True) if value is not None}
    known = itertools.takewhile(lambda value: not isinstance(value, ast.Starred), call.args)
    given |= dict(zip(names, known, strict=False))
    return given | {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


def has_parameters(text: str) -> bool:
    """Tell whether a text depends on a parameter of its function."""
    return "\0" in text


def plain(text: str) -> str:
    """Return a text on one line, with one gap for each run of gaps and parameters."""
    text = " ".join(_PARAMETER.sub(GAP, text).split())
    return re.sub(rf"{GAP}\.\.\.|{GAP}(?:[\s,]*{GAP})+", GAP, text)


def _assignments(function: Function) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(function):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
            ):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                each = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(targets) else None
                for number, target in enumerate(targets):
                    if isinstance(target, ast.Name):
                        yield target.id, each[number] if each else ast.Constant(None)


def _either(ways: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(way for several in ways for way in several)) or [GAP]


def _joined(parts: Sequence[Sequence[str]]) -> list[str]:
    """Return all ways in which parts can follow each other; parts that vary become gaps where these are too many."""
    parts = list(parts)
    while _count(parts) > MOST:
        widest = max(range(len(parts)), key=lambda number: len(parts[number]))
        parts[widest] = [GAP]
    return list(dict.fromkeys("".join(way) for way in itertools.product(*parts)))


def _count(parts: Sequence[Sequence[str]]) -> int:
    count = 1
    for part in parts:
        count *= len(part)
    return count
