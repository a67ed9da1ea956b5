"""Export: bit-equal to the import at any layout; logits of the extended model; whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from nemo_pi.checkpoint.hf.folder import HuggingFaceWeights
from nemo_pi.checkpoint.hf.load import load_huggingface
from nemo_pi.checkpoint.hf.save import export_huggingface
from nemo_pi.checkpoint.hf.shards import ShardWriter
from nemo_pi.checkpoint.summary import read_source_config, read_summary
from nemo_pi.errors import CheckpointError
from nemo_pi.model.build import BuildOptions, build_model_chunks
from nemo_pi.parallel.layout import ParallelLayout
from nemo_pi.rope.spec import ContextExtension
from tests.unit.checkpoint.models import (
    assert_same_bits,
    filled_chunks,
    model_groups,
    run_ranks,
    save_transformers_model,
    stored_tensors,
)

FOLDERS = ["llama", "sharded_llama", "tied_llama", "mistral"]


def json_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", FOLDERS)
def test_import_and_export_change_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, single_rank: None
) -> None:
    folder = request.getfixturevalue(name)
    summary, chunks = filled_chunks(folder)
    source = read_source_config(folder)
    out = export_huggingface(
        chunks,
        summary.shape,
        summary.extension,
        tmp_path / "out",
        source_config=source,
        max_shard_bytes=50_000,
    )
    assert_same_bits(stored_tensors(out), stored_tensors(folder))
    assert json_of(out / "config.json") == json_of(folder / "config.json")
    assert json_of(out / "generation_config.json") == json_of(folder / "generation_config.json")
    assert len(list(out.glob("*.safetensors"))) > 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_dtypes_are_kept_tensor_by_tensor(llama: Path, tmp_path: Path, single_rank: None) -> None:
    """Norms in fp32 among bf16 matrices, under a config.json that claims fp16."""
    folder = Path(shutil.copytree(llama, tmp_path / "mixed"))
    tensors = load_file(llama / "model.safetensors")
    mixed = {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(mixed, folder / "model.safetensors")
    config = {**json_of(folder / "config.json"), "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    summary, chunks = filled_chunks(folder)
    source = read_source_config(folder)
    out = export_huggingface(chunks, summary.shape, summary.extension, tmp_path / "out", source_config=source)
    assert_same_bits(stored_tensors(out), mixed)
    assert json_of(out / "config.json") == config


@pytest.mark.parametrize(("asked", "expected"), [(None, torch.float32), ("bfloat16", torch.bfloat16)])
def test_without_a_source_the_dtype_is_the_models_or_as_asked(
    asked: str | None, expected: torch.dtype, llama: Path, tmp_path: Path, single_rank: None
) -> None:
    summary, chunks = filled_chunks(llama)
    out = export_huggingface(chunks, summary.shape, summary.extension, tmp_path / "out", dtype=asked)
    wanted = {name: tensor.to(expected) for name, tensor in stored_tensors(llama).items()}
    assert_same_bits(stored_tensors(out), wanted)
    assert AutoModelForCausalLM.from_pretrained(out).dtype is expected


METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": {},
    "ntk": {},
    "dynamic": {},
    "yarn": {},
    "llama3": {"extra_args": {"low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    "longrope": {
        "extra_args": {
            "short_factor": [1.0 + i / 8 for i in range(8)],
            "long_factor": [1.5 + i for i in range(8)],
        }
    },
}


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("method", METHODS)
def test_transformers_computes_the_extended_model(
    method: str, interleaved: bool, llama: Path, tmp_path: Path, single_rank: None
) -> None:
    """Logits on the exported folder, at positions up to 8 times beyond the original window of 64."""
    shape = read_summary(llama).shape
    extension = ContextExtension.build(
        original_window=64,
        target_window=512,
        method=method,
        head_dim=16,
        interleaved=interleaved,
        **METHODS[method],
    )
    chunks = build_model_chunks(shape, extension, ParallelLayout(), BuildOptions())
    load_huggingface(chunks, llama, shape, extension=extension)
    out = export_huggingface(
        chunks, shape, extension, tmp_path / "out", source_config=read_source_config(llama)
    )
    tokens = torch.randint(0, 96, (1, 500), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = chunks[0].eval()(tokens, torch.arange(500)[None], None)
        model = AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager").eval()
        theirs = model(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-4)
    back = read_summary(out)
    assert back.extension.to_dict() == {**extension.to_dict(), "interleaved": False}
    assert back.shape == shape


def test_an_extension_changes_logits_far_out(llama: Path, tmp_path: Path, single_rank: None) -> None:
    """The comparison above can tell methods apart: it would fail for a scaling that got lost."""
    shape = read_summary(llama).shape
    tokens = torch.randint(0, 96, (1, 500), generator=torch.Generator().manual_seed(1))
    found = []
    for method in METHODS:
        extension = ContextExtension.build(
            original_window=64, target_window=512, method=method, head_dim=16, **METHODS[method]
        )
        chunks = build_model_chunks(shape, extension, ParallelLayout(), BuildOptions())
        load_huggingface(chunks, llama, shape)
        with torch.no_grad():
            found.append(chunks[0].eval()(tokens, torch.arange(500)[None], None)[0, -1])
    for number, ours in enumerate(found):
        for other in found[number + 1 :]:
            assert (ours - other).abs().max() > 5e-3


def export_again(source: Path, target: Path, virtual: int | None) -> None:
    """On each rank: import, count what was read, export."""
    read: list[int] = []
    real = HuggingFaceWeights.read

    def counting(self: HuggingFaceWeights, *args: Any, **rows: Any) -> torch.Tensor:
        tensor = real(self, *args, **rows)
        read.append(tensor.numel())
        return tensor

    HuggingFaceWeights.read = counting  # type: ignore[method-assign]
    summary, chunks = filled_chunks(source, virtual=virtual)
    held = sum(parameter.numel() for chunk in chunks for parameter in chunk.parameters())
    assert sum(read) == held, "a rank reads what it keeps, and no more"
    assert all(parameter.isfinite().all() for chunk in chunks for parameter in chunk.parameters())
    most = [0]
    add = ShardWriter.add

    def watching(self: ShardWriter, name: str, tensor: torch.Tensor) -> None:
        add(self, name, tensor)
        most[0] = max(most[0], sum(t.numel() * t.element_size() for t in self.pending.values()))

    ShardWriter.add = watching  # type: ignore[method-assign]
    export_huggingface(
        chunks,
        summary.shape,
        summary.extension,
        target,
        source_config=read_source_config(source),
        groups=model_groups(),
        replica_rank=parallel_state.get_data_parallel_rank(with_context_parallel=True),
        max_shard_bytes=50_000,
    )
    assert most[0] <= 50_000, "a whole shard at most is held"
    is_writer = torch.distributed.get_rank() == 0
    assert (most[0] > 0) == is_writer, "only one rank gathers"


LAYOUTS = [
    ("llama", {"world": 2, "tensor": 2}),
    ("sharded_llama", {"world": 4, "tensor": 2, "pipeline": 2, "virtual": 2}),
    ("tied_llama", {"world": 4, "tensor": 2, "pipeline": 2}),
    ("mistral", {"world": 4, "pipeline": 2}),
    ("llama", {"world": 4, "tensor": 4}),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=lambda value: str(value))
def test_any_layout_exports_the_same_bits(
    name: str, layout: dict[str, int], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(name)
    run_ranks(tmp_path, export_again, folder, tmp_path / "out", layout.get("virtual"), **layout)
    assert_same_bits(stored_tensors(tmp_path / "out"), stored_tensors(folder))
    assert json_of(tmp_path / "out" / "config.json") == json_of(folder / "config.json")


def export_16_bit(source: Path, target: Path) -> None:
    """bf16 weights, but fp32 norms, and those only on the last stage: each tensor keeps its own dtype."""
    summary, chunks = filled_chunks(source)
    chunks[0].bfloat16()
    if parallel_state.is_pipeline_last_stage():
        chunks[0].decoder.final_layernorm.float()
    export_huggingface(
        chunks, summary.shape, summary.extension, target, dtype="float32", groups=model_groups()
    )


def test_16_bit_weights_travel_too(llama: Path, tmp_path: Path) -> None:
    run_ranks(tmp_path, export_16_bit, llama, tmp_path / "out", world=4, tensor=2, pipeline=2)
    original = stored_tensors(llama)
    rounded = {name: tensor.bfloat16().float() for name, tensor in original.items()}
    rounded["model.norm.weight"] = original["model.norm.weight"].bfloat16().float()
    assert_same_bits(stored_tensors(tmp_path / "out"), rounded)


@pytest.fixture
def export(llama: Path, tmp_path: Path, single_rank: None):
    """Exports a filled model to `out`, and gives its chunks for a test to damage."""
    summary, chunks = filled_chunks(llama)

    def work(**options: Any) -> Path:
        settings = {"source_config": read_source_config(llama), **options}
        return export_huggingface(chunks, summary.shape, summary.extension, tmp_path / "out", **settings)

    work.chunks = chunks  # type: ignore[attr-defined]
    return work


def test_an_export_may_be_repeated(export, llama: Path) -> None:
    out = export(max_shard_bytes=50_000)
    assert export() == out
    assert len(list(out.glob("*.safetensors"))) == 1, "nothing of the former export may stay"
    assert_same_bits(stored_tensors(out), stored_tensors(llama))


def test_a_foreign_folder_is_not_touched(export, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("three years of work")
    with pytest.raises(CheckpointError, match=r"thesis\.txt"):
        export()
    assert (tmp_path / "out" / "thesis.txt").read_text() == "three years of work"
    export(overwrite=True)
    assert not (tmp_path / "out" / "thesis.txt").exists()


def test_a_failed_export_leaves_the_former_one(export, llama: Path, tmp_path: Path) -> None:
    out = export()
    with torch.no_grad():
        export.chunks[0].decoder.final_layernorm.weight[0] = 1e6
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.*float16"):
        export(dtype="float16")
    assert_same_bits(stored_tensors(out), stored_tensors(llama))
    export()
    assert stored_tensors(out)["model.norm.weight"][0] == 1e6
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the leftover is gone after a success"


def test_an_unknown_dtype(export) -> None:
    with pytest.raises(CheckpointError, match="float64, float32, float16, bfloat16; given int8"):
        export(dtype="int8")


def test_a_missing_tokenizer_is_noticed_first(export, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer_path"):
        export(tokenizer_path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def fail_on_rank_1(source: Path, target: Path) -> None:
    """Rank 1 cannot take part; rank 0 must not wait for it for ever."""
    summary, chunks = filled_chunks(source)
    if torch.distributed.get_rank() == 1:
        chunks[0].register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(CheckpointError, match="extra"):
        export_huggingface(
            chunks, summary.shape, summary.extension, target, groups=model_groups(), max_shard_bytes=50_000
        )


def fail_to_write(source: Path, target: Path) -> None:
    """The writing rank fails in the middle; the sending ranks must not be left waiting."""
    summary, chunks = filled_chunks(source)

    def full_disk(self: ShardWriter, number: int) -> None:
        raise OSError(28, "No space left on device")

    ShardWriter._write = full_disk  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match="No space left"):
        export_huggingface(
            chunks, summary.shape, summary.extension, target, groups=model_groups(), max_shard_bytes=50_000
        )


def two_writers(source: Path, target: Path) -> None:
    """Two replicas that both believe to be the first would write into each other's files."""
    summary, chunks = filled_chunks(source)
    with pytest.raises(CheckpointError, match=r"one replica 0.*2 of them"):
        export_huggingface(chunks, summary.shape, summary.extension, target)


@pytest.mark.parametrize("work", [fail_on_rank_1, fail_to_write])
def test_every_rank_fails_together(work, llama: Path, tmp_path: Path) -> None:
    run_ranks(tmp_path, work, llama, tmp_path / "out", world=2, pipeline=2)
    assert not (tmp_path / "out").exists()


def test_two_writers_are_refused(llama: Path, tmp_path: Path) -> None:
    run_ranks(tmp_path, two_writers, llama, tmp_path / "out", world=2)
    assert not (tmp_path / "out").exists()


def test_tokenizer_and_lengths(tmp_path: Path, single_rank: None) -> None:
    folder = save_transformers_model(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    _, chunks = filled_chunks(folder)
    summary = read_summary(folder)
    assert summary.tokenizer_path == folder
    longer = ContextExtension.build(original_window=64, target_window=256, method="linear", head_dim=16)
    out = export_huggingface(
        chunks,
        summary.shape,
        longer,
        tmp_path / "out",
        source_config=read_source_config(folder),
        tokenizer_path=summary.tokenizer_path,
    )
    assert json_of(out / "tokenizer_config.json") == {"model_max_length": 256}
    assert json_of(out / "config.json")["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert AutoConfig.from_pretrained(out).rope_parameters == {
        "rope_type": "linear",
        "rope_theta": 10000.0,
        "factor": 4.0,
    }
