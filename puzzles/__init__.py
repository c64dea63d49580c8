"""What is true: puzzles, verdicts and the archive. Start reading at `puzzles.verify`."""
