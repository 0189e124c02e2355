"""Formulas that a student derives, and their check against what autograd says (book/homework, chapter 4).

An answer is text such as ``T * (q - p)``. It is read into sympy by the grammar of arithmetic and never evaluated as
Python. It is right if it agrees with the reference at random points; how it fails gives a hint, and not the answer.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS = ("exp", "log", "sqrt")
LONGEST, LARGEST = 500, 100  # characters of an answer; absolute value of an exponent that is a number
EXACT = 10**12  # larger whole numbers become floating-point ones
POINTS, CLOSE = 20, 1e-7
NOWHERE = "it has no real value at some points: look at what stands under a fraction, a root or a logarithm"

Ranges = Mapping[str, tuple[float, float]]  # a symbol's name, and between which values it is drawn


def read_formula(answer: str, symbols: Ranges) -> Any:
    """An answer as a sympy expression of the given symbols: numbers, powers as in Python, brackets, exp, log and
    sqrt.

    Raises ValueError if it is no formula, or holds something else; the message says what.
    """
    import sympy

    if not isinstance(answer, str) or not answer.strip():
        raise ValueError('an answer is text, such as "T * (q - p)"')
    if len(answer) > LONGEST:
        raise ValueError(f"an answer has at most {LONGEST} characters")

    def convert(node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as value):
                exact = isinstance(value, int) and value <= EXACT
                return sympy.Integer(value) if exact else sympy.Float(value)
            case ast.Name(id=name):
                if name in symbols:
                    return sympy.Symbol(name, real=True)
                raise ValueError(f"there is no symbol {name}; there are {', '.join(symbols)}")
            case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
                return OPERATORS[type(op)](convert(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                one, two = convert(left), convert(right)
                plain = two.is_Rational or two.is_Float
                if isinstance(op, ast.Pow) and two.is_number and not (plain and abs(two) <= LARGEST):
                    raise ValueError(f"an exponent is between -{LARGEST} and {LARGEST}")
                made = OPERATORS[type(op)](one, two)
                return sympy.Float(made) if made.is_Integer and abs(made) > EXACT else made
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
                return getattr(sympy, name)(convert(argument))
        raise ValueError(
            f"{ast.unparse(node)!r} is no part of a formula; allowed are numbers, {', '.join(symbols)}, "
            f"+ - * / **, brackets, {', '.join(FUNCTIONS)}"
        )

    try:
        return convert(ast.parse(answer.strip().replace("^", "**"), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{answer!r} cannot be read as a formula; is a bracket or a * missing?") from error


def check_formula(
    answer: str, reference: Callable[..., float], symbols: Ranges, seed: int | None = None
) -> str:
    """Hold an answer against a reference; "" if they agree, else a hint that does not give the answer away.

    reference: of a value for each symbol by name, in float64; such as a gradient that autograd computes. symbols:
    names, and the ranges that their values are drawn from. seed: of the points; None draws others every time. Raises
    ValueError if the answer is no formula.
    """
    import sympy

    expression = read_formula(answer, symbols)
    rng = np.random.default_rng(seed)
    points = [{name: rng.uniform(*ends) for name, ends in symbols.items()} for _ in range(POINTS)]
    truth = np.array([reference(**point) for point in points], float)
    if expression.has(sympy.zoo, sympy.nan, sympy.oo):
        return NOWHERE
    function = sympy.lambdify([sympy.Symbol(name, real=True) for name in symbols], expression, "numpy")
    with np.errstate(all="ignore"):
        try:
            found = np.array([complex(function(*point.values())) for point in points])
        except (ZeroDivisionError, OverflowError):
            found = np.full(POINTS, np.nan)
    if not np.isfinite(found).all() or np.abs(found.imag).max() > CLOSE:
        return NOWHERE
    values, size = found.real, np.abs(truth).max()
    if np.abs(values - truth).max() <= CLOSE * (1 + size):
        return ""
    if np.abs(values + truth).max() <= CLOSE * (1 + size):
        return "its sign is the other way round"
    if values.std() <= CLOSE < truth.std():
        return "it does not depend on anything, and should"
    steady = np.abs(truth) > 1e-3 * size
    ratio = values[steady] / truth[steady]
    if ratio.std() <= 1e-6 * abs(ratio.mean()):
        return "it is right up to a constant factor"
    for name in symbols:
        moved = {**points[0], name: points[1][name]}
        with np.errstate(all="ignore"):
            here = abs(complex(function(*moved.values())) - values[0])
        there = abs(reference(**moved) - truth[0])
        if (here <= CLOSE) != (there <= CLOSE):
            lacks = f"it does not depend on {name}, and should"
            return lacks if here <= CLOSE else f"it depends on {name}, and should not"
    close = int((np.abs(values - truth) <= 1e-3 * (1 + np.abs(truth))).sum())
    return f"it is another function: at {POINTS - close} of {POINTS} random points it has another value"
