"""How fast candidates are sampled, beside `generate` on the same model, prompts, stops, dtype and threads.

    python tests/benchmarks/sampling.py                   # the embedded model, plain and few-shot prompts
    python tests/benchmarks/sampling.py --parameters 100  # random weights, 100 M parameters, shorter texts
    python tests/benchmarks/sampling.py --prompts plain   # one row of the table only

Each pair of runs samples the same puzzles by both, in turn; a ratio is the median over pairs.
`generate` is given its best: so many prompts side by side, and the cache, as a trial finds fastest;
so are our rows side by side. A trial has as many puzzles as fill its rows, at least four, and is
timed when it is warm; with `--parameters`, where all puzzles are alike and each takes long, just so
many, after one short call of each. What is being done is told on the error output.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, StoppingCriteriaList

sys.path.insert(0, str(Path(__file__).parents[2]))

from puzzles import families
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.verify import truth_pool
from selfplay.config import ModelConfig
from selfplay.model import LanguageModel, _LineStop, _without_padding
from selfplay.prompts import Prompt, encode_prompt, solve_prompt
from selfplay.sampler import SamplingSettings

CANDIDATES = 100
FEW_SHOT_TOKENS = 256
SIDE_BY_SIDE = (1, 2, 4)
"""Puzzles in a call of `generate`."""
CACHES = ("dynamic", "static")
ROWS = (256, 512, 1024, 2048)
"""Side by side in ours."""
TRIAL_PUZZLES = 4
"""At least, where it costs little: so that a choice does not hang on one puzzle."""
WARMING = SamplingSettings(temperature=0.8, top_p=1.0, max_tokens=2, batch_rows=CANDIDATES)


def prompts(count: int, model: LanguageModel) -> dict[str, list[Prompt]]:
    """Rule-based puzzles as the model is asked them: alone, and after pairs that fill about 256 tokens."""
    drawn = list(families.generate(7, count + 40, []))
    with truth_pool() as pool:
        puzzles = parse_puzzles(pool, [Text(pair.puzzle) for pair in drawn])
        solutions = parse_candidates(pool, [Text(pair.solution) for pair in drawn])
    shots = list(zip(puzzles, solutions, strict=True))[count:]

    def few_shot(puzzle: Any) -> Prompt:
        fitting = (
            prompt
            for number in range(len(shots), -1, -1)
            if len(encode_prompt(model.tokenizer, prompt := solve_prompt("few-shot", puzzle, shots[:number])))
            <= FEW_SHOT_TOKENS
        )
        return next(fitting)

    return {
        "plain": [solve_prompt("plain", puzzle) for puzzle in puzzles[:count]],
        "few-shot": [few_shot(puzzle) for puzzle in puzzles[:count]],
    }


def by_generate(
    model: LanguageModel, chosen: Sequence[Prompt], settings: SamplingSettings, side_by_side: int, cache: str
) -> int:
    """Tokens sampled by the library's own loop."""
    ends, pad = model._end_ids(), model.tokenizer.pad_token_id
    config = GenerationConfig(
        eos_token_id=ends, pad_token_id=pad, do_sample=True, temperature=settings.temperature, top_k=0,
        max_new_tokens=settings.max_tokens, num_return_sequences=CANDIDATES, cache_implementation=cache,
    )  # fmt: skip
    ids = sorted((encode_prompt(model.tokenizer, prompt) for prompt in chosen), key=len)
    tokens = 0
    for group in (ids[start : start + side_by_side] for start in range(0, len(ids), side_by_side)):
        width = max(map(len, group))
        input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in group])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in group])
        with torch.inference_mode():
            output = model.network.generate(
                input_ids, attention_mask=mask, generation_config=config,
                stopping_criteria=StoppingCriteriaList([_LineStop(model._lines())]),
            )  # fmt: skip
        tokens += sum(len(_without_padding(row, ends, pad)) for row in output[:, width:].tolist())
    return tokens


def by_sample(model: LanguageModel, chosen: Sequence[Prompt], settings: SamplingSettings) -> int:
    """Tokens sampled by ours."""
    return model.sample(chosen, CANDIDATES, settings, [1]).tokens


def rate(name: str, work: Callable[[], int]) -> float:
    """Tokens per second; told on the error output."""
    started = time.monotonic()
    tokens = work()
    seconds = time.monotonic() - started
    tell(f"{name}: {tokens:,} tokens in {seconds:.1f} s")
    return tokens / seconds


def tell(text: str) -> None:
    """A sign of life."""
    print(text, file=sys.stderr, flush=True)


def best(name: str, ways: dict[str, Callable[[], int]], warm: bool) -> str:
    """The fastest of several ways, each tried once; after a try that does not count, if they are to be warm."""
    rates = {}
    for way, work in ways.items():
        if warm:
            work()
        rates[way] = rate(f"{name}, trial of {way}", work)
    return max(rates, key=lambda way: rates[way])


def compare(
    model: LanguageModel, name: str, chosen: Sequence[Prompt], settings: SamplingSettings, pairs: int, small: bool
) -> str:
    """One row of the table; trials of a small model have more puzzles, and are warm."""

    def generate(prompts: Sequence[Prompt], side_by_side: int, cache: str) -> int:
        return by_generate(model, prompts, settings, side_by_side, cache)

    def sample(prompts: Sequence[Prompt], rows: int) -> int:
        return by_sample(model, prompts, replace(settings, batch_rows=rows))

    def trial(puzzles: int) -> Sequence[Prompt]:
        return chosen[: max(puzzles, TRIAL_PUZZLES if small else 1)]

    # What is more than all of them side by side would be the same again.
    most = len(chosen)
    calls = itertools.product([n for n in SIDE_BY_SIDE if n <= most], CACHES)
    theirs = {f"{n * CANDIDATES} rows, {cache} cache": (n, cache) for n, cache in calls}
    ours = {f"{rows} rows": rows for rows in ROWS if rows == ROWS[0] or rows < 2 * most * CANDIDATES}
    their_trials = {way: partial(generate, trial(value[0]), *value) for way, value in theirs.items()}
    our_trials = {way: partial(sample, trial(math.ceil(rows / CANDIDATES)), rows) for way, rows in ours.items()}
    their_best = best(f"{name}, generate", their_trials, warm=small)
    our_best = best(f"{name}, ours", our_trials, warm=small)
    rates = [
        (
            rate(f"{name}, pair {pair}, generate", lambda: generate(chosen, *theirs[their_best])),
            rate(f"{name}, pair {pair}, ours", lambda: sample(chosen, ours[our_best])),
        )
        for pair in range(1, pairs + 1)
    ]
    tokens = statistics.mean(len(encode_prompt(model.tokenizer, prompt)) for prompt in chosen)
    a, b = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(our / their for their, our in rates)
    return f"| {name} | {tokens:.0f} | {a:,.0f} ({their_best}) | {b:,.0f} ({our_best}) | **{ratio:.1f}** |"


def random_model(model: LanguageModel, millions: int) -> None:
    """Put a larger network with random weights under the embedded tokenizer."""
    width = {100: 768, 30: 448}[millions]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(model.tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12,
        num_attention_heads=width // 64, max_position_embeddings=1024, tie_word_embeddings=True,
        eos_token_id=model.tokenizer.eos_token_id, pad_token_id=model.tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    before = model.network
    model.network = LlamaForCausalLM(config).eval()
    model.network.generation_config = before.generation_config
    print(f"{sum(p.numel() for p in model.network.parameters()) / 1e6:.0f} M parameters, random\n")


def main() -> None:
    """Print a table with one row per kind of prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzles", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tokens", type=int, help="of a candidate at most (default: 150; 32 with --parameters)")
    parser.add_argument("--prompts", choices=["plain", "few-shot"], help="only these (default: both)")
    parser.add_argument("--parameters", type=int, choices=[30, 100], help="millions, random weights")
    options = parser.parse_args()
    tokens = options.tokens or (32 if options.parameters else 150)
    settings = SamplingSettings(temperature=0.8, top_p=1.0, max_tokens=tokens, batch_rows=512)
    model = LanguageModel("embedded", ModelConfig(threads=options.threads))
    if options.parameters:
        random_model(model, options.parameters)
    print(
        f"{options.puzzles} puzzles, {CANDIDATES} candidates each of at most {tokens} tokens, "
        f"medians of {options.pairs} pairs"
    )
    print(f"{model.description}\n", flush=True)
    asked = prompts(options.puzzles, model)
    if options.parameters:
        shortest = asked["plain"][:1]
        rate("warming, generate", lambda: by_generate(model, shortest, WARMING, 1, CACHES[0]))
        rate("warming, ours", lambda: by_sample(model, shortest, WARMING))
    print("| prompts | tokens | generate, tokens/s | ours, tokens/s | ratio |\n|---|---|---|---|---|", flush=True)
    for name in [options.prompts] if options.prompts else asked:
        print(compare(model, name, asked[name], settings, options.pairs, not options.parameters), flush=True)


if __name__ == "__main__":
    main()
