"""The passes in their order, and their text form: `canonicalize,recognise_gemm{claim=all}`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from headrace.errors import PassSyntaxError
from headrace.ir.graph import Graph
from headrace.ir.spec.operand import split
from headrace.passes.base import Pass
from headrace.passes.bound_scores import BoundScores
from headrace.passes.canonicalize import Canonicalize
from headrace.passes.claim import Policy
from headrace.passes.fuse_epilogue import FuseEpilogue
from headrace.passes.fuse_siblings import FuseSiblings
from headrace.passes.recognise_attention import RecogniseAttention
from headrace.passes.recognise_gemm import RecogniseGemm
from headrace.passes.recognise_rows import RecogniseRows
from headrace.passes.unclaimed import Unclaimed
from headrace.passes.unify import Licences, Unify

PASSES: dict[str, type[Pass]] = {
    kind.name: kind
    for kind in (
        Canonicalize, RecogniseAttention, BoundScores, Unify, RecogniseGemm, FuseSiblings, FuseEpilogue,
        RecogniseRows, Unclaimed,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes to run one after another. Text: their texts, joined by commas."""

    passes: tuple[Pass, ...]

    @classmethod
    def default(cls, claim: Policy | None = None, licences: Licences | None = None) -> Pipeline:
        """The order that the compiler uses, under a policy of what to claim and a calibration's licences.

        Attention comes first, since its two products would otherwise be taken as Gemms and its softmax as
        Rows, and is at once given the stabilizers that bounds or a calibration permit; siblings before
        epilogues, since a gate joins two siblings; rows last, when the readers of a norm are known to be
        kernels.
        """
        policy = claim or Policy()
        return cls(
            (
                Canonicalize(),
                RecogniseAttention(policy),
                BoundScores(),
                Unify(licences or Licences()),
                RecogniseGemm(policy),
                FuseSiblings(),
                FuseEpilogue(),
                RecogniseRows(policy),
                Unclaimed(),
            )
        )

    def run(self, graph: Graph, watch: Callable[[Pass, Graph], None] | None = None) -> None:
        """Rewrite `graph` in place; `watch` is called after each pass."""
        for each in self.passes:
            each.run(graph)
            if watch is not None:
                watch(each, graph)

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline of a text.

        Raises:
            PassSyntaxError: naming the unknown pass, option or value.
        """
        return cls(tuple(parse_pass(part) for part in split(text, ",")))


def parse_pass(text: str) -> Pass:
    """The pass of a text such as `fuse_epilogue{max_ops=8}`.

    Raises:
        PassSyntaxError: naming the unknown pass, option or value.
    """
    match = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})?", text.strip())
    if match is None or match[1] not in PASSES:
        raise PassSyntaxError(f"no pass {text.strip()!r}; known: {', '.join(PASSES)}")
    kind = PASSES[match[1]]
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    values: dict[str, object] = {}
    for part in split(match[2] or "", ","):
        name, eq, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not eq or name not in fields:
            raise PassSyntaxError(
                f"pass {kind.name} has no option {name!r}; known: {', '.join(fields) or 'none'}"
            )
        if fields[name] == "Policy":
            values[name] = Policy.parse(value)
        elif fields[name] == "Licences":
            values[name] = Licences.parse(value)
        elif re.fullmatch(r"\d+", value):
            values[name] = int(value)
        else:
            raise PassSyntaxError(f"option {name} of pass {kind.name} takes a number, not {value!r}")
    return kind(**values)
