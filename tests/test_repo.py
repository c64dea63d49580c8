"""The promises of the house, kept by machine."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib

import pytest
from places import ROOT

from selfplay.config import load

PACKAGES = ("sandbox", "puzzles", "selfplay")
WITH_TORCH = {
    "selfplay.sampling.model",
    "selfplay.training.finetune",
    "selfplay.training.distributed",
    "selfplay.training.objectives",
    "selfplay.training.pretrain",
    "selfplay.benchmark.bench",
    "selfplay.inspecting.track",
    "selfplay.sampling.decode",
}
FLOORS = {"sandbox": {"sandbox"}, "puzzles": {"sandbox", "puzzles"}, "selfplay": set(PACKAGES)}


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).glob("*.py")):
            yield f"{package}.{path.stem}", ast.parse(path.read_text("utf-8"))


def imported(tree, at_import_only):
    """Names of modules that a file imports; optionally only what runs when it is imported."""
    names = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            if not (at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
                visit(child)

    visit(tree)
    return names


def test_imports_point_down():
    for name, tree in modules():
        floor = name.partition(".")[0]
        ours = {target.partition(".")[0] for target in imported(tree, at_import_only=False)} & set(PACKAGES)
        assert ours <= FLOORS[floor], f"{name} imports {ours - FLOORS[floor]}"


def test_the_sandbox_needs_the_standard_library_only():
    for name, tree in modules():
        if name.startswith("sandbox."):
            roots = {target.partition(".")[0] for target in imported(tree, at_import_only=False)}
            assert roots - {"sandbox"} <= sys.stdlib_module_names, name


def test_there_is_no_import_cycle():
    known = {name for name, _ in modules()}
    graph = {name: imported(tree, at_import_only=True) & known - {name} for name, tree in modules()}
    graphlib.TopologicalSorter(graph).prepare()


def test_torch_is_imported_where_the_design_says():
    for name, tree in modules():
        roots = {target.partition(".")[0] for target in imported(tree, at_import_only=False)}
        if roots & {"torch", "transformers", "tokenizers"}:
            assert name in WITH_TORCH, name


def test_code_is_executed_in_one_file():
    users = set()
    for name, tree in modules():
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
    code = "import sys\nfrom puzzles.archive import Archive\nArchive('archive.sqlite', create=True).close()\n"
    code += f"from selfplay.commands.main import main\nassert main({arguments!r}) == 0\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)


def commands():
    from selfplay.commands.main import _parser

    def choices(parser):
        for action in parser._actions:
            if hasattr(action, "choices") and isinstance(action.choices, dict):
                yield from action.choices.items()

    for name, parser in choices(_parser()):
        below = list(choices(parser))
        yield from ((f"{name} {action}", sub) for action, sub in below) if below else [(name, parser)]


def test_the_readme_names_every_command():
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, _ in commands():
        assert re.search(rf"\bselfplay {name}\b", readme), f"README.md does not name `selfplay {name}`"


def test_every_command_has_help_with_an_example():
    for name, parser in commands():
        assert f"example: selfplay {name}" in " ".join(parser.format_help().split()), name


def test_the_embedded_settings_load():
    assert load(None).iterations >= 3


def test_the_readme_tree_names_every_module():
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, _ in modules():
        file = name.rpartition(".")[2] + ".py"
        assert file == "__init__.py" or file in readme, f"README.md's tree does not name {file}"


def test_every_linter_exception_has_its_reason_on_its_line():
    for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines():
        if re.match(r'\s*"[A-Z]+\d+",?', line):
            assert "#" in line, line


def test_torch_is_capped_for_machines_with_a_cpu_build():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert "torch<2.14" in project["dependencies"]


def test_the_readmes_python_example_runs(tmp_path):
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.partition("## From Python")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "runs" / "embedded").mkdir(parents=True)
    prepare = "from puzzles.archive import Archive\nArchive('runs/embedded/archive.sqlite', create=True).close()\n"
    command = [sys.executable, "-c", prepare + code]
    output = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
    assert output[0] == "accepted 37"
    assert output[1].startswith("def f(")
