"""Ten minutes on a machine with a GPU: whether sampling and training are right there, and how fast.

    python tests/gpu.py                       # all checks on CUDA; without CUDA it says what it would do
    python tests/gpu.py --only greedy memory  # some of them
    python tests/gpu.py --device cpu --small  # the same code at toy size: whether it runs, not how fast

Each check runs in a process of its own, which is killed at its time limit, and prints one line. The limits are ten
minutes together. The exit status is 1 if a check fails or takes too long. What it does meanwhile goes to the error
output. pytest is not needed; `selfplay` need not be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]

SMOLLM2_SHAPE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 2048,
}  # fmt: skip
"""Shape of SmolLM2-135M, without its vocabulary."""
TOY_SHAPE = {**SMOLLM2_SHAPE, "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 3}  # fmt: skip
MOST_Z = 5.0
"""Standard deviations from which a chance result counts as wrong: one in two million."""
LITTLE_RUN = (
    "propose.proposals=512", "vary.variations=50", "solve.training_puzzles=none", "solve.further_puzzles=0",
    "evaluate.samples_per_puzzle=2", "evaluate.k=[1]", "finetune.max_steps=50",
)  # fmt: skip
"""A run of one iteration whose judging takes seconds, not minutes, on a machine with a few cores."""
TOY_RUN = (
    "propose.proposals=16", "vary.variations=4", "solve.training_puzzles=none", "solve.further_puzzles=0",
    "solve.candidates_per_puzzle=4", "evaluate.samples_per_puzzle=1", "evaluate.k=[1]", "evaluate.max_tokens=8",
    "finetune.max_steps=3",
)  # fmt: skip

TRAINING_RUN = (
    "propose.proposals=0", "vary.variations=0", "solve.training_puzzles=none", "solve.further_puzzles=0",
    "evaluate.samples_per_puzzle=1", "evaluate.k=[1]", "evaluate.max_tokens=8", "finetune.objective=sft",
    "finetune.max_steps=5",
)  # fmt: skip
"""A run that learns from people's pairs alone, so no verdict that depends on CPU time decides about its weights."""


@dataclass(frozen=True)
class Options:
    """Where a check runs, and at which size."""

    device: str
    small: bool

    def model(self, path: str = "embedded", dtype: str = "bfloat16") -> Any:
        """A model on the device."""
        from selfplay.config import ModelConfig
        from selfplay.sampling.model import LanguageModel

        return LanguageModel(path, ModelConfig(device=self.device, dtype=dtype))

    def settings(self) -> list[str]:
        """Settings of a run on the device."""
        return [f"model.device={self.device}", *(TOY_RUN if self.small else LITTLE_RUN)]


class Failed(Exception):
    """The check came to a wrong result, which the message tells."""


# ---- whether it is right ----


def greedy(options: Options) -> str:
    """Greedy texts are those of `generate`, or part from them only where two tokens are as good within rounding."""
    import sampling
    import torch

    from selfplay.sampling.prompts import encode_prompt
    from selfplay.sampling.sampler import SamplingSettings

    tokens, count = (8, 2) if options.small else (64, 16)
    equal = texts = 0
    for dtype in ("float32", "bfloat16"):
        model = options.model(dtype=dtype)
        if "engine" in model.description:
            raise Failed(f"in {dtype}: {model.description['engine']}: {model.description['engine_reason']}")
        exact = copy.deepcopy(model.network).float()
        settings = SamplingSettings(0.0, 1.0, tokens, 4 * count)
        for prompts in sampling.prompts(count, model).values():
            asked = [encode_prompt(model.tokenizer, prompt) for prompt in prompts]
            rows = model.sample(prompts, 2, settings, [0]).completions_P_K
            chance_BM = torch.zeros(count, tokens, device=model.device)
            by_library = model._generate(asked, settings, model._end_ids(), model._lines(), chance_BM)
            for prompt, row, library in zip(asked, rows, by_library, strict=True):
                for one in row:
                    _check_near_tie(model.network, exact, prompt, list(one.drawn.ids), library)
                    equal, texts = equal + (list(one.drawn.ids) == library), texts + 1
    return f"{equal} of {texts} texts equal `generate`'s, the others part at a tie within rounding"


def _check_near_tie(network: Any, exact: Any, prompt: list[int], ours: list[int], library: list[int]) -> None:
    """Check that two texts part, if at all, where the dtype cannot tell which of two tokens is better.

    Raises:
        Failed: They part elsewhere.
    """
    place = next((i for i, (a, b) in enumerate(zip(ours, library, strict=False)) if a != b), None)
    if place is None:
        if len(ours) != len(library):
            raise Failed(f"one text ends after {len(ours)} tokens, that of `generate` after {len(library)}")
        return
    read = [*prompt, *ours[:place]]
    right, found = _logits(exact, read)[-1], _logits(network, read)[-1]
    gap, noise = float(right[ours[place]] - right[library[place]]), float((right - found).abs().max())
    if abs(gap) > 2 * max(noise, 1e-4):
        raise Failed(f"token {place} is {gap:+.4f} in its logit from `generate`'s, rounding is {noise:.4f}")


def _logits(network: Any, text: Sequence[int]) -> Any:
    """The logits `TV` of a text that is read alone."""
    import torch

    from selfplay.sampling.proofs import plain_logits

    with torch.inference_mode():
        return plain_logits(network, text)


def distribution(options: Options) -> str:
    """Sampled bfloat16 texts have the frequencies that the model's own logits give them."""
    import sampling
    import torch

    from selfplay.sampling.prompts import encode_prompt
    from selfplay.sampling.sampler import SamplingSettings

    count, copies, tokens, draws = (2, 4, 8, 200) if options.small else (16, 16, 48, 20_000)
    model = options.model()
    prompts = sampling.prompts(count, model)["few-shot"]
    rows = model.sample(prompts, copies, SamplingSettings(1.0, 1.0, tokens, 256), [1]).completions_P_K
    surplus = variance = 0.0
    for prompt, row in zip(prompts, rows, strict=True):
        read = encode_prompt(model.tokenizer, prompt)
        for one in row:
            ids = list(one.drawn.ids)
            log_TV = _logits(model.network, [*read, *ids])[len(read) - 1 : -1].double().log_softmax(1)
            mean_T, square_T = ((log_TV.exp() * log_TV**power).sum(1) for power in (1, 2))
            drawn_T = log_TV[torch.arange(len(ids)), torch.tensor(ids)]
            surplus += float((drawn_T - mean_T).sum())
            variance += float((square_T - mean_T**2).sum())
    texts_z = surplus / math.sqrt(variance)
    first = model.sample(prompts[:1], draws, SamplingSettings(1.0, 1.0, 1, 1024), [2]).completions_P_K[0]
    right_V = _logits(model.network, encode_prompt(model.tokenizer, prompts[0]))[-1].double().softmax(0).cpu()
    counts_V = torch.bincount(torch.tensor([one.drawn.ids[0] for one in first]), minlength=len(right_V))
    often_V = right_V * draws >= 5
    expected = torch.cat([right_V[often_V], right_V[~often_V].sum()[None]]) * draws
    seen = torch.cat([counts_V[often_V], counts_V[~often_V].sum()[None]])
    chi, freedom = float(((seen - expected) ** 2 / expected.clamp(min=1e-9)).sum()), max(1, len(expected) - 1)
    first_z = (chi - freedom) / math.sqrt(2 * freedom)
    told = f"z of texts' log-probabilities {texts_z:+.2f}, of the first token's frequencies {first_z:+.2f}"
    if max(abs(texts_z), first_z) > MOST_Z:
        raise Failed(f"{told}: expected at most {MOST_Z:.0f}")
    return told


# ---- how fast it is ----


def embedded_speed(options: Options) -> str:
    """Tokens per second beside `generate`, the embedded model, plain prompts, 128 and 1,024 rows."""
    model = options.model()
    return _beside_generate(model, options, "plain", 16 if options.small else 96)


def smollm2_speed(options: Options) -> str:
    """Tokens per second beside `generate`, SmolLM2 or a random Llama of its shape, few-shot prompts, the same."""
    import sampling

    from puzzles.puzzle import InputError

    name = "SmolLM2"
    try:
        if options.small:
            raise InputError("a toy is enough")
        model = options.model("smollm2")
    except InputError as error:
        sampling.tell(f"a random model: {error}")
        model, name = options.model(), "random"
        sampling.random_llama(model, **(TOY_SHAPE if options.small else SMOLLM2_SHAPE))
    millions = sum(weight.numel() for weight in model.network.parameters()) / 1e6
    told = _beside_generate(model, options, "few-shot", 8 if options.small else 64)
    return f"{name}, {millions:.1f} M parameters: {told}"


def _beside_generate(model: Any, options: Options, kind: str, tokens: int) -> str:
    """Both ways on the same texts, two batches of `generate` each; the first call of each does not count."""
    import sampling
    import torch

    from selfplay.sampling.sampler import SamplingSettings

    copies, sizes = (4, (8, 16)) if options.small else (16, (128, 1024))
    told = []
    for rows in sizes:
        chosen = sampling.prompts(2 * rows // copies, model)[kind]
        settings = SamplingSettings(0.8, 1.0, tokens, rows)
        side_by_side = rows // copies

        def ours(settings: SamplingSettings = settings, chosen: Sequence[Any] = chosen) -> int:
            return int(model.sample(chosen, copies, settings, [1]).tokens)

        def library(n: int = side_by_side, settings: SamplingSettings = settings, chosen: Any = chosen) -> int:
            return sampling.by_generate(model, chosen, settings, n, "dynamic", copies)

        rates: list[float] = []
        for name, work in (("generate", library), ("ours", ours)):
            try:
                with contextlib.suppress(torch.cuda.OutOfMemoryError):
                    work(settings=replace(settings, max_tokens=2))  # warm
                rates.append(sampling.rate(f"{rows} rows, {name}", work))
            except torch.cuda.OutOfMemoryError:
                rates.append(0.0)
                torch.cuda.empty_cache()
        theirs, own = rates
        ratio = f"{own / theirs:.1f} times" if theirs else "beside too little memory for it"
        told.append(f"{rows:,} rows {own:,.0f} tokens/s, {ratio} `generate`'s {theirs:,.0f}")
    return "; ".join(told)


def training_speed(options: Options) -> str:
    """Training tokens per second beside transformers' Trainer with batches by length, the embedded model."""
    import training

    model = options.model(dtype="float32")
    work = _examples(model, options)
    ways = {"ours": training.ours, "Trainer": training.by_length}
    for way in ways.values():  # warm: the first steps choose kernels
        training.measured(way, model, work[: len(work) // 3])
    speeds = {name: training.measured(way, model, work)[1] for name, way in ways.items()}
    ratio = speeds["ours"] / speeds["Trainer"]
    return f"{speeds['ours']:,.0f} tokens/s, {ratio:.2f} times Trainer's {speeds['Trainer']:,.0f}"


def _examples(model: Any, options: Options) -> Any:
    """Examples for a training of some dozens of steps; small ones have small steps."""
    import training

    if options.small:
        training.BATCH_TOKENS = 256
    return training.tokenized(model.tokenizer, "plain", ("propose", "solve"), 40 if options.small else 1500)


def memory(options: Options) -> str:
    """Peak memory of sampling and of training beside what was foretold for them."""
    import training

    from selfplay.config import FinetuneConfig
    from selfplay.sampling.prompts import propose_prompt
    from selfplay.sampling.sampler import SamplingSettings
    from selfplay.training.finetune import TransformersBackend

    tokens = 8 if options.small else 96
    model = options.model()
    rows = 16 if options.small else model.batch_rows(tokens)
    foretold, free = rows * model.row_bytes(tokens), model.free_bytes
    settings = SamplingSettings(1.0, 1.0, tokens, rows)
    with _peak(model) as peak:
        model.sample([propose_prompt("plain")], rows, settings, [1])
    sampled = peak[0]
    model = options.model(dtype="float32")
    needs = TransformersBackend().needs(model, FinetuneConfig())
    work = _examples(model, options)
    with _peak(model) as peak:
        training.measured(training.ours, model, work)
    trained = peak[0]
    told = (
        f"sampling {rows:,} rows {sampled / 1e6:,.0f} MB of {foretold / 1e6:,.0f} foretold; "
        f"training {trained / 1e6:,.0f} MB, at least {needs.memory_bytes / 1e6:,.0f} foretold"
    )
    if model.device.type == "cuda" and (sampled > free / 2 or trained < needs.memory_bytes):
        raise Failed(f"{told}; {free / 1e6:,.0f} MB were free, of which sampling may take half")
    return told


@contextlib.contextmanager
def _peak(model: Any) -> Iterator[list[int]]:
    """Bytes that the block takes at most beside what was there; on a CPU, by which the process's own peak grows."""
    import torch

    cuda, peak = model.device.type == "cuda", [0]
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield peak
    after = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak[0] = after - before


# ---- whole runs ----


def overlap(options: Options) -> str:
    """An iteration with the next chunk sampled while this one is judged, and without."""
    import iteration

    settings = [*options.settings(), "finetune.objective=none", f"chunk_texts={16 if options.small else 256}"]
    seconds = {way: iteration.measured([*settings, f"model.overlap={way}"]).growing for way in ("yes", "no")}
    return f"sampling and judging take {seconds['yes']:.1f} s with overlap, {seconds['no']:.1f} s without"


def whole_iteration(options: Options) -> str:
    """One iteration of a run, and its parts."""
    import iteration

    run = iteration.measured(options.settings())
    parts = ", ".join(f"{part} {run.times[part]:.1f}" for part in iteration.PARTS)
    sampler = run.records[1]["sampler"]
    engine = f", by {sampler['engine']}" if "engine" in sampler else ""
    return f"{run.iteration:.1f} s ({parts}) on {sampler['device']} in {sampler['dtype']}{engine}"


def torchrun(options: Options) -> str:
    """A run that torchrun starts in one process ends with the weights of one without it."""
    settings = [argument for each in (f"model.device={options.device}", *TRAINING_RUN) for argument in ("--set", each)]
    command = ["-m", "selfplay", "run", "--set", "iterations=1", *settings]
    by_torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    hashes, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, start in (("alone", []), ("torchrun", by_torchrun)):
            started = time.monotonic()
            place = Path(folder, name)
            place.mkdir()
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                [sys.executable, *start, *command], cwd=place, env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            seconds.append(time.monotonic() - started)
            if done.returncode:
                sys.stderr.write(done.stdout + done.stderr)
                raise Failed(f"{name}: exit status {done.returncode}")
            records = (place / "runs" / "embedded" / "records.jsonl").read_text("utf-8").splitlines()
            hashes.append(json.loads(records[1])["checkpoint"])
    same = "the same weights" if hashes[0] == hashes[1] else "other weights, as training on a GPU is not deterministic"
    if hashes[0] != hashes[1] and options.device == "cpu":
        raise Failed("other weights than without torchrun")
    return f"{seconds[1]:.1f} s, {seconds[0]:.1f} s without; {same}"


CHECKS: dict[str, tuple[int, Callable[[Options], str]]] = {
    "greedy": (50, greedy),
    "distribution": (50, distribution),
    "embedded-speed": (60, embedded_speed),
    "smollm2-speed": (120, smollm2_speed),
    "training-speed": (60, training_speed),
    "memory": (40, memory),
    "overlap": (90, overlap),
    "iteration": (70, whole_iteration),
    "torchrun": (60, torchrun),
}
"""Time limits in seconds, ten minutes together, and the checks."""
MORE_TIME = 10
"""With `--small` on a CPU, limits are so many times longer: it may be a slow one."""


def run_one(name: str, options: Options) -> int:
    """Do a check in this process, and print its result as JSON in the last line."""
    try:
        told, status = CHECKS[name][1](options), "ok"
    except Failed as failure:
        told, status = str(failure), "FAILED"
    print(json.dumps({"status": status, "told": told}), flush=True)
    return status != "ok"


def in_child(name: str, options: Options) -> tuple[str, str]:
    """Do a check in a process group of its own, which is killed at the limit: its status, and what it tells."""
    seconds = CHECKS[name][0] * (MORE_TIME if options.small else 1)
    command = [sys.executable, __file__, "--one", name, "--device", options.device, *["--small"] * options.small]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            return "TOO LONG", f"more than {seconds} s"
    last = (output.splitlines() or [""])[-1]
    if not last.startswith("{"):
        return "FAILED", f"exit status {process.returncode}; the error output says why"
    answer = json.loads(last)
    return answer["status"], answer["told"]


def main() -> int:
    """Do the checks, or say what they would be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="where to run; by default CUDA, and without it nothing is run")
    parser.add_argument("--small", action="store_true", help="toy sizes: whether it runs")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--one", choices=CHECKS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    names = asked.only or list(CHECKS)
    if asked.one:
        return run_one(asked.one, Options(asked.device, asked.small))
    import torch

    if not asked.device and not torch.cuda.is_available():
        print("There is no CUDA here. On a machine with it, this would be done:")
        for name in names:
            print(f"{name:15}  at most {CHECKS[name][0]:3} s  {(CHECKS[name][1].__doc__ or '').splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that a check does not outlive this process
    options = Options(asked.device or "cuda", asked.small)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(f"torch {torch.__version__} on {where}", flush=True)
    failed = False
    for name in names:
        started = time.monotonic()
        status, told = in_child(name, options)
        failed |= status != "ok"
        print(f"{name:15}  {status:8}  {time.monotonic() - started:4.0f} s  {told}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
