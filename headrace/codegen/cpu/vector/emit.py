"""Writer of LLVM IR text with hoisting and value numbering built in.

Code is written into a stack of frames, one per open loop or branch. A pure instruction goes to the outermost
frame in which all its operands exist (so loop-invariant code never enters the loop) and is shared there with
equal instructions. A memory read goes no further out than the innermost frame marked as a barrier. This makes
the text good enough to be compiled without LLVM's own IR passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Values = list[str]


@dataclass
class Frame:
    """One open region of code."""

    label: str
    barrier: bool
    lines: list[str] = field(default_factory=list)
    pure: dict[str, str] = field(default_factory=dict)
    memo: dict[object, str] = field(default_factory=dict)


class Emitter:
    """Builds the body of one function."""

    def __init__(self) -> None:
        self.frames: list[Frame] = [Frame("entry", True)]
        self._depth: dict[str, int] = {}
        self._count = 0
        self._labels = 0
        self.allocas: list[str] = []
        self.alloca_bytes = 0
        self.declarations: dict[str, str] = {}
        self.functions: dict[str, str] = {}
        self.scratch_bytes = 0
        self.shared_bytes = 0
        self._cleared: list[int] = []
        self._leaves = False

    # names

    def fresh(self) -> str:
        self._count += 1
        return f"%v{self._count}"

    def label(self) -> str:
        self._labels += 1
        return f"b{self._labels}"

    @property
    def top(self) -> Frame:
        return self.frames[-1]

    @property
    def level(self) -> int:
        return len(self.frames) - 1

    def depth(self, name: str) -> int:
        """Index of the frame in which ``name`` exists; constants exist everywhere."""
        return self._depth.get(name, 0)

    def define(self, name: str, level: int | None = None) -> str:
        self._depth[name] = self.level if level is None else level
        return name

    # instructions

    def pure(self, text: str, operands: Sequence[str]) -> str:
        """An instruction without effects; may be shared and hoisted."""
        level = 0
        get = self._depth.get
        for name in operands:
            d = get(name, 0)
            if d > level:
                level = d
        frame = self.frames[level]
        known = frame.pure.get(text)
        if known is not None:
            return known
        name = self.fresh()
        frame.lines.append(f"  {name} = {text}")
        frame.pure[text] = name
        self._depth[name] = level
        return name

    def read(self, text: str, operands: Sequence[str]) -> str:
        """A memory read; hoisted at most to the innermost barrier frame, never shared by text."""
        level = self.barrier()
        for name in operands:
            level = max(level, self._depth.get(name, 0))
        name = self.fresh()
        self.frames[level].lines.append(f"  {name} = {text}")
        self._depth[name] = level
        return name

    def barrier(self) -> int:
        """Level of the innermost frame that reads must not leave."""
        level = self.level
        while not self.frames[level].barrier:
            level -= 1
        return level

    def opaque(self, type_: str, name: str) -> None:
        """Freeze ``name`` where it is made: the same value, but how it was computed is hidden from LLVM's
        analyses."""
        start = f"  {name} = "
        lines = self.frames[self.depth(name)].lines
        for k, line in enumerate(lines):
            if line.startswith(start) and not line.startswith((f"{start}phi", f"{start}freeze")):
                raw = self.fresh()
                lines[k] = f"  {raw} = {line.removeprefix(start)}\n{start}freeze {type_} {raw}"
                return

    def here(self, text: str) -> str:
        """An instruction with a result that must stay where it is."""
        name = self.fresh()
        self.top.lines.append(f"  {name} = {text}")
        return self.define(name)

    def effect(self, text: str) -> None:
        """An instruction without a result that must stay where it is."""
        self.top.lines.append(f"  {text}")

    def declare(self, name: str, text: str) -> None:
        """External declaration, once."""
        self.declarations.setdefault(name, text)

    def alloca(self, element: str, count: int, size: int) -> str:
        """Stack array of ``count`` elements of ``size`` bytes, 64-byte aligned, made once at function
        entry."""
        name = self.fresh()
        self.allocas.append(f"  {name} = alloca [{count} x {element}], align 64")
        self.alloca_bytes += count * size
        self._depth[name] = 0
        return name

    def scratch(self, size: int) -> str:
        """``size`` bytes of this thread's scratch memory, 64-byte aligned, for this program."""
        name = self.fresh()
        self.allocas.append(f"  {name} = getelementptr i8, ptr %scratch, i64 {self.scratch_bytes}")
        self.scratch_bytes += (size + 63) // 64 * 64
        self._depth[name] = 0
        return name

    def cleared(self) -> str:
        """An i64 of scratch memory that is 0 at a thread's first program of a launch; later programs of the
        launch find there, and in all other scratch memory, what the one before them left."""
        self._cleared.append(self.scratch_bytes)
        return self.scratch(8)

    def shared_scratch(self, size: int) -> str:
        """``size`` bytes of scratch memory that lose their content at the next request."""
        self.shared_bytes = max(self.shared_bytes, size)
        return "%shared"

    # control flow

    def leave(self, cond: str) -> None:
        """End the program here if ``cond`` holds."""
        after = self.label()
        self.effect(f"br i1 {cond}, label %leave, label %{after}")
        self.top.lines.append(f"{after}:")
        self.top.label = after
        self._leaves = True

    def open(self, label: str, barrier: bool = False) -> Frame:
        frame = Frame(label, barrier)
        self.frames.append(frame)
        return frame

    def close(self) -> Frame:
        return self.frames.pop()

    def loop(
        self,
        lo: str,
        hi: str,
        step: str,
        inits: Sequence[tuple[str, str]],
        body: Callable[[str, Values], Values],
        type_: str = "i64",
        barrier: bool = False,
        predicate: str = "slt",
    ) -> Values:
        """``for (iv = lo; iv < hi; iv += step)`` carrying ``inits`` (type, value); returns the final
        carried values."""
        parent = self.top
        head, inside, done = self.label(), self.label(), self.label()
        before = parent.label
        iv, nxt, cond = self.fresh(), self.fresh(), self.fresh()
        frame = self.open(inside, barrier)
        self.define(iv)
        args = [self.define(self.fresh()) for _ in inits]
        outs = body(iv, args)
        assert self.top is frame
        self.close()
        latch = frame.label
        lines = parent.lines
        lines.append(f"  br label %{head}")
        lines.append(f"{head}:")
        lines.append(f"  {iv} = phi {type_} [ {lo}, %{before} ], [ {nxt}, %{latch} ]")
        for (ty, init), arg, out in zip(inits, args, outs, strict=True):
            lines.append(f"  {arg} = phi {ty} [ {init}, %{before} ], [ {out}, %{latch} ]")
        lines.append(f"  {cond} = icmp {predicate} {type_} {iv}, {hi}")
        lines.append(f"  br i1 {cond}, label %{inside}, label %{done}")
        lines.append(f"{inside}:")
        lines.extend(frame.lines)
        lines.append(f"  {nxt} = add {type_} {iv}, {step}")
        lines.append(f"  br label %{head}")
        lines.append(f"{done}:")
        parent.label = done
        for arg in args:
            self.define(arg)
        return args

    def while_(
        self,
        inits: Sequence[tuple[str, str]],
        before: Callable[[Values], tuple[str, Values]],
        after: Callable[[Values], Values],
    ) -> Values:
        """``while``: ``before`` gives the condition and what it forwards, ``after`` the next carried
        values."""
        parent = self.top
        head, inside, done = self.label(), self.label(), self.label()
        entry = parent.label
        top = self.open(head, True)
        args = [self.define(self.fresh()) for _ in inits]
        cond, forward = before(args)
        inner = self.open(inside, True)
        outs = after(forward)
        self.close()
        self.close()
        lines = parent.lines
        lines.append(f"  br label %{head}")
        lines.append(f"{head}:")
        for (ty, init), arg, out in zip(inits, args, outs, strict=True):
            lines.append(f"  {arg} = phi {ty} [ {init}, %{entry} ], [ {out}, %{inner.label} ]")
        lines.extend(top.lines)
        lines.append(f"  br i1 {cond}, label %{inside}, label %{done}")
        lines.append(f"{inside}:")
        lines.extend(inner.lines)
        lines.append(f"  br label %{head}")
        lines.append(f"{done}:")
        parent.label = done
        for name in forward:
            if self.depth(name) > self.level:
                self.define(name)
        return forward

    def branch(
        self,
        cond: str,
        types: Sequence[str],
        then: Callable[[], Values],
        other: Callable[[], Values] | None = None,
        rare: bool = False,
    ) -> Values:
        """``if``: both sides give values of ``types``; returns the merged ones. ``rare``: ``cond`` hardly
        ever holds."""
        parent = self.top
        yes, no, done = self.label(), self.label(), self.label()
        a = self.open(yes, True)
        left = then()
        self.close()
        b = self.open(no, True)
        right = other() if other is not None else []
        self.close()
        lines = parent.lines
        odds = ""
        if rare:
            self.declare("!1", '!1 = !{!"branch_weights", i32 1, i32 1000}')
            odds = ", !prof !1"
        lines.append(f"  br i1 {cond}, label %{yes}, label %{no}{odds}")
        lines.append(f"{yes}:")
        lines.extend(a.lines)
        lines.append(f"  br label %{done}")
        lines.append(f"{no}:")
        lines.extend(b.lines)
        lines.append(f"  br label %{done}")
        lines.append(f"{done}:")
        parent.label = done
        merged = []
        for ty, x, y in zip(types, left, right, strict=True):
            merged.append(self.here(f"phi {ty} [ {x}, %{a.label} ], [ {y}, %{b.label} ]"))
        return merged

    def text(self, signature: str) -> str:
        """The whole function and its declarations."""
        assert len(self.frames) == 1
        opening: list[str] = []
        if self.scratch_bytes or self.shared_bytes:
            self.declare("headrace_scratch", "declare ptr @headrace_scratch(i64)")
            size = self.scratch_bytes + self.shared_bytes
            opening = [
                f"  %scratch = call ptr @headrace_scratch(i64 {size})",
                f"  %shared = getelementptr i8, ptr %scratch, i64 {self.scratch_bytes}",
            ]
        end = ["  br label %leave", "leave:"] if self._leaves else []
        body = "\n".join([*opening, *self.allocas, *self.frames[0].lines, *end])
        decls = "\n".join([*self.declarations.values(), *self.functions.values()])
        return f"{decls}\n\ndefine void {signature} {{\nentry:\n{body}\n  ret void\n}}\n{self._begin()}"

    def _begin(self) -> str:
        """What a thread does before its first program of a launch, if there is anything."""
        if not self._cleared:
            return ""
        size = self.scratch_bytes + self.shared_bytes
        lines = [f"  %scratch = call ptr @headrace_scratch(i64 {size})"]
        for k, offset in enumerate(self._cleared):
            lines += [
                f"  %p{k} = getelementptr i8, ptr %scratch, i64 {offset}",
                f"  store i64 0, ptr %p{k}, align 8",
            ]
        body = "\n".join(lines)
        return f"define internal void @headrace.begin() {{\nentry:\n{body}\n  ret void\n}}\n"
