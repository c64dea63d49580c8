"""The loop and its stages: propose, vary, solve, search, teach, train, score, record.

It may import `scoring` and the packages below that. Start reading at `loop.py`. `state.py` defines what the stages
share.
"""
