"""The harness that runs inside a child, around one program. It holds the repository's only `exec` and `eval`.

The harness shares its memory with the program, so nothing it reports is a verdict. A program that overwrites its own
report only changes its own answer (see the theory of operation in `pool`).
"""

from __future__ import annotations

import builtins
import functools
import os
import resource
import signal
import struct
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

from sandbox import codec, confine
from sandbox.result import Limits

# The first byte of a record says how one call of a program ended.
VALUE = b"V"
"""The call returned; the encoded value follows."""
UNANSWERABLE = b"U"
"""The call returned a value that is not plain data, or is too large; the reason follows."""
RAISED = b"E"
"""The call raised; 'Type: message' follows."""
MEMORY = b"M"
"""The call ran out of memory."""
REFUSED = b"R"
"""The program was not run, because it may not share a process (`harmless`)."""
NOT_LOADED = b"L"
"""A source text did not load; its index as one digit follows, then 'Type: message'."""

REQUEST_HEADER = struct.Struct("<dI")
"""CPU limit in seconds, payload length in bytes."""
RESPONSE_HEADER = struct.Struct("<8sII")
"""Magic, state, number of records; each record is its length (4 bytes) and its bytes."""
MAGIC = b"records\0"
RUNNING, FINISHED, OUT_OF_MEMORY, FAILED = range(4)
RECORD_LENGTH = struct.Struct("<I")
MESSAGE_CHARACTERS = 200

NO_ARGUMENTS = b"[]"
PROGRAM_HEADER = struct.Struct("<II??")
"""Largest encoded return value in bytes, number of shared sources, whether each call has a source of its own, whether
there is a program that the others see."""

Job = Callable[[bytes], Iterator[bytes]]


class Refused(Exception):
    """A source text may not run here."""


def value_of(expression: str | CodeType, names: dict[str, Any]) -> Any:
    """The value of an expression, with only these names beside the builtins.

    An expression that a model wrote may be evaluated in a child only. The supervisor may evaluate those that this
    project wrote.
    """
    return eval(expression, dict(names))


def request_bytes(limits: Limits) -> int:
    """Capacity of the slot for a job's payload, in bytes: two answers of full size and 1 MiB of source text."""
    return 2 * limits.answer_bytes + 1024 * 1024


def response_bytes(limits: Limits) -> int:
    """Capacity of the slot for a job's records, in bytes: one answer of full size and 128 KiB for everything else."""
    return limits.answer_bytes + 128 * 1024


def slot_bytes(limits: Limits) -> int:
    """Size of the shared memory, in bytes: a request and a response."""
    return REQUEST_HEADER.size + request_bytes(limits) + RESPONSE_HEADER.size + response_bytes(limits)


class Sink:
    """A program's standard output, which is thrown away."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Pretend to write the text."""
        return len(text)

    def flush(self) -> None:
        """Do nothing, because nothing is buffered."""


def main(slot: Any, limits: Limits, function: Job) -> None:
    """Run the job in the slot and exit; never returns."""
    try:
        os.closerange(0, 32)
        cpu_seconds, length = REQUEST_HEADER.unpack_from(slot, 0)
        confine.limit_cpu(cpu_seconds)
        seconds = int(cpu_seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        confine.seal()
    except BaseException:
        # The sandbox failed. SIGKILL reports it, because no sealed program can send that signal.
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdout = sys.stderr = Sink()
    sys.stdin = None  # makes input() raise
    _report(slot, limits, function, length)
    os._exit(0)


def _report(slot: Any, limits: Limits, function: Job, length: int) -> None:
    payload = slot[REQUEST_HEADER.size : REQUEST_HEADER.size + length]
    start = REQUEST_HEADER.size + request_bytes(limits)
    end = start + RESPONSE_HEADER.size + response_bytes(limits)
    position = start + RESPONSE_HEADER.size
    count, state = 0, FINISHED
    try:
        for record in function(payload):
            after = position + RECORD_LENGTH.size + len(record)
            if after > end:
                raise OverflowError("the job's records exceed the slot")
            RECORD_LENGTH.pack_into(slot, position, len(record))
            slot[position + RECORD_LENGTH.size : after] = record
            position, count = after, count + 1
            RESPONSE_HEADER.pack_into(slot, start, MAGIC, RUNNING, count)
    except MemoryError:
        state = OUT_OF_MEMORY
    except BaseException as error:
        state = FAILED
        message = describe(error)
        if position + RECORD_LENGTH.size + len(message) <= end:
            RECORD_LENGTH.pack_into(slot, position, len(message))
            slot[position + RECORD_LENGTH.size : position + RECORD_LENGTH.size + len(message)] = message
            count += 1
    RESPONSE_HEADER.pack_into(slot, start, MAGIC, state, count)


def describe(error: BaseException) -> bytes:
    """'Type: message' of an exception. The exception's own methods may be hostile."""
    try:
        text = f"{type(error).__name__}: {error}"
        return text[:MESSAGE_CHARACTERS].encode("utf-8", "replace")
    except BaseException:
        return b"Exception: (it cannot be printed)"


def pack(blobs: Sequence[bytes]) -> bytes:
    """The blobs joined, each after its length. Payloads have this form."""
    return b"".join(RECORD_LENGTH.pack(len(blob)) + blob for blob in blobs)


def unpack(data: bytes) -> list[bytes]:
    """The blobs that `pack` joined."""
    blobs, position = [], 0
    while position < len(data):
        (length,) = RECORD_LENGTH.unpack_from(data, position)
        position += RECORD_LENGTH.size
        blobs.append(data[position : position + length])
        position += length
    return blobs


@dataclass(frozen=True)
class Seen:
    """A program whose names another program sees, while each has a namespace of its own."""

    source: str
    entry: str
    """Name of its function."""
    alias: str
    """Name by which the other program may call this function too, unless `source` gives that name a meaning."""


def program(
    sources: Sequence[str],
    entry: str,
    calls: Sequence[bytes],
    answer_bytes: int,
    own_sources: Sequence[str] = (),
    seen: Seen | None = None,
) -> bytes:
    """Payload of `run_program`, which loads `sources` into a fresh namespace for each call and calls `entry`.

    Args:
        sources: Python source texts, loaded in order.
        entry: Name of the function to call.
        calls: Positional arguments of each call, as an encoded list.
        answer_bytes: Largest encoded return value.
        own_sources: One more source text for each call, loaded for that call alone after the others; or empty.
        seen: A program that is loaded before all others, in a namespace of its own.
    """
    header = PROGRAM_HEADER.pack(answer_bytes, len(sources), bool(own_sources), seen is not None)
    before = [seen.source, seen.entry, seen.alias] if seen else []
    texts = [text.encode("utf-8", "surrogatepass") for text in (entry, *before, *sources, *own_sources)]
    return pack([header, *texts, *calls])


def run_program(payload: bytes) -> Iterator[bytes]:
    """Job: yields one record per call, in order. Without calls it yields one record if the sources do not load."""
    return run_calls(payload, compiled)


def run_calls(
    payload: bytes, to_code: Callable[[bytes, int], CodeType], tidy: Callable[[], object] = lambda: None
) -> Iterator[bytes]:
    """The job behind `run_program`, with a choice of how sources are compiled and what happens between calls.

    Args:
        payload: From `program`.
        to_code: Compiles a source text with its index. It may refuse the source by raising `Refused`.
        tidy: Called between two calls.
    """
    header, entry, *blobs = unpack(payload)
    answer_bytes, shared, has_own, has_seen = PROGRAM_HEADER.unpack(header)
    seen, blobs = (blobs[:3], blobs[3:]) if has_seen else ([], blobs)
    sources, rest = blobs[:shared], blobs[shared:]
    if not rest:
        names, failure = _namespaces(seen, to_code, last=True)
        if (failure := failure or _load(names[-1], sources, to_code, has_seen)) is not None:
            yield failure
    count = len(rest) // 2 if has_own else len(rest)
    for number, call in enumerate(rest[len(rest) - count :]):
        own = [*sources, rest[number]] if has_own else sources
        # Each call gets fresh globals, so that no default, global or cache of a program reaches the next one.
        names, failure = _namespaces(seen, to_code, last=number == count - 1)
        _seed([*seen[:1], *own, call])
        failure = failure or _load(names[-1], own, to_code, has_seen)
        yield failure or _call(names[-1], entry.decode(), call, answer_bytes)
        if number < count - 1:
            for namespace in names:
                namespace.clear()  # gives back the memory that this program kept, for the next one
            tidy()


def _namespaces(
    seen: Sequence[bytes], to_code: Callable[[bytes, int], CodeType], last: bool
) -> tuple[list[dict[str, Any]], bytes | None]:
    """Fresh globals of a program, after those of the program that it sees, which is loaded; and why it did not load."""
    namespace = _namespace(last)
    if not seen:
        return [namespace], None
    source, entry, alias = seen
    failure = _load(namespace, [source], to_code)
    visible = dict(namespace)
    if failure is None and entry.decode() in namespace:
        visible.setdefault(alias.decode(), namespace[entry.decode()])
    return [namespace, visible], failure


DRAWING = (b"random", b"__import__", b"modules")
"""What the text of a program holds that draws random numbers."""
WORLD_SEED: int | None = None
"""Seed of the world's random numbers; the zygote sets it if programs may import `random`."""


def _seed(parts: Sequence[bytes]) -> None:
    """Seed `random` for one call, by the world and by what is called. No program can be written for a known sequence.

    Seeding touches memory that the child shares with the zygote, so it is left out where nothing can draw.
    """
    if WORLD_SEED is not None and any(mark in part for part in parts for mark in DRAWING):
        import random

        random.seed(WORLD_SEED.to_bytes(8, "little") + pack(parts))


def _load(
    namespace: dict[str, Any], sources: Sequence[bytes], to_code: Callable[[bytes, int], CodeType], first: int = 0
) -> bytes | None:
    """Run source texts in a namespace. Returns the record of a failure, if there is one; `first` is the first index."""
    for index, source in enumerate(sources, first):
        try:
            exec(to_code(source, index), namespace)
        except Refused:
            return REFUSED
        except MemoryError:
            return MEMORY
        except BaseException as error:
            return NOT_LOADED + str(index).encode() + describe(error)
    return None


@functools.cache
def compiled(source: bytes, index: int) -> CodeType:
    """The code of a source text; `index` names it in tracebacks."""
    return compile(as_text(source), f"<source {index}>", "exec", dont_inherit=True)


def as_text(source: bytes) -> str:
    """The text of a source.

    Python would decode bytes by the coding that a comment names, so that one text could be two programs.
    """
    return source.decode("utf-8", "surrogatepass")


def _call(namespace: dict[str, Any], entry: str, call: bytes, answer_bytes: int) -> bytes:
    try:
        value = namespace[entry](*(codec.decode(call) if call != NO_ARGUMENTS else ()))
    except MemoryError:
        return MEMORY
    except BaseException as error:
        return RAISED + describe(error)
    try:
        return VALUE + codec.encode(value, answer_bytes)
    except codec.CodecError as error:
        return UNANSWERABLE + describe(error)
    except MemoryError:
        return MEMORY
    except BaseException as error:
        return RAISED + describe(error)


def _namespace(last: bool) -> dict[str, Any]:
    """Fresh globals for a program.

    The last program of a child gets the zygote's own scope. A copy of it would touch the pages of all its 270 members,
    and the kernel would have to copy those (0.25 ms).
    """
    return {"__name__": "program", "__builtins__": SCOPE if last else SCOPE.copy()}


MODULES: frozenset[str] = frozenset()
"""Modules that programs may import; the zygote sets it. A child cannot open files, so it can only import modules that
are already loaded. This list only gives a clear message in place of a strange failure."""


def _import(name: str, *arguments: Any, **keywords: Any) -> Any:
    if name.partition(".")[0] not in MODULES and name != "__future__":
        raise ImportError(f"module {name!r} is not available; available are {' '.join(sorted(MODULES))}")
    return builtins.__import__(name, *arguments, **keywords)


SCOPE = {
    **vars(builtins),
    "__import__": _import,
    **{name: getattr(typing, name) for name in typing.__all__},
}
"""Names in scope of every program: the builtins, with an import that gives clearer messages, and those of `typing`."""
