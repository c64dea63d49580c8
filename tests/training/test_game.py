import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puzzles.puzzle import Verdict
from selfplay.training.game import GAMES, advantages, keep_above_mean

# ---- what is paid ----

TABLE = {  # of 4 candidates, for 0 to 4 accepted ones
    "competitive": [1, 0.75, 0.5, 0.25, 0],
    "cooperative": [0, 0.25, 0.5, 0.75, 1],
    "learnability": [0, 1, 4 / 3, 1, 0],  # 4/3 of 4 p (1 - p)
    "balanced": [0, 0.25, 0.5, 0.25, 0],
    "absolute-zero": [-0.5, 0.75, 0.5, 0.25, -0.5],  # its code's ends; its paper's are 0
}


def test_every_game_has_its_table():
    assert TABLE.keys() == GAMES.keys()


@pytest.mark.parametrize("name", GAMES)
def test_a_proposal_is_paid_as_its_game_says(name):
    paid = [GAMES[name].proposal(accepted, 4) for accepted in range(5)]
    assert paid == pytest.approx(TABLE[name], abs=1e-15)


@pytest.mark.parametrize("name", GAMES)
def test_a_puzzle_without_candidates_has_no_reward(name):
    assert GAMES[name].proposal(0, 0) is None


def test_what_is_to_be_learned_of_a_puzzle_cannot_be_told_from_one_candidate():
    assert GAMES["learnability"].proposal(1, 1) is None
    assert {GAMES[name].proposal(1, 1) for name in GAMES} == {0.0, 1.0, -0.5, None}


def test_what_is_refused_or_copied_wins_nothing_and_with_absolute_zero_it_loses():
    others = [payoffs for name, payoffs in GAMES.items() if name != "absolute-zero"]
    assert {(payoffs.refused, payoffs.duplicate) for payoffs in others} == {(0.0, 0.0)}
    zero = GAMES["absolute-zero"]
    assert (zero.refused, zero.duplicate) == (-1.0, -0.5)


@pytest.mark.parametrize("name", GAMES)
def test_no_proposal_is_paid_better_for_being_refused_or_copied_than_for_being_solved_by_half(name):
    payoffs = GAMES[name]
    assert payoffs.refused <= payoffs.duplicate < payoffs.proposal(2, 4)


def test_a_candidate_is_paid_for_being_accepted_and_absolute_zero_tells_wrong_ones_from_texts_that_are_no_programs():
    for name, payoffs in GAMES.items():
        wrong, malformed = (-0.5, -1.0) if name == "absolute-zero" else (0.0, 0.0)
        for verdict in Verdict:
            expected = {"accepted": 1.0, "invalid_solution": malformed}.get(str(verdict), wrong)
            assert payoffs.candidate(verdict) == payoffs.candidate(str(verdict)) == expected


def expected(estimate, n: int, p: float) -> float:
    """Over what Binomial(n, p) may count, all of it."""
    return sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * estimate(c, n) for c in range(n + 1))


@pytest.mark.parametrize("n", [2, 3, 4, 8, 12, 24])
@pytest.mark.parametrize("p", [0.0, 0.03, 0.25, 0.5, 0.9, 1.0])
def test_learnability_is_without_bias_where_the_rates_own_product_is_too_small(n, p):
    truth = 4 * p * (1 - p)
    assert expected(GAMES["learnability"].rate, n, p) == pytest.approx(truth, abs=1e-12)
    assert expected(lambda c, n: 4 * c / n * (1 - c / n), n, p) == pytest.approx(truth * (n - 1) / n, abs=1e-12)


@pytest.mark.parametrize("n", range(2, 30))
def test_an_estimate_of_learnability_is_at_most_n_of_n_minus_1(n):
    paid = [GAMES["learnability"].proposal(c, n) for c in range(n + 1)]
    assert min(paid) == 0
    assert max(paid) <= n / (n - 1) + 1e-12
    assert (max(paid) == pytest.approx(n / (n - 1))) == (n % 2 == 0)


@pytest.mark.parametrize("name", ["competitive", "cooperative"])
def test_the_solve_rate_is_without_bias(name):
    truth = {"competitive": 0.7, "cooperative": 0.3}[name]
    assert expected(GAMES[name].rate, 5, 0.3) == pytest.approx(truth)


# ---- advantages ----


def one_by_one(rewards, groups, by_deviation):
    """The definition, in exact means."""
    found = []
    for reward, group in zip(rewards, groups, strict=True):
        own = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        deviation = statistics.pstdev(own) if by_deviation else 1.0
        found.append((reward - statistics.mean(own)) / deviation if len({*own}) > 1 else 0.0)
    return found


REWARDS = st.sampled_from([-1.0, -0.5, 0.0, 0.1, 0.25, 1 / 3, 0.7, 1.0])


@given(st.lists(st.tuples(REWARDS, st.sampled_from("abcd")), max_size=40), st.booleans())
def test_advantages_are_by_the_definition_and_sum_to_nothing_in_each_group(drawn, by_deviation):
    rewards, groups = [reward for reward, _ in drawn], [group for _, group in drawn]
    found = advantages(rewards, groups, by_deviation)
    assert found == pytest.approx(one_by_one(rewards, groups, by_deviation), abs=1e-9)
    for group in {*groups}:
        own = [value for value, of in zip(found, groups, strict=True) if of == group]
        assert sum(own) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("by_deviation", [False, True])
def test_equal_rewards_have_no_advantage_though_their_mean_is_rounded(by_deviation):
    assert np.mean([0.1] * 3) != 0.1
    assert advantages([0.1] * 3 + [0.7] * 7, ["a"] * 3 + ["b"] * 7, by_deviation).tolist() == [0.0] * 10


@pytest.mark.parametrize("by_deviation", [False, True])
def test_who_is_alone_in_a_group_has_no_advantage(by_deviation):
    assert advantages([1.0, 0.0, 1.0], [0, 1, 2], by_deviation).tolist() == [0, 0, 0]
    assert advantages([], [], by_deviation).tolist() == []


def test_with_roles_as_groups_each_role_has_mean_0_and_deviation_1():
    rewards = [-1.0, -0.5, 0.75, 0.5, -1.0, 1.0, -0.5, -1.0, 1.0]
    found = advantages(rewards, ["propose"] * 5 + ["solve"] * 4, by_deviation=True)
    for own in (found[:5], found[5:]):
        assert (own.mean(), own.std()) == pytest.approx((0, 1), abs=1e-12)


def test_one_right_candidate_of_four_outweighs_three_wrong_ones():
    assert advantages([1, 0, 0, 0], ["p"] * 4).tolist() == [0.75, -0.25, -0.25, -0.25]


# ---- filtered cloning ----


def test_kept_is_what_is_above_the_mean_of_all_worked_by_hand():
    # Two proposals refused, three puzzles of which a quarter, a half and all candidates were accepted: mean .35.
    cooperative = [0, 0, 0.25, 0.5, 1]
    assert keep_above_mean(cooperative).tolist() == [False, False, False, True, True]
    # The same ones in the competitive game: mean .25, and the puzzle that everybody solves is a valid 0.
    competitive, valid = [0, 0, 0.75, 0.5, 0], [False, False, True, True, True]
    assert keep_above_mean(competitive).tolist() == [False, False, True, True, False]
    assert keep_above_mean(competitive, valid).tolist() == [False, False, True, True, True]


def test_where_all_score_the_same_none_is_above_the_mean():
    for score in (0.0, 0.1, 1 / 3, 1.0):
        for number in (1, 3, 7, 10):
            assert not keep_above_mean([score] * number).any()


def test_a_score_that_is_the_mean_is_not_above_it():
    assert keep_above_mean([0.25, 0.5, 0.75]).tolist() == [False, False, True]


def test_of_nothing_nothing_is_kept():
    assert keep_above_mean([]).tolist() == []


def test_the_scores_of_a_negotiation_are_kept_as_its_paper_does():
    # arXiv:2406.18872, competitive: both transcripts of a draw stay, those of an aborted game do not.
    scores, valid = [3, -3, 0, 0, 0, 0], [True, True, True, True, False, False]
    assert keep_above_mean(scores, valid).tolist() == [True, False, True, True, False, False]


def test_what_wins_nothing_is_kept_in_the_competitive_game_alone():
    assert [name for name, payoffs in GAMES.items() if payoffs.keeps_valid_zeros] == ["competitive"]
