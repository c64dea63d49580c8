"""The scores of the shipped model before any training come with the package: every run begins with the same ones.

They hold for the shipped weights, the embedded sets, and one way to ask and to judge, all of which a file's name tells
by its hash. A run that asks otherwise scores the model itself. On which machine they were sampled does not count: other
machines round differently, and draw other candidates of the same model.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from puzzles.puzzle import content_hash
from sandbox.pool import Pool
from selfplay.run.rundir import append_line
from selfplay.sampling.sampler import Sampler
from selfplay.scoring.evaluate import SHIPPED, Questions, read_chunks, whole_chunk
from selfplay.settings import embedded_file

OTHERWISE = ("device", "dtype", "seed")
"""What may be otherwise when a run takes them: it is the same model that was drawn from."""


def take(sampler: Sampler, pool: Pool, asked: Questions, file: Path) -> bool:
    """Begin a file of scores with those that are shipped. Returns whether there are any for these questions."""
    if asked.chunk_texts or file.exists():
        return False
    identity = whole_chunk(sampler, pool, asked)
    place = _place(identity)
    if not place.is_file():
        return False
    results = json.loads(gzip.decompress(place.read_bytes()))
    times = {"sampling_seconds": 0.0, "judging_seconds": 0.0}
    append_line(
        file, {"identity": identity, "sampler": sampler.description, "results": results, "times": times, SHIPPED: True}
    )
    return True


def ship(sampler: Sampler, pool: Pool, asked: Questions, file: Path) -> Path:
    """Keep a file of scores for the package, without the texts: nobody shall learn a held-out solution from it."""
    results = [result | {"texts": []} for line in read_chunks(file) for result in line["results"]]
    place = _place(whole_chunk(sampler, pool, asked))
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(gzip.compress(json.dumps(results).encode(), mtime=0))
    return place


def _place(identity: dict[str, Any]) -> Path:
    settings = {key: value for key, value in identity["settings"].items() if key != "batch_rows"}
    told = {key: value for key, value in identity.items() if key not in OTHERWISE} | {"settings": settings}
    return embedded_file("scores") / f"{content_hash(json.dumps(told, sort_keys=True))}.json.gz"
