"""The model and the loop. Start reading at `selfplay.iteration.loop`."""

import os

# Before torch is imported anywhere: its threads otherwise spin while they wait for each other, and one
# busy neighbour makes sampling five times slower (590 against 3,050 tokens/s on two cores).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# A training has batches of hundreds of shapes, and what oneDNN keeps for each would come to some hundred MB.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
