"""A mask of one length per sequence becomes bounds of the keys, and stream_decode is offered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.codegen.attention.bounds import bounds
from headrace.codegen.attention.choices import ragged
from headrace.codegen.dataflows import dataflows, get
from headrace.codegen.kernel import instantiate
from headrace.ir.device import Backend, Device
from headrace.ir.evaluate import evaluate_spec
from headrace.ir.spec import Attention
from tests.passes.harness import data, only, recognise

CPU = Device("test machine", Backend.CPU, "x86_64", units=2, on_chip_bytes=1 << 20)
J = 40
LENGTHS = torch.tensor([5, 40, 1])
INF = float("inf")


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.mT * 0.25


def positions() -> Tensor:
    return torch.arange(J)


SPELLINGS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "boolean mask of SDPA": lambda q, k, v, n: F.scaled_dot_product_attention(
        q, k, v, attn_mask=(positions() < n[:, None])[:, None, None, :]
    ),
    "where": lambda q, k, v, n: (
        torch.softmax(torch.where(positions() < n[:, None, None, None], scores(q, k), -INF), -1) @ v
    ),
    "masked_fill of what is beyond": lambda q, k, v, n: (
        torch.softmax(scores(q, k).masked_fill(positions() >= n.view(-1, 1, 1, 1), -INF), -1) @ v
    ),
    "added": lambda q, k, v, n: (
        torch.softmax(
            scores(q, k) + torch.where((positions() < n[:, None])[:, None, None], 0.0, -INF), -1
        ) @ v
    ),
    "positions before this call": lambda q, k, v, n: (
        torch.softmax(
            scores(q, k).masked_fill(
                ~(positions() <= n.view(-1, 1, 1, 1) - q.shape[2] + torch.arange(q.shape[2])[:, None]), -INF
            ),
            -1,
        ) @ v
    ),
}  # fmt: skip


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_lengths_become_bounds_and_stream_decode_is_offered(spelling: str, queries: int) -> None:
    q, k, v = data(3, 4, queries, 16), data(3, 4, J, 16, seed=1), data(3, 4, J, 16, seed=2)
    spec = only(recognise(SPELLINGS[spelling], q, k, v, LENGTHS), "Attention")
    assert isinstance(spec, Attention)
    found = bounds(spec.mask, spec.extras)
    assert found.upper
    assert not found.rest
    assert ragged(spec)
    sizes = (3, queries, J)
    assert "stream_decode" in {flow.name for flow in dataflows(spec, sizes, CPU)}
    kernel = instantiate(spec, get("stream_decode").default(spec, sizes, CPU), CPU)
    inputs = [q, k, v, LENGTHS]
    torch.testing.assert_close(
        kernel(inputs).double(), evaluate_spec(spec, inputs)[0].double(), rtol=1e-5, atol=1e-5, equal_nan=True
    )
