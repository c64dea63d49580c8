"""Decides which programs may share a process: those that can reach nothing except what they make themselves.

An allow-list over the syntax tree decides. A program with anything that is not listed runs alone; it is not called
hostile. The allow-list is no security barrier: the kernel is. It only keeps one candidate from causing the wrong
rejection of the next one. Accepts do not depend on it, because each accept is repeated alone.

The allow-list closes everything that two namespaces of one process could share:

* modules and classes: no attribute is assigned, and no name or attribute with a leading underscore is used;
* the interpreter: `type`, `getattr`, `vars`, `id` and the like cannot be used by any name;
* access to attributes by text: `str.format`, `operator.attrgetter`, `string.Formatter`, `typing.get_type_hints`,
  `functools.wraps`;
* the caches of `typing`, which remember whether `List[1]` or `List[1.0]` came first.
"""

from __future__ import annotations

import ast
import builtins
import collections
import fractions
import functools
import gc
import typing
from collections.abc import Iterable, Iterator
from types import CodeType

from sandbox import child
from sandbox.syntax import walk

BUILTINS = """
    abs all any ascii bin bool bytearray bytes chr complex dict divmod enumerate filter float format frozenset hash hex
    int isinstance issubclass iter len list map max min next oct ord pow print range repr reversed round set slice
    sorted str sum tuple zip
    ArithmeticError AssertionError Exception IndexError KeyError LookupError NotImplementedError OverflowError
    RecursionError RuntimeError StopIteration TypeError ValueError ZeroDivisionError
"""
GENERICS = """
    Any Callable Counter DefaultDict Deque Dict FrozenSet Generator Iterable Iterator List Mapping Optional OrderedDict
    Sequence Set Tuple Type Union
"""
MEMBERS = {
    "math": """
        acos acosh asin asinh atan atan2 atanh ceil comb copysign cos cosh degrees dist e erf erfc exp expm1 fabs
        factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma log
        log10 log1p log2 modf nan perm pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc
    """,
    "itertools": """
        accumulate chain combinations combinations_with_replacement compress count cycle dropwhile filterfalse
        from_iterable groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest
    """,
    "functools": "cache cmp_to_key lru_cache partial reduce",
    "collections": "Counter OrderedDict defaultdict deque",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
    "string": """
        ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits printable punctuation whitespace
    """,
    "operator": """
        add and_ concat contains countOf eq floordiv ge gt indexOf invert itemgetter le lshift lt mod mul ne neg not_
        or_ pos pow rshift sub truediv truth xor
    """,
    "copy": "copy deepcopy",
    "__future__": "annotations",
    "fractions": "Fraction",
    "statistics": """
        fmean geometric_mean harmonic_mean mean median median_high median_low mode multimode pstdev pvariance stdev
        variance
    """,
}  # fmt: skip
"""Names that may be used of each module. Modules with state are missing (`random`; `re`, whose cache treats 2 and 2.0
as one), and so are names that set or get attributes."""
DATA = (
    str, int, float, complex, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice, collections.Counter,
    collections.OrderedDict, collections.deque, collections.defaultdict, fractions.Fraction,
)  # fmt: skip

ATTRIBUTES = frozenset(
    {name for kind in DATA for name in dir(kind) if not name.startswith("_")}
    | {name for members in MEMBERS.values() for name in members.split()}
) - {"format", "format_map"}
"""Attributes that may be read. `str.format` is missing, because it reads attributes by text."""
IN_SCOPE = frozenset(vars(builtins)) | frozenset(typing.__all__)
FORBIDDEN_NAMES = IN_SCOPE.difference(BUILTINS.split())
"""Names that may not be used, even where the program binds them: elsewhere they may still mean the builtin."""
TYPES = frozenset((GENERICS + "bool bytes complex dict float frozenset int list object set str tuple").split())
"""Names that annotations may be made of."""

NODES = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Delete, ast.Assign, ast.AugAssign,
    ast.AnnAssign, ast.For, ast.While, ast.If, ast.Raise, ast.Try, ast.ExceptHandler, ast.Assert, ast.Import,
    ast.ImportFrom, ast.alias, ast.Nonlocal, ast.Expr, ast.Pass, ast.Break, ast.Continue, ast.BoolOp, ast.NamedExpr,
    ast.BinOp, ast.UnaryOp, ast.Lambda, ast.IfExp, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp, ast.comprehension, ast.Yield, ast.YieldFrom, ast.Compare, ast.Call, ast.keyword,
    ast.FormattedValue, ast.JoinedStr, ast.Constant, ast.Attribute, ast.Subscript, ast.Starred, ast.Name, ast.List,
    ast.Tuple, ast.Slice, ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


def run_together(payload: bytes) -> Iterator[bytes]:
    """Job like `child.run_program`, for unrelated programs; a program that is not harmless yields `child.REFUSED`.

    Nothing that one program left behind runs while the next one does. Its memory is given back, except for what a
    fragmented heap keeps (1 MiB was seen).
    """
    return child.run_calls(payload, _compiled, tidy=gc.collect)


@functools.cache
def _compiled(source: bytes, index: int) -> CodeType:
    tree = ast.parse(child.as_text(source))
    if not is_harmless(tree):
        raise child.Refused
    return compile(tree, f"<source {index}>", "exec", dont_inherit=True)


def is_harmless(tree: ast.Module) -> bool:
    """Whether a program cannot disturb a program that runs after it in the same process."""
    nodes = walk(tree)
    types = {id(part) for annotation in _annotations(nodes) if _is_type(annotation) for part in walk(annotation)}
    forbidden = FORBIDDEN_NAMES - _collections(tree)
    return all(id(node) in types or (isinstance(node, NODES) and _is_allowed(node, forbidden)) for node in nodes)


def _annotations(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def _is_type(annotation: ast.expr) -> bool:
    """Whether an annotation is made of types only. Its value then does not depend on what was evaluated before it."""
    return all(
        (isinstance(part, ast.Name) and part.id in TYPES)
        or (isinstance(part, ast.Constant) and part.value in (None, ...))
        or isinstance(part, ast.Subscript | ast.Tuple | ast.List | ast.Load)
        for part in walk(annotation)
    )


def _collections(tree: ast.Module) -> set[str]:
    """Names of `collections` that are imported for the whole program and also exist in `typing`."""
    imports = [statement for statement in tree.body if isinstance(statement, ast.ImportFrom)]
    names = {alias.name for each in imports if each.module == "collections" for alias in each.names if not alias.asname}
    return names & {"Counter", "OrderedDict"}


def _is_allowed(node: ast.AST, forbidden: frozenset[str]) -> bool:
    if isinstance(node, ast.Name):
        return _is_plain(node.id, forbidden) and (isinstance(node.ctx, ast.Load) or node.id not in TYPES)
    # A generator's `finally` runs when the garbage collector does: at another moment than in a process of its own.
    if isinstance(node, ast.Try):
        return not any(isinstance(part, ast.Yield | ast.YieldFrom) for part in walk(node))
    if isinstance(node, ast.Attribute):
        return node.attr in ATTRIBUTES and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Import):
        return all(alias.name in MEMBERS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return not node.level and all(_is_member(node.module or "", alias) for alias in node.names)
    if isinstance(node, ast.alias):
        return node.asname is None or _may_bind(node.asname, forbidden)
    if isinstance(node, ast.FunctionDef | ast.ExceptHandler):
        return node.name is None or _may_bind(node.name, forbidden)
    if isinstance(node, ast.arg):
        return _may_bind(node.arg, forbidden)
    if isinstance(node, ast.keyword):
        return node.arg is None or _is_plain(node.arg, forbidden)
    return True


def _may_bind(name: str, forbidden: frozenset[str]) -> bool:
    """Whether a program may bind this name; the names of types may not get another meaning, as annotations use them."""
    return _is_plain(name, forbidden) and name not in TYPES


def _is_member(module: str, alias: ast.alias) -> bool:
    if module == "typing":  # under another name a type could be used outside an annotation
        return alias.name in TYPES and alias.asname is None
    return alias.name in MEMBERS.get(module, "").split()


def _is_plain(name: str, forbidden: frozenset[str]) -> bool:
    return not name.startswith("__") and name not in forbidden
