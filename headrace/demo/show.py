"""What the demonstration prints, part by part."""

from __future__ import annotations

from collections import Counter

from headrace.compiler.cli.explain import kinds, reasons
from headrace.compiler.cli.output import Output, seconds, shortened
from headrace.compiler.decisions import Decision
from headrace.compiler.records import GraphRecord
from headrace.demo.language import PEERS, Answer, Race
from headrace.demo.sentences import Similarities


def graphs(out: Output, records: tuple[GraphRecord, ...]) -> None:
    """What was claimed in each graph, what was not, and why."""
    names = (
        ("prefill", "decode") if len(records) == 2 else tuple(f"graph {at + 1}" for at in range(len(records)))
    )
    for name, record in zip(names, records, strict=True):
        claimed = ", ".join(f"{count} {kind}" for kind, count in kinds(record).items()) or "nothing"
        out.line(f"{name}: {record.nodes} nodes; claimed: {claimed}")
        if record.note:
            out.line(f"  {record.note}")
        found = reasons(record)
        for count, op, reason in found[:6]:
            out.line(f"  left to Inductor: {count} x {op}: {shortened(reason, 90)}")
        rest = sum(count for count, _, _ in found[6:])
        if rest:
            out.line(f"  ... and {rest} more, each with its reason: headrace explain smollm2")


def decisions(out: Output, found: tuple[Decision, ...]) -> None:
    """Which schedule serves which operation, and where the choice comes from."""
    rows = [
        (shortened(decision.spec, 64), "x".join(map(str, decision.sizes)), decision.schedule,
         seconds(decision.seconds), origin(decision))
        for decision in sorted(found, key=lambda decision: (decision.spec, decision.sizes))
    ]  # fmt: skip
    out.table(("operation", "sizes", "schedule", "median", "from"), rows)


def origin(decision: Decision) -> str:
    """`database` where measurements decided, else the reason in short."""
    return "database" if from_database(decision) else decision.rung


def from_database(decision: Decision) -> bool:
    return decision.rung in ("exact", "same_device", "same_architecture", "neighbour_sizes")


def origins(found: tuple[Decision, ...]) -> str:
    """`14 of 14 decisions from database`, and what the others come from."""
    counted = Counter(origin(decision) for decision in found)
    database = counted.pop("database", 0)
    others = "".join(f", {count} from {name}" for name, count in sorted(counted.items()))
    return f"{database} of {len(found)} decisions from database{others}"


def answer(out: Output, said: Answer) -> None:
    count = len(said.tokens)
    out.line(
        f"{said.prompt_tokens} prompt tokens read in {seconds(said.prefill_seconds)}, "
        f"{count} tokens generated, {(count - 1) / max(said.decode_seconds, 1e-9):.1f} tokens/s"
    )


def race(out: Output, found: Race, weight_bytes: int) -> None:
    """Tokens a second of every peer, and the ratios of paired steps."""
    rows = [
        (name, f"{found.timings[name].per_second:.1f}", seconds(found.timings[name].median),
         f"{weight_bytes / found.timings[name].median / 1e9:.1f} GB/s")
        for name in PEERS
    ]  # fmt: skip
    out.table(("peer", "tokens/s", "a step", "weights read at"), rows)
    rounds = len(found.timings[PEERS[0]].seconds)
    out.line(
        f"headrace: {found.over_eager:.2f} times eager, {found.over_inductor:.2f} times Inductor "
        f"({rounds} interleaved steps from position {found.first_position}, {found.threads} threads, "
        "the same bfloat16 weights, a static cache each)"
    )


def similarities(out: Output, found: Similarities) -> None:
    out.table(("similarity", "sentence", "sentence"), ((f"{score:.3f}", a, b) for a, b, score in found.pairs))
    out.line(f"cosine with eager: {', '.join(f'{value:.7f}' for value in found.to_eager)}")
