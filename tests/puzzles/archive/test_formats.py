import gzip
import io
import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from places import P3, ROOT

from puzzles.archive.catalogue import stats
from puzzles.archive.formats import (
    FORMATS,
    ImportReport,
    RawPair,
    import_puzzles,
    open_text,
    read_errata,
    read_pairs,
    read_puzzles,
    with_header,
)
from puzzles.archive.store import Archive
from puzzles.guard import Guard
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError, RawPuzzle
from puzzles.verify import truth_pool, verify_texts
from sandbox.result import Limits

needs_p3 = pytest.mark.skipif(not P3.is_dir(), reason="P3's data is not there")

PUZZLE = "def f(x: int):\n    return x * x == 1764 and x > 0"
SOLUTION = "def g():\n    return 42"
PROTECTIONS = {"tier": "A"}


@pytest.fixture
def write(tmp_path):
    def write_(content: str | bytes, name: str = "puzzles.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write_


@pytest.fixture
def archive(tmp_path):
    with Archive(tmp_path / "archive.sqlite", create=True) as archive:
        yield archive


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def problem(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- our JSONL ----


def test_a_jsonl_line_is_a_puzzle_with_all_it_says(write):
    record = {"name": "n", "puzzle": PUZZLE, "solution": SOLUTION, "skills": ["bits"], "difficulty": 3, "other": [1]}
    assert read_puzzles(write(lines(record))) == [RawPuzzle("n", PUZZLE, (SOLUTION,), ("bits",), 3)]


def test_a_puzzle_needs_no_solution_and_may_have_several(write):
    path = write(
        lines({"name": "none", "puzzle": "p"}, {"name": "null", "puzzle": "p", "solution": None})
        + "\n  \n"
        + lines(
            {"name": "many", "puzzle": "p", "solutions": ["a", "b"]}, {"name": "empty", "puzzle": "p", "solutions": []}
        )
    )
    assert {raw.name: raw.solutions for raw in read_puzzles(path)} == {
        "none": (),
        "null": (),
        "many": ("a", "b"),
        "empty": (),
    }


def test_a_puzzle_is_called_by_its_name_its_id_or_its_place(write):
    path = write(lines({"puzzle": "p", "name": "a", "id": "b"}, {"puzzle": "p", "id": 7}, {"puzzle": "p"}))
    assert [raw.name for raw in read_puzzles(path)] == ["a", "7", f"{path}, line 3"]


def test_separators_that_are_no_newlines_do_not_end_a_line(write):
    text = "def f(x: str):\n    return x == 'a\u2028b\x85c\x0cd'"
    path = write(json.dumps({"name": "n", "puzzle": text}, ensure_ascii=False) + "\r\n")
    assert [raw.puzzle for raw in read_puzzles(path)] == [text]


def test_an_empty_file_has_no_puzzles(write):
    assert read_puzzles(write("")) == []


def test_gzipped_lines_read_like_plain_ones(write):
    content = lines({"name": "ü", "puzzle": PUZZLE, "solution": SOLUTION}, {"name": "b", "puzzle": "p"})
    plain, packed = write(content), write(gzip.compress(content.encode()), "puzzles.jsonl.gz")
    assert read_puzzles(packed) == read_puzzles(plain)
    assert len(read_puzzles(packed)) == 2


@pytest.mark.parametrize("name", ["train", "dev", "heldout"])
def test_an_embedded_set_goes_by_its_name(name):
    assert read_puzzles(name) == read_puzzles(ROOT / "puzzles" / f"{name}.jsonl")


# ---- P3 ----


def test_p3s_array_is_read_with_header_and_bodies_joined(write):
    records = [
        {"name": "A:0", "sat": "def sat(x: int):\n    return x == 3", "sol_header": "def sol(n=3):",
         "sol_bodies": ["    return n", "    return 3"], "ans_type": "int", "weight": 1.0, "module": "study.py"},
        {"name": "B:0", "sat": "def sat(x: int):\n    return x == 4", "module": ["no", "text"]},
        {"sat": "def sat(x: int):\n    return x == 5", "sol_bodies": ["    return 5"]},
    ]  # fmt: skip
    path = write(" \n" + json.dumps(records, indent=1))
    expected = [
        RawPuzzle("A:0", records[0]["sat"], ("def sol(n=3):\n    return n", "def sol(n=3):\n    return 3"), ("study",)),
        RawPuzzle("B:0", records[1]["sat"]),
        RawPuzzle(f"{path}, item 2", records[2]["sat"], ("def sol():\n    return 5",)),
    ]
    assert read_puzzles(path) == read_puzzles(path, "p3") == expected


# ---- ACES ----

PROGRAM = f"from typing import *\n{PUZZLE}\n{SOLUTION}\nassert f(g()) == True"


def attempt(solution: str) -> str:
    return f"from typing import *\n{PUZZLE}\n{solution}\n\nassert f(g()) == True\nassert f(g()) == True"


def test_acess_programs_are_taken_apart_into_a_puzzle_and_its_solutions(write):
    search = "import itertools\ndef g():\n    return next(x for x in itertools.count() if f(x))"
    record = {
        "program_str": PROGRAM, "all_solution": [attempt(SOLUTION), attempt(search)],
        "all_solution_correct": [True, False], "unique_id": "P3_train-7", "fitness": -0.5,
    }  # fmt: skip
    expected = RawPuzzle("P3_train-7", f"from typing import *\n{PUZZLE}", (SOLUTION, SOLUTION, search))
    assert read_puzzles(write(json.dumps([record]))) == [expected]
    assert read_puzzles(write(lines(record)), "aces") == [expected]


def test_acess_labels_decide_nothing(write, pool, archive):
    attempts = [attempt(f"def g():\n    return {answer}") for answer in ("41", "6 * 7", "42)\n<|assistant|>")]
    record = {"program_str": PROGRAM, "all_solution": attempts, "all_solution_correct": [True, False, True]}
    report = import_puzzles(archive, pool, PROTECTIONS, read_puzzles(write(json.dumps([record]))))
    assert report.puzzles == {"new": 1}
    assert report.solutions == {"new": 2, "wrong_answer": 1, "invalid_solution (syntax)": 1}


def test_an_attempt_that_changes_the_puzzle_is_judged_by_the_puzzle_as_it_was(write, pool, archive):
    easier = "def f(x: int):\n    return True\ndef g():\n    return 3\nassert f(g()) == True"
    record = {"program_str": PROGRAM, "all_solution": [easier]}
    report = import_puzzles(archive, pool, PROTECTIONS, read_puzzles(write(json.dumps([record]))))
    assert report.solutions == {"new": 1, "wrong_answer": 1}


def test_an_aces_program_without_a_solution_is_a_puzzle_alone(write):
    records = [{"program_str": f"{PUZZLE}\n\nassert f(g()) == True\n"}, {"program_str": PUZZLE, "all_solution": None}]
    assert [(raw.puzzle, raw.solutions) for raw in read_puzzles(write(json.dumps(records)))] == [(PUZZLE, ())] * 2


@pytest.mark.parametrize(
    ("bits", "skills"),
    [
        ([1, 0, 0, 0, 1] + [0] * 15, ("string manipulation", "brute force search")),
        ([0] * 19 + [1], ("hashing",)),
        ([0] * 20, ()),
        ([1] * 19, ()),
        ([0, 4], ()),
        (None, ()),
    ],
    ids=str,
)
def test_acess_twenty_bits_are_skills_and_other_descriptors_are_not(write, bits, skills):
    assert [raw.skills for raw in read_puzzles(write(lines({"program_str": PROGRAM, "emb": bits})))] == [skills]


def test_an_aces_puzzle_is_called_by_its_unique_id_its_id_or_its_place(write):
    record = {"program_str": PROGRAM}
    path = write(json.dumps([record | {"unique_id": "a", "id": 1}, record | {"id": 7}, record]))
    assert [raw.name for raw in read_puzzles(path)] == ["a", "7", f"{path}, item 2"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_acess_pickles_are_named_and_never_loaded(write, protocol):
    path = write(pickle.dumps([{"program_str": PROGRAM}], protocol), "generation_3.pkl")
    assert problem(read_puzzles, path) == (
        f"{path}: expected UTF-8 text, got a pickle, which may run anything when loaded: write its objects as JSON"
    )


# ---- Absolute Zero ----

TASK = {"snippet": "def f(a, b):\n    return a * b[::-1]", "input": "2, 'ab'", "output": "'baba'", "imports": []}


def imported(pool, archive, path) -> tuple[ImportReport, list[tuple[str, ...]]]:
    report = import_puzzles(archive, pool, PROTECTIONS, read_puzzles(path))
    return report, [tuple(row) for row in archive.query("SELECT puzzle, solution, answer FROM pairs")]


def test_an_absolute_zero_task_asks_for_an_input_with_its_output(write, pool, archive):
    task = {
        "snippet": "import math\ndef f(n):\n    return n if n < 2 else f(n - 1) + math.floor(n)", "input": "5",
        "output": "15", "imports": ["import math"], "original_snippet": "", "composite_functions": [], "thought": "",
    }  # fmt: skip
    report, pairs = imported(pool, archive, write(lines(task)))
    puzzle = (
        "import math\n\ndef f_(n):\n    return n if n < 2 else f_(n - 1) + math.floor(n)\n\n"
        "def f(x: int):\n    return f_(x) == 15"
    )
    assert pairs == [(puzzle, "def g():\n    return 5", "5")]
    assert report.puzzles == report.solutions == {"new": 1}


def test_several_arguments_are_one_tuple(write, pool, archive):
    _, pairs = imported(pool, archive, write(lines(TASK)))
    puzzle = "def f_(a, b):\n    return a * b[::-1]\n\ndef f(x: Tuple[int, str]):\n    return f_(*x) == 'baba'"
    assert pairs == [(puzzle, "def g():\n    return (2, 'ab')", "(2, 'ab')")]


def test_a_recorded_input_without_the_recorded_output_is_refused(write, pool, archive):
    path = write(lines(TASK | {"output": "'abab'"}, TASK | {"snippet": "def f(a, b):\n    return id(object())"}))
    report, pairs = imported(pool, archive, path)
    assert pairs == []
    assert report.solutions == {"wrong_answer": 2}


INDUCTION = {"snippet": "def f(a):\n    return a", "inputs": ["1"], "outputs": ["1"], "message": "m", "imports": []}


def test_what_makes_no_puzzle_is_refused_with_a_reason(write, pool, archive):
    path = write(lines(INDUCTION, TASK | {"output": "ValueError"}, TASK | {"input": "[1, 'a'], 'ab'"}, TASK))
    report, _ = imported(pool, archive, path)
    assert report.puzzles == {"no_input": 1, "no_literal": 1, "answer_type": 1, "new": 1}
    assert report.examples == {
        ("puzzle", "no_input"): f"{path}, line 1: an abduction task has one input and its output",
        ("puzzle", "no_literal"): f"{path}, line 2: the output 'ValueError' is no literal",
        ("puzzle", "answer_type"): f"{path}, line 3: the input: [1, 'a'] are not of one type",
    }


# ---- which format ----

RECORDS = {
    "jsonl": {"puzzle": PUZZLE, "solution": SOLUTION}, "p3": {"sat": PUZZLE, "sol_bodies": ["    return 42"]},
    "aces": {"program_str": PROGRAM}, "azr": TASK,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("written", [lines, lambda *records: json.dumps(records)], ids=["lines", "array"])
def test_a_format_is_known_by_the_keys_of_its_first_object(write, name, written):
    path = write(written(RECORDS[name], RECORDS[name]))
    assert len(read_puzzles(path)) == 2
    assert read_puzzles(path) == read_puzzles(path, name)


@pytest.mark.parametrize(
    ("content", "place", "came"),
    [
        (lines({"question": "q", "answer": "a"}), "line 1", '["question", "answer"]'),
        ("[{}]", "item 0", "[]"),
    ],
    ids=["unknown", "empty"],
)
def test_a_format_that_its_first_object_does_not_tell_is_asked_for(write, content, place, came):
    path = write(content)
    assert problem(read_puzzles, path) == (
        f"{path}, {place}: expected one of the keys 'puzzle' (jsonl), 'sat' (p3), 'program_str' (aces), "
        f"'snippet' (azr), got {came}"
    )


def test_an_object_of_ours_may_have_other_keys_too(write):
    path = write(lines(RECORDS["azr"] | RECORDS["jsonl"]))
    assert read_puzzles(path) == read_puzzles(path, "jsonl")


def test_an_object_of_another_format_than_the_first_is_named(write):
    path = write(lines(RECORDS["aces"], RECORDS["azr"]))
    assert problem(read_puzzles, path) == f"{path}, line 2: expected a text under 'program_str', it is missing"


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("aces", {"program_str": 3}, "expected a text under 'program_str', got 3"),
        ("aces", {"all_solution": "s"}, "expected a list of texts under 'all_solution', got \"s\""),
        ("aces", {"all_solution": [1]}, "expected a list of texts under 'all_solution', got [1]"),
        ("azr", {"snippet": None}, "expected a text under 'snippet', got null"),
        ("azr", {"input": 3}, "expected a text under 'input', got 3"),
        ("azr", {"output": None}, "expected a text under 'output', got null"),
        ("azr", {"imports": "import math"}, "expected a list of texts under 'imports', got \"import math\""),
    ],
    ids=str,
)
def test_a_malformed_object_is_named_by_file_and_place(write, name, fields, expected):
    path = write(lines(RECORDS[name], RECORDS[name] | fields))
    assert problem(read_puzzles, path) == f"{path}, line 2: {expected}"


# ---- malformed puzzle files ----


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{oops", "expected one JSON object, Expecting property name"),
        ('{"puzzle": "p"} {}', "expected one JSON object, Extra data"),
        ('"text"', "expected a JSON object, got '\"text\"'"),
        ("[1, 2]", "expected a JSON object, got '[1, 2]'"),
        ("null", "expected a JSON object, got 'null'"),
        ("{}", "expected a text under 'puzzle', it is missing"),
        ('{"sat": "p"}', "expected a text under 'puzzle', it is missing"),
        ('{"puzzle": 3}', "expected a text under 'puzzle', got 3"),
        ('{"puzzle": null}', "expected a text under 'puzzle', got null"),
        ('{"puzzle": "p", "solution": ["s"]}', "expected a text under 'solution', got [\"s\"]"),
        ('{"puzzle": "p", "solutions": "s"}', "expected a list of texts under 'solutions'"),
        ('{"puzzle": "p", "solutions": [1]}', "expected a list of texts under 'solutions'"),
        ('{"puzzle": "p", "solutions": null}', "expected a list of texts under 'solutions'"),
        ('{"puzzle": "p", "skills": "bits"}', "expected a list of texts under 'skills', got \"bits\""),
        ('{"puzzle": "p", "difficulty": 1.5}', "expected an integer under 'difficulty', got 1.5"),
        ('{"puzzle": "p", "difficulty": true}', "expected an integer under 'difficulty', got true"),
        ("[" * 100_000, "expected one JSON object, "),
        ('{"puzzle": ' + "1" * 5000 + "}", "expected one JSON object, "),
    ],
    ids=lambda text: text[:40],
)
def test_a_malformed_line_is_named_by_file_and_number(write, line, expected):
    path = write(lines({"puzzle": "p"}) + "\n" + line + "\n")
    assert problem(read_puzzles, path, "jsonl").startswith(f"{path}, line 3: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"sat": "p"}', ": expected a JSON array, Expecting ',' delimiter: line 1 column 14"),
        ('[{"sat": "p"}, 3]', ", item 1: expected a JSON object, got '3'"),
        ('[{"name": "A:0"}]', ", item 0: expected a text under 'sat', it is missing"),
        ('[{"sat": 3}]', ", item 0: expected a text under 'sat', got 3"),
        ('[{"sat": "p", "sol_header": 3}]', ", item 0: expected a text under 'sol_header' and a list of texts"),
        ('[{"sat": "p", "sol_bodies": "b"}]', ", item 0: expected a text under 'sol_header' and a list of texts"),
        ('[{"sat": "p", "sol_bodies": [3]}]', ", item 0: expected a text under 'sol_header' and a list of texts"),
        ("[" * 100_000, ": expected a JSON array, "),
    ],
    ids=lambda text: text[:40],
)
def test_a_malformed_p3_file_is_named_with_the_item(write, text, expected):
    path = write(text, "puzzles.json")
    assert problem(read_puzzles, path, "p3").startswith(f"{path}{expected}")


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "missing.jsonl"
    assert problem(read_puzzles, path) == f"{path}: No such file or directory"
    assert problem(read_puzzles, path.with_suffix(".gz")) == f"{path.with_suffix('.gz')}: No such file or directory"


@pytest.mark.parametrize("name", ["folder", "folder.gz"])
def test_a_directory_is_no_puzzle_file(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    assert problem(read_puzzles, path) == f"{path}: Is a directory"


def test_a_file_that_is_not_utf_8_is_named(write):
    path = write(b'{"puzzle": "p"}\n{"puzzle": "\xff"}\n')
    assert problem(read_puzzles, path).startswith(f"{path}, line 2: expected UTF-8 text, ")


def test_a_truncated_gzip_file_is_named(write):
    path = write(gzip.compress(lines(*({"puzzle": str(n)} for n in range(1000))).encode())[:-500], "puzzles.jsonl.gz")
    assert problem(read_puzzles, path).startswith(f"{path}: expected UTF-8 text, Compressed file ended")


def test_a_gzip_file_with_a_damaged_inside_is_named(write):
    content = bytearray(gzip.compress(lines(*({"puzzle": str(n)} for n in range(1000))).encode()))
    content[len(content) // 2 : len(content) // 2 + 50] = b"\xff" * 50
    path = write(bytes(content), "puzzles.jsonl.gz")
    assert problem(read_puzzles, path).startswith(f"{path}: ")


def test_a_plain_file_called_gz_is_named(write):
    path = write(lines({"puzzle": "p"}), "puzzles.jsonl.gz")
    assert problem(read_puzzles, path) == f"{path}: expected UTF-8 text, Not a gzipped file (b'{{\"')"


# ---- pairs to verify ----


def test_pairs_are_called_by_their_id_their_name_or_their_number():
    file = io.StringIO(
        lines(
            {"id": [1], "name": "n", "puzzle": "p", "solution": "s"},
            {"name": "n", "puzzle": "p", "solution": "s"},
            {"puzzle": "q", "solution": "t"},
        )
    )
    assert list(read_pairs(file, "stdin")) == [
        RawPair([1], "p", "s"),
        RawPair("n", "p", "s"),
        RawPair(3, "q", "t"),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{oops", "expected one JSON object, "),
        ("[]", "expected a JSON object, got '[]'"),
        ('{"solution": "s"}', "expected a text under 'puzzle', it is missing"),
        ('{"puzzle": "p"}', "expected a text under 'solution', it is missing"),
        ('{"puzzle": "p", "solution": {}}', "expected a text under 'solution', got {}"),
    ],
)
def test_a_malformed_line_is_refused_and_the_others_are_read(line, expected):
    good = lines({"puzzle": "p", "solution": "s"})
    first, refused, last = read_pairs(io.StringIO(good + line + "\n" + good), "stdin")
    assert (first, last) == (RawPair(1, "p", "s"), RawPair(3, "p", "s"))
    assert refused.id == 2
    assert refused.detail.startswith(f"stdin, line 2: {expected}")


@pytest.mark.parametrize(
    ("record", "identifier", "has_puzzle"),
    [
        ({"id": "a", "puzzle": "p", "solution": None}, "a", True),
        ({"id": "a", "puzzle": "p", "solution": ["s"]}, "a", True),
        ({"name": "n", "puzzle": None, "solution": "s"}, "n", False),
        ({"id": float("inf"), "puzzle": "p", "solution": "s"}, 1, False),
        ({"id": {"x": [float("nan")]}, "puzzle": "p", "solution": "s"}, 1, False),
    ],
)
def test_a_refused_line_keeps_its_id_if_json_can_hold_it(record, identifier, has_puzzle):
    (refused,) = read_pairs(io.StringIO(lines(record)), "stdin")
    assert (refused.id, refused.has_puzzle) == (identifier, has_puzzle)


def test_numbers_that_are_not_finite_do_no_harm_beside_the_id():
    file = io.StringIO('{"id": 1, "score": NaN, "puzzle": "p", "solution": "s"}\n')
    assert list(read_pairs(file, "stdin")) == [RawPair(1, "p", "s")]


def test_a_byte_order_mark_of_standard_input_is_no_part_of_the_first_line():
    assert list(read_pairs(io.StringIO("\ufeff" + lines({"puzzle": "p", "solution": "s"})), "stdin")) == [
        RawPair(1, "p", "s")
    ]


@pytest.mark.parametrize("text", ["[{}, 7, null, {}]", "{}\n7\nnull\n{}", '{}\n{oops\n{"puzzle": 3}\n{}'])
def test_lines_and_items_of_a_puzzle_file_are_refused_one_by_one(write, text):
    good = json.dumps({"puzzle": PUZZLE})
    path, refused = write(text.replace("{}", good).encode()), []
    assert [raw.puzzle for raw in read_puzzles(path, "auto", refused)] == [PUZZLE, PUZZLE]
    assert len(refused) == 2
    assert all(record.detail.startswith(record.where) for record in refused)
    with pytest.raises(InputError):
        read_puzzles(path)


def test_a_line_that_is_not_utf_8_is_refused_alone(write):
    good = json.dumps({"puzzle": PUZZLE}).encode()
    refused = []
    (raw,) = read_puzzles(write(b'{"puzzle": "\xe9"}\n' + good + b"\n"), "auto", refused)
    assert raw.puzzle == PUZZLE
    assert "line 1: expected UTF-8 text" in refused[0].detail


def test_a_file_of_which_no_line_can_be_read_is_refused(write):
    assert problem(read_puzzles, write(b"{oops\n7\n"), "auto", []).endswith("(char 1)")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\ufeffx = 'é'\n".encode(), "x = 'é'\n"),
        ("# coding: utf-8\r\nx = 'é'\r\n".encode(), "# coding: utf-8\nx = 'é'\n"),
        ("# -*- coding: cp1252 -*-\nx = '€'\n".encode("cp1252"), "# -*- coding: cp1252 -*-\nx = '€'\n"),
        ("#!/bin/python\n# vim: set fileencoding=koi8-r :\nx = 'ж'\n".encode("koi8-r"), None),
    ],
)
def test_a_python_file_is_read_as_python_reads_it(write, content, text):
    path = write(content, "one.py")
    (raw,) = read_puzzles(path)
    assert raw.name == "one"
    assert raw.puzzle == (text if text is not None else content.decode("koi8-r"))


@pytest.mark.parametrize(
    "content",
    [
        b"x = '\xe9'\n",
        b"# coding: nosuch\n",
        b"# coding: hex\nx = 1\n",
        b"# coding: utf-8\nx = '\xe9'\n",
        "\ufeff# coding: latin-1\n".encode(),
        "x = 1\n".encode("utf-16"),
    ],
)
def test_a_python_file_that_is_not_in_its_encoding_is_refused_in_one_line(write, content):
    path = write(content, "one.py")
    assert problem(read_puzzles, path).startswith(f"{path}: expected UTF-8 text, or a coding line")


def test_pairs_that_are_not_utf_8_are_named_with_the_place(write):
    good = lines({"puzzle": "p", "solution": "s"}).encode()
    path = write(good * 20_000 + b'{"puzzle": "\xff"}\n')
    with open_text(path) as file:
        pairs = read_pairs(file, str(path))
        assert next(pairs) == RawPair(1, "p", "s")
        assert problem(list, pairs).startswith(f"{path}, after line ")


def test_pairs_in_a_truncated_gzip_file_are_named_with_the_place(write):
    good = lines(*({"puzzle": str(n), "solution": "s"} for n in range(5000))).encode()
    path = write(gzip.compress(good)[:-500], "pairs.jsonl.gz")
    with open_text(path) as file:
        assert problem(list, read_pairs(file, str(path))).startswith(f"{path}, after line ")


CODEX_PUZZLE = "def f(x: int, k=6):\n    return x == k * 7"


@pytest.mark.parametrize(
    ("prompt", "solution", "whole"),
    [
        ("short", "k * 7", "def g(k=6):\n    return k * 7\n"),
        ("short", " 42 \n", "def g(k=6):\n    return 42\n"),
        ("med", "\n    return k * 7\n", "def g(k=6):\n    return k * 7\n"),
        ("long", " return k * 7", "def g(k=6): return k * 7"),
        ("long", '\n    """Why."""\n    return 42\n', 'def g(k=6):\n    """Why."""\n    return 42\n'),
    ],
)
def test_codexs_expressions_and_bodies_get_their_header_and_hold(pool, prompt, solution, whole):
    record = {"name": "n", "puzzle": CODEX_PUZZLE, "prompt": prompt, "solution": solution}
    (raw,) = read_pairs(io.StringIO(lines(record)), "codex.jsonl", "codex")
    (puzzle,) = parse_puzzles(pool, [Text(raw.puzzle)])
    assert (raw.id, with_header(raw, puzzle.header)) == ("n", whole)
    (judgement,) = verify_texts(pool, [(raw.puzzle, whole)])
    assert (judgement.verdict, judgement.answer) == ("accepted", "42")


def test_a_whole_solution_keeps_its_own_header():
    assert with_header(RawPair(1, PUZZLE, SOLUTION), "def g(k=6):") == SOLUTION


def test_codexs_lines_need_a_prompt():
    file = io.StringIO(lines({"puzzle": "p", "solution": "s"}))
    (refused,) = read_pairs(file, "codex.jsonl", "codex")
    assert refused.detail == "codex.jsonl, line 1: expected a text under 'prompt', it is missing"


@pytest.fixture(scope="module")
def patient_pool():
    """A sandbox for programs that work, on a machine however slow."""
    with truth_pool(Limits(cpu_seconds=20, wall_seconds=100), lanes=2) as pool:
        yield pool


@needs_p3
def test_codexs_file_reads_to_its_end_and_a_sample_of_it_holds(patient_pool):
    path = P3 / "codex_verified_train.jsonl.gz"
    with open_text(path) as file:
        pairs = list(read_pairs(file, str(path), "codex"))
    assert len(pairs) == 9384
    assert {raw.body_of for raw in pairs} == {"expression", "body"}
    sample = pairs[::400]
    puzzles = parse_puzzles(patient_pool, [Text(raw.puzzle) for raw in sample])
    texts = [(raw.puzzle, with_header(raw, puzzle.header)) for raw, puzzle in zip(sample, puzzles, strict=True)]
    verdicts = Counter(str(judgement.verdict) for judgement in verify_texts(patient_pool, texts))
    assert verdicts == {"accepted": 23, "unanswerable_value": 1}  # half a megabyte of letters, over the answer limit


# ---- errata ----

ERRATUM = '[[erratum]]\npuzzle = "0123456789abcdef"\nreason = "no answer is right"\n'


def test_the_shipped_errata_name_dev_and_held_out_puzzles(pool):
    raws = [(name, raw) for name in ("dev", "heldout") for raw in read_puzzles(name)]
    parsed = parse_puzzles(pool, [Text(raw.puzzle) for _, raw in raws])
    names = {puzzle.id: f"{name}/{raw.name}" for (name, raw), puzzle in zip(raws, parsed, strict=True)}
    assert [names[identifier] for identifier in read_errata()] == [
        reason.split()[0] for reason in read_errata().values()
    ]


def test_errata_are_reasons_by_id(write):
    path = write(ERRATUM + ERRATUM.replace("0123", "ffff").replace("no answer", "every answer"), "errata.toml")
    given = {"0123456789abcdef": "no answer is right", "ffff456789abcdef": "every answer is right"}
    assert read_errata(path) == read_errata() | given
    assert read_errata(write("# nothing\n", "empty.toml")) == read_errata()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[[erratum]", ": expected TOML, "),
        (b"\xff", ": it is not UTF-8 text: expected a TOML file"),
        ("errata = 1\n", ": expected [[erratum]] tables and nothing else, got errata"),
        ('[erratum]\npuzzle = "0123456789abcdef"\n', ": expected [[erratum]] tables and nothing else, got erratum"),
        (ERRATUM + "[other]\n", ": expected [[erratum]] tables and nothing else, got other"),
        ("erratum = [3]\n", ", erratum 1: expected `puzzle` and `reason`, got 3"),
        ("erratum = [1979-05-27]\n", ", erratum 1: expected `puzzle` and `reason`, got "),
        (ERRATUM + ERRATUM + "why = 3\n", ", erratum 2: expected `puzzle` and `reason`, got "),
        ("[[erratum]]\nwhen = 1979-05-27\n", ", erratum 1: expected `puzzle` and `reason`, got "),
        ('[[erratum]]\npuzzle = "0123456789abcdef"\n', ", erratum 1: expected a text under 'reason', it is missing"),
        ('[[erratum]]\nreason = "r"\n', ", erratum 1: expected a text under 'puzzle', it is missing"),
        (ERRATUM.replace('"no answer is right"', "7"), ", erratum 1: expected a text under 'reason', got 7"),
        (ERRATUM.replace('"no answer is right"', "1979-05-27"), ", erratum 1: expected a text under 'reason', got "),
        (ERRATUM.replace("0123", "0X23"), ", erratum 1: expected a puzzle's id, sixteen hexadecimal digits, got '0X"),
        (ERRATUM.replace("0123", "123"), ", erratum 1: expected a puzzle's id, sixteen hexadecimal digits, got '123"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_malformed_errata_are_named_by_file_and_place(write, content, expected):
    path = write(content, "errata.toml")
    assert problem(read_errata, path).startswith(f"{path}{expected}")


def test_errata_that_are_not_there_are_named(tmp_path):
    assert problem(read_errata, tmp_path / "none.toml") == (
        f"{tmp_path / 'none.toml'}: No such file or directory: expected a TOML file"
    )


# ---- importing ----

MIXED = [
    RawPuzzle("good", PUZZLE, (SOLUTION, "def sol():\n    return 6 * 7", "def g():\n    # again\n    return 42")),
    RawPuzzle("renamed", "def sat(n: int):\n    return n*n == 1764 and n > 0", ("def sol():\n    return 42",)),
    RawPuzzle("guarded", "def f(s: str):\n    return s.count('a') == 7 and len(s) == 9", ("def g(): return 7",)),
    RawPuzzle("untyped", "def f(x):\n    return x == 5", ("def g():\n    return 5", "def g():\n    return 6")),
    RawPuzzle("broken", "def f(x: int:\n    return x == 5", ("def g():\n    return 5",)),
    RawPuzzle(
        "wrongly solved",
        "def f(l: List[int], n=4):\n    return len(l) == n and sum(l) == 99",
        (
            "def g():\n    return [99]",
            "def g():\n    return (99, 0, 0, 0)",
            "def g(:\n    return",
            "def g(x):\n    return x",
            "def g():\n    return 1 / 0",
            "def g(n=4):\n    return [99] + [0] * (n - 1)",
        ),
    ),
    RawPuzzle("unsolved", "def f(d: Dict[str, int]):\n    return len(d) == 3 and set(d.values()) == {17}"),
]  # fmt: skip


@pytest.fixture
def guarded_archive(tmp_path, pool):
    (guarded,) = parse_puzzles(pool, [Text("def f(t: str):\n    return t.count('b') == 8 and len(t) == 11")])
    with Archive(tmp_path / "archive.sqlite", Guard.of([("secret", guarded)]), create=True) as archive:
        yield archive


def everything(archive: Archive) -> dict[str, list[tuple]]:
    return {
        table: [tuple(row) for row in archive.query(f"SELECT * FROM {table} ORDER BY rowid")]
        for table in ("puzzles", "solutions", "refusals", "protections")
    }


def test_an_import_counts_what_became_of_every_text(pool, guarded_archive):
    done = []
    report = import_puzzles(guarded_archive, pool, PROTECTIONS, MIXED, progress=done.append)
    assert report.puzzles == {"new": 3, "duplicate": 1, "held_out": 1, "no_annotation": 1, "syntax": 1}
    assert report.solutions == {
        "new": 3,
        "duplicate": 2,
        "of a refused puzzle": 4,
        "wrong_answer": 1,
        "wrong_type": 1,
        "runtime_error": 1,
        "invalid_solution (syntax)": 1,
        "invalid_solution (required_parameter)": 1,
    }
    assert sum(report.puzzles.values()) == sum(done) == len(MIXED)
    assert sum(report.solutions.values()) == sum(len(raw.solutions) for raw in MIXED)


def test_an_import_has_an_example_of_each_reason_to_refuse(pool, guarded_archive):
    raws = [*MIXED, RawPuzzle("second", "def f(y):\n    return y == 5")]
    examples = import_puzzles(guarded_archive, pool, PROTECTIONS, raws).examples
    assert examples == {
        ("puzzle", "held_out"): "guarded: normal_form: secret with other constants",
        ("puzzle", "no_annotation"): "untyped: 'x' has no type",
        ("puzzle", "syntax"): "broken: line 1: invalid syntax",
        ("solution", "wrong_answer"): "wrongly solved: judge: f returned False",
        ("solution", "wrong_type"): "wrongly solved: solve: (99, 0, 0, 0) is not of type List[int]",
        ("solution", "invalid_solution (syntax)"): "wrongly solved: syntax: line 1: invalid syntax",
        ("solution", "invalid_solution (required_parameter)"): (
            "wrongly solved: required_parameter: g must be callable with no arguments"
        ),
        ("solution", "runtime_error"): "wrongly solved: solve: ZeroDivisionError: division by zero",
    }


def test_an_import_keeps_what_it_took_with_its_origin(pool, guarded_archive):
    import_puzzles(guarded_archive, pool, PROTECTIONS, MIXED, origin="human")
    rows = guarded_archive.query("SELECT name, solution, answer, puzzle_origin, iteration FROM pairs ORDER BY name, 2")
    assert [tuple(row) for row in rows] == [
        ("good", "def g():\n    return 42", "42", "human", 0),
        ("good", "def g():\n    return 6 * 7", "42", "human", 0),
        ("wrongly solved", "def g(n=4):\n    return [99] + [0] * (n - 1)", "[99, 0, 0, 0]", "human", 0),
    ]
    assert [row[0] for row in guarded_archive.query("SELECT name FROM puzzles ORDER BY rowid")] == [
        "good",
        "wrongly solved",
        "unsolved",
    ]


def test_an_import_remembers_what_it_refused_and_why(pool, guarded_archive):
    import_puzzles(guarded_archive, pool, PROTECTIONS, MIXED)
    rows = [tuple(row) for row in guarded_archive.query("SELECT name, what, reason, original FROM refusals")]
    broken = MIXED[5].solutions
    assert rows == [
        ("guarded", "puzzle", "held_out", MIXED[2].puzzle),
        ("untyped", "puzzle", "no_annotation", MIXED[3].puzzle),
        ("broken", "puzzle", "syntax", MIXED[4].puzzle),
        ("wrongly solved", "solution", "wrong_answer", broken[0]),
        ("wrongly solved", "solution", "wrong_type", broken[1]),
        ("wrongly solved", "solution", "invalid_solution (syntax)", broken[2]),
        ("wrongly solved", "solution", "invalid_solution (required_parameter)", broken[3]),
        ("wrongly solved", "solution", "runtime_error", broken[4]),
    ]
    details = dict(guarded_archive.query("SELECT reason, detail FROM refusals"))
    assert details["held_out"] == "normal_form: secret with other constants"
    assert "'x' has no type" in details["no_annotation"]


def test_a_second_import_adds_nothing(pool, guarded_archive):
    import_puzzles(guarded_archive, pool, PROTECTIONS, MIXED)
    before = everything(guarded_archive)
    report = import_puzzles(guarded_archive, pool, PROTECTIONS, MIXED)
    assert everything(guarded_archive) == before
    assert report.puzzles["new"] == report.solutions["new"] == 0
    assert (report.puzzles["duplicate"], report.solutions["duplicate"]) == (4, 5)


def test_a_refused_puzzle_does_not_cost_its_namesake_the_solutions(pool, archive):
    raws = [RawPuzzle("same", "def f(x: int:", ("def g():\n    return 1",)), RawPuzzle("same", PUZZLE, (SOLUTION,))]
    report = import_puzzles(archive, pool, PROTECTIONS, raws)
    assert report.puzzles == {"syntax": 1, "new": 1}
    assert report.solutions == {"of a refused puzzle": 1, "new": 1}


def test_texts_that_are_no_unicode_are_refused_and_kept(pool, archive):
    raws = [RawPuzzle("\ud800", f"# \ud800\n{PUZZLE}"), RawPuzzle("good", PUZZLE, (f"# \udfff\n{SOLUTION}", SOLUTION))]
    report = import_puzzles(archive, pool, PROTECTIONS, raws)
    assert report.puzzles == {"syntax": 1, "new": 1}
    assert report.solutions == Counter({"invalid_solution (syntax)": 1, "new": 1})


@pytest.mark.parametrize(
    ("puzzle", "solution", "reason"),
    [
        ("def f(x: int):\n    return x > 5", "def g():\n    return 6", "trivial"),
        ("def f(b: bool):\n    return not b", "def g():\n    return False", "bool_answer"),
        ("import random\ndef f(x: int):\n    return x == 123 or not random", "def g():\n    return 123", "import"),
        ("LIMIT = 1 // 0\ndef f(x: int):\n    return x == 123 + LIMIT", "def g():\n    return 123", "does_not_load"),
        ("def f(x: int):\n    while x < 5: pass\n    return x == 123", "def g():\n    return 123", "too_slow"),
    ],
    ids=["trivial", "bool", "import", "load", "slow"],
)
def test_admission_refuses_what_is_not_fit_for_training(pool, archive, puzzle, solution, reason):
    raws = [RawPuzzle("unfit", puzzle, (solution,)), RawPuzzle("good", PUZZLE, (SOLUTION,))]
    report = import_puzzles(archive, pool, PROTECTIONS, raws, admission=True)
    assert report.puzzles == {reason: 1, "new": 1}
    assert report.solutions == {"of a refused puzzle": 1, "new": 1}
    assert [tuple(row) for row in archive.query("SELECT name, reason FROM refusals")] == [("unfit", reason)]


def test_without_admission_a_trivial_puzzle_is_as_good_as_any(pool, archive):
    raws = [RawPuzzle("trivial", "def f(x: int):\n    return x > 5", ("def g():\n    return 6",))]
    assert import_puzzles(archive, pool, PROTECTIONS, raws).solutions == {"new": 1}


def test_a_program_with_a_puzzle_and_its_solution_is_both(pool, archive, tmp_path):
    (tmp_path / "both.py").write_text(f"{PUZZLE}\n\n{SOLUTION}\n\nif __name__ == '__main__':\n    print(f(g()))\n")
    (tmp_path / "alone.py").write_text(PUZZLE.replace("1764", "1936"))
    raws = [raw for name in ("both", "alone") for raw in read_puzzles(tmp_path / f"{name}.py")]
    report = import_puzzles(archive, pool, PROTECTIONS, raws)
    assert (report.puzzles, report.solutions) == ({"new": 2}, {"new": 1})
    assert [row[0] for row in archive.query("SELECT source FROM puzzles")] == [PUZZLE, PUZZLE.replace("1764", "1936")]


def test_a_solution_is_judged_on_the_text_that_the_archive_holds(pool, archive):
    renamed = RawPuzzle("again", PUZZLE.replace("x", "y"), (SOLUTION,))
    import_puzzles(archive, pool, PROTECTIONS, [RawPuzzle("first", PUZZLE)])
    archive.query("UPDATE puzzles SET source = 'def f(x: int):\n    return x == 7'")
    report = import_puzzles(archive, pool, PROTECTIONS, [renamed])
    assert (report.puzzles, report.solutions) == ({"duplicate": 1}, {"wrong_answer": 1})
    assert archive.query("SELECT count(*) FROM solutions")[0][0] == 0


def test_an_import_larger_than_a_batch_is_imported_whole(pool, archive):
    raws = [
        RawPuzzle(str(n), f"def f(x: int):\n    return x == {n}", (f"def g():\n    return {n}",)) for n in range(201)
    ]
    done = []
    report = import_puzzles(archive, pool, PROTECTIONS, raws, progress=done.append)
    assert (report.puzzles, report.solutions, done) == ({"new": 201}, {"new": 201}, [200, 1])


@needs_p3
def test_the_first_puzzles_of_p3_are_imported_and_every_outcome_is_counted(patient_pool, archive):
    raws = read_puzzles(P3 / "puzzles.json")
    assert len(raws) == 706
    first = raws[:60]
    report = import_puzzles(archive, patient_pool, PROTECTIONS, first)
    assert report == ImportReport(Counter({"new": 60}), Counter({"new": sum(len(raw.solutions) for raw in first)}))
    assert (stats(archive)["puzzles"], stats(archive)["pairs"]) == (60, 60)


def test_a_line_with_a_byte_that_is_not_utf_8_is_refused_alone(write):
    path = write(lines({"puzzle": "p", "solution": "s"}).encode() * 3 + b'{"puzzle": "\xff"}\n')
    with open_text(path, "surrogateescape") as file:
        pairs = read_pairs(file, str(path))
        assert [next(pairs).id for _ in range(3)] == [1, 2, 3]
        assert next(pairs).detail == f'{path}, line 4: expected UTF-8 text, got \'{{"puzzle": "\\udcff"}}\''


@pytest.mark.parametrize("text", ["erratum = " + "[" * 5000, "erratum = 1" + "0" * 5000])
def test_errata_that_tomls_reader_gives_up_on_are_named(write, text):
    path = write(text, "errata.toml")
    assert problem(read_errata, path).startswith(f"{path}: expected TOML, ")
