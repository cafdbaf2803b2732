"""Functions that the C library lacks, as LLVM functions in double: inverses of erf, scaled erfc, Bessel I.

Every one is correct to a few units in the last place of a double, so its f32 version is this one rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from headrace.codegen.cpu.reference.emitter import Emitter
from headrace.codegen.cpu.reference.numbers import float_literal


class Formula:
    """Writes one function ``double @name(double...)``: straight-line arithmetic on registers."""

    def __init__(self, e: Emitter) -> None:
        self.e = e
        self.lines: list[str] = []
        self.count = 0

    def let(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %s{self.count} = {text}")
        return f"%s{self.count}"

    def number(self, x: str | float) -> str:
        return x if isinstance(x, str) else float_literal(x, "double")

    def op(self, verb: str, *args: str | float) -> str:
        return self.let(f"{verb} double {', '.join(self.number(a) for a in args)}")

    def add(self, a: str | float, b: str | float) -> str:
        return self.op("fadd", a, b)

    def sub(self, a: str | float, b: str | float) -> str:
        return self.op("fsub", a, b)

    def mul(self, a: str | float, b: str | float) -> str:
        return self.op("fmul", a, b)

    def div(self, a: str | float, b: str | float) -> str:
        return self.op("fdiv", a, b)

    def call(self, name: str, *args: str | float) -> str:
        self.e.declare("double", name, *["double"] * len(args))
        return self.let(f"call double @{name}({', '.join('double ' + self.number(a) for a in args)})")

    def less(self, a: str | float, b: str | float) -> str:
        return self.op("fcmp olt", a, b)

    def pick(self, condition: str, yes: str | float, no: str | float) -> str:
        return self.let(f"select i1 {condition}, double {self.number(yes)}, double {self.number(no)}")

    def polynomial(self, x: str, coefficients: list[float]) -> str:
        """Coefficients from the constant term up."""
        total: str = self.number(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            total = self.call("llvm.fma.f64", total, x, c)
        return total


def define(e: Emitter, name: str) -> str:
    """Define the function once in the module; returns its symbol."""
    symbol = f"headrace_{name}"
    if symbol not in e.globals:
        f = Formula(e)
        result = FUNCTIONS[name](f, "%x")
        body = "\n".join(f.lines)
        e.globals[symbol] = (
            f"define internal double @{symbol}(double %x) {{\n{body}\n  ret double {result}\n}}"
        )
    return symbol


def sinpi(f: Formula, x: str) -> str:
    """sin(pi x): the remainder by 2 is exact, and so is the reflection at one half."""
    t = f.call("remainder", x, 2.0)
    size = f.call("llvm.fabs.f64", t)
    folded = f.pick(f.less(0.5, size), f.sub(1.0, size), size)
    return f.call("llvm.copysign.f64", f.call("sin", f.mul(folded, math.pi)), f.pick(_zero(f, t), x, t))


def _zero(f: Formula, x: str) -> str:
    return f.op("fcmp oeq", x, 0.0)


def cospi(f: Formula, x: str) -> str:
    """cos(pi x) = sin(pi (1/2 - |x mod 2|))."""
    t = f.call("llvm.fabs.f64", f.call("remainder", x, 2.0))
    near = f.call("cos", f.mul(t, math.pi))
    return f.pick(f.less(t, 0.25), near, f.call("sin", f.mul(f.sub(0.5, t), math.pi)))


def normcdf(f: Formula, x: str) -> str:
    return f.mul(0.5, f.call("erfc", f.mul(x, -math.sqrt(0.5))))


def erfcx(f: Formula, x: str) -> str:
    """exp(x^2) erfc(x), with the low half of x^2 restored; its asymptotic series from 10 on."""
    square = f.mul(x, x)
    low = f.call("llvm.fma.f64", x, x, f.op("fneg", square))
    grown = f.call("exp", square)
    near = f.mul(f.call("llvm.fma.f64", grown, low, grown), f.call("erfc", x))
    near = f.pick(f.less(x, -27.0), math.inf, near)
    inverse = f.div(0.5, square)
    series = [1.0]
    for k in range(1, 14):
        series.append(-series[-1] * (2 * k - 1))
    far = f.div(f.polynomial(inverse, series), f.mul(x, math.sqrt(math.pi)))
    return f.pick(f.less(x, 10.0), near, f.pick(f.op("fcmp uno", x, x), x, far))


_SLOPE = 2 / math.sqrt(math.pi)


def _halley(f: Formula, y: str, error: Callable[[str], str]) -> str:
    """Three steps towards a root of ``error``, whose derivative is 2/sqrt(pi) exp(-y^2)."""
    for _ in range(3):
        slope = f.mul(_SLOPE, f.call("exp", f.op("fneg", f.mul(y, y))))
        u = f.div(error(y), slope)
        y = f.sub(y, f.div(u, f.call("llvm.fma.f64", y, u, 1.0)))
    return y


def _near(f: Formula, x: str) -> str:
    """erfinv for |x| <= 1/2, by its series and Halley's iteration on erf."""
    pi = math.pi
    square = f.mul(x, x)
    series = [math.sqrt(pi) / 2 * c for c in (1, pi / 12, 7 * pi**2 / 480, 127 * pi**3 / 40320)]
    start = f.mul(x, f.polynomial(square, series))
    made = _halley(f, start, lambda y: f.sub(f.call("erf", y), x))
    # Where the square underflows the series is exact.
    return f.pick(f.less(f.call("llvm.fabs.f64", x), 1e-150), start, made)


def _far(f: Formula, p: str) -> str:
    """erfcinv for p <= 1/2 (Press et al., inverfc), by Halley's iteration on erfc."""
    t = f.call("llvm.sqrt.f64", f.mul(-2.0, f.call("log", f.mul(p, 0.5))))
    above = f.polynomial(t, [2.30753, 0.27061])
    below = f.polynomial(t, [1.0, 0.99229, 0.04481])
    start = f.mul(-0.70711, f.sub(f.div(above, below), t))
    return _halley(f, start, lambda y: f.sub(p, f.call("erfc", y)))


def erfinv(f: Formula, x: str) -> str:
    size = f.call("llvm.fabs.f64", x)
    rest = f.sub(1.0, size)
    tail = f.call("llvm.copysign.f64", _far(f, rest), x)
    tail = f.pick(_zero(f, rest), f.call("llvm.copysign.f64", math.inf, x), tail)
    tail = f.pick(f.less(rest, 0.0), math.nan, tail)
    return f.pick(f.op("fcmp ole", size, 0.5), _near(f, x), tail)


def erfcinv(f: Formula, x: str) -> str:
    rest = f.sub(1.0, x)
    low = f.less(x, 0.5)
    p = f.pick(low, x, f.sub(2.0, x))
    tail = _far(f, p)
    tail = f.pick(_zero(f, p), math.inf, tail)
    tail = f.pick(f.less(p, 0.0), math.nan, tail)
    tail = f.pick(low, tail, f.op("fneg", tail))
    middle = f.op("fcmp ole", f.call("llvm.fabs.f64", rest), 0.5)
    return f.pick(middle, _near(f, rest), tail)


def normcdfinv(f: Formula, x: str) -> str:
    inverse = f.let(f"call double @{define(f.e, 'erfcinv')}(double {f.mul(x, 2.0)})")
    return f.mul(inverse, -math.sqrt(2.0))


_TERMS = 60  # of the series at |x| = 20, past the last one that counts


def _bessel_i(f: Formula, x: str, order: int) -> str:
    """I_n: its series, all terms positive, up to 20; then the asymptotic one, exp halved against overflow."""
    size = f.call("llvm.fabs.f64", x)
    quarter = f.mul(f.mul(size, size), 0.25)
    near = f.polynomial(quarter, [1 / (math.factorial(k) * math.factorial(k + order)) for k in range(_TERMS)])
    if order:
        near = f.mul(near, f.mul(size, 0.5))
    series = [1.0]
    for k in range(1, 30):
        series.append(-series[-1] * (4 * order**2 - (2 * k - 1) ** 2) / (8.0 * k))
    root = f.call("exp", f.mul(size, 0.5))
    scale = f.div(root, f.call("llvm.sqrt.f64", f.mul(size, 2 * math.pi)))
    far = f.mul(f.mul(f.polynomial(f.div(1.0, size), series), scale), root)
    far = f.pick(f.op("fcmp oeq", size, math.inf), size, far)
    value = f.pick(f.less(size, 20.0), near, far)
    return f.call("llvm.copysign.f64", value, x) if order else value


FUNCTIONS: dict[str, Callable[[Formula, str], str]] = {
    "sinpi": sinpi,
    "cospi": cospi,
    "normcdf": normcdf,
    "erfcx": erfcx,
    "erfinv": erfinv,
    "erfcinv": erfcinv,
    "normcdfinv": normcdfinv,
    "cyl_bessel_i0": lambda f, x: _bessel_i(f, x, 0),
    "cyl_bessel_i1": lambda f, x: _bessel_i(f, x, 1),
}
