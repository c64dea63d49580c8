"""Checkers with the shape of those that people train against, each in a few lines of our own, to show what fools them.

None is anybody's code. Each says whether a candidate passes, and runs it in a process of its own without protection, as
the published ones do. So they may be shown only candidates of `forgeries.py`, which are harmless.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 60


def _run(program, folder):
    environment = {"PATH": os.environ["PATH"], "HOME": folder}
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)


def _passes(program):
    with tempfile.TemporaryDirectory() as folder:
        return _run(program, folder).returncode == 0


def exit_status(puzzle, candidate, expected):
    """The tests stand behind the candidate in one program; what ends with status 0 passes."""
    return _passes(f"{puzzle}\n{candidate}\nassert f(g()) is True\n")


def no_exception(puzzle, candidate, expected):
    """What raises nothing passes: the status of the process is not looked at."""
    with tempfile.TemporaryDirectory() as folder:
        return "Error" not in _run(f"{puzzle}\n{candidate}\nassert f(g()) is True\n", folder).stderr


def equality(puzzle, candidate, expected):
    """The candidate's own value is compared with the expected one, by the value's `==`."""
    return _passes(f"{candidate}\nif not g() == {expected}: raise SystemExit(1)\n")


REPORTING = """
def check():
    expected, verdicts = {expected}, []
    space = {{}}
    exec({candidate!r}, space)
    try:
        verdicts.append(space["g"]() == expected)
    except BaseException:
        verdicts.append(False)
    return verdicts[0]
import sys
sys.exit(0 if check() else 1)
"""


def frames(puzzle, candidate, expected):
    """The expected value and the list of verdicts are variables of a function that calls the candidate."""
    return _passes(REPORTING.format(expected=expected, candidate=candidate))


def one_namespace(puzzle, candidate, expected):
    """Puzzle and candidate share a namespace, so the candidate's `f` is the judge's."""
    return _passes(f"{puzzle}\n{candidate}\nraise SystemExit(0 if f(g()) else 1)\n")


def output(puzzle, candidate, expected):
    """The last line of the output is the report."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{puzzle}\n{candidate}\nprint('passed' if f(g()) is True else 'failed')\n"
        return _run(program, folder).stdout.strip().endswith("passed")


def reward_file(puzzle, candidate, expected):
    """The verifier leaves the reward in a file that the candidate's process can write too, and later reads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reward.txt"
        program = (
            f"{puzzle}\n{candidate}\nreward = float(f(g()) is True)\nif reward: open('reward.txt', 'w').write('1')\n"
        )
        _run(program, folder)
        reward = float(file.read_text()) if file.exists() else 0.0
        return not reward < 1.0


def pasted(puzzle, candidate, expected):
    """The answer's text is put into a program and evaluated there."""
    with tempfile.TemporaryDirectory() as folder:
        answer = _run(f"{candidate}\nprint(g(), end='')\n", folder).stdout
    return _passes(f"{puzzle}\nraise SystemExit(0 if f({answer}) is True else 1)\n")


def tolerance(puzzle, candidate, expected):
    """A number is refused if it is further from the expected one than a bound."""
    return _passes(f"{candidate}\nx = g()\nraise SystemExit(1 if abs(x - {expected}) > 1e-6 else 0)\n")


def presence(puzzle, candidate, expected):
    """Whatever answers without an error passes, if it holds what was asked for."""
    return _passes(f"{candidate}\nanswer = g()\nraise SystemExit(0 if all(answer) else 1)\n")


def runner(puzzle, candidate, expected):
    """A test runner whose functions the candidate can reach: `run_tests` is looked up when the candidate has run."""
    program = f"{puzzle}\ndef run_tests():\n    return f(g()) is True\n{candidate}\n"
    return _passes(program + "raise SystemExit(0 if run_tests() else 1)\n")


CHECKERS = {
    each.__name__: each
    for each in (
        exit_status, no_exception, equality, frames, one_namespace, output, reward_file, pasted, tolerance, presence,
        runner,
    )
}  # fmt: skip
