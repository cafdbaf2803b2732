"""`headrace.calibrate`: which attention layers may use a unified maximum, told from data.

The model is captured and its attentions are recognised as when it is compiled; each one is then computed by
an exact operator that counts what enters exp. Nothing of what is recorded can make a result wrong: kernels
guard every row. It decides where the guard is rarely needed, so that the unified maximum can be fast at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from headrace import upstream
from headrace.compiler import resolve
from headrace.compiler.capture import capture
from headrace.compiler.database import open_store
from headrace.compiler.emit import emit
from headrace.compiler.observe import FARTHEST, GUARD, SiteStatistics, observed
from headrace.compiler.operators import is_operator
from headrace.errors import CalibrationError
from headrace.ir.graph import Graph
from headrace.ir.spec import Attention, parse_spec
from headrace.passes.canonicalize import Canonicalize
from headrace.passes.claim import Policy
from headrace.passes.pipeline import Pipeline
from headrace.passes.recognise_attention import RecogniseAttention
from headrace.passes.unify import NAME, fingerprint, sites

if TYPE_CHECKING:
    from headrace.autotune.db.calibrations import HeadRow

LIMIT = 1e-3
STEP = 16
TAIL = 1e-4  # of scores beyond each of the quantiles that are kept


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a run over data found: one row per graph, site and head, and how many batches there were."""

    name: str
    rows: tuple[HeadRow, ...]
    batches: int


@dataclass
class Observer:
    """Compiles graphs with counting attentions; `graphs` has the statistics by fingerprint, in order."""

    graphs: dict[str, list[SiteStatistics]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many rows of scores were counted so far."""
        return sum(site.sums.total() for sites in self.graphs.values() for site in sites)

    def backend(self, module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """For torch.compile; nothing goes through Inductor."""
        from headrace.compiler.backend import interpreted

        return interpreted(module, inputs, self._rewrite)

    def _rewrite(self, graph: fx.Graph) -> None:
        captured = capture(graph.owning_module or fx.GraphModule({}, graph)).graph
        policy = Policy.of("attention", resolve.engine_backend())
        Pipeline((Canonicalize(), RecogniseAttention(policy))).run(captured)
        statistics = self._statistics(captured)
        emit(captured, graph)
        for node in graph.nodes:
            site = statistics.get(node.meta.get("headrace_node", ""))
            if site is not None and is_operator(node.target):
                spec = parse_spec(str(node.args[-1]))
                assert isinstance(spec, Attention)
                node.target = observed(spec, site)

    def _statistics(self, captured: Graph) -> dict[str, SiteStatistics]:
        """The statistics of a graph's sites, by the node of each."""
        self.refusals += [str(refusal) for refusal in captured.refusals]
        found = sites(captured)
        if not found:
            return {}
        key = fingerprint(found)
        if key not in self.graphs:
            self.graphs[key] = [
                SiteStatistics(site.name, site.form, _heads(captured, site.node)) for site in found
            ]
        return dict(zip([site.node for site in found], self.graphs[key], strict=True))


def _heads(graph: Graph, node: str) -> int:
    spec = graph[node].op.spec  # type: ignore[union-attr]  # sites are kernels
    assert isinstance(spec, Attention)
    return spec.heads


def calibrate(
    function: Callable[..., Any],
    batches: Iterable[Sequence[Any] | Mapping[str, Any]],
    *,
    name: str,
    limit: float = LIMIT,
    step: int = STEP,
    database: str | None = None,
    before: Callable[[], object] | None = None,
) -> Calibration:
    """Run a model over data and record, in the database, where a unified maximum is right.

    `torch.compile(model, backend="headrace", options={"calibration": name})` then uses it.

    Args:
        function: a module or function; it is not changed.
        batches: for each call its arguments, a sequence (or keyword arguments, a mapping).
        name: of the calibration; an older one of that name is replaced.
        limit: the share of rows that may take the exact fallback, in the worst head of a site.
        step: phi is a multiple of it (nats); 0 is taken where nothing is better.
        database: a path; without it, the database that the settings name.
        before: called before each batch, to reset what the model keeps.

    Raises:
        CalibrationError: no data, NaN or infinite scores or results, a model without attention, or a database
            that cannot be written. Nothing is recorded then.
    """
    _check(name, limit, step)
    store = open_store(database)
    if store is None or not store.writable:
        place = database or (store.path if store is not None else None) or "the settings' database"
        raise CalibrationError(f"{place} cannot be written: give another database; nothing was run")
    with store:
        observer = Observer()
        count = _run(function, batches, observer, before)
        rows = results(observer, name, limit, step)
        if not store.record_calibrations(rows):
            raise CalibrationError(f"{store.path} could not be written; the calibration is not recorded")
    return Calibration(name, rows, count)


def _check(name: str, limit: float, step: int) -> None:
    if not NAME.fullmatch(name):
        raise CalibrationError(
            f"a calibration cannot be called {name!r}: letters, digits, '.', '_' and '-', at most 64"
        )
    if not 0.0 <= limit < 1.0:
        raise CalibrationError(f"the limit is a share of rows from 0 to below 1, not {limit!r}")
    if not 1 <= step <= GUARD:
        raise CalibrationError(f"phi is a multiple of 1 to {GUARD} nats, not of {step!r}")


def _run(
    function: Callable[..., Any],
    batches: Iterable[Sequence[Any] | Mapping[str, Any]],
    observer: Observer,
    before: Callable[[], object] | None,
) -> int:
    compiled = torch.compile(function, backend=observer.backend)
    count = 0
    with torch.no_grad(), upstream.many_recompilations():
        for count, batch in enumerate(batches, start=1):
            if not batch:
                raise CalibrationError(f"batch {count} is empty: a batch is the arguments of one call")
            if before is not None:
                before()
            known = observer.rows
            try:
                result = compiled(**batch) if isinstance(batch, Mapping) else compiled(*batch)
            except CalibrationError as error:
                raise CalibrationError(f"batch {count}: {error}") from None
            except Exception as error:
                given = list(batch.values()) if isinstance(batch, Mapping) else list(batch)
                empty = [tuple(each.shape) for each in given if isinstance(each, Tensor) and not each.numel()]
                if not empty:
                    raise
                raise CalibrationError(
                    f"batch {count} is empty, a tensor of shape {empty[0]}, on which the model fails; "
                    "leave it out"
                ) from error
            if any(tensor.isnan().any() for tensor in _floating(result)):
                raise CalibrationError(f"batch {count}: the model's result holds NaN; leave such data out")
            if observer.graphs and observer.rows == known:
                raise CalibrationError(f"batch {count}: no query of an attention sees a key; leave it out")
    if not count:
        raise CalibrationError("there is no data: a calibration needs at least one batch")
    return count


def _floating(value: Any) -> list[Tensor]:
    """The floating tensors in a result, also inside tuples, lists, mappings and transformers' outputs."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return _floating(list(value.values()))
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in _floating(each)]
    return []


def results(observer: Observer, name: str, limit: float, step: int) -> tuple[HeadRow, ...]:
    """The database rows of what was observed.

    Raises:
        CalibrationError: no attention was recognised, or none of a site's rows sees a key.
    """
    if not observer.graphs:
        about = [reason for reason in observer.refusals if "attention" in reason]
        raise CalibrationError(
            "the model has no attention that headrace recognises"
            + (f": {about[0]}" if about else "; there is nothing to calibrate")
        )
    return tuple(
        row
        for key, found in observer.graphs.items()
        for place, site in enumerate(found)
        for row in _site_rows(site, name, key, place, limit, step)
    )


def _site_rows(
    site: SiteStatistics, name: str, key: str, place: int, limit: float, step: int
) -> list[HeadRow]:
    from headrace.autotune.db.calibrations import HeadRow, LengthBucket

    phi = choose_phi(site, step)
    rows: list[HeadRow] = []
    for head in range(site.heads):
        lengths: dict[int, list[int]] = {}
        for (of, length, bin_), count in site.sums.items():
            if of == head:
                both = lengths.setdefault(1 << length, [0, 0])
                both[0] += count
                both[1] += count * _trips(bin_, phi)
        if not lengths or not int(site.counts[head].sum()):
            raise CalibrationError(f"{site.name}, head {head}: no query sees a key in this data")
        lows, highs = site.lows[:, head].tolist(), site.highs[:, head].tolist()
        rows.append(
            HeadRow(
                name=name, fingerprint=key, site=site.name, head=head, place=place, form=site.form,
                phi=phi, step=step, limit=float(limit),
                rows=sum(both[0] for both in lengths.values()),
                fallback_rows=sum(both[1] for both in lengths.values()),
                score_min=lows[0], score_low=site.quantile(head, TAIL, upper=False),
                score_high=site.quantile(head, TAIL, upper=True), score_max=highs[0],
                peak_min=lows[1], peak_max=highs[1], sum_min=lows[2], sum_max=highs[2],
                lengths=tuple(LengthBucket(keys, *both) for keys, both in sorted(lengths.items())),
            )
        )  # fmt: skip
    return rows


def _trips(bin_: int, phi: int) -> bool:
    """Whether rows with a log-sum-exp of [bin_, bin_ + 1) leave the guard."""
    return not phi - GUARD <= bin_ < phi + GUARD


def choose_phi(site: SiteStatistics, step: int) -> int:
    """The multiple of `step` with the least share of fallbacks in the worst head; 0 where nothing is better.

    Among others that are equally good, the one nearest to the middle of the rows' log-sum-exp.
    """
    by_head: dict[int, dict[int, int]] = {}
    for (head, _, bin_), count in site.sums.items():
        counts = by_head.setdefault(head, {})
        counts[bin_] = counts.get(bin_, 0) + count
    if not by_head:
        return 0
    seen = [bin_ for counts in by_head.values() for bin_ in counts]
    reach = FARTHEST // 2 - GUARD  # of what a Spec can say
    low, high = (max(-reach, min(reach, end)) for end in (min(seen) - GUARD, max(seen) + GUARD))
    middle = (low + high) / 2
    candidates = torch.arange(math.floor(low / step), math.ceil(high / step) + 1) * step
    candidates = torch.cat((candidates, torch.zeros(1, dtype=torch.int64)))
    worst = torch.zeros(len(candidates), dtype=torch.float64)
    total = torch.zeros(len(candidates), dtype=torch.float64)
    for counts in by_head.values():
        bins = torch.tensor(sorted(counts))
        running = torch.tensor([0, *(counts[bin_] for bin_ in sorted(counts))]).cumsum(0)
        good = running[torch.searchsorted(bins, candidates + GUARD)]
        good = good - running[torch.searchsorted(bins, candidates - GUARD)]
        fallback = (running[-1] - good).double()
        worst = worst.maximum(fallback / running[-1])
        total += fallback
    ranked: list[tuple[float, float, int]] = list(
        zip(worst.tolist(), total.tolist(), candidates.tolist(), strict=True)
    )
    return min(ranked, key=lambda each: (*each[:2], each[2] != 0, abs(each[2] - middle), each[2]))[2]
