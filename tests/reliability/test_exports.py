"""A Hugging Face folder from a stranger: no export passes code on, no reader of ours runs or fetches any."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from nemo_pi.checkpoint.hf.source import HuggingFaceSource
from nemo_pi.checkpoint.hf.target import write_side_files
from nemo_pi.checkpoint.hf.tokenizer import copy_tokenizer
from nemo_pi.checkpoint.safe_pickle import load_archive
from nemo_pi.data.tokenizer import HuggingFaceTokenizer
from nemo_pi.errors import CheckpointError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.families.inert import without_code
from nemo_pi.rope.spec import ContextExtension
from tests.reliability.hostile import CODE, Runs, remote_code_tokenizer, write_json
from tests.unit.model.models import SHAPE, WINDOW, random_tokens, transformers_model

DEMO = Path(__file__).resolve().parents[2] / "demo" / "model"
LONGER = ContextExtension.build(original_window=WINDOW, target_window=2 * WINDOW, head_dim=SHAPE.head_dim)
ADVICE = ("trust_remote_code", "weights_only", "safe_globals")


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound model and tokenizer, every JSON of which names code that lies beside them."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "hostile"
    transformers_model().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DEMO / name, folder / name)
    for kind in ("configuration", "modeling", "tokenization"):
        (folder / f"{kind}_evil.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    named = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    tokenizers = {"AutoTokenizer": ["tokenization_evil.T", None]}
    edit(
        folder / "config.json",
        auto_map=named,
        trust_remote_code=True,
        custom_pipelines={"x": {"impl": "e.P"}},
    )
    edit(folder / "config.json", attn_implementation="evil/kernel", inner={"auto_map": named, "kept": [1]})
    edit(folder / "generation_config.json", custom_generate="evil/generate", trust_remote_code=True)
    edit(
        folder / "tokenizer_config.json", auto_map=tokenizers, extra=[{"trust_remote_code": True, "kept": 1}]
    )
    return folder


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})


def exported(source: Path, target: Path) -> Path:
    """The side files of an export, weights left out."""
    target.mkdir()
    values = HuggingFaceSource.from_dict(HuggingFaceSource.read(source).to_dict())
    write_side_files(target, SHAPE, LONGER, values, source, None)
    return target


def test_an_export_names_no_code(hostile: Path, tmp_path: Path) -> None:
    out = exported(hostile, tmp_path / "out")
    texts = {path.name: path.read_text() for path in out.iterdir()}
    assert not [name for name in texts if name.endswith(".py")]
    named = ("auto_map", "trust_remote_code", "custom_", "_evil", "evil/")
    assert [(name, word) for name, text in texts.items() for word in named if word in text] == []
    assert json.loads(texts["config.json"])["inner"] == {"kept": [1]}
    assert json.loads(texts["tokenizer_config.json"])["extra"] == [{"kept": 1}]


def test_an_export_opens_the_same_with_and_without_remote_code(hostile: Path, tmp_path: Path) -> None:
    """What vLLM's --trust-remote-code does: without the .py files it must not look for them."""
    out = exported(hostile, tmp_path / "out")
    plain = transformers.AutoConfig.from_pretrained(out, trust_remote_code=False)
    assert transformers.AutoConfig.from_pretrained(out, trust_remote_code=True) == plain
    tokenizer = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert (
        tokenizer("a b")["input_ids"] == transformers.AutoTokenizer.from_pretrained(DEMO)("a b")["input_ids"]
    )


def test_files_that_name_no_code_are_copied_byte_by_byte(tmp_path: Path) -> None:
    copy_tokenizer(DEMO, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (DEMO / path.name).read_bytes()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"attn_implementation": "sdpa"}, True),
        ({"_attn_implementation": "flash_attention_2"}, True),
        ({"attn_implementation": None}, True),
        ({"attn_implementation": {"": "eager", "text": "sdpa"}}, True),
        ({"attn_implementation": "org/name"}, False),
        ({"_attn_implementation": "org/name@v1:kernel"}, False),
        ({"_attn_implementation_internal": "paged|org/name"}, False),
        ({"attn_implementation": {"": "sdpa", "text": "org/name"}}, False),
        ({"experts_implementation": "org/name"}, False),
        ({"tokenizer_class": "LlamaTokenizerFast"}, True),
        ({"tokenizer_class": "org/name--module.Class"}, False),
        ({"auto_map": {}}, False),
        ({"use_kernels": True}, False),
        ({"rope_scaling": {"type": "yarn"}}, True),
        ({0: "LABEL_0"}, True),
    ],
)
def test_what_names_code(given: dict[Any, Any], kept: bool) -> None:
    assert without_code({"a": [{"b": given}]}) == {"a": [{"b": given if kept else {}}]}
    chosen = any("implementation" in str(key) for key in given)
    left = given if kept and not chosen else {}
    assert without_code({"a": [{"b": given}]}, implementations=False) == {"a": [{"b": left}]}


@pytest.mark.parametrize("name", ["flash_attention_2", "eager", "evil/kernel"])
def test_an_evaluation_chooses_its_attention_itself(hostile: Path, name: str) -> None:
    edit(hostile / "config.json", attn_implementation=name, _attn_implementation=name)
    assert HuggingFaceScorer(hostile).model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", '{"model_type": ["llama"]}'])
def test_a_configuration_that_is_none_is_one_message(hostile: Path, text: str) -> None:
    (hostile / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="checkpoint folder"):
        HuggingFaceScorer(hostile)


def test_an_evaluation_takes_transformers_own_classes(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same scores as the sound folder; nothing is imported from the folder or looked for elsewhere."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a look-up on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    sound = tmp_path / "sound"
    transformers_model().save_pretrained(sound)
    tokens = random_tokens()
    inputs = (tokens[:, :-1], tokens[:, 1:], torch.arange(tokens.shape[1] - 1).expand(len(tokens), -1))
    scores = [HuggingFaceScorer(folder).score(*inputs).logprob_BS for folder in (hostile, sound)]
    assert torch.equal(*scores)
    assert not (tmp_path / "ran").exists()


def test_a_kernel_s_name_is_a_real_attack(hostile: Path) -> None:
    """transformers itself would look for it: without that, the test above would prove nothing."""
    edit(hostile / "config.json", auto_map={})
    with pytest.raises(Exception, match=r"kernel"):
        transformers.AutoModelForCausalLM.from_pretrained(hostile)


def test_an_architecture_of_the_folder_s_own_is_refused_without_advice(hostile: Path, tmp_path: Path) -> None:
    edit(hostile / "config.json", model_type="evil", architectures=["EvilForCausalLM"])
    with pytest.raises(CheckpointError, match="model_type 'evil'") as refused:
        HuggingFaceScorer(hostile)
    assert not any(word in str(refused.value) for word in ADVICE)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_of_the_folder_s_own_is_refused_without_advice(tmp_path: Path) -> None:
    folder = remote_code_tokenizer(tmp_path / "hostile", tmp_path / "ran")
    with pytest.raises(DataError, match="without running code") as refused:
        HuggingFaceTokenizer(folder)
    assert not any(word in str(refused.value) for word in ADVICE)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_is_refused_by_what_it_names_without_advice(tmp_path: Path) -> None:
    torch.save({"a": Runs(tmp_path / "ran")}, tmp_path / "common.pt")
    with pytest.raises(CheckpointError, match="exec") as refused:
        load_archive(tmp_path / "common.pt", "common.pt")
    assert not any(word in str(refused.value) for word in ADVICE)
    assert not (tmp_path / "ran").exists()


# ---- links ------------------------------------------------------------------------------------------------


def linked(folder: Path, name: str, target: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "merges.txt"])
def test_a_link_out_of_the_folder_is_not_copied(tmp_path: Path, name: str) -> None:
    source, target, secret = tmp_path / "source", tmp_path / "target", tmp_path / "secret.json"
    shutil.copytree(DEMO, source)
    target.mkdir()
    secret.write_text('{"password": "xyzzy"}')
    linked(source, name, secret)
    with pytest.raises(CheckpointError, match=f"{name}: required a file of this folder"):
        copy_tokenizer(source, target)
    assert not any("xyzzy" in path.read_text() for path in target.iterdir())


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_a_link_out_of_the_folder_is_not_exported(tmp_path: Path, name: str) -> None:
    source, secret = tmp_path / "source", tmp_path / "secret.json"
    transformers_model().save_pretrained(source)
    (source / name).rename(secret)
    linked(source, name, secret)
    with pytest.raises(CheckpointError, match="a file of this folder"):
        HuggingFaceSource.read(source)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(DEMO, source)
    target.mkdir()
    (source / "files").mkdir()
    (source / "tokenizer.json").rename(source / "files" / "tokenizer.json")
    linked(source, "tokenizer.json", Path("files/tokenizer.json"))
    (tmp_path / "by-link").symlink_to(source)
    copy_tokenizer(tmp_path / "by-link", target)
    assert (target / "tokenizer.json").read_bytes() == (DEMO / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("place", ["snapshot", "local folder"])
def test_links_into_the_hub_s_cache_are_followed(tmp_path: Path, place: str) -> None:
    """As huggingface_hub lays out a snapshot, and as its earlier versions laid out --local-dir."""
    cached, target = tmp_path / "hub" / "models--org--name", tmp_path / "target"
    source = cached / "snapshots" / ("0" * 40) if place == "snapshot" else tmp_path / "local"
    for folder in (cached / "blobs", source, target):
        folder.mkdir(parents=True)
    for path in DEMO.glob("*.json"):
        content = path.read_bytes()
        blob = cached / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        linked(source, path.name, blob)
    copy_tokenizer(source, target)
    assert (target / "tokenizer.json").read_bytes() == (DEMO / "tokenizer.json").read_bytes()
    assert not (target / "tokenizer.json").is_symlink()
    secret = cached / "blobs" / "secret"
    secret.write_text("{}")
    linked(source, "merges.txt", secret)
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        copy_tokenizer(source, target)
