"""Parses a model's texts into puzzles and candidates, or names the rule that a text broke.

Any text may be hostile: its syntax tree can exhaust memory or the C stack. So the rules (`parse_batch`) run as sandbox
jobs, with many texts in one child, and only plain data comes back. A text that ends its child is refused; another
child parses the rest of the batch.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puzzles import answer_type, scopes, similarity
from puzzles.extract import program_of
from puzzles.impossible import never_true
from puzzles.needed import leave_out_needless
from puzzles.pruning import pruned
from puzzles.puzzle import Candidate, Puzzle, content_hash
from sandbox import child
from sandbox.harmless import is_harmless
from sandbox.pool import Job, Pool
from sandbox.syntax import same, walk

PARSE_BATCH = "puzzles.parse:parse_batch"
"""Name of the sandbox job; a pool that parses must preload it."""

MAX_TEXT_BYTES = 64 * 1024
BATCH_TEXTS = 64
BATCH_BYTES = 24 * 1024

PUZZLE_NAMES = ("f", "sat", "puzzle")
SOLUTION_NAMES = ("g", "sol", "solution", "answer")
"""Names by which a text's function is found, if it has one of them."""
ANSWER_NAMES = (*SOLUTION_NAMES, "ans", "result", "x")
"""Names of constants that count as an answer, where a text has no function."""
_TESTING = re.compile(r"_*(?:test|main|check|verif|valid|demo|example|run)")
"""How names of functions begin that show or check an answer instead of giving one."""

RULES = {
    "too_long": f"a text is at most {MAX_TEXT_BYTES} bytes",
    "too_complex": "parsing stays within the limits of a sandbox child",
    "no_code": "a reply holds a program: in a fenced block, or as lines of its own",
    "no_input": "an abduction task has one input and its output",
    "no_literal": "the input and the output of an abduction task are Python literals",
    "syntax": "the text is a Python program",
    "statement": "no statement of the top level leaves the program",
    "no_function": "a function is defined",
    "no_parameter": "the puzzle takes the answer as its first parameter",
    "required_parameter": "all parameters but the answer have defaults",
    "starred_parameter": "the puzzle has no *args or **kwargs",
    "no_annotation": "the answer's parameter is annotated with its type",
    "answer_type": "the answer's type is built from int, float, bool, str, List, Set, Dict, Tuple and Optional",
    "asynchronous": "the function is an ordinary one",
    "unprintable": "the program can be written back from its syntax tree",
}
"""The rules that a text can break, and what each one expects."""


@dataclass(frozen=True)
class ParseFailure:
    """The rule that a text broke, so that it is no puzzle or no candidate. This is data, not a failure of our own."""

    rule: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail or RULES[self.rule]}"


@dataclass(frozen=True)
class Text:
    """One text to parse."""

    text: str
    form: str = "program"
    """Where the program is in the text, one of four forms.

    * `program`: the text is the program.
    * `continuation`: the text starts with a function, after which the model may have written something else. The
      function ends before the first line that is not indented. If that is no program, as where a chat model begins
      anew, the text is read as a reply.
    * `chat`: the text is a reply, read by the rules of `extract`.
    * `abduction`: the text is a JSON object. It holds a program `snippet` that defines `f`, its `imports`, and as texts
      an `input` (the arguments of `f`) and the `output`. The puzzle asks for an input with that output, or for a tuple
      of arguments if there are several.
    """
    rename: Mapping[str, str] = field(default_factory=dict)
    """For a solution: new names of the puzzle's functions by the names in the puzzle's original text."""


def parse_puzzles(pool: Pool, texts: Sequence[Text]) -> list[Puzzle | ParseFailure]:
    """Each text as a puzzle, or the rule it broke, in order."""
    parsed = _parse(pool, "puzzle", texts)
    return [item if isinstance(item, ParseFailure) else _puzzle(item) for item in parsed]


def parse_candidates(pool: Pool, texts: Sequence[Text]) -> list[Candidate | ParseFailure]:
    """Each text as a candidate solution, or the rule it broke, in order."""
    parsed = _parse(pool, "solution", texts)
    return [
        item if isinstance(item, ParseFailure) else Candidate(**{**item, "left_out": tuple(item["left_out"])})
        for item in parsed
    ]


def _puzzle(fields: dict[str, Any]) -> Puzzle:
    lists = {name: tuple(fields[name]) for name in ("imports", "left_out")}
    return Puzzle(**{**fields, **lists, "shingles": frozenset(fields["shingles"])})


def _parse(pool: Pool, kind: str, texts: Sequence[Text]) -> list[dict[str, Any] | ParseFailure]:
    """The fields of each text, or the rule it broke. A text is refused as `too_complex` only if it ends a child that it
    had for itself.
    """
    requests = [
        # A file's byte order mark may have stayed in front of a text that was copied from it.
        json.dumps(
            {"kind": kind, "text": text.text.removeprefix("\ufeff"), "form": text.form, "rename": dict(text.rename)}
        ).encode()
        for text in texts
    ]
    too_long = [len(text.text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES for text in texts]
    records = in_batches(pool, PARSE_BATCH, [r for r, skipped in zip(requests, too_long, strict=True) if not skipped])
    return [
        ParseFailure("too_long") if skipped else _read(records[request])
        for request, skipped in zip(requests, too_long, strict=True)
    ]


def in_batches(pool: Pool, function: str, requests: Sequence[bytes]) -> dict[bytes, bytes | str]:
    """The answer of a sandbox job to each request, or what ended the child that had this request alone.

    Equal requests are asked once. Each child gets a batch of requests. If a request ends its child, a new child
    continues with the requests after it.

    Args:
        pool: Runs the jobs.
        function: A job that takes packed requests and yields one record for each.
        requests: The requests, in any order.
    """
    answers: dict[bytes, bytes | str] = {}
    batches = list(_batches(list(dict.fromkeys(requests))))
    while batches:
        waiting, suspects = [], []
        jobs = (Job(function, child.pack(batch), label=f"reading {len(batch)} texts") for batch in batches)
        for batch, result in zip(batches, pool.run(jobs), strict=True):
            answers.update(zip(batch, result.records, strict=False))
            done = len(result.records)
            if done < len(batch):
                waiting += batch[done + 1 :]
                if done:  # the requests before it may have used up the child's limits, so it is tried alone
                    suspects.append([batch[done]])
                else:
                    answers[batch[0]] = result.detail
        batches = [*suspects, *_batches(waiting)]
    return answers


def _read(answer: bytes | str) -> dict[str, Any] | ParseFailure:
    if isinstance(answer, str):
        return ParseFailure("too_complex", answer)
    record: dict[str, Any] = json.loads(answer)
    return ParseFailure(record["rule"], record["detail"]) if "rule" in record else record


def _batches(requests: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for request in requests:
        if batch and (len(batch) == BATCH_TEXTS or sum(map(len, batch)) + len(request) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


# ---- below: the rules, run in a sandbox child ----


class _Broken(Exception):
    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(rule, detail)
        self.rule, self.detail = rule, detail


def parse_batch(payload: bytes) -> Iterator[bytes]:
    """Job for a child: yields one JSON record per request, with a puzzle's or candidate's fields or the broken rule."""
    for blob in child.unpack(payload):
        request = json.loads(blob)
        parse = _parse_puzzle if request["kind"] == "puzzle" else _parse_solution
        try:
            text = _with_newlines(_extract(request["text"], request["form"], request["kind"]))
            record = parse(text, request["rename"])
        except _Broken as broken:
            record = {"rule": broken.rule, "detail": broken.detail}
        except (RecursionError, MemoryError) as error:
            record = {"rule": "too_complex", "detail": type(error).__name__}
        yield json.dumps(record).encode()


def _with_newlines(text: str) -> str:
    """The text with the line ends that Python reads it with."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _extract(text: str, form: str, kind: str) -> str:
    wanted = _puzzle_in if kind == "puzzle" else _solution_in
    if form == "continuation":
        first, *rest = text.split("\n")
        body = []
        for line in rest:
            if line.strip() and not line[0].isspace():
                break
            body.append(line)
        function = "\n".join([first, *body]).rstrip() + "\n"
        if not _is_unicode(text) or ((tree := _parsed(function)) and any(map(_returns, _functions(tree)))):
            return function
        found = program_of(text, wanted)
        return found if found and (tree := _parsed(found)) and wanted(tree) else function
    if form == "abduction":
        return _abduction(json.loads(text))
    if not _is_unicode(text) or (form == "program" and not text.lstrip().startswith("{") and _parsed(text)):
        return text
    found = program_of(text, wanted)
    if found is None and form == "chat":
        raise _Broken("no_code")
    return text if found is None else found  # a text that is no program is told why


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(text: str) -> ast.Module | None:
    """The tree of a text that is a program as it stands, as nearly all are that do not come from a chat; else None."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    return tree if tree.body else None


def _puzzle_in(tree: ast.Module) -> int:
    """How well a program is a puzzle: 2 if a function with a usual name is, 1 if another is."""
    fitting = [function.name for function in _functions(tree) if _is_puzzle(function)]
    return 2 if {*fitting} & {*PUZZLE_NAMES} else min(1, len(fitting))


def _solution_in(tree: ast.Module) -> int:
    """How well a program is a solution: 3 if a function with a usual name is, 2 if another, 1 if an answer is named."""
    fitting = [each.name for each in _functions(tree) if _callable_without_arguments(each) and _returns(each)]
    if {*fitting} & {*SOLUTION_NAMES}:
        return 3
    if any(name not in PUZZLE_NAMES and not _TESTING.match(name) for name in fitting):
        return 2
    return int(_answer_function(tree) is not None)


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """The functions of the top level. Of several with one name only the last counts, as in Python."""
    by_name = {statement.name: statement for statement in tree.body if isinstance(statement, ast.FunctionDef)}
    return [each for each in tree.body if isinstance(each, ast.FunctionDef) and by_name[each.name] is each]


def _abduction(task: Mapping[str, Any]) -> str:
    if not {"input", "output"} <= task.keys():
        raise _Broken("no_input")
    snippet = task["snippet"]
    if not re.search(r"^def f\b", snippet, re.MULTILINE) or re.search(r"\bsat\b", snippet):
        raise _Broken("no_function", "expected a function f, and nothing called sat")
    arguments = ast.literal_eval(_literal(f"(\n{task['input']}\n,)", f"the input {task['input']!r}"))
    output = ast.unparse(_literal(task["output"].strip(), f"the output {task['output']!r}"))
    try:
        declared = answer_type.of(arguments if len(arguments) > 1 else arguments[0])
    except answer_type.UnsupportedType as error:
        raise _Broken("answer_type", f"the input: {str(error)[:100]}") from None
    imports = [line for line in task["imports"] if line.strip() not in snippet.splitlines()]
    star = "*" if len(arguments) > 1 else ""
    return "\n".join([*imports, snippet, f"def sat(x: {declared}):", f"    return f({star}x) == {output}"])


def _literal(text: str, what: str) -> ast.expr:
    try:
        expression = ast.parse(text, mode="eval").body
        ast.literal_eval(expression)
    except (SyntaxError, ValueError, TypeError):
        raise _Broken("no_literal", f"{what[:100]} is no literal") from None
    return expression


def _parse_puzzle(text: str, _: Mapping[str, str]) -> dict[str, Any]:
    tree = _program(text)
    function = _puzzle_of(tree)
    before = [*tree.body]
    left_out = leave_out_needless(tree, function, SOLUTION_NAMES)
    author = _Author(_without(text, before, tree.body), tree)
    annotation = _check_puzzle(function)
    try:
        declared = answer_type.read(annotation, answer_type.type_aliases(tree))
    except answer_type.UnsupportedType as error:
        raise _Broken("answer_type", f"{str(error)[:100]!r} is not supported") from None
    name = function.name
    description = ast.get_docstring(function) or ""
    has_g = any(isinstance(statement, ast.FunctionDef) and statement.name == "g" for statement in tree.body)
    _give_names(tree, {**({"g": "g_"} if has_g else {}), name: "f"})
    _first_parameter(function).annotation = ast.parse(declared, mode="eval").body
    source, imports = _canonical(tree), sorted(_imports(tree))
    impossible = never_true(tree, function, declared)
    live = pruned(tree, "f")
    renamable = scopes.renamable_names(live)
    return {
        "source": source,
        "text": author.text_unless(source, tree),
        "id": content_hash(similarity.normal_form(live, renamable=renamable) + author.seen_by_itself(tree)),
        "answer_type": declared,
        "header": f"def g({', '.join(_defaults(function))}):",
        "skeleton": content_hash(similarity.normal_form(live, False, renamable)),
        "unordered": content_hash(similarity.order_free_form(live, constants=False)),
        "shingles": sorted(similarity.shingles(similarity.order_free_form(live))),
        "imports": imports,
        "original_name": name,
        "description": description,
        "left_out": left_out,
        "impossible": impossible,
    }


def _parse_solution(text: str, rename: Mapping[str, str]) -> dict[str, Any]:
    tree = _program(text)
    if not any(map(_callable_without_arguments, _functions(tree))) and (made := _answer_function(tree)):
        tree.body.append(made)
        text = f"{text}\n{ast.unparse(made)}\n"
    function = _solution_of(tree)
    before, name = [*tree.body], function.name
    left_out = leave_out_needless(tree, function)
    author = _Author(_without(text, before, tree.body), tree)
    if not _callable_without_arguments(function):
        raise _Broken("required_parameter", f"{name} must be callable with no arguments")
    sees_names = not is_harmless(tree) or any(isinstance(n, ast.ExceptHandler) and n.name for n in walk(tree))
    mentioned = {node.id for node in walk(tree) if isinstance(node, ast.Name)}
    only_f = "f" in mentioned and not mentioned & {*rename}
    _give_names(tree, {**rename, name: "g"}, known=[*rename])
    source, live = _canonical(tree), pruned(tree, "g")
    whole = similarity.normal_form(tree)
    needed = whole if live is tree else similarity.normal_form(live)
    return {
        "source": source,
        "text": author.text_unless(source, tree),
        "entry": name,
        "puzzle_name": next((old for old, new in rename.items() if new == "f" and not only_f), "f"),
        # Messages of exceptions hold names, and a program may act on them.
        "form": "" if sees_names else content_hash(whole),
        "id": content_hash(needed + author.seen_by_itself(tree)),
        "left_out": left_out,
    }


class _Author:
    """A program as its author wrote it, beside the one with canonical names and layout that is made of it.

    Args:
        text: The author's program.
        tree: Its syntax tree, before anything is changed in it.
    """

    def __init__(self, text: str, tree: ast.Module) -> None:
        self._text = text
        self._is_reflective = scopes.is_reflective(walk(tree))

    def text_unless(self, source: str, canonical: ast.Module) -> str:
        """The author's text; an empty text if it differs from `source` in layout alone and cannot see its layout.

        Args:
            source: The program with canonical names and layout.
            canonical: Its syntax tree.
        """
        if self._text.strip("\n") == source:
            return ""
        return "" if not self._is_reflective and same(ast.parse(self._text), canonical) else self._text

    def seen_by_itself(self, canonical: ast.Module) -> str:
        """What a program that looks at its own names and texts sees of them beyond the canonical one; else nothing."""
        if not self._is_reflective or same(own := ast.parse(self._text), canonical):
            return ""
        return ast.unparse(own)


def _without(text: str, statements: Sequence[ast.stmt], kept: Sequence[ast.stmt]) -> str:
    """The text without those of its top level's statements that are not kept. Everything else stays as it is.

    Args:
        text: A program.
        statements: The statements of its top level, in order.
        kept: Those that are kept; of an import perhaps only a part, at the place of the whole.
    """
    whole = {id(each) for each in kept}
    parts = {(each.lineno, each.col_offset): each for each in kept if isinstance(each, ast.Import | ast.ImportFrom)}
    lines = [line.encode() for line in text.split("\n")]
    for each in reversed(statements):
        if id(each) in whole:
            continue
        part = parts.get((each.lineno, each.col_offset))
        decorators = getattr(each, "decorator_list", [])
        first, start = (decorators[0].lineno, 0) if decorators else (each.lineno, each.col_offset)
        last, end = each.end_lineno or each.lineno, each.end_col_offset or 0
        instead = ast.unparse(part) if part else "pass"
        lines[first - 1 : last] = [lines[first - 1][:start] + instead.encode() + lines[last - 1][end:]]
    return b"\n".join(lines).decode()


def _program(text: str) -> ast.Module:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise _Broken("syntax", f"{where}{message}"[:200]) from None
    kept: list[ast.stmt] = []
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            _quote_annotations(tree, statement)
            continue
        if isinstance(statement, ast.Return | ast.Raise | ast.Break | ast.Continue):
            raise _Broken("statement", f"line {statement.lineno}: {type(statement).__name__}")
        kept.append(statement)
    tree.body = kept
    return tree


def _answer_function(tree: ast.Module) -> ast.FunctionDef | None:
    """A function made of a program's last `g = lambda: …`, or else of its last `answer = …`; None without either."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    named = [
        (target.id, statement.value)
        for block in tree.body
        if not isinstance(block, definitions)
        for statement in walk(block)
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    ]
    for name, value in reversed(named):
        if isinstance(value, ast.Lambda) and name not in PUZZLE_NAMES and _callable_without_arguments(value):
            made = ast.FunctionDef(name, value.args, [ast.Return(value.body)], [], lineno=1)
            return ast.fix_missing_locations(made)
    for name, _ in reversed(named):
        if name in ANSWER_NAMES:
            (function,) = ast.parse(f"def {'solution' if name == 'g' else 'g'}():\n    return {name}").body
            assert isinstance(function, ast.FunctionDef)
            return function
    return None


def _quote_annotations(tree: ast.Module, future: ast.ImportFrom) -> None:
    """Do what `from __future__ import annotations` does: turn annotations into texts, so that none is evaluated."""
    if all(alias.name != "annotations" for alias in future.names):
        return
    for node in walk(tree):
        for name in ("annotation", "returns"):
            annotation = getattr(node, name, None)
            if isinstance(annotation, ast.expr) and not isinstance(annotation, ast.Constant):
                setattr(node, name, ast.copy_location(ast.Constant(ast.unparse(annotation)), annotation))


def _puzzle_of(tree: ast.Module) -> ast.FunctionDef:
    """The function that is the puzzle.

    It is the one with a usual name that takes an answer, or else that has a usual name; or else the last one that takes
    an answer and that no other one uses.
    """
    functions = _functions(tree)
    named = [function for function in functions if function.name in PUZZLE_NAMES]
    fitting = [function for function in functions if _is_puzzle(function)]
    puzzles = [
        each for each in fitting if each.name not in SOLUTION_NAMES and not each.name.startswith(("test", "main"))
    ]
    return _entry(tree, [function for function in named if function in fitting] or named or puzzles or fitting)


def _solution_of(tree: ast.Module) -> ast.FunctionDef:
    """The function that is the solution.

    It needs no arguments and returns something. It is the first of `g`, `sol`, `solution` and `answer` that is there;
    or else the last one that is not called like a test and that no other one uses.
    """
    functions = _functions(tree)
    named = sorted(
        (function for function in functions if function.name in SOLUTION_NAMES),
        key=lambda function: SOLUTION_NAMES.index(function.name),
    )
    fitting = [function for function in functions if _callable_without_arguments(function)]
    best = [function for function in named if function in fitting]
    best = [function for function in best if _returns(function)] or best
    answers = [each for each in fitting if _returns(each) and not _TESTING.match(each.name)]
    return _entry(tree, best[:1] or answers or named[:1] or fitting)


def _entry(tree: ast.Module, best: Sequence[ast.FunctionDef]) -> ast.FunctionDef:
    """The last of the best functions that no other of them uses; without any, the last function.

    Raises:
        _Broken: There is no function.
    """
    if not (functions := _functions(tree)):
        asynchronous = any(isinstance(statement, ast.AsyncFunctionDef) for statement in tree.body)
        raise _Broken("asynchronous" if asynchronous else "no_function")
    best = best or functions
    return ([function for function in best if not _is_used_by_others(function, best)] or best)[-1]


def _returns(function: ast.FunctionDef) -> bool:
    return any(isinstance(node, ast.Return) and node.value is not None for node in walk(function))


def _is_used_by_others(function: ast.FunctionDef, functions: Sequence[ast.FunctionDef]) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == function.name
        for other in functions
        if other is not function
        for node in walk(other)
    )


def _is_puzzle(function: ast.FunctionDef) -> bool:
    try:
        _check_puzzle(function)
    except _Broken:
        return False
    return True


def _first_parameter(function: ast.FunctionDef) -> ast.arg:
    return [*function.args.posonlyargs, *function.args.args][0]


def _check_puzzle(function: ast.FunctionDef) -> ast.expr:
    """The annotation of the answer's parameter.

    Raises:
        _Broken: The function is no puzzle.
    """
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if not positional:
        raise _Broken("no_parameter")
    if arguments.vararg or arguments.kwarg:
        raise _Broken("starred_parameter")
    without_default = positional[1 : len(positional) - len(arguments.defaults)]
    without_default += [
        argument for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if not default
    ]
    if without_default:
        raise _Broken("required_parameter", f"{without_default[0].arg!r} has no default")
    annotation = positional[0].annotation
    if annotation is None:
        raise _Broken("no_annotation", f"{positional[0].arg!r} has no type")
    return annotation


def _callable_without_arguments(function: ast.FunctionDef | ast.Lambda) -> bool:
    arguments = function.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    return len(arguments.defaults) == positional and all(arguments.kw_defaults)


def _defaults(function: ast.FunctionDef) -> list[str]:
    """The puzzle's further parameters as `name=value`, without annotations."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    pairs = [*zip(with_default, arguments.defaults, strict=True)]
    pairs += [(name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    return [f"{name.arg}={ast.unparse(value)}" for name, value in pairs if name is not positional[0]]


def _imports(tree: ast.Module) -> set[str]:
    modules = set()
    for node in walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or ".").partition(".")[0])
        elif isinstance(node, ast.Name) and node.id == "__import__":
            modules.add(node.id)
    return modules


def _give_names(tree: ast.Module, names: Mapping[str, str], known: Sequence[str] = ()) -> None:
    """Rename functions, or add an alias where an old or new name has a second meaning.

    A name has a second meaning if it is also a member of a class, an import or a keyword.

    Args:
        tree: The program; it is changed in place.
        names: New names by the old ones.
        known: Old names of functions of another program, which this program may call by them.
    """
    names = {old: new for old, new in names.items() if old != new}
    defined = {statement.name for statement in tree.body if isinstance(statement, ast.FunctionDef)}
    if not _has_second_meaning(tree, {*names, *names.values()}) or defined & {*names.values()}:
        _rename(tree, names)
        return
    before = [_alias(old, new) for old, new in names.items() if old in known and old not in defined]
    tree.body = [*before, *tree.body, *(_alias(new, old) for old, new in names.items() if old in defined)]


def _alias(name: str, of: str) -> ast.stmt:
    return ast.parse(f"{name} = {of}").body[0]


def _has_second_meaning(tree: ast.Module, names: set[str]) -> bool:
    nodes = walk(tree)
    parameters = names & {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            targets = [part for member in node.body if isinstance(member, ast.Assign) for part in member.targets]
            targets += [member.target for member in node.body if isinstance(member, ast.AnnAssign)]
            if any(isinstance(part, ast.Name) and part.id in names for target in targets for part in walk(target)):
                return True
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(not alias.asname and alias.name.partition(".")[0] in names for alias in node.names):
                return True
        elif getattr(node, "rest", None) in names or (isinstance(node, ast.keyword) and node.arg in parameters):
            return True
    return False


def _rename(tree: ast.Module, names: Mapping[str, str]) -> None:
    """Rename identifiers in place. An identifier that already has one of the new names gets underscores to differ.

    Methods keep their names, because the attributes that call them do. Keywords that name no parameter of this program
    keep theirs too.
    """
    mapping = {old: new for old, new in names.items() if old != new}
    if not mapping:
        return
    nodes = walk(tree)
    methods = {id(member) for node in nodes if isinstance(node, ast.ClassDef) for member in node.body}
    parameters = {node.arg for node in nodes if isinstance(node, ast.arg)}
    taken = {getattr(node, attribute, None) for node in nodes for attribute in _IDENTIFIERS} | {*mapping.values()}
    for new in [new for new in mapping.values() if new not in names]:
        fresh = f"{new}_"
        while fresh in taken:
            fresh += "_"
        mapping[new] = fresh
    for node in nodes:
        if isinstance(node, ast.Global | ast.Nonlocal):
            node.names = [mapping.get(name, name) for name in node.names]
        if id(node) in methods or (isinstance(node, ast.keyword) and node.arg not in parameters):
            continue
        for attribute in _IDENTIFIERS:
            old = getattr(node, attribute, None)
            if isinstance(old, str) and not (isinstance(node, ast.alias) and attribute == "name"):
                setattr(node, attribute, mapping.get(old, old))


_IDENTIFIERS = ("id", "arg", "name", "asname")


def _canonical(tree: ast.Module) -> str:
    """The program in one layout, without docstrings, comments and return annotations. The tree is changed too."""
    for node in walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            while ast.get_docstring(node, clean=False) is not None:  # a text behind it would become the docstring
                node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Constant):
            node.kind = None  # u"3" is "3"; beside an f-string it could not be written back
    try:
        source = ast.unparse(tree)
        if not same(ast.parse(source), tree):
            raise _Broken("unprintable")
    except (SyntaxError, ValueError) as error:
        raise _Broken("unprintable", str(error)[:200]) from None
    return source
