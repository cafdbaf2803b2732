"""Loads, stores and atomics, one element at a time; a masked element touches no memory."""

from __future__ import annotations

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import numbers
from headrace.codegen.cpu.reference.emitter import Emitter, byte_size, register_type
from headrace.codegen.cpu.ttir import Element, Op, ScalarType, TensorType, Value

_ORDER = {"relaxed": "monotonic", "acquire": "acquire", "release": "release", "acq_rel": "acq_rel"}
_RMW = {
    "add": "add",
    "and": "and",
    "or": "or",
    "xor": "xor",
    "max": "max",
    "min": "min",
    "umax": "umax",
    "umin": "umin",
    "exch": "xchg",
    "fadd": "fadd",
}


def _count(value: Value) -> int:
    return value.type.numel if isinstance(value.type, TensorType) else 1


def load(e: Emitter, op: Op) -> None:
    """A masked element is ``other``, or zero where there is none."""
    pointer, mask, other = op.segment(0), op.segment(1), op.segment(2)
    assert pointer is not None
    element = ttir.element_of(op.result.type)
    with e.loop(_count(pointer)) as i:
        address = e.read(pointer, i)
        if mask is not None:
            default = e.read(other, i) if other is not None else numbers.literal(0, element)
            e.write(op.result, default, i)
        with e.when(e.read(mask, i) if mask is not None else "true"):
            e.write(op.result, e.load(element, address), i)


def store(e: Emitter, op: Op) -> None:
    pointer, value, mask = op.segment(0), op.segment(1), op.segment(2)
    assert pointer is not None
    assert value is not None
    element = ttir.element_of(value.type)
    with e.loop(_count(pointer)) as i, e.when(e.read(mask, i) if mask is not None else "true"):
        e.store(element, e.read(value, i), e.read(pointer, i))


def _order(op: Op) -> str:
    return _ORDER[op.str_attr("sem", "acq_rel")]


def atomic_rmw(e: Emitter, op: Op) -> None:
    """The old value; a masked element gives zero."""
    pointer, value, mask = op.segment(0), op.segment(1), op.segment(2)
    assert pointer is not None
    assert value is not None
    element = ttir.element_of(op.result.type)
    kind = op.str_attr("rmw")
    if kind not in _RMW:
        raise ttir.unsupported(op, f"atomic operation {kind}")
    with e.loop(_count(pointer)) as i:
        e.write(op.result, numbers.literal(0, element), i)
        with e.when(e.read(mask, i) if mask is not None else "true"):
            e.write(op.result, _rmw(e, op, element, e.read(pointer, i), e.read(value, i)), i)


def _rmw(e: Emitter, op: Op, element: Element, address: str, value: str) -> str:
    kind, order = register_type(element), _order(op)
    verb = _RMW[op.str_attr("rmw")]
    if verb == "fadd" and element.bits == 16:
        return _narrow_fadd(e, op, element, address, value)
    if verb == "xchg" and kind in ("half", "float", "double", "ptr"):
        bits = f"i{element.bits}"
        cast = "ptrtoint" if kind == "ptr" else "bitcast"
        raw = e.let(f"{cast} {kind} {value} to {bits}")
        old = e.let(f"atomicrmw xchg ptr {address}, {bits} {raw} {order}")
        return e.let(f"{'inttoptr' if kind == 'ptr' else 'bitcast'} {bits} {old} to {kind}")
    return e.let(f"atomicrmw {verb} ptr {address}, {kind} {value} {order}")


def _narrow_fadd(e: Emitter, op: Op, element: Element, address: str, value: str) -> str:
    """f16 and bf16: a compare-exchange loop around an f32 addition that is rounded once."""
    kind = register_type(element)
    add = numbers.widen(e, value, element, op)
    again, done = e.name("again"), e.name("done")
    old_place = "%" + e.name("p")
    e.entry.append(f"  {old_place} = alloca i16, align 8")
    e.line(f"store i16 {e.let(f'load atomic i16, ptr {address} monotonic, align 2')}, ptr {old_place}")
    e.jump(again)
    e.label(again)
    bits = e.let(f"load i16, ptr {old_place}")
    old = bits if kind == "i16" else e.let(f"bitcast i16 {bits} to {kind}")
    total = e.let(f"fadd float {numbers.widen(e, old, element, op)}, {add}")
    new = _atomic_bits(e, numbers.narrow(e, total, element, op), element)
    pair = e.let(f"cmpxchg ptr {address}, i16 {bits}, i16 {new} acq_rel monotonic")
    e.line(f"store i16 {e.let(f'extractvalue {{ i16, i1 }} {pair}, 0')}, ptr {old_place}")
    e.branch(e.let(f"extractvalue {{ i16, i1 }} {pair}, 1"), done, again)
    e.label(done)
    return old


def atomic_cas(e: Emitter, op: Op) -> None:
    """Compare and exchange bit patterns; the result is the old value."""
    pointer, compare, value = op.operands
    element = ttir.element_of(op.result.type)
    kind, bits = register_type(element), f"i{element.bits}"
    order = _order(op)
    failure = "acquire" if order in ("acquire", "acq_rel") else "monotonic"

    def raw(register: str) -> str:
        return register if kind == bits else e.let(f"bitcast {kind} {register} to {bits}")

    with e.loop(_count(pointer)) as i:
        expected, new = raw(e.read(compare, i)), raw(e.read(value, i))
        pair = e.let(f"cmpxchg ptr {e.read(pointer, i)}, {bits} {expected}, {bits} {new} {order} {failure}")
        old = e.let(f"extractvalue {{ {bits}, i1 }} {pair}, 0")
        e.write(op.result, old if kind == bits else e.let(f"bitcast {bits} {old} to {kind}"), i)


def _atomic_bits(e: Emitter, register: str, element: Element) -> str:
    """An element as the integer of its width, which atomic loads and stores take."""
    kind, bits = register_type(element), f"i{element.bits}"
    return register if kind in (bits, "ptr") else e.let(f"bitcast {kind} {register} to {bits}")


def _atomic_type(element: Element) -> str:
    return "ptr" if register_type(element) == "ptr" else f"i{element.bits}"


def _load_atomic(e: Emitter, element: Element, address: str, order: str) -> str:
    stored = _atomic_type(element)
    raw = e.let(f"load atomic {stored}, ptr {address} {order}, align {byte_size(element)}")
    return (
        raw
        if register_type(element) == stored
        else e.let(f"bitcast {stored} {raw} to {register_type(element)}")
    )


def atomic_load(e: Emitter, op: Op) -> None:
    """A masked element is zero."""
    pointer, mask = op.operands[0], op.operands[1:]
    element = ttir.element_of(op.result.type)
    with e.loop(_count(pointer)) as i:
        e.write(op.result, numbers.literal(0, element), i)
        with e.when(e.read(mask[0], i) if mask else "true"):
            e.write(op.result, _load_atomic(e, element, e.read(pointer, i), _order(op)), i)


def atomic_store(e: Emitter, op: Op) -> None:
    pointer, value, mask = op.operands[0], op.operands[1], op.operands[2:]
    element = ttir.element_of(value.type)
    with e.loop(_count(pointer)) as i, e.when(e.read(mask[0], i) if mask else "true"):
        raw, address = _atomic_bits(e, e.read(value, i), element), e.read(pointer, i)
        target = f"ptr {address} {_order(op)}, align {byte_size(element)}"
        e.line(f"store atomic {_atomic_type(element)} {raw}, {target}")


def atomic_poll(e: Emitter, op: Op) -> None:
    """Spin until each word holds its expected value; false where a time limit (nanoseconds) passes before."""
    pointer, wanted, *limit = op.operands
    element = ttir.element_of(wanted.type)
    kind, order = _atomic_type(element), f"{_order(op)}, align {byte_size(element)}"
    end = e.let(f"add i64 {_clock(e)}, {e.read(limit[0])}") if limit else ""
    with e.loop(_count(pointer)) as i:
        expected = _atomic_bits(e, e.read(wanted, i), element)
        address = e.read(pointer, i)
        again, late, done = e.name("poll"), e.name("late"), e.name("done")
        e.jump(again)
        e.label(again)
        equal = e.let(f"icmp eq {kind} {e.let(f'load atomic {kind}, ptr {address} {order}')}, {expected}")
        e.write(op.result, equal, i)
        e.branch(equal, done, late)
        e.label(late)
        if limit:
            e.branch(e.let(f"icmp slt i64 {_clock(e)}, {end}"), again, done)
        else:
            e.jump(again)
        e.label(done)


def _clock(e: Emitter) -> str:
    """Nanoseconds of the monotonic clock."""
    time = "%" + e.name("p")
    e.entry.append(f"  {time} = alloca [2 x i64], align 8")
    e.call("i32", "clock_gettime", ("i32", "1"), ("ptr", time))
    seconds = e.let(f"mul i64 {e.let(f'load i64, ptr {time}')}, 1000000000")
    rest = e.let(f"load i64, ptr {e.let(f'getelementptr i64, ptr {time}, i64 1')}")
    return e.let(f"add i64 {seconds}, {rest}")


def text_constant(e: Emitter, text: str) -> str:
    """Address of a zero-terminated string."""
    data = text.encode() + b"\0"
    escaped = "".join(chr(b) if 32 <= b < 127 and b not in (34, 92) else f"\\{b:02X}" for b in data)
    body = f'internal constant [{len(data)} x i8] c"{escaped}"'
    for name, line in e.globals.items():
        if line.endswith(body):
            return f"@{name}"
    name = f"text.{len(e.globals)}"
    e.globals[name] = f"@{name} = {body}"
    return f"@{name}"


def assert_(e: Emitter, op: Op) -> None:
    """A false condition is reported after the launch; the program goes on."""
    message = text_constant(
        e, f"device_assert at {op.loc.kernel if op.loc else 'unknown line'}: {op.str_attr('text')}"
    )
    e.declare("void", "headrace_fail", "ptr")
    condition = op.operands[0]
    with e.loop(_count(condition)) as i:
        value = e.read(condition, i)
        element = ttir.element_of(condition.type)
        failed = e.let(f"icmp eq {register_type(element)} {value}, 0")
        with e.when(failed):
            e.line(f"call void @headrace_fail(ptr {message})")


def print_(e: Emitter, op: Op) -> None:
    """One line per element, as on a GPU: ``pid (x, y, z) idx (i) text value``."""
    e.globals.setdefault("printf", "declare i32 @printf(ptr, ...)")
    said = op.str_attr("text").replace("%", "%%")
    signs = op.attrs.get("isSigned", ())
    assert isinstance(signs, tuple)
    for k, value in enumerate(op.operands):
        element = ttir.element_of(value.type)
        with e.loop(_count(value)) as i:
            kind, register, form = _printable(e, op, element, e.read(value, i), not signs or bool(signs[k]))
            text = text_constant(e, f"pid (%d, %d, %d) idx (%lld){said}{form}\n")
            pids = "i32 %pid_x, i32 %pid_y, i32 %pid_z"
            e.line(f"call i32 (ptr, ...) @printf(ptr {text}, {pids}, i64 {i}, {kind} {register})")
    if not op.operands:
        text = text_constant(e, f"pid (%d, %d, %d){said}\n")
        e.line(f"call i32 (ptr, ...) @printf(ptr {text}, i32 %pid_x, i32 %pid_y, i32 %pid_z)")


def _printable(e: Emitter, op: Op, element: Element, register: str, signed: bool) -> tuple[str, str, str]:
    if not isinstance(element, ScalarType):
        return "ptr", register, "%p"
    hexadecimal = bool(op.attrs.get("hex"))
    if element.is_float:
        wide = numbers.widen(e, register, element, op)
        wide = wide if element.name == "f64" else e.let(f"fpext float {wide} to double")
        return "double", wide, "%a" if hexadecimal else "%f"
    if element.bits < 64:
        verb = "sext" if signed and element.bits > 1 and not hexadecimal else "zext"
        register = e.let(f"{verb} i{element.bits} {register} to i64")
    if hexadecimal:
        return "i64", register, f"0x%0{max(element.bits // 4, 1)}llx"
    return "i64", register, "%lld" if signed else "%llu"
