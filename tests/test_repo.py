"""The promises of the house, kept by machine."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from places import ROOT

from selfplay.commands.main import grammar
from selfplay.settings import documented, load

ROOMS = (
    "sandbox", "puzzles", "puzzles.rules", "puzzles.archive", "selfplay", "selfplay.run", "selfplay.judge",
    "selfplay.sampling",
    "selfplay.training", "selfplay.scoring", "selfplay.iteration", "selfplay.experiments", "selfplay.inspecting",
    "selfplay.benchmark", "selfplay.adapters",
    "selfplay.adapters.lm_eval", "selfplay.commands",
)  # fmt: skip
"""The folders of code from the bottom up. Each may import only those before it."""
DOORS = {"puzzles", "selfplay", "selfplay.__main__"}
"""Files that name what stands above them: the public Python API, and `python -m selfplay`."""
WITH_TORCH = {
    "selfplay.adapters.openrlhf_reward", "selfplay.benchmark.bench", "selfplay.sampling.decode",
    "selfplay.sampling.adapter_merging", "selfplay.sampling.gguf_conversion",
    "selfplay.sampling.helper_model", "selfplay.sampling.helper_template", "selfplay.sampling.model",
    "selfplay.sampling.proofs", "selfplay.training.distributed", "selfplay.training.finetune",
    "selfplay.training.objectives", "selfplay.training.pretrain", "selfplay.training.sharing",
}  # fmt: skip
LONGEST_FUNCTION = 60
"""Lines."""
PAGES = ("README.md", "sandbox/README.md", "puzzles/README.md", "selfplay/README.md")


def modules():
    """Every module of the packages by its dotted name; a package's own by the package's."""
    found = {}
    for package in ("sandbox", "puzzles", "selfplay"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[:2] == ("selfplay", "adapters") and parts[2] in ("examples", "environment"):
                continue  # for people to copy, and another package
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = modules()


def room_of(module):
    return module if module in ROOMS else module.rpartition(".")[0]


def imported(tree):
    """Dotted names that a file imports, in functions and under TYPE_CHECKING too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in whole}
    return names


def upward(trees):
    """Imports of a room that does not stand below, as pairs of modules."""
    for module, tree in trees.items():
        for target in imported(tree) & MODULES.keys():
            one, other = room_of(module), room_of(target)
            if one != other and ROOMS.index(other) > ROOMS.index(one) and module not in DOORS:
                yield f"{module} imports {target}"


def test_every_folder_of_code_is_a_room():
    assert {room_of(module) for module in MODULES} == set(ROOMS)


def test_every_room_imports_only_what_stands_below_it():
    assert list(upward(MODULES)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import selfplay.commands.main",
        "def inside():\n    from selfplay.commands import main",
        "if TYPE_CHECKING:\n    from selfplay.commands.main import main",
    ],
)
def test_an_import_upward_is_found_wherever_it_stands(code):
    found = list(upward({"selfplay.run.rundir": ast.parse(code)}))
    assert found == ["selfplay.run.rundir imports selfplay.commands.main"]


def test_no_files_of_a_room_import_each_other_in_a_ring():
    graph = {name: imported(tree) & MODULES.keys() - {name} for name, tree in MODULES.items() if name not in DOORS}
    known, path = set(), []

    def walk(name):
        assert name not in path, f"a ring: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in known:
            path.append(name)
            for target in sorted(graph.get(name, ())):
                walk(target)
            known.add(path.pop())

    for name in graph:
        walk(name)


def test_every_room_says_what_it_is_for_what_it_may_import_and_where_to_begin():
    for room in ROOMS:
        text = ast.get_docstring(MODULES[room])
        assert text, room
        assert "import" in text, room
        assert re.search(r"reading (at|in) `", text), room


def test_no_function_is_longer_than_a_screen():
    long = []
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                long.append(f"{module}.{node.name}: {node.end_lineno - node.lineno + 1} lines")
    assert long == []


def test_the_sandbox_needs_the_standard_library_only():
    for name, tree in MODULES.items():
        if name.startswith("sandbox"):
            roots = {target.partition(".")[0] for target in imported(tree)}
            assert roots - {"sandbox"} <= sys.stdlib_module_names, name


def test_torch_is_imported_where_the_design_says():
    for name, tree in MODULES.items():
        roots = {target.partition(".")[0] for target in imported(tree)}
        if roots & {"torch", "transformers", "tokenizers"}:
            assert name in WITH_TORCH, name


def test_code_is_executed_in_one_file():
    users = set()
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval"):
                users.add(name)
    assert users == {"sandbox.child"}


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["archive", "stats", "--help"], ["runs"]])
def test_light_commands_do_not_import_torch(arguments, tmp_path):
    code = "import sys\nfrom selfplay.commands.main import main\n"
    code += f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("arguments", [["verify", "pairs.jsonl"], ["archive", "stats", "archive.sqlite"], ["doctor"]])
def test_light_commands_do_their_work_without_torch(arguments, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"puzzle": "def f(x: int): return x == 5", "solution": "def g(): return 5"}')
    code = "import sys\nfrom puzzles import Archive\nArchive('archive.sqlite', create=True).close()\n"
    code += f"from selfplay.commands.main import main\nassert main({arguments!r}) == 0\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("package", ["puzzles", "selfplay"])
def test_the_public_python_api_is_cheap_to_import_and_whole(package, tmp_path):
    code = f"import sys, {package}\nassert not {{'torch', 'transformers', 'numpy'}} & sys.modules.keys()\n"
    code += f"for name in {package}.__all__:\n    getattr({package}, name)\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def commands():
    def choices(parser):
        for action in parser._actions:
            if hasattr(action, "choices") and isinstance(action.choices, dict):
                yield from action.choices.items()

    for name, parser in choices(grammar()):
        below = list(choices(parser))
        yield from ((f"{name} {action}", sub) for action, sub in below) if below else [(name, parser)]


def test_the_pages_name_every_command():
    pages = "".join((ROOT / page).read_text("utf-8") for page in PAGES)
    for name, _ in commands():
        assert re.search(rf"\bselfplay {name}\b", pages), f"no page names `selfplay {name}`"


def test_every_command_has_help_with_an_example_and_a_line_for_each_option():
    for name, parser in commands():
        help_text = " ".join(parser.format_help().split())
        assert f"example: selfplay {name}" in help_text, name
        assert "(default: None)" not in help_text, name
        for action in parser._actions:
            assert action.help, f"{name}: {action.option_strings or action.dest} has no line of help"


def test_the_embedded_settings_load():
    assert load(None).iterations >= 3


def test_every_setting_is_explained():
    for setting in documented():
        assert len(setting.explanation.split()) > 2, setting.key


def test_the_readmes_tree_is_the_folders():
    readme = (ROOT / "README.md").read_text("utf-8")
    for room in ROOMS:
        assert f"{room.rpartition('.')[2]}/" in readme, f"README.md's tree does not name {room.replace('.', '/')}/"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 260


def test_the_links_of_every_page_lead_somewhere():
    for page in (*PAGES, "runs/README.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text("utf-8")):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_every_linter_exception_has_its_reason_on_its_line():
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        if re.match(r'\s*"[A-Z]+\d+",?', line):
            assert "#" in line, line


def test_torch_is_capped_for_machines_with_a_cpu_build():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "torch<2.14" in project["dependencies"]


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "test"}
    texts = [*project["dependencies"], *(text for own in extras.values() for text in own)]
    declared = {re.match(r"[\w-]+", text)[0].lower() for text in texts}
    names = {name.partition(".")[0] for tree in MODULES.values() for name in imported(tree)}
    others = names - {*sys.stdlib_module_names, "sandbox", "puzzles", "selfplay"}
    # transformers imports the first two when it reads a GGUF file; the third one calls us.
    assert others == declared - {"gguf", "accelerate", "lm_eval"}


def test_the_constraints_are_within_what_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    held = {Requirement(line).name.lower(): Requirement(line) for line in lines if not line.startswith("#")}
    for text in project["dependencies"]:
        wanted = Requirement(text)
        (pin,) = held[wanted.name.lower()].specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version), text


def test_the_python_example_runs_as_written(tmp_path):
    page = (ROOT / "selfplay" / "README.md").read_text("utf-8")
    section = page.partition("## From Python")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "runs" / "embedded").mkdir(parents=True)
    prepare = "from puzzles import Archive\nArchive('runs/embedded/archive.sqlite', create=True).close()\n"
    command = [sys.executable, "-c", prepare + code]
    output = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    assert output[0] == "accepted 37"
    assert output[1].startswith("def f(")
