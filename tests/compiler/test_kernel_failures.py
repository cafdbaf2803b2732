"""No failure of a kernel reaches a model: what failed is replaced, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recording import MEASURED, TEXT, Recording, W, call, product

from headrace.compiler import runtime, scopes
from headrace.compiler.notices import HeadraceWarning
from headrace.compiler.scopes import RUNTIME
from headrace.ir.schedule import LIBRARY


def _raises(inputs: Any) -> torch.Tensor:
    raise ValueError("cannot launch")


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (None, "does not build"),
        (_raises, "cannot launch"),
        (lambda inputs: product(inputs)[:1].clone(), "instead of"),
        (lambda inputs: product(inputs).double(), "instead of"),
        (lambda inputs: (product(inputs), product(inputs)), "zip"),
    ],
)
def test_a_bad_kernel_is_replaced_by_the_library_with_one_warning(
    kernel: Any, said: str, use: Callable[..., Recording]
) -> None:
    recording = use(small=kernel, large=product)
    with pytest.warns(HeadraceWarning, match=said) as warned:
        call(3)
    call(3)
    call(3)
    assert len([w for w in warned if w.category is HeadraceWarning]) == 1
    assert recording.built == ["small", "library"]
    (decision,) = RUNTIME.decisions()
    assert decision.schedule == str(LIBRARY)
    assert "failed" in decision.reason


def test_strict_raises_what_a_kernel_raises(use: Callable[..., Recording]) -> None:
    use(strict=True, small=_raises)
    with pytest.raises(ValueError, match="cannot launch"):
        torch.ops.headrace.run2x1(torch.randn(2, 4), W, TEXT)


def _fails_after(calls: int) -> Callable[[Any], torch.Tensor]:
    left = [calls]

    def kernel(inputs: Any) -> torch.Tensor:
        left[0] -= 1
        return product(inputs) if left[0] >= 0 else _raises(inputs)

    return kernel


@pytest.mark.parametrize("bound", [False, True])
def test_a_kernel_that_fails_later_is_replaced_with_one_warning(
    bound: bool, use: Callable[..., Recording]
) -> None:
    use(small=_fails_after(2))
    run = scopes.bind("CPU", TEXT) if bound else lambda x, w: torch.ops.headrace.run2x1(x, w, TEXT)
    x = torch.randn(2, 4)
    for _ in range(2):
        torch.testing.assert_close(run(x, W), x @ W)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        torch.testing.assert_close(run(x, W), x @ W)
    torch.testing.assert_close(run(x, W), x @ W)
    assert [d.schedule for d in RUNTIME.decisions()] == ["library{}"]


def _fails_at(*rows: int) -> Callable[[Any], torch.Tensor]:
    return lambda inputs: _raises(inputs) if len(inputs[0]) in rows else product(inputs)


def served() -> dict[int, str]:
    return {decision.sizes[0]: decision.dataflow for decision in RUNTIME.decisions()}


@pytest.mark.parametrize("bound", [False, True])
def test_a_kernel_that_fails_at_one_size_keeps_the_other_sizes_of_its_regime(
    bound: bool, use: Callable[..., Recording]
) -> None:
    recording = use(table=MEASURED, small=_fails_at(3), large=product)
    run = scopes.bind("CPU", TEXT) if bound else lambda x, w: torch.ops.headrace.run2x1(x, w, TEXT)
    x = torch.randn(20, 4)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        torch.testing.assert_close(run(x[:3], W), x[:3] @ W)
    for rows in (5, 3, 6, 8, 3):
        torch.testing.assert_close(run(x[:rows], W), x[:rows] @ W)
    assert recording.built == ["small", "library", "large"]
    assert served() == {3: "library", 5: "small", 8: "large"}


def test_the_next_best_dataflow_takes_the_place_of_one_that_failed(use: Callable[..., Recording]) -> None:
    recording = use(
        table=MEASURED, others=("small", "absent", "broken", "large", "never"),
        small=_fails_at(3), absent=None, broken=_raises, large=product, never=product,
    )  # fmt: skip
    with pytest.warns(HeadraceWarning, match="cannot launch") as warned:
        call(3)
    for rows in (3, 5):
        call(rows)
    (told,) = (str(each.message) for each in warned if each.category is HeadraceWarning)
    assert told.startswith("headrace: small{} failed")
    assert "large{} runs instead" in told
    assert recording.built == ["small", "absent", "broken", "large"]
    assert served() == {3: "large", 5: "small"}
    (decision,) = (decision for decision in RUNTIME.decisions() if decision.sizes == (3,))
    assert decision.reason == "next best, since broken{} failed: ValueError: cannot launch"


def test_a_kernel_that_fails_again_and_again_is_given_up(use: Callable[..., Recording]) -> None:
    tried = []

    def small(inputs: Any) -> torch.Tensor:
        tried.append(len(inputs[0]))
        return _raises(inputs)

    recording = use(table=MEASURED, others=("large",), small=small, large=product)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        call(1)
    for rows in (2, 3, 4, 5, 6):
        call(rows)
    assert tried == [1, 2, 3]
    assert recording.built == ["small", "large", "large", "large"]
    assert set(served().values()) == {"large"}


def test_a_kernel_that_cannot_be_built_is_replaced_in_its_whole_regime(use: Callable[..., Recording]) -> None:
    recording = use(table=MEASURED, others=("large",), small=None, large=product)
    with pytest.warns(HeadraceWarning, match="does not build"):
        call(3)
    for rows in (1, 5, 6):
        call(rows)
    assert recording.built == ["small", "large"]
    assert set(served().values()) == {"large"}


def test_sizes_that_failed_are_not_tried_again_when_sizes_are_no_longer_remembered(
    use: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = use(small=_fails_at(3), large=product)
    monkeypatch.setattr(runtime, "REMEMBERED_SIZES", 1)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        call(3)
    for rows in (1, 3, 2, 3):
        call(rows)
    assert recording.built.count("library") == 1


def test_a_kernel_that_is_forgotten_while_it_fails_leaves_a_usable_regime(
    use: Callable[..., Recording],
) -> None:
    calls = []

    def forgotten(inputs: Any) -> torch.Tensor:
        calls.append(len(inputs[0]))
        if len(calls) > 1:
            RUNTIME.forget()  # as another thread may at any time
            raise RuntimeError("cannot launch")
        return product(inputs)

    use(table=MEASURED, small=forgotten)
    run = scopes.bind("CPU", TEXT)
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(x[:3], W), x[:3] @ W)
    with pytest.warns(HeadraceWarning, match="cannot launch"):
        torch.testing.assert_close(run(x[:3], W), x[:3] @ W)
    torch.testing.assert_close(run(x[:5], W), x[:5] @ W)
    assert {decision.schedule for decision in RUNTIME.decisions()} == {"library{}"}
