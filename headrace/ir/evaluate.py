"""The float64 oracle: run a graph, or one Spec, with torch and no cleverness.

`evaluate` gives every test and every verification its reference. `evaluate_spec` does so for one Spec; with
`exact=False` it computes as eager PyTorch does in the operands' own types, which gives eager's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.errors import EvaluationError
from headrace.ir import expr as scalar
from headrace.ir.dtype import DType
from headrace.ir.spec import Attention, Denominator, Extra, Gemm, Rows, Spec, Weighting

_REDUCE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(-1),
    "prod": lambda x: x.prod(-1),
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
