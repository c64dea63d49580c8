"""Tasks for lm-evaluation-harness: its models on our puzzles, scored by the judge.

    lm_eval --model hf --model_args pretrained=… --tasks selfplay_puzzles \
        --include_path "$(python -c 'import selfplay.adapters.lm_eval as t; print(*t.__path__)')"

`--metadata '{"puzzles": "dev"}'` chooses another set, a puzzle file or an archive. No model's code runs in the
harness's process, so there is no `--confirm_run_unsafe_code`. Without a verdict the run ends with `JudgeError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from selfplay.adapters.rewards import usual
from selfplay.adapters.rows import rows
from selfplay.judge import Pair


def dataset(puzzles: str = "heldout", protocol: str = "plain", **_: Any) -> dict[str, Any]:
    """The rows of a set as the split `test`; the arguments are the task's metadata."""
    from datasets import Dataset

    return {"test": Dataset.from_list([asdict(row) for row in rows(puzzles, protocol)])}


def process_results(doc: Mapping[str, str], results: Sequence[Any]) -> dict[str, float]:
    """The share of a puzzle's completions that the judge accepts: pass@1, unbiased for any number of them."""
    texts = results[0] if isinstance(results[0], list) else results
    form = "continuation" if doc["header"] else "chat"
    judged = usual.verify([Pair(doc["puzzle"], doc["header"] + text, form) for text in texts])
    return {"pass_at_1": sum(each.accepted for each in judged) / len(judged)}
