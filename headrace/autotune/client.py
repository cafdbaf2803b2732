"""The tuner's side of a worker: started when needed, killed with its process group when late, replaced when
lost.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, Self

from headrace.autotune.wire import Message, decode, encode
from headrace.errors import WorkerError

START_SECONDS = 180.0
# The worker finds modules where this process does, installed or not.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from headrace.autotune.worker import main; main()"
)


class WorkerLost(Exception):
    """The worker ended in the middle of a request; the text says how (`signal 11`, `exit 3`)."""


class WorkerLate(Exception):
    """The worker did not answer in time and was killed."""


class Worker:
    """One isolated process, reused over requests, not thread-safe; 0 threads leave torch's own number."""

    def __init__(self, registry: str, threads: int) -> None:
        self._hello: Message = {"do": "hello", "registry": registry, "threads": threads}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._buffer = b""

    @property
    def pid(self) -> int | None:
        """The process in use, None before the first request and after a loss."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process, if none runs, and wait until it is ready.

        Raises:
            WorkerError: it does not come up; carries its last words.
        """
        if self._process is not None:
            return
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps([entry or os.getcwd() for entry in sys.path])],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # a process group: Ctrl-C stays ours, a kill takes children along
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        try:
            self._exchange(self._hello, START_SECONDS)
        except (WorkerLost, WorkerLate) as error:
            raise WorkerError(f"the tuning worker does not start ({error}): {self._last_words()}") from None

    def ask(self, request: Message, timeout: float) -> Message:
        """Send a request and wait for its reply.

        Raises:
            WorkerLost, WorkerLate: no reply; the next request starts a new process.
            WorkerError: a new process does not come up.
        """
        self.start()
        return self._exchange(request, timeout)

    def stop(self) -> None:
        """End the process and everything it started."""
        process, self._process, self._buffer = self._process, None, b""
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _exchange(self, request: Message, timeout: float) -> Message:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            deadline = time.monotonic() + timeout
            _send(process.stdin.fileno(), encode(request), deadline)
            return decode(self._line(process, deadline))
        except BrokenPipeError:
            raise WorkerLost(self._ending(process)) from None
        except TimeoutError:
            self.stop()
            raise WorkerLate(f"no answer within {timeout:.0f} s") from None
        except BaseException:
            self.stop()  # also on Ctrl-C: a reply that nobody reads would answer the next request
            raise

    def _line(self, process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """The next line of the worker's output. Raises TimeoutError at the deadline."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError
                block = os.read(process.stdout.fileno(), 1 << 16)
                if not block:
                    raise WorkerLost(self._ending(process))
                self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _ending(self, process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        self.stop()
        if code is None:
            return "closed its output"
        return f"signal {-code}" if code < 0 else f"exit {code}"

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _send(handle: int, data: bytes, deadline: float) -> None:
    """Write all of `data` into a pipe that does not block. Raises TimeoutError at the deadline."""
    left = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_WRITE)
        while left:
            seconds = deadline - time.monotonic()
            if seconds <= 0 or not selector.select(seconds):
                raise TimeoutError
            left = left[os.write(handle, left) :]
