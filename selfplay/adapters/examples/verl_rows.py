"""Rows for verl from `selfplay archive export … --format trl`: `python verl_rows.py IN.jsonl OUT.parquet`."""

import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet


def row(line):
    """A row as verl's data sets have it. The puzzle's text is the ground truth that `compute_score` gets."""
    record = json.loads(line)
    return {
        "data_source": "selfplay",
        "prompt": record["prompt"],
        "reward_model": {"style": "rule", "ground_truth": record["puzzle"]},
        "extra_info": {"index": record["puzzle_id"]},
    }


if __name__ == "__main__":
    rows = [row(line) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sys.argv[2])
    print(f"{sys.argv[2]}: {len(rows)} rows")
