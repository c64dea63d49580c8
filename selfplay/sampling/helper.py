"""A process of ours that does what somebody else's files ask for, so that only it can run out of time or memory.

A model's tokenizer and chat template are programs of strangers in all but name. The helper that runs them answers
questions line by line, in JSON. It bounds its own work; here it is only waited for.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from puzzles.foreign import parse_json

MOST_ANSWER_BYTES = 32 << 20
ONE_THREAD = {
    "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
"""Environment of helpers. Each thread would take address space, which is bounded."""


class HelperDied(Exception):
    """The helper ended, or did not answer in time: what it was asked for takes too much time or memory."""


class HelperLate(HelperDied):
    """The helper did not answer in time, and was ended."""


class Helper:
    """A helper process. It is started when it is first asked, and again after it has died.

    Args:
        script: Its program, which imports nothing of this project.
        arguments: The program's arguments.
    """

    def __init__(self, script: Path, *arguments: str) -> None:
        self._script, self._arguments, self._process = script, arguments, None
        self._working = threading.Lock()

    _process: subprocess.Popen[bytes] | None

    def ask(self, question: dict[str, Any], seconds: float) -> Any:
        """Its answer to a question.

        Args:
            question: Anything that JSON can hold.
            seconds: Time limit. The helper has narrower limits of its own, of CPU time.

        Raises:
            HelperDied: There is no answer.
            HelperLate: It took too long.
        """
        line = json.dumps(question).encode() + b"\n"
        with self._working:
            process = self._process
            if process is None or process.poll() is not None or not self._told(process, line):
                process = self._started()  # one that had nothing to do has ended by itself
                if not self._told(process, line):
                    self.close()
                    raise HelperDied("it cannot be started")
            try:
                return parse_json(self._line(process, time.monotonic() + seconds), "a helper's answer")
            except BaseException:
                self.close()
                raise

    def _started(self) -> subprocess.Popen[bytes]:
        self.close()
        # `-P`: Python then looks for modules in no folder that a stranger may have filled, such as the current one.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(self._script), *self._arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=os.environ | ONE_THREAD,
        )  # fmt: skip
        weakref.finalize(self, _end, self._process)
        return self._process

    @staticmethod
    def _told(process: subprocess.Popen[bytes], line: bytes) -> bool:
        assert process.stdin
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError:
            return False
        return True

    @staticmethod
    def _line(process: subprocess.Popen[bytes], deadline: float) -> bytes:
        """The next line of its output."""
        assert process.stdout
        found = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not found.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise HelperLate("it takes too long")
                part = os.read(process.stdout.fileno(), 1 << 16)
                found += part
                if not part or len(found) > MOST_ANSWER_BYTES:
                    raise HelperDied("it ended" if not part else "its answer is too long")
        return bytes(found)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            _end(self._process)
        self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
