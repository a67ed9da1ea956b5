"""Unpickling: what torch and Megatron write is read, anything else is refused before it can act."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, Metadata

from nemo_pi.checkpoint.safe_pickle import ALLOWED_GLOBALS, load_archive, read_metadata
from nemo_pi.errors import CheckpointError


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The `.metadata` that torch itself writes."""
    state = {"a": torch.zeros(3, 2), "b": {"c": torch.ones(4, dtype=torch.bfloat16), "object": [1, "x"]}}
    dcp.save(state, checkpoint_id=tmp_path / "state", no_dist=True)
    return tmp_path / "state" / ".metadata"


def test_real_metadata_is_read_as_torch_reads_it(written: Path) -> None:
    ours, theirs = read_metadata(written), FileSystemReader(written.parent).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data == theirs.storage_data
    assert ours.planner_data == theirs.planner_data


class Attack:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def attacks(victim: Path) -> dict[str, bytes]:
    """Pickles that would make the file `victim` if they were believed."""
    command = f"touch {victim}"
    open_call = f"open({str(victim)!r}, 'w')"
    module = b"torch.distributed.checkpoint.metadata"
    metadata_class = b"c" + module + b"\nMetadata\n"
    return {
        "reduce": pickle.dumps(Attack(os.system, command)),
        "old protocol": pickle.dumps(Attack(os.system, command), protocol=0),
        "eval": pickle.dumps(Attack(eval, open_call)),
        "getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nX\x01\x00\x00\x00attR.",
        "inst": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "inside metadata": pickle.dumps(Metadata({"a": Attack(os.system, command)})),  # type: ignore[dict-item]
        "torch's own loader": pickle.dumps(Attack(torch.load, str(victim))),
        "a dotted name": b"\x80\x04\x8c\x25" + module + b"\x8c\x11Metadata.__init__\x93.",
        "a class changed": metadata_class + b"(N(S'version'\nS'evil'\ndtb.",
        "a class's dict changed": metadata_class + b"}S'version'\nS'evil'\nsb.",
        "extension registry": b"\x82\x01.",
        "persistent id": b"Pevil\n.",
    }


@pytest.mark.parametrize("name", list(attacks(Path("victim"))))
def test_an_attack_on_the_metadata_does_nothing(name: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / ".metadata"
    path.write_bytes(attacks(victim)[name])
    with pytest.raises(CheckpointError, match="none of its code was run"):
        read_metadata(path)
    assert not victim.exists()
    assert Metadata.version is None


def test_attributes_of_a_class_are_refused_as_such(tmp_path: Path) -> None:
    """Not because Python happens to protect this class's dict."""
    path = tmp_path / ".metadata"
    path.write_bytes(attacks(tmp_path / "victim")["a class's dict changed"])
    with pytest.raises(CheckpointError, match="attributes may be set on instances alone"):
        read_metadata(path)


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """The plain unpickler does run them; otherwise the test above would prove nothing."""
    for name in ("reduce", "old protocol", "eval", "inst", "inside metadata"):
        victim = tmp_path / name.replace(" ", "-")
        pickle.loads(attacks(victim)[name])
        assert victim.exists(), name


def test_nothing_on_the_list_is_a_way_out() -> None:
    """Data classes, enums, dtypes, paths and a lookup: nothing that opens, imports or evaluates."""
    modules = {module for module, _ in ALLOWED_GLOBALS}
    assert modules.isdisjoint(
        {"os", "posix", "nt", "builtins", "subprocess", "sys", "importlib", "functools"}
    )
    for module, name in ALLOWED_GLOBALS:
        if module == "torch":
            assert name == "Size" or isinstance(getattr(torch, name), torch.dtype), name


@pytest.mark.parametrize("name", ["../outside.distcp", "/etc/passwd", "sub/file.distcp", ""])
def test_a_file_outside_the_checkpoint(written: Path, name: str) -> None:
    metadata = pickle.loads(written.read_bytes())
    next(iter(metadata.storage_data.values())).relative_path = name
    written.write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="plain file names"):
        read_metadata(written)


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps({"a": 1}), pickle.dumps(Metadata({}))]
)
def test_something_else(written: Path, content: bytes) -> None:
    written.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_metadata(written)


def test_every_truncation_is_an_error_of_ours(written: Path) -> None:
    content = written.read_bytes()
    for length in range(0, len(content), 41):
        written.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_metadata(written)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_metadata(tmp_path / ".metadata")
    with pytest.raises(CheckpointError, match="no such file"):
        load_archive(tmp_path / "common.pt", "common.pt")


def archive(value: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


PLAIN = {"step": 3, "lr": 1e-3, "names": ["a", ("b", None, True)], "text": "ü", "tensor": torch.arange(3.0)}


def test_plain_values_are_read() -> None:
    read = load_archive(archive(PLAIN), "common.pt")
    assert torch.equal(read.pop("tensor"), PLAIN["tensor"])
    assert read == {key: value for key, value in PLAIN.items() if key != "tensor"}


class Registered:
    """A class that some other library declares safe for itself."""

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["victim"]).touch()


def test_an_attack_on_an_archive_does_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    with pytest.raises(CheckpointError, match=r"common\.pt.*none of its code was run"):
        load_archive(archive(Attack(os.system, f"touch {victim}")), "common.pt")
    assert not victim.exists()


def test_what_others_registered_is_not_safe_here(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    value = Registered()
    value.__dict__["victim"] = str(victim)
    with torch.serialization.safe_globals([Registered]):
        with pytest.raises(CheckpointError):
            load_archive(archive(value), "common.pt")
        assert not victim.exists()
        assert Registered in torch.serialization.get_safe_globals(), "their list must be as it was"
        torch.load(archive(value), weights_only=True)
        assert victim.exists(), "the attack must be real"


def test_the_environment_cannot_switch_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    victim = tmp_path / "victim"
    with pytest.raises(CheckpointError):
        load_archive(archive(Attack(os.system, f"touch {victim}")), "common.pt")
    assert not victim.exists()
