"""An archive and a run for people: reports, pages in the browser, stories of puzzles, exports, and checks.

May import `experiments` and what stands below it. Start reading at `report.py` (one file), `pages.py` (a browser) or
`story.py` (why a puzzle is there).
"""
