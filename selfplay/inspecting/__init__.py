"""Archives and runs for readers: reports, browser pages, stories of puzzles, exports and checks.

It may import `experiments` and the packages below that. Start reading at `report.py` (a run as one HTML file),
`pages.py` (an archive in the browser) or `story.py` (why a puzzle is in an archive).
"""
