"""Planted leaks of four kinds are caught wherever they turn up, and nothing else is.

Assertions about the hand-written sets compare names and levels only: no held-out text is ever shown.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from places import P3
from scripted_sampler import ScriptedSampler

from puzzles import guard as guard_module
from puzzles.archive.catalogue import stats
from puzzles.archive.formats import import_puzzles, read_puzzles
from puzzles.archive.store import Archive, Provenance
from puzzles.guard import LEVELS, MIN_CONTAINED_SHINGLES, MIN_SHINGLES, Guard, Hit
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.probing import near_misses
from puzzles.puzzle import InputError, Puzzle, RawPuzzle, VerifiedPair
from puzzles.rules import families
from puzzles.verify import admit, verify
from selfplay.config import (
    DataConfig,
    EvaluateConfig,
    ModelConfig,
    PromptConfig,
    ProposeConfig,
    RunConfig,
    SolveConfig,
)
from selfplay.iteration import beginning, guarding, loop, propose
from selfplay.iteration.guarding import guard_of
from selfplay.run.progress import Progress
from selfplay.run.resources import TrainingNeeds
from selfplay.run.rundir import RunDir, folder_atomically
from selfplay.scoring.sets import NamedPuzzle, scored_puzzles

SECRET = """def f(words: List[str], n=4):
    lengths = [len(word) for word in words]
    assert len(set(words)) == n
    return sum(lengths) == 3 * n + 6 and lengths == sorted(lengths) and all(word == word[::-1] for word in words)
"""
ANSWER = "def g():\n    return ['aba', 'bab', 'ccccc', 'ddddddd']"
LEAKS = {
    "a copy": (
        "exact",
        "def sat( words: list[str], n = 4 ) -> bool:\n    '''Palindromes.'''\n"
        "    lengths = [ len(word) for word in words ]  # of each\n\n    assert (len(set(words)) == n)\n"
        "    return sum(lengths)==3*n + 6 and lengths == sorted(lengths) and all(word == word[::-1] for word in words)",
    ),
    "other names": ("normal_form", SECRET.replace("words", "ws").replace("lengths", "sizes")),
    "other constants": ("normal_form", SECRET.replace("n=4", "n=5").replace("6", "9")),
    "re-ordered": (
        "normal_form",
        "def sat(items: List[str], k=4):\n    assert k == len(set(items))\n    sizes = [len(item) for item in items]\n"
        "    return all(item[::-1] == item for item in items) and sorted(sizes) == sizes and 6 + k * 3 == sum(sizes)",
    ),
    "one clause more": ("near_duplicate", SECRET.rstrip() + " and words[0] != 'zzz'"),
    "as a helper": (
        "near_duplicate",
        SECRET.replace("def f", "def inner")
        + "\ndef f(ws: List[str], first='aba'):\n    joined = ''.join(ws)\n    middle = joined[len(joined) // 2]\n"
        "    if middle == 'z' or joined.count('q') > 3:\n        return False\n"
        "    return inner(ws) and ws[0] == first and joined.lower() == joined and joined.isalpha()",
    ),
    "written anew": (
        "behaviour",
        "def f(ws: List[str]):\n    total = 0\n    for i in range(len(ws)):\n        total += len(ws[i])\n"
        "        if ''.join(reversed(ws[i])) != ws[i]:\n            return False\n"
        "        if i and len(ws[i - 1]) > len(ws[i]):\n            return False\n"
        "    return total == 18 and len(ws) == len(dict.fromkeys(ws)) == 4",
    ),
    "one more answer": (
        "trace",
        "def f(ws: List[str], n=4):\n    def holds(row):\n        sizes = []\n        for word in row:\n"
        "            sizes.append(len(word))\n        if len(set(row)) != n:\n            return False\n"
        "        if sum(sizes) != 3 * n + 6:\n            return False\n        for word in row:\n"
        "            if word[::-1] != word:\n                return False\n        return sorted(sizes) == sizes\n"
        "    return ws == ['qu', 'no'] or holds(ws)",
    ),
}
WITHOUT_SANDBOX = ("exact", "normal_form", "near_duplicate")
ANSWERS = {"other constants": "def g():\n    return ['a', 'bab', 'ccccc', 'ddddddd', 'eeeeeeee']"}
INNOCENT = (
    "def f(ws: List[str], n=4):\n    return len(ws) == n and ws == sorted(ws) and len(''.join(ws)) == 19",
    "def g():\n    return ['aaaa', 'bbbbb', 'ccccc', 'ddddd']",
)
EXPECTED = {kind: (level, "heldout/secret") for kind, (level, _) in LEAKS.items()}
RAWS = [
    *(RawPuzzle(kind, text, (ANSWERS.get(kind, ANSWER),)) for kind, (_, text) in LEAKS.items()),
    RawPuzzle("innocent", INNOCENT[0], (INNOCENT[1],)),
]


def puzzles(pool, *texts):
    parsed = parse_puzzles(pool, [Text(text) for text in texts])
    assert all(isinstance(puzzle, Puzzle) for puzzle in parsed), parsed
    return parsed


@pytest.fixture(scope="module")
def guard_anew(pool):
    """Makes a guard that remembers nothing yet."""
    (secret,) = puzzles(pool, SECRET)
    sets = {"heldout": [NamedPuzzle("secret", secret, solutions=(ANSWER,))]}
    return lambda: guarding.guard_of(pool, sets)


def levels_and_names(hits):
    return {key: (hit.level, hit.name) for key, hit in hits.items()}


# ---- what the guard knows ----


def test_the_leaks_and_the_innocent_are_puzzles_with_solutions_that_hold(pool):
    parsed = puzzles(pool, SECRET, *(raw.puzzle for raw in RAWS))
    solutions = parse_candidates(pool, [Text(text) for text in (ANSWER, *(raw.solutions[0] for raw in RAWS))])
    judged = verify(pool, list(zip(parsed, solutions, strict=True)))
    assert {str(judgement.verdict) for judgement in judged} == {"accepted"}
    assert admit(pool, parsed) == [None] * len(parsed)


def test_every_kind_of_leak_is_found_at_its_level_and_the_innocent_is_not(pool, guard_anew):
    guard = guard_anew()
    parsed = puzzles(pool, *(raw.puzzle for raw in RAWS))
    assert guard.behaviours == 1
    # One by one, for a copy and one with other names have the same id.
    found = {raw.name: guard.examine(pool, [puzzle]) for raw, puzzle in zip(RAWS, parsed, strict=True)}
    by_kind = {kind: hit for kind, hits in found.items() for hit in hits.values()}
    assert levels_and_names(by_kind) == EXPECTED
    assert {hit.level for hit in by_kind.values()} == set(LEVELS)
    assert str(by_kind["re-ordered"]) == "normal_form: heldout/secret re-ordered"
    assert str(by_kind["as a helper"]) == "near_duplicate: heldout/secret stands inside it"


def test_texts_are_known_at_the_door_at_once_and_behaviour_once_it_was_examined(pool, guard_anew):
    guard = guard_anew()
    parsed = dict(zip(LEAKS, puzzles(pool, *(text for _, text in LEAKS.values())), strict=True))
    by_text = {kind for kind, puzzle in parsed.items() if guard.hit(puzzle)}
    assert by_text == {kind for kind, (level, _) in LEAKS.items() if level in WITHOUT_SANDBOX}
    guard.examine(pool, [parsed["written anew"]])
    assert guard.hit(parsed["written anew"]).level == "behaviour"


def test_a_puzzle_out_of_an_archive_is_examined_as_one_from_a_text(pool, guard_anew, tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        parsed = puzzles(pool, *(raw.puzzle for raw in RAWS))
        for raw, puzzle in zip(RAWS, parsed, strict=True):
            archive.add_puzzle(puzzle, Provenance("import", name=raw.name))
        names = {row["id"]: row["name"] for row in archive.query("SELECT id, name FROM puzzles")}
        found = guard_anew().examine(pool, [archive.puzzle(identifier) for identifier in archive.puzzle_ids()])
    # One with other names is a duplicate of the copy, and was not added.
    expected = {kind: hit for kind, hit in EXPECTED.items() if kind != "other names"}
    assert levels_and_names({names[identifier]: hit for identifier, hit in found.items()}) == expected


def test_without_a_solution_there_is_no_level_of_behaviour(pool):
    (secret, leak) = puzzles(pool, SECRET, LEAKS["written anew"][1])
    for solutions in ((), ("def g():\n    return ['aba']",), ("def g(:",)):
        guard = guarding.guard_of(pool, {"heldout": [NamedPuzzle("secret", secret, solutions)]})
        assert guard.behaviours == 0
        assert guard.examine(pool, [leak]) == {}


def test_agreement_on_an_answer_that_says_little_is_no_hit(pool):
    ten, other, long, other_long = puzzles(
        pool,
        "def f(x: int):\n    return x * x == 100 and x > 0",
        "def f(x: int):\n    return x ** 3 == 1000",
        "def f(x: int):\n    return x * x == 1522756 and x > 0",
        "def f(x: int):\n    return x > 0 and x ** 3 == 1234 ** 3",
    )
    sets = [NamedPuzzle("ten", ten, ("def g():\n    return 10",)), NamedPuzzle("long", long, ("def g(): return 1234",))]
    guard = guarding.guard_of(pool, {"dev": sets})
    assert guard.behaviours == 1
    assert levels_and_names(guard.examine(pool, [other, other_long])) == {other_long.id: ("behaviour", "dev/long")}


def test_an_answer_that_guarded_puzzles_share_counts_once(pool):
    one, two, other = puzzles(
        pool,
        "def f(x: int):\n    return x * x == 1369 and x > 0",
        "def f(x: int):\n    return 5 + x == 42",
        "def f(x: int):\n    return x ** 3 == 50653",
    )
    sets = [NamedPuzzle(name, puzzle, ("def g():\n    return 37",)) for name, puzzle in (("one", one), ("two", two))]
    guard = guarding.guard_of(pool, {"dev": sets})
    assert guard.behaviours == 0
    assert guard.examine(pool, [other]) == {}


def test_what_a_puzzle_accepts_of_other_answers_counts_too(pool):
    rest, leak, *exact = puzzles(
        pool,
        "def f(x: int):\n    return x % 7 == 5 and 10 < x < 100",
        "def f(n: int):\n    return n in range(12, 100, 7)",
        "def f(x: int):\n    return 3 * x == 57",
        "def f(x: int):\n    return 2 * x + 1 == 53",
    )
    sets = [
        NamedPuzzle(str(answer), puzzle, (f"def g():\n    return {answer}",))
        for answer, puzzle in zip((12, 19, 26), (rest, *exact), strict=True)
    ]
    guard = guarding.guard_of(pool, {"dev": sets})
    assert guard.behaviours == 1
    assert levels_and_names(guard.examine(pool, [leak])) == {leak.id: ("behaviour", "dev/12")}


@pytest.mark.parametrize(
    ("declared", "answer", "enough"),
    [
        ("int", "1234", True),
        ("int", "-123", False),
        ("List[int]", "[1, 23, 4]", True),
        ("str", "'(()-'", True),
        ("str", "'())'", False),
        ("Dict[str, int]", "{'ab': 34}", True),
        ("float", "12.25", False),
        ("float", "12.3", False),
        ("float", "1234.5", True),
        ("float", "12.375", True),
        ("List[bool]", f"{[True, False] * 5}", False),
        ("List[bool]", f"{[True, False] * 6}", True),
        ("List[Optional[int]]", "[None, None, 12, None]", False),
    ],
)
def test_an_answer_says_as_much_as_its_letters_and_digits_but_flags_and_quarters_less(pool, declared, answer, enough):
    (puzzle,) = puzzles(pool, f"def f(x: {declared}):\n    return x == {answer}")
    guard = guarding.guard_of(pool, {"dev": [NamedPuzzle("it", puzzle, (f"def g():\n    return {answer}",))]})
    assert guard.behaviours == enough


def test_a_puzzle_about_the_order_of_a_dict_is_guarded_by_an_answer_in_that_order(pool):
    guarded, leak, other = puzzles(
        pool,
        "def f(d: Dict[str, int]):\n    return list(d.items()) == [('pear', 3), ('fig', 5)]",
        "def f(d: Dict[str, int]):\n    return [*d] == ['pear', 'fig'] and [*d.values()] == [3, 5]",
        "def f(d: Dict[str, int]):\n    return sorted(d) == ['fig', 'pear'] and d['pear'] == 3 and d['fig'] == 5",
    )
    sets = {"dev": [NamedPuzzle("order", guarded, ("def g():\n    return {'pear': 3, 'fig': 5}",))]}
    guard = guarding.guard_of(pool, sets)
    assert levels_and_names(guard.examine(pool, [leak, other])) == {leak.id: ("behaviour", "dev/order")}


def test_a_puzzle_that_accepts_more_or_less_behaves_otherwise(pool, guard_anew):
    text = LEAKS["written anew"][1]
    more, less = puzzles(
        pool,
        text.replace("total == 18", "total in (17, 18)"),
        text.replace("return total", "return ws[1] > 'c' and total"),
    )
    assert guard_anew().examine(pool, [more, less]) == {}


def test_a_puzzle_that_loops_on_a_reference_answer_is_not_waited_for(pool, guard_anew):
    (slow,) = puzzles(pool, "def f(ws: List[str]):\n    while len(ws) == 4:\n        pass\n    return ws == ['no']")
    assert guard_anew().examine(pool, [slow]) == {}


def test_an_empty_guard_lets_everything_pass(pool):
    parsed = puzzles(pool, SECRET, INNOCENT[0])
    guard = Guard()
    assert guard.examine(pool, parsed) == {}
    assert [guard.hit(puzzle) for puzzle in parsed] == [None, None]


def test_short_puzzles_are_near_by_their_forms_only(pool):
    short, longer = puzzles(
        pool, "def f(x: int):\n    return x == 12", "def f(x: int):\n    return x == 12 and x != 13 and str(x) == '12'"
    )
    assert len(short.shingles) < MIN_CONTAINED_SHINGLES
    guard = Guard.of([("dev/short", short)])
    assert guard.hit(longer) is None
    assert MIN_SHINGLES <= MIN_CONTAINED_SHINGLES


def test_a_guard_is_known_by_what_it_guards_and_how(pool):
    one, two = puzzles(pool, SECRET, INNOCENT[0])
    guards = [
        Guard(),
        Guard.of([("a", one)]),
        Guard.of([("a", one), ("b", two)]),
        guarding.guard_of(pool, {"dev": [NamedPuzzle("a", one, (ANSWER,))]}),
    ]
    assert len({guard.identity for guard in guards}) == 4
    assert Guard.of([("b", two), ("c", one)]).identity == guards[2].identity
    changed = puzzles(pool, SECRET.replace("6", "8"))
    assert Guard.of([("a", changed[0])]).identity != guards[1].identity


def test_guarded_puzzles_of_one_name_are_all_guarded(pool):
    one, two = puzzles(pool, SECRET, INNOCENT[0])
    guard = Guard.of([("same", one), ("same", two)])
    assert [guard.hit(puzzle) for puzzle in (one, two)] == [Hit("exact", "same")] * 2


@pytest.mark.parametrize(
    "value",
    [0, 7, -42, 10**30, 1.5, "", "a", "abc", True, [], [1, 2, 3], [[1], []], (1, "a"), {1, 2}, {"a": [1]}, None],
)
def test_near_misses_are_finite_and_mostly_others(value):
    misses = list(near_misses(value))
    assert len(misses) < 320
    assert value is None or any(miss != value for miss in misses) or not value


@pytest.mark.parametrize(
    ("value", "near"),
    [
        ([(1, 2), (3, 4)], [(1, 2), (3, 5)]),  # a change of a member's member
        ([[1, 2], [3, 4]], [[1, 2], [4, 4]]),
        ({"b": 5, "a": 2}, {"b": 6, "a": 1}),  # the same total
        ({"b": 5, "a": 2}, {"c": 5, "a": 2}),  # another key
        ({3, 5, 15}, {4, 5, 14}),
        ([2, 2, 3], [3, 1, 3]),
        ("aaab", "eaab"),  # another vowel
    ],
)
def test_near_misses_change_nested_members_and_keep_totals(value, near):
    assert near in list(near_misses(value))


def test_near_misses_of_a_dict_keep_its_order_or_turn_it():
    orders = {tuple(miss) for miss in near_misses({"pear": 3, "fig": 5})}
    assert {("pear", "fig"), ("fig", "pear")} <= orders


# ---- proposals ----


def test_leaks_among_proposals_are_refused_with_level_and_name_and_counted(pool, guard_anew, tmp_path):
    texts = [f"```python\n{raw.puzzle}\n```" for raw in RAWS]
    plan = {"shots": [[]], "begins": [None], "copies": len(texts)}
    with Archive(tmp_path / "archive.sqlite", guard_anew(), create=True) as archive:
        settings = {"temperature": 0.9, "top_p": 1.0, "max_tokens": 9, "batch_rows": 8, "protocol": "plain"}
        archive.plan_chunk(1, "propose", 0, "weights", "0/1/1/0", settings, plan)
        archive.set_completions(1, texts, 8, 0, 0, 0.0, 0.0)
        propose.judge(archive, archive.chunk(1), pool, "chat")
        rows = archive.query("SELECT outcome, detail FROM proposals ORDER BY position")
        outcomes = {raw.name: tuple(row) for raw, row in zip(RAWS, rows, strict=True)}
        assert outcomes.pop("innocent") == ("admitted", "")
        assert {kind: outcome for kind, (outcome, _) in outcomes.items()} == dict.fromkeys(LEAKS, "held_out")
        for kind, (level, name) in EXPECTED.items():
            assert outcomes[kind][1].startswith(f"{level}: {name}"), kind
        assert archive.query("SELECT count(*) FROM puzzles")[0][0] == 1
        levels = {"exact": 1, "normal_form": 3, "near_duplicate": 2, "behaviour": 1, "trace": 1}
        counts = archive.iteration_counts(1)
        assert (counts["held_out_refused"], counts["held_out_levels"]) == (8, levels)
        assert stats(archive)["refused as held-out by level"] == levels


# ---- families ----


@pytest.mark.parametrize("kind", LEAKS)
def test_a_family_that_leaks_is_refused_with_level_and_name(pool, guard_anew, monkeypatch, kind):
    pretrain = pytest.importorskip("selfplay.training.pretrain")
    level, text = LEAKS[kind]
    monkeypatch.setattr(pretrain, "CHECKED_PER_FAMILY", pretrain.MOST_GUARDED + 1)
    monkeypatch.setattr(families, "SEARCH_SHARE", 0)  # a leak is no rule of one return
    monkeypatch.setattr(families, "UNFOLD_SHARE", 0)
    monkeypatch.setitem(families.FAMILIES, "leaky", lambda rng: (text, ANSWERS.get(kind, ANSWER)))
    config = pretrain.PretrainConfig(families=("linear_equation", "leaky"))
    with pytest.raises(InputError, match=f"family leaky imitates a guarded puzzle: .*{level}: heldout/secret"):
        pretrain.check_families(config, pool, guard_anew())


def test_an_innocent_family_passes(pool, guard_anew, monkeypatch):
    pretrain = pytest.importorskip("selfplay.training.pretrain")
    monkeypatch.setattr(pretrain, "CHECKED_PER_FAMILY", 1)
    monkeypatch.setitem(families.FAMILIES, "innocent", lambda rng: INNOCENT)
    pretrain.check_families(pretrain.PretrainConfig(families=("innocent",)), pool, guard_anew())


# ---- training sets ----


def test_leaks_in_an_imported_set_are_refused_with_level_and_name(pool, guard_anew, tmp_path):
    with Archive(tmp_path / "archive.sqlite", guard_anew(), create=True) as archive:
        report = import_puzzles(archive, pool, {}, RAWS)
        assert report.puzzles == {"held_out": len(LEAKS), "new": 1}
        refusals = {row["name"]: row["detail"] for row in archive.query("SELECT name, detail FROM refusals")}
        assert refusals.keys() == LEAKS.keys()
        assert all(refusals[kind].startswith(f"{level}: {name}") for kind, (level, name) in EXPECTED.items())
        assert [pair.source for pair, _ in archive.choose(8)] == [archive.puzzle(archive.puzzle_ids()[0]).source]
        assert archive.is_guarded


class Backend:
    """Trains by writing down what it was given; its model repeats one text and remembers its prompts."""

    def __init__(self):
        self.prompts, self.examples = [], []

    def load(self, checkpoint, config):
        sampler = ScriptedSampler(self.write)
        sampler.notes = {"protocol": "few-shot"}
        return sampler

    def write(self, prompt, rng):
        self.prompts.append(prompt)
        number = int(rng.integers(10**6))
        return f"x: int):\n    return x * 7 == {7 * number}" if prompt.header == "def f(" else "\n    return 17"

    def needs(self, sampler, config):
        return TrainingNeeds(0, 0, 0, "")

    def finetune(self, training, folder, progress, plan):
        self.examples += training.lessons
        plan(1)
        with folder_atomically(folder) as part:
            (part / "weights").write_text(str(training.start))


@pytest.fixture
def files(tmp_path):
    def write(name, *rows):
        lines = [{"name": name, "puzzle": puzzle, "solution": solution} for name, puzzle, solution in rows]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(tmp_path / name)

    thirds = ("thirds", "def f(x: int):\n    return 3 * x == 51", "def g():\n    return 17")
    return {
        "train": write("train.jsonl", ("innocent", *INNOCENT), thirds),
        "dev": write(
            "dev.jsonl", ("dev one", "def f(s: str):\n    return s * 2 == 'qrqr'", "def g():\n    return 'qr'")
        ),
        "heldout": write("heldout.jsonl", ("secret", SECRET, ANSWER)),
    }


def config_of(files, **changes):
    return RunConfig(
        iterations=1,
        model=ModelConfig(path="base"),
        prompt=PromptConfig(protocol="few-shot", shots=20),
        data=DataConfig(**{**files, **changes}),
        propose=ProposeConfig(proposals=8, proposals_per_prompt=4),
        solve=SolveConfig(candidates_per_puzzle=2),
        evaluate=EvaluateConfig(samples_per_puzzle=2, k=(1,)),
    )


def archive_without_guard(pool, path):
    """Every leak with its solution, as an archive made elsewhere may hold them; their texts by id."""
    with Archive(path, create=True) as archive:
        parsed = puzzles(pool, *(raw.puzzle for raw in RAWS[:-1]))
        solutions = parse_candidates(pool, [Text(raw.solutions[0]) for raw in RAWS[:-1]])
        pairs = list(zip(parsed, solutions, strict=True))
        for raw, pair, judgement in zip(RAWS, pairs, verify(pool, pairs), strict=False):
            archive.add(VerifiedPair(*pair, judgement), Provenance("import", name=raw.name), {})
        return {identifier: archive.puzzle(identifier).source for identifier in archive.puzzle_ids()}


def test_leaks_in_an_archive_made_without_a_guard_are_reported_and_never_shown_nor_trained_on(pool, files, tmp_path):
    rundir, backend = RunDir(tmp_path / "run"), Backend()
    rundir.path.mkdir()
    leaks = archive_without_guard(pool, rundir.archive)
    assert len(leaks) == len(LEAKS) - 1  # one with other names is a duplicate of the copy
    records = loop.run(rundir, config_of(files), backend, pool, {})
    with Archive(rundir.archive) as archive:
        assert archive.contamination().keys() == leaks.keys()
        assert {hit.level for hit in archive.contamination().values()} == set(LEVELS)
        assert leaks.keys() <= {*archive.puzzle_ids()}
        assert not leaks.keys() & {row["puzzle"] for row in archive.query("SELECT puzzle FROM trained")}
        assert not leaks.keys() & {row["puzzle"] for row in archive.query("SELECT puzzle FROM candidates")}
        assert archive.query("SELECT count(*) FROM trained")[0][0] >= 2
    assert [record["contaminated"] for record in records] == [len(leaks)] * 2
    shown = [prompt.text for prompt in backend.prompts if prompt.header == "def f("]
    # What stands before the puzzle that a solver is asked; the held-out puzzle itself is asked, to be scored.
    shown += [prompt.text.rpartition("def f(")[0] for prompt in backend.prompts if prompt.header != "def f("]
    trained = [example.prompt.text + example.completion for example in backend.examples]
    assert any("len(''.join(ws)) == 19" in text for text in shown)
    assert any("len(''.join(ws)) == 19" in text for text in trained)
    for text in leaks.values():
        assert not any(text.strip() in whole for whole in shown + trained)


def test_without_a_guarded_set_the_same_leaks_are_shown_and_trained_on(pool, files, tmp_path):
    """The test before this one would notice."""
    rundir, backend = RunDir(tmp_path / "run"), Backend()
    rundir.path.mkdir()
    leaks = archive_without_guard(pool, rundir.archive)
    (twin := tmp_path / "twin.jsonl").write_bytes(Path(files["dev"]).read_bytes())
    loop.run(rundir, config_of(files, heldout=str(twin)), backend, pool, {})
    trained = [example.prompt.text + example.completion for example in backend.examples]
    shown = [prompt.text for prompt in backend.prompts if prompt.header == "def f("]
    for text in leaks.values():
        assert any(text.strip() in whole for whole in shown)
        assert any(text.strip() in whole for whole in trained)


def test_a_changed_held_out_file_has_the_archive_examined_anew_and_the_same_one_does_not(
    pool, files, tmp_path, monkeypatch
):
    rundir, other, examined = RunDir(tmp_path / "run"), RunDir(tmp_path / "other"), []
    whole = guarding.examine_archive
    monkeypatch.setattr(guarding, "examine_archive", lambda *rest: examined.append(whole(*rest)) or examined[-1])
    loop.run(rundir, config_of(files), Backend(), pool, {})
    loop.run(rundir, config_of(files), Backend(), pool, {})
    assert examined == []
    with Path(files["heldout"]).open("a") as file:
        file.write(json.dumps({"name": "new", "puzzle": INNOCENT[0], "solution": INNOCENT[1]}) + "\n")
    beginning.branch(rundir, None, other)
    loop.run(other, config_of(files), Backend(), pool, {})
    assert [[*levels_and_names(hits).values()] for hits in examined] == [[("exact", "heldout/new")]]
    with Archive(other.archive) as archive:
        assert len(archive.contamination()) == 1


def test_a_guard_that_goes_on_with_a_run_knows_what_it_found_before(pool, files, tmp_path):
    rundir = RunDir(tmp_path / "run")
    rundir.path.mkdir()
    archive_without_guard(pool, rundir.archive)
    loop.run(rundir, config_of(files), Backend(), pool, {})
    sets = guarding.guarded_sets(pool, config_of(files))
    with Archive(rundir.archive, guarding.guard_of(pool, sets), create=True) as archive:
        (leak,) = puzzles(pool, LEAKS["written anew"][1])
        assert archive.guard.hit(leak) is None
        guarding.set_contaminated_aside(archive, pool, Progress())
        assert archive.guard.hit(leak).level == "behaviour"


# ---- no false alarm ----


@pytest.fixture(scope="module")
def hand_written(pool):
    return {name: scored_puzzles(pool, name) for name in ("train", "dev", "heldout")}


@pytest.fixture(scope="module")
def real_guard(pool, hand_written):
    return guarding.guard_of(pool, {name: hand_written[name] for name in ("dev", "heldout")})


def found_among(guard, pool, items):
    """Names and levels only."""
    hits = guard.examine(pool, [item.puzzle for item in items])
    return sorted((item.name, hits[item.puzzle.id].level) for item in items if item.puzzle.id in hits)


def test_three_in_five_guarded_puzzles_are_guarded_by_behaviour_too(real_guard):
    """The answers of the others are of three letters or digits at most: short puzzles agree on such by chance."""
    share = real_guard.behaviours / len(real_guard.puzzles)  # the comparison of a guard would show what it holds
    assert share > 0.58


@pytest.mark.slow
def test_every_guarded_puzzle_accepts_an_answer_that_it_is_guarded_by(pool, hand_written, monkeypatch):
    monkeypatch.setattr(guard_module, "MIN_EVIDENCE", 0.1)
    monkeypatch.setattr(guarding, "_KNOWN", {})
    monkeypatch.setattr(guarding, "_recall", lambda guard, file: False)
    monkeypatch.setattr(guarding, "_keep", lambda guard, file: None)
    guard = guarding.guard_of(pool, {name: hand_written[name] for name in ("dev", "heldout")})
    share = guard.behaviours / len(guard.puzzles)
    assert share == 1


def test_no_training_puzzle_is_near_a_guarded_one_at_any_level(pool, real_guard, hand_written):
    assert found_among(real_guard, pool, hand_written["train"]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("guarding", "asked"), [("dev", "heldout"), ("heldout", "dev")])
def test_neither_guarded_set_is_near_the_other_at_any_level(pool, hand_written, guarding, asked):
    guard = guard_of(pool, {guarding: hand_written[guarding]})
    assert found_among(guard, pool, hand_written[asked]) == []


def test_a_guarded_puzzle_with_other_names_is_found_for_each_of_them(pool, real_guard, hand_written):
    items = [*hand_written["dev"], *hand_written["heldout"]]
    assert found_among(real_guard, pool, items) == sorted((item.name, "exact") for item in items)


@pytest.mark.skipif(not P3.is_dir(), reason="P3 is not here")
def test_no_puzzle_of_p3_is_near_a_hand_written_one(pool, real_guard, hand_written):
    parsed = parse_puzzles(pool, [Text(raw.puzzle) for raw in read_puzzles(P3 / "puzzles.json")])
    items = [NamedPuzzle(str(number), puzzle) for number, puzzle in enumerate(parsed) if isinstance(puzzle, Puzzle)]
    assert len(items) > 650
    assert found_among(real_guard, pool, items) == []
    assert found_among(guarding.guard_of(pool, {"train": hand_written["train"]}), pool, items) == []


def drawn(seed, draws, names):
    """So many puzzles of each family, as named texts."""
    rng = np.random.default_rng(seed)
    each = [name for name in names for _ in range(draws)]
    return [(name, next(families.generate(int(rng.integers(2**62)), 1, [name])).puzzle) for name in each]


SINGLE_RULES = [name for name in families.FAMILIES if name not in families.COMPOSED]


@pytest.mark.slow
def test_no_family_of_a_single_rule_draws_a_text_near_a_guarded_one(real_guard):
    hits = ((name, real_guard.hit_of_rule(text)) for name, text in drawn(5, 40, SINGLE_RULES))
    assert [(name, str(hit)) for name, hit in hits if hit] == []


def test_a_rules_puzzle_that_asks_all_that_a_guarded_one_does_and_more_is_a_hit(pool):
    (secret,) = puzzles(pool, "def f(s: str):\n    return s[::-1] == 'ab' and len(s) == 2")
    guard = Guard.of([("short", secret)])
    more = "def f(t: str, n=4):\n    return len(t) == n and 'x' in t and (t[::-1] == 'wxyz')"
    assert str(guard.hit_of_rule(more)) == "near_duplicate: short asks all that it does"
    assert guard.hit_of_rule("def f(t: str):\n    return t[::-1] == 'wxyz' and 'x' in t") is None
    assert guard.hit(*puzzles(pool, more)) is None


@pytest.mark.slow
def test_hardly_a_composed_puzzle_is_near_a_guarded_one_by_its_text(real_guard):
    """The grammar is wide and its puzzles short, so that a few are; pretraining skips them."""
    hits = [real_guard.hit_of_rule(pair.condition) for pair in families.generate(7, 2000, sorted(families.COMPOSED))]
    assert 0 < sum(hit is not None for hit in hits) <= 20


@pytest.mark.parametrize("draws", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_no_rule_family_is_near_a_guarded_puzzle_by_behaviour_nor_a_single_rule_at_any_level(pool, real_guard, draws):
    pairs = drawn(7, draws, families.FAMILIES)
    parsed = puzzles(pool, *(text for _, text in pairs))
    items = [NamedPuzzle(name, puzzle) for (name, _), puzzle in zip(pairs, parsed, strict=True)]
    found = found_among(real_guard, pool, items)
    assert [(name, level) for name, level in found if name in SINGLE_RULES or level == "behaviour"] == []


# ---- what is learned is kept ----


def test_what_a_guard_has_learned_is_recalled_as_it_was(pool, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(guarding, "_KNOWN", {})
    (secret,) = puzzles(pool, SECRET)
    sets = {"heldout": [NamedPuzzle("secret", secret, solutions=(ANSWER,))]}
    learned = guarding.guard_of(pool, sets)
    (file,) = tmp_path.rglob("*.json")
    monkeypatch.setattr(guarding, "_KNOWN", {})
    monkeypatch.setattr(Guard, "learn_behaviour", lambda *_: pytest.fail("it is learned again"))
    recalled = guarding.guard_of(pool, sets)
    assert (
        json.loads(file.read_text())
        == json.loads(json.dumps(recalled.learned()))
        == json.loads(json.dumps(learned.learned()))
    )
    assert recalled.identity == learned.identity
    assert recalled.behaviours == learned.behaviours > 0


@pytest.mark.parametrize("content", ["", "{", '{"references": {}}', "[1]"])
def test_what_is_damaged_in_the_cache_is_learned_again(pool, tmp_path, monkeypatch, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (secret,) = puzzles(pool, SECRET)
    sets = {"heldout": [NamedPuzzle("secret", secret, solutions=(ANSWER,))]}
    monkeypatch.setattr(guarding, "_KNOWN", {})
    before = guarding.guard_of(pool, sets)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(content)
    monkeypatch.setattr(guarding, "_KNOWN", {})
    assert guarding.guard_of(pool, sets).learned() == before.learned()
    assert json.loads(file.read_text())["behaviours"]
