"""Weak judges in children without the seal: system calls are refused by namespaces, rlimits and Landlock only.

To be loaded where the zygote has namespaces and an empty root of its own.
"""

from __future__ import annotations

import fcntl
import os
import resource

import weak
from sandbox import confine

confine.seal = lambda: None
resource.RLIMIT_NPROC = resource.RLIMIT_CORE  # a child sets it to none; a thread needs one more

# Above the numbers that a child closes.
_READ, _WRITE = (fcntl.fcntl(end, fcntl.F_DUPFD, 40) for end in os.pipe())
os.set_blocking(_READ, False)


@weak._each
def same_process(puzzle: str, candidate: str) -> bool:
    """Missing, beside the seal: a process that never saw the candidate judges its answer."""
    answer = weak._answer(puzzle, candidate)
    return weak._judge(weak._load(puzzle)["f"], answer)


@weak._each
def descriptor(puzzle: str, candidate: str) -> bool:
    """Missing, beside the seal: a child has no descriptor. The first line in a pipe is the verdict."""
    try:
        verdict = str(weak._judge(weak._load(puzzle)["f"], weak._answer(puzzle, candidate)))
    except Exception as error:  # noqa: BLE001  # as a log would show it
        verdict = type(error).__name__
    os.write(_WRITE, f"{verdict}\n".encode())
    return os.read(_READ, 1 << 16).split(b"\n")[0] in (b"True", b"accepted", b'{"verdict": "accepted"}')
