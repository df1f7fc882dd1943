"""Mutants of a Python module: its syntax tree with one operator, number, name or result changed.

What is not mutated, because no test should pin it: annotations, docstrings and other texts, decorators,
and the defaults of a class's fields (settings, not logic).
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
"""Each operator and what it becomes: a comparison also with its edge moved."""
SWAPS = {
    "max": "min",
    "maximum": "minimum",
    "any": "all",
    "argmax": "argmin",
    "nanargmax": "argmin",
}
NAMES = SWAPS | {new: old for old, new in SWAPS.items() if old != "nanargmax"}
"""Functions and methods, and what they become."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One changed module."""

    key: str
    """Where and what, without a line number, so that it outlives edits elsewhere."""
    line: int
    tree: ast.Module


def mutants(source: str, name: str) -> list[Mutant]:
    """Return all mutants of a module.

    Args:
        source: its text.
        name: its name in the keys.
    """
    count = sum(1 for _ in _changes(ast.parse(source)))
    told: Counter[str] = Counter()
    found = []
    for index in range(count):
        tree = ast.parse(source)
        line, where, what = _apply(tree, index)
        key = f"{name} {where}: {what}"
        told[key] += 1
        key += f" (no. {told[key]})" if told[key] > 1 else ""
        found.append(Mutant(key=key, line=line, tree=ast.fix_missing_locations(tree)))
    return found


@dataclass(frozen=True, kw_only=True)
class _Change:
    owner: ast.AST
    field: str
    index: int | None
    new: ast.AST
    shown: ast.AST
    where: str


def _apply(tree: ast.Module, index: int) -> tuple[int, str, str]:
    change = next(one for k, one in enumerate(_changes(tree)) if k == index)
    line, before = getattr(change.shown, "lineno", 0), ast.unparse(change.shown)
    if change.index is None:
        setattr(change.owner, change.field, change.new)
    else:
        getattr(change.owner, change.field)[change.index] = change.new
    changed = change.shown if change.shown is change.owner else change.new
    return line, change.where, f"{before} => {ast.unparse(ast.fix_missing_locations(changed))}"


def _changes(tree: ast.Module) -> Iterator[_Change]:
    yield from _walk(tree, "module", in_class=False)


def _walk(node: ast.AST, where: str, *, in_class: bool) -> Iterator[_Change]:
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns", "decorator_list", "type_params", "bases"}:
            continue
        if in_class and isinstance(node, ast.AnnAssign):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, (ast.JoinedStr, ast.arguments)):
                continue
            at = index if isinstance(value, list) else None
            for new, shown in _variants(node, field, child):
                yield _Change(owner=node, field=field, index=at, new=new, shown=shown, where=where)
            inner = where
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = child.name if where == "module" else f"{where}.{child.name}"
            yield from _walk(child, inner, in_class=isinstance(node, ast.ClassDef))


def _variants(owner: ast.AST, field: str, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield what a node may become, and the node that is shown to people for it."""
    for new in OPERATORS.get(type(node), ()):
        yield new(), owner
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield copy.deepcopy(node.operand), node
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value), node
        elif isinstance(node.value, (int, float)):
            yield ast.Constant(node.value + 1 if node.value in {0, 1} else 2 * node.value), node
    if isinstance(node, ast.Name) and isinstance(owner, ast.Call) and node.id in NAMES:
        yield ast.Name(NAMES[node.id], ast.Load()), node
    if isinstance(node, ast.Attribute) and isinstance(owner, ast.Call) and node.attr in NAMES:
        yield ast.Attribute(copy.deepcopy(node.value), NAMES[node.attr], ast.Load()), node
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.Return(ast.Constant(None)), node
    asks = field == "test" and not isinstance(node, (ast.Compare, ast.BoolOp, ast.UnaryOp))
    if asks and isinstance(node, ast.expr):
        yield ast.UnaryOp(ast.Not(), copy.deepcopy(node)), node


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
