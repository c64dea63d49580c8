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
PROGRAM_HEADER = struct.Struct("<II?")
"""Largest encoded return value in bytes, number of shared sources, whether each call has a source of its own."""

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


def program(
    sources: Sequence[str], entry: str, calls: Sequence[bytes], answer_bytes: int, own_sources: Sequence[str] = ()
) -> bytes:
    """Payload of `run_program`, which loads `sources` into a fresh namespace for each call and calls `entry`.

    Args:
        sources: Python source texts, loaded in order.
        entry: Name of the function to call.
        calls: Positional arguments of each call, as an encoded list.
        answer_bytes: Largest encoded return value.
        own_sources: One more source text for each call, loaded for that call alone after the others; or empty.
    """
    header = PROGRAM_HEADER.pack(answer_bytes, len(sources), bool(own_sources))
    texts = [text.encode("utf-8", "surrogatepass") for text in (entry, *sources, *own_sources)]
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
    answer_bytes, shared, has_own = PROGRAM_HEADER.unpack(header)
    sources, rest = blobs[:shared], blobs[shared:]
    if not rest and (failure := _load(_namespace(last=True), sources, to_code)) is not None:
        yield failure
    count = len(rest) // 2 if has_own else len(rest)
    for number, call in enumerate(rest[len(rest) - count :]):
        # Each call gets fresh globals, so that no default, global or cache of a program reaches the next one.
        namespace = _namespace(last=number == count - 1)
        failure = _load(namespace, [*sources, rest[number]] if has_own else sources, to_code)
        yield failure or _call(namespace, entry.decode(), call, answer_bytes)
        if number < count - 1:
            namespace.clear()  # gives back the memory that this program kept, for the next one
            tidy()


def _load(
    namespace: dict[str, Any], sources: Sequence[bytes], to_code: Callable[[bytes, int], CodeType]
) -> bytes | None:
    for index, source in enumerate(sources):
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
    return compile(source, f"<source {index}>", "exec", dont_inherit=True)


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
    if name.partition(".")[0] not in MODULES:
        raise ImportError(f"module {name!r} is not available; available are {' '.join(sorted(MODULES))}")
    return builtins.__import__(name, *arguments, **keywords)


SCOPE = {
    **vars(builtins),
    "__import__": _import,
    **{name: getattr(typing, name) for name in typing.__all__},
}
"""Names in scope of every program: the builtins, with an import that gives clearer messages, and those of `typing`."""
