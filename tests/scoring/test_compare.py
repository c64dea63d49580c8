"""Is B better than A? Against hand computation, and what is refused."""

import copy
import json
import shutil
import signal
from math import comb
from pathlib import Path

import numpy as np
import pytest

from puzzles.puzzle import InputError
from selfplay.commands.main import main
from selfplay.sampling.prompts import PromptFormat
from selfplay.scoring import results
from selfplay.scoring.compare import MUST_AGREE, compare, conclusion, to_json
from selfplay.scoring.metrics import detectable_difference, paired_interval

N = 4
FACTS = {
    "set": {
        "name": "own", "path": "own.jsonl", "private": False, "hash": "a" * 16, "puzzles": 8, "in_file": 8,
        "references": {"accepted": 8, "none": 0, "refused": {}},
    },
    "model": {"path": "base", "checkpoint": "b" * 16, "device": "cpu", "dtype": "float32", "threads": 1},
    "protocol": "plain",
    "protocol_from": "option",
    "prompt_format": PromptFormat("chat", solve="Solve {puzzle}").to_json(),
    "shots": [],
    "shots_refused": {},
    "prompts_hash": "c" * 16,
    "settings": {
        "samples_per_puzzle": N, "k": [1, 2], "temperature": 0.8, "top_p": 1.0, "max_tokens": 20, "seeds": [0],
        "batch_rows": 8,
    },
    "limits": {"cpu_seconds": 1.0, "wall_seconds": 5.0},
    "sandbox": {"tier": "A"},
    "versions": {"transformers": "5.0"},
    "contamination": None,
    "started": 1.0,
}  # fmt: skip


def line(counts, names, seed=0, n=N):
    """A chunk in which so many candidates of each puzzle were accepted."""
    return {
        "identity": {"chunk": 0, "seed": [seed, 0], "settings": {"batch_rows": 8}, "samples_per_puzzle": n},
        "sampler": {},
        "results": [
            {
                "name": names[number], "puzzle": f"{number:016x}", "answer_type": "int", "skills": [],
                "difficulty": None, "texts": [], "tokens": n, "truncated": 0, "details": [],
                "verdicts": ["accepted"] * c + ["wrong_answer"] * (n - c),
            }
            for number, c in enumerate(counts)
        ],
        "times": {"sampling_seconds": 1.0, "judging_seconds": 1.0, "retried": 0, "judged_again": 0, "changed": 0},
    }  # fmt: skip


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with the results of a benchmark whose counts are given; `changes` are put into its facts."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def make(name, counts, errata=(), changes=(), samples=True):
        facts = copy.deepcopy(FACTS)
        facts["model"]["path"] = name
        for path, value in changes:
            *above, last = path
            place = facts
            for key in above:
                place = place[key]
            place[last] = value
        n, seeds = facts["settings"]["samples_per_puzzle"], facts["settings"]["seeds"]
        names = [f"p{number}" for number in range(len(counts))]
        lines = [line(counts, names, seed, n) for seed in seeds]
        wrong = {f"{number:016x}": "wrong" for number in errata}
        Path(name).mkdir()
        results.write(Path(name), results.document(facts, lines, wrong))
        if samples:
            results.pack(Path(name), lines)
        return Path(name)

    yield make
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def command(capsys):
    """Exit status, standard output and standard error of `selfplay compare`."""

    def run(*arguments):
        capsys.readouterr()
        status = main(["compare", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def passed(c, k, n=N):
    return 1 - comb(n - c, k) / comb(n, k)


# ---- numbers ----

A, B = [4, 3, 0, 0, 1, 2, 0, 0], [4, 1, 2, 4, 2, 0, 0, 1]


def test_differences_are_those_of_hand_computation(made):
    comparison = compare(made("base", A), made("new", B))
    assert [one.k for one in comparison.differences] == [1, 2]
    for one in comparison.differences:
        first, second = ([passed(c, one.k) for c in counts] for counts in (A, B))
        differences = [y - x for x, y in zip(first, second, strict=True)]
        assert (one.first, one.second) == pytest.approx((sum(first) / 8, sum(second) / 8))
        assert one.difference.value == pytest.approx(sum(differences) / 8)
        assert one.difference == paired_interval(differences)
        assert one.detectable == detectable_difference(np.full(8, N), np.array(A), one.k)
        assert one.p == pytest.approx(sign_flips(differences))
    # In candidates -2, 2, 4, 1, -2 and 1, which makes 4: of all 64 signs 20 make 4 or more, 20 make -4 or less.
    assert comparison.differences[0].p == 40 / 64


def sign_flips(differences):
    """The share of all signs that give a sum at least as large."""
    sums = [0.0]
    for difference in differences:
        sums = [total + sign * difference for total in sums for sign in (-1, 1)]
    return sum(abs(total) >= abs(sum(differences)) - 1e-12 for total in sums) / len(sums)


@pytest.mark.parametrize(("won", "lost"), [(6, 0), (5, 0), (7, 1), (3, 3), (2, 5), (0, 8)])
def test_of_puzzles_that_are_solved_always_or_never_p_is_that_of_the_binomial(made, won, lost):
    counts_a, counts_b = [0] * won + [N] * lost + [N, 0], [N] * won + [0] * lost + [N, 0]
    comparison = compare(made("base", counts_a), made("new", counts_b))
    flipped = won + lost
    exact = min(1.0, 2 * sum(comb(flipped, i) for i in range(max(won, lost), flipped + 1)) / 2**flipped)
    assert [one.p for one in comparison.differences] == pytest.approx([exact] * 2)
    assert comparison.verdict == ("not different" if exact >= 0.05 else "better" if won > lost else "worse")
    assert (len(comparison.won), len(comparison.lost)) == (won, lost)


def test_results_of_the_same_samples_are_not_different(made, command):
    made("base", A)
    shutil.copytree("base", "same")
    for other in ("base", "same"):
        comparison = compare("base", other)
        assert [(one.p, one.difference.value) for one in comparison.differences] == [(1.0, 0.0)] * 2
        assert comparison.verdict == "not different"
        assert (comparison.won, comparison.lost, comparison.differing) == ([], [], [])
        assert command("base", other, "--fail-if-worse")[0] == 0


def test_the_other_way_round_is_the_mirror_image(made):
    one, other = made("base", A), made("new", B)
    there, back = compare(one, other), compare(other, one)
    for first, second in zip(there.differences, back.differences, strict=True):
        assert (first.first, first.second, first.p) == (second.second, second.first, second.p)
        assert first.difference.value == -second.difference.value
        assert (first.difference.low, first.difference.high) == (-second.difference.high, -second.difference.low)
    assert there.won == [(name, y, x) for name, x, y in back.lost]


def test_several_seeds_count_together(made):
    changes = [(("settings", "seeds"), [0, 1])]
    comparison = compare(made("base", A, changes=changes), made("new", B, changes=changes))
    assert comparison.samples == "8"
    assert comparison.differences[1].first == pytest.approx(sum(passed(2 * c, 2, 8) for c in A) / 8)
    assert comparison.won == [("p3", 0, 8), ("p2", 0, 4), ("p7", 0, 2)]


# ---- won and lost ----


def test_won_and_lost_puzzles_have_their_names_from_the_samples_the_clearest_first(made):
    comparison = compare(made("base", A), made("new", B))
    assert comparison.won == [("p3", 0, 4), ("p2", 0, 2), ("p7", 0, 1)]
    assert comparison.lost == [("p5", 2, 0)]


@pytest.mark.parametrize("only", ["base", "new"])
def test_one_sides_samples_are_enough_for_names(made, only):
    comparison = compare(made("base", A, samples=only == "base"), made("new", B, samples=only == "new"))
    assert [name for name, *_ in comparison.won] == ["p3", "p2", "p7"]


def test_without_samples_puzzles_have_their_ids(made):
    comparison = compare(made("base", A, samples=False), made("new", B, samples=False) / "results.json")
    assert comparison.won == [(f"{3:016x}", 0, 4), (f"{2:016x}", 0, 2), (f"{7:016x}", 0, 1)]
    assert comparison.lost == [(f"{5:016x}", 2, 0)]


# ---- conditions ----

OTHERS = {
    "set hash": (("set", "hash"), "d" * 16),
    "protocol": (("protocol",), "chat"),
    "prompt_format system": (("prompt_format", "system"), "Be brief."),
    "prompt_format solve": (("prompt_format", "solve"), "{puzzle}, solved?"),
    "prompt_format shots_as_turns": (("prompt_format", "shots_as_turns"), True),
    "prompts_hash": (("prompts_hash",), "d" * 16),
    "settings samples_per_puzzle": (("settings", "samples_per_puzzle"), 6),
    "settings temperature": (("settings", "temperature"), 0.5),
    "settings top_p": (("settings", "top_p"), 0.5),
    "settings max_tokens": (("settings", "max_tokens"), 7),
    "limits": (("limits",), {"cpu_seconds": 2.0}),
}


def at(own, path):
    for key in path:
        own = own[key]
    return own


def test_every_condition_is_tried_here():
    assert {path for path, _ in OTHERS.values()} == set(MUST_AGREE)


@pytest.mark.parametrize("name", OTHERS)
def test_other_conditions_are_refused_with_both_values(made, command, name):
    path, value = OTHERS[name]
    made("base", A)
    made("new", B, changes=[(path, value)])
    shown = f"{name} ({str(at(FACTS, path)) or 'none'} and {value})"
    status, out, err = command("base", "new")
    assert (status, out) == (2, "")
    assert err == (
        f"selfplay: new: cannot be compared with base, they differ in {shown}: "
        "score both under the same conditions, or give --anyway\n"
    )
    assert compare("base", "new", anyway=True).differing == [shown]


def test_results_that_say_nothing_of_their_templates_are_compared_by_the_hash_of_their_prompts(made):
    for name, changes in (("older", []), ("other", [(("prompts_hash",), "d" * 16)])):
        folder = made(name, A, changes=changes)
        content = json.loads((folder / "results.json").read_text())
        del content["selfplay"]["prompt_format"]
        (folder / "results.json").write_text(json.dumps(content))
    made("new", B)
    assert compare("older", "new").differing == []
    with pytest.raises(InputError, match=r"they differ in prompts_hash \(d{16} and c{16}\): score both"):
        compare("other", "new")


def test_another_number_of_seeds_is_refused_and_other_seeds_are_not(made):
    made("base", A)
    made("more", B, changes=[(("settings", "seeds"), [0, 1])])
    made("other", B, changes=[(("settings", "seeds"), [7])])
    with pytest.raises(InputError, match=r"differ in number of seeds \(1 and 2\): score both"):
        compare("base", "more")
    assert compare("base", "other").differing == []


def test_a_temperature_that_was_not_sent_is_another_one_and_a_seed_is_not(made):
    made("base", A)
    made("unsent", B, changes=[(("model", "left_out"), ["temperature", "seed"])])
    made("unseeded", B, changes=[(("model", "left_out"), ["seed", "top_p"])])
    with pytest.raises(InputError, match=r"not sent to the server \(\[\] and \['temperature'\]\)"):
        compare("base", "unsent")
    assert compare("base", "unseeded").differing == []


def test_another_model_machine_or_number_of_rows_is_what_is_compared(made):
    made("base", A)
    other = [
        (("model", "checkpoint"), "f" * 16), (("model", "dtype"), "bfloat16"), (("settings", "batch_rows"), 99),
        (("sandbox",), {"tier": "B"}), (("settings", "k"), [1, 2, 3]), (("protocol_from",), "default"),
    ]  # fmt: skip
    made("new", B, changes=other)
    assert [one.k for one in compare("base", "new").differences] == [1, 2]


def test_long_values_are_shortened(made):
    made("base", A)
    made("new", B, changes=[(("limits",), {"cpu_seconds": 1.0, **dict.fromkeys(map(str, range(99)), 9)})])
    (shown,) = compare("base", "new", anyway=True).differing
    assert len(shown) < 150


def test_anyway_compares_the_puzzles_that_both_have_and_says_what_differs(made, command):
    made("base", A)
    made("new", B[:6], changes=[(("set", "hash"), "d" * 16), (("settings", "temperature"), 0.5)])
    comparison = compare("base", "new", anyway=True)
    assert comparison.puzzles == [f"{number:016x}" for number in range(6)]
    assert comparison.differences[0].first == pytest.approx(sum(A[:6]) / 6 / N)
    _, out, _ = command("base", "new", "--anyway")
    assert f"The conditions differ: set hash ({'a' * 16} and {'d' * 16}); settings temperature (0.8 and 0.5)\n" in out


def test_anyway_takes_each_models_own_number_of_candidates(made):
    made("base", A)
    made("new", B, changes=[(("settings", "samples_per_puzzle"), 8)])
    comparison = compare("base", "new", anyway=True)
    assert comparison.samples == "4 and 8"
    assert comparison.differences[1].second == pytest.approx(sum(passed(c, 2, 8) for c in B) / 8)


def test_nothing_in_common_is_refused(made):
    made("base", A)
    made("k", B, changes=[(("settings", "k"), [3])])
    with pytest.raises(InputError, match=r"k: no pass@k in common with base: rescore one with the other's --k"):
        compare("base", "k")
    made("none", A, errata=range(1, 8))
    made("wrong", A, errata=[0])
    with pytest.raises(InputError, match="wrong: expected puzzles in common with none, there are none"):
        compare("none", "wrong")


def test_errata_of_either_side_are_left_out_of_both(made):
    comparison = compare(made("base", A, errata=[3]), made("new", B, errata=[5, 1]))
    kept = [0, 2, 4, 6, 7]
    assert comparison.puzzles == [f"{number:016x}" for number in kept]
    assert comparison.differences[0].first == pytest.approx(sum(A[i] for i in kept) / 5 / N)
    assert comparison.differences[0].second == pytest.approx(sum(B[i] for i in kept) / 5 / N)
    assert (comparison.won, comparison.lost) == ([("p2", 0, 2), ("p7", 0, 1)], [])


# ---- what is printed ----


EXPECTED = """\
A  base (hash bbbbbbbbbbbbbbbb)
B  new (hash bbbbbbbbbbbbbbbb)

8 puzzles of own, 4 candidates each, plain protocol

|        | A    | B    | B - A [95 %]         | p    | detectable |
|--------|------|------|----------------------|------|------------|
| pass@1 | .312 | .438 | +.125 [-.357, +.552] | 0.62 | 0.196      |
| pass@2 | .417 | .583 | +.167 [-.385, +.620] | 0.56 | 0.229      |

Won (solved by B only): 3: p3 (0 → 4), p2 (0 → 2), p7 (0 → 1)
Lost (solved by A only): 1: p5 (2 → 0)

At pass@1 these puzzles show no significant difference between A and B (p = 0.62). \
Only a difference above 0.196 could be expected to show.
"""


def test_the_report_is_this(made, command):
    made("base", A)
    made("new", B)
    status, out, err = command("base", "new")
    assert (status, err) == (0, "")
    assert out == EXPECTED


def test_a_clear_difference_is_said_so(made):
    made("base", [0] * 9)
    made("new", [N] * 7 + [0] * 2)
    assert conclusion(compare("base", "new")) == "At pass@1 B is better than A on these puzzles (p = 0.016)."
    assert conclusion(compare("new", "base")) == "At pass@1 B is worse than A on these puzzles (p = 0.016)."


def test_of_few_puzzles_nothing_can_be_said_and_the_json_is_still_json(made, command):
    made("base", [0, 0, 4])
    made("new", [4, 4, 0])
    _, out, _ = command("base", "new")
    assert "At pass@1 these puzzles show no significant difference between A and B (p = 1). It could" in out
    assert "A and B differ on 3 of them, and with so few the test reaches p = 0.25 at best." in out
    assert "inf" not in out
    _, out, _ = command("base", "new", "--json")
    assert json.loads(out, parse_constant=pytest.fail)["differences"]["pass@1"]["detectable"] is None


def test_long_lists_are_cut_and_names_cannot_move_the_cursor(made, command):
    made("base", [0] * 25)
    made("new", [1] * 25)
    lines = results.unpack(Path("new"))
    lines[0]["results"][0]["name"] = "\x1b[2Jfirst"
    for folder in ("base", "new"):
        results.pack(Path(folder), lines)
    _, out, _ = command("base", "new")
    (won,) = [line for line in out.splitlines() if line.startswith("Won")]
    assert won.startswith("Won (solved by B only): 25: \\x1b[2Jfirst (0 → 1), p1 (0 → 1), ")
    assert won.endswith(", p19 (0 → 1) and 5 more")


def test_the_json_has_everything(made, command):
    made("base", A)
    made("new", B, changes=[(("protocol",), "chat")])
    status, out, err = command("base", "new", "--json", "--anyway")
    assert (status, err) == (0, "")
    comparison = compare("base", "new", anyway=True)
    content = json.loads(out, parse_constant=pytest.fail)
    assert content == json.loads(json.dumps(to_json(comparison)))
    one = comparison.differences[0]
    assert content["differences"].pop("pass@1") == {
        "k": 1,
        "first": one.first,
        "second": one.second,
        "difference": {"value": one.difference.value, "low": one.difference.low, "high": one.difference.high},
        "p": one.p,
        "detectable": one.detectable,
        "differing": sum(a != b for a, b in zip(A, B, strict=True)),
    }
    assert [*content.pop("differences")] == ["pass@2"]
    assert content == {
        "first": {**FACTS["model"], "path": "base"},
        "second": {**FACTS["model"], "path": "new"},
        "set": "own",
        "puzzles": 8,
        "differing": ["protocol (plain and chat)"],
        "verdict": "not different",
        "won": [["p3", 0, 4], ["p2", 0, 2], ["p7", 0, 1]],
        "lost": [["p5", 2, 0]],
    }


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ([N] * 7 + [0], [0] * 8, 1),
        ([N] * 5 + [0] * 3, [0] * 8, 0),  # 2 / 2**5 is not below .05
        ([0] * 8, [N] * 8, 0),
        (A, B, 0),
    ],
    ids=["worse", "perhaps worse", "better", "mixed"],
)
def test_fail_if_worse_fails_only_when_b_is_surely_worse(made, command, first, second, status):
    made("base", first)
    made("new", second)
    assert command("base", "new", "--fail-if-worse")[0] == status
    assert command("base", "new", "--fail-if-worse", "--json")[0] == status
    assert command("base", "new")[0] == 0


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # 2 / 2**5 is not below .05, whatever the differences are.
        ([N] * 5 + [0] * 3, [0] * 8,
         "(p = 0.062). It could not have: A and B differ on 5 of them, and with so few the test reaches p = 0.062 at "
         "best. More puzzles are needed."),
        (A, A, "(p = 1). It could not have: A and B differ on 0 of them, and with so few the test reaches p = 1 at "
         "best. More puzzles are needed."),
        ([0] * 40 + [N] * 4, [N] * 9 + [0] * 35, "(p = 0.27). An even difference of this size would show, but this "
         "one is spread unevenly over 13 puzzles. More puzzles are needed."),
        ([2] * 40, [1, 3] * 20, "(p = 1). Only a difference above 0.157 could be expected to show."),
    ],
    ids=["five differ", "none differs", "uneven", "small"],
)  # fmt: skip
def test_where_no_difference_is_found_it_is_said_what_the_test_could_have_shown(made, first, second, expected):
    made("base", first)
    made("new", second)
    assert conclusion(compare("base", "new")).endswith(expected)


def test_results_are_named_below_runs(made, command):
    Path("runs").mkdir()
    made("runs/base", A)
    made("runs/new", B)
    assert command("base", "new") == command("runs/base", "runs/new")


def test_the_first_k_decides(made, command):
    # Six puzzles each solved once instead of always: certain at pass@1, nothing at pass@4.
    made("one", [N] * 6, changes=[(("settings", "k"), [1, 4])])
    made("four", [N] * 6, changes=[(("settings", "k"), [4, 1])])
    for name, ks in (("new-one", [1, 4]), ("new-four", [4, 1])):
        made(name, [1] * 6, changes=[(("settings", "k"), ks)])
    assert command("one", "new-one", "--fail-if-worse")[0] == 1
    assert command("four", "new-four", "--fail-if-worse")[0] == 0


# ---- bad input ----


def spoil(kind):
    path = Path("new/results.json")
    content = json.loads(path.read_text())
    if kind == "missing":
        path.unlink()
    elif kind == "older":
        path.write_text(json.dumps({"results": {}, "config": {}, "n-samples": {}}))
    elif kind == "newer":
        content["selfplay"]["schema"] = 2
    elif kind == "list":
        path.write_text("[]")
    elif kind == "cut":
        path.write_text(path.read_text()[:99])
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe")
    elif kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        content["selfplay"][kind] = 3
    if kind in content["selfplay"] or kind == "newer":
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("missing", "new: expected a folder that `selfplay bench` wrote, there is no results.json"),
        ("older", "new/results.json: expected results of schema 1 under 'selfplay', found none"),
        ("newer", "new/results.json: expected results of schema 1 under 'selfplay', found 2"),
        ("list", "new/results.json: expected results of schema 1 under 'selfplay', found none"),
        ("cut", "new/results.json: expected a results.json of `selfplay bench`, "),
        ("bytes", "new/results.json: expected a results.json of `selfplay bench`, "),
        ("deep", "new/results.json: expected a results.json of `selfplay bench`, "),
        ("folder", "new/results.json: Is a directory: expected a results.json of `selfplay bench`"),
        ("per_puzzle", "new/results.json, selfplay: expected an object under 'per_puzzle', got 3"),
        ("settings", "new/results.json, selfplay: expected an object under 'settings', got 3"),
    ],
)
def test_what_is_no_result_is_one_line(made, command, kind, expected):
    made("base", A)
    made("new", B)
    spoil(kind)
    for arguments in (("base", "new"), ("new", "base")):
        status, out, err = command(*arguments)
        assert (status, out) == (2, ""), err
        assert err.startswith(f"selfplay: {expected}")
        assert err.count("\n") == 1


@pytest.mark.parametrize("key", ["limits", "prompts_hash", "scores", "cost", "errata"])
def test_a_missing_key_is_named(made, command, key):
    made("base", A)
    content = json.loads(Path("base/results.json").read_text())
    del content["selfplay"][key]
    Path("less.json").write_text(json.dumps(content))
    status, _, err = command("base", "less.json")
    assert (status, err) == (2, f"selfplay: less.json: expected the key '{key}' under 'selfplay', it is missing\n")


def test_a_path_that_leads_nowhere_is_named(made, command):
    made("base", A)
    for place in ("nowhere", "no/where.json", "base/results.md"):
        status, _, err = command("base", place)
        assert status == 2
        assert err.startswith(f"selfplay: {place}: expected a ")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("limits",), {}, "expected the key 'limits.cpu_seconds', it is missing"),
        (("sandbox",), {}, "expected the key 'sandbox.tier', it is missing"),
        (
            ("per_puzzle", f"{1:016x}"),
            [4, 5],
            "expected 4 candidates of 0000000000000001 under 'per_puzzle', got 5 acc",
        ),
        (
            ("per_puzzle", f"{1:016x}"),
            [3, 1],
            "expected 4 candidates of 0000000000000001 under 'per_puzzle', got 1 acc",
        ),
        (("settings", "k"), [1], "expected scores for each k of the settings, got pass@1, pass@"),
        (("scores", "pass@1", "value"), float("nan"), "expected a number under 'scores.pass@1.value', got nan"),
        (("solved",), "x" * 9999, "expected an integer under 'solved', got 'xxx"),
    ],
)
def test_a_wrong_value_of_results_is_named_by_its_key(made, command, path, value, words):
    made("base", A)
    made("new", B)
    file = Path("new/results.json")
    content = json.loads(file.read_text())
    *above, last = path
    place = content["selfplay"]
    for key in above:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(content))
    status, _, err = command("base", "new")
    assert status == 2
    assert words in err
    assert err.startswith("selfplay: new/results.json")
    assert len(err) < 300
