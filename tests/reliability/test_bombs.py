"""A file that asks for far more than it can hold is refused within a second and 200 MiB."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp

from tests.reliability import bombs
from tests.reliability.bombs import GIB
from tests.reliability.limits import Nursery
from tests.unit.model.models import transformers_model

SECONDS, MIB = 1.0, 200.0
OURS = {"ConfigError", "ConfigErrors", "CheckpointError", "DataError"}
JSONS = [bombs.deep_json(100), bombs.deep_json(100_000), bombs.many_values(1_100_000)]
USED = (
    "nemo_pi.checkpoint.summary",
    "nemo_pi.nemo.run",
    "nemo_pi.nemo.archive",
    "nemo_pi.data.tokenizer",
    "nemo_pi.data.encoding",
    "nemo_pi.data.loaders",
    "nemo_pi.cli.runner",
    "nemo_pi.cli.evaluate_arguments",
    "transformers",
    "tests.reliability.bombs",
)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """A process with everything imported that bombs are given to."""
    made = Nursery(*(name for name in USED if name != "nemo_pi.data.loaders"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    transformers_model().save_pretrained(folder)
    return folder


def refused(nursery: Nursery, function: str, *arguments: Any, mapped: bool = False) -> str:
    """The message of a call that must be refused at once.

    Args:
        mapped: whether it may map files into its address space, which takes no memory.
    """
    arguments = tuple(str(each) if isinstance(each, Path) else each for each in arguments)
    outcome = nursery.call(function, *arguments)
    assert outcome.error in OURS or (outcome.error, outcome.message) == ("SystemExit", "2"), outcome
    assert outcome.seconds < SECONDS, outcome
    assert outcome.resident_mib < MIB, outcome
    assert mapped or outcome.virtual_mib < 2 * MIB, outcome
    return outcome.message


@pytest.mark.parametrize("name", bombs.PICKLES)
def test_metadata(nursery: Nursery, tmp_path: Path, name: str) -> None:
    (tmp_path / ".metadata").write_bytes(bombs.PICKLES[name])
    refused(nursery, bombs.METADATA, tmp_path / ".metadata")


def test_metadata_of_lists_alone(nursery: Nursery, tmp_path: Path) -> None:
    """Beside files of tensors that take no room, it may be long; then its objects are counted."""
    bombs.sparse(tmp_path / "__0_0.distcp", 800_000)
    (tmp_path / ".metadata").write_bytes((pickle.EMPTY_LIST + pickle.POP) * 400_000 + pickle.NONE + b".")
    assert "objects" in refused(nursery, bombs.METADATA, tmp_path / ".metadata")
    bombs.sparse(tmp_path / ".metadata", 64 * GIB)
    assert "64.0 GiB" in refused(nursery, bombs.METADATA, tmp_path / ".metadata")


@pytest.mark.parametrize("name", bombs.ARCHIVES)
def test_archives(nursery: Nursery, tmp_path: Path, name: str) -> None:
    path = bombs.ARCHIVES[name](tmp_path / "common.pt")
    assert path.stat().st_size < 20 << 20
    refused(nursery, bombs.ARCHIVE, path)
    refused(nursery, bombs.NEMO, bombs.nemo_file(tmp_path / "a.nemo", path.read_bytes()))


@pytest.mark.parametrize("name", ["a storage beyond its member", "a tensor beyond its storage", "inflating"])
def test_a_tensor_of_a_checkpoint_is_looked_at_before_torch_reads_it(tmp_path: Path, name: str) -> None:
    from nemo_pi.checkpoint.dcp_load import SafeReader

    state = {"a": torch.zeros(4)}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    dcp.load({"a": torch.ones(4)}, storage_reader=SafeReader(tmp_path), no_dist=True)
    file = next(tmp_path.glob("*.distcp"))
    bombs.ARCHIVES[name](file)
    metadata = pickle.loads((tmp_path / ".metadata").read_bytes())
    for info in metadata.storage_data.values():
        info.offset, info.length = 0, file.stat().st_size
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    words = {"inflating": "compressed members"}.get(name, name.removeprefix("a ").split(" ")[0])
    with pytest.raises(dcp.api.CheckpointException, match=words):
        dcp.load({"a": torch.ones(4)}, storage_reader=SafeReader(tmp_path), no_dist=True)


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size"])
def test_sizes_in_a_config(nursery: Nursery, tmp_path: Path, sound: Path, key: str) -> None:
    for number, value in enumerate((60_000, 10**7, 2**31, 10**400)):
        folder = bombs.huggingface(tmp_path / str(number), sound, **{key: value})
        refused(nursery, bombs.PLAN, {"restore_from_path": str(folder)}, mapped=True)


@pytest.mark.parametrize("key", ["num_layers", "hidden_size", "head_dim", "vocab_size"])
def test_sizes_in_a_manifest(nursery: Nursery, tmp_path: Path, key: str) -> None:
    from tests.reliability.fuzz import sound as checkpoints

    for number, value in enumerate((60_000, 10**7, 2**31, 10**400)):
        folder = shutil.copytree(checkpoints() / "distributed", tmp_path / str(number))
        values = json.loads((folder / "nemo_pi.json").read_text())
        values["shape"][key] = value
        (folder / "nemo_pi.json").write_text(json.dumps(values))
        refused(nursery, bombs.PLAN, {"restore_from_path": str(folder)}, mapped=True)


@pytest.mark.parametrize("text", JSONS, ids=["a hundred levels", "a hundred thousand", "a million lists"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "generation_config.json"])
def test_json(nursery: Nursery, tmp_path: Path, sound: Path, text: str, name: str) -> None:
    folder = bombs.huggingface(tmp_path / "model", sound)
    (folder / name).write_text(text)
    if name.startswith("model"):
        (folder / "model.safetensors").unlink()
    called = "nemo_pi.checkpoint.summary:read_source_config" if "gener" in name else bombs.SUMMARY
    refused(nursery, called, folder, mapped=True)


def test_files_without_end(nursery: Nursery, tmp_path: Path, sound: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        for number, target in enumerate(("/dev/zero", "pipe", "sparse")):
            folder = bombs.huggingface(tmp_path / f"{name}{number}", sound)
            (folder / name).unlink()
            if target == "pipe":
                os.mkfifo(folder / name)
            elif target == "sparse":
                bombs.sparse(folder / name, 64 * GIB, b"{")
            else:
                (folder / name).symlink_to(target)
            refused(nursery, bombs.SUMMARY, folder, mapped=True)
    os.mkfifo(tmp_path / ".metadata")
    refused(nursery, bombs.METADATA, tmp_path / ".metadata")
    os.mkfifo(tmp_path / "a.nemo")
    refused(nursery, bombs.NEMO, tmp_path / "a.nemo")


@pytest.mark.parametrize("claimed", [None, 2**63, 10**10, 90_000_000])
def test_headers_of_safetensors(nursery: Nursery, tmp_path: Path, sound: Path, claimed: int | None) -> None:
    folder = bombs.huggingface(tmp_path / "model", sound)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"t{n}": empty for n in range(30_000)})
    bombs.safetensors(folder / "model.safetensors", header.encode(), claimed=claimed)
    refused(nursery, bombs.SUMMARY, folder, mapped=True)


@pytest.mark.parametrize(
    ("sequences", "marks", "tokens"),
    [(2 * 10**9, 2, 8), (2 * 10**9, 2 * 10**9 + 1, 8), (4, 2 * 10**9, 8), (2 * 10**9, 2, 4 * 10**9)],
)
def test_sparse_indices(nursery: Nursery, tmp_path: Path, sequences: int, marks: int, tokens: int) -> None:
    refused(nursery, bombs.INDEX, bombs.index(tmp_path, sequences, marks, tokens), mapped=True)


@pytest.mark.parametrize("name", ["a.jsonl.xz", "a.jsonl.gz"])
def test_compressed_lines(nursery: Nursery, tmp_path: Path, name: str) -> None:
    path = bombs.one_line(tmp_path / name, 100 << 20)
    assert path.stat().st_size < 1 << 20
    assert "64.0 MiB" in refused(nursery, bombs.PREPROCESS, path)


def test_blank_lines(nursery: Nursery, tmp_path: Path) -> None:
    path = bombs.one_line(tmp_path / "a.jsonl.xz", 64 << 20, b"\n" * (1 << 20))
    assert "blank lines" in refused(nursery, bombs.PREPROCESS, path)


def test_lines_of_json(nursery: Nursery, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text in (bombs.deep_json(100_000), bombs.many_values(1_100_000)):
        path.write_text(text.replace("\n", "") + "\n")
        refused(nursery, bombs.PREPROCESS, path)
    bombs.sparse(path, 64 * GIB)
    refused(nursery, bombs.PREPROCESS, path)


def test_archives_of_nemo(nursery: Nursery, tmp_path: Path) -> None:
    for number, kind in enumerate((b"x", b"g", b"L", b"K")):
        path = bombs.tar_header(tmp_path / f"{number}.nemo", kind, 3 * GIB)
        refused(nursery, bombs.CONFIG, path)
    for text in (bombs.laughs(), "a: " + "[" * 5000, "a: " + "{b: " * 100 + "}" * 100):
        refused(nursery, bombs.CONFIG, bombs.nemo_file(tmp_path / "a.nemo", b"", text.encode()))


def test_tokenizers(nursery: Nursery, tmp_path: Path) -> None:
    for number, (name, size) in enumerate(
        (("tokenizer.json", 200 << 20), ("tokenizer_config.json", 20 << 20), ("merges.txt", 3 * GIB))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "tokenizer.json").write_text("{}")
        bombs.sparse(folder / name, size, b'{"a": "')
        refused(nursery, bombs.TOKENIZER, "huggingface", folder)
    bombs.sparse(tmp_path / "a.model", 3 * GIB)
    refused(nursery, bombs.TOKENIZER, "sentencepiece", tmp_path / "a.model")
    (tmp_path / "0" / "tokenizer.json").write_text(bombs.many_values(9_000_000))
    refused(nursery, bombs.TOKENIZER, "huggingface", tmp_path / "0")


@pytest.mark.parametrize(
    "text",
    [
        bombs.laughs(),
        bombs.doubling(),
        bombs.doubling(form="${{{0}}} ${{{0}}}"),
        "n: 0\n" + bombs.doubling(form="${{a${{n}}}}${{{0}}}${{{0}}}"),
        "a: " + "[" * 5000,
        "a: '" + "${" * 2000 + "}" * 2000 + "'\n",
        "a: ${multiply:xxxxxxxx,1000000000}\n",
        "a: ${multiply:${multiply:9000000000,900000000},90000000000}\n",
        "a: ${oc.create:'" + bombs.laughs(9).replace("\n", "\\n") + "'}\n",
        "b: &b\n  c: *b\n",
        "x" * (2 << 20),
    ],
    ids=lambda text: text[:30].replace("\n", " "),
)
def test_yaml(nursery: Nursery, tmp_path: Path, text: str) -> None:
    (tmp_path / "main.yaml").write_text(text)
    refused(nursery, bombs.YAML, tmp_path)
    refused(nursery, bombs.EVALUATION, None, ["--config-path", str(tmp_path), "--config-name", "main"])


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "+a=range(1,1000000000)"],
        ["-m", *(f"+a{n}=1,2,3,4" for n in range(20))],
        ["+a=" + "[" * 3000],
        ["tensor_model_parallel_size=1"],
    ],
    ids=["a range", "products", "deep", "control"],
)
def test_overrides(nursery: Nursery, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "main.yaml").write_text("name: x\n")
    refused(nursery, bombs.YAML, tmp_path, *words)


@pytest.mark.parametrize(
    "model",
    [
        {"num_layers": 10**7},
        {"kv_channels": 2**31 - 2},
        {"tensor_model_parallel_size": 10**12 + 7},
        {"pipeline_model_parallel_size": 10**12 + 7},
        {"pos_scaling_extra_args": {"attention_factor": 1e300}, "pos_scaling_type": "yarn"},
    ],
    ids=str,
)
def test_numbers_of_a_yaml(nursery: Nursery, model: dict[str, Any]) -> None:
    sizes = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4}
    values = {**sizes, "vocab_size": 128, "max_position_embeddings": 256, **model}
    refused(nursery, bombs.PLAN, {"model": values})


def test_the_limits_see_a_bomb(nursery: Nursery, tmp_path: Path) -> None:
    """The same measure on what is not guarded: without that, the tests above would prove nothing."""
    path = bombs.one_line(tmp_path / "a.xz", 100 << 20)
    assert nursery.call("tests.reliability.bombs:unpacked", str(path)).resident_mib > 90
    (tmp_path / "k").write_bytes(bombs.key_of(bombs.shared_tuples(25)))
    assert nursery.call("tests.reliability.bombs:unpickled", str(tmp_path / "k")).seconds > 0.1
    assert nursery.call("tests.reliability.bombs:asked_for", 1 << 29).virtual_mib > 400
