"""The judge in other people's trainers and harnesses: one small file for each, against its documented interface.

May import every room below it, and the library that a file is named after. Start reading in `rewards.py`, which all of
them use; `trl_reward.py` is the simplest of the others. `examples/` has a runnable example for each.
"""
