"""What a calibration says: the scores that entered exp at one attention site, for one head.

Rows are keyed by (name, fingerprint, site, head): the user's name, the hash of a graph's attention sites, the
module path of one of them, and a query head. Each carries the hash of its content, so that damage shows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from sqlalchemy import Float, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from headrace.autotune.db.base import Base
from headrace.autotune.db.rows import canonical_json
from headrace.errors import ObservationError


@dataclass(frozen=True, slots=True)
class LengthBucket:
    """Rows that saw up to `keys` visible keys (a power of two), and how many of them the guard would trip."""

    keys: int
    rows: int
    fallback_rows: int


@dataclass(frozen=True)
class HeadRow:
    """One head of one site. Scores are in nats, after scale, bias, soft-cap and mask; hidden keys left out.

    Attributes:
        name, fingerprint, site, head: the key.
        place: the site's ordinal in its graph.
        form: heads, dimensions and score expression of the site, as the Spec writes them.
        phi: the unified maximum chosen for the site; `step` what it is a multiple of.
        limit: the share of rows that may take the fallback.
        rows, fallback_rows: rows with a visible key, and those whose sum of exp(x - phi) leaves the guard.
        score_min, score_max: of all scores; `score_low`, `score_high`: their 0.01 % and 99.99 % quantiles.
        peak_min, peak_max: of the rows' maxima.
        sum_min, sum_max: of the rows' log-sum-exp.
        lengths: rows and fallback rows by the number of visible keys.
    """

    name: str
    fingerprint: str
    site: str
    head: int
    place: int
    form: str
    phi: int
    step: int
    limit: float
    rows: int
    fallback_rows: int
    score_min: float
    score_low: float
    score_high: float
    score_max: float
    peak_min: float
    peak_max: float
    sum_min: float
    sum_max: float
    lengths: tuple[LengthBucket, ...]

    def __post_init__(self) -> None:
        for field in _FLOATS:
            if not math.isfinite(getattr(self, field)):
                raise ObservationError(f"{self.site}, head {self.head}: {field} is {getattr(self, field)}")
        if not (0 <= self.fallback_rows <= self.rows and self.rows > 0 and self.head >= 0):
            raise ObservationError(
                f"{self.site}, head {self.head}: {self.fallback_rows} of {self.rows} rows is no count"
            )

    @property
    def rate(self) -> float:
        """The share of rows that the guard would trip."""
        return self.fallback_rows / self.rows

    @cached_property
    def id(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(canonical_json(_fields(self)).encode()).hexdigest()


_FLOATS = (
    "limit", "score_min", "score_low", "score_high", "score_max", "peak_min", "peak_max", "sum_min",
    "sum_max",
)  # fmt: skip


def _fields(row: HeadRow) -> dict[str, object]:
    return asdict(row) | {"lengths": [[part.keys, part.rows, part.fallback_rows] for part in row.lengths]}


class CalibrationRow(Base):
    """A head of a calibration; `id` is the SHA-256 of everything else."""

    __tablename__ = "calibrations"

    name: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    head: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(String(64))
    place: Mapped[int] = mapped_column(Integer)
    form: Mapped[str]
    phi: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    row_limit: Mapped[float] = mapped_column(Float)
    rows: Mapped[int] = mapped_column(Integer)
    fallback_rows: Mapped[int] = mapped_column(Integer)
    score_min: Mapped[float] = mapped_column(Float)
    score_low: Mapped[float] = mapped_column(Float)
    score_high: Mapped[float] = mapped_column(Float)
    score_max: Mapped[float] = mapped_column(Float)
    peak_min: Mapped[float] = mapped_column(Float)
    peak_max: Mapped[float] = mapped_column(Float)
    sum_min: Mapped[float] = mapped_column(Float)
    sum_max: Mapped[float] = mapped_column(Float)
    lengths: Mapped[str]


def encode_head(row: HeadRow) -> dict[str, object]:
    """The columns of a row, by column name."""
    fields = _fields(row)
    return fields | {"id": row.id, "row_limit": fields.pop("limit"), "lengths": json.dumps(fields["lengths"])}


def decode_head(columns: dict[str, object]) -> HeadRow:
    """The row of stored columns.

    Raises:
        ObservationError: the columns are not what `encode_head` wrote.
    """
    what = f"calibration row {str(columns.get('id'))[:16]}"
    try:
        # The types are held by comparing with what the row would be stored as.
        values: dict[str, Any] = {
            name: value for name, value in columns.items() if name not in ("id", "row_limit", "lengths")
        }
        values["limit"] = columns["row_limit"]
        lengths = tuple(LengthBucket(*map(int, part)) for part in json.loads(str(columns["lengths"])))
        row = HeadRow(**values, lengths=lengths)
        whole = encode_head(row) == columns
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise ObservationError(f"{what} cannot be read: {error}") from None
    if not whole:
        raise ObservationError(f"{what} does not match its hash")
    return row


def names(rows: Iterable[HeadRow]) -> tuple[str, ...]:
    """The names of calibrations, in order."""
    return tuple(sorted({row.name for row in rows}))
