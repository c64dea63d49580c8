"""Which programs may share a process: those that can reach nothing but what they make themselves.

An allow-list over the syntax tree. It is no wall, for the kernel is that, and no program is called
hostile by it: whatever is not listed runs alone. It keeps one candidate from spoiling the next
one's rejection; accepts need no such care, for each is repeated alone.

What could be shared between two namespaces of one process is closed: modules and classes (no
attribute is ever assigned, no name or attribute with a leading underscore is used), the
interpreter (no `type`, `getattr`, `vars`, `id`, ... by any name), what reaches attributes by text
(`str.format`, `operator.attrgetter`, `string.Formatter`, `typing.get_type_hints`, `functools.wraps`),
and `typing`'s caches, which remember whether `List[1]` or `List[1.0]` came first.
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
    "fractions": "Fraction",
    "statistics": """
        fmean geometric_mean harmonic_mean mean median median_high median_low mode multimode pstdev pvariance stdev
        variance
    """,
}  # fmt: skip
"""Per module what may be used of it. Missing are modules with state (`random`; `re`, whose cache takes 2 and 2.0 for
one), and what sets or gets attributes."""
DATA = (
    str, int, float, complex, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice, collections.Counter,
    collections.OrderedDict, collections.deque, collections.defaultdict, fractions.Fraction,
)  # fmt: skip

ATTRIBUTES = frozenset(
    {name for kind in DATA for name in dir(kind) if not name.startswith("_")}
    | {name for members in MEMBERS.values() for name in members.split()}
) - {"format", "format_map"}
"""Without `str.format`, which reads attributes."""
IN_SCOPE = frozenset(vars(builtins)) | frozenset(typing.__all__)
FORBIDDEN_NAMES = IN_SCOPE.difference(BUILTINS.split())
"""Not by any binding either: a name that a program binds somewhere may still mean the builtin elsewhere."""
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
    """A job like `child.run_program`, for programs of several authors: what is not harmless yields `child.REFUSED`.

    What one left behind does not run while the next does, and its memory is given back, but for
    what a fragmented heap holds (a MiB was seen).
    """
    return child.run_calls(payload, _compiled, tidy=gc.collect)


@functools.cache
def _compiled(source: bytes, index: int) -> CodeType:
    tree = ast.parse(source)
    if not is_harmless(tree):
        raise child.Refused
    return compile(tree, f"<source {index}>", "exec", dont_inherit=True)


def is_harmless(tree: ast.Module) -> bool:
    """Whether a program can disturb no other one that runs in the same process after it."""
    nodes = list(ast.walk(tree))
    types = {id(part) for annotation in _annotations(nodes) if _is_type(annotation) for part in ast.walk(annotation)}
    forbidden = FORBIDDEN_NAMES - _collections(tree)
    return all(id(node) in types or (isinstance(node, NODES) and _is_allowed(node, forbidden)) for node in nodes)


def _annotations(nodes: Iterable[ast.AST]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            yield node.returns


def _is_type(annotation: ast.expr) -> bool:
    """Whether an annotation is made of types only: evaluating it means the same whoever did so before."""
    return all(
        (isinstance(part, ast.Name) and part.id in TYPES)
        or (isinstance(part, ast.Constant) and part.value in (None, ...))
        or isinstance(part, ast.Subscript | ast.Tuple | ast.List | ast.Load)
        for part in ast.walk(annotation)
    )


def _collections(tree: ast.Module) -> set[str]:
    """Classes that are imported for the whole program, and have a namesake in `typing`."""
    imports = [statement for statement in tree.body if isinstance(statement, ast.ImportFrom)]
    names = {alias.name for each in imports if each.module == "collections" for alias in each.names if not alias.asname}
    return names & {"Counter", "OrderedDict"}


def _is_allowed(node: ast.AST, forbidden: frozenset[str]) -> bool:
    if isinstance(node, ast.Name):
        return _is_plain(node.id, forbidden) and (isinstance(node.ctx, ast.Load) or node.id not in TYPES)
    if isinstance(node, ast.Try):  # a generator's `finally` runs when the collector comes, which is not the same alone
        return not any(isinstance(part, ast.Yield | ast.YieldFrom) for part in ast.walk(node))
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
    """Whether a program may give this name a meaning: an annotation must not come to mean something else."""
    return _is_plain(name, forbidden) and name not in TYPES


def _is_member(module: str, alias: ast.alias) -> bool:
    if module == "typing":  # by another name it could be used outside an annotation
        return alias.name in TYPES and alias.asname is None
    return alias.name in MEMBERS.get(module, "").split()


def _is_plain(name: str, forbidden: frozenset[str]) -> bool:
    return not name.startswith("__") and name not in forbidden
