"""Samples of the operations that are not elementwise: shapes, memory, atomics, reductions, products,
control."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.codegen.cpu.opsamples import ALL, FLOAT8, FLOATS, NUMBERS, Sample, module, pointers, store, tile


def _made(
    op: str, element: str, body: str, out: str = "", count: int = 32, loads: str = "", **other: str
) -> Sample:
    """``body`` computes ``%v``, a tile of ``count`` elements (0: a scalar)."""
    kinds = (element, other.get("y", element), other.get("z", element), out or element)
    used = loads or "".join(v for v in "xyz" if f"%{v}" in body.replace("%xp", "").replace("%xs", ""))
    text = module(body + store("v", kinds[3], count), kinds, used, other.get("functions", ""))
    return Sample(op, other.get("label", element), text, kinds)


def _effect(op: str, element: str, body: str, loads: str = "x", **other: str) -> Sample:
    kinds = (element, other.get("y", element), other.get("z", element), other.get("o", element))
    return Sample(op, other.get("label", element), module(body, kinds, loads), kinds)


def _shapes() -> Iterator[Sample]:
    def two(op: str, t: str, line: str, shape: tuple[int, ...], count: int = 32) -> Sample:
        """A value ``%m`` of [4, 8], one operation to ``%w`` of ``shape``, and back to a row."""
        body = f"%m = tt.reshape %x : {tile(t)} -> {tile(t, 4, 8)}\n    {line}\n"
        body += f"    %v = tt.reshape %w : {tile(t, *shape)} -> {tile(t, count)}"
        return _made(op, t, body, count=count, loads="x")

    for t in ALL:
        a, m = tile(t), tile(t, 4, 8)
        yield two("tt.reshape", t, f"%w = tt.reshape %m : {m} -> {tile(t, 8, 4)}", (8, 4))
        yield two(
            "tt.trans", t, f"%w = tt.trans %m {{order = array<i32: 1, 0>}} : {m} -> {tile(t, 8, 4)}", (8, 4)
        )
        yield two(
            "tt.expand_dims",
            t,
            f"%w = tt.expand_dims %m {{axis = 1 : i32}} : {m} -> {tile(t, 4, 1, 8)}",
            (4, 1, 8),
        )
        wide = f"%e = tt.expand_dims %m {{axis = 1 : i32}} : {m} -> {tile(t, 4, 1, 8)}\n"
        wide += f"    %w = tt.broadcast %e : {tile(t, 4, 1, 8)} -> {tile(t, 4, 4, 8)}"
        yield two("tt.broadcast", t, wide, (4, 4, 8), 128)
        yield _made("tt.splat", t, f"%s = tt.load %px : !tt.ptr<{t}>\n    %v = tt.splat %s : {t} -> {a}")
        one = f"%s = tt.load %px : !tt.ptr<{t}>\n    %k = tt.splat %s : {t} -> {tile(t, 1)}\n"
        yield _made("tt.unsplat", t, one + f"    %v = tt.unsplat %k : {tile(t, 1)}", count=0)
        joined = (
            f"%j = tt.join %x, %y : {a} -> {tile(t, 32, 2)}\n    %v = tt.reshape %j : "
            f"{tile(t, 32, 2)} -> {tile(t, 64)}"
        )
        yield _made("tt.join", t, joined, count=64)
        parted = (
            f"%m = tt.reshape %x : {a} -> {tile(t, 16, 2)}\n    %w, %v = tt.split %m : "
            f"{tile(t, 16, 2)} -> {tile(t, 16)}"
        )
        yield _made("tt.split", t, parted, count=16, loads="x")
        yield _made("tt.cat", t, f"%v = tt.cat %x, %y : {a} -> {tile(t, 64)}", count=64)
        picked = f"%k = arith.constant dense<7> : {tile('i32')}\n    %j = arith.xori %i, %k : {tile('i32')}\n"
        picked += f"    %v = tt.gather %x[%j] {{axis = 0 : i32}} : ({a}, {tile('i32')}) -> {a}"
        yield _made("tt.gather", t, picked, loads="x")
    yield _made(
        "tt.make_range", "i32", f"%v = tt.make_range {{end = 40 : i32, start = 8 : i32}} : {tile('i32')}"
    )
    yield _made("tt.histogram", "i32", f"%v = tt.histogram %x : {tile('i32')} -> {tile('i32', 16)}", count=16)
    yield _made(
        "ub.poison",
        "i32",
        f"%p = ub.poison : {tile('i32')}\n    %v = arith.andi %x, %i : {tile('i32')}",
        loads="x",
    )
    for axis in "xyz":
        yield _made("tt.get_program_id", "i32", f"%v = tt.get_program_id {axis} : i32", count=0, label=axis)
        yield _made(
            "tt.get_num_programs", "i32", f"%v = tt.get_num_programs {axis} : i32", count=0, label=axis
        )


def _memory() -> Iterator[Sample]:
    for t in ALL:
        p, _b = pointers(t), tile("i1")
        address = f"%s = tt.splat %px : !tt.ptr<{t}> -> {p}\n    %q = tt.addptr %s, %i : {p}, {tile('i32')}\n"
        mask = (
            f"    %k = arith.constant dense<20> : {tile('i32')}\n    %c = arith.cmpi slt, %i, %k : "
            f"{tile('i32')}\n"
        )
        yield _made("tt.load", t, address + mask + f"    %v = tt.load %q, %c, %y : {p}", loads="y")
        target = address.replace("%px", "%po") + mask + f"    tt.store %q, %x, %c : {p}"
        yield _effect("tt.store", t, target)
        yield _made("tt.addptr", t, address + f"    %v = tt.load %q : {p}", loads="z")
    p = pointers("f32")
    body = f"%s = tt.splat %px : !tt.ptr<f32> -> {p}\n    %a = tt.ptr_to_int %s : {p} -> {tile('i64')}\n"
    back = f"    %q = tt.int_to_ptr %a : {tile('i64')} -> {p}\n    %v = tt.load %q : {p}"
    yield _made("tt.ptr_to_int", "f32", body + back, loads="z")
    yield _made("tt.int_to_ptr", "f32", body + back, loads="z")
    for rmw, kinds in {
        "add": ("i32", "i64"), "fadd": FLOATS, "max": ("i32", "i64"), "min": ("i32", "i64"), "umax": ("i32",
        "i64"),
        "umin": ("i32", "i64"), "and": ("i32", "i64"), "or": ("i32", "i64"), "xor": ("i32", "i64"),
        "exch": ("i32", "i64", "f32", "f64"),
    }.items():  # fmt: skip
        for t, order in zip(kinds, ("relaxed", "acquire", "release", "acq_rel"), strict=False):
            p = pointers(t)
            body = (
                f"%s = tt.splat %po : !tt.ptr<{t}> -> {p}\n    %q = tt.addptr %s, %i : {p}, {tile('i32')}\n"
            )
            body += f"    %c = arith.constant dense<true> : {tile('i1')}\n"
            body += (
                f"    %w = tt.atomic_rmw {rmw}, {order}, gpu, %q, %x, %c : ({p}, {tile(t)}, "
                f"{tile('i1')}) -> {tile(t)}"
            )
            yield _effect("tt.atomic_rmw", t, body, label=f"{rmw} {t}")
    for t in ("i16", "i32", "i64", "f32", "f64"):
        p, a, m = pointers(t), tile(t), tile("i1")
        body = f"%s = tt.splat %po : !tt.ptr<{t}> -> {p}\n    %q = tt.addptr %s, %i : {p}, {tile('i32')}\n"
        cas = f"    %w = tt.atomic_cas acq_rel, gpu, %q, %y, %x : ({p}, {a}, {a}) -> {a}"
        yield _effect("tt.atomic_cas", t, body + cas, "xy")
        true = f"    %c = arith.constant dense<true> : {m}\n"
        swap = (
            body.replace("%po", "%px")
            + true
            + f"    %v = tt.atomic_load acquire, gpu, %q, %c : ({p}, {m}) -> {a}"
        )
        yield _made("tt.atomic_load", t, swap, loads="z")
        yield _effect(
            "tt.atomic_store", t, body + true + f"    tt.atomic_store release, gpu, %q, %x, %c : {p}"
        )
    poll = (
        "%w = tt.load %px : !tt.ptr<i32>\n    %v = tt.atomic_poll acquire, gpu, %px, %w : "
        "!tt.ptr<i32>, i32 -> i1"
    )
    yield _made("tt.atomic_poll", "i32", poll, out="i1", count=0, loads="z")


def _region(op: str, t: str, combine: str, rest: str, results: str) -> str:
    return f"""%v = "{op}"(%m) <{{axis = 1 : i32{rest}}}> ({{
    ^bb0(%a: {t}, %b: {t}):
      %s = {combine} %a, %b : {t}
      {op}.return %s : {t}
    }}) : ({tile(t, 4, 8)}) -> {results}"""


def _collective() -> Iterator[Sample]:
    for t in NUMBERS:
        combine = "arith.addf" if t in FLOATS else "arith.ori" if t == "i1" else "arith.addi"
        rows = f"%m = tt.reshape %x : {tile(t)} -> {tile(t, 4, 8)}\n    "
        yield _made(
            "tt.reduce", t, rows + _region("tt.reduce", t, combine, "", tile(t, 4)), count=4, loads="x"
        )
        scanned = _region("tt.scan", t, combine, ", reverse = false", tile(t, 4, 8)).replace("%v", "%w", 1)
        scanned += f"\n    %v = tt.reshape %w : {tile(t, 4, 8)} -> {tile(t)}"
        yield _made("tt.scan", t, rows + scanned, loads="x")
    for t in ("f32", "i32"):
        body = f"""%v = "tt.map_elementwise"(%x) <{{pack = 2 : i32}}> ({{
    ^bb0(%a: {t}, %b: {t}):
      tt.map_elementwise.return %b, %a : {t}, {t}
    }}) : ({tile(t)}) -> {tile(t)}"""
        yield _made("tt.map_elementwise", t, body)
    for a, c in (("f32", "f32"), ("f16", "f32"), ("bf16", "f32"), ("f64", "f64"), ("i8", "i32"), ("f16",
    "f16"),
                 *((f, "f32") for f in FLOAT8)):  # fmt: skip
        s = (16, 16)
        index = f"%j = tt.make_range {{end = 256 : i32, start = 0 : i32}} : {tile('i32', 256)}\n"
        body = index
        for v in "xy":
            p = pointers(a, 256)
            body += (
                f"    %{v}0 = tt.splat %p{v} : !tt.ptr<{a}> -> {p}\n    %{v}1 = tt.addptr %{v}0, %j : "
                f"{p}, {tile('i32', 256)}\n"
            )
            body += (
                f"    %{v}2 = tt.load %{v}1 : {p}\n    %{v}3 = tt.reshape %{v}2 : {tile(a, 256)} -> "
                f"{tile(a, *s)}\n"
            )
        zero = "0" if c == "i32" else "0.000000e+00"
        body += f"    %c = arith.constant dense<{zero}> : {tile(c, *s)}\n"
        plain = f"    %d = tt.dot %x3, %y3, %c : {tile(a, *s)} * {tile(a, *s)} -> {tile(c, *s)}\n"
        tail = f"    %v = tt.reshape %d : {tile(c, *s)} -> {tile(c, 256)}"
        yield _made("tt.dot", a, body + plain + tail, out=c, count=256, loads="z", label=f"{a}->{c}")
        if a in FLOAT8[:2]:
            form = {"f8E4M3FN": "e4m3", "f8E5M2": "e5m2"}[a]
            scaled = f"    %d = tt.dot_scaled %x3, %y3, %c lhs = {form} rhs = {form} {{fastMath = false}} : "
            scaled += f"{tile(a, *s)} * {tile(a, *s)} -> {tile(c, *s)}\n"
            yield _made("tt.dot_scaled", a, body + scaled + tail, out=c, count=256, loads="z", label=form)


def _control() -> Iterator[Sample]:
    t = tile("f32")
    yes = "%k = arith.constant 3 : i32\n    %c = arith.cmpi sgt, %n, %k : i32\n    "
    add, mul = f"arith.addf %x, %y : {t}", f"arith.mulf %x, %y : {t}"
    body = f"%v = scf.if %c -> ({t}) {{\n      %a = {add}\n      scf.yield %a : {t}\n    }} else {{\n"
    yield _made("scf.if", "f32", f"{yes}{body}      %b = {mul}\n      scf.yield %b : {t}\n    }}")
    bounds = "%l = arith.constant 0 : i32\n    %s = arith.constant 1 : i32\n    "
    loop = (
        f"%v = scf.for %k = %l to %n step %s iter_args(%a = %x) -> ({t}) : i32 "
        f"{{\n      %b = arith.addf %a, %y : {t}\n"
    )
    yield _made("scf.for", "f32", f"{bounds}{loop}      scf.yield %b : {t}\n    }}")
    test = (
        f"%w:2 = scf.while (%k = %l, %a = %x) : (i32, {t}) -> (i32, {t}) "
        f"{{\n      %c = arith.cmpi slt, %k, %n : i32\n"
    )
    test += f"      scf.condition(%c) %k, %a : i32, {t}\n    }} do {{\n    ^bb0(%k: i32, %a: {t}):\n"
    test += (
        f"      %j = arith.addi %k, %s : i32\n      %b = arith.addf %a, %y : {t}\n      scf.yield %j, "
        f"%b : i32, {t}\n    }}\n"
    )
    yield _made("scf.while", "f32", f"{bounds}{test}    %v = arith.addf %w#1, %y : {t}")
    early = (
        f"{yes}cf.cond_br %c, ^bb1, ^bb2\n  ^bb1:\n    tt.return\n  ^bb2:\n    cf.br ^bb3\n  ^bb3:\n  "
        f"  %v = {add}"
    )
    yield _made("cf.cond_br", "f32", early)
    yield _made("cf.br", "f32", early)
    callee = "\n  tt.func private @twice(%a: f32) -> f32 attributes {noinline = true} {\n"
    callee += "    %b = arith.addf %a, %a : f32\n    tt.return %b : f32\n  }"
    called = "%s = tt.load %px : !tt.ptr<f32>\n    %v = tt.call @twice(%s) : (f32) -> f32"
    yield _made("tt.call", "f32", called, count=0, loads="z", functions=callee)
    value = f"    %v = {add}"
    for op, line in {
        "gpu.barrier": "gpu.barrier",
        "llvm.intr.assume": "%k = arith.constant true\n    llvm.intr.assume %k : i1",
        "tt.grid_dependency_wait": "tt.grid_dependency_wait",
        "tt.grid_dependency_launch_dependents": "tt.grid_dependency_launch_dependents",
        "tt.assert": '%k = arith.constant true\n    tt.assert %k, "never" : i1',
        "tt.print": 'tt.print " number: " {hex = false, isSigned = array<i32: 1>} : %n : i32',
    }.items():
        text = module(f"{line}\n{value}{store('v', 'f32')}", ("f32",) * 4, "xy")
        yield Sample(op, "", text, ("f32",) * 4)


def _refused() -> Iterator[Sample]:
    """What no CPU can do, and what Triton's own passes remove before the engine sees it."""
    t, d = tile("i32"), "!tt.tensordesc<8x8xf32>"
    asm = (
        '%v = tt.elementwise_inline_asm "shl $0, $0, 3;" {constraints = "=r,r", packed_element = 1 : '
        "i32, pure = true}"
    )
    yield _made("tt.elementwise_inline_asm", "i32", f"{asm} %x : {t} -> {t}")
    made = f"""%k = arith.constant 8 : i32
    %l = arith.constant 8 : i64
    %j = arith.constant 1 : i64
    %d = tt.make_tensor_descriptor %px, [%k, %k], [%l, %j] : !tt.ptr<f32>, {d}"""
    kinds = ("f32",) * 4
    yield Sample("tt.make_tensor_descriptor", "", module(made, kinds, ""), kinds)
    tensor, i = tile("f32", 8, 8), tile("i32", 8)
    head = f"{made}\n    %r = tt.make_range {{end = 8 : i32, start = 0 : i32}} : {i}\n"
    head += f"    %a = arith.constant dense<0.000000e+00> : {tensor}\n    "
    one = "!tt.tensordesc<1x8xf32>"
    rows = head.replace(d, one)
    for name, text in {
        "load": f"{head}%b = tt.descriptor_load %d[%k, %k] : {d} -> {tensor}",
        "store": f"{head}tt.descriptor_store %d[%k, %k], %a : {d}, {tensor}",
        "reduce": f"{head}tt.descriptor_reduce add, %d[%k, %k], %a : {d}, {tensor}",
        "gather": f"{rows}%b = tt.descriptor_gather %d[%r, %k] : ({one}, {i}, i32) -> {tensor}",
        "scatter": f"{rows}tt.descriptor_scatter %d[%r, %k], %a : {one}, {i}, i32, {tensor}",
    }.items():
        yield Sample(f"tt.descriptor_{name}", "", module(text, kinds, ""), kinds)


def samples() -> Iterator[Sample]:
    """All of them."""
    yield from _shapes()
    yield from _memory()
    yield from _collective()
    yield from _control()
    yield from _refused()
