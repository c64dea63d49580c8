"""Puzzles whose skills and form are known."""

EXAMPLES = [
    ("def f(x: int):\n    return 3 * x == 51", "int / operators / arithmetic"),
    ("def f(n: int):\n    return pow(2, n, 101) == 37", "int / calls / arithmetic+number theory"),
    ("def f(x: int):\n    return x ^ x >> 1 == 45", "int / operators / bits"),
    ("def f(s: str):\n    return s.count('a') == 4", "str / calls / strings"),
    ("def f(s: str):\n    return sum((int(c) for c in s)) == 9", "str / comprehension / parsing+strings"),
    ("def f(d: Dict[str, int]):\n    return sum(d.values()) == 9", "map / calls / sets and maps"),
    ("def f(s: Set[int]):\n    return s & {3, 4} == {4}", "set / operators / sets and maps"),
    ("def f(m: List[List[int]]):\n    return m[0][1] == 7", "rows / operators / grids and graphs"),
    ("def f(a: List[int]):\n    return sorted(a) == list(range(5))", "numbers / calls / combinatorics"),
    ("def f(a: List[int]):\n    return a == sorted(a, reverse=True)", "numbers / calls / sorting and search"),
    ("import math\n\ndef f(p: Tuple[int, int]):\n    return math.dist(p, (2, 3)) == 13", "tuple / calls / geometry"),
    (
        "def f(a: List[int]):\n    t = 0\n    for v in a:\n        t += v\n    return t == 9",
        "numbers / loop / no skill",
    ),
    ("def f(a: List[int]):\n    t = a[0]\n    return t == 9", "numbers / statements / no skill"),
    ("def h(n):\n    return n\n\ndef f(x: float):\n    return h(x) == 9", "float / helper / arithmetic"),
    (
        "def h(n):\n    return n and h(n - 1)\n\ndef f(x: float):\n    return h(x) == 9",
        "float / recursion / arithmetic",
    ),
    ("def f(b: Optional[List[bool]]):\n    return b is not None and sum(b) == 2", "numbers / calls / no skill"),
]
