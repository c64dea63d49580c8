"""Helper process: tries a model folder of a stranger, in a child of its own with limits of time and memory.

The child loads the tokenizer, looks at what it is made of, gives it texts that are bad for regular expressions, and
builds the model without memory for its weights. What passes may be loaded by the process that asks.

It imports nothing of this project. Each line of its input is a question, each line of its output an answer, as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

IDLE_SECONDS = 60.0
"""Without a question for this long, the process ends: it holds some hundred MB."""
MOST_GROWTH = 64
"""How much longer a tokenizer may make a text before it cuts it. Those that write `▁` for a space make it 1 to 1."""
MOST_PIECES = 64
"""Most tokens that a tokenizer may put around a text."""
MOST_ADDED = 16_384
"""Most added tokens. Gemma has 6,400."""
MOST_TOKEN_CHARACTERS = 4096
"""Longest text of a token."""
MOST_NAMED = 1 << 20
"""Largest number that a tokenizer may pad or cut texts to."""
DESCRIBED = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
BUFFER_BYTES = 512 << 20
"""Memory for a model's own tables, such as masks, that no file holds."""
FILE_BYTES = 1 << 20
"""Largest file that it may write: libraries try whether they could."""
LARGEST, SHORT = 1 << 28, 8
"""Numbers that the largest table may have when a model reads a text of so many tokens."""
MOST_SQUARES = 20_000_000
"""Most that the squares of the lengths of added tokens may come to: names are looked for in this time."""
RUN = 6000
"""Characters of a text that repeats one of them. Honest patterns take up to the square of it in steps."""
USUAL = " \n\tax0_.(!'é中"
MOST_PROBES = 40


class Refused(Exception):
    """The folder asks for what no honest model needs."""


def tried(question: dict[str, Any]) -> dict[str, Any]:
    """The sizes of the folder's model.

    Raises:
        Malformed: A file is not what its name says.
        Refused: It asks for too much.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder, known = question["folder"], {"local_files_only": True, "trust_remote_code": False}
    check_described(folder, question["tensors"])
    tokenizer = AutoTokenizer.from_pretrained(folder, **known)
    check_tokenizer(tokenizer, set(question["known"]))
    config = AutoConfig.from_pretrained(folder, **known)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    elements = sum(weight.numel() for weight in network.parameters())
    stored, size = question["elements"], question["bytes"]
    most = 8 * size if getattr(config, "quantization_config", None) else 2 * stored
    if elements > most + (1 << 22):
        raise Refused(f"config.json describes a model of {elements:,} numbers, but its weights are {stored:,} numbers")
    if stored > 4 * elements + (1 << 22):
        raise Refused(f"its weights are {stored:,} numbers, but config.json describes a model of {elements:,}")
    kept = sum(table.numel() * table.element_size() for table in network.buffers())
    if kept > max(BUFFER_BYTES, 2 * size):
        raise Refused(f"config.json describes a model with tables of {kept:,} bytes beside its weights")
    largest = largest_table(network)
    if largest > max(LARGEST, 2 * elements):
        raise Refused(f"config.json describes a model that makes tables of {largest:,} numbers to read a short text")
    return {"elements": elements}


def largest_table(network: Any) -> int:
    """Numbers in the largest table that a model makes when it reads a short text; 0 if it cannot be known.

    Nothing is computed: on the device `meta` tables have a shape only.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watching(TorchDispatchMode):  # type: ignore[misc]  # torch is not followed
        most = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            sizes = [each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
            self.most = max([self.most, *sizes])
            return made

    watching = Watching()
    # A model whose work depends on numbers cannot be followed. What it made up to there counts.
    with contextlib.suppress(RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError), watching:
        network(input_ids=torch.zeros(1, SHORT, dtype=torch.long, device="meta"), use_cache=False)
    return watching.most


class Malformed(Exception):
    """A file is not what its name says."""


def check_described(folder: str, tensors: int) -> None:
    """Check the files of JSON before a library makes something of them.

    Raises:
        Malformed: One is no object of JSON.
        Refused: It asks for too much.
    """
    described = {}
    for name in DESCRIBED:
        if os.path.exists(place := f"{folder}/{name}"):
            with open(place, "rb") as file:
                content = file.read()
            try:
                described[name] = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise Malformed(f"{place}: expected JSON, {error}") from None
            if not isinstance(described[name], dict):
                raise Malformed(f"{place}: expected an object")
    tokens = [
        described.get("tokenizer.json", {}).get("added_tokens"), described.get("added_tokens.json"),
        *described.get("tokenizer_config.json", {}).values(), *described.get("special_tokens_map.json", {}).values(),
    ]  # fmt: skip
    added = max((len(each) for each in tokens if isinstance(each, list | dict)), default=0)
    if added > MOST_ADDED:
        raise Refused(f"its tokenizer has {added:,} added tokens, at most {MOST_ADDED:,} is safe")
    if described.get("tokenizer_config.json", {}).get("fast_tokenizer_files"):
        raise Refused("tokenizer_config.json names other files (fast_tokenizer_files) than tokenizer.json")
    for key, value in pairs(described.get("config.json")):
        if key in LAYERS and isinstance(value, int) and value > tensors:
            raise Refused(f"config.json describes {value:,} layers ({key}), but its weights are {tensors:,} tensors")


def pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a JSON value with what stands under them, at any depth."""
    waiting = [value]
    while waiting:
        member = waiting.pop()
        if isinstance(member, dict):
            yield from member.items()
        waiting += member.values() if isinstance(member, dict) else member if isinstance(member, list) else []


def check_tokenizer(tokenizer: Any, known: set[str]) -> None:
    """Check what a tokenizer is made of, and what it does with bad texts.

    Args:
        tokenizer: A loaded tokenizer.
        known: Regular expressions that need no check.
    """
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    if longest > MOST_TOKEN_CHARACTERS:
        raise Refused(f"its tokenizer has a token of {longest:,} characters, at most {MOST_TOKEN_CHARACTERS:,} is safe")
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if len(added) > MOST_ADDED or sum(len(token) ** 2 for token in added) > MOST_SQUARES:
        raise Refused(f"its tokenizer has {len(added):,} added tokens of up to {max(map(len, added)):,} characters")
    characters = dict.fromkeys(USUAL)
    core: Any = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(core, "normalizer"):
        for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            part = getattr(core, name)
            made = json.loads(part.__getstate__()) if part is not None else {}
            check_part(name, made, known)
            for pattern in patterns(made):
                characters |= dict.fromkeys(pattern[:500])
        for change in (core.padding or {}, core.truncation or {}):
            if wrong := [value for value in change.values() if isinstance(value, int) and value > MOST_NAMED]:
                raise Refused(f"its tokenizer pads or cuts texts to {wrong[0]:,} tokens")
    probed = list(characters)[:MOST_PROBES]
    for character in probed:
        # The others come later, because an engine may first see whether what a pattern must hold is there at all.
        text = f"{character * RUN}\x01{''.join(probed)}\x01{character * RUN}"
        tokens = tokenizer.encode(text, add_special_tokens=True)
        if len(tokens) > MOST_GROWTH * len(text):
            raise Refused(f"its tokenizer makes {len(tokens):,} tokens of {len(text):,} characters")
    text = tokenizer.decode(list(range(min(100, len(tokenizer)))))
    if len(text) > 100 * MOST_TOKEN_CHARACTERS * MOST_GROWTH:
        raise Refused("its tokenizer writes too long texts")


def steps(part: Any) -> Iterator[dict[str, Any]]:
    """All steps of a part of a tokenizer, however they are nested."""
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if "type" in each:
                yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def patterns(part: Any) -> list[str]:
    """The regular expressions and texts that a part of a tokenizer looks for."""
    found = [each.get("pattern") for each in steps(part)]
    return [str(text) for pattern in found if isinstance(pattern, dict) for text in pattern.values()]


def check_part(name: str, part: Any, known: set[str]) -> None:
    """Check that a part of a tokenizer neither lets texts grow nor looks for a pattern for ever."""
    growth = 1.0
    for step in steps(part):
        looked_for: Any = step.get("pattern")
        pattern: dict[str, Any] = looked_for if isinstance(looked_for, dict) else {}
        if step["type"] == "Replace":
            content, text = len(str(step.get("content", ""))), pattern.get("String")
            growth *= max(1.0, content / max(1, len(text))) if text is not None else 1.0 + content
        if step["type"] in ("Prepend", "Metaspace", "WordPiece", "BPEDecoder"):
            texts = [value for value in step.values() if isinstance(value, str)]
            if max(map(len, texts), default=0) > MOST_PIECES:
                growth = float("inf")
        if step["type"] == "TemplateProcessing":
            ids = [token.get("ids", []) for token in step.get("special_tokens", {}).values()]
            pieces = len(step.get("single", [])) * max([1, *map(len, ids)])
            if pieces > MOST_PIECES:
                raise Refused(f"its tokenizer puts {pieces:,} tokens around a text, at most {MOST_PIECES} is safe")
        if (regex := pattern.get("Regex")) is not None and regex not in known and (fault := fault_of(regex)):
            raise Refused(f"its tokenizer has a regular expression that may run for ever ({fault}): {regex[:80]!r}")
    if growth > MOST_GROWTH:
        raise Refused(f"its tokenizer's {name.replace('_', '-')} can make a text {growth:,.0f} times as long")


REPEATED = re.compile(r"[*+]|\{\d*(?:,\d*)?\}")
BACK = re.compile(r"\\(?:[1-9]|[kg]['<{])|\(\?(?:[R0-9&+-]*\d|R|&|P=|P>)|\(\?\(|\(\?#|\(\?[a-z-]*x")
NAMED = re.compile(r"\\[pPxuN]\{[^}]*\}")
MOST_COUNT = 1000


def fault_of(regex: str) -> str:
    """Why a regular expression may backtrack for ever; empty if it cannot.

    Repeated groups are what makes it exponential. So none may be repeated; single characters and classes may.
    """
    if BACK.search(regex):
        return "a reference back, or a comment"
    place, depth = 0, 0
    while place < len(regex):
        sign = regex[place]
        if sign == "\\":
            named = NAMED.match(regex, place)
            place = named.end() if named else place + 2
            continue
        if sign == "[":
            place = end_of_class(regex, place)
            continue
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and (times := REPEATED.match(regex, place + 1)):
            return f"a repeated group, {regex[max(0, place - 20) : times.end()]!r}"
        counts = [int(number) for number in re.findall(r"\d+", regex[place : place + 20])] if sign == "{" else []
        if max(counts, default=0) > MOST_COUNT:
            return f"{max(counts)} repetitions"
        place += 1
    return "" if depth <= 0 else "an open group"


def end_of_class(regex: str, place: int) -> int:
    """The place behind a class of characters, which may hold others."""
    depth = 0
    while place < len(regex):
        if regex[place] == "\\":
            place += 1
        elif regex[place] == "[":
            depth += 1
        elif regex[place] == "]":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return place


def in_a_child(question: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a trial in a child with limits."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)  # what a library prints is no answer
            with open(writing, "w", encoding="utf-8") as answer:
                json.dump(outcome(question), answer)
        finally:
            os._exit(0)
    os.close(writing)
    said = bytearray()
    with open(reading, "rb", buffering=0) as answer:
        while len(said) < 1 << 20 and select.select([answer], [], [], question["wall_seconds"])[0]:
            part = answer.read(1 << 16)
            if not part:
                break
            said += part
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError:
        return {"refused": _too_much(question)}
    return found


def _too_much(question: dict[str, Any]) -> str:
    return (
        f"its tokenizer or its configuration takes more than {question['cpu_seconds']} s of CPU time or "
        f"{question['memory_bytes'] >> 20} MiB of memory before any weight is read"
    )


def limit(kind: int, most: int) -> None:
    """Set a limit of this process, unless a narrower one holds already."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def outcome(question: dict[str, Any]) -> dict[str, Any]:
    """What a trial says, within its limits."""
    with open("/proc/self/statm", encoding="ascii") as file:
        room = int(file.read().split()[0]) * resource.getpagesize() + question["memory_bytes"]
    limit(resource.RLIMIT_AS, room)
    limit(resource.RLIMIT_CPU, question["cpu_seconds"])
    limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    try:
        return tried(question)
    except Refused as refused:
        return {"refused": str(refused)}
    except Malformed as error:
        return {"malformed": str(error)[:1000]}
    except (MemoryError, RecursionError):
        return {"refused": _too_much(question)}
    except Exception as error:  # noqa: BLE001  # an odd folder can make the library raise anything
        return {"failed": str(error)[:10_000], "kind": type(error).__name__}


def main() -> None:
    """Answer until the input ends, or for a while nothing is asked."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    # The shipped model, so that what the library imports for it is there once for all children.
    transformers.utils.logging.disable_progress_bar()
    AutoTokenizer.from_pretrained(sys.argv[1])
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted command closes the input
    while select.select([sys.stdin.buffer], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        sys.stdout.write(json.dumps(in_a_child(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
