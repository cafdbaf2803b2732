"""The loop over programs that wraps every lowered kernel, and the letters of its arguments.

A lowered kernel is ``void @NAME.program(args..., i32 pid_x, i32 pid_y, i32 pid_z, i32 grid_x, i32 grid_y,
i32 grid_z)``. The worker reads the arguments once from their 8-byte slots, then takes chunks of linear
program ids (x fastest) that no other thread has taken (:mod:`headrace.codegen.cpu.runtime`).
"""

from __future__ import annotations

from headrace.codegen.cpu import amx, ttir
from headrace.codegen.cpu.runtime_ir import CONTEXT
from headrace.codegen.cpu.ttir import Function, PointerType, ScalarType, TensorType, Type

_INTEGER_LETTERS = {32: "w", 16: "s", 8: "c"}
_FLOAT_LETTERS = {
    "f16": ("h", "half"),
    "bf16": ("b", "i16"),
    "f32": ("f", "float"),
    "f64": ("d", "double"),
}


def letter_of(type_: Type) -> str:
    """Letter that tells ``hr_call`` how to unpack a kernel argument of this type."""
    if isinstance(type_, PointerType):
        return "p"
    assert isinstance(type_, ScalarType)
    if type_.name in _FLOAT_LETTERS:
        return _FLOAT_LETTERS[type_.name][0]
    if type_.is_int:
        return _INTEGER_LETTERS.get(type_.bits, "i")
    raise ttir.unsupported("tt.func", f"a scalar argument of type {type_}")


def ir_type(type_: Type) -> str:
    """LLVM type of a scalar or pointer in the kernel's signature; bf16 travels as its bits in an ``i16``."""
    if isinstance(type_, PointerType):
        return "ptr"
    if isinstance(type_, TensorType):
        raise ttir.unsupported("tt.func", "a tensor as kernel argument")
    if type_.name in _FLOAT_LETTERS:
        return _FLOAT_LETTERS[type_.name][1]
    return f"i{type_.bits}"


def symbol_of(name: str) -> str:
    """Symbol of the lowered kernel ``name``: with a dot, as a kernel may be called ``sin`` or ``memcpy``, and
    C's function of that name is called by the same module."""
    return f"{name}.program"


def _waits(kernel: Function) -> bool:
    """Whether its programs may wait for others: they poll, or look at memory again in a ``while``."""
    ops = list(ttir.walk(kernel))
    if any(op.name == "tt.atomic_poll" for op in ops):
        return True
    again = [inner for op in ops if op.name == "scf.while" for r in op.regions for inner in ttir.walk(r)]
    return any(op.name.startswith("tt.atomic_") or op.attrs.get("isVolatile") for op in again)


def worker_ir(
    kernel: Function, name: str, fence: bool, tiled: bool = False, fails: bool = False, begins: bool = False
) -> str:
    """IR of ``@NAME.worker(ptr context, i64 first chunk)`` for a kernel lowered under ``name``.

    ``fence``: the kernel stores past the caches; what it wrote must be visible once the worker has returned.
    ``tiled``: it uses AMX tiles, which each thread configures before its first program. ``fails``: it holds a
    ``tt.assert``, whose message belongs to the launch. ``begins``: the module has a function that each thread
    calls before its first program.

    Threads of a kernel that :func:`_waits` take the chunks in the order of the grid. A scan that looks back
    would else wait, at the first program of a thread's share, for all of the share before it.
    """
    own = "0" if _waits(kernel) else "%own"
    configure, release = (amx.PROLOGUE, amx.EPILOGUE) if tiled else ("", "")
    enter = "call void @headrace_enter(ptr %c)" if fails else ""
    begin = "call void @headrace.begin()" if begins else ""
    fenced = "call void @llvm.x86.sse.sfence()" if fence else ""
    slots: list[str] = []
    call: list[str] = []
    for k, arg in enumerate(kernel.args):
        kind = ir_type(arg.type)
        slots.append(
            f"  %s{k} = getelementptr i64, ptr %args, i64 {k}\n  %a{k} = load {kind}, ptr %s{k}, align 8"
        )
        call.append(f"{kind} %a{k}, ")
    loads = "\n".join(slots)
    return f"""
%context = type {CONTEXT}
define void @"{name}.worker"(ptr %c, i64 %own) {{
entry:
  %args = load ptr, ptr %c
{loads}
  %pgx = getelementptr %context, ptr %c, i32 0, i32 1
  %gx = load i32, ptr %pgx
  %pgy = getelementptr %context, ptr %c, i32 0, i32 2
  %gy = load i32, ptr %pgy
  %pgz = getelementptr %context, ptr %c, i32 0, i32 3
  %gz = load i32, ptr %pgz
  %ptotal = getelementptr %context, ptr %c, i32 0, i32 5
  %total = load i64, ptr %ptotal
  %pchunk = getelementptr %context, ptr %c, i32 0, i32 6
  %chunk = load i64, ptr %pchunk
  %pchunks = getelementptr %context, ptr %c, i32 0, i32 9
  %chunks = load i64, ptr %pchunks
  %ptaken = getelementptr %context, ptr %c, i32 0, i32 10
  %taken = load ptr, ptr %ptaken
  %gx64 = zext i32 %gx to i64
  %gy64 = zext i32 %gy to i64
  {enter}
  {configure}
  {begin}
  br label %look
look:
  %at = phi i64 [ {own}, %entry ], [ %at2, %take ], [ %at2, %try ], [ %at2, %program ]
  %left = phi i64 [ %chunks, %entry ], [ %left1, %take ], [ %left1, %try ], [ %left1, %program ]
  %none = icmp eq i64 %left, 0
  br i1 %none, label %done, label %take
take:
  %left1 = sub i64 %left, 1
  %at1 = add i64 %at, 1
  %round = icmp eq i64 %at1, %chunks
  %at2 = select i1 %round, i64 0, i64 %at1
  %flag = getelementptr i8, ptr %taken, i64 %at
  %seen = load atomic i8, ptr %flag monotonic, align 1
  %gone = icmp ne i8 %seen, 0
  br i1 %gone, label %look, label %try
try:
  %before = atomicrmw xchg ptr %flag, i8 1 monotonic
  %late = icmp ne i8 %before, 0
  br i1 %late, label %look, label %begin
begin:
  %first = mul i64 %at, %chunk
  %past = add i64 %first, %chunk
  %over = icmp sgt i64 %past, %total
  %end = select i1 %over, i64 %total, i64 %past
  %x0 = urem i64 %first, %gx64
  %q = udiv i64 %first, %gx64
  %y0 = urem i64 %q, %gy64
  %z0 = udiv i64 %q, %gy64
  %x0t = trunc i64 %x0 to i32
  %y0t = trunc i64 %y0 to i32
  %z0t = trunc i64 %z0 to i32
  br label %program
program:
  %p = phi i64 [ %first, %begin ], [ %p1, %program ]
  %x = phi i32 [ %x0t, %begin ], [ %x1, %program ]
  %y = phi i32 [ %y0t, %begin ], [ %y1, %program ]
  %z = phi i32 [ %z0t, %begin ], [ %z1, %program ]
  call void @"{symbol_of(name)}"({"".join(call)}i32 %x, i32 %y, i32 %z, i32 %gx, i32 %gy, i32 %gz)
  %p1 = add i64 %p, 1
  %xn = add i32 %x, 1
  %xw = icmp eq i32 %xn, %gx
  %x1 = select i1 %xw, i32 0, i32 %xn
  %yn = add i32 %y, 1
  %yw0 = icmp eq i32 %yn, %gy
  %yw = and i1 %xw, %yw0
  %ya = select i1 %xw, i32 %yn, i32 %y
  %y1 = select i1 %yw, i32 0, i32 %ya
  %zn = add i32 %z, 1
  %z1 = select i1 %yw, i32 %zn, i32 %z
  %again = icmp slt i64 %p1, %end
  br i1 %again, label %program, label %look
done:
  {release}
  {fenced}
  ret void
}}
{"declare void @headrace_enter(ptr)" if fails else ""}
{"declare void @llvm.x86.sse.sfence()" if fence else ""}
{amx.DECLARATIONS if tiled else ""}
"""
