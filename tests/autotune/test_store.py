"""The store: content ids, set union, and what it does when the storage fails."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from autotune_rows import HERE, row
from sqlalchemy.exc import OperationalError

from headrace.autotune.db.file import SqliteFile
from headrace.autotune.db.models import decode, encode
from headrace.autotune.db.recovery import refuse_foreign
from headrace.autotune.db.rows import Decision, Observation, Run, Verdict
from headrace.autotune.db.store import Store
from headrace.errors import DatabaseRefused, ObservationError

DATA = Path(__file__).parent / "data"


def some(count: int, tag: int = 0) -> list[Observation]:
    return [row(f"tiled{{block={tag * 100_000 + k}}}", 1e-3 + k * 1e-6) for k in range(count)]


def test_row_survives_encoding_and_its_id_covers_every_field() -> None:
    one = row(baseline=True, race="ab", cause="")
    assert decode(encode(one)) == one
    ids = {one.id}
    for other in (
        row(seconds=2e-3, baseline=True, race="ab"), row(baseline=True), row(race="ab"), row(sizes=(5,)),
        row(spec="Gemm{x=f16}"), row(digest="d1"), row(numerics="m"), row(verdict=Verdict.WRONG),
        row(verdict=Verdict.WRONG, cause="late"), row("tiled{block=17}"),
    ):  # fmt: skip
        ids.add(other.id)
    assert len(ids) == 11


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_absurd_timing_is_no_observation(seconds: float) -> None:
    with pytest.raises(ObservationError):
        row(seconds=(seconds,))


def test_ok_needs_the_evidence_of_a_check() -> None:
    one = row()
    with pytest.raises(ObservationError, match="evidence"):
        Observation(one.spec, one.sizes, "n", one.schedule, "d", HERE, one.policy, Verdict.OK, one.samples)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_rows_come_back_and_appending_twice_changes_nothing(kind: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "a" / "db.sqlite") if kind == "file" else Store.in_memory()
    rows = [*some(5), row(spec="Rows{}", sizes=(8, 8))]
    assert store.append(rows) == 6
    assert store.append(rows[2:]) == 0
    assert set(store.observations()) == set(rows)
    assert store.observations("Rows{}") == (rows[5],)
    assert store.observations("Gemm{x=f32}", sizes=(9,)) == ()
    assert len(store.observations("Gemm{x=f32}", sizes=(4,), hard=HERE.hard)) == 5
    info = store.info()
    assert (info.rows, info.verdicts, info.operations, info.damaged) == (6, {"ok": 6}, 2, 0)


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_decisions_runs_and_facts_are_kept(kind: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db.sqlite") if kind == "file" else Store.in_memory()
    first = Decision("g", "r0", "Gemm{}", (1,), "library{}", "default")
    second = Decision("g", "r0", "Gemm{}", (1,), "gemv{}", "exact", 1e-5, "measured")
    store.record_decisions([first, Decision("h", "r0", "Gemm{}", (1,), "library{}", "default")])
    store.record_decisions([second])
    assert store.decisions("g") == (second,)
    run = Run("tune", 1.0, 2.0, 3, 4, 5, interrupted=True)
    store.record_run(run)
    assert store.runs() == (run,)
    store.remember("bandwidth", "1.5")
    store.remember("bandwidth", "2.5")
    assert (store.recall("bandwidth"), store.recall("nothing")) == ("2.5", None)


def test_merge_of_stores_is_set_union(tmp_path: Path) -> None:
    left, right = some(20), some(15, tag=1) + some(20)[10:]
    ab, ba = Store.open(tmp_path / "ab"), Store.open(tmp_path / "ba")
    for store, parts in ((ab, (left, right, left)), (ba, (right, left))):
        for part in parts:
            store.append(part)
    assert [r.id for r in ab.observations()] == [r.id for r in ba.observations()]
    assert len(ab.observations()) == 35


def _append_many(path: Path, tag: int, count: int) -> None:
    store = Store.open(path)
    for one in some(count, tag):
        store.append([one])
    os._exit(0 if store.info().waiting == 0 else 1)


def test_eight_processes_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_append_many, args=(path, tag, 100)) for tag in range(1, 9)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0] * 8
    assert len(Store.open(path).observations()) == 800


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from autotune_rows import row
from headrace.autotune.db.store import Store
store = Store.open(Path(sys.argv[1]))
for k in range(100000):
    store.append([row(f"tiled{{block={sys.argv[3]}{k:06}}}")])
    print(k, flush=True)
"""


def test_killed_writer_loses_no_acknowledged_row(tmp_path: Path) -> None:
    path, rng = tmp_path / "db.sqlite", random.Random(4)
    acknowledged = 0
    for turn in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(Path(__file__).parent), str(turn + 1)],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(rng.randrange(1, 60))]
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().count(b"\n")
        writer.wait()
        acknowledged += len(lines) + rest
        told: list[str] = []
        rows = Store.open(path, warn=told.append).observations()
        assert acknowledged <= len(rows) <= acknowledged + turn + 1
        assert told == []


def test_changed_bits_are_never_used(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        good = some(40)
        store.append(good)
    whole, ids, rng = path.read_bytes(), {r.id: r for r in good}, random.Random(1)
    noticed = 0
    for turn in range(60):
        copy = tmp_path / f"flip{turn}" / "db.sqlite"
        copy.parent.mkdir()
        data = bytearray(whole)
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
        copy.write_bytes(data)
        told: list[str] = []
        try:
            store = Store.open(copy, warn=told.append)
        except DatabaseRefused:
            noticed += 1
            continue
        found = store.observations()
        assert all(ids.get(r.id) == r for r in found)
        noticed += bool(store.damaged or told)
        store.close()
        shutil.rmtree(copy.parent)
    assert noticed > 20


def test_hash_catches_an_edit_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(3))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE observations SET samples = '[1e-09]', median = 1e-09 WHERE schedule LIKE '%=1}'")
    store = Store.open(path)
    assert len(store.observations()) == 2
    assert store.damaged == 1


@pytest.mark.parametrize("how", ["garbage", "header", "truncated", "page"])
def test_damaged_file_is_set_aside_with_one_warning(how: str, tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(200))
    data = bytearray(path.read_bytes())
    if how == "garbage":
        data = bytearray(random.Random(0).randbytes(5000))
    elif how == "header":
        data[:40] = bytes(40)
    elif how == "truncated":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    path.write_bytes(data)
    told: list[str] = []
    store = Store.open(path, warn=told.append)
    before = {r.id for r in store.observations()}
    store.append(some(1, tag=9))
    assert store.observations("Gemm{x=f32}")
    assert len(told) == 1
    assert "damaged" in told[0]
    aside = [
        file for file in tmp_path.iterdir() if ".corrupt-" in file.name and file.suffix[:9] == ".corrupt-"
    ]
    assert any(file.read_bytes() == bytes(data) for file in aside)
    assert before <= {r.id for r in some(200)}
    store.close()
    again: list[str] = []
    assert len(Store.open(path, warn=again.append).observations()) == len(before) + 1
    assert again == []


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
    full = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
    full.orig.sqlite_errorcode = sqlite3.SQLITE_FULL  # type: ignore[union-attr]

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


def test_older_schema_is_migrated_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as raw:
        raw.executescript((DATA / "schema_1_0.sql").read_text())
    raw.close()
    old = Store.open(path, readonly=True)
    assert len(old.observations()) == 2
    assert old.decisions("g") == ()
    old.close()
    store = Store.open(path, warn=pytest.fail)
    assert len(store.observations()) == 2
    assert store.damaged == 0
    store.record_decisions([Decision("g", "r", "s", (1,), "library{}", "default")])
    assert len(store.decisions("g")) == 1
    fresh = tmp_path / "fresh.sqlite"
    Store.open(fresh).close()
    assert _shape(path) == _shape(fresh)


def _shape(path: Path) -> dict[str, object]:
    with sqlite3.connect(path) as raw:
        tables = [
            name for (name,) in raw.execute("SELECT name FROM sqlite_schema WHERE type='table' ORDER BY 1")
        ]
        shape: dict[str, object] = {
            table: [tuple(column[1:4]) + column[5:] for column in raw.execute(f"PRAGMA table_info({table})")]
            for table in tables
        }
        shape["version"] = raw.execute("SELECT version_num FROM alembic_version").fetchall()
        shape["schema"] = raw.execute("SELECT value FROM meta WHERE key='schema_version'").fetchall()
    raw.close()
    return shape


def test_newer_minor_is_read_and_newer_major_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path) as store:
        store.append(some(2))

    def set_version(text: str) -> None:
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (text,))
            raw.commit()
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()

    set_version("1.9")
    with Store.open(path, warn=pytest.fail) as store:
        assert len(store.observations()) == 2
    set_version("2.0")
    before = path.read_bytes()
    with pytest.raises(DatabaseRefused, match="upgrade"):
        Store.open(path)
    assert path.read_bytes() == before


def test_forked_child_uses_its_own_connections(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    store = Store.open(path)
    store.append(some(3))
    store.observations()
    for tag in range(1, 6):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.append(some(2, tag))
                code = 0 if len(store.observations()) >= 5 else 2
                store.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(store.observations()) == 13


def test_threads_share_a_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db.sqlite", warn=pytest.fail)
    problems: list[BaseException] = []

    def work(tag: int) -> None:
        try:
            for one in some(15, tag):
                store.append([one])
                assert one in store.observations(one.spec)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(tag,)) for tag in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(store.observations()) == 90


def test_reader_is_not_blocked_by_a_held_write_lock(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    store = Store.open(path)
    store.append(some(3))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    assert len(Store.open(path, readonly=True).observations()) == 3
    assert time.monotonic() - began < 10  # the busy timeout is 30 s: a blocked reader would wait it out
    holder.execute("ROLLBACK")
    holder.close()


def test_opening_a_current_file_does_not_import_alembic(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from headrace.autotune.db.store import Store;"
        "s = Store.open(Path(sys.argv[1])); s.close(); Store.open(Path(sys.argv[1])).info();"
        "print([m for m in ('alembic', 'torch', 'optuna') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """A database file after an accident."""
    changed = bytearray(data)
    match rng.randrange(5):
        case 0:
            del changed[rng.randrange(len(changed)) :]
        case 1:
            at, length = rng.randrange(len(changed)), rng.randrange(1, 20_000)
            changed[at : at + length] = rng.randbytes(len(changed[at : at + length]))
        case kind:
            low, high = {2: (0, 100), 3: (100, 4096), 4: (0, len(changed))}[kind]
            for _ in range(rng.randrange(1, 30)):
                changed[rng.randrange(low, high)] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.soak)])
def test_mutated_files_cost_rows_but_no_exception_and_no_wrong_row(count: int, tmp_path: Path) -> None:
    path, rng = tmp_path / "db.sqlite", random.Random(7)
    good, extra = {r.id: r for r in some(300)}, some(2, tag=7)
    with Store.open(path) as store:
        store.append(good.values())
    whole = path.read_bytes()
    for turn in range(count):
        copy = tmp_path / f"m{turn}" / "db.sqlite"
        copy.parent.mkdir()
        copy.write_bytes(_mutated(whole, rng))
        told: list[str] = []
        try:
            store = Store.open(copy, warn=told.append)
        except DatabaseRefused:
            continue
        assert all(good.get(r.id) == r for r in store.observations())
        store.append(extra)
        assert {r.id for r in extra} <= {r.id for r in store.observations()}
        assert len(told) <= 1
        store.close()
        shutil.rmtree(copy.parent)


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
