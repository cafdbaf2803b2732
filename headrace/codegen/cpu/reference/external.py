"""``tt.extern_elementwise``: libdevice's functions, by the C library, by LLVM's intrinsics or by formulas."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.external import Function, function_of
from headrace.codegen.cpu.reference import numbers, special
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.ttir import Op, element_of

_INTRINSIC = {
    "abs": "fabs", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "roundeven", "round": "round",
    "nearbyint": "roundeven", "sqrt": "sqrt", "copysign": "copysign", "fma": "fma",
}  # fmt: skip
# The float versions of these lose accuracy near their zeros.
_IN_DOUBLE = frozenset({"j0", "j1", "y0", "y1", "jn", "yn", "lgamma", "tgamma"})
_REAL = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_MODE = {"rz": 0, "rn": 1, "ru": 2, "rd": 3}  # of llvm.set.rounding
_SUFFIX = {"float": "f32", "double": "f64"}


def lower(e: Emitter, op: Op, registers: Sequence[str]) -> str:
    """One element of a libdevice function."""
    function = function_of(op.str_attr("symbol"))
    if function is None:
        raise ttir.unsupported(
            op, f"external function {op.str_attr('symbol')!r}; use triton.language.extra.libdevice"
        )
    call = _Call(e, op, function, list(registers))
    return call.lower()


class _Call:
    def __init__(self, e: Emitter, op: Op, function: Function, r: list[str]) -> None:
        self.e, self.op, self.f, self.r = e, op, function, r
        self.kinds = [register_type(element_of(v.type)) for v in op.operands]
        self.kind = self.kinds[0]
        self.out = register_type(element_of(op.result.type))

    def lower(self) -> str:
        name = self.f.name
        if name == "convert":
            return self.convert()
        if self.f.rounding:
            return self.directed()
        if name in _INTRINSIC:
            return self.intrinsic(_INTRINSIC[name], *self.r)
        if name in special.FUNCTIONS:
            symbol = special.define(self.e, name)
            return self.narrow(self.e.let(f"call double @{symbol}(double {self.wide(self.r[0])})"))
        rule = getattr(self, f"_{name}", None)
        if rule is not None:
            return str(rule())
        return self.c_function(name)

    # ---- pieces --------------------------------------------------------------------------------------------
    def let(self, text: str) -> str:
        return self.e.let(text)

    def intrinsic(self, name: str, *registers: str, kind: str = "") -> str:
        kind = kind or self.kind
        suffix = _SUFFIX.get(kind, kind)
        return self.e.call(kind, f"llvm.{name}.{suffix}", *((kind, r) for r in registers))

    def wide(self, register: str) -> str:
        return self.let(f"fpext float {register} to double") if self.kind == "float" else register

    def narrow(self, register: str) -> str:
        return self.let(f"fptrunc double {register} to float") if self.out == "float" else register

    def c_function(self, name: str) -> str:
        if name in _IN_DOUBLE:
            args = [
                ("double", self.let(f"fpext float {x} to double")) if k == "float" else (k, x)
                for k, x in zip(self.kinds, self.r, strict=True)
            ]
            return self.narrow(self.e.call("double", name, *args))
        suffix = "f" if self.kind == "float" else ""
        return self.e.call(self.out, name + suffix, *zip(self.kinds, self.r, strict=True))

    def one_over(self, register: str) -> str:
        return self.let(f"fdiv {self.out} {numbers.float_literal(1.0, self.out)}, {register}")

    # ---- rounding ------------------------------------------------------------------------------------------
    def directed(self) -> str:
        name, kind, r = self.f.name, self.kind, self.r
        if name == "rcp":
            name, r = "div", [numbers.float_literal(1.0, kind), *r]
        if name == "rsqrt":
            return self.one_over(self.intrinsic("sqrt", *r))
        verb = _REAL.get(name, name)
        if self.f.rounding == "rn":
            if verb in ("fma", "sqrt"):
                return self.intrinsic(verb, *r)
            return self.let(f"{verb} {kind} {r[0]}, {r[1]}")
        return self.constrained(verb, [kind] * len(r), r, kind)

    def constrained(self, verb: str, kinds: list[str], r: list[str], out: str) -> str:
        """A call of a helper that runs one operation in another rounding mode."""
        e, mode = self.e, _MODE[self.f.rounding]
        suffix = ".".join(_SUFFIX.get(k, k) for k in dict.fromkeys([out, *kinds]))
        intrinsic = f"llvm.experimental.constrained.{verb}.{suffix}"
        symbol = f"headrace_{verb}_{self.f.rounding}.{suffix}"
        if symbol not in e.globals:
            e.globals["llvm.set.rounding"] = "declare void @llvm.set.rounding(i32)"
            e.globals[intrinsic] = (
                f"declare {out} @{intrinsic}({', '.join([*kinds, 'metadata', 'metadata'])})"
            )
            parameters = ", ".join(f"{k} %x{i}" for i, k in enumerate(kinds))
            rules = 'metadata !"round.dynamic", metadata !"fpexcept.strict"'
            e.globals[symbol] = (
                f"define internal {out} @{symbol}({parameters}) noinline strictfp {{\n"
                f"  call void @llvm.set.rounding(i32 {mode}) strictfp\n"
                f"  %y = call {out} @{intrinsic}({parameters}, {rules}) strictfp\n"
                f"  call void @llvm.set.rounding(i32 1) strictfp\n"
                f"  ret {out} %y\n}}"
            )
        args = ", ".join(f"{k} {x}" for k, x in zip(kinds, r, strict=True))
        return e.let(f"call {out} @{symbol}({args})")

    def convert(self) -> str:
        kind, out, rounding = self.kind, self.out, self.f.rounding
        if kind in _SUFFIX and out in _SUFFIX:
            if rounding == "rn":
                return self.let(f"fptrunc {kind} {self.r[0]} to {out}")
            return self.constrained("fptrunc", [kind], self.r, out)
        if kind in _SUFFIX:
            name = {"rn": "roundeven", "rz": "trunc", "rd": "floor", "ru": "ceil"}[rounding]
            return self.to_int(self.intrinsic(name, self.r[0]), "u" if self.f.to_unsigned else "s")
        verb = "uitofp" if self.f.from_unsigned else "sitofp"
        if rounding == "rn":
            return self.let(f"{verb} {kind} {self.r[0]} to {out}")
        return self.constrained(verb, [kind], self.r, out)

    def to_int(self, register: str, sign: str = "s") -> str:
        name = f"llvm.fpto{sign}i.sat.{self.out}.{_SUFFIX[self.kind]}"
        return self.e.call(self.out, name, (self.kind, register))

    # ---- floats --------------------------------------------------------------------------------------------
    def _rsqrt(self) -> str:
        return self.one_over(self.intrinsic("sqrt", self.r[0]))

    def _rcbrt(self) -> str:
        return self.one_over(self.c_function("cbrt"))

    def _divide(self) -> str:
        return self.let(f"fdiv {self.kind} {self.r[0]}, {self.r[1]}")

    def _llround(self) -> str:
        return self.to_int(self.intrinsic("round", self.r[0]))

    def _llrint(self) -> str:
        return self.to_int(self.intrinsic("roundeven", self.r[0]))

    def _powi(self) -> str:
        power = self.let(f"sitofp i32 {self.r[1]} to double")
        return self.narrow(self.e.call("double", "pow", ("double", self.wide(self.r[0])), ("double", power)))

    def _norm(self) -> str:
        """Length of a vector, in double, without overflow."""
        total = self.wide(self.r[0])
        for x in self.r[1:]:
            total = self.e.call("double", "hypot", ("double", total), ("double", self.wide(x)))
        return total

    def _norm3d(self) -> str:
        return self.narrow(self._norm())

    def _rnorm3d(self) -> str:
        return self.narrow(self.let(f"fdiv double 1.0, {self._norm()}"))

    _norm4d, _rnorm4d, _rhypot = _norm3d, _rnorm3d, _rnorm3d

    def _saturate(self) -> str:
        """Into [0, 1]; NaN gives 0."""
        zero, one = (numbers.float_literal(x, self.kind) for x in (0.0, 1.0))
        above = self.let(f"fcmp ogt {self.kind} {self.r[0]}, {zero}")
        low = self.let(f"select i1 {above}, {self.kind} {self.r[0]}, {self.kind} {zero}")
        below = self.let(f"fcmp olt {self.kind} {low}, {one}")
        return self.let(f"select i1 {below}, {self.kind} {low}, {self.kind} {one}")

    def _rcp64h(self) -> str:
        """The reciprocal's high word; the low one is zero."""
        bits = self.let(f"bitcast double {self.one_over(self.r[0])} to i64")
        return self.let(f"bitcast i64 {self.let(f'and i64 {bits}, -4294967296')} to double")

    def _flag(self, flag: str) -> str:
        return self.let(f"zext i1 {flag} to {self.out}")

    def _isnan(self) -> str:
        return self._flag(self.let(f"fcmp uno {self.kind} {self.r[0]}, {self.r[0]}"))

    def _isinf(self, predicate: str = "oeq") -> str:
        infinity = numbers.float_literal(float("inf"), self.kind)
        size = self.intrinsic("fabs", self.r[0])
        return self._flag(self.let(f"fcmp {predicate} {self.kind} {size}, {infinity}"))

    def _isfinite(self) -> str:
        return self._isinf("olt")

    def _signbit(self) -> str:
        bits = {"float": "i32", "double": "i64"}[self.kind]
        raw = self.let(f"bitcast {self.kind} {self.r[0]} to {bits}")
        return self._flag(self.let(f"icmp slt {bits} {raw}, 0"))

    # ---- bits and integers ---------------------------------------------------------------------------------
    def _bits(self) -> str:
        return self.let(f"bitcast {self.kind} {self.r[0]} to {self.out}")

    def _hiloint2double(self) -> str:
        high, low = (self.let(f"zext i32 {x} to i64") for x in self.r)
        bits = self.let(f"or i64 {self.let(f'shl i64 {high}, 32')}, {low}")
        return self.let(f"bitcast i64 {bits} to double")

    def _double2loint(self) -> str:
        return self.let(f"trunc i64 {self.let(f'bitcast double {self.r[0]} to i64')} to i32")

    def _double2hiint(self) -> str:
        bits = self.let(f"bitcast double {self.r[0]} to i64")
        return self.let(f"trunc i64 {self.let(f'lshr i64 {bits}, 32')} to i32")

    def _count(self, name: str) -> str:
        extra = () if name == "ctpop" else (("i1", "false"),)
        found = self.e.call(self.kind, f"llvm.{name}.{self.kind}", (self.kind, self.r[0]), *extra)
        return found if self.kind == self.out else self.let(f"trunc {self.kind} {found} to {self.out}")

    def _clz(self) -> str:
        return self._count("ctlz")

    def _popc(self) -> str:
        return self._count("ctpop")

    def _ffs(self) -> str:
        """Position of the lowest bit from 1 on; 0 for 0."""
        at = self.let(f"add {self.out} {self._count('cttz')}, 1")
        empty = self.let(f"icmp eq {self.kind} {self.r[0]}, 0")
        return self.let(f"select i1 {empty}, {self.out} 0, {self.out} {at}")

    def _brev(self) -> str:
        return self.intrinsic("bitreverse", self.r[0])

    def _iabs(self) -> str:
        return self.e.call(self.kind, f"llvm.abs.{self.kind}", (self.kind, self.r[0]), ("i1", "false"))

    def _twice(self, verb: str) -> list[str]:
        return [self.let(f"{verb} {self.kind} {x} to i{2 * int(self.kind[1:])}") for x in self.r]

    def _mulhi(self, verb: str = "sext") -> str:
        width = int(self.kind[1:])
        a, b = self._twice(verb)
        high = self.let(f"lshr i{2 * width} {self.let(f'mul i{2 * width} {a}, {b}')}, {width}")
        return self.let(f"trunc i{2 * width} {high} to {self.kind}")

    def _umulhi(self) -> str:
        return self._mulhi("zext")

    def _mul24(self, shift: str = "ashr") -> str:
        a, b = (self.let(f"{shift} i32 {self.let(f'shl i32 {x}, 8')}, 8") for x in self.r)
        return self.let(f"mul i32 {a}, {b}")

    def _umul24(self) -> str:
        return self._mul24("lshr")

    def _sad(self, sign: str = "s") -> str:
        most = self.intrinsic(f"{sign}max", *self.r[:2])
        least = self.intrinsic(f"{sign}min", *self.r[:2])
        return self.let(f"add i32 {self.let(f'sub i32 {most}, {least}')}, {self.r[2]}")

    def _usad(self) -> str:
        return self._sad("u")

    def _mean(self, verb: str, up: int) -> str:
        a, b = self._twice(verb)
        total = self.let(f"add i64 {self.let(f'add i64 {a}, {b}')}, {up}")
        return self.let(f"trunc i64 {self.let(f'lshr i64 {total}, 1')} to i32")

    def _hadd(self) -> str:
        return self._mean("sext", 0)

    def _uhadd(self) -> str:
        return self._mean("zext", 0)

    def _rhadd(self) -> str:
        return self._mean("sext", 1)

    def _urhadd(self) -> str:
        return self._mean("zext", 1)

    def _byte_perm(self) -> str:
        """Byte k of the result is the byte of (y, x) that nibble k of the selector names."""
        low, high = (self.let(f"zext i32 {x} to i64") for x in self.r[:2])
        both = self.let(f"or i64 {self.let(f'shl i64 {high}, 32')}, {low}")
        total = "0"
        for k in range(4):
            nibble = self.let(f"and i32 {self.let(f'lshr i32 {self.r[2]}, {4 * k}')}, 7")
            amount = self.let(f"zext i32 {self.let(f'shl i32 {nibble}, 3')} to i64")
            byte = self.let(f"and i64 {self.let(f'lshr i64 {both}, {amount}')}, 255")
            total = self.let(f"or i64 {total}, {self.let(f'shl i64 {byte}, {8 * k}')}")
        return self.let(f"trunc i64 {total} to i32")
