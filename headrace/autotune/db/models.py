"""The tables, as SQLAlchemy models. A released schema changes only through a migration."""

from __future__ import annotations

import json

from sqlalchemy import Float, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from headrace.autotune.db.base import Base
from headrace.autotune.db.rows import (
    Check,
    Decision,
    Environment,
    Observation,
    Policy,
    Run,
    Verdict,
    check_fields,
    check_of,
)
from headrace.errors import ObservationError

# A minor step only adds; code reads databases of its own major version. See migrations/versions.
SCHEMA_MAJOR, SCHEMA_MINOR = 1, 2
APPLICATION_ID = 0x48445243  # "HDRC", so that the file names its owner


class ObservationRow(Base):
    """An immutable observation; `id` is the SHA-256 of everything else."""

    __tablename__ = "observations"
    __table_args__ = (Index("observations_by_op", "op", "hard"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    op: Mapped[str] = mapped_column(String(64))
    spec: Mapped[str]
    sizes: Mapped[str]
    bucket: Mapped[str]
    numerics: Mapped[str]
    dataflow: Mapped[str]
    schedule: Mapped[str]
    template_digest: Mapped[str]
    hard: Mapped[str]
    device: Mapped[str]
    versions: Mapped[str]
    policy: Mapped[str]
    race: Mapped[str]
    baseline: Mapped[int] = mapped_column(Integer)
    verdict: Mapped[str] = mapped_column(String(16))
    cause: Mapped[str]
    median: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    samples: Mapped[str]
    evidence: Mapped[str]


class DecisionRow(Base):
    """What a region of a compiled graph runs at some sizes, the latest."""

    __tablename__ = "decisions"

    graph: Mapped[str] = mapped_column(String(64), primary_key=True)
    region: Mapped[str] = mapped_column(primary_key=True)
    sizes: Mapped[str] = mapped_column(primary_key=True)
    spec: Mapped[str]
    schedule: Mapped[str]
    rung: Mapped[str]
    seconds: Mapped[float | None] = mapped_column(Float)
    reason: Mapped[str]


class RunRow(Base):
    """A tuning run, in the order they ended."""

    __tablename__ = "runs"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    kind: Mapped[str]
    finished: Mapped[float] = mapped_column(Float)
    seconds: Mapped[float] = mapped_column(Float)
    tasks: Mapped[int]
    trials: Mapped[int]
    failures: Mapped[int]
    interrupted: Mapped[int]


class MetaRow(Base):
    """Facts about the file (`schema_version`) and about the machine that are dear to measure."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


def sizes_text(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))


def sizes_of(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def encode(row: Observation) -> dict[str, object]:
    """The columns of an observation."""
    low, high = row.band or (None, None)
    return {
        "id": row.id,
        "op": row.op,
        "spec": row.spec,
        "sizes": sizes_text(row.sizes),
        "bucket": sizes_text(row.bucket),
        "numerics": row.numerics,
        "dataflow": row.dataflow,
        "schedule": row.schedule,
        "template_digest": row.template_digest,
        "hard": row.environment.hard,
        "device": row.environment.device,
        "versions": row.environment.versions,
        "policy": str(row.policy),
        "race": row.race,
        "baseline": int(row.baseline),
        "verdict": row.verdict.value,
        "cause": row.cause,
        "median": row.median,
        "low": low,
        "high": high,
        "samples": json.dumps(list(row.samples)),
        "evidence": json.dumps(check_fields(row.check)) if row.check else "",
    }


def decode(columns: dict[str, object]) -> Observation:
    """The observation of a stored row.

    Raises:
        ObservationError: the columns are not what `encode` wrote: damage, or another hand.
    """
    try:
        row = _assemble(columns)
        whole = encode(row) == columns
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ObservationError(f"row {str(columns.get('id'))[:16]} cannot be read: {error}") from None
    if not whole:
        raise ObservationError(f"row {str(columns.get('id'))[:16]} does not match its hash")
    return row


def _assemble(columns: dict[str, object]) -> Observation:
    text = {name: value for name, value in columns.items() if isinstance(value, str)}
    evidence: Check | None = check_of(json.loads(text["evidence"])) if text["evidence"] else None
    return Observation(
        spec=text["spec"],
        sizes=sizes_of(text["sizes"]),
        numerics=text["numerics"],
        schedule=text["schedule"],
        template_digest=text["template_digest"],
        environment=Environment(text["hard"], text["device"], text["versions"]),
        policy=Policy.parse(text["policy"]),
        verdict=Verdict(text["verdict"]),
        samples=tuple(json.loads(text["samples"])),
        check=evidence,
        cause=text["cause"],
        baseline=columns["baseline"] == 1,
        race=text["race"],
    )


def encode_decision(decision: Decision) -> dict[str, object]:
    return {
        "graph": decision.graph,
        "region": decision.region,
        "sizes": sizes_text(decision.sizes),
        "spec": decision.spec,
        "schedule": decision.schedule,
        "rung": decision.rung,
        "seconds": decision.seconds,
        "reason": decision.reason,
    }


def decode_decision(row: DecisionRow) -> Decision:
    return Decision(
        row.graph, row.region, row.spec, sizes_of(row.sizes), row.schedule, row.rung, row.seconds, row.reason
    )


def encode_run(run: Run) -> dict[str, object]:
    return {
        "kind": run.kind,
        "finished": run.finished,
        "seconds": run.seconds,
        "tasks": run.tasks,
        "trials": run.trials,
        "failures": run.failures,
        "interrupted": int(run.interrupted),
    }


def decode_run(row: RunRow) -> Run:
    return Run(
        row.kind,
        row.finished,
        row.seconds,
        row.tasks,
        row.trials,
        row.failures,
        interrupted=bool(row.interrupted),
    )
