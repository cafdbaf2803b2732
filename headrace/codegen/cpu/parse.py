"""Parse the text that Triton 3.9 prints for a TTIR module, with or without locations.

``parse(str(module))`` keeps source lines; ``parse(module.str_nodebug())`` works the same without them.

Attribute names, besides those printed in ``{...}`` and ``<{...}>``:

===========================  =========================================================================
``arith.constant``           ``value``: int, float or bool (a splat for tensors), or a flat tuple
``arith.cmpi``, ``cmpf``     ``predicate``: ``slt``, ``ogt``, ...
``arith.truncf``, ...        ``rounding``: ``toward_zero``, ...; ``tt.fp_to_fp``: ``rtne``, ``rtz``
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

Every block ends with a terminator: the ``scf.yield`` that MLIR leaves out is put back. Words that no table
entry claims (``nneg``, rounding modes) are kept in ``attrs["keywords"]``.
"""

from __future__ import annotations

from collections import ChainMap

from headrace.codegen.cpu import ttir
from headrace.codegen.cpu.parse_forms import FORMS
from headrace.codegen.cpu.parse_outline import outline
from headrace.codegen.cpu.parse_text import Reader
from headrace.codegen.cpu.ttir import Block, Function, Module, Op, Type, Value

_AXES = {"x": 0, "y": 1, "z": 2}
_SAME_TYPE_PREFIXES = ("arith.", "math.", "tt.", "ub.", "llvm.")
_NO_RESULT = frozenset(
    {
        "tt.store",
        "tt.atomic_store",
        "tt.print",
        "tt.assert",
        "tt.return",
        "scf.yield",
        "tt.reduce.return",
        "tt.scan.return",
        "tt.map_elementwise.return",
        "llvm.intr.assume",
        "gpu.barrier",
        "ttg.barrier",
        "ttg.local_barrier",
        "tt.grid_dependency_wait",
        "tt.grid_dependency_launch_dependents",
    }
)
_ATOMIC_ORDERED = ("tt.atomic_cas", "tt.atomic_load", "tt.atomic_store", "tt.atomic_poll")
# Two results of the type that is printed once; a sum with its carry prints both; tests give i1.
_TWO_ALIKE = frozenset({"tt.split", "arith.mulsi_extended", "arith.mului_extended", "math.sincos"})
_WITH_CARRY = frozenset({"arith.addui_extended", "arith.subui_extended"})
_TESTS = frozenset({"arith.cmpi", "arith.cmpf", "math.isnan", "math.isinf", "math.isfinite", "math.isnormal"})
_SEGMENTS = {"tt.load": 3, "tt.store": 3, "tt.atomic_rmw": 3}
_TERMINATORS = frozenset(
    {
        "tt.return",
        "scf.yield",
        "scf.condition",
        "tt.reduce.return",
        "tt.scan.return",
        "tt.map_elementwise.return",
        "cf.br",
        "cf.cond_br",
        "ub.unreachable",
    }
)


def parse(text: str) -> Module:
    """Parse one printed module.

    Raises:
        UnsupportedTtir: a construct outside the grammar, naming the operation and the source line.
    """
    return Parser(text).module()


class Parser(Reader):
    """The grammar of modules, functions, blocks and operations."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.ids = ttir.ids()
        self.scope: ChainMap[str, list[Value]] = ChainMap()
        self.block_names: dict[str, Block] = {}
        self.outlined: list[Function] = []

    # ---- values --------------------------------------------------------------------------------------------
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

    # ---- structure -----------------------------------------------------------------------------------------
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
        return Module(functions + self.outlined)

    def function(self) -> Function:
        self.op, self.op_at = "tt.func", self.i
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
        outer, self.block_names = self.block_names, named
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
        """One region as a block; the opening brace has been read. Several blocks become a function's."""
        self.scope = self.scope.new_child()
        for name, value in args or ():
            self.define(name, [value])
        blocks = self.blocks(terminator)
        self.scope = self.scope.parents
        if len(blocks) != 1:
            if blocks[-1].ops[-1].name.startswith("scf."):
                raise self.fail("a loop or branch with several blocks is not supported")
            function, block = outline(f"region.{len(self.outlined)}", blocks, self.new)
            self.outlined.append(function)
            return block
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
        outer, self.op_at = (self.op, self.op_at), self.i
        self.op = self.string() if generic else self.take("word")
        op = Op(self.op)
        if generic:
            self.generic(op)
        else:
            special = FORMS.get(op.name)
            if special is not None:
                special(self, op)
            else:
                self.pretty(op)
        op.loc = self.trailing_loc()
        at = 0
        for name, count in names:
            self.define(name, op.results[at : at + count])
            at += count
        if at != len(op.results):
            raise self.fail(f"{at} results are named but {len(op.results)} are produced")
        self.op, self.op_at = outer
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
            elif tok in (",", "[", "]", "(", ")") or (tok == ":" and self.kinds[self.i + 1] == "value"):
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
        elif name in _ATOMIC_ORDERED:
            op.attrs["sem"], op.attrs["scope"] = words[:2]
            del words[:2]
        elif name == "tt.dot":
            op.attrs.setdefault("inputPrecision", "ieee")
        elif name == "tt.reshape" and "allow_reorder" in words:
            op.attrs["allow_reorder"] = True
        elif name in ("arith.truncf", "arith.convertf") and words:
            op.attrs["rounding"] = words.pop(0)
        if words:
            op.attrs["keywords"] = tuple(words)
        if name in _SEGMENTS:
            self.segments(op)
        if results is None:
            results = self.infer(op, listed)
        if name in _TWO_ALIKE and len(results) == 1:
            results = results * 2
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
        if name in _WITH_CARRY:
            return listed
        if name in _TESTS:
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
