"""Parse the text that Triton 3.9 prints for a TTIR module, with or without locations.

``parse(str(module))`` keeps source lines; ``parse(module.str_nodebug())`` works the same without them.

Attribute names, besides those printed in ``{...}`` and ``<{...}>``:

===========================  =========================================================================
``arith.constant``           ``value``: int, float or bool (a splat for tensors), or a flat tuple
``arith.cmpi``, ``cmpf``     ``predicate``: ``slt``, ``ogt``, ...
``tt.get_program_id`` etc.   ``axis``: 0, 1, 2
``tt.load``                  ``operandSegmentSizes`` = (pointer, mask, other) as zeros and ones
``tt.store``                 ``operandSegmentSizes`` = (pointer, value, mask)
``tt.atomic_rmw``            ``rmw``, ``sem``, ``scope``; ``operandSegmentSizes`` = (pointer, value, mask)
``tt.atomic_cas``            ``sem``, ``scope``
``tt.dot``                   ``inputPrecision`` (``ieee`` when not printed), ``maxNumImpreciseAcc``
``tt.dot_scaled``            ``lhs``, ``rhs`` formats; ``operandSegmentSizes`` = (a, b, c, a_scale, b_scale)
``tt.call``                  ``callee``
``tt.print``, ``tt.assert``  ``text``
``scf.for``                  ``unsigned``; operands are lower, upper, step, then the initial values
===========================  =========================================================================

Every block ends with a terminator: the ``scf.yield`` that MLIR leaves out is put back. Words that no table entry
claims (``nneg``, rounding modes) are kept in ``attrs["keywords"]``.
"""

from __future__ import annotations

import re
import struct
from collections import ChainMap
from functools import lru_cache

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.ttir import Block, Function, Loc, Module, Op, Successor, Type, Value
from headrace.errors import UnsupportedTtir

_NEST = r"<(?:[^<>]|<(?:[^<>]|<[^<>]*>)*>)*>"
_TOKEN = re.compile(
    rf"""(?P<skip>[ \t]+|//[^\n]*)|(?P<nl>\n)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<type>tensor{_NEST}|!tt\.ptr{_NEST})
    |(?P<value>%[\w$.\-]+)|(?P<block>\^\w+)|(?P<symbol>@(?:[\w$.\-]+|"[^"]*"))
    |(?P<number>0x[0-9A-Fa-f]+|-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
    |(?P<alias>[\#!][\w.]+)|(?P<word>[A-Za-z_][\w.$]*)
    |(?P<punct>->|<\{{|\}}>|[=:,(){{}}\[\]<>*?])""",
    re.X,
)
_SCALAR = re.compile(r"(?:i\d+|index|bf16|tf32|f\d+\w*)$")
_AXES = {"x": 0, "y": 1, "z": 2}
_SAME_TYPE_PREFIXES = ("arith.", "math.", "tt.", "ub.", "llvm.")
_NO_RESULT = frozenset({"tt.store", "tt.print", "tt.assert", "tt.return", "scf.yield", "tt.reduce.return",
                        "tt.scan.return", "tt.map_elementwise.return", "llvm.intr.assume", "gpu.barrier",
                        "ttg.barrier", "ttg.local_barrier"})  # fmt: skip


@lru_cache(maxsize=4096)
def parse_type(text: str) -> Type:
    """Parse ``i32``, ``!tt.ptr<f16>`` or ``tensor<4x8x!tt.ptr<f16>>``; ValueError otherwise."""
    if text.startswith("tensor<"):
        parts = re.match(r"tensor<((?:\d+x)*)(.*)>$", text, re.S)
        if parts is None:
            raise ValueError(text)
        element = parse_type(parts.group(2).strip())
        if isinstance(element, ttir.TensorType):
            raise ValueError(text)
        return ttir.TensorType(tuple(int(d) for d in parts.group(1).split("x") if d), element)
    if text.startswith("!tt.ptr<"):
        pointee = parse_type(re.sub(r",\s*\d+$", "", text[len("!tt.ptr<") : -1]).strip())
        if isinstance(pointee, ttir.TensorType):
            raise ValueError(text)
        return ttir.PointerType(pointee)
    if not _SCALAR.match(text):
        raise ValueError(text)
    return ttir.ScalarType(text.lower())


def parse(text: str) -> Module:
    """Parse one printed module.

    Raises:
        UnsupportedTtir: a construct outside the grammar, naming the operation and the source line.
    """
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.kinds: list[str] = []
        self.toks: list[str] = []
        self.offsets: list[int] = []
        self.lines: list[int] = []
        position, line = 0, 1
        for m in _TOKEN.finditer(text):
            kind = m.lastgroup
            if m.start() != position:
                break
            position = m.end()
            if kind == "skip" or kind is None:
                continue
            if kind == "nl":
                line += 1
                continue
            self.lines.append(line)
            self.kinds.append(kind)
            self.toks.append(m.group())
            self.offsets.append(m.start())
        if position != len(text):
            raise ttir.unsupported("module", f"cannot read {text[position : position + 20]!r}", self._line(position))
        self.kinds += ["eof", "eof"]
        self.toks += ["", ""]
        self.offsets += [position, position]
        self.lines += [line + 1, line + 1]
        self.i = 0
        self.op = "module"
        self.ids = ttir.ids()
        self.scope: ChainMap[str, list[Value]] = ChainMap()
        self.locs: dict[str, Loc | None] = {}
        self.loc_at: dict[str, int] = {}

    # ---- tokens ------------------------------------------------------------------------------------------------
    def _line(self, offset: int) -> str:
        return f"TTIR line {self.text.count(chr(10), 0, offset) + 1}"

    def fail(self, why: str) -> UnsupportedTtir:
        return ttir.unsupported(self.op, why, self._line(self.offsets[self.i]))

    def peek(self, tok: str) -> bool:
        return self.toks[self.i] == tok

    def accept(self, tok: str) -> bool:
        if self.toks[self.i] == tok:
            self.i += 1
            return True
        return False

    def expect(self, tok: str) -> None:
        if not self.accept(tok):
            raise self.fail(f"expected {tok!r}, found {self.toks[self.i]!r}")

    def take(self, kind: str) -> str:
        if self.kinds[self.i] != kind:
            raise self.fail(f"expected a {kind}, found {self.toks[self.i]!r}")
        self.i += 1
        return self.toks[self.i - 1]

    def string(self) -> str:
        raw = self.take("string")[1:-1]
        return re.sub(
            r"\\([0-9A-Fa-f]{2}|.)",
            lambda m: chr(int(m[1], 16)) if len(m[1]) == 2 else {"n": "\n", "t": "\t"}.get(m[1], m[1]),
            raw,
        )

    # ---- locations ---------------------------------------------------------------------------------------------
    def location(self) -> Loc | None:
        """What stands inside ``loc( )``: alias, "file":line:col, "name"(loc), callsite(a at b), fused[...]."""
        kind, tok = self.kinds[self.i], self.toks[self.i]
        if kind == "alias":
            self.i += 1
            return self.alias(tok)
        if kind == "string":
            name = self.string()
            if self.accept("("):
                inner = self.location()
                self.expect(")")
                return inner
            if self.accept(":"):
                line = int(self.take("number"))
                self.expect(":")
                column = int(self.take("number"))
                if self.accept("to"):
                    while not self.peek(")"):
                        self.i += 1
                return Loc(name, line, column)
            return None
        self.i += 1
        if tok == "callsite":
            self.expect("(")
            callee = self.location()
            self.expect("at")
            caller = self.location()
            self.expect(")")
            if callee is None:
                return caller
            return Loc(callee.file, callee.line, callee.column, caller if callee.caller is None else callee.caller)
        if tok == "fused":
            depth, found = 0, None
            while not (depth == 0 and self.peek(")")):
                if self.kinds[self.i] in ("alias", "string") and found is None and depth:
                    found = self.location()
                    continue
                depth += {"[": 1, "<": 1, "]": -1, ">": -1}.get(self.toks[self.i], 0)
                self.i += 1
            return found
        return None

    def alias(self, name: str) -> Loc | None:
        if name not in self.locs:
            at = self.loc_at.get(name)
            if at is None:
                return None
            here, self.i = self.i, at
            self.locs[name] = None
            self.locs[name] = self.location()
            self.i = here
        return self.locs[name]

    def trailing_loc(self) -> Loc | None:
        if self.toks[self.i] == "loc" and self.toks[self.i + 1] == "(":
            self.i += 2
            found = self.location()
            self.expect(")")
            return found
        return None

    def collect_aliases(self) -> None:
        toks = self.toks
        for j, kind in enumerate(self.kinds):
            if kind == "alias" and toks[j + 1] == "=" and toks[j].startswith("#loc") and toks[j + 2] == "loc":
                self.loc_at[toks[j]] = j + 4

    # ---- types and attributes ----------------------------------------------------------------------------------
    def type(self) -> Type:
        tok = self.toks[self.i]
        try:
            found = parse_type(tok)
        except ValueError:
            raise self.fail(f"type {tok!r} is not supported") from None
        self.i += 1
        return found

    def types(self, close: str) -> list[Type]:
        found: list[Type] = []
        while not self.accept(close):
            found.append(self.type())
            self.accept(",")
        return found

    def type_or_types(self) -> list[Type]:
        return self.types(")") if self.accept("(") else [self.type()]

    def attr_dict(self, close: str = "}") -> dict[str, object]:
        attrs: dict[str, object] = {}
        while not self.accept(close):
            name = self.string() if self.kinds[self.i] == "string" else self.toks[self.i]
            if self.kinds[self.i] == "word":
                self.i += 1
            attrs[name] = self.attr() if self.accept("=") else True
            self.accept(",")
        return attrs

    def attr(self) -> object:
        kind, tok = self.kinds[self.i], self.toks[self.i]
        if kind == "string":
            return self.string()
        if kind == "number":
            self.i += 1
            type_ = self.type() if self.accept(":") else None
            return _number(tok, type_)
        if kind == "type":
            return self.type()
        if kind == "symbol":
            self.i += 1
            return tok[1:].strip('"')
        if tok == "{":
            self.i += 1
            return self.attr_dict()
        if tok == "[":
            self.i += 1
            items = []
            while not self.accept("]"):
                items.append(self.attr())
                self.accept(",")
            return tuple(items)
        self.i += 1
        if kind == "alias":
            return self.attr_dict(">") if self.accept("<") else tok
        if tok in ("true", "false"):
            return tok == "true"
        if tok == "array" and self.accept("<"):
            self.i += 1  # element type
            values: list[object] = []
            self.accept(":")
            while not self.accept(">"):
                values.append(self.attr())
                self.accept(",")
            return tuple(values)
        if tok == "unit":
            return True
        return tok

    # ---- values ------------------------------------------------------------------------------------------------
    def new(self, type_: Type) -> Value:
        return Value(next(self.ids), type_)

    def define(self, name: str, values: list[Value]) -> None:
        self.scope.maps[0][name] = values

    def operand(self) -> Value:
        name = self.take("value")
        values = self.scope.get(name)
        if values is None:
            raise self.fail(f"{name} is used before its definition")
        index = 0
        if self.kinds[self.i] == "alias" and self.toks[self.i][0] == "#" and self.toks[self.i][1:].isdigit():
            index = int(self.toks[self.i][1:])
            self.i += 1
        return values[index]

    def operands(self, close: str) -> list[Value]:
        found = []
        while not self.accept(close):
            found.append(self.operand())
            self.accept(",")
        return found

    def block_args(self) -> list[Value]:
        """``(%a: i32 loc(..), %b: f32)``; the opening parenthesis is next."""
        args: list[Value] = []
        self.expect("(")
        while not self.accept(")"):
            name = self.take("value")
            self.expect(":")
            args.append(self.new(self.type()))
            self.define(name, [args[-1]])
            self.trailing_loc()
            self.accept(",")
        return args

    # ---- structure ---------------------------------------------------------------------------------------------
    def module(self) -> Module:
        self.collect_aliases()
        functions: list[Function] = []
        while self.kinds[self.i] != "eof" and not self.peek("module"):
            self.i += 1
        self.expect("module")
        if self.kinds[self.i] == "symbol":
            self.i += 1
        if self.accept("attributes"):
            self.expect("{")
            self.attr_dict()
        self.expect("{")
        while not self.accept("}"):
            functions.append(self.function())
        if not functions:
            raise self.fail("the module holds no function")
        return Module(functions)

    def function(self) -> Function:
        self.op = "tt.func"
        self.expect("tt.func")
        public = not self.accept("private")
        self.accept("public")
        name = self.take("symbol")[1:].strip('"')
        self.scope = ChainMap({})
        args: list[Value] = []
        arg_attrs: list[dict[str, object]] = []
        self.expect("(")
        while not self.accept(")"):
            arg_name = self.take("value")
            self.expect(":")
            args.append(self.new(self.type()))
            self.define(arg_name, [args[-1]])
            arg_attrs.append(self.attr_dict() if self.accept("{") else {})
            self.trailing_loc()
            self.accept(",")
        results = self.type_or_types() if self.accept("->") else []
        if self.accept("attributes"):
            self.expect("{")
            self.attr_dict()
        self.expect("{")
        blocks = self.blocks("tt.return")
        blocks[0].args = args
        return Function(name, args, arg_attrs, blocks, results, public, self.trailing_loc())

    def blocks(self, terminator: str) -> list[Block]:
        """Blocks up to and including the closing brace."""
        named: dict[str, Block] = {}
        outer, self.block_names = getattr(self, "block_names", {}), named
        blocks: list[Block] = []
        if self.kinds[self.i] != "block":
            blocks.append(Block())
        while not self.accept("}"):
            if self.kinds[self.i] == "block":
                block = named.setdefault(self.take("block"), Block())
                blocks.append(block)
                if self.peek("("):
                    block.args = self.block_args()
                self.expect(":")
            else:
                blocks[-1].ops.append(self.operation())
        if not blocks[-1].ops or blocks[-1].ops[-1].name not in _TERMINATORS:
            blocks[-1].ops.append(Op(terminator))
        self.block_names = outer
        return blocks

    def region(self, args: list[tuple[str, Value]] | None = None, terminator: str = "scf.yield") -> Block:
        """One single-block region; the opening brace has been read."""
        self.scope = self.scope.new_child()
        for name, value in args or ():
            self.define(name, [value])
        blocks = self.blocks(terminator)
        if len(blocks) != 1:
            raise self.fail("a nested region with several blocks is not supported")
        self.scope = self.scope.parents
        if args:
            blocks[0].args = [value for _, value in args]
        return blocks[0]

    def operation(self) -> Op:
        names: list[tuple[str, int]] = []
        if self.kinds[self.i] == "value":
            while True:
                name = self.take("value")
                count = int(self.take("number")) if self.accept(":") else 1
                names.append((name, count))
                if self.accept("="):
                    break
                self.expect(",")
        generic = self.kinds[self.i] == "string"
        outer, self.op = self.op, self.string() if generic else self.take("word")
        op = Op(self.op)
        if generic:
            self.generic(op)
        else:
            special = _SPECIAL.get(op.name)
            if special is not None:
                special(self, op)
            else:
                self.pretty(op)
        self.op = outer
        op.loc = self.trailing_loc()
        at = 0
        for name, count in names:
            self.define(name, op.results[at : at + count])
            at += count
        if at != len(op.results):
            raise self.fail(f"{at} results are named but {len(op.results)} are produced")
        return op

    def generic(self, op: Op) -> None:
        self.expect("(")
        op.operands = self.operands(")")
        if self.accept("["):
            raise self.fail("successors in generic form are not supported")
        if self.accept("<{"):
            op.attrs.update(self.attr_dict("}>"))
        if self.accept("("):
            while not self.accept(")"):
                self.expect("{")
                op.regions.append(self.region())
                self.accept(",")
        if self.accept("{"):
            op.attrs.update(self.attr_dict())
        self.expect(":")
        self.expect("(")
        self.types(")")
        self.expect("->")
        op.results = [self.new(t) for t in self.type_or_types()]
        sizes = op.attrs.get("operandSegmentSizes")
        if sizes is None and op.name in _SEGMENTS:
            self.segments(op)

    def pretty(self, op: Op) -> None:
        words: list[str] = []
        line = self.lines[self.i - 1]  # one operation in pretty form is one line
        while self.lines[self.i] == line:
            kind, tok = self.kinds[self.i], self.toks[self.i]
            if kind == "value":
                op.operands.append(self.operand())
            elif tok == "{":
                self.i += 1
                op.attrs.update(self.attr_dict())
            elif tok == "<{":
                self.i += 1
                op.attrs.update(self.attr_dict("}>"))
            elif tok in (",", "[", "]", "(", ")"):
                self.i += 1
            elif tok == ":" and self.kinds[self.i + 1] == "value":  # tt.print " x: " {..} : %x : i32
                self.i += 1
            elif kind == "word" and self.toks[self.i + 1] == "=":
                self.i += 2
                op.attrs[tok] = self.attr()
            elif kind == "word" and self.toks[self.i + 1] == "<" and tok in ("fastmath", "overflow"):
                self.i += 2
                while not self.accept(">"):
                    self.i += 1
            elif kind == "word" and not (tok == "loc" and self.toks[self.i + 1] == "("):
                words.append(tok)
                self.i += 1
            elif kind == "symbol":
                op.attrs["callee"] = tok[1:].strip('"')
                self.i += 1
            elif kind == "string":
                op.attrs["text"] = self.string()
            else:
                break
        listed, results = self.signature()
        self.finish(op, words, listed, results)

    def signature(self) -> tuple[list[Type], list[Type] | None]:
        """The types after ``:``, and the result types where an arrow or ``to`` names them."""
        listed: list[Type] = []
        if not self.accept(":"):
            return listed, None
        while True:
            if self.accept("("):
                listed += self.types(")")
            else:
                listed.append(self.type())
            if self.accept(",") or self.accept("*"):
                continue
            if self.accept("->") or self.accept("to"):
                return listed, self.type_or_types()
            return listed, None

    def finish(self, op: Op, words: list[str], listed: list[Type], results: list[Type] | None) -> None:
        name = op.name
        if name in ("tt.get_program_id", "tt.get_num_programs"):
            op.attrs["axis"] = _AXES[words.pop(0)]
        elif name in ("arith.cmpi", "arith.cmpf"):
            op.attrs["predicate"] = words.pop(0)
        elif name == "tt.atomic_rmw":
            op.attrs["rmw"], op.attrs["sem"], op.attrs["scope"] = words[:3]
            del words[:3]
        elif name == "tt.atomic_cas":
            op.attrs["sem"], op.attrs["scope"] = words[:2]
            del words[:2]
        elif name == "tt.dot":
            op.attrs.setdefault("inputPrecision", "ieee")
        elif name == "tt.reshape" and "allow_reorder" in words:
            op.attrs["allow_reorder"] = True
        if words:
            op.attrs["keywords"] = tuple(words)
        if name in _SEGMENTS:
            self.segments(op)
        if results is None:
            results = self.infer(op, listed)
        op.results = [self.new(t) for t in results]

    def segments(self, op: Op) -> None:
        width, count = _SEGMENTS[op.name], len(op.operands)
        op.attrs["operandSegmentSizes"] = tuple(1 if k < count else 0 for k in range(width))

    def infer(self, op: Op, listed: list[Type]) -> list[Type]:
        name = op.name
        if name in _NO_RESULT:
            return []
        if not listed:
            raise self.fail("the operation prints no type")
        if name in ("arith.cmpi", "arith.cmpf"):
            return [ttir.with_element(listed[0], ttir.I1)]
        if name == "arith.select":
            return [listed[-1]]
        if name == "tt.load":
            element = ttir.element_of(listed[0])
            if not isinstance(element, ttir.PointerType):
                raise self.fail("the address is not a pointer")
            return [ttir.with_element(listed[0], element.pointee)]
        if name.startswith(_SAME_TYPE_PREFIXES):
            return [listed[0]]
        raise self.fail("this operation is not supported by the CPU engine")

    # ---- operations with a syntax of their own -------------------------------------------------------------------
    def constant(self, op: Op) -> None:
        if self.accept("{"):
            op.attrs.update(self.attr_dict())
        tok = self.toks[self.i]
        raw: list[str] = []
        if tok == "dense":
            self.i += 1
            self.expect("<")
            while not self.accept(">"):
                if self.kinds[self.i] in ("number", "string") or self.toks[self.i] in ("true", "false"):
                    raw.append(self.toks[self.i])
                self.i += 1
        else:
            raw.append(tok)
            self.i += 1
        if self.accept(":"):
            type_ = self.type()
        elif tok in ("true", "false"):
            type_ = ttir.I1
        else:
            raise self.fail(f"constant {tok!r} has no type")
        if raw and raw[0].startswith('"'):
            raise self.fail("constants in packed hexadecimal form are not supported")
        values = tuple(_number(r, type_) for r in raw)
        op.attrs["value"] = values[0] if len(values) == 1 else values
        op.results = [self.new(type_)]

    def scf_for(self, op: Op) -> None:
        op.attrs["unsigned"] = self.accept("unsigned")
        iv_name = self.take("value")
        self.expect("=")
        op.operands.append(self.operand())
        self.expect("to")
        op.operands.append(self.operand())
        self.expect("step")
        op.operands.append(self.operand())
        names: list[str] = []
        types: list[Type] = []
        if self.accept("iter_args"):
            names = self.bindings(op)
            self.expect("->")
            types = self.type_or_types()
        iv_type = self.type() if self.accept(":") else ttir.ScalarType("index")
        args = [(iv_name, self.new(iv_type)), *((n, self.new(t)) for n, t in zip(names, types, strict=True))]
        self.expect("{")
        op.regions = [self.region(args)]
        if self.accept("{"):
            op.attrs.update(self.attr_dict())
        op.results = [self.new(t) for t in types]

    def bindings(self, op: Op) -> list[str]:
        """``(%a = %x, %b = %y)``: names; the initial values are appended to the operands."""
        names: list[str] = []
        self.expect("(")
        while not self.accept(")"):
            names.append(self.take("value"))
            self.expect("=")
            op.operands.append(self.operand())
            self.accept(",")
        return names

    def scf_if(self, op: Op) -> None:
        op.operands = [self.operand()]
        types = self.type_or_types() if self.accept("->") else []
        self.expect("{")
        op.regions = [self.region()]
        if self.accept("else"):
            self.expect("{")
            op.regions.append(self.region())
        if self.accept("{"):
            op.attrs.update(self.attr_dict())
        op.results = [self.new(t) for t in types]

    def scf_while(self, op: Op) -> None:
        names = self.bindings(op) if self.peek("(") else []
        self.expect(":")
        inputs = self.type_or_types()
        self.expect("->")
        results = self.type_or_types()
        self.expect("{")
        before = self.region([(n, self.new(t)) for n, t in zip(names, inputs, strict=True)])
        self.expect("do")
        self.expect("{")
        op.regions = [before, self.region()]
        if self.accept("attributes"):
            self.expect("{")
            op.attrs.update(self.attr_dict())
        op.results = [self.new(t) for t in results]

    def scf_condition(self, op: Op) -> None:
        self.expect("(")
        op.operands = self.operands(")")
        while self.kinds[self.i] == "value":
            op.operands.append(self.operand())
            self.accept(",")
        self.signature()

    def successor(self, op: Op) -> None:
        block = self.block_names.setdefault(self.take("block"), Block())
        values: list[Value] = []
        if self.accept("("):
            while not self.accept(")"):
                if self.accept(":"):
                    self.types(")")
                    break
                values.append(self.operand())
                self.accept(",")
        op.successors.append(Successor(block, values))

    def branch(self, op: Op) -> None:
        if op.name == "cf.cond_br":
            op.operands = [self.operand()]
            if self.accept("weights"):
                while not self.accept(")"):
                    self.i += 1
            self.expect(",")
        self.successor(op)
        if self.accept(","):
            self.successor(op)
        if self.accept("{"):
            op.attrs.update(self.attr_dict())

    def dot_scaled(self, op: Op) -> None:
        scales: list[Value | None] = []
        tensors: list[Value] = []
        for _ in range(2):
            tensors.append(self.operand())
            scales.append(self.operand() if self.accept("scale") else None)
            self.expect(",")
        tensors.append(self.operand())
        op.operands = tensors + [s for s in scales if s is not None]
        op.attrs["operandSegmentSizes"] = (1, 1, 1, *(0 if s is None else 1 for s in scales))
        while self.kinds[self.i] == "word" and self.toks[self.i + 1] == "=":
            self.i += 2
            op.attrs[self.toks[self.i - 2]] = self.attr()
        if self.accept("{"):
            op.attrs.update(self.attr_dict())
        _, results = self.signature()
        op.results = [self.new(t) for t in results or ()]

    block_names: dict[str, Block]


_SPECIAL = {
    "arith.constant": _Parser.constant,
    "scf.for": _Parser.scf_for,
    "scf.if": _Parser.scf_if,
    "scf.while": _Parser.scf_while,
    "scf.condition": _Parser.scf_condition,
    "cf.br": _Parser.branch,
    "cf.cond_br": _Parser.branch,
    "tt.dot_scaled": _Parser.dot_scaled,
}
_SEGMENTS = {"tt.load": 3, "tt.store": 3, "tt.atomic_rmw": 3}
_TERMINATORS = frozenset({"tt.return", "scf.yield", "scf.condition", "tt.reduce.return", "tt.scan.return",
                          "tt.map_elementwise.return", "cf.br", "cf.cond_br", "ub.unreachable"})  # fmt: skip


def _number(text: str, type_: Type | None) -> int | float | bool:
    """A printed literal as a Python number; hexadecimal floats are bit patterns."""
    element = ttir.element_of(type_) if type_ is not None else None
    if text in ("true", "false"):
        return text == "true"
    if isinstance(element, ttir.ScalarType) and element.is_float:
        return _float_bits(int(text, 16), element) if text.startswith("0x") else float(text)
    if text.startswith("0x"):
        return int(text, 16)
    if element is None and ("." in text or "e" in text.lower()):
        return float(text)
    return int(text)


def _float_bits(bits: int, type_: ttir.ScalarType) -> float:
    if type_.name == "bf16":
        return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    code = {"f16": ("<e", "<H"), "f32": ("<f", "<I"), "f64": ("<d", "<Q")}.get(type_.name)
    if code is None:
        raise ValueError(f"hexadecimal {type_} constant")
    return float(struct.unpack(code[0], struct.pack(code[1], bits))[0])
