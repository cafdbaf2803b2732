"""The order in which decoding asks for its next tiles."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from headrace.codegen.cpu import target
from headrace.codegen.cpu.vector.dot.spread import Interleaved, Spread
from headrace.codegen.dataflows import get
from headrace.codegen.kernel import instantiate
from headrace.compiler.devices import host_device
from headrace.ir.spec import parse_spec


class _Numbers:
    """A context whose names are numbers."""

    @property
    def e(self) -> _Numbers:
        return self

    def pure(self, text: str, names: tuple[str, ...]) -> str:
        operation, _, a, b = text.replace(",", "").split()
        operations: dict[str, Callable[[int, int], int]] = {
            "udiv": lambda x, y: x // y,
            "urem": lambda x, y: x % y,
        }
        return str(operations[operation](int(a), int(b)))

    def gep(self, element: str, pointer: str, offset: str) -> str:
        return str(int(pointer) + int(offset))

    def mul(self, a: str, b: str) -> str:
        return str(int(a) * int(b))

    def add(self, a: str, b: str) -> str:
        return str(int(a) + int(b))


@pytest.mark.parametrize(
    ("rows", "lines", "stride"), [(64, 4, 256), (128, 4, 1024), (16, 1, 64), (32, 8, 512)]
)
@pytest.mark.parametrize("turns", [1, 4, 16, 128])
def test_every_line_of_a_tile_is_asked_for_once(rows: int, lines: int, stride: int, turns: int) -> None:
    tile = Spread("0", str(stride), rows, lines)
    asks = Interleaved(cast(Any, _Numbers()), tile, light=False)
    asked = {int(line) for turn in range(turns) for line in asks(str(turn), turns)}
    count = sum(len(asks(str(turn), turns)) for turn in range(turns))
    assert asked == {row * stride + 64 * line for row in range(rows) for line in range(lines)}
    assert count == max(rows * lines, turns)


@pytest.mark.parametrize("turns", [8, 16])
def test_a_light_loop_asks_for_every_other_line(turns: int) -> None:
    asks = Interleaved(cast(Any, _Numbers()), Spread("0", "256", 64, 4), light=True)
    lines = [int(line) for turn in range(turns) for line in asks(str(turn), turns)]
    assert sorted(lines) == list(range(0, 64 * 256, 128))


def test_one_turn_asks_in_eight_places() -> None:
    asks = Interleaved(cast(Any, _Numbers()), Spread("0", "256", 128, 4), light=False)
    assert {int(line) // 4096 for line in asks("3", 32)} == set(range(8))


@pytest.mark.parametrize("key_heads", [1, 4])
def test_requests_of_decoding_stand_between_its_products(key_heads: int) -> None:
    if not target.host().has("avx512bf16"):
        pytest.skip("needs the bf16 products of AVX-512")
    spec = parse_spec(
        f"Attention{{q=bf16; k=bf16; v=bf16; out=bf16; heads=[4, {key_heads}, {key_heads}]; dims=[128, 128]; "
        "score=mul(s, 0.0883); mask=true; normalizer=exp/sum/online; safe=false; extras=[]}"
    )
    sizes, device = (1, 1, 1024), host_device()
    kernel = instantiate(spec, get("decode").default(spec, sizes, device), device)
    q, (k, v) = torch.randn(1, 4, 1, 128).bfloat16(), torch.randn(2, 1, key_heads, 1024, 128).bfloat16()
    kernel([q, k, v])
    (variant,) = kernel._variants.values()
    text = re.findall(r"prefetcht1|vdpbf16ps|\.LBB\w+:", variant.functions[0].asm)
    longest = max(len(run) for run in re.findall(r"p+", "".join(word[0] for word in text)))
    assert "prefetcht1" in text
    assert longest <= 2
