"""What an archive is written as for others, and that nothing is lost on the way back."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from archives import PROTECTIONS, made, pair
from scripted_run import config_of, go, puzzle_files

from puzzles.archive.catalogue import Filter, page_of
from puzzles.archive.formats import import_puzzles, read_puzzles
from puzzles.archive.store import Archive, Provenance
from puzzles.guard import Hit
from puzzles.puzzle import InputError
from puzzles.verify import verify_texts
from selfplay.inspecting.export import COLUMNS, FORMATS, card, write
from selfplay.run.rundir import SET_NAMES, RunDir
from selfplay.run.sessions import version_of
from selfplay.sampling.prompts import PROPOSE_INSTRUCTION, SOLVE_INSTRUCTION
from selfplay.settings import load
from selfplay.text import interval


@pytest.fixture(scope="module")
def run_archive(pool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    files = puzzle_files(folder)
    go(folder / "run", config_of(files), pool)
    return RunDir(folder / "run").archive


@pytest.fixture
def archive(run_archive, tmp_path):
    shutil.copy(run_archive, tmp_path / "archive.sqlite")
    with Archive(tmp_path / "archive.sqlite") as archive:
        yield archive


def lines(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# ---- jsonl ----


def test_puzzles_written_and_imported_are_the_same_with_all_their_solutions(archive, pool, tmp_path):
    count = write(archive, tmp_path / "out.jsonl", "jsonl", None, "mit")
    assert count == len(archive.puzzle_ids())
    with Archive(tmp_path / "again.sqlite", create=True) as again:
        report = import_puzzles(again, pool, PROTECTIONS, read_puzzles(tmp_path / "out.jsonl"))
        assert dict(report.puzzles) == {"new": count}
        assert set(report.solutions) == {"new"}
        write(again, tmp_path / "again.jsonl", "jsonl", None, "mit")
    kept = ("id", "name", "puzzle", "solutions", "answers", "answer_type", "skills", "difficulty", "description")
    first, second = (
        [{key: line[key] for key in kept} for line in lines(tmp_path / name)] for name in ("out.jsonl", "again.jsonl")
    )
    assert first == second


def test_a_line_says_who_made_a_puzzle_and_how_hard_it_was(archive, tmp_path):
    write(archive, tmp_path / "out.jsonl", "jsonl", None, "mit")
    rows = {row["puzzle"]: row for row in page_of(archive, Filter(), limit=10_000)}
    for line in lines(tmp_path / "out.jsonl"):
        row = rows[line["id"]]
        assert (line["n"], line["c"], line["origin"]) == (row["n"], row["c"], row["origin"])


# ---- pairs ----


def test_a_row_of_a_pair_has_its_whole_history(archive, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    count = write(archive, tmp_path / "pairs.parquet", "parquet", None, "mit")
    table = pyarrow.parquet.read_table(tmp_path / "pairs.parquet").to_pylist()
    write(archive, tmp_path / "set", "datasets", None, "mit")
    assert table == lines(tmp_path / "set" / "data" / "pairs.jsonl")
    assert len(table) == count == archive.query("SELECT count(*) FROM solutions")[0][0]
    found = [row for row in table if row["solution_origin"] == "model"]
    chunk = {row["checkpoint"]: row["settings"] for row in archive.query("SELECT * FROM chunks WHERE stage = 'solve'")}
    assert all(row["settings"] == chunk[row["checkpoint"]] for row in found)
    assert {row["checkpoint"] for row in table if row["solution_origin"] == "import"} == {None}
    for row in table:
        sql = "SELECT iteration FROM trained WHERE puzzle = ? AND solution = ? ORDER BY 1"
        assert row["trained_in"] == [i for (i,) in archive.query(sql, row["puzzle_id"], row["solution_id"])]


def test_an_archive_without_a_pair_is_no_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with Archive(tmp_path / "empty.sqlite", create=True) as empty, pytest.raises(InputError, match="no pair to write"):
        write(empty, tmp_path / "out.parquet", "parquet", None, "mit")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty.sqlite"]


def test_without_its_package_parquet_says_what_to_install(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install '\.\[parquet\]'"):
        write(archive, tmp_path / "out.parquet", "parquet", None, "mit")


def test_a_dataset_has_a_card_that_the_hub_reads_and_that_names_what_made_it(archive, tmp_path):
    write(archive, tmp_path / "set", "datasets", None, "cc-by-4.0")
    _, head, text = (tmp_path / "set" / "README.md").read_text("utf-8").split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["license"] == "cc-by-4.0"
    assert (tmp_path / "set" / front["configs"][0]["data_files"][0]["path"]).is_file()
    for (checkpoint,) in archive.query("SELECT DISTINCT checkpoint FROM chunks WHERE stage = 'solve'"):
        assert f"`{checkpoint}`" in text
    for title in (
        "Contamination",
        "Limits",
        "Intended use",
        "Pairs by the protections under which they were confirmed",
    ):
        assert f"## {title}\n" in text
    assert "refused, iteration 1, normal_form" in text


def test_a_card_describes_every_column_and_gives_its_type(archive, tmp_path):
    write(archive, tmp_path / "set", "datasets", None, "mit")
    assert [*lines(tmp_path / "set" / "data" / "pairs.jsonl")[0]] == [*COLUMNS]
    _, head, text = (tmp_path / "set" / "README.md").read_text("utf-8").split("---\n", 2)
    assert [feature["name"] for feature in yaml.safe_load(head)["dataset_info"]["features"]] == [*COLUMNS]
    for name, (kind, meaning) in COLUMNS.items():
        assert re.search(rf"\| `{name}` +\| {kind} +\| {re.escape(meaning)} +\|", text), name


def test_a_card_names_the_run_its_model_and_seed_its_scores_and_the_version(run_archive):
    rundir = RunDir(run_archive.parent)
    last, config = rundir.read_records()[-1], load(rundir.config)
    with Archive(run_archive) as archive:
        text = card(archive, "mit")
    scores = {
        f"{name} {k}, iteration {last['iteration']}": interval(last[scored][k])
        for scored, name in SET_NAMES.items()
        for k in last[scored]
        if k.startswith("pass@")
    }
    facts = {"run": "run", "base model": config.model.path, "seed": str(config.seed)}
    for name, value in (facts | scores).items():
        assert re.search(rf"\| {re.escape(name)} +\| `{re.escape(value)}` +\|", text), name
    assert len(scores) >= 2
    assert f"with selfplay-puzzles\n{version_of('selfplay-puzzles') or '(not installed)'}:" in text


def test_a_card_shows_a_hostile_name_as_text(tmp_path):
    with Archive(tmp_path / "a.sqlite", create=True) as archive:
        archive.add(pair(made("a1", "int | `x`")), Provenance("human"), PROTECTIONS)
        assert "| `int \\| 'x'` | 1      |" in card(archive, "mit")


# ---- training text ----


def test_texts_are_programs_that_hold(archive, pool, tmp_path):
    write(archive, tmp_path / "out.txt", "text", None, "mit")
    parts = (tmp_path / "out.txt").read_text("utf-8").split("\nassert f(g())\n")
    programs = [part.strip("\n").split("\n\n") for part in parts if part.strip()]
    assert len(programs) == len(archive.choose(8)) > 10
    judged = verify_texts(pool, [(puzzle, solution) for puzzle, solution in programs])
    assert {str(judgement.verdict) for judgement in judged} == {"accepted"}


def test_chats_ask_for_each_pair_and_once_for_each_puzzle(archive, tmp_path):
    write(archive, tmp_path / "chat.jsonl", "chat", None, "mit")
    told = lines(tmp_path / "chat.jsonl")
    pairs = archive.choose(8)
    solving = [line for line in told if line["role"] == "solve"]
    assert [line["messages"][1]["content"] for line in solving] == [f"```python\n{c.source}\n```" for _, c in pairs]
    assert all(line["messages"][0]["content"].startswith(SOLVE_INSTRUCTION) for line in solving)
    proposing = [line for line in told if line["role"] == "propose"]
    assert [line["puzzle_id"] for line in proposing] == list(dict.fromkeys(puzzle.id for puzzle, _ in pairs))
    assert {line["messages"][0]["content"] for line in proposing} == {PROPOSE_INSTRUCTION}


def test_a_preference_is_an_accepted_and_a_failed_program_of_the_same_puzzle(archive, pool, tmp_path):
    count = write(archive, tmp_path / "preferences.jsonl", "preferences", pool, "mit")
    told = lines(tmp_path / "preferences.jsonl")
    assert len(told) == count > 3

    def program(text):
        return text.removeprefix("```python\n").removesuffix("\n```")

    puzzles = [archive.puzzle(line["puzzle_id"]).source for line in told]
    chosen = verify_texts(pool, [(p, program(line["chosen"])) for p, line in zip(puzzles, told, strict=True)])
    rejected = verify_texts(pool, [(p, program(line["rejected"])) for p, line in zip(puzzles, told, strict=True)])
    assert {str(judgement.verdict) for judgement in chosen} == {"accepted"}
    assert [str(judgement.verdict) for judgement in rejected] == [line["rejected_verdict"] for line in told]
    assert len({(line["puzzle_id"], line["rejected"]) for line in told}) == count


def test_what_is_in_quarantine_is_in_the_data_and_not_in_the_training(archive, pool, tmp_path):
    puzzle = archive.choose(1)[0][0]
    archive.add_contamination({puzzle.id: Hit("behaviour", "dev/a")})
    for file_format in ("jsonl", "text", "chat", "preferences"):
        write(archive, tmp_path / file_format, file_format, pool, "mit")
    assert [line["id"] for line in lines(tmp_path / "jsonl") if line["quarantined"]] == [puzzle.id]
    assert puzzle.source not in (tmp_path / "text").read_text("utf-8")
    for name in ("chat", "preferences"):
        assert puzzle.id not in {line["puzzle_id"] for line in lines(tmp_path / name)}


# ---- files ----


@pytest.mark.parametrize("file_format", [name for name in FORMATS if name not in ("parquet", "datasets")])
def test_a_file_that_cannot_be_finished_leaves_what_was_there(archive, pool, tmp_path, monkeypatch, file_format):
    out = tmp_path / "out"
    write(archive, out, file_format, pool, "mit")
    before = out.read_bytes()
    monkeypatch.setattr(os, "rename", lambda *_, **__: (_ for _ in ()).throw(OSError("stopped")))
    with pytest.raises(OSError, match="stopped"):
        write(archive, out, file_format, pool, "mit")
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_dataset_that_cannot_be_finished_leaves_what_was_there(archive, tmp_path):
    write(archive, tmp_path / "set", "datasets", None, "mit")
    before = [(file, file.read_bytes()) for file in sorted((tmp_path / "set").rglob("*")) if file.is_file()]
    archive.query("UPDATE puzzles SET skills = 'no JSON' WHERE number = 3")
    damaged = r"the archive is damaged: expected TEXT in column skills, .* row 3, got 'no JSON'"
    with pytest.raises(InputError, match=damaged):
        write(archive, tmp_path / "set", "datasets", None, "mit")
    assert [(file, file.read_bytes()) for file, _ in before] == before
