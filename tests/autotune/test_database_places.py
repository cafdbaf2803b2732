"""Where a database cannot be written, or is none: results wait in memory, other files are left alone."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from autotune_rows import some
from sqlalchemy.exc import OperationalError

from headrace.autotune.db.file import SqliteFile
from headrace.autotune.db.recovery import refuse_foreign
from headrace.autotune.db.rows import Decision, Run
from headrace.autotune.db.store import Store
from headrace.errors import DatabaseRefused


def test_readonly_place_keeps_results_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: SqliteFile) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SqliteFile, "_create", refused)
    told: list[str] = []
    store = Store.open(tmp_path / "nowhere" / "db.sqlite", warn=told.append)
    assert store.append(some(3)) == 3
    assert store.append(some(3)) == 0
    assert len(store.observations()) == 3
    assert len(told) == 1
    assert "stay in memory" in told[0]


@pytest.mark.parametrize("readonly", [True, False])
def test_database_in_a_read_only_directory_is_still_read(readonly: bool) -> None:
    with tempfile.TemporaryDirectory() as name:  # outside pytest's own folder, which other users cannot enter
        path = Path(name) / "db.sqlite"
        with Store.open(path) as store:
            store.append(some(3))
        (path.parent / "db.sqlite.lock").unlink()
        path.chmod(0o444)
        path.parent.chmod(0o555)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)  # root may write everywhere
                told: list[str] = []
                store = Store.open(path, readonly=readonly, warn=told.append)
                store.append(some(1, tag=1))
                whole = len(store.observations()) == 4 and store.info().waiting == 1
                code = 0 if whole and len(told) == (0 if readonly else 1) else 2
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        path.parent.chmod(0o755)
        assert code == 0


def test_readonly_store_writes_nothing_to_its_file(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(3))
    before = path.read_bytes()
    store = Store.open(path, readonly=True)
    store.append(some(2, tag=1))
    assert len(store.observations()) == 5
    store.close()
    assert path.read_bytes() == before


def test_missing_file_read_only_is_an_empty_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "none.sqlite", readonly=True, warn=pytest.fail)
    assert store.observations() == ()
    assert list(tmp_path.iterdir()) == []


def test_rows_wait_while_writing_fails_and_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "db.sqlite", []
    store = Store.open(path, warn=told.append)
    store.append(some(1))
    real = SqliteFile.insert
    cause = sqlite3.OperationalError("database or disk is full")
    cause.sqlite_errorcode = sqlite3.SQLITE_FULL
    full = OperationalError("INSERT", {}, cause)

    def fail(self: SqliteFile, rows: object) -> int:
        raise full

    monkeypatch.setattr(SqliteFile, "insert", fail)
    store.append(some(3, tag=1))
    store.append(some(3, tag=2))
    assert len(store.observations()) == 7
    assert len(told) == 1
    assert "disk is full" in told[0]
    monkeypatch.setattr(SqliteFile, "insert", real)
    store.close()
    assert len(Store.open(path).observations()) == 7


def test_decisions_runs_and_facts_wait_while_writing_fails_and_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "db.sqlite", warn=lambda _: None)
    decision = Decision("g", "r0", "Gemm{}", (1,), "library{}", "default")
    runs = (Run("tune", 1.0, 2.0, 3, 4, 5), Run("tune", 2.0, 3.0, 3, 4, 5))

    def fail(self: SqliteFile, *_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        for name in ("put_decisions", "put_run", "put_meta"):
            full.setattr(SqliteFile, name, fail)
        store.record_decisions([decision])
        for run in runs:
            store.record_run(run)
        store.remember("bandwidth", "1.5")
        assert (store.decisions("g"), store.runs(), store.recall("bandwidth")) == ((decision,), runs, "1.5")
    store.close()
    with Store.open(tmp_path / "db.sqlite", readonly=True) as again:
        assert (again.decisions("g"), again.runs(), again.recall("bandwidth")) == ((decision,), runs, "1.5")


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from autotune_rows import row
from headrace.autotune.db.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
told = []
store = Store.open(Path(sys.argv[1]), warn=told.append)
store.append([row(f"tiled{{block={k}}}") for k in range(10)])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for k in range(10, 400):
    store.append([row(f"tiled{{block={k}}}")])
assert len(store.observations()) == 400, len(store.observations())
assert len(told) == 1, told
print("held")
"""


def test_full_disk_leaves_whole_rows_and_loses_none_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)], capture_output=True, text=True
    )
    assert run.stdout == "held\n", run.stderr
    store = Store.open(path)
    assert 10 <= len(store.observations()) < 400
    assert store.damaged == 0


def test_other_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "browser.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(DatabaseRefused, match="another program"):
        Store.open(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"root:x:0:0\n", b"SQLite format 2\0", b"\0" * 100])
def test_a_named_file_that_is_no_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DatabaseRefused, match=r"notes\.txt is no database"):
        refuse_foreign(path)
    assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["notes.txt"]


def test_a_named_folder_is_refused(tmp_path):
    with pytest.raises(DatabaseRefused, match="name a file"):
        refuse_foreign(tmp_path)


def test_a_new_an_empty_and_our_own_file_are_welcome(tmp_path):
    refuse_foreign(tmp_path / "new.db")
    (tmp_path / "empty.db").touch()
    refuse_foreign(tmp_path / "empty.db")
    with Store.open(tmp_path / "ours.db") as store:
        store.append([])
        store.remember("a", "b")
    refuse_foreign(tmp_path / "ours.db")
