"""Math functions. exp, exp2, log, log2, tanh and erf in f32 are written out, accurate to one or two units in
the last place, so that they fuse with what surrounds them; everything else is called (``lanes/sleef.py``).

Range reductions and polynomials follow Cephes (exp, log, tanh) and N. Juffa's erff.
"""

from __future__ import annotations

import math

from headrace.codegen.cpu.vector.context import Context, const, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined
from headrace.codegen.cpu.vector.lanes import sleef

# What the processor computes itself, or in a few instructions.
_INTRINSICS = {
    **{name: name for name in ("floor", "ceil", "trunc", "round", "roundeven", "fma", "sqrt", "copysign")},
    "absf": "fabs", "abs": "fabs", "rint": "roundeven", "nearbyint": "roundeven", "precise_sqrt": "sqrt",
}  # fmt: skip
_ALSO = {"powf": "pow"}
_MATH = (*_INTRINSICS, *sleef.FUNCTIONS, "powf", "rsqrt", "absi")
NAMES = frozenset(f"math.{name}" for name in _MATH) | {"tt.precise_sqrt"}
CHEAP = frozenset(f"math.{name}" for name in _INTRINSICS if name != "sqrt") | {"math.absi"}


class _F32:
    """f32 lanes with short names for what polynomials need."""

    def __init__(self, g: Context, width: int) -> None:
        self.g = g
        self.width = width
        self.t = vector_type("float", width)
        self.it = vector_type("i32", width)
        self.bt = vector_type("i1", width)

    def k(self, value: float) -> str:
        return self.g.splat("float", const("float", value), self.width)

    def n(self, value: int) -> str:
        return self.g.splat("i32", str(value), self.width)

    def add(self, a: str, b: str) -> str:
        return self.g.op("fadd", self.t, a, b)

    def sub(self, a: str, b: str) -> str:
        return self.g.op("fsub", self.t, a, b)

    def mul(self, a: str, b: str) -> str:
        return self.g.op("fmul", self.t, a, b)

    def div(self, a: str, b: str) -> str:
        return self.g.op("fdiv", self.t, a, b)

    def fma(self, a: str, b: str, c: str) -> str:
        return self.g.fma("float", self.width, a, b, c)

    def poly(self, x: str, *coefficients: float) -> str:
        """Horner's rule, highest power first."""
        value = self.k(coefficients[0])
        for c in coefficients[1:]:
            value = self.fma(value, x, self.k(c))
        return value

    def unary(self, name: str, x: str) -> str:
        return self.g.call(
            f"llvm.{name}.v{self.width}f32" if self.width else f"llvm.{name}.f32", self.t, (self.t, x)
        )

    def less(self, a: str, b: str) -> str:
        return self.g.e.pure(f"fcmp olt {self.t} {a}, {b}", (a, b))

    def select(self, cond: str, a: str, b: str) -> str:
        return self.g.select(self.bt, cond, self.t, a, b)

    def bits(self, x: str) -> str:
        return self.g.bitcast(self.t, x, self.it)

    def real(self, x: str) -> str:
        return self.g.bitcast(self.it, x, self.t)

    def iop(self, name: str, a: str, b: str) -> str:
        return self.g.op(name, self.it, a, b)

    def copysign(self, size: str, sign: str) -> str:
        name = f"llvm.copysign.v{self.width}f32" if self.width else "llvm.copysign.f32"
        return self.g.call(name, self.t, (self.t, size), (self.t, sign))


def _scale(f: _F32, x: str, n: str) -> str:
    """x * 2^n for a whole n between -160 and 160, correct into the subnormals and to infinity."""
    if f.g.machine.avx512 and f.width == 16:
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        return f.g.call(name, f.t, (f.t, x), (f.t, n), (f.t, "zeroinitializer"), ("i16", "-1"), ("i32", "4"))
    whole = f.g.cast("fptosi", f.t, n, f.it)
    half = f.iop("ashr", whole, f.n(1))
    rest = f.iop("sub", whole, half)
    for part in (half, rest):
        x = f.mul(x, f.real(f.iop("shl", f.iop("add", part, f.n(127)), f.n(23))))
    return x


def _clamp(f: _F32, x: str, low: float, high: float) -> str:
    """Limit x, letting NaN through."""
    x = f.select(f.less(x, f.k(low)), f.k(low), x)
    return f.select(f.g.e.pure(f"fcmp ogt {f.t} {x}, {f.k(high)}", (x,)), f.k(high), x)


_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def _whole(f: _F32, x: str) -> str:
    return f.unary("roundeven", x)


def exp(f: _F32, x: str) -> str:
    """e^x: n = round(x / ln 2), e^(x - n ln 2) by a polynomial, scaled by 2^n."""
    x = _clamp(f, x, -104.0, 89.0)
    n = _whole(f, f.mul(x, f.k(1.44269504088896341)))
    r = f.fma(n, f.k(-0.693359375), x)
    r = f.fma(n, f.k(2.12194440e-4), r)
    p = f.poly(r, *_EXP)
    p = f.add(f.fma(p, f.mul(r, r), r), f.k(1.0))
    if not f.g.machine.avx512:
        n = f.select(f.g.e.pure(f"fcmp uno {f.t} {x}, {x}", (x,)), f.k(0.0), n)
    return _scale(f, p, n)


# Minimax for the relative error on [-1/2, 1/2]: 2e-9.
_EXP2 = (1.5345812e-4, 1.339993122e-3, 9.618488957e-3, 5.550328777e-2, 2.402264689e-1, 6.931472057e-1, 1.0)


def exp2(f: _F32, x: str) -> str:
    """2^x. AVX-512 finds x - round(x), and scales, without special cases: 0 for infinities, NaN for NaN."""
    if f.g.machine.avx512 and f.width == 16:
        name = "llvm.x86.avx512.mask.reduce.ps.512"
        rest = (("i32", "8"), (f.t, "zeroinitializer"), ("i16", "-1"), ("i32", "4"))
        r = f.g.call(name, f.t, (f.t, x), *rest)
        return _scale(f, f.poly(r, *_EXP2), _whole(f, x))
    x = _clamp(f, x, -151.0, 129.0)
    n = _whole(f, x)
    r = f.sub(x, n)
    c = [math.log(2) ** k / math.factorial(k) for k in range(7, 0, -1)]
    p = f.poly(r, *c)
    p = f.fma(p, r, f.k(1.0))
    if not f.g.machine.avx512:
        n = f.select(f.g.e.pure(f"fcmp uno {f.t} {x}, {x}", (x,)), f.k(0.0), n)
    return _scale(f, p, n)


_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip


def log(f: _F32, x: str) -> str:
    """Natural logarithm."""
    return _log(f, x, False)


def log2(f: _F32, x: str) -> str:
    """Binary logarithm."""
    return _log(f, x, True)


def _log(f: _F32, x: str, base2: bool) -> str:
    """Mantissa in [sqrt(1/2), sqrt(2)), polynomial, exponent times ln 2."""
    tiny = f.less(x, f.k(1.17549435e-38))
    scaled = f.select(tiny, f.mul(x, f.k(8388608.0)), x)
    bits = f.bits(scaled)
    e = f.iop("sub", f.iop("and", f.iop("lshr", bits, f.n(23)), f.n(255)), f.n(126))
    m = f.real(f.iop("or", f.iop("and", bits, f.n(0x007FFFFF)), f.n(0x3F000000)))
    small = f.less(m, f.k(0.707106781186547524))
    ef = f.g.cast("sitofp", f.it, e, f.t)
    ef = f.sub(ef, f.select(tiny, f.k(23.0), f.k(0.0)))
    ef = f.sub(ef, f.select(small, f.k(1.0), f.k(0.0)))
    m = f.sub(f.select(small, f.add(m, m), m), f.k(1.0))
    z = f.mul(m, m)
    y = f.mul(f.mul(f.poly(m, *_LOG), m), z)
    if base2:
        y = f.fma(z, f.k(-0.5), y)
        extra = f.k(0.44269504088896341)
        result = f.add(f.add(f.add(f.add(f.mul(y, extra), f.mul(m, extra)), y), m), ef)
    else:
        y = f.fma(ef, f.k(-2.12194440e-4), y)
        y = f.fma(z, f.k(-0.5), y)
        result = f.fma(ef, f.k(0.693359375), f.add(m, y))
    inf = f.k(math.inf)
    result = f.select(f.g.e.pure(f"fcmp oeq {f.t} {x}, {inf}", (x,)), inf, result)
    result = f.select(f.g.e.pure(f"fcmp oeq {f.t} {x}, {f.k(0.0)}", (x,)), f.k(-math.inf), result)
    return f.select(f.g.e.pure(f"fcmp ult {f.t} {x}, {f.k(0.0)}", (x,)), f.k(math.nan), result)


def tanh(f: _F32, x: str) -> str:
    """tanh: odd polynomial below 0.625, 1 - 2 / (e^2|x| + 1) above."""
    a = f.unary("fabs", x)
    z = f.mul(x, x)
    p = f.poly(z, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
    near = f.fma(f.mul(p, z), a, a)
    far = f.sub(f.k(1.0), f.div(f.k(2.0), f.add(exp(f, f.add(a, a)), f.k(1.0))))
    return f.copysign(f.select(f.less(a, f.k(0.625)), near, far), x)


def erf(f: _F32, x: str) -> str:
    """erf: odd polynomial near zero, 1 - e^(polynomial) further out."""
    t = f.unary("fabs", x)
    s = f.mul(x, x)
    r = f.fma(f.k(-1.72853470e-5), t, f.k(3.83197126e-4))
    u = f.fma(f.k(-3.88396438e-3), t, f.k(2.42546219e-2))
    r = f.fma(r, s, u)
    for c in (-1.06777877e-1, -6.34846687e-1, -1.28717512e-1):
        r = f.fma(r, t, f.k(c))
    r = f.fma(r, t, f.g.e.pure(f"fneg {f.t} {t}", (t,)))
    r = f.select(f.g.e.pure(f"fcmp ogt {f.t} {t}, {f.k(10.0)}", (t,)), f.k(-104.0), r)
    far = f.copysign(f.sub(f.k(1.0), exp(f, r)), x)
    q = f.poly(s, -5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
    near = f.fma(q, x, x)
    return f.select(f.g.e.pure(f"fcmp ogt {f.t} {t}, {f.k(0.927734375)}", (t,)), far, near)


def fmod(g: Context, x: str, y: str, element: str, width: int) -> str:
    """Remainder of the quotient rounded to zero, exact. SLEEF gives NaN where the quotient overflows: such
    vectors go to the C library."""
    quick = sleef.call(g, "fmod", [x, y], element, width)
    if width == 0:
        return quick
    vt, bt = vector_type(element, width), vector_type("i1", width)
    nothing = g.splat(element, const(element, 0.0), width)
    # x - x is zero for finite numbers only.
    finite = g.e.pure(f"fcmp oeq {vt} {(d := g.op('fsub', vt, x, x))}, {nothing}", (d,))
    divisor = g.e.pure(f"fcmp one {vt} {y}, {nothing}", (y,))
    lost = g.e.pure(f"fcmp uno {vt} {quick}, {quick}", (quick,))
    bad = g.op("and", bt, lost, g.op("and", bt, finite, divisor))
    some = g.bitcast(bt, bad, f"i{width}")
    any_ = g.e.pure(f"icmp ne i{width} {some}, 0", (some,))
    (result,) = g.e.branch(any_, [vt], lambda: [g.op("frem", vt, x, y)], lambda: [quick], rare=True)
    return result


_OWN = {"exp": exp, "exp2": exp2, "log": log, "log2": log2, "tanh": tanh, "erf": erf}


def function(g: Context, name: str, args: list[str], element: str, width: int) -> str:
    """A function of f32 or f64 by its name in the C library.

    Raises:
        VectorDeclined: there is no vector form of it.
    """
    vt = vector_type(element, width)
    if element == "float" and name in _OWN:
        return _OWN[name](_F32(g, width), args[0])
    kind = {"float": "f32", "double": "f64"}[element]
    suffix = f"v{width}{kind}" if width else kind
    if name == "rsqrt":
        root = g.call(f"llvm.sqrt.{suffix}", vt, (vt, args[0]))
        return g.op("fdiv", vt, g.splat(element, const(element, 1.0), width), root)
    if name in _INTRINSICS:
        return g.call(f"llvm.{_INTRINSICS[name]}.{suffix}", vt, *((vt, a) for a in args))
    if name == "fmod":
        return fmod(g, args[0], args[1], element, width)
    if name in sleef.FUNCTIONS:
        return sleef.call(g, name, args, element, width)
    raise VectorDeclined(f"{name} in {kind} is not vectorised")


def apply(g: Context, op: str, args: list[str], element: str, width: int) -> str:
    """Write one operation of the math dialect."""
    if op == "math.absi":
        vt = vector_type(element, width)
        negative = g.op("sub", vt, g.splat(element, "0", width), args[0])
        suffix = f"v{width}{element}" if width else element
        return g.call(f"llvm.smax.{suffix}", vt, (vt, args[0]), (vt, negative))
    name = op.partition(".")[2]
    return function(g, _ALSO.get(name, name), args, element, width)
