import pytest

from selfplay.sampling import cost
from selfplay.sampling.cost import StageCost, Watch, counts, record_seconds, record_tokens, times, total
from selfplay.sampling.sampler import Arithmetic

ONE = StageCost(1, 20, 300, 0.5, 0.25, 4.0, 8.0)
OTHER = StageCost(2, 30, 400, 1.5, 0.5, 16.0, 32.0)
BOTH = StageCost(3, 50, 700, 2.0, 0.75, 20.0, 40.0)
ARITHMETIC = Arithmetic(flops_per_token=7, peak_flops_per_second=100.0)
TIMES = {"sampling": 1.0, "judging": 2.0, "training": 4.0, "scoring": 8.0, "this_session": 1000.0}


def test_costs_are_added_part_by_part():
    assert ONE + OTHER == OTHER + ONE == BOTH
    assert ONE + StageCost() == ONE


def test_the_total_of_nothing_costs_nothing():
    assert total([]) == StageCost()
    assert total([ONE, OTHER]) == BOTH
    assert total(one for one in (ONE, OTHER, ONE)) == BOTH + ONE


@pytest.mark.parametrize("stage", cost.STAGES)
def test_training_computes_three_times_what_reading_does(stage):
    # Prompts are read as well; each token is a forward pass, and in training two more of them back.
    assert ONE.flops(stage, ARITHMETIC) == (20 + 300) * 7 * (3 if stage == "train" else 1)


def test_what_does_not_depend_on_the_machine_is_counted_by_stage():
    costs = {"solve": ONE, "train": StageCost(texts=2, tokens=30)}
    without = {
        "solve": {"texts": 1, "tokens": 20, "prompt_tokens": 300},
        "train": {"texts": 2, "tokens": 30, "prompt_tokens": 0},
    }
    assert counts(costs, None) == without
    assert counts(costs, ARITHMETIC) == {
        "solve": {**without["solve"], "flops": 320 * 7},
        "train": {**without["train"], "flops": 3 * 30 * 7},
    }
    assert counts({}, ARITHMETIC) == {}


def test_what_depends_on_the_machine_is_rounded_by_stage():
    costs = {"solve": StageCost(9, 9, 9, 1.00049, 2.0006, 3.25, 4.0), "train": StageCost()}
    none = dict.fromkeys(("model_seconds", "model_cpu_seconds", "judging_seconds", "judging_cpu_seconds"), 0.0)
    solve = {"model_seconds": 1.0, "model_cpu_seconds": 2.001, "judging_seconds": 3.25, "judging_cpu_seconds": 4.0}
    assert times(costs, {}) == {"solve": solve, "train": none}
    assert times(costs, {"solve": 12.4, "propose": 1.0}) == {
        "solve": {**solve, "peak_flops_per_second": 12},
        "train": none,
    }


def test_a_record_took_what_its_stages_took_in_all_sessions():
    assert record_seconds({"times": {**TIMES, "stages": {"solve": {"model_seconds": 500.0}}}}) == 15.0


def test_a_record_has_the_tokens_that_were_sampled_and_trained_on():
    costs = {"solve": ONE, "train": OTHER, "score": StageCost(prompt_tokens=5)}
    assert record_tokens({"cost": counts(costs, ARITHMETIC)}) == 20 + 30
    assert record_tokens({"times": TIMES}) == 0, "of an older version nothing is known"


def test_a_watch_tells_the_seconds_since_it_was_made_of_the_clock_and_of_the_processor(monkeypatch):
    clocks = {"wall": 100.0, "cpu": 7.0}
    monkeypatch.setattr(cost.time, "monotonic", lambda: clocks["wall"])
    watch = Watch(lambda: clocks["cpu"])
    assert (watch.seconds(), watch.cpu_seconds()) == (0.0, 0.0)
    clocks.update(wall=103.5, cpu=8.25)
    assert (watch.seconds(), watch.cpu_seconds()) == (3.5, 1.25)
    later = Watch(lambda: clocks["cpu"])
    clocks.update(wall=104.0, cpu=9.0)
    assert (later.seconds(), later.cpu_seconds()) == (0.5, 0.75)
    assert (watch.seconds(), watch.cpu_seconds()) == (4.0, 2.0)


def test_a_watch_counts_this_processs_time_unless_it_is_told_otherwise():
    watch = Watch()
    before = cost.time.process_time()
    while cost.time.process_time() < before + 0.02:
        pass
    assert 0.02 <= watch.cpu_seconds() <= cost.time.process_time() - before + 1
