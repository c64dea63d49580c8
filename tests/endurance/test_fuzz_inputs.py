import json
from pathlib import Path

import fuzz_inputs
import pytest
from fuzz_inputs import READERS, Case, Fuzzer, Wrong

from selfplay.inspecting import export


def silent(_):
    pass


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    fuzzer = Fuzzer(5, tmp_path_factory.mktemp("reproductions"), silent)
    yield fuzzer
    fuzzer.close()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(fuzz_inputs, "EXAMPLES", dict.fromkeys(READERS, 12))


@pytest.mark.slow
def test_some_seconds_of_broken_files_find_nothing(tmp_path, few):
    said = []
    summary = fuzz_inputs.fuzz_inputs(10, 11, tmp_path, said.append)
    assert summary.findings == [], summary.table()
    often = [
        counts for counts in summary.outcomes.values() if sum(counts.values()) > 5
    ]  # on a slow machine some are rare
    assert all(counts["refused"] for counts in often), summary.table()
    assert often
    assert sum(counts["fine"] for counts in summary.outcomes.values()) > 0
    assert not [*tmp_path.iterdir()]
    assert said[0].splitlines()[0].split() == ["inputs", "fine", "refused", "wrong"]


@pytest.mark.slow
def test_good_files_are_fine_for_every_reader(fuzzer):
    for kind, readers in READERS.items():
        for action, reader in readers.items():
            p3_of_others = action.startswith("read as p3") and not reader.file.startswith("p3")
            outcome = fuzzer.shop.attempt(Case(kind, action, reader.file, ()))
            assert outcome == ("refused" if p3_of_others else "fine"), action


def test_the_rounds_of_a_seed_are_always_the_same(fuzzer, few):
    def cases(kind, seed, number):
        found = []
        fuzz_inputs.drawn(kind, seed, number, found.append)
        return found

    for kind in READERS:
        first = cases(kind, 3, 0)
        assert len(first) >= 10
        assert first == cases(kind, 3, 0)
        assert first != cases(kind, 4, 0)
        assert first != cases(kind, 3, 1)


def found_by(fuzzer, kind, rounds=20):
    """What the rounds of a kind find, until they find something."""
    before = len(fuzzer.summary.findings)
    for _ in range(rounds):
        fuzzer.round(kind)
        if fuzzer.summary.findings[before:]:
            return fuzzer.summary.findings[before]
    raise AssertionError("a planted fault was not found")


@pytest.mark.slow
def test_a_reader_that_raises_is_found_and_the_smallest_case_is_kept(fuzzer, monkeypatch):
    from puzzles.archive import formats

    def fails(record, where):
        if not isinstance(record.get("difficulty"), int):
            raise KeyError("planted")
        return formats._jsonl_puzzle(record, where)

    monkeypatch.setitem(formats.FORMATS, "jsonl", formats.Format("puzzle", fails))
    finding = found_by(fuzzer, "puzzles")
    assert finding.what.startswith(("KeyError: 'planted'", "exit 3: KeyError: 'planted'"))
    assert len(finding.case.damages) <= 2  # one is enough, and looking for it takes longer than there is time
    kept = json.loads(finding.reproduction.read_text())
    assert kept["what"] == finding.what
    with pytest.raises(Wrong, match="planted"):
        fuzzer.shop.attempt(Case(kept["kind"], kept["action"], kept["file"], tuple(map(tuple, kept["damages"]))))


def test_half_an_output_is_found(fuzzer, monkeypatch):
    def half(archive, out, *_):
        out.write_text("half")
        archive.check()
        return 0

    monkeypatch.setattr(export, "write", half)
    action = "export jsonl"
    damages = (("statement", "DELETE FROM protections"),)  # a check finds it, opening does not
    with pytest.raises(Wrong, match="a refused export touched what was there before"):
        fuzzer.shop.attempt(Case("archives", action, READERS["archives"][action].file, damages))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "changed what it read"),
        (lambda path: Path(".out.part").touch(), "half an output is left"),
    ],
    ids=["its input", "a part"],
)
def test_a_command_that_leaves_something_else_behind_is_found(fuzzer, monkeypatch, spoil, words):
    told = fuzz_inputs.told

    def spoiling(*arguments):
        done = told(*arguments)
        spoil(Path("damaged.sqlite"))
        return done

    monkeypatch.setattr(fuzz_inputs, "told", spoiling)
    with pytest.raises(Wrong, match=words):
        fuzzer.shop.attempt(Case("archives", "stats", READERS["archives"]["stats"].file, ()))


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (fuzz_inputs.Told(3, "", "selfplay: the machine failed"), "exit 3"),
        (fuzz_inputs.Told(2, "", "selfplay: a\nselfplay: b"), "not one line"),
        (fuzz_inputs.Told(2, "", "selfplay: something is wrong"), "does not name the file"),
        (fuzz_inputs.Told(2, "", f"selfplay: x.toml: {'x' * 9999}"), "characters"),
        (fuzz_inputs.Told(0, "", "Traceback (most recent call last):"), "a traceback beside an answer"),
    ],
)
def test_an_end_that_must_not_be_is_wrong(done, words):
    with pytest.raises(Wrong, match=words):
        fuzz_inputs.judged(done, Path("x.toml"))
