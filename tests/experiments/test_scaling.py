"""What an iteration takes of many workers, against sums by hand."""

import dataclasses

import pytest

from selfplay.commands.main import main
from selfplay.config import EndpointConfig, RunConfig
from selfplay.experiments.forecast import Forecast
from selfplay.experiments.scaling import COPIED_BYTES_PER_SECOND, plan, plan_table
from selfplay.sampling.cost import StageCost

CONFIG = RunConfig(iterations=2, chunk_texts=100, endpoint=EndpointConfig(prompt_price=2.0, completion_price=10.0))
LAST = {
    "propose": StageCost(400, 4_000, 1_000, 40.0, 40.0, 8.0, 8.0),
    "solve": StageCost(1_000, 20_000, 9_000, 100.0, 100.0, 300.0, 300.0),
    "vary": StageCost(10, 0, 0, 0.5, 0.5, 1.5, 1.5),
    "train": StageCost(64, 6_000, 0, 80.0, 80.0),
    "score": StageCost(50, 1_000, 500, 5.0, 5.0, 10.0, 10.0),
}
EXPECTED = Forecast(
    [{"score": LAST["score"]}, LAST, LAST], start_seconds=30.0, archive_bytes=int(4 * COPIED_BYTES_PER_SECOND),
    arithmetic=None, load_seconds=7.0, planning_seconds_per_text=0.001, merging_seconds_per_text=0.01,
    examples_per_step=16.0,
)  # fmt: skip


def test_one_worker_takes_the_sum_of_its_stages_and_merges_nothing():
    made = plan(EXPECTED, CONFIG, workers=1, gpus=1)
    assert made.seconds == {
        "sampling": 140.0, "judging": 308.0, "varying": 2.0, "planning": pytest.approx(1.4), "start-up": 0.0,
        "copying": 0.0, "merging": 0.0, "training": 80.0, "scoring": 15.0,
    }  # fmt: skip
    assert made.bottleneck == "judging"
    assert made.total_seconds == pytest.approx(546.4)
    assert made.worker_hours == pytest.approx(546.4 / 3600)
    assert made.gpu_hours == pytest.approx(80 / 3600)


def test_many_workers_divide_chunks_and_what_is_not_divided_is_left():
    made = plan(EXPECTED, CONFIG, workers=4, gpus=8)
    # Of 4 and 10 chunks the busiest of four workers has 1 and 3.
    assert made.seconds["sampling"] == pytest.approx(40 / 4 + 100 * 3 / 10)
    assert made.seconds["judging"] == pytest.approx(8 / 4 + 300 * 3 / 10)
    assert made.seconds["start-up"] == 14.0
    assert made.seconds["copying"] == pytest.approx(1.0)  # for two stages, a quarter of the half that was there before
    assert made.seconds["merging"] == pytest.approx(14.0)
    assert made.seconds["training"] == 10.0
    assert made.seconds["scoring"] == 15.0
    held, alone = 40 + 92 + 14 + 1, 2 + 1.4 + 14 + 10 + 15
    assert made.worker_hours == pytest.approx((4 * held + alone) / 3600)
    assert made.gpu_hours == pytest.approx(80 / 3600)


def test_no_worker_does_less_than_a_chunk_and_no_step_is_dealt_to_more_than_it_has():
    made, most = (plan(EXPECTED, CONFIG, workers, gpus=1000) for workers in (10, 1_000))
    assert made.seconds["sampling"] == most.seconds["sampling"] == pytest.approx(40 / 4 + 100 / 10)
    assert most.seconds["training"] == pytest.approx(80 / 16)
    assert most.worker_hours > made.worker_hours


def test_where_sampling_goes_on_while_texts_are_judged_the_longer_one_counts():
    made = plan(dataclasses.replace(EXPECTED, overlap=True), CONFIG, workers=1, gpus=1)
    assert (made.seconds["sampling"], made.seconds["judging"]) == (0.0, 308.0)


def test_tokens_and_their_price_do_not_depend_on_workers():
    one, many = plan(EXPECTED, CONFIG, 1, 1), plan(EXPECTED, CONFIG, 64, 8)
    assert one.tokens == many.tokens == 31_000
    assert one.price == many.price == pytest.approx((10_500 * 2 + 25_000 * 10) / 1e6)


def test_an_iteration_without_training_has_none():
    costs = {name: cost for name, cost in LAST.items() if name in ("propose", "solve", "score")}
    made = plan(dataclasses.replace(EXPECTED, iterations=[{}, costs]), CONFIG, 4, 8)
    assert made.seconds["training"] == made.seconds["varying"] == made.seconds["copying"] == made.gpu_hours == 0


def test_a_run_without_iterations_scores_once_and_has_nothing_to_divide():
    made = plan(dataclasses.replace(EXPECTED, iterations=[{"score": LAST["score"]}]), CONFIG, workers=9, gpus=8)
    assert {name: seconds for name, seconds in made.seconds.items() if seconds} == {"scoring": 15.0}


def test_the_table_names_the_bottleneck_of_each_number_of_workers():
    table = plan_table([plan(EXPECTED, CONFIG, workers, 8) for workers in (1, 8, 64, 1024)]).splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["1", "8", "64", "1,024"]
    assert "judging" in table[1]
    assert "65%" in table[1]  # 308 of 546.4 seconds, less 70 of training on one device
    assert len({len(line) for line in table[:5]}) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "4"], "--nodes needs --forecast: add it"),
        (
            ["--shard", "1/2", "--nodes", "4"],
            "--shard does a part of a run that has begun: leave out --forecast, --nodes",
        ),
        (["--forecast", "--gpus", "8"], "--gpus needs --forecast and --nodes: add both"),
        (["--forecast", "--nodes", "4,x"], "--nodes: expected integers with commas between them"),
        (["--forecast", "--nodes", "0"], "--nodes: expected integers of at least 1"),
    ],
)
def test_wrong_numbers_of_machines_are_refused(options, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", *options]) == 2
    assert capsys.readouterr().err.startswith(f"selfplay: {said}")
