"""Small files that ask for much: memory or time far beyond what they could honestly hold."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

GIB = 1 << 30
Call = tuple[str, list[Any]]
"""What to call, as tests.reliability.limits takes it."""
SUMMARY, METADATA = "nemo_pi.checkpoint.summary:read_summary", "tests.reliability.bombs:metadata_of"
ARCHIVE, PREPROCESS = "tests.reliability.bombs:archive_of", "tests.reliability.bombs:lines_of"
NEMO = "tests.reliability.bombs:nemo_weights_of"
CONFIG, INDEX = "tests.reliability.bombs:nemo_config_of", "nemo_pi.data.indexed:validate_pair"
TOKENIZER, PLAN = "nemo_pi.data.tokenizer:build_tokenizer", "tests.reliability.bombs:plan_of"
YAML, EVALUATION = "tests.reliability.bombs:yaml_of", "nemo_pi.cli.evaluate_arguments:parse"


def archive_of(path: str) -> Any:
    """A `common.pt`, or any other archive of torch's."""
    from nemo_pi.checkpoint.safe_pickle import load_archive

    return load_archive(Path(path), path)


def metadata_of(path: str) -> Any:
    """A `.metadata`."""
    from nemo_pi.checkpoint.safe_pickle import read_metadata

    return read_metadata(Path(path))


def nemo_weights_of(path: str) -> Any:
    """The weights of a .nemo file."""
    from nemo_pi.nemo.archive import read_weights

    return read_weights(Path(path))


def nemo_config_of(path: str) -> Any:
    """The configuration of a .nemo file."""
    from nemo_pi.nemo.archive import read_config

    return read_config(Path(path))


def lines_of(path: str) -> int:
    """Lines of a JSONL file, encoded as bytes."""
    from nemo_pi.data.encoding import Encoder, EncodingRules
    from nemo_pi.data.jsonl import read_lines

    encoder = Encoder(EncodingRules({"library": "byte"}))
    return sum(len(encoder([line])) for line in read_lines([Path(path)]))


def plan_of(values: dict[str, Any]) -> None:
    """A dry run of these keys."""
    from omegaconf import OmegaConf

    from nemo_pi.nemo.run import run

    run(OmegaConf.create({"dry_run": True, "trainer": {"max_steps": 100}, **values}))


def yaml_of(folder: str, *words: str) -> None:
    """The command line of a run over the YAML `main` in a folder."""
    import sys

    from nemo_pi.cli.runner import hydra_runner

    @hydra_runner(config_path=folder, config_name="main")
    def main(cfg: Any) -> None:
        from nemo_pi.config.load import merge

        merge(cfg)

    sys.argv = ["main.py", *words]
    main()


# ---- pickles ------------------------------------------------------------------------------------


def shared_tuples(levels: int) -> bytes:
    """Instructions that make a tuple of `levels` levels, each twice the one below: 2^levels to hash."""
    made = pickle.NONE
    for _ in range(levels):
        made += pickle.DUP + pickle.TUPLE2
    return made


def key_of(made: bytes) -> bytes:
    """A pickle of a dictionary with one key."""
    return pickle.PROTO + b"\2" + pickle.EMPTY_DICT + made + pickle.NONE + pickle.SETITEM + pickle.STOP


def call_of(name: str, *arguments: Any) -> bytes:
    """A pickle that calls `module name` with plain arguments."""
    given = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"\x80\2c" + name.replace(" ", "\n").encode() + b"\n" + given + pickle.REDUCE + pickle.STOP


FIELDS = pickle.BINBYTES8 + struct.pack("<Q", 8 * GIB) + b"x" * 4
PICKLES: dict[str, bytes] = {
    "eight GiB of bytes in 13": FIELDS,
    "eight GiB of text": pickle.BINUNICODE8 + struct.pack("<Q", 8 * GIB) + b"x" * 4,
    "a byte array": pickle.BYTEARRAY8 + struct.pack("<Q", 8 * GIB),
    "a frame": pickle.PROTO + b"\4" + pickle.FRAME + struct.pack("<Q", 8 * GIB),
    "a long number": pickle.LONG4 + struct.pack("<i", 2**31 - 1),
    "a key of 2^40 steps": key_of(shared_tuples(40)),
    "a key of a million levels": key_of(pickle.NONE + pickle.TUPLE1 * 1_000_000),
    "an ordered dictionary of such": b"\x80\2ccollections\nOrderedDict\n"
    + pickle.EMPTY_LIST
    + shared_tuples(40)
    + pickle.NONE
    + pickle.TUPLE2
    + pickle.APPEND
    + pickle.TUPLE1
    + pickle.REDUCE
    + pickle.STOP,
    "a set of such": pickle.PROTO
    + b"\4"
    + pickle.EMPTY_SET
    + pickle.MARK
    + shared_tuples(40)
    + pickle.ADDITEMS
    + pickle.STOP,
    "lists at every byte": pickle.EMPTY_LIST * 900_000 + pickle.STOP,
    "an enum of such": b"\x80\2ctorch.distributed.checkpoint.metadata\n_MEM_FORMAT_ENCODING\n"
    + shared_tuples(40)
    + pickle.TUPLE1
    + pickle.REDUCE
    + pickle.STOP,
}


def nested_fields() -> bytes:
    """A key whose class hashes its fields, each an instance of the same class, forty deep."""
    name = b"ctorch.distributed.checkpoint.metadata\nMetadataIndex\n"
    made = pickle.NONE
    for _ in range(40):
        made += pickle.DUP + pickle.NONE + pickle.TUPLE3 + b"p0\n0" + name + b"g0\n" + pickle.REDUCE
    return key_of(made)


PICKLES["a key that hashes its fields"] = nested_fields()


# ---- torch's archives ---------------------------------------------------------------------------


def archive(path: Path, pickled: bytes, members: dict[str, bytes] | None = None) -> Path:
    """An archive as torch.save lays it out, with this data.pkl."""
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/byteorder", b"little")
        for name, content in (members or {}).items():
            made.writestr(f"archive/{name}", content)
        made.writestr("archive/version", b"3\n")
    return path


def repacked(path: Path) -> Path:
    """The same archive, deflated."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    whole.unlink()
    return path


def inflating(path: Path) -> Path:
    """Eighty megabytes of zeros as torch saves them, deflated to a thousandth; gigabytes are as well."""
    torch.save({"a": torch.zeros(20_000_000)}, path)
    return repacked(path)


def overlapping(path: Path) -> Path:
    """A listing of a thousand members that are all the same four megabytes."""
    archive(path, pickle.dumps({}, protocol=2), {"data/0": bytes(4 << 20)})
    with zipfile.ZipFile(path, "a") as made:
        (first,) = [member for member in made.infolist() if member.filename.endswith("data/0")]
        for number in range(1, 1000):
            again = zipfile.ZipInfo(f"archive/data/{number}")
            again.header_offset, again.file_size, again.compress_size = first.header_offset, 4 << 20, 4 << 20
            again.CRC = first.CRC
            made.filelist.append(again)
            made.NameToInfo[again.filename] = again
        made._didModify = True  # type: ignore[attr-defined]
    return path


def tensor_of(size: Sequence[int], stride: Sequence[int], numel: int = 4) -> bytes:
    """A data.pkl of one tensor over a storage of 16 bytes."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self) -> Any:
            arguments = (Storage(), 0, tuple(size), tuple(stride), False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"a": Tensor()})
    return stream.getvalue()


SIXTEEN = {"data/0": bytes(16)}
ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "inflating": inflating,
    "overlapping members": overlapping,
    "a key of 2^40 steps": lambda path: archive(path, key_of(shared_tuples(40))),
    "a byte array": lambda path: archive(path, call_of("builtins bytearray", 8 * GIB)),
    "text that doubles": lambda path: archive(
        path,
        b"\x80\2" + b"c_codecs\nencode\n" * 30 + b"X\4\0\0\0abcd" + b"X\3\0\0\0hex\x86R" * 30 + pickle.STOP,
    ),
    "a storage class": lambda path: archive(path, call_of("torch.storage UntypedStorage", 8 * GIB)),
    "a tensor class": lambda path: archive(path, call_of("torch Tensor", 8 * GIB)),
    "a tensor beyond its storage": lambda path: archive(path, tensor_of([2 * GIB], [1]), SIXTEEN),
    "a tensor of one value": lambda path: archive(path, tensor_of([1 << 40], [0]), SIXTEEN),
    "a storage beyond its member": lambda path: archive(path, tensor_of([4], [1], 2 * GIB), SIXTEEN),
    "a set": lambda path: archive(
        path,
        b"\x80\2cbuiltins\nset\n" + pickle.EMPTY_LIST + shared_tuples(40) + pickle.APPEND + b"\x85R.",
    ),
}


# ---- other files --------------------------------------------------------------------------------


def sparse(path: Path, size: int, start: bytes = b"") -> Path:
    """A file of `size` bytes that takes no room on the disk."""
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)
    return path


def index(folder: Path, sequences: int, marks: int, tokens: int) -> Path:
    """A sparse pair of index and tokens."""
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, sequences, marks)
    sparse(folder / "tokens.idx", len(header) + 12 * sequences + 8 * marks, header)
    sparse(folder / "tokens.bin", 2 * tokens)
    return folder / "tokens"


def one_line(path: Path, size: int, line: bytes = b"a" * (1 << 20)) -> Path:
    """A compressed file of `size` bytes of the same."""
    settings: dict[str, Any] = {"compresslevel": 1} if path.suffix == ".gz" else {"preset": 0}
    with (gzip if path.suffix == ".gz" else lzma).open(path, "wb", **settings) as stream:
        for _ in range(size // len(line)):
            stream.write(line)
    return path


def nemo_file(path: Path, weights: bytes, config: bytes = b"num_layers: 1\n") -> Path:
    """A .nemo file."""
    with tarfile.open(path, "w:") as made:
        for name, content in (("model_config.yaml", config), ("model_weights.ckpt", weights)):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            made.addfile(header, io.BytesIO(content))
    return path


def tar_header(path: Path, kind: bytes, size: int) -> Path:
    """A tar archive whose first header claims a long name."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, size
    return sparse(path, size + 1024, header.tobuf(tarfile.GNU_FORMAT))


def laughs(levels: int = 12) -> str:
    """YAML of lists of ten of the lists before."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


def doubling(levels: int = 40, form: str = "${{{0}}}${{{0}}}") -> str:
    """YAML of texts that are twice the text before."""
    lines = ["a0: xxxxxxxxxxxxxxxx", *(f"a{n}: '{form.format(f'a{n - 1}')}'" for n in range(1, levels))]
    return "\n".join(lines) + "\n"


def deep_json(levels: int) -> str:
    """A config.json that is nested so deep."""
    return '{"model_type": "llama", "a": ' + "[" * levels + "]" * levels + "}"


def many_values(count: int) -> str:
    """A config.json of many empty lists."""
    return '{"model_type": "llama", "a": [' + ",".join(["[]"] * count) + "]}"


def safetensors(path: Path, header: bytes, rest: int = 16, claimed: int | None = None) -> Path:
    """A safetensors file with this header."""
    length = struct.pack("<Q", len(header) if claimed is None else claimed)
    return sparse(path, 8 + len(header) + rest, length + header)


def huggingface(folder: Path, source: Path, **changes: Any) -> Path:
    """A copy of a Hugging Face folder with other entries in its config.json."""
    shutil.copytree(source, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    return folder


# ---- what is not guarded -------------------------------------------------------------------------


def unpacked(path: str) -> int:
    """A line of a compressed file, whole."""
    with lzma.open(path) as stream:
        return len(stream.readline())


def unpickled(path: str) -> Any:
    """A pickle, by Python's own means."""
    return pickle.loads(Path(path).read_bytes())


def asked_for(size: int) -> int:
    """Memory that is not touched."""
    return len(bytearray(size))
