"""Helper process: writes chats by the templates of models, each within limits of time and memory.

It imports nothing of this project. Each line of its input is a question, each line of its output an answer, as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

CPU_SECONDS = 2.0
"""CPU time of one chat. The process ends when it is spent: even one operation may take for ever."""
MEMORY_BYTES = 512 << 20
FILE_BYTES = 1 << 20
"""Largest file that it may write: libraries try whether they could."""
MOST_CHARACTERS = 4_000_000
"""Longest chat."""


def answered(question: dict[str, Any], render: Any) -> dict[str, Any]:
    """The chat, or why there is none."""
    try:
        (written,), _ = render(
            conversations=[question["messages"]],
            chat_template=question["template"],
            add_generation_prompt=question["add_generation_prompt"],
            **question["tokens"],
        )
        if len(written) > MOST_CHARACTERS:
            return {"refused": f"it writes {len(written):,} characters"}
    except MemoryError:
        return {"refused": f"it takes more than {MEMORY_BYTES >> 20} MiB of memory"}
    except Exception as error:  # noqa: BLE001  # a template may raise anything
        return {"failed": str(error)[:10_000], "kind": type(error).__name__}
    return {"written": written}


def limit(kind: int, most: int) -> None:
    """Set a limit of this process, unless a narrower one holds already."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def main() -> None:
    """Answer until the input ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    with open("/proc/self/statm", encoding="ascii") as file:
        room = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    limit(resource.RLIMIT_AS, room)
    limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted command closes the input
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        found = answered(json.loads(line), render_jinja_template)
        text = json.dumps(found)
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        answers.write(text + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
