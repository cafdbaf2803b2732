"""What enters exp at an attention site: an exact attention that keeps statistics of its scores as it goes.

A row x (one query of one head, hidden keys left out) is right under a unified maximum phi where its finished
denominator l = sum exp(x - phi) stays within [e^-60, e^60] (FlashDecoding++, section 3; the guard of the
kernels), so all that has to be known of it is its log-sum-exp: the row falls back where |lse - phi| > 60.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from headrace.compiler.restride import output_strides
from headrace.errors import CalibrationError
from headrace.ir import expr as scalar
from headrace.ir.spec import Attention, Extra

# The guard of the kernels, in nats.
GUARD = 60
# Elements of one block of scores; a few copies of it are alive at a time.
BLOCK = 1 << 22
# Masks that add the lowest number of a type instead of -inf: such a key counts as hidden.
HIDDEN = -6e4
# Log-sum-exp is counted in steps of one nat, up to this far; beyond, no phi is any good.
FARTHEST = 1 << 21
# Scores are counted by the upper half of their float32 form (in steps of 1/128) between these magnitudes.
_SMALLEST, _LARGEST = 2.0**-8, 2.0**15


def _code(magnitude: float) -> int:
    return int(torch.tensor(magnitude).view(torch.int32)) >> 16


_BASE = _code(_SMALLEST)
_REACH = _code(_LARGEST) - _BASE
BINS = 2 * _REACH + 1


@dataclass
class SiteStatistics:
    """What was seen at one site, by query head.

    Attributes:
        name, form: as `passes.unify.Site`.
        sums: how many rows there were by (head, power of two of visible keys, floor of the log-sum-exp).
        counts: `[heads, BINS]`, scores by size.
    """

    name: str
    form: str
    heads: int
    sums: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    # Made when first used: a graph is rewritten while torch makes fake tensors only.

    @cached_property
    def counts(self) -> Tensor:
        return torch.zeros(self.heads, BINS, dtype=torch.int64)

    @cached_property
    def lows(self) -> Tensor:
        """`[3, heads]`: the least score, row maximum and log-sum-exp."""
        return torch.full((3, self.heads), torch.inf, dtype=torch.float64)

    @cached_property
    def highs(self) -> Tensor:
        """`[3, heads]`: the greatest score, row maximum and log-sum-exp."""
        return torch.full((3, self.heads), -torch.inf, dtype=torch.float64)

    def add(self, scores: Tensor) -> Tensor:
        """Count a block `[heads, rows, keys]`, -inf where hidden; returns which rows see a key.

        Raises:
            CalibrationError: a score is NaN or infinite.
        """
        for what, wrong in (("NaN", scores.isnan()), ("infinite", scores == torch.inf)):
            if wrong.any():
                head = int(wrong.flatten(1).any(-1).nonzero()[0])
                raise CalibrationError(
                    f"{self.name or 'an attention'}, head {head}: a score is {what}; ranges cannot be told "
                    "from such data (padding that no key sees gives NaN: leave it out)"
                )
        if not scores.numel():
            return torch.zeros(scores.shape[:-1], dtype=torch.bool)
        shown = scores > HIDDEN
        seen = (scores > -torch.inf).any(-1)
        keys = shown.sum(-1)
        row_sum = scores.double().logsumexp(-1)
        peak = scores.amax(-1).double()
        self._ranges(scores, shown, peak, row_sum, seen)
        heads = torch.arange(self.heads)[:, None].expand(seen.shape)
        length = keys.clamp_min(1).double().log2().ceil().long()
        place = row_sum.floor().clamp(-FARTHEST, FARTHEST).nan_to_num(0.0).long()
        found = torch.stack((heads, length, place), -1)[seen]
        self.sums.update(map(tuple, found.tolist()))
        self._count(scores, shown)
        return seen

    def _ranges(self, scores: Tensor, shown: Tensor, peak: Tensor, row_sum: Tensor, seen: Tensor) -> None:
        flat = scores.flatten(1).double(), shown.flatten(1)
        values = [flat, (peak, seen), (row_sum, seen)]
        least = [value.masked_fill(~counts, torch.inf).amin(-1) for value, counts in values]
        most = [value.masked_fill(~counts, -torch.inf).amax(-1) for value, counts in values]
        self.lows.copy_(self.lows.minimum(torch.stack(least)))
        self.highs.copy_(self.highs.maximum(torch.stack(most)))

    def _count(self, scores: Tensor, shown: Tensor) -> None:
        code = scores.abs().clamp(_SMALLEST, _LARGEST).float().contiguous().view(torch.int32)
        place = ((code >> 16) - _BASE) * scores.sign().int() + _REACH
        place = place + BINS * torch.arange(self.heads, dtype=torch.int32)[:, None, None]
        found = torch.bincount(place[shown].long(), minlength=self.heads * BINS)
        self.counts += found.view(self.heads, BINS)

    def quantile(self, head: int, share: float, *, upper: bool) -> float:
        """A score that at most `share` of a head's lie below (above, for `upper`), rounded outwards."""
        counts = self.counts[head]
        ordered = counts.flip(0) if upper else counts
        allowed = share * int(counts.sum())
        at = int((ordered.cumsum(0) > allowed).nonzero()[0])
        signed = (BINS - 1 - at if upper else at) - _REACH
        outward = abs(signed) + (1 if (signed >= 0) == upper else 0)
        edge = float(torch.tensor((outward + _BASE) << 16, dtype=torch.int32).view(torch.float32))
        value = (1 if upper and not signed else -1 if not signed else (1 if signed > 0 else -1)) * edge
        return min(max(value, float(self.lows[0, head])), float(self.highs[0, head]))


def observed(spec: Attention, statistics: SiteStatistics) -> Callable[..., Tensor]:
    """The function of a Spec's operands that computes it exactly (in float32) and counts its scores."""

    def observed_attention(*inputs: object) -> Tensor:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        return _attend(spec, tensors, statistics)

    return observed_attention


def _attend(spec: Attention, inputs: Sequence[Tensor], statistics: SiteStatistics) -> Tensor:
    q, k, v = inputs[:3]
    batch, heads, rows, _ = q.shape
    keys = k.shape[2]
    shape = spec.output_shapes([tuple(value.shape) for value in inputs])[0]
    (strides,) = output_strides(spec, [shape])
    result = torch.empty_strided(shape, strides, dtype=spec.out.to_torch(), device=q.device)
    extras = {extra.name: _spread(extra, value) for extra, value in zip(spec.extras, inputs[3:], strict=True)}
    step = max(1, BLOCK // max(1, heads * keys))
    for b in range(batch):
        key, value = k[b].float(), v[b].float()
        for first in range(0, rows, step):
            last = min(first + step, rows)
            dot = _grouped(q[b, :, first:last].float(), key.mT)
            env = {name: _part(extra, b, first, last) for name, extra in extras.items()}
            env |= _indices(b, heads, first, last, keys, q.device) | {"s": dot[None]}
            scores = scalar.evaluate(spec.score, env, exact=False).float().expand(1, *dot.shape)[0]
            visible = scalar.evaluate(spec.mask, env, exact=False).expand(1, *dot.shape)[0]
            scores = scores.masked_fill(~visible, -torch.inf)
            seen = statistics.add(scores.cpu()).to(q.device)
            weights = scores.softmax(-1)
            if spec.safe:
                weights = weights.masked_fill(~seen[..., None], 0.0)
            result[b, :, first:last] = _grouped(weights, value).to(result.dtype)
    return result


def _grouped(rows: Tensor, shared: Tensor) -> Tensor:
    """rows `[H, I, x]` times matrices `[H_shared, x, y]` that consecutive heads share."""
    heads, count, width = rows.shape
    return (rows.reshape(shared.shape[0], -1, width) @ shared).view(heads, count, shared.shape[-1])


def _indices(b: int, heads: int, first: int, last: int, keys: int, device: torch.device) -> dict[str, Tensor]:
    return {
        "b": torch.tensor(b, device=device).view(1, 1, 1, 1),
        "h": torch.arange(heads, device=device).view(1, -1, 1, 1),
        "i": torch.arange(first, last, device=device).view(1, 1, -1, 1),
        "j": torch.arange(keys, device=device).view(1, 1, 1, -1),
    }


def _spread(extra: Extra, value: Tensor) -> Tensor:
    """An extra over b, h, i, j, with length 1 where it does not vary."""
    order = sorted(range(value.dim()), key=lambda at: "bhij".index(extra.dims[at]))
    sizes = iter(value.permute(order).shape)
    shape = [next(sizes) if letter in extra.dims else 1 for letter in "bhij"]
    return value.permute(order).reshape(shape)


def _part(extra: Tensor, b: int, first: int, last: int) -> Tensor:
    """The rows of a block: one batch, and queries from `first` to `last`."""
    part = extra[b : b + 1] if extra.shape[0] > 1 else extra
    part = part[:, :, first:last] if part.shape[2] > 1 else part
    return part.float() if part.dtype in (torch.bfloat16, torch.float16) else part
