"""A damaged file: told apart from a busy or unwritable one, set aside under its own hash, its good rows
saved.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from headrace.autotune.db.calibrations import CalibrationRow, HeadRow, decode_head
from headrace.autotune.db.file import identity
from headrace.autotune.db.models import ObservationRow, decode
from headrace.autotune.db.rows import Observation
from headrace.errors import DatabaseRefused, ObservationError

_Row = TypeVar("_Row", Observation, HeadRow)
_COLUMNS = tuple(column.name for column in ObservationRow.__table__.columns)
_HEAD_COLUMNS = tuple(column.name for column in CalibrationRow.__table__.columns)


_LEAST_ROW = 100  # bytes; a row's hash alone has 64
_LAST_ROW = 1 << 20
_FARTHEST_JUMP = 16
_MAGIC = b"SQLite format 3\0"


def refuse_foreign(path: Path) -> None:
    """Hold a path that somebody named against what a database looks like, before anything is opened or moved.

    Raises:
        DatabaseRefused: there is something at the path that is no SQLite file.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise DatabaseRefused(f"{path} is a folder or a device, not a database; name a file")
    try:
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
    except OSError as error:
        raise DatabaseRefused(f"{path} cannot be read ({error.strerror}); name another database") from None
    if begin and begin != _MAGIC:
        raise DatabaseRefused(f"{path} is no database; name a headrace database, or a new file")


class Fault(enum.Enum):
    """What an error of the storage means for us."""

    DAMAGED = "damaged"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"


def fault_of(error: BaseException) -> Fault:
    """Classify an error of sqlite3, SQLAlchemy (which wraps it) or the file system."""
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or isinstance(cause, TimeoutError):
        return Fault.BUSY
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        return Fault.DAMAGED
    if isinstance(cause, UnicodeDecodeError):  # SQLite quotes the damage in its message
        return Fault.DAMAGED
    # A lost table or column is a plain SQL error; our own findings (`SqliteFile`) carry no code.
    if isinstance(cause, sqlite3.Error) and (primary is None or str(cause).startswith("no such ")):
        return Fault.DAMAGED
    return Fault.UNAVAILABLE


def set_aside(path: Path, damaged: tuple[int, int] | None) -> Path | None:
    """Rename a damaged file (with its log) to `<name>.corrupt-<hash>`; returns the new path.

    `damaged` is the identity of the file that was found damaged: when another process has already put a new
    one in its place nothing is done, and the result is None.

    Raises:
        OSError: the directory cannot be written.
    """
    with FileLock(f"{path}.lock", timeout=30):
        if damaged is None or identity(path) != damaged:
            return None
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        aside = path.with_name(f"{path.name}.corrupt-{digest.hexdigest()[:12]}")
        os.replace(path, aside)
        for suffix in ("-wal", "-shm"):
            side = path.with_name(path.name + suffix)
            if side.exists():
                os.replace(side, aside.with_name(aside.name + suffix))
    return aside


def salvage(path: Path) -> dict[str, Observation]:
    """Every row of a damaged file that can still be read and matches its hash, by id."""
    return {row.id: row for row in _salvaged(path, "observations", _COLUMNS, decode)}


def salvage_calibrations(path: Path) -> tuple[HeadRow, ...]:
    """As `salvage`, of calibrations. One that lost a site matches no graph any more: nobody uses it."""
    return tuple(
        {row.id: row for row in _salvaged(path, "calibrations", _HEAD_COLUMNS, decode_head)}.values()
    )


def _salvaged(
    path: Path, table: str, columns: tuple[str, ...], read: Callable[[dict[str, object]], _Row]
) -> Iterator[_Row]:
    """The rows of a table that `read` accepts."""
    with (
        contextlib.suppress(sqlite3.Error, OSError, UnicodeDecodeError),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as raw,
    ):
        raw.text_factory = lambda data: data.decode("utf-8", "replace")
        raw.row_factory = sqlite3.Row
        # Without this SQLite refuses to look at all into a file that lost its end.
        raw.execute("PRAGMA writable_schema=ON")
        for row in _readable(raw, table, columns, path.stat().st_size):
            with contextlib.suppress(ObservationError):
                yield read({name: row[name] for name in columns})


def _readable(
    raw: sqlite3.Connection, table: str, columns: tuple[str, ...], nbytes: int
) -> Iterator[sqlite3.Row]:
    """The rows of a table in the order in which they were written; pages that cannot be read are passed over.

    Args:
        nbytes: the length of the file, which limits how many rows it can hold where that cannot be asked.
    """
    query = (
        f"SELECT rowid AS at, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
    )
    last, jump, end = 0, 1, nbytes // _LEAST_ROW
    with contextlib.suppress(sqlite3.Error, TypeError):  # numbers of rows that are gone are not given again
        end = max(end, min(_LAST_ROW, raw.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0]))
    while last <= end:
        try:
            for row in raw.execute(query, (last,)):
                if last < row["at"] <= end:  # a damaged number leads nowhere
                    last, jump = row["at"], 1
                yield row
            return
        except (sqlite3.Error, UnicodeDecodeError, OverflowError):
            last, jump = last + jump, min(2 * jump, _FARTHEST_JUMP)
