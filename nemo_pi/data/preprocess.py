"""JSONL to megatron ``.bin``/``.idx``, as NeMo's ``preprocess_data_for_megatron.py`` does.

Entry point: ``examples/preprocess_data.py``. Output: ``PREFIX_KEY_document.{bin,idx}`` per JSON key; of
conversations ``PREFIX_chat_document.{bin,idx}``, and which tokens are learned beside them, by the name that
`nemo_pi.data.indexed.scored_prefix` gives.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_pi.bounded.places import exists, why_unwritable
from nemo_pi.data.chat import ChatEncoder
from nemo_pi.data.encoding import Encoder, EncodingRules, encode_lines, start_worker
from nemo_pi.data.indexed import scored_prefix
from nemo_pi.data.jsonl import Line, find_files, read_lines
from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.data.writer import PairWriter
from nemo_pi.errors import ConfigError

log = logging.getLogger(__name__)
_LINES_PER_TASK = 32
_CHAT = "chat"
"""Stands for the JSON key in the names of files that hold conversations."""
_LONGEST_NAME = 200
"""Bytes of prefix and key; `_document.bin.partial-PID` follows, and file systems end at 255."""


@dataclass(frozen=True)
class PreprocessConfig:
    """What to read, how to encode it and where to write."""

    input: str
    """JSONL file (also .gz, .xz), folder or glob."""
    output_prefix: str
    """Path that ``_KEY_document.bin`` and ``.idx`` are appended to."""
    tokenizer: dict[str, Any] = field(default_factory=lambda: {"library": "byte"})
    """Keyword arguments of `nemo_pi.data.tokenizer.build_tokenizer`."""
    json_keys: tuple[str, ...] = ("text",)
    """Keys to encode."""
    append_eod: bool = False
    """End each document with the end-of-document id."""
    workers: int = 1
    """Processes that encode; 1 encodes in this process."""
    log_interval: int = 1000
    """Documents between two progress lines; 0 for none."""
    overwrite: bool = False
    """Replace existing output instead of refusing."""
    chat: bool = False
    """Lines are conversations (`nemo_pi.data.conversations`), of which the answers are learned."""
    max_tokens: int | None = None
    """Longer conversations are left out; None: none."""


@dataclass
class PreprocessResult:
    """What was written."""

    prefixes: list[str]
    """Path prefixes of the pairs, one per key."""
    num_documents: int = 0
    """Documents written (lines, less those that are empty under every key)."""
    num_tokens: int = 0
    """Tokens written, over all keys."""
    num_empty: int = 0
    """Empty texts, which are left out."""
    num_scored: int = 0
    """Tokens of conversations that are learned."""
    num_too_long: int = 0
    """Conversations that are left out because they are longer than allowed."""
    num_unanswered: int = 0
    """Conversations that are left out because the assistant says nothing in them."""


def preprocess(config: PreprocessConfig) -> PreprocessResult:
    """Encode JSONL into indexed datasets; nothing appears under the final names until all is written.

    Raises:
        ConfigError: no end-of-document id where one is to be appended; a bad number of workers.
        DataError: no input, a bad line (file and line are named), existing output without overwrite,
            or no token at all.
    """
    if config.chat:
        config = replace(config, json_keys=(_CHAT,))
    files = find_files(config.input)
    tokenizer = build_tokenizer(**config.tokenizer)
    _check(config, tokenizer)
    _check_prefix(config)
    prefixes = [f"{config.output_prefix}_{key}_document" for key in config.json_keys]
    result = PreprocessResult(prefixes)
    writers: list[PairWriter] = []
    try:
        for prefix in prefixes:
            writers.append(PairWriter(prefix, tokenizer.vocab_size, overwrite=config.overwrite))
        if config.chat:
            scored = scored_prefix(prefixes[0])
            writers.append(PairWriter(scored, 2, overwrite=config.overwrite, dtype=np.uint8))
        _write_all(config, tokenizer, files, writers, result)
        for writer in writers:
            writer.finish(config.input)
        # Tokens last: without what says which of them are learned, all would be.
        for writer in reversed(writers):
            writer.commit()
    finally:
        for writer in writers:
            writer.discard()
    return result


def _check(config: PreprocessConfig, tokenizer: Tokenizer) -> None:
    if config.append_eod and tokenizer.eod_id is None:
        raise ConfigError(
            "--append-eod",
            required="a tokenizer with an end-of-sequence token",
            given=f"{tokenizer.name}, which has none",
            fix="leave out --append-eod, or add eos_token to the tokenizer",
        )
    if config.chat:
        ChatEncoder(tokenizer)
    if config.max_tokens is not None and (config.max_tokens < 2 or not config.chat):
        raise ConfigError(
            "--max-tokens",
            required="2 or more, with --chat",
            given=config.max_tokens,
            fix="leave it out: text of any length is read" if not config.chat else "--max-tokens 4096",
        )
    if config.workers < 1:
        raise ConfigError("--workers", required="at least 1", given=config.workers, fix="give --workers 1")
    if not config.json_keys or len(set(config.json_keys)) < len(config.json_keys):
        raise ConfigError(
            "--json-keys",
            required="one or more keys, each once",
            given=list(config.json_keys),
            fix="name each key once",
        )


def _check_prefix(config: PreprocessConfig) -> None:
    """Refuses a prefix that no file can begin with (a folder's name, nothing at all), and keys likewise."""
    if wrong := [key for key in config.json_keys if "/" in key or "\0" in key or not key]:
        raise ConfigError(
            "--json-keys",
            required="keys that can be part of a file's name",
            given=", ".join(map(repr, wrong)),
            fix="rename the key in the JSON, or leave it out",
        )
    prefix, fix, reason = Path(config.output_prefix), "tokens", None
    if not config.output_prefix:
        reason = "nothing"
    elif config.output_prefix.endswith("/") or (exists(prefix) and prefix.is_dir()):
        reason, fix = "a folder", str(prefix / "tokens")
    elif len(os.fsencode(prefix.name)) + max(map(len, config.json_keys)) > _LONGEST_NAME:
        reason = "longer than a file's name can be"
    else:
        reason = why_unwritable(prefix.parent)
    if reason is not None:
        raise ConfigError(
            "--output-prefix",
            required="the path that file names begin with: FOLDER/NAME",
            given=f"{config.output_prefix[:100]!r}: {reason}",
            fix=f"--output-prefix {fix}",
        )


def _write_all(
    config: PreprocessConfig,
    tokenizer: Tokenizer,
    files: list[Path],
    writers: list[PairWriter],
    result: PreprocessResult,
) -> None:
    began = time.monotonic()
    for row in _encoded(config, tokenizer, files):
        written = 0
        if config.chat and not _is_kept(row, config, result):
            continue
        for writer, ids in zip(writers, row, strict=True):
            if ids.size:
                # Of a conversation the second array says which of the first one's tokens are learned.
                result.num_tokens += ids.size if ids is row[0] or not config.chat else 0
                writer.add_document(ids)
                written = 1
            else:
                result.num_empty += 1
        result.num_documents += written
        if written and config.log_interval and result.num_documents % config.log_interval == 0:
            seconds = max(time.monotonic() - began, 1e-9)
            log.info(
                "%d documents, %d tokens, %.0f documents/s, %.0f tokens/s",
                result.num_documents,
                result.num_tokens,
                result.num_documents / seconds,
                result.num_tokens / seconds,
            )


def _is_kept(row: list[NDArray[Any]], config: PreprocessConfig, result: PreprocessResult) -> bool:
    """Counts a conversation, and says whether it is written."""
    ids, scored = row
    # The first token is no label: nothing comes before it.
    learned = int(scored[1:].sum())
    if learned == 0:
        result.num_unanswered += 1
        return False
    if config.max_tokens is not None and ids.size > config.max_tokens:
        result.num_too_long += 1
        return False
    result.num_scored += learned
    return True


def _encoded(
    config: PreprocessConfig, tokenizer: Tokenizer, files: list[Path]
) -> Iterator[list[NDArray[Any]]]:
    rules = EncodingRules(config.tokenizer, config.json_keys, config.append_eod, chat=config.chat)
    tasks = _tasks(read_lines(files))
    if config.workers == 1:
        encoder = Encoder(rules, tokenizer)
        for task in tasks:
            yield from encoder(task)
        return
    yield from _in_processes(rules, tasks, config.workers)


def _in_processes(
    rules: EncodingRules, tasks: Iterator[list[Line]], workers: int
) -> Iterator[list[NDArray[Any]]]:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # spawn: a forked child inherits the locks of whatever threads the parent runs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(rules,))
    pending: deque[Future[list[list[NDArray[Any]]]]] = deque()
    try:
        # A bounded queue: reading ahead without limit would hold the whole input in memory.
        for task in tasks:
            pending.append(pool.submit(encode_lines, task))
            if len(pending) >= 4 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tasks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    while task := list(islice(lines, _LINES_PER_TASK)):
        yield task
