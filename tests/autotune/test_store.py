"""The store: content ids, set union, and many writers at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from autotune_rows import HERE, row, some

from headrace.autotune.db.models import decode, encode
from headrace.autotune.db.rows import Decision, Observation, Run, Verdict
from headrace.autotune.db.store import Store
from headrace.errors import ObservationError


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


def test_what_is_written_now_outlives_what_waited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "db.sqlite"
    with Store.open(path, warn=lambda text: None) as store:
        for written, value in ((False, "old"), (True, "new")):
            with monkeypatch.context() as patch:
                if not written:
                    patch.setattr(Store, "_write", lambda self, action: False)
                store.remember("speed", value)
                store.record_decisions([Decision("g", "r", "Gemm{}", (1,), value, "exact")])
            assert store.recall("speed") == value
            assert [each.schedule for each in store.decisions("g")] == [value]
    with Store.open(path) as again:
        assert again.recall("speed") == "new"
        assert [each.schedule for each in again.decisions("g")] == ["new"]


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

    def work(tag: int) -> None:
        for one in some(15, tag):
            store.append([one])
            assert one in store.observations(one.spec)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
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
