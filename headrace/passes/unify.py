"""Licences from a calibration: which attention sites may use a unified maximum, and which phi."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from headrace.errors import PassSyntaxError
from headrace.ir.graph import Graph
from headrace.ir.ops import Item, Kernel, View
from headrace.ir.spec import Attention, Denominator, Normalizer, Stabilizer, Weighting
from headrace.passes.base import Pass

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")  # of a calibration
_LICENCE = re.compile(r"([^=;:|()]+)=(-?\d+)@([-+.\deE]+)<([-+.\deE]+)")


@dataclass(frozen=True, slots=True)
class Site:
    """An attention with softmax in a graph.

    `name` is the path of the module that computes it, with `#1`, `#2`, ... where a module is called again,
    and only the ordinal where no path is known; `form` is what has to be equal where a calibration is used.
    """

    node: str
    name: str
    form: str


def sites(graph: Graph) -> tuple[Site, ...]:
    """The attention sites of a graph, in its order."""
    paths: dict[str, str] = {}
    for fx, made in graph.replaced.items():
        if fx in graph.modules and made in graph:
            node = graph[made]
            while isinstance(node.op, (View, Item)):
                (node,) = graph.operands(node)
            paths[node.name] = graph.modules[fx]
    found: list[Site] = []
    for node in graph:
        if isinstance(node.op, Kernel) and isinstance(node.op.spec, Attention) and _softmax(node.op.spec):
            path = paths.get(node.name, "")
            times = sum(site.name.partition("#")[0] == path for site in found)
            name = path if path and not times else f"{path}#{times}"
            found.append(Site(node.name, name, _form(node.op.spec)))
    return tuple(found)


def fingerprint(found: Sequence[Site]) -> str:
    """The hash of a graph's attention sites: 64 hex digits."""
    return hashlib.sha256("\n".join(f"{site.name}: {site.form}" for site in found).encode()).hexdigest()


def _softmax(spec: Attention) -> bool:
    n = spec.normalizer
    return n.weighting is Weighting.EXP and n.denominator is Denominator.SUM


def _form(spec: Attention) -> str:
    return (
        f"heads=[{spec.heads}, {spec.k_heads}, {spec.v_heads}]; dims=[{spec.d_k}, {spec.d_v}]; "
        f"score={spec.score}"
    )


@dataclass(frozen=True, slots=True)
class Licence:
    """What a calibration says of one site: phi, and the share of rows that fall back in its worst head.

    Text: `model.layers.3.self_attn=16@0.0004<0.001`.
    """

    site: str
    phi: int
    rate: float
    limit: float

    @property
    def granted(self) -> bool:
        return self.rate <= self.limit

    def __str__(self) -> str:
        return f"{self.site}={self.phi}@{self.rate!r}<{self.limit!r}"

    @classmethod
    def parse(cls, text: str) -> Licence:
        match = _LICENCE.fullmatch(text.strip())
        try:
            if match is not None:
                return cls(match[1], int(match[2]), float(match[3]), float(match[4]))
        except ValueError:
            pass
        raise PassSyntaxError(f"{text!r} is no licence; expected site=phi@rate<limit")


@dataclass(frozen=True, slots=True)
class Licences:
    """A calibration as a pass needs it: for each graph that it saw, by fingerprint, its sites in order.

    Text: `name(fingerprint:site=0@0.0<0.001;site=...|fingerprint:...)`.
    """

    name: str = ""
    graphs: tuple[tuple[str, tuple[Licence, ...]], ...] = ()

    def __str__(self) -> str:
        listed = "|".join(f"{key}:{';'.join(map(str, found))}" for key, found in self.graphs)
        return f"{self.name}({listed})" if self.name else ""

    @classmethod
    def parse(cls, text: str) -> Licences:
        match = re.fullmatch(r"([\w.-]+)\((.*)\)", text.strip())
        if match is None:
            raise PassSyntaxError(f"{text!r} are no licences; expected name(fingerprint:site=phi@rate<limit)")
        graphs = []
        for part in filter(None, match[2].split("|")):
            key, _, listed = part.partition(":")
            graphs.append((key, tuple(map(Licence.parse, filter(None, listed.split(";"))))))
        return cls(match[1], tuple(graphs))

    @property
    def digest(self) -> str:
        """A hash of all that this permits and refuses; empty without a calibration."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:16] if self.name else ""

    def find(self, found: Sequence[Site]) -> tuple[tuple[Licence, ...], str]:
        """The licences of a graph's sites, or none and the reason: never those of another graph."""
        key = fingerprint(found)
        for known, licences in self.graphs:
            if known == key and [each.site for each in licences] == [site.name for site in found]:
                return licences, ""
        return (), f"calibration {self.name!r} is of another model: {self._difference(found)}"

    def _difference(self, found: Sequence[Site]) -> str:
        if not self.graphs:
            return "it has no sites"
        here = [site.name for site in found]
        for _, licences in self.graphs:
            if [each.site for each in licences] == here:
                return "heads, dimensions or score expressions differ"
        same = [known for _, known in self.graphs if len(known) == len(here)]
        if not same:
            counts = sorted({len(known) for _, known in self.graphs})
            return f"it has {' or '.join(map(str, counts))} attention sites, this graph has {len(here)}"
        there = [each.site for each in same[0]]
        at = next(at for at, (one, other) in enumerate(zip(here, there, strict=True)) if one != other)
        return f"site {at} is {here[at]} here and {there[at]} there"


@dataclass(frozen=True)
class Unify(Pass):
    """Permits a unified maximum where a calibration found that almost every row is right with it.

    Only the permission changes: the kernel guards each row and recomputes exactly those that leave the range,
    so that a calibration can cost time but no accuracy. A graph whose attention sites are not exactly those
    of a calibrated one gets nothing. What is bounded for certain (`bound_scores`) stays as it is.

    rewrite:
        %o = kernel(%q, %k, %v) {Attention{...; normalizer=exp/sum/online}}
        ->
        %o = kernel(%q, %k, %v) {Attention{...; normalizer=exp/sum/unified(16)}}
    """

    name: ClassVar[str] = "unify"
    licences: Licences = Licences()

    def run(self, graph: Graph) -> None:
        if not self.licences.name:
            return
        found = sites(graph)
        if not found:
            return
        licences, why_not = self.licences.find(found)
        for at, site in enumerate(found):
            node = graph[site.node]
            assert isinstance(node.op, Kernel)
            assert isinstance(node.op.spec, Attention)
            spec = node.op.spec
            if spec.normalizer.stabilizer is Stabilizer.UNIFIED:
                continue
            if why_not:
                graph.refuse(site.node, self.name, why_not)
                continue
            licence = licences[at]
            if not licence.granted:
                graph.refuse(
                    site.node, self.name,
                    f"unified maximum: {licence.rate:.2%} of the rows of a head would fall back with "
                    f"phi = {licence.phi}, the limit is {licence.limit:.2%} "
                    f"(calibration {self.licences.name!r})",
                )  # fmt: skip
                continue
            normalizer = Normalizer(stabilizer=Stabilizer.UNIFIED, phi=licence.phi)
            graph.redefine(site.node, Kernel(replace(spec, normalizer=normalizer)), node.operands)
            graph.remarks[site.node] = (
                f"unified maximum permitted: phi = {licence.phi}, calibration {self.licences.name!r}"
            )
