"""Stored candidates scored again: errata, other k, and the sandbox of today."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from scripted import NAMES, PUZZLES, Model, N, records, score, write_set

from puzzles.puzzle import InputError
from puzzles.verify import truth_pool
from sandbox import selfcheck
from sandbox.result import Limits
from selfplay.benchmark.rescore import rescore, rescored_run, stored
from selfplay.benchmark.sets import scored_set
from selfplay.commands.main import main
from selfplay.config import EvaluateConfig
from selfplay.run.rundir import RunDir, append_line
from selfplay.sampling.prompts import PromptFormat
from selfplay.scoring import results
from selfplay.scoring.evaluate import Questions, evaluate

COUNTS = dict(zip(NAMES, [6, 3, 1, 0, 2, 0, 0], strict=True))
NEVER = {"started", "cost", "machine"}


@pytest.fixture(scope="module")
def finished(pool, tmp_path_factory):
    """A folder with a set and a benchmark of two seeds on it; not to be written into."""
    folder = tmp_path_factory.mktemp("finished")
    score(pool, Model(COUNTS), write_set(folder / "own.jsonl"), folder / "runs" / "bench", seeds=(0, 1))
    return folder


@pytest.fixture
def bench(finished, tmp_path, monkeypatch):
    """A copy of the benchmark, below the current folder."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs/bench")


@pytest.fixture(scope="module")
def ids(pool, finished):
    return {item.name: item.puzzle.id for item in scored_set(pool, str(finished / "own.jsonl")).named}


@pytest.fixture
def command(capsys, monkeypatch):
    """Exit status, standard output and standard error of a command; the sandbox's self-check is left out."""
    monkeypatch.setattr(selfcheck, "check", lambda pool: selfcheck.Protections("A", {}, {}, {}))

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def refusal(came):
    status, out, err = came
    assert status == 2, err
    assert out == ""
    assert err.startswith("selfplay: ")
    assert err.count("\n") == 1
    return err.strip()


def content_of(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def files_of(folder):
    """All but the lock, which says who had it last."""
    files = {str(file.relative_to(folder)): file for file in sorted(Path(folder).rglob("*")) if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if not name.endswith("lock")}


def errata_file(path, wrong):
    tables = [
        f"[[erratum]]\npuzzle = {json.dumps(puzzle)}\nreason = {json.dumps(why)}\n" for puzzle, why in wrong.items()
    ]
    path.write_text("\n".join(tables))
    return path


# ---- errata ----


def test_without_errata_nothing_changes(bench):
    before = files_of(bench)
    came, again = rescore(bench, {})
    assert came == json.loads(json.dumps(again))
    assert files_of(bench) == before


def test_errata_stay_applied_where_none_are_given(bench, ids):
    rescore(bench, {ids["thirds"]: "17 is one of many"})
    before = files_of(bench)
    rescore(bench, None)
    assert files_of(bench) == before
    rescore(bench, {})


def test_errata_leave_a_puzzle_out_of_scores_and_files_with_the_reason(bench, ids):
    before, after = rescore(bench, {ids["thirds"]: "17 is one of many", "f" * 16: "of another set"})
    own, all_of_it = after["selfplay"], before["selfplay"]
    assert own["errata"] == {ids["thirds"]: "17 is one of many"}
    kept = [COUNTS[name] for name in NAMES if name != "thirds"]
    assert own["scores"]["pass@1"]["value"] == pytest.approx(sum(kept) / len(kept) / N)
    assert own["scores"]["pass@1"]["by_seed"] == pytest.approx([sum(kept) / len(kept) / N] * 2)
    assert own["solved"] == all_of_it["solved"] - 1
    assert own["verdicts"]["accepted"] == 2 * sum(kept)
    assert sum(own["verdicts"].values()) == 2 * N * len(kept)
    assert own["truncated"] == all_of_it["truncated"] * 6 // 7
    assert {name: group["puzzles"] for name, group in own["by"]["skill"].items()} == {
        "arithmetic": 2,
        "counting": 2,
        "text": 2,
    }
    assert own["per_puzzle"] == all_of_it["per_puzzle"], "what was drawn stays on record"
    assert after["n-samples"] == {"own": {"original": 7, "effective": 6}}
    assert after["results"]["own"]["pass@1,none"] == own["scores"]["pass@1"]["value"]
    assert content_of(bench) == json.loads(json.dumps(after))
    assert (
        f"- puzzle {ids['thirds']} is left out, it is wrong: 17 is one of many\n" in (bench / "results.md").read_text()
    )
    assert "17 is one of many" not in (bench / "model-index.yaml").read_text()
    assert f"value: {own['scores']['pass@1']['value']:.4f}" in (bench / "model-index.yaml").read_text()
    rescore(bench, {})
    assert content_of(bench)["selfplay"] == all_of_it, "an erratum can be taken back"


def test_a_benchmark_with_errata_is_what_rescoring_with_them_makes_of_it(pool, bench, finished, ids, tmp_path):
    wrong = {ids["sum"]: "w"}
    file = errata_file(tmp_path / "errata.toml", wrong)
    score(pool, Model(COUNTS), finished / "own.jsonl", tmp_path / "new", seeds=(0, 1), errata=str(file))
    rescore(bench, wrong)
    one, other = content_of(tmp_path / "new")["selfplay"], content_of(bench)["selfplay"]
    assert {k: v for k, v in one.items() if k not in NEVER} == {k: v for k, v in other.items() if k not in NEVER}


def test_errata_that_leave_nothing_are_refused(bench, ids):
    before = files_of(bench)
    with pytest.raises(InputError, match=r"own\.jsonl: the errata leave no puzzle to score"):
        rescore(bench, dict.fromkeys(ids.values(), "all wrong"))
    assert files_of(bench) == before


# ---- k ----


def test_another_k_is_another_look_at_the_same_samples(bench):
    samples = (bench / "samples.jsonl.gz").read_bytes()
    _, after = rescore(bench, {}, [3, 1])
    own = after["selfplay"]
    assert [*own["scores"]] == ["pass@3", "pass@1"]
    assert own["settings"]["k"] == [3, 1]
    assert own["scores"]["pass@3"]["by_seed"] == pytest.approx([(1 + 0.95 + 0.5 + 0 + 0.8) / 7] * 2)
    assert (bench / "samples.jsonl.gz").read_bytes() == samples


def test_more_tries_than_candidates_are_refused(bench):
    before = files_of(bench)
    with pytest.raises(InputError, match=f"{bench}: pass@7 needs at least 7 candidates per puzzle, got 6"):
        rescore(bench, {}, [1, 7])
    assert files_of(bench) == before


# ---- judging again ----


def test_judging_again_reproduces_every_verdict(pool, bench):
    before, lines = content_of(bench)["selfplay"], results.unpack(bench)
    _, after = rescore(bench, {}, sandbox=(pool, {"tier": "A"}))
    again = results.unpack(bench)
    for line in (*lines, *again):
        del line["times"]
    assert again == lines
    own = json.loads(json.dumps(after["selfplay"]))
    assert {k: v for k, v in own.items() if k not in NEVER} == {k: v for k, v in before.items() if k not in NEVER}


def test_judging_again_corrects_what_was_falsified_and_notes_the_sandbox(bench):
    true, lines = results.unpack(bench), results.unpack(bench)
    lines[0]["results"][3]["verdicts"][2:4] = ["accepted", "time_limit"]
    lines[1]["results"][0]["verdicts"] = ["wrong_answer"] * N
    results.pack(bench, lines)
    rescore(bench, {})
    falsified = content_of(bench)["selfplay"]
    assert [c for _, c in falsified["per_puzzle"].values()][:4] == [6, 6, 2, 1]
    with truth_pool(Limits(cpu_seconds=2.0), lanes=1) as other:
        _, after = rescore(bench, {}, sandbox=(other, {"tier": "B"}))
    assert [c for _, c in after["selfplay"]["per_puzzle"].values()] == [2 * COUNTS[name] for name in NAMES]
    assert after["selfplay"]["sandbox"] == {"tier": "B"}
    assert after["selfplay"]["limits"]["cpu_seconds"] == 2.0
    again = results.unpack(bench)
    assert [[r["verdicts"] for r in line["results"]] for line in again] == [
        [r["verdicts"] for r in line["results"]] for line in true
    ]
    assert [[r["texts"] for r in line["results"]] for line in again] == [
        [r["texts"] for r in line["results"]] for line in true
    ]
    assert {line["identity"]["limits"]["cpu_seconds"] for line in again} == {2.0}


def test_candidates_that_could_not_be_asked_for_stay_so(pool, bench):
    lines = results.unpack(bench)
    lines[0]["results"][0] |= {"texts": [], "details": [], "verdicts": ["prompt_too_long"] * N}
    results.pack(bench, lines)
    _, after = rescore(bench, {}, sandbox=(pool, {"tier": "A"}))
    assert after["selfplay"]["verdicts"]["prompt_too_long"] == N


@pytest.mark.parametrize(
    "lines", [records(PUZZLES[1:]), [*records(), {"name": "more", "puzzle": "def f(x: int):\n    return x == 3"}]]
)
def test_a_set_that_has_changed_is_refused(pool, finished, tmp_path, lines):
    shutil.copytree(finished / "runs" / "bench", tmp_path / "bench")
    content = content_of(tmp_path / "bench")
    content["selfplay"]["set"]["path"] = str(write_set(tmp_path / "own.jsonl", lines))
    (tmp_path / "bench" / "results.json").write_text(json.dumps(content))
    before = files_of(tmp_path / "bench")
    with pytest.raises(InputError, match=r"own\.jsonl: expected the set that was scored"):
        rescore(tmp_path / "bench", {}, sandbox=(pool, {}))
    assert files_of(tmp_path / "bench") == before
    rescore(tmp_path / "bench", {})  # the stored verdicts need no set


def test_chat_answers_are_judged_again_as_they_were(pool, finished, tmp_path):
    score(pool, Model(COUNTS), finished / "own.jsonl", tmp_path / "chat", protocol="chat")
    before = content_of(tmp_path / "chat")["selfplay"]["per_puzzle"]
    assert sum(c for _, c in before.values()) == sum(COUNTS.values())
    _, after = rescore(tmp_path / "chat", {}, sandbox=(pool, {"tier": "A"}))
    assert after["selfplay"]["per_puzzle"] == before


# ---- runs ----

COUNTED = (
    "proposed", "well_formed", "admitted", "held_out_refused", "contaminated", "solved", "training_solved",
    "candidates", "accepted", "new_pairs", "varied", "pairs", "trained_pairs",
)  # fmt: skip
UNSCORED = {
    "checkpoint": "weights", "protocol": "plain", **dict.fromkeys(COUNTED, 0), "training": {}, "sampler": {},
    "times": {"sampling": 0, "judging": 0, "training": 0, "scoring": 0},
}  # fmt: skip


@pytest.fixture
def run_folder(pool, finished, tmp_path):
    """What a run of two iterations keeps of its scores; its dev set has four puzzles."""
    rundir = RunDir(tmp_path / "runs" / "mine")
    rundir.path.mkdir(parents=True)
    rundir.config.write_text("")
    named = scored_set(pool, str(finished / "own.jsonl")).named
    config = EvaluateConfig(samples_per_puzzle=4, k=(1, 4), max_tokens=20)
    for number in (0, 1):
        record = {**UNSCORED, "iteration": number}
        for name, puzzles in (("dev", named[:4]), ("heldout", named[4:])):
            model = Model({"thirds": 2 * number, "square": 4, "sum": number})
            file = rundir.samples(number, name)
            record[name] = evaluate(
                model, pool, Questions(puzzles, PromptFormat("plain"), [], config, [number], 8, 8), file
            ).to_json()
        append_line(rundir.records, record)
    return rundir.path


def test_a_runs_scores_are_shown_again_and_its_files_stay_as_they_were(run_folder, ids):
    before = files_of(run_folder)
    same = rescored_run(run_folder, {})
    assert [(number, name) for number, name, *_ in same] == [(i, name) for i in (0, 1) for name in ("dev", "heldout")]
    for _, _, recorded, again in same:
        assert again.to_json() == recorded
    values = [
        [score.value for score in again.pass_at.values()]
        for *_, again in rescored_run(run_folder, {ids["square"]: "w"})
    ]
    assert values == [pytest.approx(row) for row in ([0, 0], [0, 0], [0.5 / 3, 1 / 3], [0.25 / 3, 1 / 3])]
    assert files_of(run_folder) == before


def test_a_runs_scores_have_the_k_that_is_asked_for(run_folder):
    scores = rescored_run(run_folder, {}, [2])
    assert [[*again.pass_at] for *_, again in scores] == [["pass@2"]] * 4
    assert scores[2][3].pass_at["pass@2"].value == pytest.approx((1 - 1 / 6 + 1) / 4)
    with pytest.raises(InputError, match="pass@5 needs at least 5 candidates per puzzle, got 4"):
        rescored_run(run_folder, {}, [5])


def test_a_run_whose_records_differ_in_n_and_k_is_scored_by_each_records_own(run_folder, pool, finished):
    rundir, config = RunDir(run_folder), EvaluateConfig(samples_per_puzzle=2, k=(2,), max_tokens=20)
    named = scored_set(pool, str(finished / "own.jsonl")).named
    record = {**UNSCORED, "iteration": 2}
    for name in ("dev", "heldout"):
        file = rundir.samples(2, name)
        record[name] = evaluate(
            Model(COUNTS), pool, Questions(named[:2], PromptFormat("plain"), [], config, [2], 8, 8), file
        ).to_json()
    append_line(rundir.records, record)
    scores = rescored_run(run_folder, {})
    assert [[*again.pass_at] for *_, again in scores] == [["pass@1", "pass@4"]] * 4 + [["pass@2"]] * 2
    assert all(again.to_json() == recorded for _, _, recorded, again in scores)


def test_an_iteration_that_was_not_scored_on_heldout_has_one_score(run_folder):
    rundir = RunDir(run_folder)
    _, last = rundir.read_records()
    append_line(rundir.records, {**UNSCORED, "iteration": 2, "dev": last["dev"]})
    rundir.samples(2, "dev").write_text(rundir.samples(1, "dev").read_text())
    assert [(number, name) for number, name, *_ in rescored_run(run_folder, {})][-2:] == [(1, "heldout"), (2, "dev")]


# ---- the command ----


def test_the_command_without_a_folder_rescores_all_below_runs(bench, run_folder, ids, command):
    (Path("runs") / "notes").mkdir()
    before, errata = files_of(run_folder), errata_file(Path("errata.toml"), {ids["square"]: "it | has two"})
    status, out, err = command("bench", "--rescore", "--errata", errata)
    assert (status, err) == (0, "")
    first, second = out.rstrip("\n").split("\n\n")
    assert first.splitlines()[0] == "runs/bench"
    assert first.splitlines()[1].startswith("| some/model | before ")
    assert [line.split(" | ")[0] for line in first.splitlines()[3:6]] == [f"| {f'pass@{k}':<10}" for k in (1, 2, N)]
    assert first.splitlines()[6:] == [f"left out: {ids['square']}: it | has two"]
    assert second.splitlines()[0] == "runs/mine"
    assert [line.split(" | ")[:3] for line in second.splitlines()[3:]] == [
        [f"| {i:<9}", f"{name:<7}", f"pass@{k}"] for i in (0, 1) for name in ("dev", "heldout") for k in (1, 4)
    ]
    assert files_of(run_folder) == before
    assert [*content_of(bench)["selfplay"]["errata"]] == [ids["square"]]


def test_the_command_rescores_the_folders_it_is_given_with_other_k(bench, command):
    shutil.copytree(bench, "other")
    before = files_of(bench)
    status, out, _ = command("bench", "--rescore", "other", "--k", "2")
    assert status == 0
    assert out.splitlines()[0] == "other"
    assert content_of("other")["selfplay"]["settings"]["k"] == [2]
    assert files_of(bench) == before


def test_the_command_judges_again(bench, run_folder, command):
    lines = results.unpack(bench)
    lines[0]["results"][0]["verdicts"] = ["wrong_answer"] * N
    results.pack(bench, lines)
    named = content_of(bench)["selfplay"]["set"]["path"]
    assert "name this file yourself" in refusal(command("bench", "--rescore", "--judge-again", "--lanes", "2"))
    status, out, err = command("bench", "--rescore", "--judge-again", "--puzzles", named, "--lanes", "2")
    assert status == 0, err
    assert "runs/mine" not in out, "a run goes on with the verdicts it has"
    assert sum(c for _, c in content_of(bench)["selfplay"]["per_puzzle"].values()) == 2 * sum(COUNTS.values())
    assert content_of(bench)["selfplay"]["sandbox"]["tier"] == "A"
    assert "a run keeps its verdicts" in refusal(command("bench", "--rescore", run_folder, "--judge-again"))


@pytest.mark.slow
def test_the_command_needs_no_torch(bench, run_folder, ids):
    code = (
        "import sys\nclass Block:\n    def find_spec(self, name, *more):\n"
        "        assert name.split('.')[0] not in ('torch', 'transformers', 'tokenizers'), name\n"
        "sys.meta_path.insert(0, Block())\nfrom selfplay.commands.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    errata = errata_file(Path("errata.toml"), {ids["square"]: "wrong"})
    root = str(ROOT)
    for arguments in (["bench", "--rescore", "--errata", errata], ["compare", bench, bench]):
        came = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": root},
        )  # fmt: skip
        assert came.returncode == 0, came.stderr
    assert [*content_of(bench)["selfplay"]["errata"]] == [ids["square"]]


def spoiled(bench, kind):
    if kind == "no samples":
        (bench / "samples.jsonl.gz").unlink()
    elif kind == "cut samples":
        whole = (bench / "samples.jsonl.gz").read_bytes()
        (bench / "samples.jsonl.gz").write_bytes(whole[:200])
    elif kind == "no JSON":
        (bench / "results.json").write_text("{")
    elif kind == "errata":
        Path("errata.toml").write_text('[[erratum]]\npuzzle = "p7"\nreason = "r"\n')
    elif kind == "set":
        content = content_of(bench)
        content["selfplay"]["set"]["path"] = "gone.jsonl"
        (bench / "results.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("", ["some/model", "--rescore"], "--rescore scores stored candidates: expected no model, got some/model"),
        ("", ["--rescore", "nothing"], "nothing: expected a folder that `selfplay bench` wrote, "),
        ("", ["--rescore", "runs"], "runs: expected a folder that `selfplay bench` wrote, there is no results.json"),
        ("", ["--rescore", "--k", "9"], "runs/bench: pass@9 needs at least 9 candidates per puzzle, got 6"),
        ("", ["--rescore", "--k", "x"], "--k: expected integers with commas between them, got 'x'"),
        ("", ["--rescore", "--errata", "none.toml"], "none.toml: No such file or directory"),
        ("errata", ["--rescore", "--errata", "errata.toml"], "errata.toml, erratum 1: expected a puzzle's id, "),
        ("no samples", ["--rescore"], "runs/bench: expected samples.jsonl.gz beside results.json, to score it again"),
        ("cut samples", ["--rescore"], "runs/bench/samples.jsonl.gz: expected the samples of a benchmark, "),
        ("no JSON", ["--rescore"], "runs/bench/results.json: expected a results.json of `selfplay bench`, "),
        ("set", ["--rescore", "--judge-again", "--puzzles", "gone.jsonl"], "gone.jsonl: No such file or directory"),
        ("set", ["--rescore", "--judge-again"], "runs/bench: its candidates are of 'gone.jsonl': name this file yours"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_again_is_refused_and_left_as_it_was(bench, command, kind, arguments, expected):
    spoiled(bench, kind)
    before = files_of(bench)
    assert refusal(command("bench", *arguments)).startswith(f"selfplay: {expected}")
    assert files_of(bench) == before


def test_the_command_with_nothing_below_runs_is_refused(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    told = f"expected results below {tmp_path / 'runs'}, there are none: name their folders"
    assert refusal(command("bench", "--rescore")).endswith(told)
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    told = f"expected results below {tmp_path / 'runs'}, there are none: name their folders"
    assert refusal(command("bench", "--rescore")).endswith(told)
    assert stored([tmp_path / "runs" / "notes"]) == []


# ---- files that are damaged ----


def changed_lines(folder, change):
    """Change the lines of the samples, as another program might."""
    with gzip.open(folder / "samples.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    change(lines)
    (folder / "samples.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(x) + "\n" for x in lines).encode()))


def second_chunk(lines):
    return next(place for place, sample in enumerate(lines) if place and sample["chunk"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines.__delitem__(slice(second_chunk(lines), None)), "expected 12 candidates, got 6 of puzzle "),
        (
            lambda lines: (
                [sample.update(puzzle="other") for sample in lines[:N]]
                + [lines[0]["chunk"]["results"][0].update(puzzle="other")]
            ),
            "candidates, got ",
        ),
        (lambda lines: lines.pop(1), "line 1: expected sample 1 of "),
        (
            lambda lines: lines[0]["chunk"]["results"][0].update(tokens=-1),
            "line 1: expected at least 0 under 'chunk.results[0].tokens'",
        ),
        (
            lambda lines: lines[0]["chunk"].update(times={}),
            "line 1: expected the key 'times.sampling_seconds', it is missing",
        ),
        (
            lambda lines: lines[0]["chunk"].update(identity=None),
            "line 1: expected an object under 'chunk.identity', got None",
        ),
    ],
    ids=["one seed", "other puzzle", "one missing", "tokens", "times", "identity"],
)
def test_samples_that_are_not_all_of_a_benchmark_are_named_and_nothing_is_written(bench, change, words):
    changed_lines(bench, change)
    before = files_of(bench)
    with pytest.raises(InputError) as caught:
        rescore(bench, None)
    assert words in str(caught.value)
    assert "samples.jsonl.gz" in str(caught.value)
    assert files_of(bench) == before


def test_a_runs_damaged_scores_are_named_by_line_and_key(run_folder):
    file = RunDir(run_folder).samples(1, "dev")
    file.write_text(file.read_text().replace('"verdicts": ["', '"verdicts": [3, "', 1))
    with pytest.raises(
        InputError, match=r"iteration-001-dev\.jsonl, line 1: expected a text under 'results\[0\]\.verdicts"
    ):
        rescored_run(run_folder, {})
