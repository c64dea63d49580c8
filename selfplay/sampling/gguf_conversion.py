"""The program that writes a GGUF file as a plain model folder. `gguf.py` starts it in a process of its own.

    python gguf_conversion.py FILE FOLDER

It prints one JSON object with an `error` if it fails.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

BYTES_PER_BYTE, ROOM_BYTES = 24, 6 << 30
"""Address space: as much, and so many bytes for each byte of the file, whose weights become float32 on the way."""
SAMPLES = (
    "def f(x: int):\n    return x * x == 1369\n\n\ndef g():\n    return 37\n",
    "def f(s: str, n=7):\n\treturn s.count('z') == 3 and \"é漢字\" not in s  # naïve\n",
    "    x = [i ** 2 for i in range(10) if i % 2 != 0]\n",
)
"""Texts that the tokenizer must give back."""


def main() -> int:
    """Convert, and say what went wrong."""
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    bytes_ = ROOM_BYTES + BYTES_PER_BYTE * file.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
    try:
        convert(file, folder)
    except MemoryError:
        print(json.dumps({"error": "it needs too much memory"}))
    except Exception as error:  # noqa: BLE001  # libraries raise anything about a damaged file
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        print(json.dumps({"error": said or type(error).__name__}))
    else:
        return 0
    return 1


def convert(file: Path, folder: Path) -> None:
    """Write tokenizer, weights in bfloat16 and configuration.

    Raises:
        ValueError: The tokenizer that comes out changes texts.
    """
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    known: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **known)
    for text in SAMPLES:
        if (came := tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids)) != text:
            raise ValueError(f"its tokenizer turns {text[:30]!r} into {came[:30]!r}: use the model's own folder")
    read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **known)
    # The library refuses to save what it has read from GGUF, so a fresh model takes the weights.
    config = type(read.config).from_dict(
        {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    )
    plain = type(read)(config).to(torch.bfloat16)
    plain.load_state_dict(read.state_dict(), strict=True)
    if any(not bool(torch.isfinite(weight).all()) for weight in plain.parameters()):
        raise ValueError("expected finite numbers as weights")
    plain.generation_config = read.generation_config
    tokenizer.save_pretrained(folder)
    plain.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
