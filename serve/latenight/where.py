"""Which alerts a subscriber wants: a small language of comparisons on the fields of the packet.

    scores.p_value < 1e-4 and target.program == 'dark'
    redrock.spectype in ('QSO', 'STAR') and explain.triage.label != 'artefact'
    20260101 <= night <= 20260131
    kind == 'group'

Fields are dotted names of the packet (schema/alert-1.0-example.json and alert-1.0-group-example.json show them all;
a field of the other kind is None), constants are numbers,
strings, True, False and None. Python parses the text; nothing of it is ever executed.
"""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

Alert = Mapping[str, Any]
Value = Callable[[Alert], Any]

# A field that is null compares as not smaller, not greater, and holds nothing; == None and != None find it.
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: lambda left, right: None not in (left, right) and left < right,
    ast.LtE: lambda left, right: None not in (left, right) and left <= right,
    ast.Gt: lambda left, right: None not in (left, right) and left > right,
    ast.GtE: lambda left, right: None not in (left, right) and left >= right,
    ast.In: lambda left, right: _may_hold(right, left) and left in right,
    ast.NotIn: lambda left, right: _may_hold(right, left) and left not in right,
}
MAX_LENGTH = 10_000  # characters; a deeper nesting than this allows could exhaust the parser


def _may_hold(right: Any, left: Any) -> bool:
    """Whether membership means anything: not in null, nor of null in a text."""
    return right is not None and not (left is None and isinstance(right, str))


def parse_where(text: str) -> Callable[[Alert], bool]:
    """The test that an expression describes.

    Raises:
        ValueError: it is no such expression, or names a field that packets do not have.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    try:
        test = _compile(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read {text!r}: {error}") from error

    def matches(alert: Alert) -> bool:
        try:
            return bool(test(alert))
        except TypeError as error:  # a number compared with a string
            raise ValueError(f"{text!r}: {error}") from error

    return matches


def _compile(node: ast.expr) -> Value:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            tests = [_compile(value) for value in values]
            return lambda alert: all(test(alert) for test in tests)
        case ast.BoolOp(values=values):
            tests = [_compile(value) for value in values]
            return lambda alert: any(test(alert) for test in tests)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            test = _compile(operand)
            return lambda alert: not test(alert)
        case ast.Compare():
            return _compare(node)
        case ast.Name() | ast.Attribute():
            return _field(node)
        case _:
            constant = _constant(node)
            return lambda _: constant


def _compare(node: ast.Compare) -> Value:
    """A chain a < b < c: every pair must hold."""
    terms = [_compile(term) for term in (node.left, *node.comparators)]
    if unknown := [op for op in node.ops if type(op) not in COMPARISONS]:
        raise ValueError(f"no such comparison: {type(unknown[0]).__name__}")
    compare = [COMPARISONS[type(op)] for op in node.ops]

    def holds(alert: Alert) -> bool:
        values = [term(alert) for term in terms]
        return all(test(a, b) for test, a, b in zip(compare, values, values[1:], strict=False))

    return holds


def _field(node: ast.expr) -> Value:
    name = ast.unparse(node)
    if name not in _fields():
        raise ValueError(f"packets have no field {name!r}; they have {', '.join(_fields())}")
    path = name.split(".")

    def get(alert: Alert) -> Any:
        value: Any = alert
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return get


def _constant(node: ast.expr) -> Any:
    """A number, string, True, False, None, or a tuple or list of them."""
    if not isinstance(node, (ast.Constant, ast.Tuple, ast.List, ast.UnaryOp)):
        raise ValueError(f"{ast.unparse(node)!r} is neither a field, a constant nor a comparison")  # noqa: TRY004
    return ast.literal_eval(node)


@cache
def _fields() -> tuple[str, ...]:
    """Every field of a packet, of a spectrum or of a group; one that a packet does not have is null."""
    examples = [files("latenight") / f"schema/alert-1.0-{name}.json" for name in ("example", "group-example")]

    def walk(content: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for key, value in content.items():
            found.append(prefix + key)
            found += walk(value, f"{prefix}{key}.") if isinstance(value, dict) else []
        return found

    found = [name for example in examples for name in walk(json.loads(example.read_text(encoding="utf-8")))]
    return tuple(dict.fromkeys(found))
