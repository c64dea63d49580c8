"""How fast candidates are sampled, beside `generate` on the same model, prompts, stops, dtype and threads.

    python tests/benchmarks/sampling.py                   # the embedded model, plain and few-shot prompts
    python tests/benchmarks/sampling.py --parameters 100  # random weights, 100 M parameters

Each pair of runs samples the same puzzles by both, in turn; a ratio is the median over pairs.
`generate` is given its best: so many prompts side by side, and the cache, as a trial finds fastest.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
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
SETTINGS = SamplingSettings(temperature=0.8, top_p=1.0, max_tokens=150, batch_rows=512)
FEW_SHOT_TOKENS = 256


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


def by_generate(model: LanguageModel, chosen: Sequence[Prompt], side_by_side: int, cache: str) -> int:
    """Tokens sampled by the library's own loop."""
    ends, pad = model._end_ids(), model.tokenizer.pad_token_id
    config = GenerationConfig(
        eos_token_id=ends, pad_token_id=pad, do_sample=True, temperature=SETTINGS.temperature, top_k=0,
        max_new_tokens=SETTINGS.max_tokens, num_return_sequences=CANDIDATES, cache_implementation=cache,
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


def by_sample(model: LanguageModel, chosen: Sequence[Prompt], rows: int) -> int:
    """Tokens sampled by ours."""
    return model.sample(chosen, CANDIDATES, replace(SETTINGS, batch_rows=rows), [1]).tokens


def rate(work: Callable[[], int]) -> float:
    """Tokens per second."""
    started = time.monotonic()
    tokens = work()
    return tokens / (time.monotonic() - started)


def best(candidates: dict[str, Callable[[], int]]) -> str:
    """The fastest of several ways, each tried once warm."""
    rates = {}
    for name, work in candidates.items():
        work()
        rates[name] = rate(work)
    return max(rates, key=lambda name: rates[name])


def compare(model: LanguageModel, name: str, chosen: Sequence[Prompt], pairs: int) -> str:
    """One row of the table."""
    trial = chosen[:4]
    theirs = {
        f"{side_by_side * CANDIDATES} rows, {cache} cache": (side_by_side, cache)
        for side_by_side, cache in itertools.product((1, 2, 4), ("dynamic", "static"))
    }
    ours = {f"{rows} rows": rows for rows in (128, 256, 512, 1024)}
    their_best = best({key: lambda value=value: by_generate(model, trial, *value) for key, value in theirs.items()})
    our_best = best({key: lambda rows=rows: by_sample(model, chosen, rows) for key, rows in ours.items()})
    rates = [
        (
            rate(lambda: by_generate(model, chosen, *theirs[their_best])),
            rate(lambda: by_sample(model, chosen, ours[our_best])),
        )
        for _ in range(pairs)
    ]
    tokens = statistics.mean(len(encode_prompt(model.tokenizer, prompt)) for prompt in chosen)
    generate, sample = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(b / a for a, b in rates)
    return f"| {name} | {tokens:.0f} | {generate:,.0f} ({their_best}) | {sample:,.0f} ({our_best}) | **{ratio:.1f}** |"


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzles", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--parameters", type=int, choices=[30, 100], help="millions, random weights")
    options = parser.parse_args()
    model = LanguageModel("embedded", ModelConfig(threads=options.threads))
    if options.parameters:
        random_model(model, options.parameters)
    print(f"{options.puzzles} puzzles, {CANDIDATES} candidates each, medians of {options.pairs} pairs")
    print(f"{model.description}\n")
    print("| prompts | tokens | generate, tokens/s | ours, tokens/s | ratio |\n|---|---|---|---|---|")
    for name, chosen in prompts(options.puzzles, model).items():
        print(compare(model, name, chosen, options.pairs), flush=True)


if __name__ == "__main__":
    main()
