"""A run's settings: frozen dataclasses, read from TOML, changed by `--set a.b=c`, written back as resolved.

An unknown key stops with the nearest known one. Defaults are the ancestor's where it has one
(arXiv:2207.14502; file names are of its ICLR2023/src), and sized for a model that is worth its
GPU; the embedded default, `embedded/run.toml`, is smaller.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import typing
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from puzzles.foreign import read_toml, shortened, shown
from puzzles.puzzle import InputError
from sandbox.result import Limits
from selfplay.training.game import GAMES


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of range."""


@dataclass(frozen=True)
class ModelConfig:
    """The one model that proposes and solves."""

    path: str = "embedded"
    """`embedded`, a local folder in Hugging Face form, or a hub name."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: str = "auto"
    """For sampling: `auto` (bfloat16 on CUDA, float32 elsewhere), `float32`, `bfloat16`, `float16`."""
    threads: int = 0
    """Of torch on a CPU; 0 takes the cores available when a run begins, which then keeps the number."""
    overlap: str = "auto"
    """Whether a chunk is sampled while the one before it is judged: `auto` (when the model is not on the CPU),
    `yes`, `no`. On a CPU it needs cores of its own: `threads` and `sandbox.lanes` together no more than there are."""


@dataclass(frozen=True)
class PromptConfig:
    """How puzzles are shown to the model; the same in sampling and training."""

    protocol: str = "auto"
    """`plain`, `few-shot` or `chat`; `auto` takes what the checkpoint was saved with, else few-shot."""
    shots: int = 5
    """Pairs before the puzzle, and puzzles before a proposal, with `few-shot`. The ancestor's prefix has 5."""


@dataclass(frozen=True)
class DataConfig:
    """The three disjoint sets: learned from, chosen by, reported on."""

    train: str = "train"
    """`train` (the hand-written set), a puzzle file, an archive of imported ones, or `none`: with `rules` alone a run
    begins without any puzzle of people (tabula rasa)."""
    dev: str = "dev"
    heldout: str = "heldout"
    references: bool = True
    """Whether the training puzzles' own solutions are trained on; the ancestor did without."""
    rules: int = 0
    """So many pairs of the rule families (`puzzles.rules`) stand beside the training puzzles; they are references,
    and not tried."""


@dataclass(frozen=True)
class ProposeConfig:
    """Sampling of new puzzles."""

    proposals: int = 4096
    """Texts sampled per iteration. The ancestor: 256,000 (babysit.sh)."""
    proposals_per_prompt: int = 64
    """The ancestor's `per_prompt`."""
    begun: float = 0.0
    """Share of the texts that go on from the beginning of a solved puzzle, cut at random (not with `chat`)."""
    temperature: float = 0.9
    top_p: float = 1.0
    max_tokens: int = 200
    strategy: str = "uniform"
    """From which solved puzzles: `uniform`, any as often as any other; `niches`, for each prompt those nearest to a
    niche drawn among the filled ones and the empty ones between them, the most instructive first."""


@dataclass(frozen=True)
class SolveConfig:
    """Sampling of candidates."""

    candidates_per_puzzle: int = 100
    """The ancestor's attempts (babysit.sh)."""
    further_puzzles: int = 0
    """Of so many, those of which the first candidates let most be hoped for, more are sampled in each iteration; so
    the first ones may be few (`solve.worth_further`)."""
    further_candidates: int = 48
    training_puzzles: str = "all"
    """Which training puzzles are tried each iteration beside the proposed ones: `all`, `unsolved`, `none`."""
    temperature: float = 0.9
    top_p: float = 1.0
    max_tokens: int = 150
    most_proposed: int = 0
    """Of an iteration's proposals at most so many get candidates: those of which a ranker, fitted to what was tried
    before, says that most is to be learned (`ranker.py`). 0, or in the first iteration: all."""


@dataclass(frozen=True)
class VaryConfig:
    """New puzzles from the archive's own, which the model then tries as those it proposed."""

    variations: int = 0
    """Made per iteration, evenly over the ways; hindsight begins with the second."""
    ways: tuple[str, ...] = ("hindsight", "join", "nest")
    """`hindsight`: constants that make a wrong answer right; `join`: two puzzles asked together; `nest`: what one
    computes is what the other asks for."""


@dataclass(frozen=True)
class SandboxConfig:
    """Limits of one child, and what must stand around it."""

    cpu_seconds: float = 1.0
    wall_seconds: float = 5.0
    memory_mb: int = 512
    answer_kb: int = 256
    recursion_limit: int = 10_000
    lanes: int = 0
    """Children at the same time; 0 takes the cores available."""
    minimum_tier: str = "B"
    """Below it nothing runs: `A`, `B`, or `D` to allow anything."""
    modules: tuple[str, ...] = ()
    """Importable beside the pure ones, for imported puzzles and candidates."""

    def limits(self) -> Limits:
        """As the sandbox takes them.

        Raises:
            ConfigError: A limit is out of range.
        """
        memory, answer = self.memory_mb * 1024**2, self.answer_kb * 1024
        try:
            return Limits(self.cpu_seconds, self.wall_seconds, memory, answer, self.recursion_limit)
        except ValueError as error:
            raise ConfigError(f"sandbox: {error}") from None


@dataclass(frozen=True)
class FinetuneConfig:
    """Training on verified pairs."""

    start: str = "base"
    """`base`: each iteration from the first model on all pairs, as the ancestor; `previous`: go on."""
    solutions_per_puzzle: int = 8
    """Of the distinct ones, as the ancestor (preprocess.py). Of `sft`, `spin` and `dpo`, and the next three
    settings of `sft` and `spin`: other objectives learn from all the texts that they choose."""
    shortest: bool = True
    """Whether these are the shortest, as the ancestor's; else any, by their hash. The shortest of a small model are
    lucky guesses."""
    verified: bool = True
    """`false` trains on the model's own puzzles with its well-formed candidates, right or wrong, as the ancestor's
    unverified baseline; of verified pairs only the references are left (`data.references`), so `vary.variations`, which
    are made of verified answers, must be 0."""
    most_solved: float = 1.0
    """A run's own puzzles are trained on if no more than this share of the candidates was accepted: what it solves
    nearly always teaches little, and as examples of a puzzle such ones make the next easier still."""
    roles: tuple[str, ...] = ("propose", "solve")
    """What a pair teaches: to propose its puzzle, to solve it, or both (the ancestor trains on all text)."""
    epochs: float = 4.0
    """Over the chosen pairs; the ancestor's babysit.sh has 4, its paper's runs 10."""
    max_steps: int = 100_000
    """Upper bound of optimiser steps per iteration."""
    learning_rate: float = 2e-5
    batch_tokens: int = 8192
    """Tokens of one optimiser step, padding included."""
    warmup_steps: int = 10
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    dtype: str = "auto"
    """`auto`: bfloat16 autocast where the hardware is fast at it; `float32`, `bfloat16`."""
    micro_batch_tokens: int = 0
    """Tokens in memory at a time, padding included: a step goes through the model in parts of this size, with the
    same result within rounding. 0: the whole step at once. Halved when the memory runs out."""
    checkpointing: bool = False
    """Whether activations are computed again on the way back: less memory, more time; nothing is shared then."""
    lora_rank: int = 0
    """Above 0 only adapters of this rank are trained, on all linear layers, and merged into the saved weights; needs
    the `[lora]` extra. 0: all weights."""
    lora_alpha: float = 32.0
    """Adapters count `lora_alpha / lora_rank` times; common is twice the rank."""
    data: str = "accumulate"
    """Whether what all iterations found is trained on, or with `replace` what the last one found alone."""
    objective: str = "sft"
    """What is learned: `sft`, that the chosen pairs be likely; `filtered`, the same of texts chosen by their rewards;
    `spin`, `dpo`, that right candidates gain on wrong ones; `grpo`, that texts which did better than their group become
    likelier, and the others less; `none`, nothing, and all iterations are the first model's."""
    game: str = "learnability"
    """Of `filtered` and `grpo`: what a proposal is paid by its solve rate p, `competitive` 1 - p, `cooperative` p,
    `learnability` 4 p (1 - p), `balanced` min(p, 1 - p), or `absolute-zero`'s cases. To `filtered`
    the last three come to nearly the same: puzzles that some candidates solve and some do not."""
    normalise_roles: bool = False
    """Of `grpo`: whether rewards are compared within their role and divided by its deviation, as Absolute Zero's TRR++;
    else within their prompt, and not divided."""
    failing_only: bool = True
    """Of `spin`: whether verified solutions are set against texts that failed alone; else against any."""
    beta: tuple[float, ...] = (0.1, 0.1, 0.1, 5.0)
    """Of `spin` and `dpo`, by iteration, the last for all that follow: how little a difference is enough. SPIN's."""
    clip_ratio: float = 0.2
    """Of `grpo`: a token whose probability has changed by this share in its advantage's direction is left alone."""
    balance: str = "none"
    """`niches`: pairs are left out and repeated such that each niche and difficulty has as many (`select.balanced`)."""
    most_fall: float = 3.0
    """`spin` and `dpo` are content if right candidates fall, as long as wrong ones fall deeper. A training ends where
    right ones have lost more nats than this per candidate, in the mean of its last tenth; 0: never. Of the embedded
    model, with some 30 tokens per candidate, one that had lost 7 was no better than before its training, and one that
    had lost 1 was; longer candidates may lose more."""
    shard: str = "none"
    """Of trainings in several processes, which `torchrun` begins: `none`, each has all weights; `full`, weights,
    gradients and the optimiser's state are spread over them (FSDP2), for models that do not fit one GPU."""

    @property
    def trains(self) -> bool:
        """Whether an iteration makes a checkpoint."""
        return self.objective != "none"

    def beta_of(self, iteration: int) -> float:
        """An iteration's `beta`; the first iteration that trains is 1."""
        return self.beta[min(iteration, len(self.beta)) - 1]


@dataclass(frozen=True)
class EvaluateConfig:
    """Scoring on dev and held-out."""

    samples_per_puzzle: int = 100
    """n, fixed in advance. The ancestor: 100."""
    k: tuple[int, ...] = (1, 10, 100)
    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 150


@dataclass(frozen=True)
class EndpointConfig:
    """Servers that sample in place of the model here, if there are any: whatever speaks OpenAI's protocol."""

    urls: tuple[str, ...] = ()
    """Of servers that run by themselves, such as `http://127.0.0.1:8000/v1`."""
    serve: str = ""
    """Or a command that serves a checkpoint, begun with each iteration's and ended with it, such as
    `vllm serve {checkpoint} --port {port}`; in an environment of its own."""
    servers: int = 1
    """Begun so, side by side."""
    model: str = ""
    """What the servers call the model; by default the first that they list."""
    concurrent_requests: int = 16
    """Of all servers together."""
    candidates_per_request: int = 1
    """Asked for at once (`n`), of servers that can."""
    request_seconds: float = 300.0
    """Then a request is asked again."""
    start_seconds: float = 900.0
    """Within them a server that is begun here must answer."""
    attempts: int = 8
    """At a request, with longer and longer pauses: 40 seconds in all, or as a server asks for."""
    key_variable: str = "OPENAI_API_KEY"
    """The variable of the environment that holds the key; none is needed by servers that want none."""
    prompt_price: float = 0.0
    """Of a million tokens read, for `budget.price`."""
    completion_price: float = 0.0
    """Of a million tokens written."""


@dataclass(frozen=True)
class RayConfig:
    """Where Ray is, with `executor = "ray"`. On each node `sandbox.lanes` children run at the same time."""

    address: str = ""
    """`host:port` of a cluster, or `auto` for the one on this machine; by default `RAY_ADDRESS`, or else Ray is started
    here and ended with the command."""
    samplers: int = 0
    """Actors that sample, a chunk each, and at most one per graphics card of the cluster; 0: one per card, or one where
    there is none."""


@dataclass(frozen=True)
class BudgetConfig:
    """What a run may cost in all its sessions. It stops before the chunk, training or scoring that would begin when
    the budget is spent; with a larger one the same command goes on."""

    seconds: float = 0.0
    """Of sampling, judging, training and scoring, added up, also where they overlap; 0: no bound."""
    tokens: int = 0
    """Sampled (without prompts) and trained on (with them); 0: no bound."""
    price: float = 0.0
    """Of what servers have read and written, by `endpoint.prompt_price` and `completion_price`; 0: no bound."""


@dataclass(frozen=True)
class CollapseConfig:
    """When a run's proposals count as collapsing, and what then happens. Limits of an iteration by itself are shares;
    others are in parts of the run's first iteration. None was met in healthy runs of the embedded model (their worst in
    brackets, of seven runs and 19 iterations); 0 of what is least, and a large number of what is most, never alarms."""

    action: str = "continue"
    """`continue` says so, `stop` ends the run, `rollback` sets aside what came after the iteration that is best on dev
    and trains on what is left, from there; `rebalance` trains on pairs evened over niches (`finetune.balance`)."""
    least_well_formed: float = 0.25
    """Of the proposed texts, those that are puzzles. [0.51]"""
    least_distinct_forms: float = 0.7
    """Of those, different ones. [0.99]"""
    most_trivial: float = 0.25
    """Of those, with a trivial answer. [0.07]"""
    most_near_duplicates: float = 0.25
    """Of the admitted, near another one. [0.04]"""
    least_niche_entropy: float = 0.7
    """Of iteration 1's: what is left of 6 bits where half of all puzzles fall into one niche is 4. [0.85]"""
    least_token_entropy: float = 0.8
    """Of iteration 1's, of runs of three tokens. [0.94]"""
    least_vendi: float = 0.5
    """Of iteration 1's: .42 is left where three puzzles in ten differ in constants only. [0.72]"""
    least_length: float = 0.5
    """Of iteration 1's characters. [0.83]"""
    most_length: float = 2.0
    """Of iteration 1's characters. [1.00]"""
    most_always_solved: float = 0.5
    """Of the tried puzzles, those that every candidate solves. [0.04]"""
    most_never_solved: float = 0.95
    """Of the tried puzzles, those that none solves. [0.86]"""
    most_human_auc: float = 0.97
    """Of a classifier that tells proposals from people's puzzles. [0.84]"""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes."""

    iterations: int = 3
    seed: int = 0
    chunk_texts: int = 4096
    """Texts per chunk, the unit of resuming: at most so many are sampled again after a crash."""
    batch_rows: int = 0
    """Sequences sampled side by side; 0: as many as half of the memory that is free when a run begins holds, at most
    1,024, and the run keeps the number. Each chunk records its own, which is halved when the memory runs out."""
    heldout_every: int = 1
    """Held-out is scored at every so many iterations, and at the first and the last; dev, which chooses, at each."""
    gate: bool = False
    """Whether a new checkpoint is sampled from only if it beats, on dev, the one that is now.
    What was found is kept either way."""
    keep_checkpoints: str = "all"
    """`all`, or `best`: the best on dev and the last."""
    tensorboard: bool = False
    executor: str = "local"
    """Where is sampled and judged: `local`, in this process and its children, or `ray`, on the nodes of a cluster
    (`selfplay.sampling.cluster`). What is computed is the same; training is here either way."""
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    solve: SolveConfig = field(default_factory=SolveConfig)
    vary: VaryConfig = field(default_factory=VaryConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        _check(self)


CHOICES = {
    "keep_checkpoints": ("all", "best"),
    "executor": ("local", "ray"),
    "prompt.protocol": ("auto", "plain", "few-shot", "chat"),
    "solve.training_puzzles": ("all", "unsolved", "none"),
    "sandbox.minimum_tier": ("A", "B", "D"),
    "propose.strategy": ("uniform", "niches"),
    "finetune.start": ("base", "previous"),
    "finetune.balance": ("none", "niches"),
    "collapse.action": ("continue", "stop", "rollback", "rebalance"),
    "finetune.dtype": ("auto", "float32", "bfloat16"),
    "finetune.objective": ("none", "sft", "filtered", "spin", "dpo", "grpo"),
    "finetune.data": ("accumulate", "replace"),
    "finetune.shard": ("none", "full"),
    "finetune.game": tuple(GAMES),
    "model.overlap": ("auto", "yes", "no"),
    "model.dtype": ("auto", "float32", "bfloat16", "float16"),
}
MAY_BE_ZERO = {
    "seed", "model.threads", "sandbox.lanes", "prompt.shots", "finetune.warmup_steps", "finetune.weight_decay",
    "finetune.micro_batch_tokens", "finetune.lora_rank", "finetune.most_fall", "batch_rows", "budget.seconds",
    "budget.tokens", "budget.price", "endpoint.prompt_price", "endpoint.completion_price", "propose.proposals",
    "propose.begun", "solve.further_puzzles", "solve.most_proposed", "iterations", "vary.variations", "data.rules",
    "propose.temperature", "solve.temperature", "evaluate.temperature", "ray.samplers",
    *(f"collapse.{item.name}" for item in fields(CollapseConfig) if item.name.startswith("least_")),
}  # fmt: skip
ROUNDING = ("finetune.micro_batch_tokens", "finetune.checkpointing", "finetune.shard")
"""Settings that change what a training computes, but by rounding alone; each session records its own."""
MOST = 2**64
"""Of any number."""
ENDPOINT = tuple(
    f"endpoint.{item.name}" for item in fields(EndpointConfig) if item.name not in ("model", "candidates_per_request")
)
"""Where and how servers are asked: not what."""
MAY_CHANGE = (
    "iterations", "keep_checkpoints", "tensorboard", "model.overlap", "budget.seconds", "budget.tokens", "budget.price",
    "executor", "ray.address", "ray.samplers", *ROUNDING, *ENDPOINT,
)  # fmt: skip
"""Settings that do not change what an iteration computes, but for rounding, so that a run may be resumed with others:
with less memory, say."""


def _check(config: RunConfig) -> None:
    for key, value in flatten(config).items():
        if key in CHOICES and value not in CHOICES[key]:
            raise ConfigError(f"{key}: expected one of {', '.join(CHOICES[key])}, got {shown(value)}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value < 0 or (value == 0 and key not in MAY_BE_ZERO):
                raise ConfigError(f"{key}: expected a number above 0, got {value}")
            if key.endswith(("top_p", "propose.begun", "clip_ratio")) and value > 1:
                raise ConfigError(f"{key}: expected at most 1, got {value}")
    if set(config.vary.ways) - {"hindsight", "join", "nest"} or not config.vary.ways:
        raise ConfigError(f"vary.ways: expected some of hindsight, join, nest, got {shown(list(config.vary.ways))}")
    _check_finetune(config)
    _check_evaluate(config.evaluate)
    _check_endpoint(config)
    if config.sandbox.wall_seconds < config.sandbox.cpu_seconds:
        raise ConfigError(
            f"sandbox.wall_seconds: expected at least cpu_seconds ({config.sandbox.cpu_seconds}), "
            f"got {config.sandbox.wall_seconds}"
        )


WITHOUT_VERDICTS = {
    "vary.variations": 0, "solve.further_puzzles": 0, "solve.most_proposed": 0, "propose.begun": 0,
    "propose.strategy": "uniform", "finetune.balance": "none", "finetune.objective": "sft", "finetune.most_solved": 1.0,
}  # fmt: skip
"""What goes by verdicts, and has to be so where none is believed."""


def _check_finetune(config: RunConfig) -> None:
    own, flat = config.finetune, flatten(config)
    for key, needed in () if own.verified else WITHOUT_VERDICTS.items():
        if flat[key] != needed:
            raise ConfigError(
                f"{key}: expected {needed} with finetune.verified = false: it goes by verdicts, got {flat[key]}"
            )
    if not own.roles or set(own.roles) - {"propose", "solve"}:
        raise ConfigError(f"finetune.roles: expected propose, solve or both, got {shown(list(own.roles))}")
    if own.objective in ("spin", "grpo") and own.start != "previous":
        raise ConfigError(
            f"finetune.start: expected previous with finetune.objective = {own.objective!r}: it compares with the "
            "model that sampled, which is where the training begins"
        )
    evens = own.balance == "niches" or config.collapse.action == "rebalance"
    if evens and (own.objective != "sft" or not own.verified):
        raise ConfigError("finetune.balance, collapse.action: only the verified pairs of sft are evened over niches")
    if not own.trains and config.collapse.action != "continue":
        raise ConfigError("collapse.action: expected continue with finetune.objective = 'none': nothing is learned")
    if own.objective == "grpo" and config.collapse.action == "rollback":
        raise ConfigError(
            "collapse.action: expected no rollback with finetune.objective = 'grpo': it learns from the iteration's "
            "own texts, beside the model that sampled them"
        )
    if own.objective in ("spin", "dpo") and "solve" not in own.roles:
        raise ConfigError(f"finetune.roles: expected solve with finetune.objective = {own.objective!r}, which is of it")
    if not own.beta:
        raise ConfigError("finetune.beta: expected at least one number, got []")
    if low := [beta for beta in own.beta if beta <= 0]:
        raise ConfigError(f"finetune.beta: expected numbers above 0, got {low[0]}")
    fewest = GAMES[own.game].fewest_candidates
    if own.objective in ("filtered", "grpo") and config.solve.candidates_per_puzzle < fewest:
        raise ConfigError(
            f"solve.candidates_per_puzzle: expected at least {fewest} with finetune.game = {own.game!r}, "
            f"got {config.solve.candidates_per_puzzle}"
        )


def _check_evaluate(own: EvaluateConfig) -> None:
    if below := [k for k in own.k if k < 1]:
        raise ConfigError(f"evaluate.k: expected numbers above 0, got {below[0]}")
    if not own.k:
        raise ConfigError("evaluate.k: expected at least one number, got []")
    if max(own.k) > own.samples_per_puzzle:
        raise ConfigError(
            f"evaluate.k: pass@{max(own.k)} needs as many samples per puzzle, "
            f"evaluate.samples_per_puzzle is {own.samples_per_puzzle}"
        )


def _check_endpoint(config: RunConfig) -> None:
    own = config.endpoint
    if own.urls and own.serve:
        raise ConfigError("endpoint.urls: expected none beside endpoint.serve, which begins servers of its own")
    if own.urls and config.finetune.trains:
        raise ConfigError(
            "endpoint.urls: expected finetune.objective = 'none' with it, for these servers do not get what is "
            "trained; endpoint.serve begins servers that do"
        )
    check_urls("endpoint.urls", own.urls)
    if config.budget.price and not (own.prompt_price or own.completion_price):
        raise ConfigError("budget.price: expected endpoint.prompt_price or endpoint.completion_price with it")


def check_urls(where: str, urls: Iterable[str]) -> None:
    """See that servers can be asked there.

    Raises:
        ConfigError: One is no address of HTTP, or has more than that in it; the message begins with `where` it stands.
    """
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise ConfigError(f"{where}: expected http://… or https://…, got {shown(url)}")
        if "@" in parts.netloc or "?" in url or "#" in url:  # they would be kept and shown: one may be secret
            raise ConfigError(
                f"{where}: expected an address such as http://{parts.hostname}/v1 without a name, password or query: "
                "the key is taken from the variable endpoint.key_variable, by default $OPENAI_API_KEY"
            )


def load(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """A run's settings from a TOML file (None: the embedded default) and `key=value` overrides.

    Raises:
        InputError: A key is unknown, a value of the wrong type or out of range, or the file unreadable.
    """
    if path is None:
        where, values = "the embedded run.toml", read_toml(embedded_file("run.toml"))
    else:
        where, values = str(path), read_toml(path)
    for override in overrides:
        _override(values, override)
    try:
        config: RunConfig = build(RunConfig, values, where)
    except ConfigError as error:  # out of range: the settings do not know whose they are
        raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return config


def embedded_file(name: str) -> Path:
    """A file of the model and settings that ship with the package."""
    return Path(str(resources.files("selfplay") / "embedded" / name))


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {shortened(override)}: expected key=value, such as solve.temperature=0.7")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML: a text without quotes
        value = text
    *tables, name = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {shortened(override)}: {shown(table)} is a value, not a table")
    values[name] = value


def build(kind: type, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    """A dataclass from a table, checked key by key."""
    known = {item.name: item for item in fields(kind)}
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {shown(prefix + key)}{_nearest(prefix + key, known)}")
    return kind(**{key: _value(hints[key], value, where, prefix + key) for key, value in values.items()})


def _nearest(key: str, beside: Iterable[str]) -> str:
    keys = list(flatten(RunConfig())) + [item.name for item in fields(RunConfig)]
    by_name = {known.rpartition(".")[2]: known for known in keys}
    close = difflib.get_close_matches(key, keys, 1, 0.6)
    close = close or [by_name[name] for name in difflib.get_close_matches(key.rpartition(".")[2], by_name, 1, 0.6)]
    return f"; did you mean {close[0]!r}?" if close else f"; known keys here: {', '.join(beside)}"


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a table under {key!r}, got {shown(value)}")
        return build(typing.cast(type, hint), value, where, f"{key}.")
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, list | tuple):
            return tuple(_value(inner, member, where, key) for member in value)
        raise ConfigError(f"{where}: expected a list under {key!r}, got {shown(value)}")
    if type(value) is int and hint in (int, float) and abs(value) >= MOST:
        raise ConfigError(f"{where}: expected at most 64 bits under {key!r}, got {shown(value)}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint or (hint is float and not abs(value) < float("inf")):
        raise ConfigError(f"{where}: expected {_article(hint)} under {key!r}, got {shown(value)}")
    if hint is str and not _is_unicode(value):  # of a command line, where any bytes may stand
        raise ConfigError(f"{where}: expected a text of UTF-8 under {key!r}, got {shown(value)}")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _article(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, str(hint))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting by its dotted key."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat.update(flatten(value, f"{prefix}{item.name}."))
        else:
            flat[prefix + item.name] = value
    return flat


def to_toml(config: RunConfig) -> str:
    """The complete settings, as a run keeps them."""
    return "\n".join(_toml_lines(config, "")) + "\n"


def _toml_lines(config: Any, table: str) -> Iterator[str]:
    tables = []
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            tables.append((item.name, value))
        else:
            # JSON's numbers, texts, booleans and lists of them are TOML's too, but for one raw character.
            yield f"{item.name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
    for name, value in tables:
        yield f"\n[{name}]"
        yield from _toml_lines(value, name)


def differences(first: RunConfig, second: RunConfig) -> list[str]:
    """Settings in which two configs differ, apart from those that may change between sessions."""
    one, other = flatten(first), flatten(second)
    return [
        f"{key} ({one[key]!r} there, {other[key]!r} here)"
        for key in one
        if one[key] != other[key] and key not in MAY_CHANGE
    ]
