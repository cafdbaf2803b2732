"""The runtime: sizes pick kernels without recompiling."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from recording import F32, TEXT, Recording, W, call, product

from headrace.compiler import operators, restride, runtime, scopes
from headrace.compiler.scopes import RUNTIME
from headrace.errors import EmitError
from headrace.ir.spec import Attention


def test_each_bucket_is_resolved_once(use: Callable[..., Recording]) -> None:
    recording = use(small=product, large=product)
    for rows in (1, 1, 5, 8, 6, 1, 9, 16):
        call(rows)
    assert recording.asked == [(1,), (5,), (9,)]
    assert recording.built == ["small", "large", "large"]
    assert {d.bucket: d.schedule for d in RUNTIME.decisions()} == {
        (1,): "small{}", (8,): "large{}", (16,): "large{}"
    }  # fmt: skip


def test_forgetting_resolves_anew_also_for_functions_bound_before(use: Callable[..., Recording]) -> None:
    recording = use(small=product, large=product)
    bound = scopes.bind("CPU", TEXT)
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(bound(x, W), x @ W)
    RUNTIME.forget()
    torch.testing.assert_close(bound(x, W), x @ W)
    assert recording.asked == [(2,), (2,)]


def test_results_are_laid_out_as_the_fake_values_promise(use: Callable[..., Recording]) -> None:
    spec = Attention(F32, F32, F32, F32, 3, 3, 3, 8, 8)
    attend = torch.nn.functional.scaled_dot_product_attention

    def plain(inputs: Any) -> torch.Tensor:
        return attend(*inputs, scale=1.0).contiguous()

    recording = use(small=plain, large=plain)
    for queries in (1, 4, 7):
        q, k, v = (torch.randn(2, 3, queries, 8) for _ in range(3))
        for _ in range(2):
            got = torch.ops.headrace.run3x1(q, k, v, str(spec))
            with torch._subclasses.FakeTensorMode() as mode:
                fake = torch.ops.headrace.run3x1(*map(mode.from_tensor, (q, k, v)), str(spec))
            assert restride.same_layout(got.shape, got.stride(), fake.stride())
            torch.testing.assert_close(got, attend(q, k, v, scale=1.0))
    assert recording.built


def test_many_threads_get_right_results(use: Callable[..., Recording]) -> None:
    recording = use(small=product, large=product)

    def work(seed: int) -> None:
        for at in range(60):
            call(1 + (seed * 7 + at) % 33)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(recording.asked) == len(set(RUNTIME.decisions()))


def test_a_stream_of_new_sizes_does_not_grow_memory(
    use: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(small=product, large=product)
    monkeypatch.setattr(runtime, "REMEMBERED_SIZES", 16)
    for rows in range(1, 100):
        call(rows)
    assert len(RUNTIME.default.tables["CPU"][TEXT]._by_sizes) <= 16


def test_operators_pass_torchs_own_checks(use: Callable[..., Recording]) -> None:
    use(small=product, large=product)
    torch.library.opcheck(
        torch.ops.headrace.run2x1.default,
        (torch.randn(3, 4), W, TEXT),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_no_operator_is_wider_than_the_table() -> None:
    with pytest.raises(EmitError, match="at most"):
        operators.operator(operators.MAX_INPUTS + 1, 1)
