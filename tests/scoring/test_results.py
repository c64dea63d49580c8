"""What a benchmark leaves: results.json, samples.jsonl.gz, results.md and model-index.yaml."""

import contextlib
import copy
import gzip
import json
import platform
import re
from collections import Counter
from math import comb, sqrt
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import jsonschema
import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from scripted import NAMES, PUZZLES, Model, N, records, score, write_set

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import InputError
from puzzles.verify import truth_pool
from sandbox.result import Limits
from selfplay.benchmark import bench as bench_module
from selfplay.benchmark.contamination import near_training, set_guard
from selfplay.benchmark.sets import scored_set
from selfplay.sampling.prompts import PromptFormat
from selfplay.sampling.sampler import Completion, Sampled
from selfplay.scoring import results
from selfplay.scoring.metrics import interval
from selfplay.scoring.results import CARD, RESULTS, TABLES
from selfplay.scoring.tables import Told, result_tables, told_by

SCHEMA = json.loads((Path(results.__file__).parent / "results.schema.json").read_text())
COUNTS = dict(zip(NAMES, [6, 3, 1, 0, 2, 0, 0], strict=True))
FILES = {"results.json", "samples.jsonl.gz", "results.md", "model-index.yaml", "lock"}


def by_seed(name, seed):
    """Counts that differ from seed to seed."""
    return (3 * NAMES.index(name) + 2 * seed) % (N + 1) if name not in ("upper", "pair") else 0


@pytest.fixture(scope="module")
def own_set(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "own.jsonl")


@pytest.fixture(scope="module")
def benched(pool, own_set, tmp_path_factory):
    """A finished benchmark of two seeds; not to be written into."""
    folder = tmp_path_factory.mktemp("benched")
    score(pool, Model(by_seed), own_set, folder, seeds=(4, 1))
    return folder


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


def content_of(folder):
    return json.loads((Path(folder) / "results.json").read_text(), parse_constant=no_constant)


def lines_of(folder):
    return results.unpack(Path(folder))


def files_of(folder):
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def untimed(folder):
    """Results and samples without what may differ between two runs of the same benchmark."""
    content = content_of(folder)
    del content["date"], content["total_evaluation_time_seconds"]
    for key in ("cost", "machine", "started"):
        del content["selfplay"][key]
    return content, [{key: value for key, value in line.items() if key != "times"} for line in lines_of(folder)]


# ---- the schema ----


def closed_objects(value, schema, path=()):
    """Paths into `value` of every object whose keys the schema lists, with those that it requires."""
    if isinstance(value, dict):
        if "required" in schema:
            yield path, schema["required"]
        patterns = schema.get("patternProperties", {})
        for key, below in value.items():
            other = next((patterns[pattern] for pattern in patterns if re.search(pattern, key)), None)
            if other is None and isinstance(schema.get("additionalProperties"), dict):
                other = schema["additionalProperties"]
            yield from closed_objects(below, schema.get("properties", {}).get(key, other or {}), (*path, key))


def at(content, path):
    for key in path:
        content = content[key]
    return content


def is_valid(content):
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(content)


def test_results_follow_the_schema(benched):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(content_of(benched), SCHEMA)


def test_the_schema_refuses_a_key_too_many_or_too_few_wherever_it_lists_them(benched):
    content = content_of(benched)
    objects = list(closed_objects(content, SCHEMA))
    assert {path[1] for path, _ in objects if len(path) > 1} == {
        "set",
        "model",
        "prompt_format",
        "settings",
        "scores",
        "by",
        "cost",
        "machine",
    }
    for path, required in objects:
        spoiled = copy.deepcopy(content)
        at(spoiled, path)["extra"] = {}
        assert not is_valid(spoiled), path
        for key in required:
            spoiled = copy.deepcopy(content)
            del at(spoiled, path)[key]
            assert not is_valid(spoiled), (path, key)


def test_the_schema_describes_every_key():
    def undescribed(schema, path=()):
        for key, below in schema.get("properties", {}).items():
            if "description" not in below:
                yield (*path, key)
            yield from undescribed(below, (*path, key))

    assert list(undescribed(SCHEMA)) == []


@pytest.mark.parametrize(
    ("kept", "counts", "nulls"),
    [
        (3, {}, {"tokens_per_solved_puzzle", "seconds_per_solved_puzzle", "detectable_difference"}),
        (1, {"thirds": 2}, {"standard_error", "detectable_difference"}),
    ],
    ids=["nothing solved", "one puzzle"],
)
def test_what_cannot_be_said_of_few_puzzles_is_null_and_the_files_are_still_whole(pool, tmp_path, kept, counts, nulls):
    puzzles = write_set(tmp_path / "few.jsonl", records(PUZZLES[:kept]))
    score(pool, Model(counts), puzzles, tmp_path / "out")
    content = content_of(tmp_path / "out")
    jsonschema.validate(content, SCHEMA)
    own = content["selfplay"]
    assert {
        key for part in (own["cost"], own["scores"]["pass@1"]) for key, value in part.items() if value is None
    } == nulls
    for name in ("results.md", "model-index.yaml"):
        assert not re.search(r"\b(inf|nan|None)\b", (tmp_path / "out" / name).read_text()), name
    if "standard_error" in nulls:
        assert content["results"]["few"]["pass@1_stderr,none"] == "N/A"


# ---- the numbers, a second time ----


def counted(lines):
    """[n, c] by puzzle."""
    counts: dict[str, list[int]] = {}
    for result in (result for line in lines for result in line["results"]):
        entry = counts.setdefault(result["puzzle"], [0, 0])
        entry[0] += len(result["verdicts"])
        entry[1] += result["verdicts"].count("accepted")
    return counts


def passes(counts, k):
    return [1 - comb(n - c, k) / comb(n, k) for n, c in counts.values()]


def test_scores_are_those_of_the_samples_counted_by_another_hand(benched):
    own, lines = content_of(benched)["selfplay"], lines_of(benched)
    counts = counted(lines)
    assert own["per_puzzle"] == counts
    assert [*own["per_puzzle"]] == [*counts], "in the set's order"
    assert {n for n, _ in counts.values()} == {2 * N}, "seeds pool their candidates"
    assert [*own["scores"]] == ["pass@1", "pass@2", f"pass@{N}"]
    for name, stored in own["scores"].items():
        k = int(name[5:])
        values = passes(counts, k)
        assert stored["value"] == pytest.approx(mean(values))
        assert stored["standard_error"] == pytest.approx(stdev(values) / sqrt(len(values)))
        assert (stored["low"], stored["high"]) == pytest.approx((interval(values).low, interval(values).high))
        for seed, value in zip((4, 1), stored["by_seed"], strict=True):
            alone = counted(line for line in lines if line["identity"]["seed"][0] == seed)
            assert {n for n, _ in alone.values()} == {N}
            assert value == pytest.approx(mean(passes(alone, k)))
    assert own["scores"]["pass@1"]["by_seed"][0] != own["scores"]["pass@1"]["by_seed"][1]
    assert own["solved"] == sum(c > 0 for _, c in counts.values())
    every = [result for line in lines for result in line["results"]]
    assert own["verdicts"] == Counter(verdict for result in every for verdict in result["verdicts"])
    assert own["truncated"] == sum(result["truncated"] for result in every) > 0
    assert own["cost"]["tokens"] == sum(result["tokens"] for result in every)
    assert own["cost"]["tokens_per_solved_puzzle"] == round(own["cost"]["tokens"] / own["solved"])


def test_the_script_is_followed(benched, own_set, pool):
    by_name = {item.name: item.puzzle.id for item in scored_set(pool, str(own_set)).named}
    expected = {by_name[name]: [2 * N, by_seed(name, 4) + by_seed(name, 1)] for name in NAMES}
    assert content_of(benched)["selfplay"]["per_puzzle"] == expected


def test_groups_are_scored_by_skill_answer_type_and_difficulty(benched, own_set, pool):
    own = content_of(benched)["selfplay"]
    ids = {item.name: item.puzzle.id for item in scored_set(pool, str(own_set)).named}
    types = {name: re.search(r": ([\w\[\], ]+)[,)]", text)[1] for name, text, *_ in PUZZLES} | {"square": "int"}
    members = {"skill": {}, "answer_type": {}, "difficulty": {}}
    for name, _, _, skills, difficulty in PUZZLES:
        for kind, groups in (
            ("skill", skills), ("answer_type", [types[name]]), ("difficulty", [difficulty] if difficulty else []),
        ):  # fmt: skip
            for group in groups:
                members[kind].setdefault(str(group), []).append(ids[name])
    assert {kind: set(groups) for kind, groups in own["by"].items()} == {
        kind: set(groups) for kind, groups in members.items()
    }
    for kind, groups in members.items():
        sizes = [group["puzzles"] for group in own["by"][kind].values()]
        assert sizes == sorted(sizes, reverse=True), "the largest first"
        for group, puzzles in groups.items():
            counts = {puzzle: own["per_puzzle"][puzzle] for puzzle in puzzles}
            expected = {"puzzles": len(puzzles), "solved": sum(c > 0 for _, c in counts.values())}
            for k in (1, 2, N):
                values = passes(counts, k)
                expected[f"pass@{k}"] = pytest.approx([mean(values), interval(values).low, interval(values).high])
            assert own["by"][kind][group] == expected, group


# ---- lm-evaluation-harness ----


def harness_rows(content):
    """The rows that `make_table` of lm-evaluation-harness 0.4 prints, from the keys that it reads."""
    for task, metrics in content["results"].items():
        entries = dict(metrics)
        first = [entries.pop("alias", task), content["versions"].get(task, "N/A")]
        for key in sorted(entries):
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr"):
                continue
            error = entries[f"{metric}_stderr,{filtered}"]
            higher = content["higher_is_better"][task][metric]
            shown = error if error == "N/A" else f"{error:.4f}"
            yield [*first, filtered, str(content["n-shot"][task]), metric, higher, f"{entries[key]:.4f}", shown]
            first = ["", ""]


def test_tools_of_the_harness_find_what_they_read(pool, own_set, tmp_path):
    score(pool, Model(COUNTS), own_set, tmp_path)
    content = content_of(tmp_path)
    chosen, scores = content["selfplay"]["set"], content["selfplay"]["scores"]
    p1, p2, p6 = (scores[f"pass@{k}"] for k in (1, 2, N))
    assert list(harness_rows(content)) == [
        ["own", chosen["hash"], "none", "0", "pass@1", True, f"{p1['value']:.4f}", f"{p1['standard_error']:.4f}"],
        ["", "", "none", "0", "pass@2", True, f"{p2['value']:.4f}", f"{p2['standard_error']:.4f}"],
        ["", "", "none", "0", "pass@6", True, f"{p6['value']:.4f}", f"{p6['standard_error']:.4f}"],
    ]
    own = content.pop("selfplay")
    kwargs = {"do_sample": True, "max_gen_toks": 20, "temperature": 0.8, "top_p": 1.0}
    assert content == {
        "results": {
            "own": {
                "alias": "own",
                "pass@1,none": p1["value"], "pass@1_stderr,none": p1["standard_error"],
                "pass@2,none": p2["value"], "pass@2_stderr,none": p2["standard_error"],
                "pass@6,none": p6["value"], "pass@6_stderr,none": p6["standard_error"],
            }
        },
        "group_subtasks": {"own": []},
        "configs": {
            "own": {
                "task": "own", "dataset_path": str(own_set), "output_type": "generate_until", "num_fewshot": 0,
                "repeats": N, "generation_kwargs": kwargs, "metadata": {"version": chosen["hash"]},
            }
        },
        "versions": {"own": chosen["hash"]},
        "n-shot": {"own": 0},
        "higher_is_better": {"own": {"pass@1": True, "pass@2": True, "pass@6": True}},
        "n-samples": {"own": {"original": 7, "effective": 7}},
        "config": {
            "model": "hf", "model_args": "pretrained=some/model,dtype=float32", "batch_size": 128, "device": "cpu",
            "gen_kwargs": kwargs, "random_seed": 0,
        },
        "git_hash": None,
        "date": own["started"],
        "transformers_version": "5.0",
        "model_source": "hf",
        "model_name": "some/model",
        "model_name_sanitized": "some__model",
        "task_hashes": {"own": own["prompts_hash"]},
        "total_evaluation_time_seconds": str(own["cost"]["sampling_seconds"] + own["cost"]["judging_seconds"]),
    }  # fmt: skip
    assert p1["value"] == pytest.approx((6 + 3 + 1 + 0 + 2 + 0 + 0) / 42)


# ---- facts ----


def test_what_the_scores_depend_on_is_kept(pool, own_set, tmp_path):
    content = score(pool, Model(COUNTS), own_set, tmp_path, seeds=(2,), protections={"tier": "B", "layers": {}})
    own = content["selfplay"]
    assert {key: own[key] for key in results.FACTS if key in own and key not in ("prompts_hash", "started")} == {
        "set": {
            "name": "own", "path": str(own_set), "private": False, "hash": own["set"]["hash"],
            "puzzles": 7, "in_file": 7,
            "references": {"accepted": 7, "none": 0, "refused": {}},
        },
        "model": {
            "path": "some/model", "checkpoint": "0123456789abcdef", "device": "cpu", "dtype": "float32", "threads": 1,
        },
        "protocol": "plain",
        "protocol_from": "option",
        "prompt_format": {
            "protocol": "plain", "system": "", "propose": "{header}", "solve": "{puzzle}\n\n{header}",
            "shots_as_turns": False, "modules": [], "hash": PromptFormat("plain").hash,
        },
        "shots": [],
        "shots_refused": {},
        "settings": {
            "samples_per_puzzle": N, "k": (1, 2, N), "temperature": 0.8, "top_p": 1.0, "max_tokens": 20, "seeds": [2],
            "batch_rows": 128,
        },
        "limits": vars(pool.limits),
        "worlds": pool.seed,
        "sandbox": {"tier": "B", "layers": {}},
        "versions": {"torch": "2.0", "transformers": "5.0", "python": platform.python_version()},
        "contamination": None,
    }  # fmt: skip


@pytest.mark.slow
def test_the_prompts_hash_is_that_of_the_prompts_whatever_is_drawn_from_them(pool, own_set, tmp_path, monkeypatch):
    hashes = [
        score(pool, Model({}), own_set, tmp_path / name, **more)["selfplay"]["prompts_hash"]
        for name, more in (("a", {}), ("b", {"samples_per_puzzle": 3, "k": (1,)}), ("c", {"seeds": (0, 1)}))
    ]
    monkeypatch.setattr(bench_module, "CHUNK_TEXTS", 1)
    hashes.append(score(pool, Model({}), own_set, tmp_path / "d")["selfplay"]["prompts_hash"])
    assert len(set(hashes)) == 1
    assert score(pool, Model({}), own_set, tmp_path / "e", protocol="chat")["selfplay"]["prompts_hash"] != hashes[0]


# ---- tables and cards ----


def test_the_table_is_that_of_the_results(benched):
    own = content_of(benched)["selfplay"]
    assert (benched / "results.md").read_text() == result_tables(
        own, Told(rules=told_by(own, results.unpack(benched)).rules)
    )
    assert {file.name for file in benched.iterdir()} == FILES


def test_the_card_is_what_the_hub_reads(pool, own_set, tmp_path):
    own = score(pool, Model(COUNTS), own_set, tmp_path, path="runs/one/checkpoints/iteration-003")["selfplay"]
    card = yaml.safe_load((tmp_path / "model-index.yaml").read_text())

    def metric(name):
        value = own["scores"][name]
        return {
            "type": name, "name": name, "value": round(value["value"], 4),
            "args": {
                "interval_95": [round(value["low"], 4), round(value["high"], 4)], "puzzles": 7, "protocol": "plain",
                "samples_per_puzzle": N, "temperature": 0.8, "top_p": 1.0,
            },
        }  # fmt: skip

    assert card == {
        "model-index": [
            {
                "name": "iteration-003",
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"type": "programming-puzzles", "name": "own", "revision": own["set"]["hash"]},
                        "metrics": [metric(f"pass@{k}") for k in (1, 2, N)],
                    }
                ],
            }
        ]
    }
    name, found = model_index_to_eval_results(card["model-index"])
    assert name == "iteration-003"
    assert [(one.metric_type, one.metric_value, one.dataset_name) for one in found] == [
        (f"pass@{k}", round(own["scores"][f"pass@{k}"]["value"], 4), "own") for k in (1, 2, N)
    ]


def test_no_text_or_name_of_a_puzzle_is_in_what_may_be_published(pool, tmp_path, monkeypatch):
    private = [{**record, "name": f"secret-{record['name']}"} for record in records()]
    private.append(
        {
            "name": "secret-refused",
            "puzzle": "def f(zebra: int):\n    return zebra == 81",
            "solution": "def g():\n    return 1",
        }
    )
    puzzles = write_set(tmp_path / "private.jsonl", private)
    model = Model(COUNTS, more=[("refused", "def f(zebra: int):\n    return zebra == 81", "81", [], 1)])
    shown = [
        ("def f(q: int):\n    return q + 18 == 230", "def g():\n    return 212"),
        (PUZZLES[0][1], "def g():\n    return 17"),
    ]
    monkeypatch.setattr(bench_module, "training_pairs", lambda pool: pairs_of(pool, shown))
    own = score(pool, model, puzzles, tmp_path / "out", protocol="few-shot", shots=1)["selfplay"]
    assert len(own["set"]["references"]["refused"]) == len(own["shots"]) == 1
    assert len(own["shots_refused"]) == 1, "the shorter pair comes first, and is in the set"
    parts = [line.strip() for _, text, *_ in model.known for line in text.splitlines()]
    for name in ("results.json", "results.md", "model-index.yaml"):
        text = (tmp_path / "out" / name).read_text()
        assert "secret" not in text, name
        assert "zebra" not in text, name
        assert not [part for part in parts if part in text or json.dumps(part)[1:-1] in text], name
        assert not [answer for _, _, answer, *_ in PUZZLES if len(answer) > 4 and answer in text], name


def pairs_of(pool, texts):
    puzzles = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in texts])
    return list(zip(puzzles, parse_candidates(pool, [Text(solution) for _, solution in texts]), strict=True))


# ---- samples ----


def test_what_is_packed_comes_out_again_and_equal_lines_are_equal_bytes(tmp_path):
    result = {
        "name": "é\ud800\n", "puzzle": "p", "answer_type": "int", "skills": [], "difficulty": None, "details": [],
        "texts": ["é\ud800\n", "x" * 9999], "verdicts": ["accepted"] * 2, "tokens": 3, "truncated": 0,
    }  # fmt: skip
    identity = {"chunk": 0, "seed": [0, 0], "settings": {"batch_rows": 8}, "samples_per_puzzle": 2}
    times = {"sampling_seconds": 1, "judging_seconds": 1, "retried": 0, "judged_again": 0, "changed": 0}
    line = {"identity": identity, "sampler": {}, "times": times, "results": [result]}
    lines = [{**line, "n": number} for number in range(3)]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.pack(tmp_path / name, lines)
    assert results.unpack(tmp_path / "one") == lines
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["samples.jsonl.gz"]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert results.unpack(tmp_path) == [], "there is none"


def test_a_line_of_the_samples_is_one_sample_with_its_puzzle_and_verdict(benched):
    with gzip.open(benched / "samples.jsonl.gz", "rt") as file:
        samples = [json.loads(line) for line in file]
    chunks = results.unpack(benched)
    expected = [
        (result["puzzle"], result["name"], line["identity"]["seed"][0], number, text, verdict, detail)
        for line in chunks
        for result in line["results"]
        for number, (text, verdict, detail) in enumerate(
            zip(result["texts"], result["verdicts"], result["details"], strict=True)
        )
    ]
    keys = ("puzzle", "name", "seed", "sample", "text", "verdict", "detail")
    assert [tuple(sample[key] for key in keys) for sample in samples] == expected
    assert {frozenset(sample) for sample in samples} == {
        frozenset({*keys, "answer_type", "skills", "difficulty", "chunk"})
    }
    assert sum(sample["chunk"] is not None for sample in samples) == len(chunks)


def test_samples_of_older_versions_which_have_a_line_for_each_chunk_are_read(benched, tmp_path):
    lines = results.unpack(benched)
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress(whole))
    assert results.unpack(tmp_path) == lines


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-1], "samples of its chunk from here on, got "),
        (lambda lines: [lines[0], *lines[2:]], "expected sample 1 of "),
        (lambda lines: lines[1:], "expected an object under 'chunk', got None"),
        (lambda lines: [lines[0], {**lines[1], "name": "other"}, *lines[2:]], "expected sample 1 of "),
        (lambda lines: [lines[0], {**lines[1], "verdict": None}, *lines[2:]], "expected a text under 'verdict'"),
    ],
    ids=["cut", "one missing", "no chunk", "renamed", "no verdict"],
)
def test_samples_that_are_not_whole_chunks_are_refused(benched, tmp_path, change, told):
    with gzip.open(benched / "samples.jsonl.gz", "rt") as file:
        lines = change([json.loads(line) for line in file])
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(x) + "\n" for x in lines).encode()))
    with pytest.raises(InputError, match="samples.jsonl.gz, line .*" + told):
        results.unpack(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"no gzip at all",
        lambda whole: whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        lambda whole: gzip.compress(b"{}\nnot JSON\n"),
        lambda whole: gzip.compress(b"[1, 2]\n"),
        lambda whole: gzip.compress('{"é": 1}\n'.encode()),
    ],
    ids=["cut", "other", "flipped", "lines", "lists", "letters"],
)
def test_damaged_samples_are_named(benched, tmp_path, spoil):
    (tmp_path / "samples.jsonl.gz").write_bytes(spoil((benched / "samples.jsonl.gz").read_bytes()))
    with pytest.raises(InputError, match=r"samples\.jsonl\.gz(, line 1)?: expected "):
        results.unpack(tmp_path)


# ---- resuming ----


def test_a_benchmark_interrupted_twice_ends_as_one_that_was_not(pool, own_set, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_module, "CHUNK_TEXTS", 3 * N)  # three puzzles a chunk, three chunks a seed
    score(pool, Model(by_seed), own_set, tmp_path / "whole", seeds=(0, 1))
    for chunk, left in ((2, {"samples-0.jsonl"}), (4, {"samples-0.jsonl", "samples-1.jsonl"})):
        model = Model(by_seed)
        model.stop_at = chunk
        with pytest.raises(KeyboardInterrupt):
            score(pool, model, own_set, tmp_path / "cut", seeds=(0, 1))
        assert {file.name for file in (tmp_path / "cut").iterdir()} == {*left, "lock"}
    last = Model(by_seed)
    score(pool, last, own_set, tmp_path / "cut", seeds=(0, 1))
    assert last.calls == 6 - 1 - 3
    assert untimed(tmp_path / "cut") == untimed(tmp_path / "whole")
    assert {file.name for file in (tmp_path / "cut").iterdir()} == FILES


def test_a_finished_benchmark_samples_nothing(pool, own_set, benched, tmp_path):
    score(pool, Model(by_seed), own_set, tmp_path, seeds=(4, 1))
    before = files_of(tmp_path)
    model = Model(by_seed)
    score(pool, model, own_set, tmp_path, seeds=(4, 1))
    assert model.calls == 0
    assert files_of(tmp_path)["samples.jsonl.gz"] == before["samples.jsonl.gz"]
    assert untimed(tmp_path) == untimed(benched)


def test_another_seed_is_added_to_a_finished_benchmark(pool, own_set, benched, tmp_path):
    score(pool, Model(by_seed), own_set, tmp_path, seeds=(4,))
    model = Model(by_seed)
    score(pool, model, own_set, tmp_path, seeds=(4, 1))
    assert model.calls == 1
    assert untimed(tmp_path) == untimed(benched)


class Silent(Model):
    """A model behind a server that tells neither tokens nor ends, and is not sent a temperature."""

    description = {**Model.description, "proof": "skipped", "left_out": ["temperature"], "renamed": {"seed": "random"}}

    def sample(self, *arguments):
        sampled = super().sample(*arguments)
        silent_P_K = [[Completion(each.text, None, None) for each in row] for row in sampled.completions_P_K]
        return Sampled(silent_P_K, 0, sampled.batch_rows, prompts_not_told=3, asked_again=2)


def test_what_a_server_did_not_tell_and_was_not_sent_is_in_the_results(pool, own_set, tmp_path):
    own = score(pool, Silent(COUNTS), own_set, tmp_path)["selfplay"]
    jsonschema.validate(content_of(tmp_path), SCHEMA)
    everything = len(NAMES) * N
    assert own["not_told"] == {"tokens": everything, "prompt_tokens": 3, "ends": everything}
    assert (own["truncated"], own["cost"]["tokens"], own["cost"]["tokens_per_solved_puzzle"]) == (0, 0, None)
    assert own["machine"]["asked_again"] == 2
    assert {key: own["model"][key] for key in ("proof", "left_out", "renamed")} == {
        "proof": "skipped", "left_out": ["temperature"], "renamed": {"seed": "random"}
    }  # fmt: skip
    assert sum(own["verdicts"].values()) == everything
    tables = (tmp_path / TABLES).read_text()
    for line in (
        "not sent to the server: temperature", "sent under another name: seed as random",
        "right weights: skipped", f"not told by the server: tokens in {everything}, prompt tokens in 3, ends in",
        "requests sent again after a failure: 2",
    ):  # fmt: skip
        assert line in tables


@pytest.mark.parametrize("begins", ["sent", "not sent"])
def test_samples_of_servers_that_were_sent_other_settings_are_not_mixed(pool, own_set, tmp_path, begins):
    first, second = (Silent(COUNTS), Model(COUNTS)) if begins == "not sent" else (Model(COUNTS), Silent(COUNTS))
    score(pool, first, own_set, tmp_path)
    with pytest.raises(InputError, match="it holds results with another left_out"):
        score(pool, second, own_set, tmp_path)


OTHERS = {
    "checkpoint": {"model": Model(by_seed, checkpoint="f" * 16)},
    "seed": {"seeds": (5,)},
    "protocol": {"protocol": "chat"},
    "settings": {"temperature": 0.7},
    "samples_per_puzzle": {"samples_per_puzzle": N + 1},
    "puzzles": {"puzzles": records(PUZZLES[1:])},
    "prompts": {"puzzles": [{**record, "puzzle": record["puzzle"].replace("x", "y")} for record in records()]},
    "limits": {"limits": Limits(cpu_seconds=2.0)},
}  # fmt: skip


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize("key", OTHERS)
def test_a_folder_of_another_benchmark_is_refused_by_name_and_left_as_it_was(
    pool, own_set, tmp_path, monkeypatch, key, finished
):
    monkeypatch.setattr(bench_module, "CHUNK_TEXTS", 4 * N + 3)
    folder, first = tmp_path / "out", Model(by_seed)
    first.stop_at = None if finished else 2
    with pytest.raises(KeyboardInterrupt) if not finished else contextlib.nullcontext():
        score(pool, first, own_set, folder, seeds=(4,))
    before = files_of(folder)
    changes = dict(OTHERS[key])
    puzzles = write_set(tmp_path / "own.jsonl", changes.pop("puzzles")) if "puzzles" in changes else own_set
    model = changes.pop("model", Model(by_seed))
    if key == "seed" and not finished:
        return  # each seed has its own file, and nothing of the other's is used
    limits = changes.pop("limits", None)
    with (
        truth_pool(limits, lanes=1) if limits else contextlib.nullcontext(pool) as judge,
        pytest.raises(
            InputError, match=f"^{re.escape(str(folder))}: it holds results with (another|more) {key} .*move it away"
        ),
    ):
        score(judge, model, puzzles, folder, **{"seeds": (4,), **changes})
    assert model.calls == 0
    assert {**files_of(folder), "lock": b""} == {**before, "lock": b""}


# ---- sets ----


def test_of_several_instances_of_a_problem_the_first_is_scored(pool, tmp_path):
    names = ["Twice:0", "Twice:1", "Other:7", "a:b", "Twice", "Other:3", "a:c"]
    lines = [{**record, "name": name} for record, name in zip(records(), names, strict=True)]
    chosen = scored_set(pool, str(write_set(tmp_path / "p3.jsonl", lines)))
    assert [item.name for item in chosen.named] == ["Twice:0", "Other:7", "a:b", "Twice", "a:c"]
    assert (chosen.facts["puzzles"], chosen.facts["in_file"]) == (5, 7)
    assert chosen.facts["references"] == {"accepted": 5, "none": 0, "refused": {}}


def test_absolute_zeros_tasks_are_scored_as_the_puzzles_they_make(pool, tmp_path):
    task = {"name": "doubled", "snippet": "def f(a):\n    return a * 2", "input": "21", "output": "42", "imports": []}
    chosen = scored_set(pool, str(write_set(tmp_path / "azr.jsonl", [task])))
    assert [(item.name, item.puzzle.answer_type) for item in chosen.named] == [("doubled", "int")]
    assert chosen.facts["references"] == {"accepted": 1, "none": 0, "refused": {}}


def test_different_puzzles_of_one_name_are_all_scored(pool, tmp_path):
    lines = [{**record, "name": "puzzle"} for record in records()]
    chosen = scored_set(pool, str(write_set(tmp_path / "set.jsonl", lines)))
    assert [item.puzzle.source for item in chosen.named] == [puzzle for _, puzzle, *_ in PUZZLES]


def test_puzzles_of_one_normal_form_are_scored_once(pool, tmp_path):
    renamed = "def f(answer: int):\n    # the same\n    return (3 * answer) == 51"
    lines = [*records()[:2], {"name": "again", "puzzle": renamed}, *records()[2:]]
    chosen = scored_set(pool, str(write_set(tmp_path / "set.jsonl", lines)))
    assert [item.name for item in chosen.named] == NAMES
    assert (chosen.facts["puzzles"], chosen.facts["in_file"]) == (7, 8)
    assert chosen.facts["hash"] == scored_set(pool, str(write_set(tmp_path / "own.jsonl"))).facts["hash"]


def test_p3s_own_format_is_scored_by_module_and_first_instance(pool, tmp_path):
    items = [
        {
            "name": f"{name}:{number}", "sat": text.replace("def f", "def sat"), "sol_header": "def sol():",
            "sol_bodies": [f"    return {answer}"], "module": module,
        }
        for (_, text, answer, *_), name, number, module in zip(
            PUZZLES, "AABBCCD", (0, 1, 0, 1, 5, 0, 0), ("a.py", "a.py", "b.py", "b.py", "b.py", "b.py", None),
            strict=True,
        )
    ]  # fmt: skip
    (tmp_path / "p3.json").write_text(json.dumps(items))
    own = score(pool, Model(COUNTS), tmp_path / "p3.json", tmp_path / "out")["selfplay"]
    assert (own["set"]["puzzles"], own["set"]["in_file"], own["set"]["references"]["accepted"]) == (4, 7, 4)
    assert {skill: group["puzzles"] for skill, group in own["by"]["skill"].items()} == {"b": 2, "a": 1}
    assert "the first of each problem (3 more in the file)" in (tmp_path / "out" / "results.md").read_text()


def test_the_sets_own_solutions_are_judged_and_counted(pool, tmp_path):
    lines = records()
    del lines[0]["solution"]
    lines[1]["solution"] = "def g():\n    return 41"
    lines[2]["solution"] = "def g() return"
    del lines[3]["solution"]
    lines[3]["solutions"] = ["def g():\n    return 0", "def g():\n    return 523"]
    lines[4]["solution"] = "def g():\n    while True: pass"
    chosen = scored_set(pool, str(write_set(tmp_path / "set.jsonl", lines)))
    ids = [item.puzzle.id for item in chosen.named]
    assert chosen.facts["references"] == {
        "accepted": 3,
        "none": 1,
        "refused": {ids[1]: "wrong_answer", ids[2]: "invalid_solution", ids[4]: "time_limit"},
    }


# ---- protocols and shots ----

SHOWN = [
    ("def f(q: int):\n    return q + 18 == 230", "def g():\n    return 212"),
    ("def f(s: str):\n    return s[::-1] == 'tower'", "def g():\n    return 'rewot'"),
    ("def f(v: List[int]):\n    return max(v) - min(v) == 5 and len(v) == 2", "def g():\n    return [0, 5]"),
]


def test_the_protocol_saved_with_a_checkpoint_is_used_with_its_own_shots(pool, own_set, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_module, "training_pairs", lambda pool: pytest.fail("the saved ones are taken"))
    model = Model(COUNTS, notes={"protocol": "few-shot", "shots": [list(SHOWN[1]), list(SHOWN[0])]})
    own = score(pool, model, own_set, tmp_path, protocol="auto", shots=5)["selfplay"]
    assert (own["protocol"], own["protocol_from"]) == ("few-shot", "saved with the checkpoint")
    assert own["shots"] == [puzzle.id for puzzle, _ in pairs_of(pool, [SHOWN[1], SHOWN[0]])]
    before = "".join(f"{puzzle}\n\n{solution}\n\n\n" for puzzle, solution in (SHOWN[1], SHOWN[0]))
    assert model.prompts == [f"{before}{text}\n\n{header(text)}" for _, text, *_ in PUZZLES]


def header(text):
    return "def g(k=1764):" if "k=1764" in text else "def g():"


ASKING = PromptFormat("chat", system="You write Python.", solve="{puzzle}\nWrite g.", shots_as_turns=True)


@pytest.mark.parametrize("shown", [[], [list(SHOWN[0])]], ids=["none", "one"])
def test_the_templates_saved_with_a_checkpoint_are_used_and_said_so(pool, own_set, tmp_path, shown, monkeypatch):
    monkeypatch.setattr(bench_module, "training_pairs", lambda pool: [])
    model = Model(COUNTS, notes={"protocol": "chat", "prompt_format": ASKING.to_json(), "shots": shown})
    own = score(pool, model, own_set, tmp_path, protocol="auto", shots=0)["selfplay"]
    assert own["prompt_format"] == ASKING.to_json()
    assert len(own["shots"]) == len(shown)
    assert model.prompts == [f"{text}\nWrite g." for _, text, *_ in PUZZLES]
    said = f"- protocol chat (saved with the checkpoint), prompts {ASKING.hash}, {len(shown)} shots"
    assert said in (tmp_path / "results.md").read_text()


def test_a_template_that_is_given_goes_before_the_checkpoints_own(pool, own_set, tmp_path):
    model = Model(COUNTS, notes={"protocol": "chat", "prompt_format": ASKING.to_json()})
    given = {"protocol": "auto", "shots": 0, "solve": "Write g for {puzzle}"}
    own = score(pool, model, own_set, tmp_path, **given)["selfplay"]
    assert own["prompt_format"]["solve"] == "Write g for {puzzle}"
    assert (own["prompt_format"]["system"], own["prompt_format"]["shots_as_turns"]) == ("You write Python.", True)
    assert model.prompts == [f"Write g for {text}" for _, text, *_ in PUZZLES]
    with pytest.raises(InputError, match="holds results with another prompt_format_hash"):
        score(pool, model, own_set, tmp_path, protocol="auto", shots=0)


def test_results_of_an_untrained_model_that_chats_can_be_read_again(pool, own_set, tmp_path):
    model = Model(COUNTS)
    model.tokenizer = SimpleNamespace(chat_template="{{ messages }}")
    own = score(pool, model, own_set, tmp_path, protocol="auto", shots=0)["selfplay"]
    assert own["protocol_from"] == "the model has a chat template"
    assert results.read(tmp_path)["selfplay"]["prompt_format"]["shots_as_turns"] is True


@pytest.mark.parametrize("notes", [{"protocol": "plain"}, {"protocol": "chat"}])
def test_the_protocol_saved_with_a_checkpoint_is_used(pool, own_set, tmp_path, notes):
    model = Model(COUNTS, notes=notes)
    own = score(pool, model, own_set, tmp_path, protocol="auto")["selfplay"]
    assert (own["protocol"], own["protocol_from"], own["shots"]) == (notes["protocol"], "saved with the checkpoint", [])
    assert all(prompt.startswith("def f(") == (notes["protocol"] == "plain") for prompt in model.prompts)
    assert own["verdicts"]["accepted"] == sum(COUNTS.values())


def test_without_a_saved_protocol_it_is_few_shot_with_the_best_training_pairs(pool, own_set, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_module, "training_pairs", lambda pool: pairs_of(pool, SHOWN))
    model = Model(COUNTS)
    own = score(pool, model, own_set, tmp_path, protocol="auto", shots=2)["selfplay"]
    assert (own["protocol"], own["protocol_from"], own["shots_refused"]) == ("few-shot", "default", {})
    assert own["shots"] == [puzzle.id for puzzle, _ in pairs_of(pool, SHOWN[:2])], "the shortest of different types"
    assert all(prompt.startswith(SHOWN[0][0]) for prompt in model.prompts)


def test_an_option_outdoes_what_was_saved(pool, own_set, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_module, "training_pairs", lambda pool: pairs_of(pool, SHOWN))
    model = Model(COUNTS, notes={"protocol": "chat", "shots": [list(SHOWN[2])]})
    own = score(pool, model, own_set, tmp_path, protocol="few-shot", shots=1)["selfplay"]
    assert (own["protocol"], own["protocol_from"]) == ("few-shot", "option")
    assert own["shots"] == [puzzle.id for puzzle, _ in pairs_of(pool, SHOWN[:1])]


def test_pairs_too_near_to_the_set_are_not_shown_and_said_so(pool, own_set, tmp_path, monkeypatch):
    constants = ("def f(x: int):\n    return 4 * x == 68", "def g():\n    return 17")
    same = ("def f(word: str):\n    return word.count('a') == 4 and len(word) == 9", "def g():\n    return 'aaaabbbbb'")
    shown = [constants, same, SHOWN[0], SHOWN[2]]
    monkeypatch.setattr(bench_module, "training_pairs", lambda pool: pairs_of(pool, shown))
    model = Model(COUNTS)
    own = score(pool, model, own_set, tmp_path, protocol="few-shot", shots=2)["selfplay"]
    ids = [puzzle.id for puzzle, _ in pairs_of(pool, shown)]
    thirds, letters = (item.puzzle.id for item in scored_set(pool, str(own_set)).named[0:3:2])
    assert own["shots_refused"] == {
        ids[0]: f"normal_form: {thirds} with other constants", ids[1]: f"normal_form: {letters} with other names",
    }  # fmt: skip
    assert set(own["shots"]) == set(ids[2:])
    assert not any("68" in prompt or "word" in prompt for prompt in model.prompts)
    table = (tmp_path / "results.md").read_text()
    assert f"- shot {ids[0]} was refused: normal_form: {thirds} with other constants\n" in table


def test_too_few_pairs_to_be_shown_are_refused_before_anything_is_sampled(pool, own_set, tmp_path, monkeypatch):
    monkeypatch.setattr(
        bench_module,
        "training_pairs",
        lambda pool: pairs_of(pool, [*SHOWN[:1], (PUZZLES[0][1], "def g():\n    return 17")]),
    )
    model = Model(COUNTS)
    with pytest.raises(
        InputError, match=r"own\.jsonl: expected 2 pairs to show before its puzzles, got 1: 1 of 2 are in "
    ):
        score(pool, model, own_set, tmp_path / "out", protocol="few-shot", shots=2)
    assert model.calls == 0
    assert not (tmp_path / "out").exists()


# ---- what the model was trained on ----


def test_scored_puzzles_near_what_the_model_was_trained_on_are_listed_with_the_scores_without_them(pool, tmp_path):
    private = [{**record, "name": f"secret-{record['name']}"} for record in records()]
    seen = [
        {"name": "a", "puzzle": "def f(q: int):\n    return 9 * q == 153"},
        {"name": "b", "puzzle": PUZZLES[2][1].replace("(s:", "(word:").replace("s.count", "word.count")},
        {"name": "c", "puzzle": "def f(s: str):\n    return len(s) == 41 and s[0] == s[1] == 'y'"},
    ]
    seen[1]["puzzle"] = seen[1]["puzzle"].replace("len(s)", "len(word)")
    training = write_set(tmp_path / "training.jsonl", seen)
    puzzles = write_set(tmp_path / "own.jsonl", private)
    own = score(pool, Model(COUNTS), puzzles, tmp_path / "out", trained_on=str(training))["selfplay"]
    jsonschema.validate(content_of(tmp_path / "out"), SCHEMA)
    thirds, letters = [*own["per_puzzle"]][0:3:2]
    assert (own["contamination"]["trained_on"], own["contamination"]["puzzles"]) == (str(training), 3)
    assert set(own["contamination"]["near"]) == {thirds, letters}
    unseen = {puzzle: counts for puzzle, counts in own["per_puzzle"].items() if puzzle not in (thirds, letters)}
    for k in (1, 2, N):
        values = passes(unseen, k)
        expected = [mean(values), interval(values).low, interval(values).high]
        assert own["scores_unseen"][f"pass@{k}"] == pytest.approx(expected)
        assert own["scores"][f"pass@{k}"]["value"] == pytest.approx(mean(passes(own["per_puzzle"], k)))
    for name in ("results.json", "results.md"):
        assert "secret" not in (tmp_path / "out" / name).read_text()


def test_training_puzzles_near_none_of_the_set_are_said_to_be_so(pool, own_set, tmp_path):
    training = write_set(
        tmp_path / "training.jsonl", [{"name": "c", "puzzle": "def f(s: str):\n    return s == 'y' * 8"}]
    )
    own = score(pool, Model(COUNTS), own_set, tmp_path / "out", trained_on=str(training))["selfplay"]
    assert own["contamination"] == {"trained_on": str(training), "puzzles": 1, "near": {}}
    assert own["scores_unseen"] is None
    jsonschema.validate(content_of(tmp_path / "out"), SCHEMA)


def test_a_training_file_without_puzzles_is_refused(pool, own_set, tmp_path):
    training = write_set(tmp_path / "training.jsonl", [])
    with pytest.raises(
        InputError, match=r"training\.jsonl: expected the puzzles that the model was trained on, got none"
    ):
        score(pool, Model(COUNTS), own_set, tmp_path / "out", trained_on=str(training))


def test_a_training_puzzle_may_be_near_several_scored_ones(pool, tmp_path):
    texts = [
        "def f(x: int):\n    return x * x == 18671041 and x > 0",
        "def f(x: int):\n    return 0 < x and str(x)[::-1] == '1234'",
        "def f(x: int):\n    return x - 4000 == 321",
    ]
    lines = [{"name": str(n), "puzzle": text, "solution": "def g():\n    return 4321"} for n, text in enumerate(texts)]
    puzzles, training = write_set(tmp_path / "set.jsonl", lines[:2]), write_set(tmp_path / "training.jsonl", lines[2:])
    chosen = scored_set(pool, str(puzzles))
    near = near_training(pool, chosen, set_guard(pool, chosen), "model", training)["near"]
    assert set(near) == {item.puzzle.id for item in chosen.named}


def test_a_private_set_shows_nothing_of_its_puzzles_but_ids(pool, tmp_path):
    lines = [{**record, "name": f"secret name {i}", "skills": ["secret skill"]} for i, record in enumerate(records())]
    puzzles = write_set(tmp_path / "set.jsonl", lines)
    ids = [item.puzzle.id for item in scored_set(pool, str(puzzles)).named]
    errata = tmp_path / "errata.toml"
    errata.write_text(f"[[erratum]]\npuzzle = '{ids[0]}'\nreason = 'secret reason'\n")
    own = score(pool, Model(COUNTS), puzzles, tmp_path / "out", private=True, errata=str(errata))["selfplay"]
    published = "".join((tmp_path / "out" / name).read_text() for name in (RESULTS, TABLES, CARD))
    assert ids[1] in published
    assert "secret" not in published
    assert all(answer_type not in published for answer_type in ("List[int]", "Tuple[int, int]"))
    assert own["errata"] == {ids[0]: "private"}
    card = yaml.safe_load((tmp_path / "out" / "model-index.yaml").read_text())
    (scored,) = {metric["args"]["puzzles"] for metric in card["model-index"][0]["results"][0]["metrics"]}
    assert scored == len(ids) - 1


def test_a_slower_way_of_sampling_stands_in_the_results_and_the_tables(pool, own_set, tmp_path):
    model = Model(COUNTS)
    model.description = {**model.description, "engine": "generate", "engine_reason": "its texts would be others"}
    own = score(pool, model, own_set, tmp_path / "slow")["selfplay"]
    assert (own["model"]["engine"], own["model"]["engine_reason"]) == ("generate", "its texts would be others")
    jsonschema.validate(results.read(tmp_path / "slow"), SCHEMA)
    assert "- sampled in a slower way, generate: its texts would be others\n" in result_tables(own)
    usual = score(pool, Model(COUNTS), own_set, tmp_path / "usual")["selfplay"]
    assert not {"engine", "engine_reason"} & usual["model"].keys()
    assert "slower way" not in result_tables(usual)
