"""The store: rows in a file when the file lets us, in memory when it does not. Storage trouble never raises
here.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from headrace.autotune.db.calibrations import HeadRow, decode_head
from headrace.autotune.db.file import SqliteFile, identity
from headrace.autotune.db.models import decode
from headrace.autotune.db.recovery import Fault, fault_of, salvage, salvage_calibrations, set_aside
from headrace.autotune.db.rows import Decision, Observation, Run
from headrace.errors import ObservationError
from headrace.ir.spec.operand import digest

_T = TypeVar("_T")
_TROUBLE = (SQLAlchemyError, sqlite3.Error, OSError, TimeoutError, UnicodeDecodeError)
_RETRY_SECONDS = 10.0
_log = logging.getLogger("headrace.autotune")


@dataclass(frozen=True, slots=True)
class Info:
    """What the store holds: rows by verdict and by hard environment, damaged rows seen, rows waiting in
    memory.
    """

    path: Path | None
    rows: int
    verdicts: dict[str, int]
    environments: dict[str, int]
    operations: int
    damaged: int
    waiting: int


class Store:
    """Observations, decisions, runs and facts, over one file or none. Safe to use from threads and after a
    fork.

    Where the file cannot be written (read-only place, full disk, a lock held too long) rows wait in memory,
    are visible to every query, and are written by a later `append` or `close` that succeeds. A damaged file
    is set aside and its good rows are carried over. Each kind of trouble is told once, through `warn`.
    """

    def __init__(self, file: SqliteFile | None = None, *, warn: Callable[[str], None] | None = None) -> None:
        self._file = file
        self._warn_hook = warn or _log.warning
        self._warned = False
        self._lock = threading.RLock()
        self._waiting: dict[str, Observation] = {}
        self._decisions: dict[tuple[str, str, tuple[int, ...]], Decision] = {}
        self._runs: list[Run] = []
        self._facts: dict[str, str] = {}
        self._calibrations: dict[str, tuple[HeadRow, ...]] = {}
        self._damaged: set[str] = set()
        self._retry_at = 0.0
        self.revision = 0
        _LIVE.add(self)

    @classmethod
    def open(cls, path: Path, *, readonly: bool = False, warn: Callable[[str], None] | None = None) -> Self:
        """The store of a file, which is created when missing (unless read-only).

        Raises:
            DatabaseRefused: the path is a database of another program, or of a newer major schema.
        """
        store = cls(warn=warn)
        store._file = store._open(path, readonly)
        return store

    @classmethod
    def in_memory(cls) -> Self:
        """A store without a file: the double in tests, and what is left when no file can be used."""
        return cls()

    @property
    def path(self) -> Path | None:
        """The file in use, None for a store in memory."""
        return self._file.path if self._file else None

    def append(self, rows: Iterable[Observation]) -> int:
        """Add rows; returns how many were new. Adding a row again changes nothing."""
        with self._lock:
            fresh = {row.id: row for row in rows}
            self.revision += 1
            if not self._writable:
                new = len(fresh.keys() - self._waiting.keys())
                self._waiting |= fresh
                return new
            queued, self._waiting = self._waiting, self._waiting | fresh
            if queued and time.monotonic() < self._retry_at:
                return len(fresh.keys() - queued.keys())
            return self._flush()

    def observations(
        self,
        spec: str | None = None,
        *,
        sizes: tuple[int, ...] | None = None,
        hard: str | None = None,
    ) -> tuple[Observation, ...]:
        """Rows of an operation (its canonical text), at exact sizes, in a hard environment; damaged rows left
        out.
        """
        op = None if spec is None else digest(spec)
        found: dict[str, Observation] = {}
        for columns in self._read(lambda file: file.select(op, hard)) or ():
            try:
                row = decode(columns)
            except ObservationError:
                self._damaged.add(str(columns.get("id")))
                continue
            found[row.id] = row
        with self._lock:
            found |= self._waiting
        return tuple(
            row
            for _, row in sorted(found.items())
            if (spec is None or row.spec == spec)
            and (sizes is None or row.sizes == sizes)
            and (hard is None or row.environment.hard == hard)
        )

    @property
    def damaged(self) -> int:
        """Rows met so far that do not match their hash; they are never used."""
        return len(self._damaged)

    def info(self) -> Info:
        """Counts over the whole store; reads every row."""
        rows = self.observations()
        return Info(
            path=self.path,
            rows=len(rows),
            verdicts=dict(sorted(Counter(row.verdict.value for row in rows).items())),
            environments=dict(sorted(Counter(row.environment.hard for row in rows).items())),
            operations=len({row.op for row in rows}),
            damaged=self.damaged,
            waiting=len(self._waiting),
        )

    def record_decisions(self, decisions: Iterable[Decision]) -> None:
        """Remember what the regions of a compiled graph run; the latest for a region and sizes holds."""
        found = list(decisions)
        with self._lock:
            latest = {(d.graph, d.region, d.sizes): d for d in found}
            if self._write(lambda file: file.put_decisions(found)):
                for key in latest:  # what waited under this name is outdated
                    self._decisions.pop(key, None)
            else:
                self._decisions |= latest

    def decisions(self, graph: str) -> tuple[Decision, ...]:
        """The decisions recorded for a graph hash, by region."""
        found = {(d.region, d.sizes): d for d in self._read(lambda file: file.decisions(graph)) or ()}
        with self._lock:
            found |= {key[1:]: d for key, d in self._decisions.items() if d.graph == graph}
        return tuple(d for _, d in sorted(found.items()))

    def record_run(self, run: Run) -> None:
        with self._lock:
            if not self._write(lambda file: file.put_run(run)):
                self._runs.append(run)

    def runs(self) -> tuple[Run, ...]:
        """Tuning runs in the order they ended."""
        return (*(self._read(lambda file: file.runs()) or ()), *self._runs)

    def record_calibrations(self, rows: Iterable[HeadRow]) -> bool:
        """Keep calibrations, whole or not at all; those of the same names go.

        Returns False, with nothing kept, where the store has a file that cannot be written: a calibration
        that is gone after this process would be a licence that nobody can look up.
        """
        found = tuple(rows)
        with self._lock:
            self.revision += 1
            if self._file is not None:
                return self._write(lambda file: file.put_calibrations(found))
            for name in {row.name for row in found}:
                self._calibrations[name] = tuple(row for row in found if row.name == name)
            return True

    def calibrations(self, name: str | None = None) -> tuple[HeadRow, ...]:
        """The rows of a calibration (of all, when None) by fingerprint, place and head; no damaged ones."""
        found: list[HeadRow] = []
        for columns in self._read(lambda file: file.calibrations(name)) or ():
            try:
                found.append(decode_head(columns))
            except ObservationError:
                self._damaged.add(str(columns.get("id")))
        with self._lock:
            kept = [row for rows in self._calibrations.values() for row in rows]
        found += [row for row in kept if name is None or row.name == name]
        return tuple(sorted(found, key=lambda row: (row.name, row.fingerprint, row.place, row.head)))

    def remember(self, key: str, value: str) -> None:
        """Keep a fact that is dear to find out, such as a measured bandwidth."""
        with self._lock:
            if self._write(lambda file: file.put_meta(f"fact/{key}", value)):
                self._facts.pop(key, None)  # what waited under this name is outdated
            else:
                self._facts[key] = value

    def recall(self, key: str) -> str | None:
        """A remembered fact."""
        if key in self._facts:
            return self._facts[key]
        return self._read(lambda file: file.meta(f"fact/{key}"))

    def generation(self) -> object:
        """A value that is another one after anybody, in this process or another, has changed the database.

        It costs some file system calls. It may change without cause, as when a log is merged into the file.
        """
        return self.revision, self._read(lambda file: file.generation())

    def close(self) -> None:
        """Write what waits, if the file now lets us, and let go of the file."""
        with self._lock:
            if self._writable:
                if self._waiting:
                    self._flush()
                self._flush_others()
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def writable(self) -> bool:
        """Whether there is a file that can be written."""
        return self._writable

    @property
    def _writable(self) -> bool:
        return self._file is not None and not self._file.readonly

    def _flush(self) -> int:
        rows, new = list(self._waiting.values()), [0]

        def write(file: SqliteFile) -> None:
            new[0] = file.insert(rows)

        if self._write(write):
            self._waiting = {}
            return new[0]
        self._retry_at = time.monotonic() + _RETRY_SECONDS
        return len(rows)

    def _flush_others(self) -> None:
        """Write the decisions, runs and facts that wait."""
        decisions, runs, facts = list(self._decisions.values()), list(self._runs), dict(self._facts)

        def write(file: SqliteFile) -> None:
            file.put_decisions(decisions)
            for key, value in facts.items():
                file.put_meta(f"fact/{key}", value)

        if (decisions or facts) and self._write(write):
            self._decisions, self._facts = {}, {}
        for run in runs:
            if not self._write(functools.partial(SqliteFile.put_run, run=run)):
                break
            self._runs.remove(run)

    def _write(self, action: Callable[[SqliteFile], None]) -> bool:
        """Run a writing action; False when it has to be kept in memory."""
        for attempt in (1, 2):
            file = self._file
            if file is None or file.readonly:
                return False
            try:
                action(file)
                return True
            except _TROUBLE as error:
                if fault_of(error) is Fault.DAMAGED and attempt == 1:
                    self._file = self._replace(file.path, file.identity, error)
                    continue
                self._warn(
                    f"cannot write the database {file.path} ({_first_line(error)}); results wait in memory"
                )
        return False

    def _read(self, action: Callable[[SqliteFile], _T]) -> _T | None:
        file = self._file
        if file is None:
            return None
        try:
            return action(file)
        except _TROUBLE as error:
            if fault_of(error) is not Fault.DAMAGED:
                self._warn(
                    f"cannot read the database {file.path} ({_first_line(error)}); going on without it"
                )
                return None
            with self._lock:
                if self._file is file:
                    self._file = None if file.readonly else self._replace(file.path, file.identity, error)
                    if file.readonly:
                        self._warn(
                            f"the database {file.path} is damaged ({_first_line(error)}); going on without it"
                        )
                file = self._file
        try:
            return action(file) if file else None
        except _TROUBLE:
            return None

    def _open(self, path: Path, readonly: bool) -> SqliteFile | None:
        damaged = identity(path)
        try:
            return SqliteFile(path, readonly=readonly)
        except _TROUBLE as error:
            problem = error
        if fault_of(problem) is Fault.DAMAGED:
            if not readonly:
                return self._replace(path, damaged, problem)
            self._warn(f"the database {path} is damaged ({_first_line(problem)}); going on without it")
            return None
        if not readonly:
            self._warn(
                f"cannot write the database {path} ({_first_line(problem)}); new results stay in memory"
            )
        for immutable in (False, True):  # a log file cannot be opened in a place that cannot be written
            try:
                return SqliteFile(path, readonly=True, immutable=immutable)
            except _TROUBLE as error:
                problem = error
        if path.exists():
            self._warn(f"cannot read the database {path} ({_first_line(problem)}); going on without it")
        return None

    def _replace(
        self, path: Path, damaged: tuple[int, int] | None, error: BaseException
    ) -> SqliteFile | None:
        """Set a damaged file aside and carry its good rows over into a new one."""
        try:
            if self._file is not None:
                self._file.close()
            aside = set_aside(path, damaged)
            file = SqliteFile(path)
            if aside is None:
                return file
            saved = salvage(aside)
            file.insert(saved.values())
            file.put_calibrations(salvage_calibrations(aside))
        except _TROUBLE as problem:
            self._warn(
                f"the database {path} is damaged and cannot be replaced ({_first_line(problem)}); "
                "results stay in memory"
            )
            return None
        self._warn(
            f"the database {path} was damaged ({_first_line(error)}); it is kept as {aside.name} "
            f"and {len(saved)} good rows were carried over"
        )
        return file

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn_hook(text)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()  # the parent's may be held by a thread that does not exist here


_LIVE: weakref.WeakSet[Store] = weakref.WeakSet()


def _relock_after_fork() -> None:
    for store in list(_LIVE):
        store._after_fork()


os.register_at_fork(after_in_child=_relock_after_fork)


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no message'}"
