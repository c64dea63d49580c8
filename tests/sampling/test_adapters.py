"""An adapter of PEFT is a model wherever a model is named; what is none, or does not fit, is refused in one line."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from puzzles.foreign import shown
from puzzles.puzzle import InputError
from selfplay.config import ModelConfig
from selfplay.sampling import adapter_merging, adapters, naming
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import propose_prompt
from selfplay.sampling.sampler import SamplingSettings

CPU = ModelConfig(device="cpu", dtype="float32", threads=1)
RANK, ALPHA = 3, 12.0
MODULES = ["q_proj", "down_proj"]

needs_peft = pytest.mark.skipif(not util.find_spec("peft"), reason="adapters need pip install '.[lora]'")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, and warnings that were not said yet. Merging is done in this process, which is faster."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(adapters, "subprocess", SimpleNamespace(run=in_this_process, TimeoutExpired=Exception))
    adapters._tell_base.cache_clear()
    return tmp_path


def in_this_process(command, **_):
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(sys, "argv", command[2:])
        patch.setattr(adapter_merging.resource, "setrlimit", lambda *_: None)
        status = adapter_merging.main()
    return subprocess.CompletedProcess(command, status, output.getvalue(), "")


@needs_peft
@pytest.mark.slow
def test_a_process_of_its_own_merges_the_same(base, home, monkeypatch):
    folder = write(home / "adapter", base)
    found = []
    for run in (in_this_process, subprocess.run):
        monkeypatch.setattr(adapters.subprocess, "run", run)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / run.__name__))
        _, plain = naming.located(str(folder))
        found.append({file.name: file.read_bytes() for file in plain.iterdir()})
    assert found[0] == found[1]


@pytest.fixture
def base(tiny):
    return tiny("llama")


def write(folder: Path, base: object, settings=None, weights=None) -> Path:
    """An adapter as PEFT saves it, written without PEFT: two layers of the tiny Llama, 16 wide and 32 between."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": RANK,
        "lora_alpha": ALPHA, "lora_dropout": 0.1, "target_modules": MODULES, "bias": "none", "inference_mode": True,
        "megatron_core": "megatron.core", "megatron_config": None, "auto_mapping": None, "revision": None,
        "peft_version": "0.21.2", "layer_replication": None, "use_dora": False, **(settings or {}),
    }  # fmt: skip
    (folder / adapters.CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value != "-"}))
    save_file(drawn() if weights is None else weights, folder / adapters.WEIGHTS, {"format": "pt"})
    return folder


def drawn(width: int = 16, between: int = 32, layers: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer in range(layers):
        for name, came, left in (("self_attn.q_proj", width, width), ("mlp.down_proj", between, width)):
            place = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(RANK, came, generator=generator)
            weights[f"{place}.lora_B.weight"] = torch.randn(left, RANK, generator=generator)
    return weights


def refusal(named) -> str:
    with pytest.raises(InputError) as raised:
        LanguageModel(str(named), CPU)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@needs_peft
def test_the_weights_are_those_of_the_base_and_the_product_of_the_adapter(base, home, capsys):
    folder = write(home / "adapter", base)
    model = LanguageModel(str(folder), CPU)
    LanguageModel(str(folder), CPU)
    told = f"{folder}: an adapter of {shown(str(base))}, as its adapter_config.json says"
    assert capsys.readouterr().err.splitlines().count(told) == 1
    plain, found = LanguageModel(str(base), CPU).network.state_dict(), model.network.state_dict()
    assert plain.keys() == found.keys()
    weights = drawn()
    for name, weight in plain.items():
        pair = [weights.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{half}.weight") for half in "BA"]
        added = ALPHA / RANK * pair[0] @ pair[1] if pair[0] is not None else torch.zeros_like(weight)
        torch.testing.assert_close(found[name], weight + added, msg=name)
    assert any(not torch.equal(found[name], weight) for name, weight in plain.items())


@needs_peft
def test_it_is_merged_once_and_its_place_is_a_plain_folder_outside_of_it(base, home, monkeypatch):
    folder = write(home / "adapter", base)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    place, plain = naming.located(str(folder))
    assert place == str(plain)
    assert plain.is_relative_to(home / "cache" / "selfplay" / "adapters")
    assert (plain / "config.json").is_file()
    assert not (plain / adapters.CONFIG).exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.setattr(adapters, "_merge", None)
    assert naming.located(str(folder))[1] == plain
    assert LanguageModel(str(folder), CPU).checkpoint == LanguageModel(str(plain), CPU).checkpoint


@needs_peft
def test_its_identity_is_that_of_adapter_and_base_together(tiny, home):
    own = shutil.copytree(tiny("llama"), home / "base")
    folder = write(home / "adapter", own)
    found = [LanguageModel(str(folder), CPU).checkpoint]
    write(folder, own, weights={name: 2 * weight for name, weight in drawn().items()})
    found.append(LanguageModel(str(folder), CPU).checkpoint)
    weights = load_file(own / "model.safetensors")
    save_file({name: 1.5 * weight for name, weight in weights.items()}, own / "model.safetensors", {"format": "pt"})
    found.append(LanguageModel(str(folder), CPU).checkpoint)
    assert len({*found, LanguageModel(str(own), CPU).checkpoint}) == 4


@needs_peft
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft uses a name of transformers that is deprecated
def test_it_samples_as_peft_does_without_merging(base, home):
    import peft

    folder = write(home / "adapter", base, {"use_rslora": True, "alpha_pattern": {"q_proj": 5.0}})
    model, whole = LanguageModel(str(folder), CPU), LanguageModel(str(base), CPU)
    apart = peft.PeftModel.from_pretrained(whole.network, folder)
    prompt = propose_prompt("plain")
    ids = whole.tokenizer(prompt.text, return_tensors="pt").input_ids
    torch.testing.assert_close(model.network(ids).logits, apart(ids).logits, rtol=1e-4, atol=1e-4)
    greedy = SamplingSettings(temperature=0.0, top_p=1.0, max_tokens=8, batch_rows=2)
    assert model.sample([prompt], 1, greedy, [0]).completions_P_K[0][0].tokens


@needs_peft
def test_its_own_tokenizer_is_taken(tiny, home):
    own = tiny("qwen2")
    folder = write(home / "adapter", own, {"target_modules": ["q_proj"]}, {
        name: weight for name, weight in drawn().items() if "q_proj" in name
    })  # fmt: skip
    before = LanguageModel(str(folder), CPU)
    template = before.tokenizer.chat_template
    tokenizer = before.tokenizer
    tokenizer.chat_template = template.replace("<|user|>", "<|user|> ")
    tokenizer.save_pretrained(folder)
    assert LanguageModel(str(folder), CPU).tokenizer.chat_template == tokenizer.chat_template != template


@needs_peft
@pytest.mark.parametrize("base_name", ["embedded", "relative"])
def test_the_base_is_found_like_any_model(tiny, home, monkeypatch, base_name):
    monkeypatch.chdir(home)
    if base_name == "embedded":
        from selfplay.settings import embedded_file

        config = json.loads((embedded_file("model") / "config.json").read_text())
        weights = drawn(config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"])
    else:
        shutil.copytree(tiny("llama"), home / base_name)
        weights = None
    write(home / "adapter", base_name, weights=weights)
    model = LanguageModel("adapter", CPU)
    assert model.checkpoint != LanguageModel(base_name, CPU).checkpoint


# ---- bad input ----


@needs_peft
def test_a_base_that_is_not_at_hand_is_one_line(base, home, monkeypatch):
    monkeypatch.setattr(naming, "_hub_answers", lambda: False)
    for name, expected in (
        ("/no/such/place", "expected `embedded`, `smollm2`, a model folder"),
        ("nobody/nothing-of-this-name", "cannot be loaded"),
        ("../base", "expected `embedded`"),
    ):
        folder = write(home / "adapter", name)
        told = refusal(folder)
        assert told.startswith(f"{folder}: its base {name!r} cannot be loaded: ")
        assert expected in told
    itself = write(home / "adapter", home / "adapter")
    assert "got an adapter" in refusal(itself)


@needs_peft
@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (drawn(width=8), "size mismatch"),
        (drawn(layers=3), "the base has no place for base_model.model.model.layers.2.mlp.down_proj.lora_A"),
        (drawn(layers=1), "the adapter has nothing for base_model.model.model.layers.1.mlp.down_proj.lora_A"),
        ({name: weight * torch.nan for name, weight in drawn().items()}, "NaN"),
    ],
    ids=["width", "deeper", "shallower", "not finite"],
)
def test_an_adapter_for_another_shape_is_one_line_and_nothing_is_written(base, home, weights, expected):
    folder = write(home / "adapter", base, weights=weights)
    told = refusal(folder)
    assert told.startswith(f"{folder}: it does not fit its base {base}: ")
    assert expected.lower() in told.lower()
    assert not [*(home / "cache" / "selfplay" / "adapters").iterdir()]


ODD = {
    "another kind": ({"peft_type": "IA3"}, "peft_type: expected 'LORA', got 'IA3'"),
    "no kind": ({"peft_type": "-"}, "peft_type: expected 'LORA', got None"),
    "no base": ({"base_model_name_or_path": None}, "base_model_name_or_path: expected the name of the base model"),
    "a base that is no text": ({"base_model_name_or_path": 7}, "base_model_name_or_path: expected the name"),
    "code from elsewhere": (
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}},
        "auto_mapping: it needs code from elsewhere, which is never run: 'evil'",
    ),
    "mapping of another form": ({"auto_mapping": ["evil"]}, "auto_mapping: it needs code from elsewhere"),
    "megatron": ({"megatron_config": {"a": 1}}, "megatron_config: expected plain LoRA without it"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication: expected plain LoRA"),
    "a key that nobody knows": ({"run_this": "rm"}, "run_this: expected plain LoRA without it"),
    "a pinned base": ({"revision": "abc"}, "revision: expected the base's newest, got 'abc'"),
    "a changed base": ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' changes the base"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_plain_lora_is_refused_by_key_before_its_base_is_looked_for(home, monkeypatch, name):
    monkeypatch.setattr(naming, "_hub_answers", lambda: pytest.fail("the base was looked for"))
    settings, expected = ODD[name]
    folder = write(home / "adapter", "owner/base", settings)
    assert refusal(folder).startswith(f"{folder / adapters.CONFIG}: {expected}")


def test_files_of_an_adapter_are_looked_at_like_those_of_a_model(base, home):
    folder = write(home / "adapter", base)
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")
    assert refusal(folder) == f"{folder}: expected adapter_model.safetensors beside adapter_config.json, there is none"
    (folder / adapters.WEIGHTS).symlink_to("/etc/passwd")
    assert "expected a file in the model's folder, got a link out of it" in refusal(folder)
    (folder / adapters.WEIGHTS).unlink()
    (folder / adapters.WEIGHTS).write_bytes(b"no weights")
    assert "expected weights in the form of safetensors" in refusal(folder)
    (folder / adapters.CONFIG).write_text("{")
    assert str(folder / adapters.CONFIG) in refusal(folder)


def test_without_peft_one_line_says_what_to_install(base, home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = write(home / "adapter", base)
    assert refusal(folder) == f"{folder}: an adapter needs the package peft: pip install '.[lora]'"


def test_a_checkpoint_of_a_run_is_never_an_adapter(base, home):
    (home / "run" / "checkpoints").mkdir(parents=True)
    (home / "run" / "config.toml").write_text("")
    folder = write(home / "run" / "checkpoints" / "iteration-001", base)
    assert "expected a whole model, got an adapter" in refusal(folder)
