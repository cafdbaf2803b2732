"""One small kernel for every operation of TTIR and every element type it takes, as printed TTIR.

All samples share one signature, so that anything can run them: three pointers to read from, one to write
to, and a number ``%n``. The values ``%x``, ``%y``, ``%z`` are tiles of 32 elements loaded from the three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SIZE = 32
INTS = ("i1", "i8", "i16", "i32", "i64")
WIDE_INTS = ("i8", "i16", "i32", "i64")
FLOATS = ("f16", "bf16", "f32", "f64")
MATH = ("f32", "f64")
FLOAT8 = ("f8E4M3FN", "f8E5M2", "f8E4M3FNUZ", "f8E5M2FNUZ")
NUMBERS = (*INTS, *FLOATS)
ALL = (*NUMBERS, *FLOAT8)


@dataclass(frozen=True)
class Sample:
    """A module with one kernel around ``op``; ``element`` is what varies between samples of one operation.

    ``kinds`` are the pointees of the four pointers.
    """

    op: str
    element: str
    text: str
    kinds: tuple[str, str, str, str]


def tile(element: str, *shape: int) -> str:
    return f"tensor<{'x'.join(map(str, shape or (SIZE,)))}x{element}>"


def pointers(element: str, *shape: int) -> str:
    return tile(f"!tt.ptr<{element}>", *shape)


def _load(name: str, element: str) -> str:
    p, _t = pointers(element), tile(element)
    return f"""
    %{name}s = tt.splat %p{name} : !tt.ptr<{element}> -> {p}
    %{name}p = tt.addptr %{name}s, %i : {p}, {tile("i32")}
    %{name} = tt.load %{name}p : {p}"""


def store(value: str, element: str, count: int = SIZE) -> str:
    """Write a tile of one dimension, or a scalar (``count`` 0)."""
    if count == 0:
        return f"\n    tt.store %po, %{value} : !tt.ptr<{element}>"
    p, i = pointers(element, count), tile("i32", count)
    return f"""
    %oi = tt.make_range {{end = {count} : i32, start = 0 : i32}} : {i}
    %os = tt.splat %po : !tt.ptr<{element}> -> {p}
    %op = tt.addptr %os, %oi : {p}, {i}
    tt.store %op, %{value} : {p}"""


def module(body: str, kinds: tuple[str, str, str, str], loads: str = "xyz", functions: str = "") -> str:
    """The sample's text: the common signature, the loads that the body uses, the body."""
    names = ("x", "y", "z", "o")
    arguments = ", ".join(f"%p{n}: !tt.ptr<{k}>" for n, k in zip(names, kinds, strict=True))
    used = "".join(_load(n, k) for n, k in zip(names, kinds, strict=False) if n in loads)
    return f"""module {{{functions}
  tt.func public @kernel({arguments}, %n: i32) {{
    %i = tt.make_range {{end = {SIZE} : i32, start = 0 : i32}} : {tile("i32")}{used}
    {body.strip()}
    tt.return
  }}
}}
"""


def elementwise(op: str, element: str, text: str, out: str, source: str = "") -> Sample:
    """``text`` computes ``%v`` from the loaded tiles, of type ``{T}``; ``{O}`` is the result's."""
    source = source or element
    body = text.format(T=tile(source), O=tile(out), B=tile("i1"), t=source, o=out)
    kinds = (source, source, source, out)
    used = "".join(v for v in "xyz" if f"%{v}" in body)
    return Sample(op, element, module(body + store("v", out), kinds, used), kinds)


_TWO_INTS = (
    "addi subi muli divsi divui remsi remui andi ori xori shli shrsi shrui maxsi minsi maxui minui ceildivsi "
    "ceildivui floordivsi"
)
_TWO_FLOATS = "addf subf mulf divf remf maxnumf minnumf maximumf minimumf"
_ONE_MATH = (
    "exp exp2 log log2 sin cos erf rsqrt sqrt floor ceil absf tanh expm1 log10 log1p tan sinh cosh asin "
    "acos atan "
    "asinh acosh atanh erfc cbrt trunc round roundeven"
)
_TESTS = "isnan isinf isfinite isnormal"


def _arithmetic() -> Iterator[Sample]:
    for name in _TWO_INTS.split():
        for t in INTS if name in ("andi", "ori", "xori") else WIDE_INTS:
            yield elementwise(f"arith.{name}", t, f"%v = arith.{name} %x, %y : {{T}}", t)
    for name in _TWO_FLOATS.split():
        for t in FLOATS:
            yield elementwise(f"arith.{name}", t, f"%v = arith.{name} %x, %y : {{T}}", t)
    for t in FLOATS:
        yield elementwise("arith.negf", t, "%v = arith.negf %x : {T}", t)
        yield elementwise("arith.cmpf", t, "%v = arith.cmpf olt, %x, %y : {T}", "i1")
        yield elementwise("math.fma", t, "%v = math.fma %x, %y, %z : {T}", t)
        yield elementwise("tt.clampf", t, "%v = tt.clampf %x, %y, %z, propagateNan = none : {T}", t)
    for t in INTS:
        yield elementwise("arith.cmpi", t, "%v = arith.cmpi ult, %x, %y : {T}", "i1")
    for t in NUMBERS:
        text = (
            "%c = arith.cmpi sgt, %i, %k : tensor<32xi32>\n    %v = arith.select %c, %x, %y : "
            "tensor<32xi1>, {T}"
        )
        yield elementwise("arith.select", t, f"%k = arith.constant dense<9> : tensor<32xi32>\n    {text}", t)
    for t in ALL:
        literal = "true" if t == "i1" else "1" if t in INTS else "1.000000e+00"
        yield elementwise("arith.constant", t, f"%v = arith.constant dense<{literal}> : {{T}}", t)
    for t in ("i32", "i64"):
        yield elementwise("tt.mulhiui", t, "%v = tt.mulhiui %x, %y : {T}", t)
        for name in ("mulsi_extended", "mului_extended"):
            yield elementwise(f"arith.{name}", t, f"%w, %v = arith.{name} %x, %y : {{T}}", t)
        for name in ("addui_extended", "subui_extended"):
            text = f"%w, %v = arith.{name} %x, %y : {{T}}, {{B}}"
            yield elementwise(f"arith.{name}", t, text, "i1")
    for t in WIDE_INTS:
        for name in ("absi", "ctlz", "cttz", "ctpop"):
            yield elementwise(f"math.{name}", t, f"%v = math.{name} %x : {{T}}", t)


def _math() -> Iterator[Sample]:
    for name in _ONE_MATH.split():
        for t in FLOATS if name in ("absf", "floor", "ceil", "sqrt", "rsqrt") else MATH:
            yield elementwise(f"math.{name}", t, f"%v = math.{name} %x : {{T}}", t)
    for name in ("powf", "atan2", "copysign"):
        for t in MATH:
            yield elementwise(
                f"math.{name}", t, f"%a = math.absf %x : {{T}}\n    %v = math.{name} %a, %y : {{T}}", t
            )
    for t in MATH:
        for name in _TESTS.split():
            yield elementwise(f"math.{name}", t, f"%v = math.{name} %x : {{T}}", "i1")
        power = "%w, %q = tt.split %j : tensor<32x2xi32> -> tensor<32xi32>"
        power = f"%j = tt.join %i, %i : tensor<32xi32> -> tensor<32x2xi32>\n    {power}"
        text = f"{power}\n    %v = math.fpowi %x, %q : {{T}}, tensor<32xi32>"
        yield elementwise("math.fpowi", t, text, t)
        yield elementwise("math.sincos", t, "%w, %v = math.sincos %x : {T}", t)
        yield elementwise("math.clampf", t, "%v = math.clampf %x to [%y, %z] : {T}", t)
        yield elementwise("arith.flush_denormals", t, "%v = arith.flush_denormals %x : {T}", t)
    yield elementwise("tt.precise_sqrt", "f32", "%v = tt.precise_sqrt %x : {T}", "f32")
    yield elementwise("tt.precise_divf", "f32", "%v = tt.precise_divf %x, %y : {T}", "f32")
    yield elementwise("tt.approx_divf", "f32", "%v = tt.approx_divf %x, %y : {T}", "f32")
    for t, symbol in (
        ("f32", "__nv_tanhf"),
        ("f64", "__nv_tanh"),
        ("f32", "__nv_j0f"),
        ("f32", "__nv_fadd_rdf"),
    ):
        if symbol.endswith("_rdf"):
            symbol = "__nv_fadd_rd"
        two = ", %y" if "add" in symbol else ""
        types = ", ".join(["{T}"] * (2 if two else 1))
        names = f'libname = "", libpath = "", pure = true, symbol = "{symbol}"'
        call = f"%v = tt.extern_elementwise %x{two} {{{{{names}}}}}"
        yield elementwise("tt.extern_elementwise", f"{t} {symbol}", f"{call} : ({types}) -> {{T}}", t, t)


def _conversions() -> Iterator[Sample]:
    def pair(op: str, a: str, b: str, extra: str = "", arrow: str = "to") -> Sample:
        return elementwise(op, f"{a}->{b}", f"%v = {op} %x{extra} : {{T}} {arrow} {{O}}", b, a)

    widths = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64}
    for a in INTS:
        for b in INTS:
            if widths[a] < widths[b]:
                yield pair("arith.extsi", a, b)
                yield pair("arith.extui", a, b)
                yield pair("arith.trunci", b, a)
    for i in INTS:
        for f in FLOATS:
            yield pair("arith.sitofp", i, f)
            yield pair("arith.uitofp", i, f)
            if i != "i1":
                yield pair("arith.fptosi", f, i)
                yield pair("arith.fptoui", f, i)
    wider = (("f16", "f32"), ("bf16", "f32"), ("f16", "f64"), ("bf16", "f64"), ("f32", "f64"))
    for a, b in wider:
        yield pair("arith.extf", a, b)
        yield pair("arith.truncf", b, a)
        yield pair("tt.fp_to_fp", b, a, ", rounding = rtz", "->")
    yield pair("arith.convertf", "f16", "bf16")
    for a in FLOAT8:
        for b in FLOATS:
            yield pair("tt.fp_to_fp", a, b, arrow="->")
            yield pair("tt.fp_to_fp", b, a, ", rounding = rtne", "->")
            yield pair("tt.fp_to_fp", b, a, ", rounding = rtz", "->")
    yield pair("tt.fp_to_fp", "f16", "bf16", ", rounding = rtne", "->")
    yield pair("tt.fp_to_fp", "bf16", "f16", ", rounding = rtne", "->")
    for a, b in (
        ("i32", "f32"),
        ("f32", "i32"),
        ("i16", "bf16"),
        ("f16", "i16"),
        ("i64", "f64"),
        ("f16", "bf16"),
    ):
        yield pair("tt.bitcast", a, b, arrow="->")
    for f in FLOAT8:
        yield pair("tt.bitcast", f, "i8", arrow="->")
    yield pair("arith.bitcast", "i32", "f32")
    for i in ("i32", "i64"):
        text = f"%w = arith.index_cast %x : {tile(i)} to {tile('index')}\n"
        text += f"    %v = arith.index_cast %w : {tile('index')} to {tile(i)}"
        yield elementwise("arith.index_cast", i, text, i)


def samples() -> Iterator[Sample]:
    """Every sample; operations in no particular order."""
    from headrace.codegen.cpu import opsamples_structure

    yield from _arithmetic()
    yield from _math()
    yield from _conversions()
    yield from opsamples_structure.samples()
