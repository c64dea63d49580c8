from collections import Counter

import numpy as np
import pytest

from puzzles.archive.store import Archive
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from puzzles.verify import truth_pool
from selfplay.iteration.teach import balance_table as balance
from selfplay.sampling.prompts import PROTOCOLS, PromptFormat, propose_prompt, solve_prompt
from selfplay.sampling.shots import prompt_for, solver_shots
from selfplay.training.select import balanced, cells, composition, examples, level

TEXTS = [
    ("def f(x: int, k=1764):\n    return x * x == k and x > 0", "def g(k=1764):\n    return 42"),
    ("def f(x: int, k=1764):\n    return x * x == k and x > 0", "def g(k=1764):\n    return int(k ** 0.5)"),
    ("def f(x: int):\n    return 3 * x == 51", "def g():\n    return 17"),
    ("def f(s: str):\n    return s.count('a') == 4 and len(s) == 9", "def g():\n    return 'a' * 4 + 'b' * 5"),
    ("def f(x: float):\n    return x * 4 == 9.0", "def g():\n    return 2.25"),
    ("import math\n\ndef f(x: int):\n    return math.isqrt(x) == 17 and x > 290", "def g():\n    return 300"),
    ("def f(x: int):\n    return x % 37 == 5 and x > 500", "def h():\n    return 523\n\ndef g():\n    return h()"),
]


@pytest.fixture(scope="module")
def pairs():
    with truth_pool(lanes=1) as pool:
        puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in TEXTS])
        return list(zip(puzzles, parse_candidates(pool, [Text(solution) for _, solution in TEXTS]), strict=True))


def chosen(pairs, roles=("propose", "solve"), protocol="plain", shots=(), proposer_shots=0, seed=0):
    return examples(pairs, roles, PromptFormat(protocol), shots, proposer_shots, np.random.default_rng(seed))


# ---- plain, whole ----


def test_a_pair_teaches_its_solution_and_its_puzzle(pairs):
    made, used = chosen(pairs[:1])
    assert [(one.prompt.text, one.completion) for one in made] == [
        ("def f(x: int, k=1764):\n    return x * x == k and x > 0\n\ndef g(k=1764):", "\n    return 42\n"),
        ("def f(", "x: int, k=1764):\n    return x * x == k and x > 0\n"),
    ]
    assert used == pairs[:1]


def test_every_solution_of_a_puzzle_is_taught_and_the_puzzle_once(pairs):
    made, used = chosen(pairs[:2])
    assert [one.completion for one in made if one.prompt.text != "def f("] == [
        "\n    return 42\n", "\n    return int(k ** 0.5)\n",
    ]  # fmt: skip
    assert sum(one.prompt.text == "def f(" for one in made) == 1
    assert used == pairs[:2]


def test_a_pair_that_is_repeated_teaches_its_puzzle_as_often(pairs):
    made, used = chosen([pairs[0], pairs[0], pairs[0], pairs[1]])
    assert Counter(one.prompt.text == "def f(" for one in made) == {True: 3, False: 4}
    assert used == pairs[:2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("role", ["propose", "solve"])
def test_only_the_roles_asked_for_are_taught(pairs, protocol, role):
    made, _ = chosen(pairs, (role,), protocol)
    headers = {"propose": "def f(", "solve": "def g"}
    words = {"propose": "Write a new programming puzzle", "solve": "Here is a Python function f"}
    for one in made:
        assert one.prompt.header.startswith(headers[role]) if protocol != "chat" else words[role] in one.prompt.text


def test_no_roles_teach_nothing(pairs):
    assert chosen(pairs, ()) == ([], [])


@pytest.mark.parametrize("protocol", ["plain", "few-shot"])
def test_what_cannot_follow_its_prompt_is_left_out_and_a_pair_with_nothing_left_is_not_used(pairs, protocol):
    made, used = chosen([pairs[5], pairs[6]], protocol=protocol)
    # The puzzle with an import cannot be proposed, the solution with a helper cannot follow its header.
    assert [one.completion for one in made] == [
        "\n    return 300\n", "x: int):\n    return x % 37 == 5 and x > 500\n",
    ]  # fmt: skip
    assert used == [pairs[5], pairs[6]]
    assert chosen([pairs[6]], ("solve",), protocol) == ([], [])


def test_a_chat_reply_teaches_all_of_them_as_code(pairs):
    made, used = chosen(pairs, protocol="chat")
    assert len(made) == len(pairs) + len({puzzle.id for puzzle, _ in pairs})
    assert used == pairs
    assert all(one.completion.startswith("```python\n") and one.completion.endswith("\n```") for one in made)
    assert all(one.prompt.chat for one in made)


# ---- shots ----


def test_shots_are_the_shortest_of_each_type_first(pairs):
    def length(pair):
        return len(pair[0].source) + len(pair[1].source)

    shots = solver_shots(pairs, 5)
    assert [puzzle.answer_type for puzzle, _ in shots[:3]] == ["int", "float", "str"]
    assert shots[0] == pairs[2]
    assert [length(pair) for pair in shots[:3]] == sorted(length(pair) for pair in shots[:3])
    rest = [pair for pair in sorted(pairs, key=length) if pair not in shots[:3]]
    assert shots[3:] == rest[:2]


def test_few_shots_are_the_first_of_many_and_do_not_depend_on_the_order_of_the_pairs(pairs):
    shots = solver_shots(pairs, 4)
    assert solver_shots(pairs, 2) == shots[:2]
    assert solver_shots(pairs[::-1], 4) == shots
    assert len(solver_shots(pairs, 100)) == len(pairs)
    assert solver_shots(pairs, 0) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_solvers_training_prompt_is_the_one_that_sampling_shows(pairs, protocol):
    shots = solver_shots(pairs, 3)
    made, used = chosen(pairs, ("solve",), protocol, shots)
    assert [one.prompt for one in made] == [prompt_for(protocol, puzzle, shots) for puzzle, _ in used]


def test_a_puzzle_is_never_shown_its_own_solution(pairs):
    shots = solver_shots(pairs, 4)
    made, used = chosen(pairs, ("solve",), "few-shot", shots)
    for one, (puzzle, solution) in zip(made, used, strict=True):
        shown = 3 if puzzle.id in {shot.id for shot, _ in shots} else 4
        assert one.prompt.text.count("def f(") == shown + 1
        assert one.prompt.text.count(puzzle.source) == 1
        assert one.prompt.text == solve_prompt("few-shot", puzzle, [s for s in shots if s[0].id != puzzle.id]).text
        assert solution.source not in one.prompt.text


@pytest.mark.parametrize("proposer_shots", [0, 1, 3, 5])
def test_a_proposers_training_prompt_shows_as_many_other_puzzles_as_sampling_does(pairs, proposer_shots):
    others = {puzzle.source for puzzle, _ in pairs}
    for seed in range(20):
        made, used = chosen(pairs, ("propose",), "few-shot", (), proposer_shots, seed)
        for one, (puzzle, _) in zip(made, used, strict=True):
            shown = one.prompt.text.removesuffix("def f(").split("\n\n\n")[:-1]
            assert len(shown) == proposer_shots
            assert set(shown) <= others - {puzzle.source}
            assert len(set(shown)) == len(shown)


def test_a_proposers_shots_are_drawn_anew_for_each_puzzle_by_the_seed(pairs):
    first, _ = chosen(pairs, ("propose",), "few-shot", (), 2, 1)
    assert len({one.prompt for one in first}) > 1
    assert chosen(pairs, ("propose",), "few-shot", (), 2, 1)[0] == first
    assert any(chosen(pairs, ("propose",), "few-shot", (), 2, seed)[0] != first for seed in range(2, 6))


def test_all_other_puzzles_are_shots_as_often(pairs):
    counts = dict.fromkeys({puzzle.source for puzzle, _ in pairs}, 0)
    for seed in range(400):
        made, used = chosen(pairs, ("propose",), "few-shot", (), 2, seed)
        text = next(one.prompt.text for one, (puzzle, _) in zip(made, used, strict=True) if puzzle == pairs[2][0])
        for source in counts:
            counts[source] += source in text
    assert counts.pop(pairs[2][0].source) == 0
    assert all(110 < count < 215 for count in counts.values())  # 160 on average


def test_more_shots_than_other_puzzles_show_all_of_them(pairs):
    made, _ = chosen(pairs[:3], ("propose",), "few-shot", (), 5)
    assert [one.prompt.text.count("def f(") for one in made] == [2, 2]
    assert chosen(pairs[:1], ("propose",), "few-shot", (), 5)[0][0].prompt == propose_prompt("few-shot")


def test_puzzles_and_candidates_are_told_apart_by_identity_alone():
    one = Puzzle("def f(x: int):\n    return x == 12", "int", "def g():", "a", "s", frozenset())
    made, used = chosen(
        [(one, Candidate("def g():\n    return 12", "b")), (one, Candidate("def g():\n    return 6 * 2", "c"))]
    )
    assert len(made) == 3
    assert [solution.id for _, solution in used] == ["b", "c"]


# ---- balance ----


def cells_of(pairs, many):
    """Pairs of cells of so many each, as many as there are."""
    names = [name for name, count in many.items() for _ in range(count)]
    made = [(pairs[0][0], Candidate(f"{place}", f"{place}")) for place in range(len(names))]
    return made, {candidate.id: name for (_, candidate), name in zip(made, names, strict=True)}


def balanced_counts(pairs, many, seed=0):
    made, cell = cells_of(pairs, many)
    even = balanced(made, lambda pair: cell[pair[1].id], np.random.default_rng(seed))
    return Counter(cell[candidate.id] for _, candidate in even), even, made


def test_balanced_pairs_are_even_over_cells(pairs):
    counts, even, made = balanced_counts(pairs, {"full": 20, "some": 5, "rare": 2})
    assert counts == {"full": 9, "some": 9, "rare": 6}  # a share is 27 / 3, and none stands more than three times
    assert max(Counter(even).values()) == 3
    assert set(even) <= set(made)


def test_even_cells_stay_as_they_are(pairs):
    _, even, made = balanced_counts(pairs, {"a": 4, "b": 4, "c": 4})
    assert even == made
    assert balanced([], lambda pair: 0, np.random.default_rng(0)) == []


def test_a_pair_of_a_scarce_cell_is_never_left_out(pairs):
    for seed in range(20):
        _, even, made = balanced_counts(pairs, {"full": 30, "some": 3}, seed)
        assert set(made[30:]) <= set(even)


def test_balance_depends_on_its_seed_alone_and_keeps_the_order(pairs):
    many = {"full": 20, "some": 5}
    _, first, made = balanced_counts(pairs, many, 1)
    assert first == balanced_counts(pairs, many, 1)[1] != balanced_counts(pairs, many, 2)[1]
    assert first == sorted(first, key=made.index)


def test_levels_are_thirds_of_the_solve_rate():
    asked = [(0, 0), (0, 12), (1, 12), (3, 12), (4, 12), (7, 12), (8, 12), (12, 12)]
    assert [level(*each) for each in asked] == [
        "not tried", "never solved", "hard", "hard", "middling", "middling", "easy", "easy",
    ]  # fmt: skip


def test_a_table_says_what_balancing_changed(pairs, tmp_path):
    with truth_pool(lanes=1) as pool, Archive(tmp_path / "archive.sqlite", create=True) as archive:
        cell = cells(archive, pool, pairs)
    before, after = composition(pairs, cell), composition(pairs[:3], cell)
    assert before["type"] == {"int": 5, "str": 1, "float": 1}
    assert before["difficulty"] == {"not tried": 7}
    assert before["skill"]["strings"] == 1
    text = balance(before, after)
    assert "type        int" in text
    assert text.splitlines()[0].split() == ["pairs", "share", "balanced", "share"]
