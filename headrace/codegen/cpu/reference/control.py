"""Structured and unstructured control flow, calls, and the dispatch over operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.reference import collective, memory, pointwise, rare, scaled, shape
from headrace.codegen.cpu.reference.emitter import Emitter, register_type
from headrace.codegen.cpu.ttir import Block, Function, Module, Op, Value

PROGRAM = ("pid_x", "pid_y", "pid_z", "grid_x", "grid_y", "grid_z")
_PLAIN: dict[str, Callable[[Emitter, Op], None]] = {
    **dict.fromkeys(pointwise.RULES, pointwise.lower),
    **dict.fromkeys(rare.RULES, rare.lower),
    **dict.fromkeys(rare.PAIRS, rare.lower_pair),
    "arith.constant": shape.constant,
    "ub.poison": shape.poison,
    "tt.make_range": shape.make_range,
    "tt.reshape": shape.same_order,
    "tt.expand_dims": shape.same_order,
    "tt.unsplat": shape.unsplat,
    "tt.broadcast": shape.broadcast,
    "tt.trans": shape.trans,
    "tt.join": shape.join,
    "tt.split": shape.split,
    "tt.cat": shape.cat,
    "tt.gather": shape.gather,
    "tt.histogram": shape.histogram,
    "tt.load": memory.load,
    "tt.store": memory.store,
    "tt.atomic_rmw": memory.atomic_rmw,
    "tt.atomic_cas": memory.atomic_cas,
    "tt.atomic_load": memory.atomic_load,
    "tt.atomic_store": memory.atomic_store,
    "tt.atomic_poll": memory.atomic_poll,
    "tt.assert": memory.assert_,
    "tt.print": memory.print_,
    "tt.dot": collective.dot,
    "tt.dot_scaled": scaled.dot_scaled,
}
# What cannot run on a CPU, and what to do instead.
REFUSED = {
    "tt.elementwise_inline_asm": "inline assembly is written for one GPU; write the operation in Triton",
}
# One thread runs a program, so a barrier inside it has nothing to wait for.
_NOTHING = frozenset(
    {
        "ttg.barrier",
        "gpu.barrier",
        "ttg.local_barrier",
        "llvm.intr.assume",
        "tt.grid_dependency_wait",
        "tt.grid_dependency_launch_dependents",
    }
)


class FunctionLowering:
    """Lowers the body of one function into its emitter."""

    def __init__(self, e: Emitter, function: Function, module: Module, callee: Callable[[str], str]) -> None:
        self.e, self.function, self.module, self.callee = e, function, module, callee
        self.labels: dict[Block, str] = {}
        self.result_places: list[str] = []

    def run(self) -> None:
        """Lower every block; the caller has bound the arguments."""
        for block in self.function.blocks:
            self.labels[block] = self.e.name("block")
        self.e.jump(self.labels[self.function.body])
        for block in self.function.blocks:
            self.e.label(self.labels[block])
            self.finish(self.block(block))

    def block(self, block: Block) -> Op:
        """Lower all but the terminator, which is returned."""
        for op in block.ops[:-1]:
            self.operation(op)
        return block.ops[-1]

    def operation(self, op: Op) -> None:
        if (plain := _PLAIN.get(op.name)) is not None:
            plain(self.e, op)
        elif op.name == "tt.reduce":
            collective.reduce(self.e, op, self.block)
        elif op.name == "tt.scan":
            collective.scan(self.e, op, self.block)
        elif op.name == "scf.for":
            self.for_(op)
        elif op.name == "scf.if":
            self.if_(op)
        elif op.name == "scf.while":
            self.while_(op)
        elif op.name == "tt.call":
            self.call(op)
        elif op.name in ("tt.get_program_id", "tt.get_num_programs"):
            kind = "pid_" if op.name == "tt.get_program_id" else "grid_"
            self.e.write(op.result, f"%{kind}{'xyz'[op.int_attr('axis')]}")
        elif op.name == "tt.map_elementwise":
            collective.map_elementwise(self.e, op, self.block)
        elif op.name not in _NOTHING:
            raise ttir.unsupported(op, REFUSED.get(op.name, "the CPU engine does not lower this operation"))

    # ---- values that cross control flow --------------------------------------------------------------------
    def assign(self, targets: Sequence[str], values: Sequence[Value]) -> None:
        """Copy values to places as if all at once: sources are read before any target is written."""
        e = self.e
        sources = [e.place(v) for v in values]
        moves = [(v.type, s, t) for v, s, t in zip(values, sources, targets, strict=True) if s != t]
        written = {t for _, _, t in moves}
        staged = []
        for type_, source, target in moves:
            if source in written:
                copy = e.new_place(type_)
                e.copy(type_, source, copy)
                source = copy
            staged.append((type_, source, target))
        for type_, source, target in staged:
            e.copy(type_, source, target)

    def for_(self, op: Op) -> None:
        e = self.e
        body = op.regions[0]
        induction, carried = body.args[0], body.args[1:]
        kind = register_type(ttir.element_of(induction.type))
        lower, upper, step = (e.read(v) for v in op.operands[:3])
        self.assign([e.place(a) for a in carried], op.operands[3:])
        head, inside, done = e.name("for"), e.name("body"), e.name("end")
        e.write(induction, lower)
        counter = Value(-1, induction.type)
        e.write(counter, lower)
        e.jump(head)
        e.label(head)
        now = e.read(counter)
        e.write(induction, now)
        predicate = "ult" if op.attrs.get("unsigned") else "slt"
        e.branch(e.let(f"icmp {predicate} {kind} {now}, {upper}"), inside, done)
        e.label(inside)
        terminator = self.block(body)
        self.assign([e.place(a) for a in carried], terminator.operands)
        e.write(counter, e.let(f"add {kind} {e.read(counter)}, {step}"))
        e.jump(head)
        e.label(done)
        for result, arg in zip(op.results, carried, strict=True):
            e.copy(result.type, e.place(arg), e.place(result))

    def if_(self, op: Op) -> None:
        e = self.e
        yes, no, done = e.name("then"), e.name("else"), e.name("end")
        places = [e.place(r) for r in op.results]
        e.branch(e.read(op.operands[0]), yes, no)
        e.label(yes)
        self.assign(places, self.block(op.regions[0]).operands)
        e.jump(done)
        e.label(no)
        if len(op.regions) > 1:
            self.assign(places, self.block(op.regions[1]).operands)
        e.jump(done)
        e.label(done)

    def while_(self, op: Op) -> None:
        e = self.e
        before, after = op.regions
        test, inside, done = e.name("while"), e.name("do"), e.name("end")
        self.assign([e.place(a) for a in before.args], op.operands)
        e.jump(test)
        e.label(test)
        terminator = self.block(before)
        condition, forwarded = terminator.operands[0], terminator.operands[1:]
        go = e.read(condition)
        self.assign([e.place(r) for r in op.results], forwarded)
        e.branch(go, inside, done)
        e.label(inside)
        self.assign([e.place(a) for a in after.args], op.results)
        self.assign([e.place(a) for a in before.args], self.block(after).operands)
        e.jump(test)
        e.label(done)

    def call(self, op: Op) -> None:
        """Pass the address of every argument and result; the callee's frame follows ours."""
        symbol = self.callee(op.str_attr("callee"))
        addresses = [f"ptr {self.e.place(v)}" for v in [*op.operands, *op.results]]
        program = [f"i32 %{p}" for p in PROGRAM]
        self.e.line(f"call void {symbol}({', '.join([*addresses, 'ptr %callee_frame', *program])})")

    # ---- terminators of function-level blocks --------------------------------------------------------------
    def finish(self, op: Op) -> None:
        e = self.e
        if op.name == "tt.return":
            self.assign(self.result_places, op.operands)
            e.line("ret void")
        elif op.name == "cf.br":
            self.go(op.successors[0])
        elif op.name == "cf.cond_br":
            yes, no = e.name("then"), e.name("else")
            e.branch(e.read(op.operands[0]), yes, no)
            for label, successor in ((yes, op.successors[0]), (no, op.successors[1])):
                e.label(label)
                self.go(successor)
        elif op.name == "ub.unreachable":
            e.line("unreachable")
        else:
            raise ttir.unsupported(op, "the CPU engine does not lower this terminator")

    def go(self, successor: ttir.Successor) -> None:
        self.assign([self.e.place(a) for a in successor.block.args], successor.operands)
        self.e.jump(self.labels[successor.block])
