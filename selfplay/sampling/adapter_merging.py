"""The program that merges an adapter into its base model. `adapters.py` starts it in a process of its own.

    python adapter_merging.py BASE ADAPTER_WEIGHTS FOLDER SETTINGS BASE_BYTES

It prints one JSON object with an `error` if it fails.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

BYTES_PER_BYTE, ROOM_BYTES = 10, 6 << 30
"""Address space: as much, and so many bytes for each byte of the base, whose weights become float32 on the way."""


def main() -> int:
    """Merge, and say what went wrong."""
    base, adapter, folder, settings, size = sys.argv[1:]
    bytes_ = ROOM_BYTES + BYTES_PER_BYTE * int(size)
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
    try:
        merge(base, adapter, Path(folder), json.loads(settings))
    except MemoryError:
        print(json.dumps({"error": "it needs too much memory"}))
    except Exception as error:  # noqa: BLE001  # libraries raise anything about odd files
        said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        print(json.dumps({"error": said or type(error).__name__}))
    else:
        return 0
    return 1


def merge(base: str, adapter: str, folder: Path, settings: dict[str, Any]) -> None:
    """Write the weights and configuration of the merged model, in the dtype of the base.

    Raises:
        ValueError: The adapter has other parts than the base, or the weights are not finite.
    """
    import peft
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    known: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    network = AutoModelForCausalLM.from_pretrained(base, dtype="auto", **known)
    dtype = network.dtype
    adapted = peft.get_peft_model(network.float(), peft.LoraConfig(**settings, task_type="CAUSAL_LM"))
    weights = load_file(adapter)
    result = peft.set_peft_model_state_dict(adapted, weights)
    # Parts of a deeper base would be ignored, and layers without a part would stay as they are.
    learned = {name for name in result.missing_keys if "lora_" in name or "modules_to_save" in name}
    if result.unexpected_keys:
        raise ValueError(f"the base has no place for {min(result.unexpected_keys)}")
    if learned:
        raise ValueError(f"the adapter has nothing for {min(learned)}")
    plain = adapted.merge_and_unload(safe_merge=True).to(dtype)
    if any(not bool(torch.isfinite(weight).all()) for weight in plain.parameters()):
        raise ValueError("expected finite numbers as weights")
    plain.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
