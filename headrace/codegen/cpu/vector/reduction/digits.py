"""bf16 numbers as integers of three or four signed bytes, multiplied by signed bytes without rounding.

Within a chunk of x whose exponents span few enough powers of two each x[k] is an integer times one power of
two, X[k] * scale, and

    X[k] = sum_q 256**q * d[q, k],    -128 <= d[q, k] <= 127
    sum_k w[k] X[k] = sum_q 256**q * (sum_k (w[k] + 128) d[q, k] - 128 * sum_k d[q, k])

w + 128 is one ``xor`` with 0x80, and each inner sum one ``vpdpbusd`` per 64 bytes of w, where making bf16 of
them takes nine instructions. The last term is known once per chunk: sums start from it. They are exact: in
any lane of a chunk they stay below ``2 * CAPACITY / 16 * 255 * 128``, far below 2**31.

A bf16 has eight significant bits, so three digits hold exponents that lie up to 15 apart, four up to 23 (one
less where the largest number has a significand of ones); zeros fit always. The chunk's largest exponent
decides for the whole chunk where that begins, and three digits become four where too much would be left out.
What is left out is whole iterations of the loop: those with a number that is too small (or subnormal,
infinite or NaN), and those that a mask cuts short. They are summed in the usual way, and their digits are
zero. The lowest of three digits is zero but for the smallest numbers; where these are few,
:mod:`.digit_sums` multiplies by it in their places only.

The digits stay for the next program of the same launch on the same thread, which compares its x with the copy
that they were made from, or only where it lies: see ``control/whole.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.codegen.cpu.vector.context import Context, const
from headrace.codegen.cpu.vector.emit import Values
from headrace.codegen.cpu.vector.expr import Expr
from headrace.codegen.cpu.vector.lanes.elementwise import Elementwise
from headrace.codegen.cpu.vector.lanes.vnni import multiply_quads
from headrace.codegen.cpu.vector.reduction.accumulate import direct, signed_bytes, widened_from
from headrace.codegen.cpu.vector.reduction.combine import Combine

STEP = 64  # elements at a time
_LEAST = 128  # elements of an iteration from which on its sums are made in this way: see `control/whole.py`
CAPACITY = 16384  # elements of a chunk; their digits stay in the second cache
_PLANES = 4
_HALF = 32  # bf16 in one vector
_SPANS = {3: 15, 4: 23}  # by how much exponents may differ, by digits
_FEW = 8  # one iteration in so many may be left out before a digit is added
_MERGED = (3, 4)  # of so many steps at most have lowest digits, or these are multiplied at every step
BYTES, WORDS, _SHORTS = f"<{STEP} x i8>", "<16 x i32>", f"<{_HALF} x i16>"
_FLOATS = "<16 x float>"
_BIAS = 0x80808080 - (1 << 32)  # 128 in every byte


def factors(
    g: Context, combine: Combine, expr: Expr, axis: int, uses: Mapping[int, int]
) -> tuple[Expr, Expr] | None:
    """x (bf16, varying along ``axis`` only) and w (signed bytes) of a product that can be summed this way."""
    top = expr.resolved()
    size = expr.shape[axis]
    if not (g.machine.avx512 and g.machine.vnni) or not _LEAST <= size <= CAPACITY or size % STEP:
        return None
    if combine != Combine("arith.addf", "float") or not isinstance(top, Elementwise):
        return None
    if top.op != "arith.mulf" or uses.get(top.uid, 1) != 1:
        return None
    for x, y in (top.operands, top.operands[::-1]):
        short, narrow = widened_from(x, "bfloat"), signed_bytes(y)
        if short is None or narrow is None or not (direct(short, axis) and direct(narrow, axis)):
            continue
        if short.varies <= {axis} and axis in narrow.varies:
            return short, narrow
    return None


@dataclass(frozen=True)
class Digits:
    """The digits of one chunk, ``block`` elements per iteration, in memory of the calling thread.

    Attributes:
        copy: bf16[CAPACITY], what they were made from.
        lowest, middle, highest: i8[CAPACITY / 64, 1 or 2, 64], the digits.
        some: i64[CAPACITY / 64], which of the lowest digits are not zero. merged: i8[CAPACITY / 64 + 1, 64],
        those put together from several steps. full: i8[CAPACITY / 64], 1 where a step begins with new ones.
        cut: i8 per iteration, 1 where a mask ends within it. other: the same, 1 where it is left out.
        place: i64 per iteration, where x was. start: i32[4, 16], what sums start from. scale: f32.
        count: i64, digits that are multiplied at every step.
        known: i64, iterations that all this is about; 0 at the start of a launch.
    """

    block: int
    copy: str
    lowest: str
    middle: str
    highest: str
    some: str
    merged: str
    full: str
    cut: str
    other: str
    place: str
    start: str
    scale: str
    count: str
    known: str

    @staticmethod
    def make(g: Context, block: int) -> Digits:
        """Memory for a chunk."""
        room = g.e.scratch
        return Digits(
            block,
            copy=room(2 * CAPACITY),
            lowest=room(CAPACITY),
            middle=room(2 * CAPACITY),
            highest=room(CAPACITY),
            some=room(8 * CAPACITY // STEP),
            merged=room(CAPACITY + STEP),
            full=room(CAPACITY // STEP),
            cut=room(CAPACITY // block),
            other=room(CAPACITY // block),
            place=room(8 * (CAPACITY // block)),
            start=room(_PLANES * 64),
            scale=room(4),
            count=room(8),
            known=g.e.cleared(),
        )

    def _place(self, g: Context, n: str, off: int) -> str:
        """Where the copy of element ``off`` of iteration ``n`` is."""
        return g.gep("i16", g.gep("i16", self.copy, g.mul(n, str(self.block))), str(off))

    def changed(self, g: Context, n: str, off: int, x: str) -> str:
        """What differs in 64 bf16 from ``off`` on in iteration ``n``, as a vector."""
        return g.op("xor", f"<{STEP} x i16>", g.load("i16", STEP, self._place(g, n, off)), x)

    def keep(self, g: Context, n: str, off: int, x: str) -> None:
        """Make a copy of 64 bf16."""
        g.store("i16", STEP, x, self._place(g, n, off))

    def moved(self, g: Context, n: str, place: str) -> str:
        """What differs in the address of the numbers of iteration ``n``, as an i64."""
        return g.op("xor", "i64", g.load("i64", 0, g.gep("i64", self.place, n)), place)

    def keep_place(self, g: Context, n: str, place: str) -> None:
        """Note the address of the numbers of iteration ``n``."""
        g.store("i64", 0, place, g.gep("i64", self.place, n))

    def cut_changed(self, g: Context, n: str, cut: str) -> str:
        """What differs in whether a mask ends within iteration ``n``, as an i8."""
        before = g.load("i8", 0, g.gep("i8", self.cut, n))
        return g.op("xor", "i8", before, g.cast("zext", "i1", cut, "i8"))

    def keep_cut(self, g: Context, n: str, cut: str) -> None:
        """Note whether a mask ends within iteration ``n``."""
        g.store("i8", 0, g.cast("zext", "i1", cut, "i8"), g.gep("i8", self.cut, n))

    def stale(self, g: Context, iterations: str, changed: str) -> str:
        """Whether the digits of so many iterations have to be made."""
        same = g.cmp("eq", g.load("i64", 0, self.known), iterations)
        return g.op("or", "i1", changed, g.op("xor", "i1", same, "true"))

    def left_out(self, g: Context, n: str) -> str:
        """Whether iteration ``n`` is to be summed in another way."""
        return g.cmp("eq", g.load("i8", 0, g.gep("i8", self.other, n)), "1", "i8")

    def starts(self, g: Context) -> Values:
        """What the sums of a row start from, one vector per digit, the lowest first."""
        return [g.load("i32", 16, g.gep("i8", self.start, str(64 * q))) for q in range(_PLANES)]

    def digit(self, g: Context, at: str, q: int) -> str:
        """Digit ``q``, 0 for the lowest, of 64 numbers from number ``at`` on."""
        return g.bitcast(BYTES, g.load("i8", STEP, self._plane(g, at, q)), WORDS)

    def _plane(self, g: Context, at: str, q: int) -> str:
        """Where that is."""
        if q in (0, 3):
            return g.gep("i8", self.lowest if q == 0 else self.highest, at)
        return g.gep("i8", g.gep("i8", self.middle, g.mul(at, "2")), str(STEP * (q - 1)))

    def total(self, g: Context, sums: Values, scale: str, plus: str) -> str:
        """``plus`` and the sums of all digits, as f32 lanes."""
        parts = [g.cast("sitofp", WORDS, s, _FLOATS) for s in sums]
        value = parts.pop()
        while parts:
            value = g.fma("float", 16, value, g.splat("float", const("float", 256.0), 16), parts.pop())
        return g.fma("float", 16, value, g.splat("float", scale, 16), plus)

    def _size(self, g: Context, n: str, off: int) -> tuple[str, str]:
        """32 numbers of iteration ``n``, and their sizes: bf16 without their signs, as integers."""
        x = g.load("i16", _HALF, self._place(g, n, off))
        return x, g.op("and", _SHORTS, x, "splat (i16 32767)")

    def renew(self, g: Context, iterations: str) -> None:
        """Make the digits of so many iterations from the copies of their numbers."""
        halves = range(0, self.block, _HALF)

        def largest(n: str, args: Values) -> Values:
            (most,) = args
            for off in halves:
                _, size = self._size(g, n, off)
                finite = g.e.pure(f"icmp ult {_SHORTS} {size}, splat (i16 {0x7F80})", (size,))
                size = g.select(f"<{_HALF} x i1>", finite, _SHORTS, size, "zeroinitializer")
                most = g.call("llvm.umax.v32i16", _SHORTS, (_SHORTS, most), (_SHORTS, size))
            return [most]

        (most,) = g.e.loop("0", iterations, "1", [(_SHORTS, "zeroinitializer")], largest, barrier=True)
        top = g.call("llvm.vector.reduce.umax.v32i16", "i16", (_SHORTS, most))
        # The highest digit has no place for a significand of ones at the top.
        top = g.op("add", "i16", top, "1")
        exponent = g.op("lshr", "i64", g.cast("zext", "i16", top, "i64"), "7")
        low = {count: g.smax(g.sub(exponent, str(span)), "1") for count, span in _SPANS.items()}

        def unfit(n: str, bound: str) -> str:
            """Whether iteration ``n`` has a number that is no digits: neither zero, nor from ``bound`` (a
            size, as an i16) on, nor finite."""
            below = g.splat("i16", g.op("sub", "i16", bound, "1"), _HALF)
            found = "zeroinitializer"
            for off in halves:
                _, size = self._size(g, n, off)
                less = g.op("sub", _SHORTS, size, "splat (i16 1)")
                small = g.e.pure(f"icmp ult {_SHORTS} {less}, {below}", (less, below))
                huge = g.e.pure(f"icmp ugt {_SHORTS} {size}, splat (i16 {0x7F7F})", (size,))
                either = g.op("or", f"<{_HALF} x i1>", small, huge)
                found = g.op("or", f"<{_HALF} x i1>", found, either)
            return g.cmp("sgt", _ones(g, found), "0", "i64")

        def bound_of(low: str) -> str:
            return g.cast("trunc", "i64", g.op("shl", "i64", low, "7"), "i16")

        def count(n: str, args: Values) -> Values:
            return [g.op("add", "i64", args[0], g.cast("zext", "i1", unfit(n, bound_of(low[3])), "i64"))]

        (out,) = g.e.loop("0", iterations, "1", [("i64", "0")], count, barrier=True)
        many = g.cmp("sgt", g.mul(out, str(_FEW)), iterations)
        first = g.select("i1", many, "i64", low[4], low[3])
        bound = bound_of(first)
        # With 134 for the first exponent, a bf16 is its own integer: 2**7 is the exponent of 1.0 and seven.
        shift = g.op("shl", "i64", g.sub("134", first), "7")
        moved = g.splat("i16", g.cast("trunc", "i64", shift, "i16"), _HALF)

        def write(n: str, args: Values) -> Values:
            sums, (gathered, taken, at, steps) = list(args[:_PLANES]), args[_PLANES:]
            cut = g.cmp("eq", g.load("i8", 0, g.gep("i8", self.cut, n)), "1", "i8")
            out = g.op("or", "i1", unfit(n, bound), cut)
            g.store("i8", 0, g.cast("zext", "i1", out, "i8"), g.gep("i8", self.other, n))
            least = g.splat("i16", g.select("i1", out, "i16", "-1", bound), _HALF)
            for off in range(0, self.block, STEP):
                place = g.add(g.mul(n, str(self.block)), str(off))
                planes = self._planes(g, n, off, least, moved)
                for q, plane in enumerate(planes):
                    g.store("i8", STEP, plane, self._plane(g, place, q))
                    ones = g.bitcast(BYTES, "splat (i8 1)", WORDS)
                    sums[q] = multiply_quads(g, sums[q], ones, g.bitcast(BYTES, plane, WORDS), 16)
                low = planes[0]
                lanes = g.e.pure(f"icmp ne {BYTES} {low}, zeroinitializer", (low,))
                some = g.bitcast(f"<{STEP} x i1>", lanes, "i64")
                full = g.cmp("ne", g.op("and", "i64", taken, some), "0")
                step = g.op("lshr", "i64", place, str(STEP.bit_length() - 1))
                g.store("i64", 0, some, g.gep("i64", self.some, step))
                g.store("i8", 0, g.cast("zext", "i1", full, "i8"), g.gep("i8", self.full, step))
                g.store("i8", STEP, gathered, g.gep("i8", self.merged, at))
                at = g.add(at, g.select("i1", full, "i64", str(STEP), "0"))
                gathered = g.select("i1", full, BYTES, "zeroinitializer", gathered)
                gathered = g.op("or", BYTES, gathered, low)
                taken = g.op("or", "i64", g.select("i1", full, "i64", "0", taken), some)
                steps = g.add(steps, g.cast("zext", "i1", g.cmp("ne", some, "0"), "i64"))
            return [*sums, gathered, taken, at, steps]

        inits = [(WORDS, "zeroinitializer")] * _PLANES + [(BYTES, "zeroinitializer"), *[("i64", "0")] * 3]
        *sums, gathered, _, at, steps = g.e.loop("0", iterations, "1", inits, write, barrier=True)
        g.store("i8", STEP, gathered, g.gep("i8", self.merged, at))
        for q, value in enumerate(sums):
            place = g.gep("i8", self.start, str(64 * q))
            g.store("i32", 16, g.op("mul", WORDS, value, "splat (i32 -128)"), place)
        g.store("i32", 0, _power(g, g.sub(first, "134")), self.scale)
        part, whole = _MERGED
        all_steps = g.mul(iterations, str(part * (self.block // STEP)))
        merged = g.cmp("sle", g.mul(steps, str(whole)), all_steps)
        merged = g.op("and", "i1", merged, g.op("xor", "i1", many, "true"))
        digits = g.select("i1", many, "i64", "4", "3")
        g.store("i64", 0, g.select("i1", merged, "i64", "2", digits), self.count)
        g.store("i64", 0, iterations, self.known)

    def _planes(self, g: Context, n: str, off: int, least: str, moved: str) -> Values:
        """The digits of 64 numbers; those below ``least`` count as zero."""
        pairs = []
        for half in range(off, off + STEP, _HALF):
            x, size = self._size(g, n, half)
            some = g.e.pure(f"icmp uge {_SHORTS} {size}, {least}", (size, least))
            x = g.op("add", _SHORTS, x, moved)
            x = g.bitcast(_SHORTS, g.select(f"<{_HALF} x i1>", some, _SHORTS, x, "zeroinitializer"), WORDS)
            even = g.op("shl", WORDS, x, "splat (i32 16)")
            odd = g.op("and", WORDS, x, "splat (i32 -65536)")
            made = []
            for bits in (even, odd):
                whole = g.cast("fptosi", _FLOATS, g.bitcast(WORDS, bits, _FLOATS), WORDS)
                whole = g.op("add", WORDS, whole, f"splat (i32 {_BIAS})")
                made.append(g.bitcast(WORDS, g.op("xor", WORDS, whole, f"splat (i32 {_BIAS})"), BYTES))
            pairs.append(made)
        planes = []
        for q in range(0, _PLANES, 2):
            # 32 times digit q, then 32 times the next one, of each half.
            order = [4 * (i // 2) + q + d + STEP * (i % 2) for d in (0, 1) for i in range(_HALF)]
            a, b = (g.shuffle("i8", STEP, even, odd, order) for even, odd in pairs)
            for d in (0, 1):
                lanes = range(_HALF * d, _HALF * (d + 1))
                planes.append(g.shuffle("i8", STEP, a, b, [*lanes, *(STEP + lane for lane in lanes)]))
        return planes


def _ones(g: Context, lanes: str) -> str:
    """The lanes of a vector of i1 as bits of an i64."""
    return g.cast("zext", f"i{_HALF}", g.bitcast(f"<{_HALF} x i1>", lanes, f"i{_HALF}"), "i64")


def _power(g: Context, exponent: str) -> str:
    """Bits of the f32 that is two to the power of ``exponent``, from -149 on."""
    normal = g.op("shl", "i64", g.add(exponent, "127"), "23")
    tiny = g.op("shl", "i64", "1", g.smax(g.add(exponent, "149"), "0"))
    bits = g.select("i1", g.cmp("sgt", exponent, "-127"), "i64", normal, tiny)
    return g.cast("trunc", "i64", bits, "i32")
