"""What is claimed of SmolLM2: every attention, every linear layer, every norm, and a reason for the rest."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from headrace.compiler.cli.explain import kinds
from headrace.compiler.cli.subject import Subject
from headrace.compiler.cli.trace import Traced, trace
from headrace.compiler.options import Options
from headrace.demo.generate import Decoder
from headrace.ir.spec import Attention, Gemm, Rows, parse_spec
from tests.models.shapes import prompt, smollm2

LAYERS = 30


@pytest.fixture(scope="module")
def traces() -> dict[str, Traced]:
    with torch.no_grad():
        decoder = Decoder(smollm2(LAYERS))
        prefill = Subject("prefill", decoder.prefill, (prompt(24), torch.arange(24)))
        decode = Subject("decode", decoder.decode, (prompt(1), torch.tensor([24])))
        # The counts do not depend on how the kernels are computed.
        options = Options(claim="all", strict=True, tuning="off", target="library")
        return {each.name: trace(each, options) for each in (prefill, decode)}


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_one_graph_without_breaks(traces, name):
    assert len(traces[name].graphs) == 1
    assert not traces[name].breaks


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_attention_is_recognised_in_every_layer(traces, name):
    assert kinds(traces[name].graphs[0])["Attention"] == LAYERS


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_attention_reads_the_cache_once_for_all_heads_that_share_it(traces, name):
    specs = [parse_spec(claim.spec) for claim in traces[name].graphs[0].claims if claim.kind == "Attention"]
    assert {(spec.heads, spec.k_heads, spec.v_heads) for spec in specs if isinstance(spec, Attention)} == {
        (9, 3, 3)
    }


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_every_linear_layer_is_a_gemm(traces, name):
    """Seven weights a layer (q, k, v, o, gate, up, down) and the head."""
    specs = [parse_spec(claim.spec) for claim in traces[name].graphs[0].claims if claim.kind == "Gemm"]
    assert sum(len(spec.weights) for spec in specs if isinstance(spec, Gemm)) == 7 * LAYERS + 1


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_gemms_carry_their_epilogues(traces, name):
    """Gate and up are one kernel with SwiGLU; o and down add the residual; q, k and v share a launch."""
    specs = [parse_spec(claim.spec) for claim in traces[name].graphs[0].claims if claim.kind == "Gemm"]
    gemms = [spec for spec in specs if isinstance(spec, Gemm)]
    assert sum(len(spec.weights) == 2 and len(spec.outputs) == 1 for spec in gemms) == LAYERS
    assert sum(len(spec.weights) == 1 and bool(spec.extras) for spec in gemms) == 2 * LAYERS
    assert sum(len(spec.weights) == 3 and len(spec.outputs) == 3 for spec in gemms) == LAYERS


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_every_norm_is_a_rows(traces, name):
    """Two norms a layer and the last one."""
    specs = [parse_spec(claim.spec) for claim in traces[name].graphs[0].claims if claim.kind == "Rows"]
    assert sum(isinstance(spec, Rows) for spec in specs) == 2 * LAYERS + 1


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_everything_left_has_a_reason(traces, name):
    left = traces[name].graphs[0].unclaimed
    assert left
    assert all(each.reason.strip() for each in left)
