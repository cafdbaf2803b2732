"""Licences from a calibration: who gets them, who does not, and why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.errors import PassSyntaxError
from headrace.ir.graph import Graph
from headrace.ir.ops import Kernel
from headrace.ir.spec import Attention
from headrace.passes.bound_scores import BoundScores
from headrace.passes.canonicalize import Canonicalize
from headrace.passes.claim import Policy
from headrace.passes.pipeline import Pipeline, parse_pass
from headrace.passes.recognise_attention import RecogniseAttention
from headrace.passes.unify import Licence, Licences, Unify, fingerprint, sites
from tests.capture.graphs import traced
from tests.passes.harness import capture, data

POLICY = Policy.of("attention")


def layers(count: int, width: int = 16, *, capped: bool = False) -> Graph:
    """`count` attentions in a row, recognised; their modules are `layers.0`, `layers.1`, ..."""

    def model(x: Tensor) -> Tensor:
        for _ in range(count):
            s = x @ x.mT * 0.25
            s = 30 * torch.tanh(s / 30) if capped else s
            x = torch.softmax(s, -1) @ x
        return x

    graph = capture(traced(model, (data(1, 2, 6, width),))).graph
    Pipeline((Canonicalize(), RecogniseAttention(POLICY))).run(graph)
    for at, fx in enumerate(graph.replaced):
        graph.modules[fx] = f"layers.{at}"
    return graph


def permitted(graph: Graph) -> list[str]:
    """The normalizers of a graph's attentions."""
    return [
        str(node.op.spec.normalizer)
        for node in graph
        if isinstance(node.op, Kernel) and isinstance(node.op.spec, Attention)
    ]


def calibrated(graph: Graph, *each: tuple[int, float], name: str = "mine") -> Licences:
    """Licences of a graph's sites: (phi, rate) of each, limit 1e-3."""
    found = sites(graph)
    listed = zip(found, each, strict=True)
    return Licences(
        name, ((fingerprint(found), tuple(Licence(s.name, phi, rate, 1e-3) for s, (phi, rate) in listed)),)
    )


def test_sites_are_named_by_their_modules_in_order() -> None:
    assert [site.name for site in sites(layers(3))] == ["layers.0", "layers.1", "layers.2"]


def test_a_module_that_is_called_again_has_a_number() -> None:
    graph = layers(3)
    graph.modules = dict.fromkeys(graph.modules, "shared")
    assert [site.name for site in sites(graph)] == ["shared", "shared#1", "shared#2"]


def test_without_modules_sites_are_counted() -> None:
    graph = layers(3)
    graph.modules = {}
    assert [site.name for site in sites(graph)] == ["#0", "#1", "#2"]


def test_every_site_gets_its_own_phi_and_a_bad_one_keeps_the_maximum() -> None:
    graph = layers(3)
    Unify(calibrated(graph, (0, 0.0), (-32, 1e-3), (0, 0.02))).run(graph)
    assert permitted(graph) == ["exp/sum/unified(0)", "exp/sum/unified(-32)", "exp/sum/online"]
    assert len(graph.remarks) == 2
    (refusal,) = [refusal for refusal in graph.refusals if refusal.by == "unify"]
    assert "2.00% of the rows of a head would fall back" in refusal.reason
    assert "limit is 0.10%" in refusal.reason


OTHERS = {
    "more sites": (lambda: layers(4), "it has 3 attention sites, this graph has 4"),
    "fewer sites": (lambda: layers(2), "it has 3 attention sites, this graph has 2"),
    "another width": (lambda: layers(3, 32), "heads, dimensions or score expressions differ"),
    "another score": (lambda: layers(3, capped=True), "heads, dimensions or score expressions differ"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_models_calibration_is_refused_with_the_difference(name: str) -> None:
    make, why = OTHERS[name]
    licences = calibrated(layers(3), (0, 0.0), (0, 0.0), (0, 0.0))
    graph = make()
    Unify(licences).run(graph)
    assert set(permitted(graph)) == {"exp/sum/online"}
    reasons = [refusal.reason for refusal in graph.refusals if refusal.by == "unify"]
    assert len(reasons) == len(permitted(graph))
    assert all(why in reason for reason in reasons)


def test_other_module_paths_are_refused_and_named() -> None:
    licences = calibrated(layers(3), (0, 0.0), (0, 0.0), (0, 0.0))
    graph = layers(3)
    last = list(graph.modules)[1]
    graph.modules[last] = "decoder.1"
    Unify(licences).run(graph)
    assert set(permitted(graph)) == {"exp/sum/online"}
    assert "site 1 is decoder.1 here and layers.1 there" in graph.refusals[-1].reason


def test_the_same_layers_in_another_order_are_another_model() -> None:
    graph = layers(2)
    licences = calibrated(graph, (0, 0.0), (16, 0.0))
    swapped = layers(2)
    swapped.modules = dict(zip(swapped.modules, reversed(swapped.modules.values()), strict=True))
    Unify(licences).run(swapped)
    assert permitted(swapped) == ["exp/sum/online"] * 2


def test_what_is_proven_needs_no_calibration_and_keeps_its_proof() -> None:
    graph = layers(2, capped=True)
    licences = calibrated(graph, (16, 0.0), (16, 0.5))
    BoundScores().run(graph)
    Unify(licences).run(graph)
    assert permitted(graph) == ["exp/sum/unified(0, proven)"] * 2
    assert [refusal for refusal in graph.refusals if refusal.by == "unify"] == []


def test_without_a_calibration_nothing_changes() -> None:
    graph = layers(2)
    Unify().run(graph)
    assert permitted(graph) == ["exp/sum/online"] * 2
    assert graph.refusals == []


def test_the_pass_prints_and_parses_back_with_its_licences() -> None:
    licences = calibrated(layers(3), (0, 0.0), (-16, 1.5e-4), (32, 1.0))
    pipeline = Pipeline.default(Policy.of("all"), licences)
    assert Pipeline.parse(str(pipeline)) == pipeline
    assert str(Unify()) == "unify"


@pytest.mark.parametrize(
    "text", ["unify{licences=mine}", "unify{licences=mine(f:a=0)}", "unify{licences=m(f:a=x@0<1)}"]
)
def test_licences_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(PassSyntaxError):
        parse_pass(text)


def test_the_digest_covers_every_phi_rate_and_limit() -> None:
    graph = layers(2)
    base = calibrated(graph, (0, 0.0), (0, 0.0))
    others = [
        calibrated(graph, (16, 0.0), (0, 0.0)),
        calibrated(graph, (0, 0.0), (0, 1e-4)),
        calibrated(graph, (0, 0.0), (0, 0.0), name="other"),
    ]
    assert len({base.digest, *(each.digest for each in others)}) == 4
    assert Licences().digest == ""
