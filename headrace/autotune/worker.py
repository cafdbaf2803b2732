"""The isolated process that builds, verifies and times candidates: it may hang or crash, the tuner may not.

It reads requests from standard input and writes replies to what was standard output; anything a library
prints goes to standard error. It ends when its input does, or when the tuner dies.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections import OrderedDict
from typing import IO, TYPE_CHECKING

from headrace.autotune.db.rows import Verdict, check_fields
from headrace.autotune.registry import Kernel, Registry, load_registry
from headrace.autotune.wire import Message, decode, device_of, encode, torch_name
from headrace.ir.schedule import Schedule
from headrace.ir.spec import parse_spec

if TYPE_CHECKING:
    import torch

    from headrace.autotune.measure import Ring
    from headrace.autotune.verify import Case

CASE_BYTES = 1 << 30
KERNELS = 64


def main() -> None:
    """Serve until the input ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, replies)


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer each line of `requests`; the first one names the registry and the number of threads."""
    bench: _Bench | None = None
    for line in requests:
        message = decode(line)
        if message["do"] == "hello":
            import torch

            if message["threads"]:
                torch.set_num_threads(message["threads"])
            bench = _Bench(load_registry(message["registry"]))
            replies.write(encode({"ready": True}))
        elif bench is not None:
            replies.write(encode(bench.trial(message)))


def _die_with_parent() -> None:
    """Ask Linux for SIGKILL when the tuner dies, so that a hanging kernel is not left behind."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return


class _Bench:
    """Kernels, reference cases and timing rings of recent requests."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._kernels: OrderedDict[tuple[object, ...], Kernel] = OrderedDict()
        self._cases: OrderedDict[tuple[object, ...], Case] = OrderedDict()
        self._case_bytes = 0
        self._arena: torch.Tensor | None = None
        self._ring: tuple[object, Ring] | None = None

    def trial(self, message: Message) -> Message:
        """Build and check the schedules asked for, then race them.

        Request: spec, sizes, device, `check` (schedules to verify), `race` (schedules to time, the first is
        the one to beat), seeds, repeats, cache, warmup, rounds, single, slow_factor,
        limit_seconds.
        Reply: `verdict`, `cause`, `check` of the first schedule that failed or of the last one; when all are
        right `samples` and `slow` of the race.
        """
        from headrace.autotune.measure import race
        from headrace.autotune.verify import scrub

        verdict, cause, evidence = Verdict.OK, "", None
        for text in message["check"]:
            try:
                kernel = self._kernel(message, text)
            except Exception as error:
                return _reply(Verdict.UNBUILDABLE, scrub(f"{type(error).__name__}: {error}"))
            verdict, cause, evidence = self._check(message, kernel, text)
            if verdict is not Verdict.OK:
                return _reply(verdict, cause)
        reply = _reply(verdict, cause) | {"check": evidence}
        if not message["race"]:
            return reply
        try:
            runners = [self._kernel(message, text) for text in message["race"]]
            result = race(
                runners,
                self._operands(message),
                warmup=message["warmup"],
                rounds=message["rounds"],
                slow_factor=message["slow_factor"],
                limit_seconds=message["limit_seconds"],
                single=message["single"],
                device=torch_name(device_of(message["device"])),
            )
        except Exception as error:
            return _reply(Verdict.CRASHED, scrub(f"{type(error).__name__}: {error}"))
        return reply | {"samples": result.samples, "slow": result.slow}

    def _check(self, message: Message, kernel: Kernel, text: str) -> tuple[Verdict, str, Message | None]:
        from headrace.autotune.verify import verify

        judgement = verify(
            kernel,
            parse_spec(message["spec"]),
            tuple(message["sizes"]),
            message["seeds"],
            repeats=message["repeats"],
            bitwise=Schedule.parse(text).dataflow != "library",
            device=torch_name(device_of(message["device"])),
            cases=self._case,
        )
        if judgement.verdict is not Verdict.OK:
            self._cases.clear()  # it may have written to its operands
            self._case_bytes = 0
        check = check_fields(judgement.check) if judgement.check else None
        return judgement.verdict, judgement.cause, check

    def _kernel(self, message: Message, text: str) -> Kernel:
        key = (message["spec"], *message["sizes"], text)
        if key not in self._kernels:
            spec, device = parse_spec(message["spec"]), device_of(message["device"])
            sizes = tuple(message["sizes"])
            self._kernels[key] = self._registry.instantiate(spec, sizes, Schedule.parse(text), device)
            while len(self._kernels) > KERNELS:
                self._kernels.popitem(last=False)
        self._kernels.move_to_end(key)
        return self._kernels[key]

    def _case(self, *key: object) -> Case:
        from headrace.autotune.verify import make_case

        if key not in self._cases:
            case = make_case(*key)  # type: ignore[arg-type]  # a key is make_case's arguments
            self._cases[key] = case
            self._case_bytes += case.nbytes
            while self._case_bytes > CASE_BYTES and len(self._cases) > 1:
                _, old = self._cases.popitem(last=False)
                self._case_bytes -= old.nbytes
        self._cases.move_to_end(key)
        return self._cases[key]

    def _operands(self, message: Message) -> Ring:
        import torch

        from headrace.autotune.measure import COLD_BYTES, make_ring

        key = (message["spec"], tuple(message["sizes"]), message["cache"])
        if self._ring is None or self._ring[0] != key:
            self._ring = None
            device = torch_name(device_of(message["device"]))
            cold = message["cache"] == "cold"
            if cold and self._arena is None:
                self._arena = torch.empty(COLD_BYTES, dtype=torch.uint8, device=device)
            ring = make_ring(
                parse_spec(message["spec"]), tuple(message["sizes"]), message["seeds"][0],
                cold=cold, device=device, arena=self._arena,
            )  # fmt: skip
            self._ring = (key, ring)
        return self._ring[1]


def _reply(verdict: Verdict, cause: str) -> Message:
    return {"verdict": verdict.value, "cause": cause, "check": None}
