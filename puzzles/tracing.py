"""What a puzzle computes on an answer: the values that it compares, builds and calls with, as a set of hashes.

Two puzzles that ask the same in other words compute the same values on the same answer, however they are written: with
a loop or a comprehension, a helper, other names, early returns, other order. This module rewrites a puzzle's syntax
tree so that it records these values, runs it in a sandbox child, and reads the records.

The rewritten puzzle differs from the puzzle in three ways:

* It goes on where the puzzle would give up. An early `return False` or `raise` only leaves its loop, an `assert` never
  fails, and all operands of `and` and `or` are evaluated. So an answer that is refused at once still shows the rest.
* A loop ends after LOOP_STEPS rounds, and a function answers CALLS calls. So code that only costs time costs little.
* Each place of the program records at most PLACE_VALUES values, so that no place can hide the others.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

from sandbox import child, codec
from sandbox.pool import Job, Pool
from sandbox.result import Result

TRACE = "puzzles.tracing:trace"
"""Name of the sandbox job; a pool whose puzzles are traced must preload it."""

LOOP_STEPS = 400
"""Most rounds of one loop, all its runs on one answer together."""
CALLS = 400
"""Most calls of one function on one answer."""
PLACE_VALUES = 24
"""Most distinct values that one place of a program records on one answer."""
MEMBERS = 24
"""Most members of a container that count for its hash."""
PAIRED_MEMBERS = 8
"""Most members of compared containers that are also recorded one by one."""
CHARACTERS = 120
"""Most characters of a text that count for its hash."""
HEAVIEST = 15
"""Most letters and digits that count as a value's weight."""
MOST_VIEWS = 2
"""Most transformations of an answer that are tried."""
ITEM = struct.Struct("<IB")
"""A recorded value: its hash, and its weight."""
TRACED, VIEWED, SAID, REFUSED = b"T", b"W", b"S", b"R"
HEADER = struct.Struct("<III??")
"""Largest answer in bytes, number of traced answers, how many of these are looked at for transformations, whether all
are asked at once, and whether a puzzle that accepts nothing need not be traced."""

Items = dict[int, int]
"""Weights of recorded values, by the values' hashes."""


@dataclass(frozen=True)
class Asked:
    """A puzzle and the encoded answers that it is run on."""

    source: str
    traced: Sequence[bytes]
    """Answers on which it is traced. The first `own` ones have its own type and none of its transformations."""
    own: int = 0
    """Number of traced answers that show whether the puzzle first transforms its answer."""
    said: Sequence[bytes] = ()
    """Answers on which it is only asked whether it accepts them."""
    unless_refused: bool = False
    """Whether it need not be traced if it accepts none of these."""


@dataclass(frozen=True)
class Report:
    """What one puzzle did. What is missing was not reached within the limits."""

    traced: list[Items | None] = field(default_factory=list)
    """The values for each traced answer; None where a limit was met."""
    views: dict[str, list[Items]] = field(default_factory=dict)
    """The values on transformed answers, so that the puzzle sees the answers that were asked; by transformation."""
    said: list[bool | None] = field(default_factory=list)
    """Whether it accepts each further answer; None where a limit was met."""


def reports(pool: Pool, asked: Sequence[Asked], children: int, cpu_seconds: float) -> list[Report]:
    """What each puzzle does on its answers, in order.

    Args:
        pool: Runs the children. It must have preloaded TRACE.
        asked: The puzzles with their answers.
        children: Most children for one puzzle. If an answer ends a child, another one goes on behind that answer.
        cpu_seconds: CPU limit of each child.
    """
    found = [Report() for _ in asked]
    for together in (True, *[False] * (children - 1)):
        waiting = [
            index
            for index, (ask, report) in enumerate(zip(asked, found, strict=True))
            if len(report.traced) < len(ask.traced) or len(report.said) < len(ask.said)
        ]
        rests = [_rest(asked[index], found[index]) for index in waiting]
        jobs = (Job(TRACE, _payload(pool, rest, together), 1, "tracing a puzzle", cpu_seconds) for rest in rests)
        for index, rest, result in zip(waiting, rests, pool.run(jobs), strict=True):
            _read(result, rest, found[index], together)
    return [
        replace(
            report,
            traced=report.traced + [None] * (len(ask.traced) - len(report.traced)),
            said=report.said + [None] * (len(ask.said) - len(report.said)),
        )
        for ask, report in zip(asked, found, strict=True)
    ]


def _rest(asked: Asked, done: Report) -> Asked:
    """What is still to be asked."""
    own = asked.own if not done.traced else 0
    return Asked(
        asked.source, asked.traced[len(done.traced) :], own, asked.said[len(done.said) :], asked.unless_refused
    )


def _payload(pool: Pool, asked: Asked, together: bool) -> bytes:
    """The job's payload, with as many of the answers as fit."""
    source = asked.source.encode("utf-8", "surrogatepass")
    room = 2 * pool.limits.answer_bytes + 512 * 1024 - len(source)
    sizes = itertools.accumulate(len(answer) + 16 for answer in (*asked.traced, *asked.said))
    fitting = max(1, sum(size <= room for size in sizes))
    traced = asked.traced[:fitting]
    said = asked.said[: fitting - len(traced)]
    header = HEADER.pack(
        pool.limits.answer_bytes, len(traced), min(asked.own, len(traced)), together, asked.unless_refused
    )
    return child.pack([header, source, *traced, *said])


def _read(result: Result, asked: Asked, report: Report, together: bool) -> None:
    """Add a child's records to a report. A program can write into them, so nothing in them is trusted."""
    view, traced, said = "", 0, 0
    for record in result.records:
        tag, content = record[:1], record[1:]
        if tag == VIEWED:
            view = content.decode("ascii", "replace")
            report.views.setdefault(view, [])
        elif tag == REFUSED:
            report.traced.extend([{}] * (len(asked.traced) - len(report.traced)))
        elif tag == TRACED and view:
            report.views[view].append(_items(content))
        elif tag == TRACED and traced < len(asked.traced):
            report.traced.append(_items(content))
            traced += 1
        elif tag == SAID and said < len(asked.said):
            report.said.append(content == b"1")
            said += 1
    if together:
        return  # which answer ended the child is not known: the next one is asked about each for itself
    # The answer that ended the child is the first one without a record. The next child goes on behind it.
    if traced < len(asked.traced):
        report.traced.append(None)
    elif said < len(asked.said):
        report.said.append(None)


def _items(content: bytes) -> Items:
    return dict(ITEM.iter_unpack(content[: len(content) // ITEM.size * ITEM.size]))


# ---- below: what runs in a child ----


ASK = "__traced_ask__"
ASKING = f"""
def {ASK}(answers):
    said = []
    for answer in answers:
        try:
            said.append(f(answer) is True)
        except (Exception, __traced_stop__):
            said.append(False)
        __traced_next__()
    return said
"""
"""Asks a puzzle about many answers. To load it for each of them would take most of the time."""
child.compiled(ASKING.encode(), 1)  # every child inherits the code


def trace(payload: bytes) -> Iterator[bytes]:
    """Job for a child: yields the values for each traced answer and view, and what was accepted."""
    header, source, *answers = child.unpack(payload)
    answer_bytes, traced, own, together, unless_refused = HEADER.unpack(header)
    text = source.decode("utf-8", "surrogatepass")
    recorder = Recorder()
    child.SCOPE.update(IDLE)

    def run(asked: Sequence[bytes], to_code: Callable[[bytes, int], CodeType], at_once: bool) -> Iterator[bool]:
        """Whether each answer is accepted. An answer that ends the child ends those behind it too, or all at once."""
        calls = [b"[[" + b",".join(asked) + b"]]"] if at_once else [b"[[" + answer + b"]]" for answer in asked]
        program = child.program([text, ASKING], ASK, calls if asked else [], answer_bytes)
        for record in child.run_calls(program, to_code) if asked else ():
            if record[:1] == child.VALUE:
                yield from codec.decode(record[1:])
            elif not at_once:
                yield False

    if together:
        # Most puzzles refuse all, and need not be traced. Slow ones are traced first, which takes less time.
        accepted = [*run(answers[traced:], child.compiled, True)]
        yield from (SAID + (b"1" if said else b"0") for said in accepted)
        if unless_refused and len(accepted) == len(answers) - traced and not any(accepted):
            yield REFUSED
            return
    child.SCOPE.update(recorder.scope())
    views: set[tuple[str, Any]] | None = None
    for number, _ in enumerate(run(answers[:traced], recorder.instrumented, together)):
        values = recorder.runs[number] if number < len(recorder.runs) else set()
        if number < own:
            found = _views(codec.decode(answers[number]), values)
            views = found if views is None else views & found
        yield TRACED + _packed(values)
    for view in sorted(views or (), key=_strangeness, reverse=True)[:MOST_VIEWS]:
        yield VIEWED + f"{view[0]} {view[1]}".strip().encode("ascii", "replace")
        changed = [codec.encode(_undone(view, codec.decode(answer)), answer_bytes) for answer in answers[:own]]
        recorder.runs = []
        for _ in run(changed, recorder.instrumented, True):
            pass
        yield from (TRACED + _packed(values) for values in recorder.runs)
    child.SCOPE.update(IDLE)
    for said in run(answers[traced:], child.compiled, False) if not together else ():
        yield SAID + (b"1" if said else b"0")


class Stop(BaseException):
    """A function was called too often."""


IDLE: dict[str, Any] = {"range": range, "__traced_next__": lambda: None, "__traced_stop__": Stop}
"""What a program that is not rewritten calls in place of a recorder."""


class Recorder:
    """Rewrites a program so that it records values here, and holds those of one run."""

    def __init__(self) -> None:
        self.runs: list[set[Any]] = []
        """The values of each run that has ended."""
        self.places: list[set[Any]] = []
        self.left: list[int] = []

    def instrumented(self, source: bytes, index: int) -> CodeType:
        """The code of the rewritten program; what asks it stays as it is."""
        if index:
            return child.compiled(source, index)
        code, places = _rewritten(source)
        self.places = [set() for _ in range(places)]
        self.left = [LOOP_STEPS] * places
        return code

    def _next(self) -> None:
        """End a run and begin the next one."""
        self.runs.append(set().union(*self.places))
        self.left = [LOOP_STEPS] * len(self.left)
        for values in self.places:
            values.clear()

    def scope(self) -> dict[str, Any]:
        """The functions that a rewritten program calls, by name."""
        return {
            VALUE: self._value, COMPARE: self._compare, CHAIN: self._chain, ALL: self._all, ANY: self._any,
            METHOD: self._method, EACH: self._each, GO: self._go, ENTER: self._enter, FIRST: self._first,
            "range": _short_range, "__traced_next__": self._next, "__traced_stop__": Stop,
        }  # fmt: skip

    def _value(self, place: int, value: Any) -> Any:
        values = self.places[place]
        if len(values) < PLACE_VALUES and (seen := plain(value)) is not None:
            values.add(seen)
        return value

    def _method(self, place: int, owner: Any, name: str, *arguments: Any, **named: Any) -> Any:
        """The value of a method. It is recorded as well as what was called, unless that only changes its owner."""
        values = self.places[place]
        if name not in _CHANGING and len(values) < PLACE_VALUES and (seen := plain(owner)) is not None:
            values.add((name, seen, *map(plain, arguments)))
        return self._value(place, getattr(owner, name)(*arguments, **named))

    def _compare(self, place: int, name: str, left: Any, right: Any) -> Any:
        values = self.places[place]
        if len(values) < PLACE_VALUES:
            one, other = plain(left), plain(right)
            if one is not None and other is not None:
                values.update((one, other, frozenset((one, other))))
                if name in _MEMBERSHIP and type(other) is tuple:
                    values.update(frozenset((one, member)) for member in other[1 : PAIRED_MEMBERS + 1])
                elif type(one) is type(other) is tuple and len(one) == len(other) <= PAIRED_MEMBERS + 1:
                    values.update(map(frozenset, zip(one[1:], other[1:], strict=True)))
            elif (known := one if one is not None else other) is not None:
                values.add(known)
        return _OPERATIONS[name](left, right)

    def _chain(self, place: int, names: tuple[str, ...], *operands: Any) -> Any:
        result: Any = True
        for name, left, right in zip(names, operands, operands[1:], strict=True):
            result = self._compare(place, name, left, right) and result
        return result

    def _all(self, *operands: Callable[[], Any]) -> Any:
        return self._joined(operands, decided=False)

    def _any(self, *operands: Callable[[], Any]) -> Any:
        return self._joined(operands, decided=True)

    def _joined(self, operands: Sequence[Callable[[], Any]], decided: bool) -> Any:
        """The value of `and` or `or`, with all operands evaluated. An operand that raises counts as False."""
        result: Any = None
        settled = False
        for operand in operands:
            try:
                value = operand()
            except Exception:
                value = False
            if not settled:
                result, settled = value, bool(value) is decided
        return result

    def _each(self, place: int, members: Any) -> Any:
        left = self.left[place]
        if left <= 0:
            return ()
        if type(members) in (list, tuple, str, range, set, dict, frozenset):
            self.left[place] -= len(members)
            return members if len(members) <= left else itertools.islice(members, left)
        self.left[place] -= 1
        return itertools.islice(members, left)

    def _go(self, place: int) -> bool:
        self.left[place] -= 1
        return self.left[place] >= 0

    def _enter(self, place: int) -> None:
        self.left[place] -= 1
        if self.left[place] < LOOP_STEPS - CALLS:
            raise Stop

    def _first(self, given: Any, value: Any) -> Any:
        return value if given is None else given


MARK = "__traced_"
"""Beginning of the names that a rewritten program has for its recorder."""
VALUE, METHOD, COMPARE, CHAIN, ALL, ANY, EACH, GO, ENTER, FIRST = (
    f"{MARK}{name}__" for name in ("value", "method", "compare", "chain", "all", "any", "each", "go", "enter", "first")
)
OUT = "__traced_out__"
"""Name of the variable that holds what a function would have returned early."""

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "Eq": operator.eq, "NotEq": operator.ne, "Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt,
    "GtE": operator.ge, "Is": operator.is_, "IsNot": operator.is_not,
    "In": lambda member, container: member in container, "NotIn": lambda member, container: member not in container,
}  # fmt: skip
_CHANGING = {
    "append", "add", "extend", "insert", "pop", "popleft", "appendleft", "update", "remove", "discard", "setdefault",
    "clear", "sort", "reverse", "get",
}  # fmt: skip
"""Methods that change their owner, or are written in many ways."""
_MEMBERSHIP = ("In", "NotIn")


def _short_range(*arguments: Any) -> Any:
    whole = range(*arguments)
    return whole if len(whole) <= 4 * LOOP_STEPS else whole[: 4 * LOOP_STEPS]


def plain(value: Any) -> Any:
    """A hashable copy of a plain value; None for other values, truth values, and what is empty.

    Lists and tuples are alike, and so are sets and their sorted lists, and a float and an integer of one size. A
    container's copy begins with the number of its members.
    """
    kind = type(value)
    if kind is int or kind is str or kind is float:
        return value
    if kind is list or kind is tuple:
        return (len(value), *[member if type(member) in _SCALARS else plain(member) for member in value[:MEMBERS]])
    if isinstance(value, dict):
        return (len(value), *[plain(item) for item in itertools.islice(value.items(), MEMBERS)])
    if kind is set or kind is frozenset:
        try:
            return plain(sorted(value))
        except TypeError:
            return None
    return None


_SCALARS = (int, str, float, bool)


def _packed(values: set[Any]) -> bytes:
    items = {}
    for value in values:
        if type(value) is frozenset:
            texts = sorted(map(_spelled, value))
            items[zlib.crc32("=".join(texts).encode("utf-8", "replace"))] = (
                min(HEAVIEST, max(map(_weight, texts)) + (len(texts) > 1)) + HEAVIEST + 1
            )
        else:
            text = _spelled(value)
            items[zlib.crc32(text.encode("utf-8", "replace"))] = min(HEAVIEST, _weight(text))
    return b"".join(itertools.starmap(ITEM.pack, items.items()))


def _spelled(value: Any) -> str:
    kind = type(value)
    if kind is int:
        return str(value) if -(2**64) < value < 2**64 else hex(value)[:CHARACTERS]
    if kind is float:
        return f"{value:.9g}"
    if kind is str:
        return "'" + (value if len(value) <= CHARACTERS else f"{value[:CHARACTERS]}{len(value)}")
    if kind is tuple:
        return f"({','.join(map(_spelled, value))})"[: 4 * CHARACTERS]
    return str(int(value)) if kind is bool else kind.__name__


_TELLING = re.compile(r"[^\W_]")


def _weight(text: str) -> int:
    return len(text) - 1 if text[:1] == "'" else len(_TELLING.findall(text))


# ---- transformations of the answer ----


def _views(answer: Any, values: set[Any]) -> set[tuple[str, Any]]:
    """The transformations of the answer that are among the values of a run."""
    found: set[tuple[str, Any]] = set()
    kind = type(answer)
    if kind in (int, float):
        numbers = [value for value in values if type(value) in (int, float)]
        found.update(("shift", value - answer) for value in numbers if value != answer)
        found.update(("mirror", value + answer) for value in numbers if answer)
    elif kind is str and len(answer) > 1:
        found.update(("reverse", "") for value in values if value == answer[::-1] != answer)
        found.update(("swapcase", "") for value in values if value == answer.swapcase() != answer)
    elif kind in (list, tuple) and len(answer) > 1:
        own = plain(answer)[1:]
        for value in values:
            if type(value) is not tuple or value[:1] != (len(answer),):
                continue
            if value[1:] == own[::-1] != own:
                found.add(("reverse", ""))
            elif all(type(member) in (int, float) for member in (*own, *value)):
                shifts = {one - other for one, other in zip(value[1:], own, strict=True)}
                sums = {one + other for one, other in zip(value[1:], own, strict=True)}
                found.update(("shift", shift) for shift in shifts if len(shifts) == 1 and shift)
                found.update(("mirror", total) for total in sums if len(sums) == 1)
    return found


def _strangeness(view: tuple[str, Any]) -> tuple[float, str]:
    """Shifts by 1 are in many programs."""
    name, number = view
    return (abs(number) if name == "shift" else 1.5, repr(view))


def _undone(view: tuple[str, Any], answer: Any) -> Any:
    """The answer of which the transformation makes this one."""
    name, number = view
    if type(answer) in (list, tuple):
        return answer[::-1] if name == "reverse" else type(answer)(_undone(view, member) for member in answer)
    if name == "shift":
        return answer - number
    if name == "mirror":
        return number - answer
    return answer[::-1] if name == "reverse" else answer.swapcase()


# ---- the rewriting ----


@functools.cache
def _rewritten(source: bytes) -> tuple[CodeType, int]:
    """The code of the rewritten program, and its number of places."""
    rewriter = _Rewriter(source.decode("utf-8", "surrogatepass"))
    tree = rewriter.visit(ast.parse(source))
    return compile(tree, "<traced>", "exec", dont_inherit=True), rewriter.places


AT: dict[str, Any] = {"lineno": 1, "col_offset": 0}
"""Place in the text of what is added to a program."""
_WITH_PARTS = (ast.expr, ast.stmt, ast.comprehension, ast.excepthandler, ast.keyword)


class _Rewriter(ast.NodeTransformer):
    """Rewrites a syntax tree. What a text search can tell is not looked for in the tree, which takes longer."""

    def __init__(self, source: str) -> None:
        self.places = 0
        self._lines = source.splitlines()
        self._is_bound_to_place = any(word in source for word in (":=", "yield", "await"))
        """Whether an operand may mean something else inside a lambda."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Rewrite the parts of a node; quicker than the inherited one, which looks at contexts and operators too."""
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, list):
                value[:] = [self.visit(part) if isinstance(part, ast.AST) else part for part in value]
            elif isinstance(value, _WITH_PARTS):
                setattr(node, name, self.visit(value))
        return node

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return node

    def _call(self, name: str, *arguments: ast.expr) -> ast.Call:
        return ast.Call(ast.Name(name, ast.Load(), **AT), list(arguments), [], **AT)

    def _place(self) -> ast.Constant:
        self.places += 1
        return ast.Constant(self.places - 1, **AT)

    def _recorded(self, node: ast.expr) -> ast.expr:
        self.generic_visit(node)
        return self._call(VALUE, self._place(), node)

    def visit_List(self, node: ast.List) -> ast.expr:
        if isinstance(node.ctx, ast.Store) or all(isinstance(part, ast.Constant) for part in node.elts):
            return self.generic_visit(node)  # type: ignore[return-value]  # an expression stays one
        return self._recorded(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_BinOp = visit_JoinedStr = _recorded

    def visit_Call(self, node: ast.Call) -> ast.expr:  # ast's name
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and (node.func.id in _WITHOUT_VALUE or node.func.id.startswith(MARK)):
            return node
        if isinstance(node.func, ast.Attribute):
            name = ast.Constant(node.func.attr, **AT)
            arguments = [self._place(), node.func.value, name, *node.args]
            return ast.Call(ast.Name(METHOD, ast.Load(), **AT), arguments, node.keywords, **AT)
        return self._call(VALUE, self._place(), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Not) or isinstance(node.operand, ast.Constant):
            return self.generic_visit(node)  # type: ignore[return-value]  # an expression stays one
        return self._recorded(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if isinstance(node.ctx, ast.Load) and isinstance(node.slice, ast.Slice):
            return self._recorded(node)
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.expr:
        node.value = self.visit(node.value)  # what stands behind the colon must stay as it is
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        names = [ast.Constant(type(each).__name__, **AT) for each in node.ops]
        if len(names) == 1:
            return self._call(COMPARE, self._place(), names[0], node.left, node.comparators[0])
        chain = ast.Tuple(list(names), ast.Load(), **AT)
        return self._call(CHAIN, self._place(), chain, node.left, *node.comparators)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        if self._is_bound_to_place:
            return node
        return self._call(ALL if isinstance(node.op, ast.And) else ANY, *map(_delayed, node.values))

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """`a if b else False` is `b and a`."""
        self.generic_visit(node)
        if self._is_bound_to_place:
            return node
        if _is_false(node.orelse):
            return self._call(ALL, _delayed(node.test), _delayed(node.body))
        if _is_false(node.body):
            test = ast.UnaryOp(ast.Not(), node.test, **AT)
            return self._call(ALL, _delayed(test), _delayed(node.orelse))
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        node.iter = self._call(EACH, self._place(), node.iter)
        return node

    def visit_For(self, node: ast.For) -> ast.For:
        self.generic_visit(node)
        node.iter = self._call(EACH, self._place(), node.iter)
        return node

    def visit_While(self, node: ast.While) -> ast.While:
        self.generic_visit(node)
        node.test = ast.BoolOp(ast.And(), [self._call(GO, self._place()), node.test], **AT)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        if node.value:
            node.value = self.visit(node.value)
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.match_case:
        node.guard = self.visit(node.guard) if node.guard else None
        node.body = [self.visit(part) for part in node.body]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = [self.visit(part) if isinstance(part, ast.FunctionDef) else part for part in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if not self._ends_for_itself(node):
            node.body = [
                ast.Assign([ast.Name(OUT, ast.Store(), **AT)], ast.Constant(None, **AT), **AT),
                *self._going_on(node.body, in_loop=False, in_try=False),
                ast.Return(ast.Name(OUT, ast.Load(), **AT), **AT),
            ]
        node.body = [self.visit(part) for part in node.body]
        node.body.insert(0, ast.Expr(self._call(ENTER, self._place()), **AT))
        return node

    def _ends_for_itself(self, function: ast.FunctionDef) -> bool:
        """Whether a function must keep its early returns: it calls itself, or is a generator."""
        text = "\n".join(self._lines[function.body[0].lineno - 1 : function.end_lineno])
        return "yield" in text or re.search(rf"\b{function.name}\(", text) is not None

    def _going_on(self, body: list[ast.stmt], in_loop: bool, in_try: bool) -> list[ast.stmt]:
        """Statements that go on where these give up."""
        result: list[ast.stmt] = []
        for part in body:
            constant = part.value if isinstance(part, ast.Return) else None
            if (isinstance(part, ast.Return) and _is_flag(constant)) or (isinstance(part, ast.Raise) and not in_try):
                value = constant or ast.Constant(False, **AT)
                first = self._call(FIRST, ast.Name(OUT, ast.Load(), **AT), value)
                result.append(ast.Assign([ast.Name(OUT, ast.Store(), **AT)], first, **AT))
                result += [ast.Break(**AT)] * in_loop
                continue
            if isinstance(part, ast.Return) and part.value is not None:
                part.value = self._call(FIRST, ast.Name(OUT, ast.Load(), **AT), part.value)
            elif isinstance(part, ast.Assert):
                part = ast.Expr(part.test, **AT)
            elif isinstance(part, ast.If) and any(map(_gives_up, part.body)) and not self._is_bound_to_place:
                part.test = self._call(ALL, _delayed(part.test))
            self._go_on_inside(part, in_loop, in_try)
            result.append(part)
        return result

    def _go_on_inside(self, part: ast.stmt, in_loop: bool, in_try: bool) -> None:
        if isinstance(part, ast.For | ast.While):
            part.body = self._going_on(part.body, True, in_try)
            part.orelse = self._going_on(part.orelse, in_loop, in_try)
        elif isinstance(part, ast.If | ast.With):
            part.body = self._going_on(part.body, in_loop, in_try)
            if isinstance(part, ast.If):
                part.orelse = self._going_on(part.orelse, in_loop, in_try)
        elif isinstance(part, ast.Try):
            part.body = self._going_on(part.body, in_loop, True)
            part.orelse = self._going_on(part.orelse, in_loop, in_try)
            for handler in part.handlers:
                handler.body = self._going_on(handler.body, in_loop, in_try)


_WITHOUT_VALUE = {"range", "zip", "enumerate", "map", "filter", "iter", "print", "reversed", "isinstance", "super"}


def _delayed(operand: ast.expr) -> ast.Lambda:
    return ast.Lambda(ast.arguments([], [], None, [], [], None, []), operand, **AT)


def _is_flag(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and (value.value is True or value.value is False)


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def _gives_up(part: ast.stmt) -> bool:
    return isinstance(part, ast.Raise) or (isinstance(part, ast.Return) and _is_flag(part.value))
