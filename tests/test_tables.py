from selfplay import tables

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
    assert tables.render(rows, right=[1]) == "name         count\nlong name        7\nx          1234567"
    assert tables.render(rows).splitlines()[1] == "long name  7"


def test_an_interval_is_written_with_three_decimals():
    assert tables.interval([0.1234, 0, 0.5]) == ".123 [.000, .500]"


def test_every_interval_is_equally_long():
    assert tables.interval([1, 0.9996, 1.0]) == "1.00 [1.00, 1.00]"
    assert len({len(tables.interval([value, value, value])) for value in (0, 0.0004, 0.5, 0.9994, 0.9995, 1)}) == 1


def test_a_record_stands_below_its_heading():
    heading, row = tables.record_heading(RECORD), tables.record_row(RECORD)
    assert len(heading) == len(row)
    assert row.split()[:8] == ["1", "12", "7", "5", "3", "4", "31", "0.500"]
    assert row.split()[-1] == "10"
    for name in ("iteration", "pairs", "loss", "dev pass@1", "held-out pass@10"):
        end = heading.index(name) + len(name)
        assert row[end - 1] != " "
        assert row[end : end + 2] == "  "


def test_a_record_without_training_has_no_loss():
    assert tables.record_row({**RECORD, "training": {}}).split()[7] == "-"


def test_scores_are_a_markdown_table():
    lines = tables.score_table([("one", SCORE), ("two", {**SCORE, "solved": 0})]).splitlines()
    assert lines[0] == "| model | pass@1 | solved | most frequent verdicts |"
    assert lines[1] == "| --- | --- | --- | --- |"
    assert lines[2] == "| one | .250 [.000, .500] | 1 of 3 | 2 accepted, 1 wrong_answer |"
    assert lines[3].startswith("| two | ")


def test_counts_are_a_small_table():
    assert tables.counts("verdicts", {"accepted": 2, "wrong_answer": 10}) == (
        "verdicts\n  accepted       2\n  wrong_answer  10"
    )
