"""How often intervals cover the truth, and how often the paired test cries wolf, where most rates are near 0.

    python tests/benchmarks/intervals.py [DRAWS]    (some minutes)

Puzzles are drawn from a population of rates, candidates from the rates (100 for each puzzle), and intervals
are made as for a held-out set, DRAWS (2,000) times. The truth is the mean of 1 - (1 - rate)^k over two million
puzzles of the population. Each cell is the share of intervals that hold it; an honest one stays at 95 % or
above, but for the noise of counting (two standard errors of 2,000 draws are one point). Where it says 0.0,
the truth is just off 0 or 1 and all estimates are there.

bootstrap   percentiles of the means of puzzles drawn with replacement
t           Student's, with the standard deviation of the puzzles
betting     the hedged betting interval of Waudby-Smith and Ramdas (2024), in the order of the puzzles
ours        `selfplay.scoring.metrics.interval`
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from selfplay.scoring.metrics import RESAMPLES, interval_ends, pass_at_k, sign_flip_test

Array = NDArray[np.float64]
Ends = tuple[Array, Array]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

CANDIDATES = 100
PUZZLES = (54, 98, 169, 228)
KS = (1, 10, 100)
POPULATION = 2_000_000
T_QUANTILES = {54: 2.0057, 98: 1.9847, 169: 1.9742, 228: 1.9705}
"""97.5 % quantiles of Student's t with P - 1 degrees of freedom."""


def some(share: float, draw: Draw) -> Draw:
    """Rates of `draw` for a share of puzzles, 0 for the others."""
    return lambda rng, shape: np.where(rng.random(shape) < share, draw(rng, shape), 0.0)


RATES: dict[str, Draw] = {
    "Beta(.05, 2)": lambda rng, shape: rng.beta(0.05, 2, shape),
    "Beta(.2, 5)": lambda rng, shape: rng.beta(0.2, 5, shape),
    "3 % Beta(2, 3), else 0": some(0.03, lambda rng, shape: rng.beta(2, 3, shape)),
    "1 % at .9, else 0": some(0.01, lambda rng, shape: np.full(shape, 0.9)),
    "15 % log-uniform .003 to .5, else 0": some(0.15, lambda rng, shape: 0.003 * (0.5 / 0.003) ** rng.random(shape)),
    "all .001": lambda rng, shape: np.full(shape, 0.001),
    "uniform .1 to .5": lambda rng, shape: rng.uniform(0.1, 0.5, shape),
}  # fmt: skip


def odds_times(rates: Array, factor: float | Array) -> Array:
    return rates * factor / (1 - rates + rates * factor)


def mixed(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    a = rng.beta(0.05, 2, shape)
    return a, odds_times(a, np.exp(rng.normal(0.5, 1.0, shape)))


def learnt(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    a = rng.beta(0.05, 2, shape)
    return a, np.where(rng.random(shape) < 0.02, 0.8, a)


def forgot(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    a = RATES["3 % Beta(2, 3), else 0"](rng, shape)
    return a, np.where(rng.random(shape) < 0.3, 0.0, odds_times(a, 2.0))


def sharpened(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    a = rng.beta(0.2, 5, shape)
    return a, np.where(a > 0.05, odds_times(a, 4.0), odds_times(a, 0.25))


def doubled(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    a = rng.uniform(0.1, 0.5, shape)
    return a, odds_times(a, 2.0)


PAIRS = {
    "odds times exp N(.5, 1), Beta(.05, 2)": mixed,
    "2 % learnt, Beta(.05, 2)": learnt,
    "odds doubled or lost, 3 % Beta(2, 3)": forgot,
    "high up, low down, Beta(.2, 5)": sharpened,
    "odds doubled, uniform .1 to .5": doubled,
}


def estimates(rng: np.random.Generator, rates: Array, k: int) -> Array:
    """pass@k of puzzles from candidates drawn at their rates."""
    table = pass_at_k(np.full(CANDIDATES + 1, CANDIDATES), np.arange(CANDIDATES + 1), k)
    return table[rng.binomial(CANDIDATES, rates)]


def bootstrap(values_N_P: Array, low: float, high: float) -> Ends:
    size = values_N_P.shape[1]
    shares_R_P = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES) / size
    lower, upper = np.quantile(values_N_P @ shares_R_P.T, [0.025, 0.975], axis=1)
    return lower, upper


def student(values_N_P: Array, low: float, high: float) -> Ends:
    size = values_N_P.shape[1]
    half = T_QUANTILES[size] * values_N_P.std(axis=1, ddof=1) / np.sqrt(size)
    return values_N_P.mean(axis=1) - half, values_N_P.mean(axis=1) + half


def betting(values_N_P: Array, low: float, high: float) -> Ends:
    """Means that nobody grows rich by betting against: hedged capital, predictable plug-in bets, c = 1/2."""
    values_N_P = (values_N_P - low) / (high - low)
    size = values_N_P.shape[1]
    log_wanted = np.log(2 / 0.05)
    times_P = np.arange(1, size + 1)
    means_N_P = (0.5 + np.cumsum(values_N_P, axis=1)) / (times_P + 1)
    variances_N_P = (0.25 + np.cumsum((values_N_P - means_N_P) ** 2, axis=1)) / (times_P + 1)
    before_N_P = np.pad(variances_N_P[:, :-1], ((0, 0), (1, 0)), constant_values=0.25)
    bets_N_P = np.sqrt(2 * log_wanted / (size * before_N_P))

    def poor(mean_N: Array) -> NDArray[np.bool_]:
        mean_N_1 = mean_N[:, None]
        gains_N_P = values_N_P - mean_N_1
        with np.errstate(divide="ignore"):
            up_N = np.log1p(np.minimum(bets_N_P, 0.5 / mean_N_1) * gains_N_P).sum(axis=1)
            down_N = np.log1p(-np.minimum(bets_N_P, 0.5 / (1 - mean_N_1)) * gains_N_P).sum(axis=1)
        return np.maximum(up_N, down_N) < log_wanted

    def end(rich: float) -> Array:
        inside_N, outside_N = values_N_P.mean(axis=1), np.full(len(values_N_P), rich)
        for _ in range(20):
            middle_N = (inside_N + outside_N) / 2
            is_poor_N = poor(middle_N)
            inside_N, outside_N = np.where(is_poor_N, middle_N, inside_N), np.where(is_poor_N, outside_N, middle_N)
        return low + (high - low) * inside_N

    return end(0.0), end(1.0)


METHODS: dict[str, Callable[[Array, float, float], Ends]] = {
    "bootstrap": bootstrap, "t": student, "betting": betting, "ours": interval_ends,
}  # fmt: skip


def coverage_and_width(values_N_P: Array, truth: float, low: float, high: float) -> list[str]:
    """Per method the share of intervals that hold the truth, in per cent, then per method the mean width."""
    covered, widths = [], []
    for method in METHODS.values():
        lower_N, upper_N = method(values_N_P, low, high)
        slack = 1e-9  # a truth at the end itself is covered, whatever its last bits
        covered.append(f"{100 * np.mean((lower_N <= truth + slack) & (truth - slack <= upper_N)):.1f}")
        widths.append(f"{np.mean(upper_N - lower_N):.4f}")
    return covered + widths


def row(cells: list[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def heading(first: str) -> None:
    names = list(METHODS)
    row([first, "P", "k", "truth", *(f"{name} %" for name in names), *(f"{name} width" for name in names)])
    row(["---"] * (4 + 2 * len(names)))


def single(draws: int) -> None:
    print("\nOne model: pass@k\n")
    heading("rates")
    for name, rates in RATES.items():
        rng = np.random.default_rng(1)
        population = rates(rng, (POPULATION,))
        for k in KS:
            truth = float(np.mean(1 - (1 - population) ** k))
            for size in PUZZLES:
                values_N_P = estimates(rng, rates(rng, (draws, size)), k)
                row([name, str(size), str(k), f"{truth:.4f}", *coverage_and_width(values_N_P, truth, 0.0, 1.0)])


def paired(draws: int) -> None:
    print("\nTwo models on the same puzzles: difference in pass@k\n")
    heading("rates of B and A")
    for name, pair in PAIRS.items():
        rng = np.random.default_rng(2)
        population_a, population_b = pair(rng, (POPULATION,))
        for k in KS:
            truth = float(np.mean((1 - population_a) ** k - (1 - population_b) ** k))
            for size in (54, 98, 228):
                a, b = pair(rng, (draws, size))
                values_N_P = estimates(rng, b, k) - estimates(rng, a, k)
                row([name, str(size), str(k), f"{truth:+.4f}", *coverage_and_width(values_N_P, truth, -1.0, 1.0)])


def false_positives(draws: int) -> None:
    print("\nTwo equal models: how often the sign-flip test finds a difference\n")
    row(["rates", "P", "k", "at 5 %, in %", "at 1 %, in %"])
    row(["---"] * 5)
    for name in ("Beta(.05, 2)", "3 % Beta(2, 3), else 0", "all .001", "uniform .1 to .5"):
        rng = np.random.default_rng(3)
        for size, k in ((98, 1), (98, 10), (98, 100)):
            rates_N_P = RATES[name](rng, (draws, size))
            differences_N_P = estimates(rng, rates_N_P, k) - estimates(rng, rates_N_P, k)
            p_values = np.array([sign_flip_test(differences_P) for differences_P in differences_N_P])
            shares = [f"{100 * np.mean(p_values <= level):.2f}" for level in (0.05, 0.01)]
            row([name, str(size), str(k), *shares])


if __name__ == "__main__":
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    single(draws)
    paired(draws)
    false_positives(draws)
