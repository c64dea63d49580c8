"""Several runs compared, or one run repeated: ablations, forecasts, replays and reproductions.

It may import `iteration` and the packages below that. Start reading at `ablate.py`. `engines.py` builds the model and
the sandbox that a run's settings ask for.
"""
