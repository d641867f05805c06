"""Arithmetic in configuration files: numbers and operators, nothing else."""

from __future__ import annotations

import ast
import operator
import re
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH = 200
MAX_BITS = 1024
_ALLOWED = re.compile(r"[0-9eE.+\-*/%()_ ]+")
_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def calculate(text: str) -> int | float:
    """Calculate `+ - * / // % **` and parentheses over numbers, e.g. `512*768` as 393216.

    Raises:
        ConfigError: Anything else, division by zero, or a power too large.
    """
    if len(text) > MAX_LENGTH or not _ALLOWED.fullmatch(text):
        raise ConfigError(f"eval takes numbers, + - * / // % ** and parentheses only, got {text[:60]!r}")
    try:
        result = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError, ArithmeticError) as error:
        raise ConfigError(f"cannot calculate {text[:60]!r}") from error
    if isinstance(result, complex):
        raise ConfigError(f"cannot calculate {text[:60]!r}")
    return result


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_value(left), _value(right))
    raise ArithmeticError


def _power(base: float, exponent: float) -> float:
    bits = base.bit_length() if isinstance(base, int) else 1
    if abs(exponent) * bits > MAX_BITS:
        raise ArithmeticError
    result: float = base**exponent
    if isinstance(result, complex):
        raise ArithmeticError
    return result
