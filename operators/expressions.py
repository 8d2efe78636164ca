"""The expression language of `select`: a small, safe part of Python's, evaluated over whole Arrow columns.

    width >= 256 and height >= 256
    0.25 <= clip_score < 0.9 or source in ("dci", "docci")
    len(regions) > 0 and not (license is None) and "watermark" not in url

Allowed    and or not; == != < <= > >= (chained too); in, not in (a list of constants, or a text in a text);
           is None, is not None; + - * / // %; numbers, texts, True, False; len(text or list), abs(x), min(x, y),
           max(x, y), lower(text)
Null       as in SQL: comparing or computing with null gives null, `false and null` is false, `true or null` is true. A NaN
           and a division by zero are null. What is null in the end is not selected.
Errors     `ValueError`, when the expression is read (syntax) or checked against a schema (names, types), never at row level

Nothing is executed: Python's parser makes the tree, and each node is one `pyarrow.compute` call.
"""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MAX_LENGTH = 4000
MAX_DEPTH = 40
MAX_SHOWN = 80

_COMPARE: dict[type, Callable[..., Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_MEMBER = (ast.In, ast.NotIn)
_IDENTITY = (ast.Is, ast.IsNot)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
_FUNCTIONS = {"len": (1, 1), "abs": (1, 1), "lower": (1, 1), "min": (2, 16), "max": (2, 16)}
Value = Any  # pa.Array, pa.ChunkedArray or pa.Scalar


class Expression:
    def __init__(self, text: str):
        if len(text) > MAX_LENGTH:
            raise ValueError(f"expression of {len(text)} characters; expected at most {MAX_LENGTH}")
        self.text = " ".join(text.split())
        try:
            self.tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"cannot read the expression at character {error.offset}: {error.msg}: {self.text!r}") from None
        except (RecursionError, MemoryError):
            raise ValueError("the expression is nested too deeply") from None
        if _depth(self.tree) > MAX_DEPTH:
            raise ValueError(f"the expression is nested more than {MAX_DEPTH} deep")
        names: dict[str, None] = {}
        self._read(self.tree, names)
        self.columns = list(names)
        if not self.columns:
            raise ValueError(f"the expression names no column: {self.text!r}")

    def _source(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.text, node) or ast.unparse(node)

    def _refuse(self, node: ast.expr, why: str) -> ValueError:
        return ValueError(f"{self._source(node)!r}: {why}")

    def _read(self, node: ast.expr, names: dict[str, None]) -> None:
        """Collect the columns; ValueError for whatever is not of the language."""
        match node:
            case ast.Name():
                names[node.id] = None
            case ast.Constant(value=bool() | str() | float()):
                pass
            case ast.Constant(value=int(number)):
                if abs(number) >= 2**63:
                    raise self._refuse(node, "the number is too large")
            case ast.Constant(value=None):
                raise self._refuse(node, "None stands only after `is` or `is not`")
            case ast.BoolOp():
                for part in node.values:
                    self._read(part, names)
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
                self._read(node.operand, names)
            case ast.BinOp() if isinstance(node.op, _ARITHMETIC):
                self._read(node.left, names)
                self._read(node.right, names)
            case ast.Compare():
                self._read_comparison(node, names)
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
                least, most = _FUNCTIONS[name]
                if not least <= len(node.args) <= most:
                    raise self._refuse(node, f"{name} takes {least if least == most else f'{least} to {most}'} values")
                for argument in node.args:
                    self._read(argument, names)
            case _:
                functions = ", ".join(sorted(_FUNCTIONS))
                raise self._refuse(node, f"not part of the expression language (functions: {functions})")

    def _read_comparison(self, node: ast.Compare, names: dict[str, None]) -> None:
        self._read(node.left, names)
        if len(node.ops) > 1 and any(isinstance(operator, _IDENTITY + _MEMBER) for operator in node.ops):
            raise self._refuse(node, "`in` and `is` cannot be part of a chain")
        for operator, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, _IDENTITY):
                if not (isinstance(right, ast.Constant) and right.value is None):
                    raise self._refuse(node, "`is` compares with None only; use ==")
            elif isinstance(operator, _MEMBER) and isinstance(right, ast.List | ast.Tuple | ast.Set):
                constants = [self._constant(item) for item in right.elts]
                if not constants or any(value is None for value in constants):
                    raise self._refuse(node, "expected a list of constants after `in`")
            else:
                self._read(right, names)

    @staticmethod
    def _constant(node: ast.expr) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            value = node.operand.value
            return -value if isinstance(value, int | float) else None
        if not isinstance(node, ast.Constant) or not isinstance(node.value, bool | int | float | str):
            return None
        return None if isinstance(node.value, int) and abs(node.value) >= 2**63 else node.value

    def check(self, available: pa.Schema) -> None:
        """ValueError unless the expression can be evaluated over columns of this schema."""
        names = ["uid", *available.names]
        for name in self.columns:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1, 0.5)
                hint = f"Did you mean {near[0]}?" if near else f"Columns here: {', '.join(sorted(names))}"
                raise ValueError(f"{self.text!r}: no column {name}. {hint}")
        fields = {"uid": pa.string(), **{field.name: field.type for field in available}}
        self.evaluate(pa.table({name: pa.array([], fields[name]) for name in self.columns}))

    def evaluate(self, table: pa.Table) -> pa.Array:
        """bool, one value per row, null where unknown."""
        return _Evaluation(self, table).whole(self.tree)

    def explainer(self, table: pa.Table) -> Callable[[int], str]:
        """row → the first failed part of the top-level `and` with the values of its columns; evaluated when first asked."""
        parts = self.tree.values if isinstance(self.tree, ast.BoolOp) and isinstance(self.tree.op, ast.And) else [self.tree]

        @functools.cache
        def values() -> list[list[bool | None]]:
            evaluation = _Evaluation(self, table)
            return [evaluation.whole(part).to_pylist() for part in parts]

        def explain(row: int) -> str:
            # A false part says more than a null one, which may only be unknown.
            order = sorted(range(len(parts)), key=lambda k: {False: 0, None: 1, True: 2}[values()[k][row]])
            part = parts[order[0]]
            names = dict.fromkeys(node.id for node in ast.walk(part) if isinstance(node, ast.Name) and node.id in self.columns)
            shown = ", ".join(f"{name} = {_show(table[name][row].as_py())}" for name in names)
            return f"{self._source(part)}: {shown}"

        return explain


def _show(value: Any) -> str:
    """Bounded, on one line, without control or direction characters."""
    if isinstance(value, str):
        # repr escapes whatever is not printable, the characters that turn the line's direction among them
        return repr(value[:MAX_SHOWN]) + ("…" if len(value) > MAX_SHOWN else "")
    return "null" if value is None else f"{len(value)} items" if isinstance(value, list) else str(value)[:MAX_SHOWN]


def _depth(tree: ast.AST) -> int:
    """Level by level, since the walk that recurses is what a deep tree would break."""
    depth, level = 0, [tree]
    while level and depth <= MAX_DEPTH:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


class _Evaluation:
    """One walk over the tree with one table's columns."""

    def __init__(self, expression: Expression, table: pa.Table):
        self.expression, self.table = expression, table

    def whole(self, node: ast.expr) -> pa.Array:
        value = self.truth(node)
        if isinstance(value, pa.Scalar):
            value = pa.repeat(value, len(self.table))
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    def truth(self, node: ast.expr) -> Value:
        value = self.value(node)
        if pa.types.is_null(value.type):
            return pc.cast(value, pa.bool_())
        if not pa.types.is_boolean(value.type):
            raise self.expression._refuse(node, f"is {value.type}, expected a condition")
        return value

    def number(self, node: ast.expr) -> Value:
        value = self.value(node)
        if pa.types.is_null(value.type):
            return pc.cast(value, pa.float64())
        if not _numeric(value.type):
            raise self.expression._refuse(node, f"is {value.type}, expected a number")
        return value

    def value(self, node: ast.expr) -> Value:
        match node:
            case ast.Name():
                return _column(self.table[node.id])
            case ast.Constant():
                return pa.scalar(node.value)
            case ast.BoolOp():
                join = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
                return functools.reduce(join, (self.truth(part) for part in node.values))
            case ast.UnaryOp(op=ast.Not()):
                return pc.invert(self.truth(node.operand))
            case ast.UnaryOp():
                value = self.number(node.operand)
                return pc.negate(value) if isinstance(node.op, ast.USub) else value
            case ast.BinOp():
                return _arithmetic(node.op, self.number(node.left), self.number(node.right))
            case ast.Call():
                return self.call(node)
            case ast.Compare():
                return self.comparison(node)
        raise AssertionError(ast.dump(node))

    def call(self, node: ast.Call) -> Value:
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        if name in ("min", "max"):
            values = [self.number(argument) for argument in node.args]
            return (pc.min_element_wise if name == "min" else pc.max_element_wise)(*_same(values), skip_nulls=False)
        if name == "abs":
            return pc.abs(self.number(node.args[0]))
        value = self.value(node.args[0])
        if pa.types.is_null(value.type):
            return pc.cast(value, pa.int64() if name == "len" else pa.string())
        if _text(value.type):
            return pc.cast(pc.utf8_length(value), pa.int64()) if name == "len" else pc.utf8_lower(value)
        if name == "len" and (pa.types.is_list(value.type) or pa.types.is_large_list(value.type)):
            return pc.cast(pc.list_value_length(value), pa.int64())
        raise self.expression._refuse(node, f"{name} of {value.type}, expected a text{' or list' if name == 'len' else ''}")

    def comparison(self, node: ast.Compare) -> Value:
        left = self.value(node.left)
        if isinstance(node.ops[0], _IDENTITY + _MEMBER):
            found = pc.is_null(left) if isinstance(node.ops[0], _IDENTITY) else self.membership(node, left, node.comparators[0])
            return pc.invert(found) if isinstance(node.ops[0], ast.IsNot | ast.NotIn) else found
        results = []
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            results.append(self.compare(node, operator, left, right))
            left = right
        return functools.reduce(pc.and_kleene, results)

    def compare(self, node: ast.Compare, operator: ast.cmpop, left: Value, right: Value) -> Value:
        if pa.types.is_null(left.type) or pa.types.is_null(right.type):
            return self.unknown(left, right)
        kinds = {_kind(left.type), _kind(right.type)}
        if len(kinds) > 1 or "other" in kinds:
            raise self.expression._refuse(node, f"cannot compare {left.type} with {right.type}")
        if kinds == {"condition"} and not isinstance(operator, ast.Eq | ast.NotEq):
            raise self.expression._refuse(node, "conditions have no order")
        if kinds == {"number"}:
            left, right = _same([left, right])
        return _COMPARE[type(operator)](left, right)

    def membership(self, node: ast.Compare, left: Value, right: ast.expr) -> Value:
        if isinstance(right, ast.List | ast.Tuple | ast.Set):
            tests = [self.compare(node, ast.Eq(), left, pa.scalar(self.expression._constant(item))) for item in right.elts]
            return functools.reduce(pc.or_kleene, tests)
        inside = self.value(right)
        if pa.types.is_null(inside.type):
            return self.unknown(left, inside)
        if not _text(inside.type) or not isinstance(left, pa.Scalar) or not _text(left.type):
            raise self.expression._refuse(node, "`in` takes a list of constants, or looks for a constant text in a text column")
        return pc.match_substring(inside, left.as_py())

    def unknown(self, *values: Value) -> Value:
        rows = all(isinstance(value, pa.Scalar) for value in values)
        return pa.scalar(None, pa.bool_()) if rows else pa.nulls(len(self.table), pa.bool_())


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _kind(kind: pa.DataType) -> str:
    return "number" if _numeric(kind) else "text" if _text(kind) else "condition" if pa.types.is_boolean(kind) else "other"


def _column(column: Value) -> Value:
    """Numbers as int64 or float64; NaN is null. A uint64 beyond int64 (a hash) becomes a decimal, to stay exact."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _column(pc.cast(column, kind.value_type))
    if pa.types.is_uint64(kind):
        return pc.cast(column, pa.decimal128(20, 0))
    if pa.types.is_integer(kind):
        return pc.cast(column, pa.int64())
    if pa.types.is_floating(kind):
        return _no_nan(pc.cast(column, pa.float64()))
    return column


def _no_nan(value: Value) -> Value:
    return pc.if_else(pc.is_nan(value), pa.scalar(None, pa.float64()), value)


def _same(values: list[Value]) -> list[Value]:
    """Integers stay integers, so that they compare exactly; one float among them makes all of them floats."""
    if any(pa.types.is_floating(value.type) for value in values):
        return [pc.cast(value, pa.float64()) for value in values]
    if any(pa.types.is_decimal(value.type) for value in values):
        return [pc.cast(value, pa.decimal128(20, 0)) for value in values]
    return values


def _arithmetic(operator: ast.operator, left: Value, right: Value) -> Value:
    """As Python's, in float64, which is exact for integers below 2**53; what has no value is null."""
    left, right = pc.cast(left, pa.float64()), pc.cast(right, pa.float64())
    match operator:
        case ast.Add():
            result = pc.add(left, right)
        case ast.Sub():
            result = pc.subtract(left, right)
        case ast.Mult():
            result = pc.multiply(left, right)
        case _:
            nonzero = pc.if_else(pc.equal(right, 0.0), pa.scalar(None, pa.float64()), right)
            result = pc.divide(left, nonzero)
            if isinstance(operator, ast.FloorDiv | ast.Mod):
                result = pc.floor(result)
            if isinstance(operator, ast.Mod):
                result = pc.subtract(left, pc.multiply(result, nonzero))
    return pc.if_else(pc.is_finite(result), result, pa.scalar(None, pa.float64()))
