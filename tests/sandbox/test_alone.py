"""The examples in the sandbox's README run as written, with nothing but the standard library."""

import re
import subprocess
import sys

import pytest
from places import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "sandbox" / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_prints_what_it_says(number):
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{EXAMPLES[number]}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    (told,) = re.findall(r"print\(.*\)  # (.*)", EXAMPLES[number])
    assert done.stdout.strip() == told


def test_there_are_examples():
    assert len(EXAMPLES) == 2
