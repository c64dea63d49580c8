"""The streams of random numbers of a run. All are drawn from its one seed, and none meets another.

A stream's seed is the run's seed, the iteration and the stream's number, perhaps with more numbers behind them.
Archives and score files keep these seeds, so a number is never given to another stream.
"""


class Stream:
    """What random numbers are drawn for."""

    PROPOSAL_PROMPTS = 0
    PROPOSALS = 1
    CANDIDATES = 2
    TRAINING_TEXTS = 3
    TRAINING_ORDER = 4
    SCORED_CANDIDATES = 5
    VARIATIONS = 6
    RULES = 7
    FURTHER_CANDIDATES = 8
    COLLAPSE_SAMPLE = 9
    COLLAPSE_LIKENESS = 10
    TARGETS = 11
    SEARCH = 12
