"""The float64 oracle: run a graph, or one Spec, with torch and no cleverness.

`evaluate` gives every test and every verification its reference. `evaluate_spec` does so for one Spec; with
`exact=False` it computes as eager PyTorch does in the operands' own types, which gives eager's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import sympy
import torch
from torch import Tensor

from headrace.errors import EvaluationError
from headrace.ir import expr as scalar
from headrace.ir.dtype import DType
from headrace.ir.graph import Graph, Node
from headrace.ir.ops import (
    Contract,
    Extern,
    Gather,
    Input,
    Item,
    Kernel,
    Map,
    Reduce,
    Scan,
    Scatter,
    Size,
    View,
)
from headrace.ir.size import FloorDiv, Mod, position
from headrace.ir.spec import Attention, Denominator, Extra, Gemm, Rows, Spec, Weighting

Value = Tensor | tuple[Tensor, ...]
Externs = Callable[[Node, tuple[Value, ...]], Value]

_REDUCE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(-1),
    "prod": lambda x: x.prod(-1),
    # The maximum of nothing is what `maximum` leaves alone.
    "max": lambda x: x.amax(-1) if x.shape[-1] else x.new_full(x.shape[:-1], -torch.inf),
    "min": lambda x: x.amin(-1) if x.shape[-1] else x.new_full(x.shape[:-1], torch.inf),
}


def evaluate_spec(spec: Spec, inputs: Sequence[Tensor], *, exact: bool = True) -> tuple[Tensor, ...]:
    """The results of a Spec on operands in the order that the Spec states.

    With `exact` (the reference), floating operands are taken to float64, roundings are skipped and floating
    results stay float64. Without, products run in the operands' own dtype through torch's operators, casts
    round where the expressions say, everything between is float32, and results have the Spec's dtypes.

    Raises:
        EvaluationError: the operands' number or shapes do not fit the Spec.
    """
    shapes = [tuple(x.shape) for x in inputs]
    try:
        match spec:
            case Gemm():
                values = _gemm(spec, list(inputs), exact)
            case Attention():
                values = _attention(spec, list(inputs), exact)
            case Rows():
                values = _rows(spec, list(inputs), exact)
    except (RuntimeError, IndexError, ValueError) as error:
        raise EvaluationError(f"operands of shapes {shapes} do not fit {spec}: {error}") from error
    wanted = zip(spec.output_shapes(shapes), spec.output_dtypes, values, strict=True)
    return tuple(_finish(value.expand(shape), dtype, exact) for shape, dtype, value in wanted)


def _finish(value: Tensor, dtype: DType, exact: bool) -> Tensor:
    if exact and dtype.is_floating:
        return value.double()
    return value.to(dtype.to_torch())


def _precise(x: Tensor, exact: bool) -> Tensor:
    """The value to compute on: float64, or (as eager's kernels accumulate) at least float32."""
    if not x.dtype.is_floating_point:
        return x
    if exact:
        return x.double()
    return x if x.dtype == torch.float64 else x.float()


def _spread(extra: Extra, x: Tensor, letters: str) -> Tensor:
    """A view of an extra in which dimension i stands for letters[i], of length 1 where it does not vary."""
    if x.dim() != len(extra.dims):
        raise ValueError(f"operand {extra} has {x.dim()} dimension(s)")
    order = sorted(range(x.dim()), key=lambda at: letters.index(extra.dims[at]))
    present = iter(x.permute(order).shape)
    shape = [next(present) if letter in extra.dims else 1 for letter in letters]
    return x.permute(order).reshape(shape)


def _rounds_product(expr: scalar.Expr, name: str) -> bool:
    """Whether an expression rounds the product `name` to a 16-bit type before anything else reads it."""
    return any(
        isinstance(node, scalar.Call)
        and node.fn in ("cast:bf16", "cast:f16")
        and node.args == (scalar.Ref(name),)
        for node in scalar.walk(expr)
    )


def _product(x: Tensor, y: Tensor, exact: bool, rounds: bool) -> Tensor:
    """x @ y: in float64, in the operands' own dtype where eager rounds there, else in float32."""
    if exact:
        return x.double() @ y.double()
    if rounds and x.dtype == y.dtype:
        return (x @ y).float() if x.dtype != torch.float64 else x @ y
    return _precise(x, exact) @ _precise(y, exact)


def _gemm(spec: Gemm, inputs: list[Tensor], exact: bool) -> list[Tensor]:
    if len(inputs) != 1 + len(spec.weights) + len(spec.extras):
        raise ValueError(f"{1 + len(spec.weights) + len(spec.extras)} operands wanted, {len(inputs)} given")
    x, weights, extras = inputs[0], inputs[1 : 1 + len(spec.weights)], inputs[1 + len(spec.weights) :]
    letters = "bmn" if spec.batched else "mn"
    env: dict[str, Tensor] = {}
    for weight, w in zip(spec.weights, weights, strict=True):
        name = f"acc_{weight.name}"
        rounds = any(
            _rounds_product(output.expr, name) or (output.dtype == spec.x and output.expr == scalar.Ref(name))
            for output in spec.outputs
        )
        env[name] = _product(x, w.mT if weight.layout == "nk" else w, exact, rounds)
    for extra, value in zip(spec.extras, extras, strict=True):
        env[extra.name] = _precise(_spread(extra, value, letters), exact)
    return [scalar.evaluate(output.expr, env, exact=exact) for output in spec.outputs]


def _attention(spec: Attention, inputs: list[Tensor], exact: bool) -> list[Tensor]:
    if len(inputs) != 3 + len(spec.extras):
        raise ValueError(f"{3 + len(spec.extras)} operands wanted, {len(inputs)} given")
    q, k, v = inputs[:3]
    batch, heads, rows, _ = q.shape
    keys = k.shape[2]
    k = k.repeat_interleave(heads // k.shape[1], dim=1)
    v = v.repeat_interleave(heads // v.shape[1], dim=1)
    env = {
        letter: torch.arange(size, device=q.device).view([-1 if letter == other else 1 for other in "bhij"])
        for letter, size in zip("bhij", (batch, heads, rows, keys), strict=True)
    }
    for extra, value in zip(spec.extras, inputs[3:], strict=True):
        env[extra.name] = _precise(_spread(extra, value, "bhij"), exact)
    visible = scalar.evaluate(spec.mask, env, exact=exact).to(q.device).expand(batch, heads, rows, keys)
    dot = _product(q, k.mT, exact, _rounds_product(spec.score, "s"))
    score = _precise(scalar.evaluate(spec.score, env | {"s": dot}, exact=exact), exact)
    score = score.expand(batch, heads, rows, keys)
    weights = _weights(spec, score, visible)
    if exact:
        return [weights @ v.double()]
    return [weights.to(v.dtype) @ v]


def _weights(spec: Attention, score: Tensor, visible: Tensor) -> Tensor:
    """p_ij / den_i."""
    match spec.normalizer.weighting:
        case Weighting.EXP if spec.normalizer.denominator is Denominator.SUM:
            masked = score.masked_fill(~visible, -torch.inf)
            weights = masked.softmax(-1)
            if spec.safe:
                weights = weights.masked_fill((masked == -torch.inf).all(-1, keepdim=True), 0.0)
            return weights
        case Weighting.EXP:
            return score.exp().masked_fill(~visible, 0.0)
        case Weighting.SIGMOID:
            weights = score.sigmoid().masked_fill(~visible, 0.0)
        case Weighting.IDENTITY:
            weights = score.masked_fill(~visible, 0.0)
    if spec.normalizer.denominator is Denominator.NONE:
        return weights
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.masked_fill(~visible.any(-1, keepdim=True), 0.0) if spec.safe else weights


def _rows(spec: Rows, inputs: list[Tensor], exact: bool) -> list[Tensor]:
    if len(inputs) != len(spec.inputs):
        raise ValueError(f"{len(spec.inputs)} operands wanted, {len(inputs)} given")
    lead, count = inputs[0].shape[:-1], inputs[0].shape[-1]
    shapes = {"rn": (*lead, count), "n": (count,), "r": (*lead, 1), "": ()}
    env: dict[str, Tensor] = {"count": torch.tensor(float(count), dtype=torch.float64)}
    for extra, value in zip(spec.inputs, inputs, strict=True):
        env[extra.name] = _precise(value.reshape(shapes[extra.dims]), exact)
    for reduction in spec.reductions:
        row = _precise(scalar.evaluate(reduction.expr, env, exact=exact), exact).expand(*lead, count)
        env[reduction.name] = _REDUCE[reduction.kind](row).unsqueeze(-1)
    results = []
    for at, output in enumerate(spec.outputs):
        value = scalar.evaluate(output.expr, env, exact=exact)
        results.append(value.expand(*lead, 1).squeeze(-1) if at in spec.reduced else value)
    return results


# Graphs


def evaluate(
    graph: Graph,
    inputs: Mapping[str, Tensor | int],
    externs: Externs | None = None,
    *,
    exact: bool = True,
    sizes: Mapping[str, int] | None = None,
) -> tuple[Tensor, ...]:
    """The outputs of a graph, in float64 with `exact` (see `evaluate_spec`).

    `inputs` are by node name. Sizes follow from the inputs' shapes; `sizes` gives those that do not, by
    symbol name. `externs` computes an `extern` node from its operands' values.

    Raises:
        EvaluationError: an input or size is missing, or there is an `extern` and no `externs`.
    """
    found = evaluate_nodes(graph, inputs, externs, exact=exact, sizes=sizes)
    return tuple(cast(Tensor, found[name]) for name in graph.outputs)


def evaluate_nodes(
    graph: Graph,
    inputs: Mapping[str, Tensor | int],
    externs: Externs | None = None,
    *,
    exact: bool = True,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Value]:
    """As `evaluate`, the value of every node by name."""
    table = dict(sizes or {}) | _sizes(graph, inputs)
    found: dict[str, Value] = {}
    for node in graph:
        operands = tuple(found[name] for name in node.operands)
        if isinstance(node.op, (Input, Size)) and node.name in inputs:
            value: Value = torch.as_tensor(inputs[node.name])
        elif isinstance(node.op, Input):
            raise EvaluationError(f"no value is given for the input {node.name}")
        elif isinstance(node.op, Extern):
            if externs is None:
                raise EvaluationError(
                    f"{node.name} is an extern ({node.op.target}); pass `externs` to run it"
                )
            value = externs(node, operands)
        elif isinstance(node.op, Kernel):
            results = evaluate_spec(node.op.spec, cast("tuple[Tensor, ...]", operands), exact=exact)
            value = results if node.type is None else results[0]
        elif isinstance(node.op, Item):
            value = operands[0][node.op.at]
        else:
            value = _node(node, cast("tuple[Tensor, ...]", operands), table, exact)
        if isinstance(value, Tensor) and node.type is not None:
            value = _finish(value, node.type.dtype, exact)
        found[node.name] = value
    return found


def _sizes(graph: Graph, inputs: Mapping[str, Tensor | int]) -> dict[str, int]:
    """Symbol values, read off the inputs."""
    found: dict[str, int] = {}
    for node in graph:
        value = inputs.get(node.name)
        if isinstance(node.op, Size) and value is not None and node.op.expr.is_Symbol:
            found[str(node.op.expr)] = int(value)
        if isinstance(node.op, Input) and isinstance(value, Tensor) and node.type is not None:
            static = [
                int(expr) if expr.is_Integer else extent
                for expr, extent in zip(node.type.shape, value.shape, strict=False)
            ]
            if node.type.rank != value.dim() or static != list(value.shape):
                raise EvaluationError(
                    f"input {node.name} is {node.type}, given is a tensor of shape {list(value.shape)}"
                )
            for expr, extent in zip(node.type.shape, value.shape, strict=True):
                if expr.is_Symbol and found.setdefault(str(expr), extent) != extent:
                    raise EvaluationError(
                        f"the inputs disagree on the size {expr}: {found[str(expr)]} and {extent}"
                    )
    return found


def _number(expr: sympy.Expr, env: Mapping[str, int | Tensor]) -> int | Tensor:
    """An integer expression over sizes (ints) and indices (integer tensors)."""
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        if str(expr) not in env:
            raise EvaluationError(f"the size {expr} follows from no input; pass it in `sizes`")
        return env[str(expr)]
    args = [_number(arg, env) for arg in expr.args]
    if isinstance(expr, FloorDiv):
        return args[0] // args[1]
    if isinstance(expr, Mod):
        return args[0] % args[1]
    if expr.is_Add or expr.is_Mul:
        total = args[0]
        for arg in args[1:]:
            total = total + arg if expr.is_Add else total * arg
        return total
    return int(expr.func(*(sympy.Integer(int(arg)) for arg in args)))


def _grids(shape: Sequence[int]) -> dict[str, Tensor]:
    """`d0`, `d1`, ...: the index tensors of a shape, ready to broadcast."""
    rank = len(shape)
    return {
        f"d{at}": torch.arange(extent).view([-1 if at == other else 1 for other in range(rank)])
        for at, extent in enumerate(shape)
    }


def _node(node: Node, operands: tuple[Tensor, ...], sizes: Mapping[str, int], exact: bool) -> Tensor:
    assert node.type is not None
    op = node.op
    match op:
        case Size():
            return torch.as_tensor(_number(op.expr, sizes))
        case View():
            shape = [int(_number(extent, sizes)) for extent in node.type.shape]
            return _view(operands[0], op.index, shape, sizes)
        case Map():
            shape = [int(_number(extent, sizes)) for extent in node.type.shape]
            env = {f"x{at}": _precise(x, exact) for at, x in enumerate(operands)}
            return scalar.evaluate(op.expr, env | _grids(shape), exact=exact).expand(shape)
        case Reduce():
            return _reduce(op.kind, operands[0], op.axes, exact)
        case Contract():
            x, y = operands
            if exact or DType.from_torch(x.dtype) != node.type.dtype or x.dtype != y.dtype:
                x, y = _precise(x, exact), _precise(y, exact)
            return torch.einsum(op.equation, x, y)
        case Scan():
            return _scan(op, _precise(operands[0], exact))
        case Gather():
            before: list[slice | Tensor] = [slice(None)] * op.axis
            return operands[0][(*before, operands[1].long())]
        case Scatter():
            out, index, values = operands[0].clone(), operands[1].long(), operands[2]
            target = out.movedim(op.axis, 0)
            places = tuple(range(op.axis, op.axis + index.dim()))
            target.index_put_(
                (index,), values.movedim(places, tuple(range(index.dim()))), accumulate=op.accumulate
            )
            return out
    raise EvaluationError(f"{node.name}: {op.mnemonic} is not evaluated here")


def _view(x: Tensor, index: Sequence[sympy.Expr], shape: Sequence[int], sizes: Mapping[str, int]) -> Tensor:
    if 0 in shape:
        return x.new_empty(shape)
    places = [position(expr) for expr in index]
    read = [place for place in places if place is not None]
    whole = all(place is None or x.shape[at] == shape[place] for at, place in enumerate(places))
    if whole and len(set(read)) == len(read) and all(expr.is_Symbol or expr.is_Integer for expr in index):
        # A permute, select and expand: no need to gather.
        for at in reversed(range(x.dim())):
            if index[at].is_Integer:
                x = x.select(at, int(index[at]))
        x = x.permute(sorted(range(len(read)), key=read.__getitem__))
        for place in range(len(shape)):
            if place not in read:
                x = x.unsqueeze(place)
        return x.expand(shape)
    env: dict[str, int | Tensor] = {**sizes, **_grids(shape)}
    where = tuple(torch.as_tensor(_number(expr, env)) for expr in index)
    return (x[where] if where else x).expand(shape)


def _reduce(kind: str, x: Tensor, axes: Sequence[int], exact: bool) -> Tensor:
    kept = [at for at in range(x.dim()) if at not in axes]
    rows = x.permute([*kept, *axes]).flatten(len(kept)) if axes else x.unsqueeze(-1)
    if kind in _REDUCE:
        return _REDUCE[kind](_precise(rows, exact))
    if kind in ("any", "all"):
        return rows.any(-1) if kind == "any" else rows.all(-1)
    return rows.argmax(-1) if kind == "argmax" else rows.argmin(-1)


def _scan(op: Scan, x: Tensor) -> Tensor:
    if op.reverse:
        x = x.flip(op.axis)
    match op.kind:
        case "sum":
            y = x.cumsum(op.axis)
        case "prod":
            y = x.cumprod(op.axis)
        case _:
            y = x.cummax(op.axis).values
    return y.flip(op.axis) if op.reverse else y
