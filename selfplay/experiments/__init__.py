"""Many runs beside each other, or one run again: ablations, forecasts, replays and reproductions.

May import `iteration` and what stands below it. Start reading at `ablate.py`; `engines.py` says which model and which
judges a run's settings ask for.
"""
