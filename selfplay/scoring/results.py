"""The files in which a benchmark publishes its results.

    results.json       scores and all they depend on, in the format of lm-evaluation-harness;
                       results.schema.json describes every key
    samples.jsonl.gz   every candidate with its verdict, a line each; the scores can be computed from it without a model
    results.md         the results as tables
    model-index.yaml   the block for a model card on the Hugging Face hub

No file holds the text of a puzzle. Only `samples.jsonl.gz` holds names and candidates. If a set is benchmarked as
private, the other three files show only the ids of its puzzles, so they can be published.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from puzzles.foreign import (
    ANY,
    NATURAL,
    NUMBER,
    TEXT,
    TEXTS,
    a_list,
    an_object,
    expect,
    lines_of,
    parse_json,
    read_json,
    shown,
)
from puzzles.puzzle import InputError, Verdict
from puzzles.writing import file_atomically, write_atomically
from selfplay.scoring.evaluate import expect_chunk, not_told
from selfplay.scoring.metrics import detectable_difference, interval, pass_at_k

SCHEMA_VERSION = 1
RESULTS, SAMPLES, TABLES, CARD = "results.json", "samples.jsonl.gz", "results.md", "model-index.yaml"
UNUSUAL = ("engine", "engine_reason", "chat_time", "proof", "left_out", "renamed", "one_by_one")
"""Keys of a sampler's description that say what is unusual about it. They go into the results."""
GROUPS = ("skill", "answer_type", "difficulty")

Line = dict[str, Any]
"""A chunk in the form that `evaluate` writes."""


@dataclass
class PuzzleCount:
    """Verdict counts of one puzzle's candidates, over all seeds."""

    puzzle: str
    name: str
    answer_type: str
    skills: tuple[str, ...]
    difficulty: int | None
    verdicts: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    """Number of candidates that met max_tokens."""

    @property
    def samples(self) -> int:
        """Number n of candidates."""
        return self.verdicts.total()

    @property
    def accepted(self) -> int:
        """Number c of accepted candidates."""
        return self.verdicts[Verdict.ACCEPTED]

    def groups(self, kind: str) -> Sequence[str]:
        """The puzzle's groups of a kind; empty if the set does not name any."""
        if kind == "skill":
            return self.skills
        value = self.answer_type if kind == "answer_type" else self.difficulty
        return () if value is None else (str(value),)


def puzzle_counts(lines: Sequence[Line]) -> list[PuzzleCount]:
    """Counts per puzzle, in the set's order."""
    counts: dict[str, PuzzleCount] = {}
    for result in (result for line in lines for result in line["results"]):
        count = counts.setdefault(
            result["puzzle"],
            PuzzleCount(
                result["puzzle"], result["name"], result["answer_type"], tuple(result["skills"]), result["difficulty"]
            ),
        )
        count.verdicts.update(result["verdicts"])
        count.truncated += result["truncated"]
    return list(counts.values())


def document(facts: Mapping[str, Any], lines: Sequence[Line], errata: Mapping[str, str]) -> dict[str, Any]:
    """The content of `results.json`: scores of stored chunks, and the facts about how they were sampled.

    Args:
        facts: `set`, `model`, `protocol`, `settings` and more, as `bench` gathers them and the schema describes them.
        lines: All chunks of all seeds.
        errata: Reasons by id for puzzles that are wrong. These puzzles are left out of the scores and listed. So are
            those that the set's own solutions do not solve.

    Raises:
        InputError: No puzzle is left without the errata.
    """
    everything = puzzle_counts(lines)
    refused = facts["set"]["references"]["refused"].items()
    errata = {**{puzzle: f"its own solution: {verdict}" for puzzle, verdict in refused}, **errata}
    counted = [count for count in everything if count.puzzle not in errata]
    if not counted:
        raise InputError(f"{facts['set']['path']}: the errata leave no puzzle to score")
    ks = facts["settings"]["k"]
    scores = score_block(counted, ks)
    for name, score in scores.items():
        score["by_seed"] = [
            _mean_pass([count for count in puzzle_counts(chunk) if count.puzzle not in errata], int(name[5:]))
            for chunk in _by_seed(lines).values()
        ]
    own_set = facts["set"]
    near = (facts["contamination"] or {}).get("near", {})
    unseen = [count for count in counted if count.puzzle not in near]
    untold = not_told(lines)
    own = {
        "schema": SCHEMA_VERSION,
        **facts,
        **({"not_told": untold} if untold else {}),
        "scores_unseen": _triples(score_block(unseen, ks)) if near and unseen else None,
        "scores": scores,
        "solved": sum(count.accepted > 0 for count in counted),
        "by": {kind: _by_group(counted, kind, ks) for kind in GROUPS if not own_set["private"]},
        "verdicts": dict(sum((count.verdicts for count in counted), Counter()).most_common()),
        "truncated": sum(count.truncated for count in counted),
        "cost": _cost(counted, lines),
        "machine": _machine(lines),
        "errata": {
            count.puzzle: "private" if own_set["private"] else errata[count.puzzle]
            for count in everything
            if count.puzzle in errata
        },
        "per_puzzle": {count.puzzle: [count.samples, count.accepted] for count in everything},
    }  # fmt: skip
    return {**_harness_shape(own, len(everything), len(counted)), "selfplay": own}


def score_block(counts: Sequence[PuzzleCount], ks: Sequence[int]) -> dict[str, Any]:
    """pass@k of some puzzles: mean, 95 % interval, standard error, smallest detectable difference."""
    samples, accepted = _arrays(counts)
    block = {}
    for k in ks:
        values_P = pass_at_k(samples, accepted, k)
        score = interval(values_P)
        block[f"pass@{k}"] = {
            "value": score.value,
            "low": score.low,
            "high": score.high,
            "standard_error": float(values_P.std(ddof=1) / math.sqrt(len(values_P))) if len(values_P) > 1 else None,
            "detectable_difference": finite(detectable_difference(samples, accepted, k)),
        }
    return block


def _triples(block: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: [score["value"], score["low"], score["high"]] for name, score in block.items()}


def finite(value: float) -> float | None:
    """The value, or None if it is infinite, because JSON has no infinity."""
    return value if math.isfinite(value) else None


def _arrays(counts: Sequence[PuzzleCount]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.array([count.samples for count in counts]), np.array([count.accepted for count in counts])


def _mean_pass(counts: Sequence[PuzzleCount], k: int) -> float:
    return float(pass_at_k(*_arrays(counts), k).mean())


def _by_seed(lines: Sequence[Line]) -> dict[int, list[Line]]:
    by_seed: dict[int, list[Line]] = {}
    for line in lines:
        by_seed.setdefault(line["identity"]["seed"][0], []).append(line)
    return by_seed


def _by_group(counts: Sequence[PuzzleCount], kind: str, ks: Sequence[int]) -> dict[str, Any]:
    members: dict[str, list[PuzzleCount]] = {}
    for count in counts:
        for group in count.groups(kind):
            members.setdefault(group, []).append(count)
    return {
        group: {
            "puzzles": len(some),
            "solved": sum(count.accepted > 0 for count in some),
            **_triples(score_block(some, ks)),
        }
        for group, some in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    }  # fmt: skip


def _cost(counts: Sequence[PuzzleCount], lines: Sequence[Line]) -> dict[str, Any]:
    solved = sum(count.accepted > 0 for count in counts)
    tokens = sum(result["tokens"] for line in lines for result in line["results"])
    sampling, judging = (sum(line["times"][f"{name}_seconds"] for line in lines) for name in ("sampling", "judging"))
    return {
        "tokens": tokens,
        "tokens_per_solved_puzzle": round(tokens / solved) if solved and "tokens" not in not_told(lines) else None,
        "sampling_seconds": round(sampling, 2),
        "judging_seconds": round(judging, 2),
        "seconds_per_solved_puzzle": round((sampling + judging) / solved, 3) if solved else None,
    }


def _machine(lines: Sequence[Line]) -> dict[str, int]:
    again = sum(line["times"].get("asked_again", 0) for line in lines)
    counts = {name: sum(line["times"][name] for line in lines) for name in ("retried", "judged_again", "changed")}
    return counts | ({"asked_again": again} if again else {})


def _harness_shape(own: Mapping[str, Any], original: int, effective: int) -> dict[str, Any]:
    """The keys of lm-evaluation-harness (its `lm_eval/result_schema.py`, 0.4.13), so that its tools read ours."""
    task, model, settings = own["set"]["name"], own["model"], own["settings"]
    metrics: dict[str, Any] = {"alias": task}
    for name, score in own["scores"].items():
        error = score["standard_error"]
        metrics |= {f"{name},none": score["value"], f"{name}_stderr,none": "N/A" if error is None else error}
    kwargs = {"do_sample": settings["temperature"] > 0, "max_gen_toks": settings["max_tokens"]}
    kwargs |= {name: settings[name] for name in ("temperature", "top_p")}
    return {
        "results": {task: metrics},
        "group_subtasks": {task: []},
        "configs": {
            task: {
                "task": task, "dataset_path": own["set"]["path"], "output_type": "generate_until",
                "num_fewshot": len(own["shots"]), "repeats": settings["samples_per_puzzle"],
                "generation_kwargs": kwargs, "metadata": {"version": own["set"]["hash"]},
            }
        },
        "versions": {task: own["set"]["hash"]},
        "n-shot": {task: len(own["shots"])},
        "higher_is_better": {task: dict.fromkeys(own["scores"], True)},
        "n-samples": {task: {"original": original, "effective": effective}},
        "config": {
            "model": "hf", "model_args": f"pretrained={model['path']},dtype={model['dtype']}",
            "batch_size": settings["batch_rows"], "device": model["device"], "gen_kwargs": kwargs,
            "random_seed": settings["seeds"][0],
        },
        "git_hash": None,
        "date": own["started"],
        "transformers_version": own["versions"].get("transformers"),
        "model_source": "hf",
        "model_name": model["path"],
        "model_name_sanitized": re.sub(r"[^A-Za-z0-9_.-]+", "__", model["path"]),
        "task_hashes": {task: own["prompts_hash"]},
        "total_evaluation_time_seconds": str(own["cost"]["sampling_seconds"] + own["cost"]["judging_seconds"]),
    }  # fmt: skip


def write(folder: Path, content: Mapping[str, Any], lines: Sequence[Line] = ()) -> None:
    """Write `results.json`, `results.md` and `model-index.yaml`. Each is replaced as a whole. The lines tell rules."""
    from selfplay.scoring.tables import Told, result_tables, told_by

    told = Told(rules=told_by(content["selfplay"], lines).rules)  # a file that is published names no puzzle
    write_atomically(folder / RESULTS, json.dumps(content, indent=1) + "\n")
    write_atomically(folder / TABLES, result_tables(content["selfplay"], told))
    write_atomically(folder / CARD, model_index(content["selfplay"]))


def model_index(own: Mapping[str, Any]) -> str:
    """The metadata block of a model card, in YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    settings, chosen = own["settings"], own["set"]
    results = [
        EvalResult(
            task_type="text-generation", dataset_type="programming-puzzles", dataset_name=chosen["name"],
            dataset_revision=chosen["hash"], metric_type=name, metric_value=round(score["value"], 4), metric_name=name,
            metric_args={
                "interval_95": [round(score["low"], 4), round(score["high"], 4)],
                "puzzles": len(own["per_puzzle"]) - len(own["errata"]),
                "protocol": own["protocol"], "samples_per_puzzle": settings["samples_per_puzzle"],
                "temperature": settings["temperature"], "top_p": settings["top_p"],
            },
        )
        for name, score in own["scores"].items()
    ]  # fmt: skip
    return f"{ModelCardData(model_name=Path(own['model']['path']).name, eval_results=results).to_yaml()}\n"


def read(place: str | Path) -> dict[str, Any]:
    """The content of a `results.json`, given the file or its folder.

    Raises:
        InputError: There is no such file, or it is not a valid result of `selfplay bench`.
    """
    path = Path(place) / RESULTS if Path(place).is_dir() else Path(place)
    if not path.exists():
        raise InputError(f"{place}: expected a folder that `selfplay bench` wrote, there is no {RESULTS}")
    content: dict[str, Any] = read_json(path, expected=f"a {RESULTS} of `selfplay bench`")
    own = content.get("selfplay") if isinstance(content, dict) else None
    if not isinstance(own, dict) or own.get("schema") != SCHEMA_VERSION:
        found = own.get("schema") if isinstance(own, dict) else "none"
        raise InputError(f"{path}: expected results of schema {SCHEMA_VERSION} under 'selfplay', found {found}")
    if missing := {*FACTS, *COMPUTED} - set(own) - {*LATER}:
        raise InputError(f"{path}: expected the key {min(missing)!r} under 'selfplay', it is missing")
    expect(own, _schema()["properties"]["selfplay"], f"{path}, selfplay")
    expect(own, _READ, f"{path}, selfplay")
    tries = own["settings"]["samples_per_puzzle"] * len(own["settings"]["seeds"])
    for puzzle, (samples, accepted) in own["per_puzzle"].items():
        if samples != tries or accepted > samples:
            found = f"{accepted} accepted of {samples}"
            raise InputError(f"{path}: expected {tries} candidates of {puzzle} under 'per_puzzle', got {found}")
    if own["settings"]["k"] != (ks := [int(name[5:]) for name in own["scores"]]) or not 0 < max(ks, default=0) <= tries:
        raise InputError(f"{path}: expected scores for each k of the settings, got {', '.join(own['scores'])}")
    return content


@functools.cache
def _schema() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (resources.files("selfplay.scoring") / "results.schema.json").read_text("utf-8")
    )
    return content


def pack(folder: Path, lines: Sequence[Line]) -> None:
    """Write all chunks to `samples.jsonl.gz`, a line for each sample. Equal chunks make equal files."""
    with file_atomically(folder / SAMPLES) as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for line in lines:
            for sample in sample_lines(line):
                file.write(json.dumps(sample).encode("ascii") + b"\n")


OF_A_PUZZLE = ("puzzle", "name", "answer_type", "skills", "difficulty")
"""Facts about its puzzle in the line of a sample."""


def sample_lines(line: Line) -> Iterator[dict[str, Any]]:
    """The samples of a chunk, each with the facts about its puzzle.

    The first one also has the rest of the chunk, under `chunk`: how it was sampled, and what it cost.
    """
    chunk: dict[str, Any] | None = {key: value for key, value in line.items() if key != "results"}
    assert chunk is not None
    chunk["results"] = [{key: each[key] for key in ("puzzle", "tokens", "truncated")} for each in line["results"]]
    for result in line["results"]:
        texts, details = result["texts"], result["details"]
        for number, verdict in enumerate(result["verdicts"]):
            yield {
                **{key: result[key] for key in OF_A_PUZZLE}, "seed": line["identity"]["seed"][0], "sample": number,
                "verdict": verdict, "detail": details[number] if details else None,
                "text": texts[number] if texts else None, "chunk": chunk,
            }  # fmt: skip
            chunk = None


def unpack(folder: Path) -> list[Line]:
    """All chunks that `pack` wrote; none if there is no file. Older versions wrote a line for each chunk.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / SAMPLES
    return [*_chunks(path)] if path.exists() else []


def _chunks(path: Path) -> Iterator[Line]:
    expected = "the samples of a benchmark"
    lines = (
        (f"{path}, line {number}", parse_json(text, f"{path}, line {number}", expected))
        for number, text in enumerate(lines_of(path, expected), 1)
    )
    for where, first in lines:
        if isinstance(first, dict) and "identity" in first:
            yield _checked(first, where)
            continue
        expect(first, _FIRST_SAMPLE, where)
        chunk, asked = first["chunk"], first["chunk"]["identity"]["samples_per_puzzle"]
        whole = len(chunk["results"]) * asked
        samples = [first]
        for place, sample in itertools.islice(lines, whole - 1):
            expect(sample, _SAMPLE, place)
            samples.append(sample)
        if len(samples) < whole:
            raise InputError(f"{where}: expected {whole} samples of its chunk from here on, got {len(samples)}")
        yield _checked({**chunk, "results": [
            _result(part, samples[number * asked : (number + 1) * asked], where)
            for number, part in enumerate(chunk["results"])
        ]}, where)  # fmt: skip


def _result(part: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """The part of a chunk for one puzzle, from the lines of its samples."""
    facts = {key: samples[0][key] for key in OF_A_PUZZLE} | {"puzzle": part["puzzle"]}
    for number, sample in enumerate(samples):
        if sample["sample"] != number or {key: sample[key] for key in OF_A_PUZZLE} != facts:
            found = f"sample {sample['sample']} of {shown(sample['puzzle'])}"
            raise InputError(f"{where}: expected sample {number} of {shown(part['puzzle'])} in its chunk, got {found}")
    columns = {
        name: [] if None in (values := [sample[key] for sample in samples]) else values
        for name, key in (("texts", "text"), ("details", "detail"))
    }
    return {**facts, **part, "verdicts": [sample["verdict"] for sample in samples], **columns}


def _checked(line: Line, where: str) -> Line:
    expect_chunk(line, where)
    expect(line["times"], _MACHINE, f"{where}, times")
    return line


_SAMPLE = an_object(
    ["seed", "chunk"], puzzle=TEXT, name=TEXT, answer_type=TEXT, skills=TEXTS,
    difficulty={"type": ["integer", "null"]}, seed=NATURAL, sample=NATURAL, verdict=TEXT,
    detail={"type": ["string", "null"]}, text={"type": ["string", "null"]}, chunk=ANY,
)  # fmt: skip
"""JSON shape of a line of `samples.jsonl.gz`."""
_CHUNK = an_object(
    identity=an_object(samples_per_puzzle={"type": "integer", "minimum": 1}),
    results=a_list(an_object(puzzle=TEXT, tokens=NATURAL, truncated=NATURAL), 1),
)
_FIRST_SAMPLE = {**_SAMPLE, "properties": {**_SAMPLE["properties"], "chunk": _CHUNK}}
_READ = an_object(
    limits=an_object(cpu_seconds=NUMBER), sandbox=an_object(tier=TEXT), versions=an_object(transformers=TEXT)
)
"""Keys that are read from objects that the schema leaves open."""
_MACHINE = an_object(["asked_again"], retried=NATURAL, judged_again=NATURAL, changed=NATURAL, asked_again=NATURAL)


FACTS = (
    "set", "model", "protocol", "protocol_from", "prompt_format", "shots", "shots_refused", "prompts_hash", "settings",
    "limits", "worlds", "sandbox", "versions", "contamination", "started",
)  # fmt: skip
"""Keys under `selfplay` that are not computed from the samples."""
LATER = ("worlds", "prompt_format")
"""Those that results of older versions lack."""
COMPUTED = (
    "scores", "scores_unseen", "solved", "by", "verdicts", "truncated", "cost", "machine", "errata", "per_puzzle",
)  # fmt: skip
"""Keys under `selfplay` that are computed from the samples."""
