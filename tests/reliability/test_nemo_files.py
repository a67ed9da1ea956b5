"""A .nemo file from a stranger: refused by name, and nothing in it has run."""

from __future__ import annotations

import io
import os
import pickle
import re
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo.core.classes import ModelPT
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from omegaconf import OmegaConf

from nemo_pi.errors import CheckpointError, ConfigError
from nemo_pi.nemo.archive import read_weights
from nemo_pi.nemo.module import ContextExtensionModel
from tests.reliability.hostile import NemoFile, Runs, remote_code_tokenizer, write_tar

PLAIN_TENSORS = "named tensors|names of parameters"
TOKENIZER = "nemo.collections.common.tokenizers.huggingface.auto_tokenizer.AutoTokenizer"
OURS = "target: nemo_pi.nemo.module.ContextExtensionModel"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code would leave its trace; the working folder has a tokenizer with code of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    remote_code_tokenizer(tmp_path / "hostile", tmp_path / "ran")
    return tmp_path / "ran"


def restore(path: Path, **changes: Any) -> Any:
    return ContextExtensionModel.restore_from(str(path), map_location="cpu", **changes)


def test_a_sound_file_opens(saved: NemoFile, tmp_path: Path) -> None:
    model = restore(saved.write(tmp_path / "sound.nemo"))
    weights = torch.load(io.BytesIO(saved.weights), weights_only=True)
    assert all(
        torch.equal(model.state_dict()[name], weights[name]) for name in weights if weights[name] is not None
    )


def test_a_file_from_before_the_class_moved_opens(saved: NemoFile, tmp_path: Path) -> None:
    assert OURS in saved.config
    old = NemoFile(saved.config.replace("nemo_pi.nemo.module", "nemo_pi.training.module"), saved.weights)
    assert restore(old.write(tmp_path / "old.nemo")).cfg.target == "nemo_pi.nemo.module.ContextExtensionModel"


def test_a_class_of_the_users_own_opens_its_files(saved: NemoFile, tmp_path: Path) -> None:
    class Mine(ContextExtensionModel):
        pass

    name = f"{Mine.__module__}.{Mine.__qualname__}"
    config = saved.config.replace(OURS, f"target: {name}")
    model = Mine.restore_from(str(NemoFile(config, saved.weights).write(tmp_path / "mine.nemo")))
    assert type(model) is Mine


HERE = "pretrained_model_name: ./hostile\ntrust_remote_code: true"
IN_ONE_LINE = HERE.replace("\n", ", ")
NAMES_CODE = {
    "a tokenizer at the top": f"_target_: {TOKENIZER}\n{HERE}\n",
    "hydra 0's class": f"cls: {TOKENIZER}\nparams: {{{IN_ONE_LINE}}}\n",
    "a nested tokenizer": f"tok: {{_target_: {TOKENIZER}, {IN_ONE_LINE}}}\n",
    "in a list of lists": f"x: [[1, {{_target_: {TOKENIZER}, pretrained_model_name: ./hostile}}]]\n",
    "a logger": "logger: {_target_: lightning.pytorch.loggers.CSVLogger, save_dir: ran}\n",
    "a layer": "_target_: torch.nn.Linear\nin_features: 4\nout_features: 4\n",
    "a layer, hydra 0's way": "layer: {cls: torch.nn.Linear, params: {in_features: 4, out_features: 4}}\n",
    "a target below the top": "layer: {target: torch.nn.Linear}\n",
    "ours below the top": "layer: {target: nemo_pi.nemo.module.ContextExtensionModel}\n",
    "remote code alone": "trust_remote_code: true\n",
    "an environment variable": "name_of_it: ${oc.env:HOME}\n",
    "a mapping from text": """made: '${oc.decode:"{_target_: torch.nn.Linear}"}'\n""",
    "a Python object": "made: !!python/object/apply:os.system ['touch ran']\n",
    "a Python name": "made: !!python/name:os.system\n",
    "a tag of no meaning": "made: !thing {a: 1}\n",
    "an anchor": "a: &a [1, 2]\nb: [*a, *a]\n",
    "a section nested without end": "deep: " + "[" * 200 + "]" * 200 + "\n",
    "a megabyte of text": f"long: {'x' * (1 << 20)}\n",
    "an unknown key": "number_of_doors: 4\n",
    "a key twice": "num_layers: 2\n",
    "no YAML": "\tnum_layers: [\n",
}


@pytest.mark.parametrize("extra", NAMES_CODE.values(), ids=NAMES_CODE.keys())
def test_a_configuration_that_names_code_is_refused(saved: NemoFile, marker: Path, extra: str) -> None:
    with pytest.raises(CheckpointError, match=r"hostile\.nemo: model_config\.yaml"):
        restore(saved.write(marker.parent / "hostile.nemo", extra))
    assert not marker.exists()


def test_nesting_has_a_bound_of_its_own(saved: NemoFile, tmp_path: Path) -> None:
    """Well before Python's recursion ends, in what reads YAML as in what walks over it."""
    path = saved.write(tmp_path / "hostile.nemo", "deep: " + "[" * 30 + "]" * 30 + "\n")
    with pytest.raises(CheckpointError, match="nested levels"):
        restore(path)


def test_our_own_class_may_be_named_at_the_top_alone(saved: NemoFile, tmp_path: Path) -> None:
    """Elsewhere its name is refused as code, not as an unknown key: a schema might come to have that key."""
    path = saved.write(tmp_path / "hostile.nemo", NAMES_CODE["ours below the top"])
    with pytest.raises(CheckpointError, match="never code"):
        restore(path)


def test_a_configuration_of_code_alone_is_refused(saved: NemoFile, marker: Path) -> None:
    """What NeMo's own way would build at once: no key is left that the class would not take."""
    for name in ("a tokenizer at the top", "hydra 0's class", "a layer"):
        with pytest.raises(CheckpointError, match="never code"):
            restore(NemoFile(NAMES_CODE[name], saved.weights).write(marker.parent / "hostile.nemo"))
    assert not marker.exists()


def test_the_attack_is_a_real_one(saved: NemoFile, marker: Path) -> None:
    """NeMo's own connector runs the folder's code: without that, the tests above would prove nothing."""
    path = NemoFile(NAMES_CODE["a tokenizer at the top"], saved.weights).write(marker.parent / "hostile.nemo")
    with pytest.raises(Exception, match="tokenization_evil"):
        SaveRestoreConnector().load_config_and_state_dict(ModelPT, str(path), map_location="cpu")
    assert marker.exists()


def test_another_class_at_the_top_is_refused(saved: NemoFile, marker: Path) -> None:
    for other in (
        "torch.nn.Linear",
        TOKENIZER,
        "nemo_pi.nemo.run.run",
        "nemo_pi.nemo.module.ContextExtensionModel.x",
    ):
        config = saved.config.replace(OURS, f"target: {other}")
        with pytest.raises(CheckpointError, match="names values, never code"):
            restore(NemoFile(config, saved.weights).write(marker.parent / "hostile.nemo"))
    assert not marker.exists()


@pytest.mark.parametrize("whole_run", [False, True])
def test_a_configuration_beside_the_archive_is_checked_too(
    saved: NemoFile, marker: Path, whole_run: bool
) -> None:
    sound, hostile = saved.write(marker.parent / "sound.nemo"), marker.parent / "hostile.yaml"
    extra = NAMES_CODE["a nested tokenizer"]
    text = saved.config + extra
    hostile.write_text(
        "model:\n" + "".join(f"  {line}\n" for line in text.splitlines()) if whole_run else text
    )
    with pytest.raises(CheckpointError, match="never code"):
        restore(sound, override_config_path=str(hostile))
    with pytest.raises(CheckpointError, match="never code"):
        restore(sound, override_config_path=OmegaConf.load(hostile))
    with pytest.raises(CheckpointError, match="never code"):
        ContextExtensionModel.from_config_file(str(hostile))
    assert not marker.exists()


def pickled(values: Any, plain: bool = False) -> bytes:
    """As torch.save writes it, or a bare pickle."""
    stream = io.BytesIO()
    pickle.dump(values, stream) if plain else torch.save(values, stream)
    return stream.getvalue()


@pytest.mark.parametrize("plain", [False, True])
def test_weights_that_hold_code_are_refused(
    saved: NemoFile, marker: Path, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    weights = pickled({"a": Runs(marker)}, plain)
    path = NemoFile(saved.config, weights).write(marker.parent / "hostile.nemo")
    with pytest.raises(CheckpointError, match=r"model_weights\.ckpt"):
        restore(path)
    with pytest.raises(CheckpointError, match=r"model_weights\.ckpt"):
        ContextExtensionModel.extract_state_dict_from(str(path), str(marker.parent / "parts"))
    assert not marker.exists()


@pytest.mark.parametrize(
    "weights", [[torch.ones(2)], {"a": [1]}, {"/etc/x": torch.ones(1)}, {1: torch.ones(1)}]
)
def test_weights_are_named_tensors_alone(saved: NemoFile, tmp_path: Path, weights: Any) -> None:
    path = NemoFile(saved.config, pickled(weights)).write(tmp_path / "hostile.nemo")
    with pytest.raises(CheckpointError, match=PLAIN_TENSORS):
        restore(path)
    with pytest.raises(CheckpointError, match=PLAIN_TENSORS):
        ContextExtensionModel.extract_state_dict_from(
            str(path), str(tmp_path / "parts"), split_by_module=True
        )
    assert os.listdir(tmp_path / "parts") == []


def test_states_that_modules_would_unpickle_are_left_out(saved: NemoFile, marker: Path) -> None:
    """As Transformer Engine's modules do with the bytes in theirs."""

    class Unpickles(torch.nn.Module):
        def set_extra_state(self, state: torch.Tensor | None) -> None:
            if state is not None:
                pickle.loads(state.numpy().tobytes())

    code = torch.frombuffer(bytearray(pickled(Runs(marker), plain=True)), dtype=torch.uint8)
    weights = pickled({"layer._extra_state": code, "layer.weight": torch.ones(2)})
    path = NemoFile(saved.config, weights).write(marker.parent / "hostile.nemo")
    module = torch.nn.ModuleDict({"layer": Unpickles()})
    for state in (
        read_weights(path),
        ContextExtensionModel.extract_state_dict_from(str(path), str(marker.parent / "parts")),
    ):
        assert torch.equal(state["layer.weight"], torch.ones(2))
        module.load_state_dict({"layer._extra_state": state["layer._extra_state"]})
    assert not marker.exists()
    module.load_state_dict({"layer._extra_state": code})  # the attack is a real one
    assert marker.exists()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


STRAYS = {
    "a file beside": ["beside.py"],
    "a member twice": ["model_config.yaml"],
    "a member twice, spelled otherwise": ["./model_config.yaml"],
    "outside": ["../outside.txt"],
    "an absolute path": ["/tmp/outside.txt"],
    "a link": [link("beside", "/etc/passwd")],
    "a hard link": [link("beside", "model_config.yaml", tarfile.LNKTYPE)],
    "a pipe": [link("beside", "", tarfile.FIFOTYPE)],
    "a folder": [link("folder", "", tarfile.DIRTYPE)],
}


@pytest.mark.parametrize("strays", STRAYS.values(), ids=STRAYS.keys())
def test_members_that_save_to_does_not_write_are_refused(
    saved: NemoFile, tmp_path: Path, strays: list[Any]
) -> None:
    members = [("model_config.yaml", saved.config.encode()), ("model_weights.ckpt", saved.weights)]
    path = write_tar(tmp_path / "hostile.nemo", [*members, *((stray, b"x") for stray in strays)])
    with pytest.raises(CheckpointError, match="each once and as a plain file"):
        restore(path)
    with pytest.raises(CheckpointError, match="each once and as a plain file"):
        ContextExtensionModel.extract_state_dict_from(str(path), str(tmp_path / "parts"))


def test_a_link_in_a_members_place_is_refused(saved: NemoFile, tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text(saved.config)
    members = [(link("model_config.yaml", str(secret)), b""), ("model_weights.ckpt", saved.weights)]
    with pytest.raises(CheckpointError, match="plain file"):
        restore(write_tar(tmp_path / "hostile.nemo", members))


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 2048])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.nemo").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no\.nemo"):
        restore(tmp_path / "no.nemo")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(saved: NemoFile, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="uncompressed"):
        restore(saved.write(tmp_path / "small.nemo", mode="w:gz"))


def test_an_archive_without_weights_is_refused(saved: NemoFile, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "half.nemo", [("model_config.yaml", saved.config.encode())])
    with pytest.raises(CheckpointError, match=r"model_weights\.ckpt"):
        restore(path)


def test_nemos_other_ways_in_are_closed(saved: NemoFile, marker: Path) -> None:
    hostile = marker.parent / "hostile.ckpt"
    hostile.write_bytes(pickled({"state_dict": Runs(marker)}))
    with pytest.raises(ConfigError, match="load_from_checkpoint"):
        ContextExtensionModel.load_from_checkpoint(str(hostile), weights_only=False)
    with pytest.raises(ConfigError, match="from_pretrained"):
        ContextExtensionModel.from_pretrained("someone/something")
    sound = saved.write(marker.parent / "sound.nemo")
    with pytest.raises(ConfigError, match="save_restore_connector"):
        restore(sound, save_restore_connector=SaveRestoreConnector())
    with pytest.raises(ConfigError, match="maybe_init"):
        restore(sound).maybe_init_from_pretrained_checkpoint(
            OmegaConf.create({"init_from_ptl_ckpt": str(hostile)})
        )
    assert not marker.exists()


def test_weights_are_extracted_as_nemo_does(saved: NemoFile, tmp_path: Path) -> None:
    path, parts = saved.write(tmp_path / "sound.nemo"), tmp_path / "parts"
    weights = ContextExtensionModel.extract_state_dict_from(str(path), str(parts), split_by_module=True)
    assert weights.keys() == torch.load(io.BytesIO(saved.weights), weights_only=True).keys()
    assert os.listdir(parts) == ["megatron.ckpt"]


@pytest.mark.parametrize(("layers", "words"), [(10**7, "65,536"), (60_000, "parameters, which")])
def test_a_model_that_its_weights_cannot_fill_is_not_built(
    saved: NemoFile, tmp_path: Path, layers: int, words: str
) -> None:
    config = re.sub(r"(?m)^num_layers: \d+$", f"num_layers: {layers}", saved.config)
    assert config != saved.config
    started = time.process_time()
    with pytest.raises(CheckpointError, match=words):
        restore(NemoFile(config, saved.weights).write(tmp_path / "large.nemo"))
    assert time.process_time() - started < 1
