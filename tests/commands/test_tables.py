from collections import Counter

import pytest

from puzzles.archive.formats import ImportReport
from selfplay.benchmark.rescore import rescored_run_table, rescored_table
from selfplay.iteration.import_table import counted, import_table
from selfplay.iteration.record_table import cost_table, notes_of, record_cells, record_table, told
from selfplay.sampling.cost import StageCost
from selfplay.scoring.evaluate import SetScores
from selfplay.scoring.metrics import Score
from selfplay.scoring.tables import Told, result_parts, result_tables, score_table, told_by
from selfplay.text import Column, Table, count_table, interval, markdown, render, wrapped

SCORE = {"puzzles": 3, "solved": 1, "verdicts": {"accepted": 2, "wrong_answer": 1}, "pass@1": [0.25, 0, 0.5]}
RECORD = {
    "iteration": 1,
    "proposed": 12,
    "admitted": 7,
    "solved": 5,
    "training_solved": 3,
    "new_pairs": 4,
    "pairs": 31,
    "training": {"last_loss": 0.5},
    "dev": {**SCORE, "pass@10": [1.0, 0.9996, 1.0]},
    "heldout": {**SCORE, "pass@10": [0.75, 0.5, 1.0]},
    "times": {"sampling": 1.0, "judging": 2.0, "training": 3.0, "scoring": 4.0, "this_session": 99.0},
}


def test_columns_are_aligned_and_lines_do_not_end_in_blanks():
    rows = [["name", "count"], ["long name", "7"], ["x", "1234567"]]
    assert render(rows, right=[1]) == "name         count\nlong name        7\nx          1234567"
    assert render(rows).splitlines()[1] == "long name  7"


def test_an_interval_is_written_with_three_decimals():
    assert interval([0.1234, 0, 0.5]) == ".123 [.000, .500]"


def test_every_interval_is_equally_long():
    assert interval([1, 0.9996, 1.0]) == "1.00 [1.00, 1.00]"
    assert len({len(interval([value, value, value])) for value in (0, 0.0004, 0.5, 0.9994, 0.9995, 1)}) == 1


def test_an_imports_refusals_stand_below_its_counts_the_commonest_first():
    report = ImportReport(
        Counter({"new": 3, "syntax": 1}),
        Counter({"wrong_answer": 1, "duplicate": 2, "time_limit": 1234}),
        {
            ("puzzle", "syntax"): "a: line 1:\n\x1b[2J",
            ("solution", "wrong_answer"): "b",
            ("solution", "time_limit"): "c",
        },
    )
    assert import_table(report).splitlines() == [
        "           puzzles  solutions",
        "new              3          0",
        "duplicate        0          2",
        "refused          1      1,235",
        "",
        "refused   reason        number  for example",
        "puzzle    syntax             1  a: line 1:⏎\\x1b[2J",
        "solution  time_limit     1,234  c",
        "solution  wrong_answer       1  b",
    ]


def test_an_import_that_refused_nothing_has_no_reasons():
    assert len(import_table(ImportReport(Counter({"new": 1}))).splitlines()) == 4


def test_a_record_stands_below_its_heading():
    table = record_table(RECORD)
    heading, row = table.heading, table.row(record_cells(RECORD))
    assert len(heading) == len(row)
    assert row.split()[:8] == ["1", "12", "7", "5", "3", "4", "31", "0.500"]
    assert row.split()[-1] == "10"
    for name in ("iteration", "pairs", "loss", "dev pass@1", "held-out pass@10"):
        end = heading.index(name) + len(name)
        assert row[end - 1] != " "
        assert row[end : end + 2] == "  "


def test_a_record_without_training_has_no_loss():
    assert record_cells({**RECORD, "training": {}})[7] == "-"


def test_a_record_fits_eighty_columns_and_what_is_left_out_is_named():
    table = record_table(RECORD, 80)
    assert table.heading == "iter  admitted  solved   pairs         dev pass@1    held-out pass@1      s"
    row = table.row(record_cells(RECORD))
    assert row == "   1         7       5      31  .250 [.000, .500]  .250 [.000, .500]     10"
    assert notes_of([RECORD], 80, ("embedded", 2))[:2] == [
        "left out: proposed, train solved, new pairs, loss, held-out pass@10; --wide shows all",
        "* of embedded, with which this run began",
    ]
    assert len(notes_of([RECORD], None, ("", -1))) == 1


def test_a_record_is_a_sentence_for_the_log():
    assert told(RECORD) == (
        "iteration 1: 7 of 12 proposals admitted, 5 solved, 4 new pairs, 31 pairs; loss 0.500; "
        "dev pass@1 .250 [.000, .500], held-out pass@1 .250 [.000, .500]; 10 s"
    )


COLUMNS = (
    Column("name", least=6), Column("empty"), Column("count", "n", right=True), Column("detail", rank=1),
    Column("more detail", "more", rank=2),
)  # fmt: skip
ROWS = [["a long name", "", "7", "detailed", "x" * 12], ["b", "-", "1,234", "d", "y"]]


def test_a_table_without_a_width_is_whole():
    assert Table(COLUMNS, ROWS).plain() == (
        "name         empty  count  detail    more detail\n"
        "a long name             7  detailed  xxxxxxxxxxxx\n"
        "b            -      1,234  d         y"
    )


FITTED = {
    # The empty column goes first.
    42: "name         count  detail    more detail\na long name      7  detailed  xxxxxxxxxxxx\n"
    "b            1,234  d         y",
    # Then names are cut.
    38: "name     count  detail    more detail\na long…      7  detailed  xxxxxxxxxxxx\nb        1,234  d         y",
    # Then headings become short, and columns are left out by rank.
    25: "name          n  detail\na long …      7  detailed\nb         1,234  d\n"
    "left out: more detail; --wide shows all",
    14: "name         n\na long…      7\nb        1,234\nleft out: detail, more detail; --wide shows all",
}


@pytest.mark.parametrize("width", FITTED)
def test_a_table_fits_the_terminal(width):
    shown = Table(COLUMNS, ROWS).plain(width)
    assert shown == FITTED[width]
    assert all(len(line) <= width for line in shown.splitlines() if not line.startswith("left out"))


def test_an_imports_outcomes_are_a_phrase():
    report = ImportReport(Counter({"new": 1, "syntax": 2}), Counter({"new": 2, "wrong_answer": 1, "time_limit": 1}))
    assert counted(report) == "1 puzzle and 2 solutions new, 2 puzzles and 2 solutions refused"
    assert counted(ImportReport()) == "nothing"


def test_lines_are_wrapped_at_blanks_and_items_of_lists_are_indented():
    assert wrapped("- one two three\nfour\n", 9) == "- one two\n  three\nfour\n"


def score(value, low, high, least=0.25, by_seed=()):
    return {"value": value, "low": low, "high": high, "detectable_difference": least, "by_seed": list(by_seed)}


OWN = {
    "set": {
        "name": "own", "path": "sets/own.jsonl", "private": False, "hash": "a" * 16, "puzzles": 3, "in_file": 3,
        "references": {"accepted": 2, "none": 1, "refused": {}},
    },
    "model": {"path": "one", "checkpoint": "b" * 16, "device": "cpu", "dtype": "float32", "threads": 1},
    "protocol": "few-shot",
    "protocol_from": "default",
    "shots": ["1" * 16, "2" * 16],
    "shots_refused": {},
    "settings": {
        "samples_per_puzzle": 4, "k": [1, 4], "temperature": 0.8, "top_p": 1.0, "max_tokens": 150, "seeds": [7],
        "batch_rows": 128,
    },
    "limits": {"cpu_seconds": 1.0},
    "sandbox": {"tier": "A"},
    "versions": {"torch": "2.0", "python": "3.11"},
    "contamination": None,
    "scores_unseen": None,
    "scores": {"pass@1": score(0.25, 0.0625, 0.5), "pass@4": score(1.0, 0.99961, 1.0, 0.5)},
    "solved": 1,
    "by": {
        "skill": {"only": {"puzzles": 3, "solved": 1, "pass@1": [0.25, 0, 0.5], "pass@4": [1.0, 0.9, 1.0]}},
        "answer_type": {
            "int": {"puzzles": 2, "solved": 1, "pass@1": [0.375, 0, 0.75], "pass@4": [1.0, 0.9, 1.0]},
            "Dict[str, int]": {"puzzles": 1, "solved": 0, "pass@1": [0.0, 0, 0.98], "pass@4": [0.0, 0.0, 0.98]},
        },
        "difficulty": {},
    },
    "verdicts": {"wrong_answer": 9, "accepted": 3},
    "truncated": 1,
    "cost": {"tokens": 1234, "tokens_per_solved_puzzle": 1234, "seconds_per_solved_puzzle": 0.5},
    "machine": {"retried": 0, "judged_again": 0, "changed": 0},
    "errata": {},
    "per_puzzle": {"c" * 16: [4, 3], "d" * 16: [4, 0], "e" * 16: [4, 0]},
}  # fmt: skip

EXPECTED = """\
# one on own

| model | pass@1            | pass@4            | solved | tokens / solved | seconds / solved |
|-------|-------------------|-------------------|--------|-----------------|------------------|
| one   | .250 [.062, .500] | 1.00 [1.00, 1.00] | 1 of 3 | 1,234           | 0.5              |

Brackets are 95 % intervals over puzzles like these. A comparison on this set with so many \
candidates finds differences of pass@1 0.250, pass@4 0.500, at best.

- 3 puzzles of sets/own.jsonl (hash aaaaaaaaaaaaaaaa), 4 candidates each, seed 7
- protocol few-shot (default), 2 shots, temperature 0.8, top-p 1, at most 150 tokens
- model hash bbbbbbbbbbbbbbbb, float32 on cpu, 128 rows; torch 2.0, python 3.11
- sandbox tier A, 1 s of CPU time
- the set's own solutions: 2 accepted, 1 puzzles have none
- what the model was trained on is not known; --trained-on looks for puzzles near these

| verdict               | candidates | share |
|-----------------------|------------|-------|
| wrong_answer          | 9          | 75.0% |
| accepted              | 3          | 25.0% |
| (met the token limit) | 1          | 8.3%  |

| answer type    | puzzles | solved | pass@1            | pass@4            |
|----------------|---------|--------|-------------------|-------------------|
| int            | 2       | 1      | .375 [.000, .750] | 1.00 [.900, 1.00] |
| Dict[str, int] | 1       | 0      | .000 [.000, .980] | .000 [.000, .980] |
"""

UNUSUAL = """\
# one on own

| model | pass@1            | solved | tokens / solved | seconds / solved |
|-------|-------------------|--------|-----------------|------------------|
| one   | .250 [.062, .500] | 1 of 2 | -               | -                |

Brackets are 95 % intervals over puzzles like these. A comparison on a set this small finds no difference at all.

- 3 puzzles of sets/own.jsonl (hash aaaaaaaaaaaaaaaa), the first of each problem (6 more in the file), \
8 candidates each, seed 7, 9
- protocol few-shot (default), 2 shots, temperature 0.8, top-p 1, at most 150 tokens
- model hash bbbbbbbbbbbbbbbb, float32 on cpu, 128 rows; torch 2.0, python 3.11
- sandbox tier A, 1 s of CPU time
- the set's own solutions: 1 accepted, 1 puzzles have none, refused: dddddddddddddddd wrong_answer
- 1 are near one of the 99 puzzles it was trained on (runs/x); without them pass@1 .125 [.000, .500]
- puzzle cccccccccccccccc is near one it was trained on: behaviour: 9999999999999999
- the machine: 1 judgings tried again, 4 limits judged again alone, 2 of them came out otherwise
- by seed: pass@1 0.500, 0.000
- shot 3333333333333333 was refused: the same as cccccccccccccccc
- puzzle eeeeeeeeeeeeeeee is left out, it is wrong: no answer is right

| verdict               | candidates | share |
|-----------------------|------------|-------|
| wrong_answer          | 9          | 75.0% |
| accepted              | 3          | 25.0% |
| (met the token limit) | 1          | 8.3%  |
"""

SEVERAL = """\
| model      | pass@1            | pass@4            | solved | tokens / solved | seconds / solved |
|------------|-------------------|-------------------|--------|-----------------|------------------|
| one        | .250 [.062, .500] | 1.00 [1.00, 1.00] | 1 of 3 | 1,234           | 0.5              |
| the\\|other | .250 [.062, .500] | 1.00 [1.00, 1.00] | 0 of 2 | 1,234           | 0.5              |"""

BEFORE_AND_AFTER = """\
| one    | before            | after             |
|--------|-------------------|-------------------|
| pass@1 | .250 [.062, .500] | .500 [.250, .750] |
| pass@2 | -                 | 1.00 [1.00, 1.00] |
left out: eeeeeeeeeeeeeeee: wrong"""

OF_A_RUN = """\
| iteration | set     |        | recorded          | again             |
|-----------|---------|--------|-------------------|-------------------|
| 0         | dev     | pass@1 | .250 [.000, .500] | .500 [.250, .750] |
| 0         | dev     | pass@3 | -                 | 1.00 [.900, 1.00] |
| 1         | heldout | pass@1 | .250 [.000, .500] | .500 [.250, .750] |
| 1         | heldout | pass@3 | -                 | 1.00 [.900, 1.00] |"""


def test_a_benchmarks_tables_are_these():
    assert result_tables(OWN) == EXPECTED


def test_what_is_out_of_the_ordinary_stands_among_the_conditions():
    own = {
        **OWN,
        "set": {
            **OWN["set"],
            "in_file": 9,
            "references": {"accepted": 1, "none": 1, "refused": {"d" * 16: "wrong_answer"}},
        },
        "shots_refused": {"3" * 16: "the same as " + "c" * 16},
        "settings": {**OWN["settings"], "seeds": [7, 9]},
        "scores": {"pass@1": score(0.25, 0.0625, 0.5, None, [0.5, 0.0])},
        "machine": {"retried": 1, "judged_again": 4, "changed": 2},
        "errata": {"e" * 16: "no answer is right"},
        "contamination": {"trained_on": "runs/x", "puzzles": 99, "near": {"c" * 16: "behaviour: " + "9" * 16}},
        "scores_unseen": {"pass@1": [0.125, 0, 0.5]},
        "by": {},
        "cost": {"tokens": 0, "tokens_per_solved_puzzle": None, "seconds_per_solved_puzzle": None},
    }
    assert result_tables(own) == UNUSUAL


def test_the_tables_name_puzzles_and_split_invalid_solutions_by_rule_but_not_of_a_private_set():
    own = {**OWN, "verdicts": {"invalid_solution": 3, "accepted": 1}, "errata": {"e" * 16: "no answer is right"}}
    results = [
        {"puzzle": "c" * 16, "name": "one", "verdicts": ["invalid_solution"] * 3 + ["accepted"],
         "details": ["syntax: line 1: no", "syntax: line 2: no", "no_function: none", ""]},
        {"puzzle": "e" * 16, "name": "wrong", "verdicts": ["invalid_solution"], "details": ["syntax: line 1: no"]},
    ]  # fmt: skip
    told = told_by(own, [{"results": results}])
    assert told == Told({"c" * 16: "one", "e" * 16: "wrong"}, {"syntax": 2, "no_function": 1})
    shown = result_tables(own, told)
    assert "- puzzle wrong is left out, it is wrong: no answer is right" in shown
    (verdicts,) = [
        part for part in result_parts(own, told) if isinstance(part, Table) and part.columns[0].heading == "verdict"
    ]
    assert [row[:2] for row in verdicts.rows] == [
        ["invalid_solution", "3"], ["invalid_solution: syntax", "2"], ["invalid_solution: no_function", "1"],
        ["accepted", "1"], ["(met the token limit)", "1"],
    ]  # fmt: skip
    private = {**own, "set": {**own["set"], "private": True}}
    assert told_by(private, [{"results": results}]).names == {}


def test_scores_of_several_models_are_a_markdown_table():
    other = {**OWN, "model": {"path": "the|other"}, "solved": 0, "errata": {"e" * 16: "wrong"}}
    assert score_table([OWN, other]).markdown() == SEVERAL


def test_scores_before_and_after_are_a_markdown_table():
    after = {
        **OWN,
        "scores": {"pass@1": score(0.5, 0.25, 0.75), "pass@2": score(1, 1, 1)},
        "errata": {"e" * 16: "wrong"},
    }
    assert rescored_table(OWN, after) == BEFORE_AND_AFTER


def test_a_runs_scores_as_recorded_and_again_are_a_markdown_table():
    again = SetScores(2, 4, {"pass@1": Score(0.5, 0.25, 0.75), "pass@3": Score(1.0, 0.9, 1.0)}, 1, {}, 0, StageCost())
    assert rescored_run_table([(0, "dev", RECORD["dev"], again), (1, "heldout", RECORD["heldout"], again)]) == OF_A_RUN


def test_a_cells_bars_do_not_end_it_and_columns_are_aligned():
    assert markdown(["a", "long"], [["x|y", "1"]]) == "| a    | long |\n|------|------|\n| x\\|y | 1    |"


def test_counts_are_a_small_table():
    assert count_table("verdicts", {"accepted": 2, "wrong_answer": 10}) == (
        "verdicts\n  accepted       2\n  wrong_answer  10"
    )
    assert count_table("verdicts", {"accepted": 1200}, "1,200") == "verdicts    1,200\n  accepted  1,200"


def record_of(number, **stages):
    """Its stages' texts, tokens, prompt tokens and flops, then their four seconds and the peak."""
    counted = ("texts", "tokens", "prompt_tokens", "flops")
    timed = ("model_seconds", "model_cpu_seconds", "judging_seconds", "judging_cpu_seconds", "peak_flops_per_second")
    return {
        "iteration": number,
        "cost": {stage: dict(zip(counted, counts, strict=False)) for stage, (counts, _) in stages.items()},
        "times": {"stages": {stage: dict(zip(timed, times, strict=False)) for stage, (_, times) in stages.items()}},
    }


COST = """\
          texts   tokens  prompt tokens  tokens/s  seconds  CPU s  judging s  CPU s  of peak
propose  12,000  150,000          2,000     6,000     25.0   48.1        7.5   13.0      40%
solve     9,000   90,000         81,000     1,800     50.0   99.0       20.0   38.2      68%
train     1,500   40,000              0     4,000     10.0   19.5        0.0    0.0      90%
score        60    1,234             56         -      0.0    0.0        0.0    0.1        -"""

COST_UNKNOWN = """\
       texts  tokens  prompt tokens  tokens/s  seconds  CPU s  judging s  CPU s  of peak
solve      3      40             50        16      2.5    5.0        1.0    2.0        -"""


def test_what_a_run_cost_is_a_table_of_its_stages():
    records = [
        record_of(0, score=((20, 1000, 50, 7000), (0.0, 0.0, 0.0, 0.04, 100))),
        record_of(
            1,
            propose=((10000, 130000, 1500, 600), (20.0, 40.0, 5.0, 8.0, 100)),
            solve=((4000, 40000, 31000, 900), (20.0, 39.0, 10.0, 19.1, 100)),
            train=((1000, 30000, 0, 5300), (8.0, 15.5, 0.0, 0.0, 750)),
            score=((20, 234, 6, 7000), (0.0, 0.0, 0.0, 0.01, 100)),
        ),
        # In another session, on a machine twice as fast.
        record_of(
            2,
            propose=((2000, 20000, 500, 600), (5.0, 8.06, 2.5, 5.0, 200)),
            solve=((5000, 50000, 50000, 4548), (30.0, 60.0, 10.0, 19.1, 200)),
            train=((500, 10000, 0, 1450), (2.0, 4.0, 0.0, 0.0, 750)),
            score=((20, 0, 0, 0), (0.0, 0.0, 0.0, 0.0, 200)),
        ),
    ]
    assert cost_table(records) == COST
    # What an older version recorded tells nothing, and adds nothing.
    assert cost_table([RECORD, *records]) == COST


def test_without_a_models_arithmetic_no_share_of_the_peak_is_known():
    assert cost_table([record_of(1, solve=((3, 40, 50), (2.5, 5.0, 1.0, 2.0)))]) == COST_UNKNOWN


def test_records_of_an_older_version_have_a_table_of_costs_without_rows():
    assert cost_table([RECORD]).splitlines() == [
        "  texts  tokens  prompt tokens  tokens/s  seconds  CPU s  judging s  CPU s  of peak"
    ]
