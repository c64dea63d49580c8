import contextlib
import dataclasses
import itertools
import json
import math
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest
from scripted_run import HELDOUT, Backend, Crash, config_of, content, puzzle_files, same, watched

from puzzles.archive.store import Archive, Provenance
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError
from selfplay.config import EvaluateConfig, ProposeConfig, RunConfig, SolveConfig
from selfplay.experiments import ablate as ablate_module
from selfplay.experiments.ablate import Ablation, ArmScores, ablate, contrasts, load_ablation, to_json
from selfplay.experiments.ablation_table import ablation_table
from selfplay.experiments.chart import COLOURS, ablation_chart, lines
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.scoring.evaluate import read_chunks

# ---- the file ----

GOOD = {
    "run": '"base.toml"',
    "seeds": "[0, 3]",
    "control": '"nothing new"',
    "settings": '["finetune.max_steps=9", "evaluate.k=[1]"]',
    "arms": '{"nothing new" = ["iterations=1"], "self-play" = ["iterations=4"]}',
}


@pytest.fixture
def write(tmp_path):
    (tmp_path / "base.toml").write_text("chunk_texts = 77\n")

    def write_(**changes):
        path = tmp_path / "arms.toml"
        path.write_text("".join(f"{key} = {value}\n" for key, value in (GOOD | changes).items() if value is not None))
        return path

    return write_


def message(path):
    with pytest.raises(InputError) as caught:
        load_ablation(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_arms_are_the_run_file_with_the_settings_of_all_and_their_own(write):
    ablation = load_ablation(write())
    assert (ablation.seeds, ablation.control, ablation.ks) == ((0, 3), "nothing new", (1,))
    assert [config.iterations for config in ablation.arms.values()] == [1, 4]
    assert {(config.chunk_texts, config.finetune.max_steps) for config in ablation.arms.values()} == {(77, 9)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": "1"}, "unknown key 'seed'; known keys: run, seeds, control, settings, arms"),
        ({"run": None}, "run: expected `embedded`, or the name of a run's TOML file in the same folder, got 'nothing'"),
        ({"run": "3"}, "run: expected `embedded`, or the name of a run's TOML file in the same folder, got 3"),
        ({"seeds": "[]"}, "seeds: expected different integers from 0 on, got []"),
        ({"seeds": "[1, 1]"}, "seeds: expected different integers from 0 on, got [1, 1]"),
        ({"seeds": "[-1]"}, "seeds: expected different integers from 0 on, got [-1]"),
        ({"seeds": "[true]"}, "seeds: expected different integers from 0 on, got [True]"),
        ({"seeds": "4"}, "seeds: expected different integers from 0 on, got 4"),
        ({"settings": "[3]"}, "settings: expected a list of key=value for all arms, got [3]"),
        ({"arms": '{"a" = []}'}, "arms: expected at least two arms, each a list of key=value, got {'a': []}"),
        (
            {"arms": "{a = [], b = 3}"},
            "arms: expected at least two arms, each a list of key=value, got {'a': [], 'b': 3}",
        ),
        ({"control": "3"}, "control: expected the name of an arm, got 3"),
        ({"control": '"none"'}, "control: expected one of nothing new, self-play, got 'none'"),
        (
            {"arms": '{"nothing new" = [], "../b" = []}'},
            "arms: expected letters, digits, blanks and ,.+- in a name, got '../b'",
        ),
        (
            {"arms": '{"nothing new" = [], "nothing-new" = []}'},
            "arms: expected names that make different folders, got nothing new and nothing-new",
        ),
        ({"arms": '{"nothing new" = [], "b" = ["seed=7"]}'}, "b: seed: expected no seed here: use `seeds`"),
        (
            {"arms": '{"nothing new" = [], "b" = ["budget.seconds=9"]}'},
            "b: budget: expected none: a shortened arm cannot be compared",
        ),
        (
            {"arms": '{"nothing new" = [], "b" = ["finetune.start=\'previous\'"]}'},
            "b: finetune.start: expected 'base', as in nothing new, got 'previous': arms must share it",
        ),
        (
            {"settings": "[\"finetune.start='previous'\"]"},
            "self-play: iterations: expected 1, as in nothing new, got 4: arms must share it",
        ),
    ],
)
def test_a_wrong_file_stops_with_what_was_expected(write, changes, expected):
    assert message(write(**changes)) == expected


@pytest.mark.parametrize(
    "change",
    [
        "model.path='another'", "prompt.shots=2", "sandbox.cpu_seconds=2", "evaluate.temperature=1", "data.dev='train'",
        "data.heldout='train'", "finetune.epochs=3", "finetune.max_steps=10", "finetune.batch_tokens=10",
        "heldout_every=2", "chunk_texts=9", "batch_rows=9",
    ],
)  # fmt: skip
def test_what_arms_must_share_is_checked(write, change):
    text = message(write(arms=f'{{"nothing new" = [], "b" = ["{change}"]}}'))
    assert text.startswith(f"b: {change.partition('=')[0]}: expected ")
    assert ", as in nothing new, got " in text
    assert text.endswith(": arms must share it")


def test_a_wrong_setting_of_an_arm_names_the_arm(write):
    text = message(write(arms='{"nothing new" = [], "b" = ["data.ruels=9"]}'))
    assert text == "b: unknown key 'data.ruels'; did you mean 'data.rules'?"


def test_a_run_file_that_is_not_there_is_named(write, tmp_path):
    assert message(write(run='"none.toml"')).startswith(f"nothing new: {tmp_path / 'none.toml'}: No such file")


@pytest.mark.parametrize("text", ["run =", None])
def test_what_is_no_toml_file_is_named(tmp_path, text):
    path = tmp_path / "arms.toml"
    if text:
        path.write_text(text)
    assert "expected " in message(path)
    assert "TOML" in message(path)


# ---- the arms ----


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    files = puzzle_files(folder)
    arms = {
        "nothing new": config_of(
            files,
            iterations=1,
            propose=ProposeConfig(proposals=0),
            solve=SolveConfig(candidates_per_puzzle=2, training_puzzles="none"),
        ),
        "self-play": config_of(files, iterations=2, propose=ProposeConfig(proposals=8, proposals_per_prompt=8)),
    }
    return Ablation((4, 9), "nothing new", arms)


def go(ablation, folder, pool, backend=None):
    """All that an ablation leaves for people and programs, without times."""
    titles = []

    def progress(title):
        titles.append(title)
        return Progress()

    done = ablate(ablation, folder, backend or Backend(), lambda config: contextlib.nullcontext((pool, {})), progress)
    assert titles == [f"{arm}, seed {seed}" for seed in ablation.seeds for arm in ablation.arms]
    kept = json.loads(json.dumps(to_json(ablation, done)))
    for of_run in kept["runs"]:
        for record in of_run["records"]:
            del record["times"]
    return kept, ablation_table(ablation, done, contrasts(ablation, done)), ablation_chart(ablation, done)


FOLDERS = ["nothing-new-4", "self-play-4", "nothing-new-9", "self-play-9"]


@pytest.fixture(scope="module")
def whole(ablation, pool, tmp_path_factory):
    """An ablation that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with watched() as seen:
        outcome = go(ablation, folder, pool)
        events = list(seen.events)
    return {"folder": folder, "outcome": outcome, "events": events}


def test_every_arm_is_a_run_with_every_seed(whole, ablation):
    kept = whole["outcome"][0]
    assert sorted(path.name for path in whole["folder"].iterdir()) == sorted(FOLDERS)
    assert [(one["arm"], one["seed"], len(one["records"])) for one in kept["runs"]] == [
        ("nothing new", 4, 2), ("self-play", 4, 3), ("nothing new", 9, 2), ("self-play", 9, 3),
    ]  # fmt: skip
    assert kept["settings"]["self-play"]["propose.proposals"] == 8
    for one in kept["runs"]:
        assert {name: len(counts) for name, counts in one["counts"].items()} == {"dev": 2, "heldout": 3}
        accepted = sum(c for _, c in one["counts"]["heldout"].values())
        assert one["records"][-1]["heldout"]["verdicts"].get("accepted", 0) == accepted


def test_the_common_base_of_a_seed_is_scored_once(whole):
    for name in ("dev", "heldout"):
        with_times = [RunDir(whole["folder"] / folder).samples(0, name).read_text("utf-8") for folder in FOLDERS]
        assert with_times[0] == with_times[1] != with_times[2] == with_times[3]


@pytest.mark.slow
def test_arms_without_a_puzzle_of_people_whose_rules_differ_score_each_its_own_base(ablation, pool, tmp_path):
    arm = ablation.arms["nothing new"]
    arms = {
        name: dataclasses.replace(arm, data=dataclasses.replace(arm.data, train="none", rules=rules))
        for name, rules in (("nothing new", 4), ("self-play", 60))
    }
    go(Ablation((4,), "nothing new", arms), tmp_path, pool)
    shots = [
        [line["identity"]["shots"] for line in read_chunks(RunDir(tmp_path / name).samples(0, "dev"))]
        for name in ("nothing-new-4", "self-play-4")
    ]
    assert shots[0] != shots[1]


@pytest.mark.slow
def test_heldout_that_is_scored_now_and_then_leaves_gaps_in_table_and_chart(ablation, pool, tmp_path):
    arms = {
        name: dataclasses.replace(config, iterations=3 * config.iterations - 2, heldout_every=3)
        for name, config in ablation.arms.items()
    }
    kept, table, chart = go(Ablation((4,), "nothing new", arms), tmp_path, pool)
    assert [["heldout" in record for record in one["records"]] for one in kept["runs"]] == [
        [True, True],
        [True, False, False, True, True],
    ]
    assert all("dev" in record for one in kept["runs"] for record in one["records"])
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| self-play ")]
    by_iteration = [[cell.strip() for cell in row] for row in rows if len(row) == 6]
    assert [row[4:] == ["-", "-"] for row in by_iteration[-5:]] == [False, True, True, False, False]
    assert "NaN" not in chart


def test_all_archived_puzzles_are_compared_with_dev_and_heldout_when_a_run_has_ended(whole):
    for one, name in zip(whole["outcome"][0]["runs"], FOLDERS, strict=True):
        with Archive(RunDir(whole["folder"] / name).archive) as archive:
            assert (one["examined"], one["contaminated"]) == (len(archive.puzzle_ids()), {})
    assert "| nothing new | 0 of 5 | 0 of 5 |" in " ".join(whole["outcome"][1].split())


def test_runs_that_have_ended_are_only_read(whole, ablation):
    class Nothing:
        def __getattr__(self, name):
            raise AssertionError(name)

    assert go(ablation, whole["folder"], Nothing(), Nothing()) == whole["outcome"]


def test_of_a_run_that_has_ended_settings_records_and_outcome_are_enough(whole, ablation, pool, tmp_path):
    for name in FOLDERS[:3]:
        (tmp_path / name).mkdir()
        for file in ("config.toml", "records.jsonl", "outcome.json"):
            shutil.copy(whole["folder"] / name / file, tmp_path / name)
    assert go(ablation, tmp_path, pool) == whole["outcome"]
    assert sorted(path.name for path in (tmp_path / "self-play-4").iterdir()) == [
        "config.toml", "outcome.json", "records.jsonl",
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.1, 0.45, 0.7, 0.95])
def test_an_ablation_that_stopped_anywhere_comes_to_the_same_end(whole, ablation, pool, tmp_path, share):
    with watched(int(share * len(whole["events"]))), pytest.raises(Crash):
        go(ablation, tmp_path, pool)
    assert go(ablation, tmp_path, pool) == whole["outcome"]
    for name in FOLDERS:
        assert same(content(tmp_path / name), content(whole["folder"] / name))


@pytest.mark.slow
def test_one_that_stopped_before_an_archive_was_compared_compares_it(whole, ablation, pool, tmp_path, monkeypatch):
    examined = ablate_module._examined
    monkeypatch.setattr(ablate_module, "_examined", lambda *_: (_ for _ in ()).throw(Crash))
    with pytest.raises(Crash):
        go(ablation, tmp_path, pool)
    assert [path.name for path in tmp_path.iterdir()] == FOLDERS[:1]
    monkeypatch.setattr(ablate_module, "_examined", examined)
    assert go(ablation, tmp_path, pool) == whole["outcome"]


@pytest.mark.slow
def test_more_iterations_extend_the_runs_and_fewer_take_their_beginning(whole, ablation, pool, tmp_path):
    shorter = dataclasses.replace(ablation, seeds=(4,), arms={
        name: dataclasses.replace(config, iterations=1) for name, config in ablation.arms.items()
    })  # fmt: skip
    longer = dataclasses.replace(ablation, seeds=(4,))
    first = go(shorter, tmp_path, pool)
    after = go(longer, tmp_path, pool)
    assert after[0]["runs"] == whole["outcome"][0]["runs"][:2]
    again = go(shorter, tmp_path, pool)
    assert [one["records"] for one in again[0]["runs"]] == [one["records"] for one in first[0]["runs"]]
    assert again[0]["contrasts"] == first[0]["contrasts"]


@pytest.mark.slow
def test_a_seed_that_was_longer_ago_scored_on_heldout_leaves_a_gap_where_another_was_not(ablation, pool, tmp_path):
    def lasting(iterations, seeds):
        arms = {
            name: dataclasses.replace(
                config, iterations=min(config.iterations - 1, 1) * iterations + 1, heldout_every=2
            )
            for name, config in ablation.arms.items()
        }
        return Ablation(seeds, "nothing new", arms)

    go(lasting(2, (4,)), tmp_path, pool)
    kept, table, chart = go(lasting(3, (4, 9)), tmp_path, pool)
    of_self_play = [one["records"] for one in kept["runs"] if one["arm"] == "self-play"]
    assert [["heldout" in record for record in records] for records in of_self_play] == [
        [True, False, True, True, True],
        [True, False, True, False, True],
    ]
    rows = [row.split("|")[1:-1] for row in table.splitlines() if row.startswith("| self-play ")]
    by_iteration = [[cell.strip() for cell in row] for row in rows if len(row) == 6]
    assert [row[4:] == ["-", "-"] for row in by_iteration[-5:]] == [False, True, False, True, False]
    assert "NaN" not in chart


@pytest.mark.slow
def test_a_last_iteration_that_was_not_scored_on_heldout_is_refused(ablation, pool, tmp_path):
    arms = {name: dataclasses.replace(config, iterations=4, heldout_every=2) for name, config in ablation.arms.items()}
    go(Ablation((4,), "nothing new", arms), tmp_path, pool)
    shorter = {name: dataclasses.replace(config, iterations=3) for name, config in arms.items()}
    with pytest.raises(InputError, match="iteration 3 was not scored on this set"):
        go(Ablation((4,), "nothing new", shorter), tmp_path, pool)


def test_a_folder_of_other_settings_is_refused_before_anything_runs(whole, ablation, pool):
    before = [content(whole["folder"] / name) for name in FOLDERS]
    arms = {**ablation.arms, "more": ablation.arms["nothing new"]}
    arms["self-play"] = dataclasses.replace(arms["self-play"], batch_rows=4)
    with pytest.raises(InputError, match="self-play-4: this run has other settings: batch_rows"):
        go(Ablation((4,), "nothing new", arms), whole["folder"], pool)
    assert [content(whole["folder"] / name) for name in FOLDERS] == before
    assert not (whole["folder"] / "more-4").exists()


@pytest.mark.slow
def test_a_puzzle_that_came_past_the_guard_is_found_and_said(ablation, pool, tmp_path):
    one = dataclasses.replace(ablation, seeds=(4,))
    go(one, tmp_path, pool)
    (leak,) = parse_puzzles(pool, [Text(HELDOUT[0][1])])
    with Archive(RunDir(tmp_path / "self-play-4").archive) as archive:
        archive.add_puzzle(leak, Provenance("import"))
        puzzles = len(archive.puzzle_ids())
    (tmp_path / "self-play-4" / "outcome.json").unlink()
    kept, table, _ = go(one, tmp_path, pool)
    assert [run["contaminated"] for run in kept["runs"]] == [{}, {leak.id: "exact: heldout/cube"}]
    assert re.search(rf"\| self-play +\| 1 of {puzzles} +\|$", table, re.MULTILINE)


# ---- what the difference is worth ----

N = 6
COUNTS = {
    ("control", 0): [0, 1, 2, 0, 6], ("arm", 0): [1, 3, 2, 0, 6],
    ("control", 1): [0, 0, 3, 1, 5], ("arm", 1): [2, 3, 1, 0, 6],
}  # fmt: skip


def made(ks=(1, 3), counts=None, arms=(("control", 1), ("arm", 3)), seeds=(0, 1)):
    """An ablation and its runs, by hand; scores rise by a hundredth with each iteration."""
    evaluate = EvaluateConfig(samples_per_puzzle=N, k=ks)
    configs = {arm: RunConfig(iterations=iterations, evaluate=evaluate) for arm, iterations in arms}
    done = []
    for seed, (arm, iterations) in itertools.product(seeds, arms):
        own = {f"p{i}": (N, c) for i, c in enumerate((counts or COUNTS)[arm, seed])}
        records = [
            {
                "iteration": i,
                "training": {"steps": 300, "tokens": 1000 + seed} if i else {},
                **{
                    name: {f"pass@{k}": [0.01 * (i + k) + 0.002 * seed, 0, 1] for k in ks}
                    for name in ("dev", "heldout")
                },
            }
            for i in range(iterations + 1)
        ]
        found = {"0123456789abcdef": "exact: dev/x"} if (arm, seed) == ("arm", 1) else {}
        done.append(ArmScores(arm, seed, records, {"dev": own, "heldout": own}, 1234 + seed, found))
    return Ablation(tuple(seeds), "control", configs), done


def pass_at(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def by_hand(pairs, k):
    """Means over the seeds, their difference, and how many ways to flip signs give as much."""
    a, b = (np.mean([[pass_at(N, c, k) for c in pair[side]] for pair in pairs], axis=0) for side in (0, 1))
    flips = [abs(np.dot(signs, b - a)) for signs in itertools.product((1, -1), repeat=len(a))]
    p = np.mean([value >= abs(sum(b - a)) - 1e-12 for value in flips])
    return a.mean(), b.mean(), (b - a).mean(), p


def test_contrasts_are_those_counted_by_hand():
    ablation, done = made()
    found = contrasts(ablation, done)
    assert [(one.arm, one.scored) for one in found] == [("arm", "dev"), ("arm", "heldout")]
    pairs = {seed: (COUNTS["control", seed], COUNTS["arm", seed]) for seed in (0, 1)}
    for one in found:
        asked = [(one.pooled, list(pairs.values())), *((one.by_seed[seed], [pairs[seed]]) for seed in (0, 1))]
        for differences, chosen in asked:
            assert [each.k for each in differences] == [1, 3]
            for each in differences:
                came = each.first, each.second, each.difference.value, each.p
                assert came == pytest.approx(by_hand(chosen, each.k))
                assert each.difference.low <= each.difference.value <= each.difference.high


def test_an_arm_whose_seeds_solve_different_puzzles_is_not_better_for_that():
    alike, apart = [N, 0, 0], ([N, 0, 0], [0, N, 0])
    counts = {("control", 0): alike, ("control", 1): alike, ("arm", 0): apart[0], ("arm", 1): apart[1]}
    ablation, done = made(counts=counts)
    for one in contrasts(ablation, done):
        assert [(each.first, each.second) for each in one.pooled] == [(pytest.approx(1 / 3),) * 2] * 2


def test_the_order_of_puzzles_in_a_score_file_does_not_matter():
    ablation, done = made()
    turned = [
        dataclasses.replace(one, counts={name: dict(reversed(own.items())) for name, own in one.counts.items()})
        if one.arm == "arm"
        else one
        for one in done
    ]
    assert contrasts(ablation, turned) == contrasts(ablation, done)


TABLE = """\
| dev     | iteration | steps | tokens         | pass@1 | pass@3 |
|---------|-----------|-------|----------------|--------|--------|
| base    | 0         | -     | -              | .011   | .031   |
| control | 1         | 300   | 1,000 to 1,001 | .021   | .041   |
| arm     | 3         | 300   | 1,000 to 1,001 | .041   | .061   |

| difference    |        | ratio | difference [95 %]    | p of these models |
|---------------|--------|-------|----------------------|-------------------|
| arm - control | pass@1 | 1.33  | +.100 [-.493, +.590] | 0.5000            |
| arm - control | pass@3 | 1.37  | +.175 [-.480, +.668] |                   |
| seed 0        | pass@1 | 1.33  | +.100 [-.493, +.585] | 0.5000            |
| seed 0        | pass@3 | 1.41  | +.190 [-.453, +.637] |                   |
| seed 1        | pass@1 | 1.33  | +.100 [-.503, +.603] | 0.6875            |
| seed 1        | pass@3 | 1.33  | +.160 [-.526, +.746] |                   |

| held-out | iteration | steps | tokens         | pass@1 | pass@3 |
|----------|-----------|-------|----------------|--------|--------|
| base     | 0         | -     | -              | .011   | .031   |
| control  | 1         | 300   | 1,000 to 1,001 | .021   | .041   |
| arm      | 3         | 300   | 1,000 to 1,001 | .041   | .061   |

| difference    |        | ratio | difference [95 %]    | p of these models |
|---------------|--------|-------|----------------------|-------------------|
| arm - control | pass@1 | 1.33  | +.100 [-.493, +.590] | 0.5000            |
| arm - control | pass@3 | 1.37  | +.175 [-.480, +.668] |                   |
| seed 0        | pass@1 | 1.33  | +.100 [-.493, +.585] | 0.5000            |
| seed 0        | pass@3 | 1.41  | +.190 [-.453, +.637] |                   |
| seed 1        | pass@1 | 1.33  | +.100 [-.503, +.603] | 0.6875            |
| seed 1        | pass@3 | 1.33  | +.160 [-.526, +.746] |                   |

| arm | iteration | dev pass@1 | dev pass@3 | held-out pass@1 | held-out pass@3 |
|-----|-----------|------------|------------|-----------------|-----------------|
| arm | 0         | .011       | .031       | .011            | .031            |
| arm | 1         | .021       | .041       | .021            | .041            |
| arm | 2         | .031       | .051       | .031            | .051            |
| arm | 3         | .041       | .061       | .041            | .061            |

| archived puzzles too near to dev or held-out | seed 0     | seed 1     |
|----------------------------------------------|------------|------------|
| control                                      | 0 of 1,234 | 0 of 1,235 |
| arm                                          | 0 of 1,234 | 1 of 1,235 |"""


def test_the_tables_are_these():
    ablation, done = made()
    assert ablation_table(ablation, done, contrasts(ablation, done)) == TABLE


def test_without_an_arm_of_several_iterations_there_is_no_table_of_iterations():
    ablation, done = made(arms=(("control", 1), ("arm", 1)))
    assert "| arm |" not in ablation_table(ablation, done, contrasts(ablation, done))


def test_one_seed_has_no_row_beside_the_mean():
    ablation, done = made(seeds=(0,))
    table = ablation_table(ablation, done, contrasts(ablation, done))
    assert "arm - control" in table
    assert not re.search(r"^\| seed 0 ", table, re.MULTILINE)


def test_what_is_kept_is_json_with_seeds_and_contamination():
    ablation, done = made()
    kept = json.loads(json.dumps(to_json(ablation, done)))
    assert [one["contaminated"] for one in kept["runs"]] == [{}, {}, {}, {"0123456789abcdef": "exact: dev/x"}]
    assert kept["contrasts"][0]["by_seed"]["1"][0]["k"] == 1


# ---- the chart ----

SVG = "{http://www.w3.org/2000/svg}"


def texts(chart: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(chart).iter(f"{SVG}text")]


def test_a_chart_is_the_same_bytes_each_time_and_says_what_it_shows():
    ablation, done = made()
    chart = ablation_chart(ablation, done)
    assert chart == ablation_chart(*made())
    assert texts(chart).count("iteration") == 2
    assert {"held-out pass@1", "held-out pass@3", "control", "arm", "base", "mean and range of 2 seeds"} <= {
        *texts(chart)
    }
    assert "<dc:date>" not in chart


def test_a_chart_has_a_transparent_page_and_neither_black_nor_white_in_it():
    chart = ablation_chart(*made())
    drawn = re.findall(r"(?:fill|stroke): (#\w+)", chart)
    assert "#7d7d7d" in drawn
    assert not {"#000000", "#ffffff"} & {*drawn}


def test_one_k_of_one_seed_is_one_panel_and_no_range():
    chart = ablation_chart(*made(ks=(1,), seeds=(0,)))
    assert texts(chart).count("iteration") == 1
    assert not [text for text in texts(chart) if "seeds" in text]


def test_arms_of_one_iteration_each_are_drawn_as_lines_too():
    chart = ablation_chart(*made(arms=(("control", 1), ("arm", 1))))
    assert "stroke-dasharray" not in chart
    assert "stroke-dasharray" in ablation_chart(*made())


def test_no_two_of_many_curves_look_alike():
    chart = lines({f"arm {number}": {0: 0.1, 1: 0.2} for number in range(18)}, "of all")
    style, marker = r'style="(fill: none;[^"]* stroke: (#[0-9a-f]{6})[^"]*)"/>', r'<use xlink:href="(#\w+)"'
    curve = rf"{style}(?:\s*<defs>.*?</defs>)?\s*<g>\s*{marker}"
    looks = Counter(
        (style, marker) for style, colour, marker in re.findall(curve, chart, re.DOTALL) if colour.upper() in COLOURS
    )
    assert len(looks) == 18
    assert {*looks.values()} == {2}  # in the panel and in the legend
