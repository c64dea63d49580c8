"""How a run's archive changes over iterations: each query beside the same counted row by row."""

import json
import shutil
from collections import Counter, defaultdict

import pytest
from story_run import config, finished  # noqa: F401  # a run of two iterations

from puzzles.archive import trends
from puzzles.archive.store import Archive


@pytest.fixture
def archive(finished):
    with Archive(finished.archive) as archive:
        yield archive


def rows(archive, table, condition="1"):
    return [dict(row) for row in archive.query(f"SELECT * FROM {table} WHERE {condition}")]


def proposed(archive):
    return [row for row in rows(archive, "puzzles") if row["origin"] == "model"]


def iteration_of_chunks(archive):
    return {row["id"]: row["iteration"] for row in rows(archive, "chunks")}


def test_solve_rates_are_shares_of_all_candidates_of_the_puzzles_proposed_in_an_iteration(archive):
    expected = defaultdict(list)
    for puzzle in proposed(archive):
        verdicts = [row["verdict"] for row in rows(archive, "candidates") if row["puzzle"] == puzzle["id"]]
        if verdicts:
            expected[puzzle["iteration"]].append(verdicts.count("accepted") / len(verdicts))
    assert expected.keys() == {1, 2}
    assert trends.solve_rates(archive) == expected


def test_lengths_are_of_the_models_own_texts(archive):
    found = trends.lengths(archive)
    for table in ("puzzles", "solutions"):
        expected = defaultdict(list)
        for row in rows(archive, table, "origin = 'model'"):
            expected[row["iteration"]].append(len(row["source"]))
        assert {i: sorted(own) for i, own in found[table].items()} == {i: sorted(own) for i, own in expected.items()}
        assert expected


def test_answer_types_count_the_models_puzzles(archive):
    expected = defaultdict(Counter)
    for puzzle in proposed(archive):
        expected[puzzle["iteration"]][puzzle["answer_type"]] += 1
    assert trends.answer_types(archive) == expected


def test_verdicts_count_every_candidate_of_an_iteration(archive):
    iterations, expected = iteration_of_chunks(archive), defaultdict(Counter)
    for row in rows(archive, "candidates"):
        expected[iterations[row["chunk"]]][row["verdict"]] += 1
    assert trends.verdicts(archive) == expected


def test_outcomes_count_proposals_and_no_variations(archive):
    chunks, expected = {row["id"]: row for row in rows(archive, "chunks")}, defaultdict(Counter)
    for row in rows(archive, "proposals"):
        if chunks[row["chunk"]]["stage"] == "propose":
            expected[chunks[row["chunk"]]["iteration"]][row["outcome"]] += 1
    assert sum(map(Counter.total, expected.values())) < len(rows(archive, "proposals"))
    assert trends.outcomes(archive) == expected


def test_a_structure_is_new_where_it_comes_first_whoever_brought_it(archive):
    seen, admitted, new = set(), Counter(), Counter()
    for row in rows(archive, "puzzles", "1 ORDER BY number"):
        if row["origin"] == "model":
            admitted[row["iteration"]] += 1
            new[row["iteration"]] += row["skeleton"] not in seen
        seen.add(row["skeleton"])
    assert trends.new_structures(archive) == {i: (number, new[i]) for i, number in admitted.items()}


def test_a_skill_counts_the_puzzles_of_people_that_the_model_has_solved_so_far(finished, tmp_path):
    copy = shutil.copy(finished.archive, tmp_path)
    with Archive(copy) as archive:
        for row, skills in zip(rows(archive, "puzzles"), [["lists"], ["lists", "bits"], [], ["games"]], strict=False):
            archive.connection.execute("UPDATE puzzles SET skills = ? WHERE id = ?", (json.dumps(skills), row["id"]))
        check_skills(archive)


def check_skills(archive):
    iterations = iteration_of_chunks(archive)
    tagged = [row for row in rows(archive, "puzzles") if row["origin"] not in ("model", "variant")]
    held = [row for row in rows(archive, "candidates") if row["verdict"] == "accepted"]
    numbers, solved = trends.skills_solved(archive)
    assert numbers == Counter(skill for row in tagged for skill in json.loads(row["skills"]))
    assert numbers["lists"] == 2
    assert solved.keys() == {1, 2}
    assert solved[2]
    for iteration, counts in solved.items():
        by_then = {row["puzzle"] for row in held if iterations[row["chunk"]] <= iteration}
        assert counts == Counter(s for row in tagged if row["id"] in by_then for s in json.loads(row["skills"]))


def test_children_are_the_puzzles_that_name_a_parent_and_most_used_have_the_most(archive):
    expected = defaultdict(list)
    for row in rows(archive, "puzzles", "1 ORDER BY number"):
        for parent in json.loads(row["parents"]):
            expected[parent].append(row["id"])
    ids = archive.puzzle_ids()
    assert trends.children(archive, ids) == expected
    some = {ids[0], max(expected, key=lambda parent: len(expected[parent]))}
    assert trends.children(archive, some) == {parent: own for parent, own in expected.items() if parent in some}
    ranked = sorted(expected, key=lambda parent: (-len(expected[parent]), ids.index(parent)))
    assert trends.most_used(archive, 3) == ranked[:3]
    assert trends.most_used(archive, 10**6) == ranked


def test_an_empty_archive_has_no_trends(tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        assert not any(
            trend(archive)
            for trend in (
                trends.solve_rates, trends.answer_types, trends.verdicts, trends.outcomes, trends.new_structures,
            )
        )  # fmt: skip
        assert trends.lengths(archive) == {"puzzles": {}, "solutions": {}}
        assert trends.skills_solved(archive) == ({}, {})
        assert trends.most_used(archive, 5) == []
        assert trends.children(archive, {"0"}) == {}
