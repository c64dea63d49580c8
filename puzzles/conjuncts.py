"""The parts of a puzzle that must all hold, and the share of them that an answer fulfils: a reward between 0 and 1.

A puzzle's conjuncts are the operands of the `and` that it returns last, and the conditions at which its body gives up:
an `assert`, and an `if` whose only statement is `return False` or `raise`. For each of them a puzzle is written that
asks this alone, with the puzzle's other statements left as they are. So a share says how near an answer is. It never
says that an answer is right: only the whole puzzle does.

The texts are made in sandbox children, because a puzzle's text may be hostile to whoever parses it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence

from puzzles.puzzle import Judgement, Puzzle, Verdict
from puzzles.verify import verify_texts
from sandbox.pool import Job, Pool

SPLIT = "puzzles.conjuncts:split"
"""Name of the sandbox job; a pool that counts conjuncts must preload it."""
MOST_CONJUNCTS = 16
"""Most conjuncts of a puzzle that are asked; the others are left out of the share."""
CPU_SECONDS = 0.2
"""CPU limit of splitting one puzzle."""


def shares(pool: Pool, judged: Sequence[tuple[Puzzle, Judgement]]) -> list[float]:
    """For each judged answer the share of the puzzle's conjuncts that it fulfils, in [0, 1].

    It is 1 for an accepted answer and below 1 for every other one. Without an answer of the right type it is 0.

    Raises:
        SandboxError: The sandbox or the machine failed.
    """
    near = [index for index, (_, judgement) in enumerate(judged) if _has_answer(judgement)]
    puzzles = {judged[index][0].judged: b"" for index in near}
    jobs = (Job(SPLIT, json.dumps(each).encode(), cpu_seconds=CPU_SECONDS, label="conjuncts") for each in puzzles)
    for key, result in zip(list(puzzles), pool.run(jobs), strict=True):
        puzzles[key] = result.records[0] if result.records else b""
    found = [1.0 if judgement.verdict == Verdict.ACCEPTED else 0.0 for _, judgement in judged]
    parts = {index: _texts(puzzles[judged[index][0].judged]) for index in near}
    asked = [(text, f"def g():\n    return {judged[i][1].answer}") for i, texts in parts.items() for text in texts]
    held = iter(verify_texts(pool, asked))
    for index, texts in parts.items():
        holding = sum(next(held).verdict == Verdict.ACCEPTED for _ in texts)
        # The parts may all hold where the whole does not: what it returns may be no bool, or a part may change state.
        found[index] = holding / max(len(texts), holding + 1)
    return found


def _has_answer(judgement: Judgement) -> bool:
    return judgement.verdict == Verdict.WRONG_ANSWER and judgement.answer is not None


def _texts(record: bytes) -> list[str]:
    """The texts of a child's record. A program cannot write there: nothing of it has run in this child."""
    return [str(text) for text in json.loads(record)] if record else []


# ---- below: what runs in a sandbox child ----


def split(payload: bytes) -> Iterator[bytes]:
    """Job for a child: yields one record with the puzzles that ask one conjunct each, as a JSON list of texts."""
    source, name = json.loads(payload)
    module = ast.parse(source)
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    texts = []
    if functions:
        whole, statements = functions[-1], functions[-1].body
        for place, condition in _conditions(statements)[:MOST_CONJUNCTS]:
            kept = [node for node in statements[:place] if _given_up_at(node) is None]
            whole.body = [*kept, ast.copy_location(ast.Return(condition), statements[place])]
            texts.append(ast.unparse(ast.fix_missing_locations(module)))
    yield json.dumps(texts).encode()


def _conditions(statements: list[ast.stmt]) -> list[tuple[int, ast.expr]]:
    """The conjuncts of a function's body, each with the place of its statement."""
    found = []
    for place, node in enumerate(statements):
        condition = _given_up_at(node)
        if condition is not None:
            found.append((place, condition))
        elif isinstance(node, ast.Return) and node.value is not None:
            *parts, last = _operands(node.value)
            found += [(place, _truth(part)) for part in parts]
            found.append((place, last))  # only `True` itself counts there
            break
    return found


def _given_up_at(node: ast.stmt) -> ast.expr | None:
    """What must hold for the body to go on behind this statement; None if it does not give up there."""
    if isinstance(node, ast.Assert):
        return _truth(node.test)
    if isinstance(node, ast.If) and not node.orelse and len(node.body) == 1:
        (only,) = node.body
        is_false = isinstance(only, ast.Return) and isinstance(only.value, ast.Constant) and only.value.value is False
        if is_false or isinstance(only, ast.Raise):
            return ast.UnaryOp(ast.Not(), node.test)
    return None


def _operands(value: ast.expr) -> list[ast.expr]:
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.And):
        return [operand for each in value.values for operand in _operands(each)]
    return [value]


def _truth(value: ast.expr) -> ast.expr:
    """Whether a value counts as true, as a bool."""
    return ast.UnaryOp(ast.Not(), ast.UnaryOp(ast.Not(), value))
