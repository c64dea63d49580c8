"""`selfplay env`: what a report of a bug needs to say about the machine."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from selfplay.commands.grammar import command
from selfplay.text import one_line, render


def add_env(commands: Any) -> None:
    """Declare `env`."""
    parser = command(
        commands,
        "env",
        _env,
        "show versions, processor, accelerators and the sandbox's tier, for a report of a bug",
        "env",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _env(options: argparse.Namespace) -> int:
    from puzzles.verify import truth_pool
    from sandbox import selfcheck
    from selfplay.run.sessions import environment
    from selfplay.sampling.model import accelerators

    found = environment()
    with truth_pool() as pool:
        tier = selfcheck.check(pool).tier
    facts = {
        **{name: version or "not installed" for name, version in found["versions"].items()},
        **{name: found[name] for name in ("python", "platform", "processor", "cores", "source")},
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "accelerators": ", ".join(accelerators()) or "none",
        "sandbox tier": tier,
    }
    print(json.dumps(facts) if options.json else render([[name, one_line(value)] for name, value in facts.items()]))
    return 0
