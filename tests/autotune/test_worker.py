"""The worker: what hangs, crashes or lies in it stays in it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from headrace.autotune import client
from headrace.autotune.bench import Outcome, WorkerBench
from headrace.autotune.client import Worker, WorkerLate
from headrace.autotune.db.rows import Policy, Verdict
from headrace.autotune.report import Task
from headrace.autotune.wire import decode, device_fields, device_of
from headrace.errors import WorkerError
from headrace.ir.device import Backend, Device
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

DEVICE = Device("Test CPU", Backend.CPU, "x86_64", 1, ("avx2",))
TASK = Task(
    parse_spec("Gemm{x=f32; weights=[w:f32[24,16]nk]; extras=[]; outputs=[f32 = acc_w]; batched=false}"), (5,)
)
GOOD = Schedule.of("faulty", fault="none")
POLICY = Policy(warmup=2, rounds=6)


@pytest.fixture(scope="module")
def bench() -> Iterator[WorkerBench]:
    bench = WorkerBench("fake_registry:Faulty", DEVICE, (1, 2, 3))
    yield bench
    bench.stop()


def run(bench: WorkerBench, fault: str, seconds: float = 60.0) -> Outcome:
    bad = Schedule.of("faulty", fault=fault)
    return bench.run(TASK, [bad], [GOOD, bad], POLICY, seconds)


def test_good_candidate_is_checked_and_raced_in_turns(bench: WorkerBench) -> None:
    outcome = run(bench, "none")
    assert (outcome.verdict, outcome.cause, outcome.cut) == (Verdict.OK, "", False)
    assert outcome.check is not None
    assert len(outcome.samples[GOOD]) == 6
    assert min(outcome.samples[GOOD]) > 0


CONTAINED = {
    "wrong": (Verdict.WRONG, "max error"), "mutates": (Verdict.WRONG, "inputs"),
    "crash": (Verdict.CRASHED, f"signal {int(signal.SIGSEGV)}"), "exit": (Verdict.CRASHED, "exit 3"),
    "raise": (Verdict.CRASHED, "ValueError"), "unbuildable": (Verdict.UNBUILDABLE, "no registers"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CONTAINED)
def test_bad_candidate_costs_only_itself(bench: WorkerBench, fault: str) -> None:
    outcome = run(bench, fault)
    verdict, cause = CONTAINED[fault]
    assert outcome.verdict is verdict
    assert cause in outcome.cause
    assert "/" not in outcome.cause
    assert outcome.samples == {}
    assert run(bench, "none").verdict is Verdict.OK


def test_a_worker_that_does_not_read_is_killed_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request larger than a pipe holds, so that writing it waits for the reader."""
    deaf = "import sys, time; sys.stdin.readline(); print('{}', flush=True); time.sleep(600)"
    monkeypatch.setattr(client, "_BOOT", deaf)
    with Worker("fake_registry:Faulty", 1) as worker:
        worker.start()
        pid = worker.pid
        assert pid is not None
        began = time.monotonic()
        with pytest.raises(WorkerLate, match="no answer within 1 s"):
            worker.ask({"do": "x" * (1 << 20)}, 1.0)
        assert time.monotonic() - began < 60
        assert not psutil.pid_exists(pid)
        assert worker.pid is None


def test_hanging_candidate_is_killed_with_its_process_group(
    bench: WorkerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bench, "none")
    pid = bench._worker.pid
    assert pid is not None
    monkeypatch.setattr("headrace.autotune.bench.HARD_LIMIT", 1.0)
    outcome = run(bench, "hang")
    assert (outcome.verdict, outcome.cut) == (Verdict.TIMEOUT, False)
    assert not psutil.pid_exists(pid)


def test_budget_that_ends_first_says_nothing_about_the_candidate(bench: WorkerBench) -> None:
    outcome = run(bench, "hang", seconds=1.0)
    assert outcome.cut


def test_worker_that_cannot_start_says_why() -> None:
    with Worker("no_such_module:Thing", 1) as worker, pytest.raises(WorkerError, match="no_such_module"):
        worker.start()


def test_worker_dies_with_its_tuner() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        worker = Worker("fake_registry:Faulty", 1)
        worker.start()
        os.write(write, str(worker.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pid = int(os.read(read, 100))
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlives its tuner"
        time.sleep(0.05)


def test_device_survives_the_wire() -> None:
    assert device_of(device_fields(DEVICE)) == DEVICE
    with pytest.raises(WorkerError):
        decode(b"not json\n")
