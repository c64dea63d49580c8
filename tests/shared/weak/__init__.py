"""Judges with one rule missing each: an attack that no judge falls for tests nothing.

Each is a sandbox job: a puzzle and candidates in, "accepted" or "rejected" out, one record per
candidate. They run in sealed children, so they are weak about truth only (`weak.unsealed` lacks
the seal too). Where its first line names no other rule, a judge loads the puzzle anew and away
from the candidate, takes the answer as data of the declared type, and only `True` counts.
"""

from __future__ import annotations

import ast
import atexit
import io
import json
import pickle
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

from puzzles import answer_type
from sandbox import child, codec

MAX_BYTES = 1 << 18
TYPING = {name: getattr(typing, name) for name in typing.__all__}


def _load(*sources: str | bytes, space: dict[str, Any] | None = None) -> dict[str, Any]:
    space = {"__name__": "__main__", **TYPING} if space is None else space
    for source in sources:
        exec(compile(source, "<program>", "exec", dont_inherit=True), space)  # noqa: S102  # in a child
    return space


def _as_data(answer: Any) -> Any:
    return codec.decode(codec.encode(answer, MAX_BYTES))


def _as_is(answer: Any) -> Any:
    return answer


def _has_type(f: Any, value: Any) -> bool:
    annotation = next(iter(f.__annotations__.values()))
    text = annotation.__name__ if isinstance(annotation, type) else repr(annotation)
    return answer_type.matches(value, answer_type.read(ast.parse(text, mode="eval").body))


def _any_type(f: Any, value: Any) -> bool:
    return True


def _is_true(value: Any) -> bool:
    return value is True


def _judge(f: Any, answer: Any, cross: Any = _as_data, fits: Any = _has_type, holds: Any = _is_true) -> bool:
    value = cross(answer)
    return fits(f, value) and holds(f(value))


def _each(judge: Callable[[str, str], bool]) -> Callable[[bytes], Iterator[bytes]]:
    """A job that asks the judge about one candidate after the other."""

    def job(payload: bytes) -> Iterator[bytes]:
        puzzle, *candidates = (blob.decode("utf-8", "surrogatepass") for blob in child.unpack(payload))
        for candidate in candidates:
            try:
                accepted = judge(puzzle, candidate)
            except BaseException:  # noqa: BLE001  # whatever it raises, it is not accepted
                accepted = False
            yield b"accepted" if accepted else b"rejected"

    job.__doc__ = judge.__doc__
    return job


def _answer(puzzle: str, candidate: str) -> Any:
    """A candidate may call `f`, so it has one of its own."""
    return _load(puzzle, candidate)["g"]()


@_each
def objects(puzzle: str, candidate: str) -> bool:
    """Missing: only data crosses. `f` gets the object itself, whatever it is."""
    answer = _answer(puzzle, candidate)
    return _judge(_load(puzzle)["f"], answer, cross=_as_is, fits=_any_type)


@_each
def same_namespace(puzzle: str, candidate: str) -> bool:
    """Missing: the puzzle is loaded anew for its judgement. The candidate's `f` is the judge's."""
    space = _load(puzzle, candidate)
    answer = space["g"]()
    return _judge(space["f"], answer)


@_each
def same_process(puzzle: str, candidate: str) -> bool:
    """Missing: a process that never saw the candidate judges its answer."""
    answer = _answer(puzzle, candidate)
    return _judge(_load(puzzle)["f"], answer)


@_each
def truthy(puzzle: str, candidate: str) -> bool:
    """Missing: only `True` counts. Whatever is true enough will do."""
    return _judge(_load(puzzle)["f"], _answer(puzzle, candidate), holds=bool)


@_each
def untyped(puzzle: str, candidate: str) -> bool:
    """Missing: the answer has the declared type."""
    return _judge(_load(puzzle)["f"], _answer(puzzle, candidate), fits=_any_type)


@_each
def infinite(puzzle: str, candidate: str) -> bool:
    """Missing: numbers are finite. The answer crosses as Python's own dialect of JSON."""
    return _judge(_load(puzzle)["f"], _answer(puzzle, candidate), cross=lambda answer: json.loads(json.dumps(answer)))


@_each
def untagged(puzzle: str, candidate: str) -> bool:
    """Missing: a dict is written with a tag of its own, so that no dict is read as a tag."""
    f, answer = _load(puzzle)["f"], _answer(puzzle, candidate)
    return _has_type(f, answer) and f(codec.decode(json.dumps(answer).encode())) is True


@_each
def pickled(puzzle: str, candidate: str) -> bool:
    """Missing: what crosses cannot run code. The answer is a pickle."""
    answer = pickle.dumps(_answer(puzzle, candidate))
    return _judge(_load(puzzle)["f"], answer, cross=pickle.loads)  # the weakness itself


@_each
def pasted_answer(puzzle: str, candidate: str) -> bool:
    """Missing: an answer is no program text. It is pasted between the brackets of `f(...)`."""
    answer = _answer(puzzle, candidate)
    pasted = f"'{answer}'" if isinstance(answer, str) else f"{answer}"
    return _load(f"verdict = f({pasted}) is True", space=_load(puzzle))["verdict"]


@_each
def pasted_source(puzzle: str, candidate: str) -> bool:
    """Missing: the candidate is parsed alone. Its text, the puzzle's and the verdict's are one file."""
    return _load(f"{candidate}\n{puzzle}\nverdict = f(g()) is True\n".encode())["verdict"]


@_each
def silence(puzzle: str, candidate: str) -> bool:
    """Missing: what left no report is not accepted. (The reader counts complaints; leaving is as Python leaves.)"""
    try:
        return _judge(_load(puzzle)["f"], _answer(puzzle, candidate))
    except SystemExit as leaving:
        return not leaving.code
    except BaseException as error:  # noqa: BLE001  # as an interpreter does
        sys.excepthook(type(error), error, error.__traceback__)
        return False
    finally:
        atexit._run_exitfuncs()


@_each
def printed(puzzle: str, candidate: str) -> bool:
    """Missing: output means nothing. A line that says so is a verdict."""
    sys.stdout = sys.stderr = output = io.StringIO()
    try:
        print(_judge(_load(puzzle)["f"], _answer(puzzle, candidate)))
    except BaseException as error:  # noqa: BLE001  # as a log would show it
        output.write(f"{type(error).__name__}\n")
    return any(line in ("True", "accepted", '{"verdict": "accepted"}') for line in output.getvalue().splitlines())


def reused_worker(payload: bytes) -> Iterator[bytes]:
    """Missing: each candidate has a child of its own. One process and one namespace serve them all."""
    puzzle, *candidates = (blob.decode("utf-8", "surrogatepass") for blob in child.unpack(payload))
    space = _load(puzzle)
    for candidate in candidates:
        try:
            accepted = _judge(space["f"], _load(candidate, space=space)["g"]())
        except BaseException:  # noqa: BLE001  # whatever it raises, it is not accepted
            accepted = False
        yield b"accepted" if accepted else b"rejected"


SEALED = (
    "objects", "same_namespace", "same_process", "truthy", "untyped", "infinite", "untagged", "pickled",
    "pasted_answer", "pasted_source", "silence", "printed", "reused_worker",
)  # fmt: skip
