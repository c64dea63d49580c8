"""A model's folder that a stranger has made ends in one line, before anything of it acts or fills the machine."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from huggingface_hub import constants

from puzzles.puzzle import InputError
from selfplay.config import ModelConfig
from selfplay.run import user_state
from selfplay.sampling import model_files
from selfplay.sampling.chat import chat_text
from selfplay.sampling.helper_model import fault_of
from selfplay.sampling.model import LanguageModel
from selfplay.settings import embedded_file

CPU = ModelConfig(device="cpu", threads=1)
TEMPLATE_FOLDER = model_files.TEMPLATES
HONEST = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "letters or words": r"[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+|\s+|[^\s]",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
}
"""Regular expressions of well-known tokenizers."""
HOSTILE = [
    "(a*)*b", "(a|aa)+b", "(?:a+)+$", r"((\w*)\s*)*!", "(a{1,}){2,}", "(a|a){1,50}!", r"(a+)\1+", r"(?<x>a)\k<x>*",
    r"(?<x>a\g<x>?)b", "(?#[)(a*)*b(?#])", "(?x)(a*)* # [", "a{1,100000}", "[(](a*)*[)]", r"\[(a*)*\]", "[]](a*)*",
]  # fmt: skip


@pytest.fixture
def shipped(tmp_path):
    """A copy of the shipped model, which was made by nobody known."""
    return Path(shutil.copytree(embedded_file("model"), tmp_path / "model"))


def change(file, **changes):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def refusal(folder) -> str:
    with pytest.raises(InputError) as caught:
        LanguageModel(folder, CPU)
    assert str(caught.value).startswith(f"{folder}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- files ----


def replaced(by):
    def replace(folder):
        (folder / "generation_config.json").unlink()
        by(folder / "generation_config.json")

    return replace


def index(name):
    def write(folder):
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        shutil.copy(folder.parent / "outside.safetensors", folder / "inside.safetensors")
        (folder / model_files.INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))

    return write


def weights(header, size=0, length=None):
    def write(folder):
        content = json.dumps(header).encode() if isinstance(header, dict) else header
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(content) if length is None else length) + content)
            file.truncate(8 + len(content) + size)

    return write


SPARSE = {"x": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}
FILES = {
    "device": (replaced(lambda file: file.symlink_to("/dev/zero")), "got a link out of it"),
    "secret": (replaced(lambda file: file.symlink_to("/etc/passwd")), "got a link out of it"),
    "pipe": (replaced(os.mkfifo), "got a device, a pipe or a socket"),
    "folder": (replaced(lambda file: file.mkdir()), ""),
    "ring": (replaced(lambda file: file.symlink_to(file.name)), "got a link to nothing"),
    "notes": (lambda folder: (folder / "selfplay.json").unlink() or (folder / "selfplay.json").symlink_to("/etc/hosts"),
              "selfplay.json: expected a file in the model's folder"),
    "template": (lambda folder: os.mkfifo(folder / "chat_template.jinja"), "chat_template.jinja: expected a regular"),
    "templates": (lambda folder: (folder / TEMPLATE_FOLDER).symlink_to("/etc"), "got a link out of it"),
    "a template inside": (
        lambda folder: os.mkdir(folder / TEMPLATE_FOLDER) or os.mkfifo(folder / TEMPLATE_FOLDER / "x.jinja"),
        "x.jinja: expected a regular file",
    ),
    "large tokenizer": (lambda folder: os.truncate(folder / "tokenizer.json", 65 << 20), "expected at most 67,108,864"),
    "large config": (lambda folder: os.truncate(folder / "config.json", 5 << 20), "expected at most 4,194,304 bytes"),
    "index up": (index("../outside.safetensors"), "expected names of safetensors beside it, got '../outside"),
    "index to a pickle": (index("model.bin"), "expected names of safetensors beside it, got 'model.bin'"),
    "index to an absolute path": (index("/etc/x.safetensors"), "expected names of safetensors beside it"),
    "sparse weights": (weights(SPARSE, size=4 * 10**10), "got a file of 40,000,000,0"),
    "other sparse weights": (
        lambda folder: (folder / "x.safetensors").write_bytes(b"") or os.truncate(folder / "x.safetensors", 10**13),
        "got a file of 10,000,000,000,000 bytes that is empty",
    ),
    "header length": (weights(b"{}", length=2**62), "expected weights in the form of safetensors"),
    "long header": (weights(b"{" + b" " * (17 << 20)), "expected a header of at most 16,777,216 bytes"),
    "deep header": (weights(b"[" * 100_000), "cannot be loaded"),
    "lying shapes": (weights({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, 4), ""),
    "negative shape": (weights({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, 4), "at least 0"),
    "adapter": (lambda folder: change(folder / "adapter_config.json", base_model_name_or_path="evil/base"),
                "expected a whole model, got an adapter"),
    "kernel": (lambda folder: change(folder / "config.json", attn_implementation="evil/kernel"),
               "code from elsewhere is never run, got 'evil/kernel'"),
    "weights of another name": (lambda folder: change(folder / "config.json", transformers_weights="../x.safetensors"),
                                "transformers_weights: expected weights under their usual name"),
    "deep config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "expected JSON"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_may_not_be_opened_is_named_in_one_line(shipped, kind):
    make, said = FILES[kind]
    make(shipped)
    assert said in refusal(shipped)


def test_a_model_in_the_hubs_cache_is_links_into_its_own_repository_and_no_other(shipped, tmp_path, monkeypatch):
    repository = tmp_path / "cache" / "models--some--body"
    snapshot = repository / "snapshots" / "0123"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(shipped.iterdir())):
        file.rename(repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    shipped_hash = LanguageModel("embedded", CPU).checkpoint
    assert LanguageModel(snapshot, CPU).checkpoint == shipped_hash
    assert LanguageModel("some/body", CPU).checkpoint == shipped_hash
    (tmp_path / "cache" / "models--other").mkdir()
    (repository / "blobs" / "0").rename(tmp_path / "cache" / "models--other" / "0")
    (snapshot / "README.md").unlink()
    (snapshot / "README.md").symlink_to("../../../models--other/0")
    assert "got a link out of it" in refusal(snapshot)


# ---- what a folder asks for ----


def tokenizer(**changes):
    return lambda folder: change(folder / "tokenizer.json", **changes)


def described(**changes):
    return lambda folder: change(folder / "config.json", **changes)


def grown(part, kind, times=6):
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}] * times
    return tokenizer(**{part: {"type": "Sequence", kind: steps}})


def split(regex):
    return tokenizer(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    )


def around(number):
    special = {"x": {"id": "x", "ids": [0] * number, "tokens": ["x"] * number}}
    pieces = [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": [*pieces, pieces[0]], "special_tokens": special}


ADDED = [
    {"id": 512 + i, "content": f"<x{i}>", "single_word": False, "lstrip": False, "rstrip": False,
     "normalized": False, "special": True}
    for i in range(20_000)
]  # fmt: skip
FIXED = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
ASKED = {
    "normalizer laughs": (grown("normalizer", "normalizers"), "normalizer can make a text 1,000,000,000,000 times"),
    "decoder laughs": (grown("decoder", "decoders"), "decoder can make a text 1,000,000,000,000 times as long"),
    "backtracking": (split("(([a-z: ()]*)*)*!"), "a regular expression that may run for ever (a repeated group"),
    "padding": (tokenizer(padding={"strategy": {"Fixed": 10**9}, **FIXED}), "pads or cuts texts to 1,000,000,000"),
    "tokens around": (tokenizer(post_processor=around(100_000)), "tokens around a text, at most 64 is safe"),
    "added tokens": (tokenizer(added_tokens=ADDED), "20,000 added tokens, at most 16,384 is safe"),
    "other tokenizer files": (
        lambda folder: change(folder / "tokenizer_config.json", fast_tokenizer_files=["../../tokenizer.1.json"]),
        "fast_tokenizer_files",
    ),
    "vocabulary": (described(vocab_size=2_000_000_000), "describes a model of 384,001,"),
    "hidden": (described(hidden_size=600_000, head_dim=100_000), "describes a model of "),
    "intermediate": (described(intermediate_size=10**9), "describes a model of "),
    "layers": (described(num_hidden_layers=50_000), "describes 50,000 layers (num_hidden_layers)"),
    "long names": (tokenizer(added_tokens=[{**ADDED[0], "content": "<" + "a" * 4000}, *(
        {**token, "content": "<" + "a" * 4000 + str(place)} for place, token in enumerate(ADDED[:10])
    )]), ""),
    "special tokens": (
        lambda folder: change(folder / "tokenizer_config.json", extra_special_tokens=[f"<{i}>" for i in range(20_000)]),
        "20,000 added tokens, at most 16,384 is safe",
    ),
    "labels": (described(num_labels=10**9), "before any weight is read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_a_folder_that_asks_for_too_much_is_refused_before_it_gets_it(shipped, kind):
    make, said = ASKED[kind]
    make(shipped)
    assert said in refusal(shipped)


def test_a_model_that_pads_every_text_to_a_huge_one_is_known_before_it_does_so(shipped, tmp_path):
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, Mamba2Config

    small = {"hidden_size": 16, "num_heads": 2, "head_dim": 16, "state_size": 8, "num_hidden_layers": 1, "n_groups": 1}
    config = Mamba2Config(vocab_size=512, expand=2, eos_token_id=0, pad_token_id=0, bos_token_id=0, **small)
    network = AutoModelForCausalLM.from_config(config)
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    weights.pop("lm_head.weight", None)
    save_file(weights, shipped / "model.safetensors", {"format": "pt"})
    config.save_pretrained(shipped)
    model_files.check(shipped)
    change(shipped / "config.json", chunk_size=10**9)
    assert "makes tables of " in refusal(shipped)


def test_a_pattern_that_is_slow_though_nothing_in_it_repeats_a_group_is_found_by_trying(shipped, monkeypatch):
    monkeypatch.setattr(model_files, "CPU_SECONDS", 2)
    split("[a-z]*[a-z]*[a-z]*[a-z]*!")(shipped)
    assert "takes more than 2 s of CPU time" in refusal(shipped)


@pytest.mark.parametrize("regex", HONEST.values(), ids=HONEST)
def test_the_patterns_of_well_known_tokenizers_pass(shipped, regex):
    split(regex)(shipped)
    model_files.check(shipped)


@pytest.mark.parametrize("regex", HOSTILE)
def test_a_pattern_that_may_run_for_ever_is_known_without_running_it(regex):
    assert fault_of(regex)


@pytest.mark.parametrize("regex", [*HONEST.values(), r"\x{10FFFF}|[^\])(*]+", r"\(\*\)*", "(?:ab|c)?d*", "(ab){1}"[:4]])
def test_a_pattern_that_repeats_no_group_passes(regex):
    assert fault_of(regex) == ""


def test_nothing_of_a_folder_is_executed(shipped):
    own = f"open({str(shipped.parent / 'executed')!r}, 'w')"
    for name in ("evil.py", "custom_generate/generate.py", "pytorch_model.bin", "tokenizer.pkl", "adapter_model.bin"):
        (shipped / name).parent.mkdir(exist_ok=True)
        (shipped / name).write_text(own)
    change(shipped / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    assert LanguageModel(shipped, CPU).parameters > 0
    change(
        shipped / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}, tokenizer_class="EvilTokenizer"
    )
    assert "a model's code is never run here" in refusal(shipped)
    assert not (shipped.parent / "executed").exists()


# ---- what is remembered ----


def test_the_shipped_model_and_what_was_written_here_need_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files._helper, "ask", lambda *_: pytest.fail("a trial"))
    model = LanguageModel("embedded", CPU)
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        model.save(tmp_path / f"{number}", {"iteration": number})
    model_files._tried.clear()
    assert LanguageModel(tmp_path / "1", CPU).notes == {"iteration": 1}
    shutil.rmtree(user_state.folder())
    with pytest.raises(pytest.fail.Exception, match="a trial"):
        LanguageModel(tmp_path / "1", CPU)


def test_a_folder_is_tried_once_and_again_when_anything_of_it_has_changed(shipped, monkeypatch):
    asked, ask = [], model_files._helper.ask
    monkeypatch.setattr(model_files._helper, "ask", lambda *question: asked.append(question) or ask(*question))
    change(shipped / "config.json", made_by=os.urandom(8).hex())
    for _ in range(2):
        model_files.check(shipped)
    assert len(asked) == 1
    model_files._tried.clear()  # as in another process
    model_files.check(shipped)
    assert len(asked) == 1
    change(shipped / "tokenizer_config.json", made_by="somebody")
    model_files.check(shipped)
    assert len(asked) == 2


@pytest.mark.slow
def test_a_helper_that_dies_is_started_again(shipped):
    change(shipped / "config.json", made_by=os.urandom(8).hex())
    model_files.check(shipped)
    assert model_files._helper._process
    model_files._helper._process.kill()
    model_files._helper._process.wait()
    change(shipped / "config.json", made_by=os.urandom(8).hex())
    model_files.check(shipped)


# ---- chat templates ----


TEMPLATES = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{% set ns = namespace(s='a' * 1000000) %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "power": "{% set x = 9 %}{{ x ** (x ** x) }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "only later": "{% if 'later' in messages[0].content %}{{ 'a' * 10 ** 10 }}{% endif %}",
    "long": "{{ 'ab ' * 10 ** 7 }}",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_that_takes_too_much_is_one_line_also_if_it_does_so_only_for_some_messages(kind):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_file("model"))
    tokenizer.chat_template = TEMPLATES[kind] + "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError) as caught:
        chat_text(tokenizer, [("user", "later")])
    assert str(caught.value).startswith("protocol chat: this model's chat template fails: it ")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    assert chat_text(tokenizer, [("user", "again")]) == "<again>", "another template is not affected"
