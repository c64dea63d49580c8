"""`selfplay doctor`: show which protections are verified on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from selfplay.commands.grammar import add_wide, command
from selfplay.commands.terminal import width
from selfplay.text import Column, Table, render


def add_doctor(commands: Any) -> None:
    """Declare `doctor`."""
    parser = command(
        commands, "doctor", _doctor, "show which protections of the sandbox are verified on this machine", "doctor"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_wide(parser)


def _doctor(options: argparse.Namespace) -> int:
    from puzzles.verify import truth_pool
    from sandbox import selfcheck

    with truth_pool() as pool:
        protections = selfcheck.check(pool)
    if options.json:
        print(json.dumps(protections.to_json()))
    else:
        print(f"tier {protections.tier}\n")
        layers = [[name, state, protections.evidence.get(name, "")] for name, state in protections.layers.items()]
        columns = (Column("layer"), Column("state"), Column("evidence", least=20))
        print(Table(columns, layers).plain(width(options)))
        print()
        print(render([["attack", "outcome"], *([name, state] for name, state in protections.probes.items())]))
        for line in [*protections.missing(), *protections.failures()]:
            print(f"missing: {line}")
    return 3 if protections.tier == "D" else 0
