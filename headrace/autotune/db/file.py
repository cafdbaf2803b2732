"""One SQLite file: connections, transactions, creation and migration. Raises; `store.Store` decides what to
do then.

WAL, `BEGIN IMMEDIATE` for every write and a busy timeout of 30 s: with SQLite's defaults most concurrent
updates are lost without an error. Engines belong to one process; a forked child makes its own and never
touches, closes or collects its parent's (closing an inherited handle would checkpoint the parent's log).
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, delete, event, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import QueuePool

from headrace.autotune.db.base import Base
from headrace.autotune.db.calibrations import CalibrationRow, HeadRow, encode_head
from headrace.autotune.db.models import (
    APPLICATION_ID,
    SCHEMA_MAJOR,
    SCHEMA_MINOR,
    DecisionRow,
    MetaRow,
    ObservationRow,
    RunRow,
    decode_decision,
    decode_run,
    encode,
    encode_decision,
    encode_run,
)
from headrace.autotune.db.rows import Decision, Observation, Run
from headrace.errors import DatabaseRefused

BUSY_SECONDS = 30.0
_FILES: weakref.WeakSet[SqliteFile] = weakref.WeakSet()
_INHERITED: list[Engine] = []  # engines of a parent process, kept alive so that nothing closes their handles


class SqliteFile:
    """An open database file of our schema. `version` is the (major, minor) that the file has."""

    def __init__(self, path: Path, *, readonly: bool = False, immutable: bool = False) -> None:
        """Open, create or migrate.

        Raises:
            DatabaseRefused: the file is a database of another program or of a newer major schema.
            sqlalchemy.exc.DBAPIError, OSError: SQLite or the file system says no.
        """
        self.path, self.readonly = path, readonly
        self.identity = identity(path)
        self._immutable = immutable
        self._engine: Engine | None = None
        _FILES.add(self)
        if not readonly:
            self._create()
            self.identity = identity(path)
        self.version = self._version()
        if not readonly and self.version < (SCHEMA_MAJOR, SCHEMA_MINOR):
            with self._exclusive():
                self._migrate()
            self.version = self._version()

    def insert(self, rows: Iterable[Observation]) -> int:
        """Store rows in one transaction; returns how many were new. A known id is left as it is."""
        values = [encode(row) for row in rows]
        if not values:
            return 0
        with self._transaction(write=True) as connection:
            before = connection.scalar(select(func.total_changes()))
            connection.execute(insert(ObservationRow).on_conflict_do_nothing(), values)
            after = connection.scalar(select(func.total_changes()))
        return int(after or 0) - int(before or 0)

    def select(self, op: str | None = None, hard: str | None = None) -> list[dict[str, object]]:
        """The columns of the rows of an operation (all, when None), ordered by id."""
        query = select(ObservationRow.__table__).order_by(ObservationRow.id)
        if op is not None:
            query = query.where(ObservationRow.op == op)
        if hard is not None:
            query = query.where(ObservationRow.hard == hard)
        with self._transaction() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def count(self) -> int:
        with self._transaction() as connection:
            return connection.scalar(select(func.count()).select_from(ObservationRow)) or 0

    def generation(self) -> object:
        """Changes with every change: the newest row, and the times and lengths of file and log."""
        with self._transaction() as connection:
            newest = connection.exec_driver_sql("SELECT max(rowid) FROM observations").scalar()
        return newest, _stamp(self.path), _stamp(self.path.with_name(f"{self.path.name}-wal"))

    def put_decisions(self, decisions: Iterable[Decision]) -> None:
        values = [encode_decision(decision) for decision in decisions]
        if values:
            with self._transaction(write=True) as connection:
                connection.execute(insert(DecisionRow).prefix_with("OR REPLACE"), values)

    def decisions(self, graph: str) -> list[Decision]:
        if self.version < (1, 1):
            return []
        query = select(DecisionRow.__table__).where(DecisionRow.graph == graph)
        query = query.order_by(DecisionRow.region, DecisionRow.sizes)
        with self._transaction() as connection:
            rows: Iterable[Any] = connection.execute(query)  # columns are untyped
            return [decode_decision(row) for row in rows]

    def put_run(self, run: Run) -> None:
        with self._transaction(write=True) as connection:
            connection.execute(insert(RunRow), [encode_run(run)])

    def runs(self) -> list[Run]:
        if self.version < (1, 1):
            return []
        with self._transaction() as connection:
            rows: Iterable[Any] = connection.execute(select(RunRow.__table__).order_by(RunRow.number))
            return [decode_run(row) for row in rows]

    def put_calibrations(self, rows: Iterable[HeadRow]) -> None:
        """Store rows in one transaction; what was there under their names goes."""
        found = list(rows)
        with self._transaction(write=True) as connection:
            names = {row.name for row in found}
            connection.execute(delete(CalibrationRow).where(CalibrationRow.name.in_(names)))
            if found:
                values = [encode_head(row) for row in found]
                connection.execute(insert(CalibrationRow), values)

    def calibrations(self, name: str | None = None) -> list[dict[str, object]]:
        """The columns of the calibrations of a name (of all, when None), in the order of their keys."""
        if self.version < (1, 2):
            return []
        query = select(CalibrationRow.__table__).order_by(
            CalibrationRow.name, CalibrationRow.fingerprint, CalibrationRow.place, CalibrationRow.head
        )
        if name is not None:
            query = query.where(CalibrationRow.name == name)
        with self._transaction() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]

    def put_meta(self, key: str, value: str) -> None:
        with self._transaction(write=True) as connection:
            connection.execute(insert(MetaRow).prefix_with("OR REPLACE"), [{"key": key, "value": value}])

    def meta(self, key: str) -> str | None:
        with self._transaction() as connection:
            return connection.scalar(select(MetaRow.value).where(MetaRow.key == key))

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def forget_inherited(self) -> None:
        """In a forked child: leave the parent's handles alone for good."""
        if self._engine is not None:
            _INHERITED.append(self._engine)
            self._engine = None

    def _connect(self) -> Engine:
        engine = self._engine
        if engine is None:
            engine = _engine(self.path, readonly=self.readonly, immutable=self._immutable)
            if self._engine is None:
                self._engine = engine
        return engine

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Connection]:
        with (
            self._connect().connect().execution_options(headrace_write=write) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS):
            yield

    def _create(self) -> None:
        """Create the file under a lock, whole or not at all: built beside its place, then renamed into it."""
        if self.path.exists() and self.path.stat().st_size:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if self.path.exists() and self.path.stat().st_size:
                return
            draft = self.path.with_name(f"{self.path.name}.new-{os.getpid()}")
            draft.unlink(missing_ok=True)
            try:
                _write_empty(draft)
                os.replace(draft, self.path)
            finally:
                draft.unlink(missing_ok=True)

    def _version(self) -> tuple[int, int]:
        with closing(_raw(self.path, readonly=True, immutable=self._immutable)) as raw:
            owner = raw.execute("PRAGMA application_id").fetchone()[0]
            tables = {name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if "meta" not in tables or "observations" not in tables:
                if owner != APPLICATION_ID and tables:
                    raise DatabaseRefused(
                        f"{self.path} is an SQLite database of another program; give another path"
                    )
                raise sqlite3.DatabaseError("the tables are gone")
            found = raw.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        try:
            major, minor = (int(part) for part in str(found[0]).split("."))
        except (TypeError, ValueError):
            raise sqlite3.DatabaseError("the schema version is gone") from None
        if major > SCHEMA_MAJOR:
            raise DatabaseRefused(
                f"{self.path} has schema {major}.{minor}, this headrace reads {SCHEMA_MAJOR}.x; upgrade it"
            )
        return major, minor

    def _migrate(self) -> None:
        """Bring an older file up to date in one transaction, so that a kill leaves the old schema whole."""
        if self._version() >= (SCHEMA_MAJOR, SCHEMA_MINOR):
            return
        from alembic import command  # imported only when a version row demands it
        from alembic.config import Config

        config = Config()
        config.set_main_option(
            "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
        )
        with self._transaction(write=True) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def identity(path: Path) -> tuple[int, int] | None:
    """Which file a path means now (device, inode); None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """When a file was last written, which file it is and how long; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _write_empty(path: Path) -> None:
    with closing(_raw(path, readonly=False, immutable=False)) as raw:
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute(f"PRAGMA application_id={APPLICATION_ID}")
    engine = _engine(path, readonly=False, immutable=False)
    try:
        with engine.connect().execution_options(headrace_write=True) as connection, connection.begin():
            Base.metadata.create_all(connection)
            version = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}"
            connection.execute(insert(MetaRow), [{"key": "schema_version", "value": version}])
            # Alembic's own mark, written by hand so that a new file needs no import of alembic.
            connection.exec_driver_sql(
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
            )
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('v{version}')")
    finally:
        engine.dispose()


def _raw(path: Path, *, readonly: bool, immutable: bool) -> sqlite3.Connection:
    """A plain connection in autocommit with every safety of SQLite on."""
    uri = f"file:{quote(str(path))}?mode={'ro' if readonly else 'rwc'}{'&immutable=1' if immutable else ''}"
    raw = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # Bytes that are no UTF-8 are damage: let them through, the row's hash will tell.
    raw.text_factory = lambda data: data.decode("utf-8", "replace")
    raw.execute("PRAGMA trusted_schema=OFF")
    raw.execute("PRAGMA cell_size_check=ON")
    raw.execute("PRAGMA synchronous=NORMAL")
    return raw


def _engine(path: Path, *, readonly: bool, immutable: bool) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: _raw(path, readonly=readonly, immutable=immutable),
        poolclass=QueuePool,
        max_overflow=-1,
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Sqlite3's own transaction control is off (isolation_level None); a write takes its lock at once.
        write: Any = connection.get_execution_options().get("headrace_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _after_fork() -> None:
    for file in list(_FILES):
        file.forget_inherited()


os.register_at_fork(after_in_child=_after_fork)
