"""Vector math from SLEEF, which libtorch carries: every function within one unit in the last place (a few for
erfc), over the whole range and with the C library's special values. SLEEF's sinh, cosh, asinh and acosh,
which overflow too early, are not used.

A vector wider than the processor's is computed in parts, a narrower one is padded. Scalars go to the C
library.
"""

from __future__ import annotations

from headrace.codegen.cpu import jit
from headrace.codegen.cpu.vector.context import Context, vector_type
from headrace.codegen.cpu.vector.errors import VectorDeclined

_ONE_ULP = """
sin cos tan asin acos atan atan2 tanh atanh exp exp2 exp10 expm1 log log2 log10 log1p pow cbrt erf
"""
_VARIANTS = {
    **dict.fromkeys(_ONE_ULP.split(), "_u10"),
    "erfc": "_u15",
    "hypot": "_u05",
    "fmod": "_",
}
FUNCTIONS = frozenset(_VARIANTS)


def call(g: Context, name: str, args: list[str], element: str, width: int) -> str:
    """``name`` of f32 or f64 lanes.

    Raises:
        VectorDeclined: no library in this process has the function.
    """
    vt = vector_type(element, width)
    if width == 0:
        return g.call(name + ("f" if element == "float" else ""), vt, *((vt, a) for a in args))
    lanes = g.machine.lanes if element == "float" else g.machine.lanes // 2
    letter = "f" if element == "float" else "d"
    symbol = f"Sleef_{name}{letter}{lanes}{_VARIANTS[name]}{'avx512f' if g.machine.avx512 else 'avx2'}"
    if jit.address_of(symbol) is None:
        raise VectorDeclined(f"no library has {symbol}")
    native = vector_type(element, lanes)
    if width == lanes:
        return g.call(symbol, native, *((native, a) for a in args))
    if width < lanes:
        order = [*range(width), *[-1] * (lanes - width)]
        padded = [g.shuffle(element, width, a, "poison", order) for a in args]
        whole = g.call(symbol, native, *((native, a) for a in padded))
        return g.shuffle(element, lanes, whole, "poison", range(width))
    parts = []
    for first in range(0, width, lanes):
        some = [g.shuffle(element, width, a, "poison", range(first, first + lanes)) for a in args]
        parts.append(g.call(symbol, native, *((native, a) for a in some)))
    while len(parts) > 1:
        size = width // len(parts)
        parts = [
            g.shuffle(element, size, a, b, range(2 * size))
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]
