"""Fixtures that tests of several folders use."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import make_model

import selfplay  # noqa: F401  # before torch, whose threads then do not spin beside a busy neighbour

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # `&` in a script makes all processes below it deaf to Ctrl-C, which some tests send to commands.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests keep key, marks and cache in folders of their own, and so do the commands that they start."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    base = tmp_path_factory.getbasetemp()
    # What a guard has learned is the same for all workers.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["XDG_CACHE_HOME"] = str(shared / "cache")
    os.environ.pop("COLUMNS", None)  # tables fit it; a test that is about that sets it


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a shape; not to be written into."""
    made: dict[str, Path] = {}

    def folder(shape: str = "llama") -> Path:
        if shape not in made:
            made[shape] = make_model(shape, tmp_path_factory.mktemp(shape) / "model")
        return made[shape]

    return folder


@pytest.fixture
def tiny_copy(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny Llama's folder that a test may spoil."""
    return Path(shutil.copytree(tiny("llama"), tmp_path / "copy"))


@pytest.fixture(scope="session")
def protections():
    """The sandbox's self-check, made once: it lets a loop run into its CPU limit."""
    from puzzles.verify import truth_pool
    from sandbox import selfcheck

    with truth_pool(lanes=1) as pool:
        return selfcheck.check(pool)


@pytest.fixture(scope="module")
def pool():
    """A sandbox for the tests of one file."""
    from puzzles.rules.porting import PORT
    from puzzles.rules.variation import VARY
    from puzzles.verify import truth_pool

    with truth_pool(lanes=2, jobs=[VARY, PORT]) as pool:
        yield pool


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, for the tests of one file; behind it, while it lives, asyncio runs nothing else."""
    api = pytest.importorskip("playwright.sync_api", reason="pages in a browser need playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("pages in a browser need Chromium (Debian: apt-get install chromium)")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run its own as root
    with (
        api.sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=options) as browser,
    ):
        yield browser
