"""The loop and its stages: propose, vary, solve, teach, train, score, record.

May import `scoring` and what stands below it. Start reading at `loop.py`; `state.py` says what the stages share.
"""
