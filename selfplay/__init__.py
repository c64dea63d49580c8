"""The model and the loop.

The rooms, from the bottom: the files here (settings, and how tables are written), `run` (a run's folder), `sampling`
(prompt to text), `training` (lessons to weights), `scoring`, `iteration` (the loop), `experiments`, `inspecting`,
`benchmark`, `commands`. Each imports only what stands below it. Start reading at `iteration/loop.py`.

The names below are the public Python API; each is imported when it is first used, so `import selfplay` stays cheap.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfplay.experiments.engines import run_iterations
    from selfplay.run.consent import load
    from selfplay.sampling.judging import judge_texts
    from selfplay.sampling.model import LanguageModel
    from selfplay.sampling.prompts import propose_prompt, solve_prompt
    from selfplay.sampling.sampler import SamplingSettings

# Before torch is imported anywhere: its threads otherwise spin while they wait for each other, and one
# busy neighbour makes sampling five times slower (590 against 3,050 tokens/s on two cores).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# oneDNN compiles a product in bfloat16 for each new shape. It keeps about 1 MB for each; a training has hundreds of
# shapes. A step of sampling has up to 80 that all its layers share, and compiles them in each layer if fewer are kept.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

__all__ = [
    "LanguageModel", "SamplingSettings", "judge_texts", "load", "propose_prompt", "run_iterations", "solve_prompt",
]  # fmt: skip
_HOMES = {
    "LanguageModel": "selfplay.sampling.model",
    "SamplingSettings": "selfplay.sampling.sampler",
    "judge_texts": "selfplay.sampling.judging",
    "load": "selfplay.run.consent",
    "propose_prompt": "selfplay.sampling.prompts",
    "run_iterations": "selfplay.experiments.engines",
    "solve_prompt": "selfplay.sampling.prompts",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
