import dataclasses
import itertools
import json

import numpy as np
import pytest
from scripted_run import Backend, Crash, config_of, go, puzzle_files, watched

from puzzles.archive.formats import read_errata
from puzzles.puzzle import InputError
from selfplay.iteration.champion import LEVEL, dev_counts, league, league_table, match, reigns
from selfplay.run.rundir import RunDir, append_line
from selfplay.scoring.compare import difference
from selfplay.scoring.metrics import holm
from selfplay.text import interval, signed

N = 16
SETTINGS = {"temperature": 0.8, "top_p": 1.0, "max_tokens": 96, "batch_rows": 8}


def counts(*accepted: int, n: int = N):
    return {f"p{place}": (n, c) for place, c in enumerate(accepted)}


def line(own, number=0, **identity):
    """A stored chunk with so many accepted candidates of each puzzle."""
    results = [
        {
            "name": puzzle, "puzzle": puzzle, "answer_type": "int", "skills": [], "difficulty": None, "texts": [],
            "tokens": 0, "truncated": 0, "details": [],
            "verdicts": ["accepted"] * c + ["wrong_answer"] * (n - c),
        }
        for puzzle, (n, c) in own.items()
    ]  # fmt: skip
    told = {
        "chunk": number, "checkpoint": "c0ffee", "protocol": "plain", "seed": [0], "settings": SETTINGS,
        "samples_per_puzzle": N, "shots": [], "limits": {"cpu_seconds": 1.0}, **identity,
    }  # fmt: skip
    return {
        "identity": told, "sampler": {}, "results": results, "times": {"sampling_seconds": 0.0, "judging_seconds": 0.0}
    }  # fmt: skip


@pytest.fixture
def run_of(tmp_path):
    """A run's score files and records; of each checkpoint the counts on dev."""

    def make(*checkpoints, name="run", records=True, **identities):
        place = RunDir(tmp_path / name)
        for iteration, own in enumerate(checkpoints):
            append_line(place.samples(iteration, "dev"), line(own, **identities.get(f"of_{iteration}", {})))
            score = {
                "puzzles": len(own), "samples_per_puzzle": N, "solved": 0, "verdicts": {}, "truncated": 0, "tokens": 0,
                "pass@1": [0, 0, 0],
            }  # fmt: skip
            names = (
                "proposed", "well_formed", "admitted", "held_out_refused", "contaminated", "solved", "training_solved",
                "candidates", "accepted", "new_pairs", "varied", "pairs", "trained_pairs",
            )  # fmt: skip
            record = {
                "iteration": iteration, "checkpoint": f"weights-{iteration}", "protocol": "plain",
                **dict.fromkeys(names, 0), "training": {}, "dev": score, "sampler": {},
                "times": dict.fromkeys(("sampling", "judging", "training", "scoring"), 0.0),
            }  # fmt: skip
            if records:
                append_line(place.records, record)
        return place

    return make


# ---- the gate ----


def test_the_base_reigns_until_it_is_beaten():
    base, better = counts(*[4] * 12), counts(*[9] * 12)
    assert reigns([base]) == [0]
    assert reigns([base, base]) == [0, 0]
    assert reigns([base, better]) == [0, 1]
    assert reigns([better, base]) == [0, 0]
    assert reigns([]) == []


def test_a_challenger_is_compared_with_the_champion_not_with_the_checkpoint_before_it():
    base, better, worse = counts(*[6] * 12), counts(*[9] * 12), counts(*[2] * 12)
    assert reigns([base, better, worse, base, counts(*[12] * 12)]) == [0, 1, 1, 1, 4]


@pytest.mark.parametrize(("won", "passes"), [(5, False), (6, True)])
def test_five_puzzles_won_and_none_lost_are_by_chance_once_in_32_times_and_six_suffice(won, passes):
    base = counts(*[3] * 20)
    challenger = counts(*[4] * won, *[3] * (20 - won))
    assert match([base, challenger], 0, 1).difference.p / 2 == pytest.approx(2.0**-won)
    assert (2.0**-won <= LEVEL) == passes
    assert reigns([base, challenger]) == [0, int(passes)]


def test_a_gain_too_small_to_show_counts_with_the_next_one():
    base, first, second = counts(*[3] * 20), counts(*[4] * 3, *[3] * 17), counts(*[4] * 6, *[3] * 14)
    assert reigns([base, first, second]) == [0, 0, 2]
    assert reigns([first, second]) == [0, 0]


@pytest.mark.slow
def test_equal_models_pass_about_as_often_as_the_level_says():
    rng, rates_P, passed = np.random.default_rng(3), np.random.default_rng(5).uniform(0, 0.6, 40), 0
    for _ in range(400):
        first, second = (counts(*map(int, rng.binomial(N, rates_P))) for _ in range(2))
        passed += reigns([first, second])[1]
    assert passed / 400 < LEVEL + 3 * (LEVEL / 400) ** 0.5


def test_the_gate_lets_pass_what_compare_calls_better():
    rng = np.random.default_rng(1)
    for shift in np.linspace(-0.2, 0.2, 30):
        first = rng.integers(0, N + 1, 30)
        second = np.clip(first + rng.normal(shift * N, 2, 30).round().astype(int), 0, N)
        own = difference(1, first / N, second / N)
        better = own.p < 0.05 and own.difference.value > 0
        assert reigns([counts(*map(int, first)), counts(*map(int, second))]) == [0, int(better)]


def test_a_match_counts_puzzles_won_lost_and_drawn():
    found = match([counts(1, 5, 5, 0), counts(2, 4, 5, 3)], 0, 1)
    assert (found.won, found.lost, found.drawn) == (2, 1, 1)
    assert found.difference.difference.value == pytest.approx((1 - 1 + 0 + 3) / 4 / N)


# ---- from disk ----


def test_champions_are_a_matter_of_the_score_files_alone(run_of):
    rng = np.random.default_rng(0)
    checkpoints = [counts(*map(int, rng.binomial(N, rate, 30))) for rate in (0.2, 0.25, 0.3, 0.28, 0.5, 0.45)]
    place = run_of(*checkpoints)
    champions = reigns(dev_counts(place, range(6)))
    assert champions == reigns(checkpoints)
    assert len({*champions}) > 2
    for done in range(7):  # whenever a run is gone on with, it finds the champions that it had
        assert reigns(dev_counts(place, range(done))) == champions[:done]


@pytest.mark.slow
def test_a_run_that_crashed_anywhere_has_the_same_champions(pool, tmp_path):
    config = dataclasses.replace(config_of(puzzle_files(tmp_path)), iterations=3)
    go(tmp_path / "whole", config, pool)
    counted = dev_counts(RunDir(tmp_path / "whole"), range(4))
    for crash_at in (40, 110):
        path = tmp_path / f"crashed-{crash_at}"
        with watched(crash_at=crash_at), pytest.raises(Crash):
            go(path, config, pool)
        go(path, config, pool, Backend())
        assert dev_counts(RunDir(path), range(4)) == counted
        assert [row.score for row in league(RunDir(path)).standings] == [
            row.score for row in league(RunDir(tmp_path / "whole")).standings
        ]


def test_puzzles_known_to_be_wrong_are_left_out(run_of):
    wrong = next(iter(read_errata()))
    place = run_of({**counts(1, 2), wrong: (N, N)}, {**counts(1, 3), wrong: (N, 0)})
    assert dev_counts(place, range(2)) == [counts(1, 2), counts(1, 3)]


def test_scores_may_lie_in_other_chunks_and_other_numbers_of_rows(run_of):
    place = run_of(counts(1, 2, 3))
    file = place.samples(1, "dev")
    one, *rest = counts(2, 2, 2).items()
    append_line(file, line(dict(rest), settings={**SETTINGS, "batch_rows": 1}))
    append_line(file, line(dict([one]), 1))
    assert [{**own} for own in dev_counts(place, range(2))] == [counts(1, 2, 3), counts(2, 2, 2)]
    assert match(dev_counts(place, range(2)), 0, 1).won == 1


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ({"protocol": "few-shot"}, "other protocol"),
        ({"settings": {**SETTINGS, "temperature": 1.0}}, "other settings"),
        ({"shots": ["a"]}, "other shots"),
        ({"limits": {"cpu_seconds": 9.0}}, "other limits"),
    ],
)
def test_scores_that_were_drawn_otherwise_are_not_compared(run_of, identity, said):
    place = run_of(counts(1, 2), counts(1, 2), of_1=identity)
    with pytest.raises(InputError, match=f"iteration-001-dev.jsonl: iteration 1 has {said} than iteration 0"):
        league(place)


def test_scores_with_other_prompts_are_not_compared_and_those_of_older_versions_do_not_tell(run_of):
    rows, one, other = [counts(1, 2)] * 3, {"prompt_format_hash": "one"}, {"prompt_format_hash": "other"}
    assert dev_counts(run_of(*rows, of_1=one, of_2=one), range(3)) == rows
    place = run_of(*rows, name="mixed", of_1=one, of_2=other)
    with pytest.raises(
        InputError, match=r"iteration 2 has other prompts than iteration 0 \(\['other'\], there \['one'"
    ):
        dev_counts(place, range(3))


def test_scores_of_other_puzzles_or_that_are_not_finished_are_not_compared(run_of):
    place = run_of(counts(1, 2, 3), counts(1, 2))
    with pytest.raises(InputError, match="iteration 1 has other puzzles than iteration 0"):
        league(place)


def test_scores_that_are_gone_and_a_run_that_has_not_begun_are_told(run_of, tmp_path):
    place = run_of(counts(1, 2), counts(1, 2))
    place.samples(1, "dev").unlink()
    with pytest.raises(InputError, match="expected the scores of iteration 1, there are none"):
        league(place)
    with pytest.raises(InputError, match="expected a run with at least one record"):
        league(RunDir(tmp_path / "nowhere"))


# ---- the league ----


def test_two_identical_checkpoints_are_not_told_apart(run_of):
    own = counts(*range(12))
    found = league(run_of(own, own))
    (only,) = found.matches
    assert (only.won, only.lost, only.drawn) == (0, 0, 12)
    assert (only.difference.difference.value, only.difference.p, found.adjusted_p) == (0, 1, [1])
    assert [row.reigned for row in found.standings] == [(0, 1), ()]
    assert found.standings[0].score == found.standings[1].score


def test_a_league_has_every_pair_once_with_p_as_of_all_of_them(run_of):
    rng = np.random.default_rng(2)
    place = run_of(*(counts(*map(int, rng.binomial(N, rate, 25))) for rate in (0.2, 0.25, 0.4, 0.3)))
    found = league(place)
    assert [(each.first, each.second) for each in found.matches] == list(itertools.combinations(range(4), 2))
    assert found.adjusted_p == pytest.approx(holm([each.difference.p for each in found.matches]))
    assert all(a >= each.difference.p for a, each in zip(found.adjusted_p, found.matches, strict=True))
    assert sorted(i for row in found.standings for i in row.reigned) == [0, 1, 2, 3]
    assert all(each.won + each.lost + each.drawn == found.puzzles == 25 for each in found.matches)


def test_a_leagues_table_names_each_checkpoint_and_each_pair(run_of):
    found = league(run_of(counts(*[4] * 12), counts(*[9] * 12), counts(*[9] * 12)))
    lines = league_table(found).splitlines()
    scores = [interval(row.score).split() for row in found.standings]
    assert [line.split() for line in lines[1:4]] == [
        ["0", "weights-0", *scores[0], "12", "after", "0"],
        ["1", "weights-1", *scores[1], "12", "after", "1", "to", "2"],
        ["2", "weights-2", *scores[2], "12", "-"],
    ]
    gain = signed(found.matches[0].difference.difference).split()
    assert lines[6].split() == ["1", "0", *gain, "12", "0", "0", "0.00049", "0.0015"]
    assert lines[8].split()[-5:] == ["0", "0", "12", "1", "1"]
    assert lines[10].startswith("12 puzzles of dev, 16 candidates each. To reign,")
    assert "held-out" in lines[11]


def test_a_league_says_if_the_run_did_not_go_on_from_its_champions(run_of):
    own = counts(*range(12))
    found = league(run_of(own, own))
    assert found.sampled_from == [0, 1]
    assert "The run did not always sample from the champion." in league_table(found)
    assert "did not" not in league_table(dataclasses.replace(found, sampled_from=[0, 0]))


def test_a_run_of_one_checkpoint_has_a_league_of_one(run_of):
    place = run_of(counts(1, 2))
    assert league(place).matches == []
    assert json.dumps(dataclasses.asdict(league(place)))
    assert league_table(league(place)).splitlines()[1].split()[-2:] == ["after", "0"]
