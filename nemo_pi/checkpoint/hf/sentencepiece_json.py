"""A sentencepiece model as a tokenizer.json, for a folder in which nothing else says how to read it.

transformers reads a bare tokenizer.model as the tokenizer of the model's family, which need not normalise
text as this one does. A tokenizer.json says all of it, and every version reads it alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo_pi.checkpoint.files import sync_path, write_json
from nemo_pi.errors import CheckpointError

_SPACE = "▁"
_UNIGRAM, _BPE = 1, 2
_CONTROL, _USER_DEFINED = 3, 4


def write_tokenizer_json(model: Path, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json that read text as a sentencepiece model does.

    No token is added at either end: sentencepiece adds none.

    Args:
        model: the sentencepiece file.
        folder: an existing folder.

    Raises:
        CheckpointError: it is no sentencepiece model, or one of words or characters.
    """
    proto = _read(model)
    tokenizer = _tokenizer(proto, model)
    tokenizer.save(str(folder / "tokenizer.json"))
    sync_path(folder / "tokenizer.json")
    spec = proto.trainer_spec
    pieces = {id: proto.pieces[id].piece for id in range(len(proto.pieces))}
    ids = {"bos": spec.bos_id, "eos": spec.eos_id, "unk": spec.unk_id, "pad": spec.pad_id}
    names = {f"{kind}_token": pieces[id] for kind, id in ids.items() if id in pieces}
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**values, **names})


def _read(model: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # protobuf makes it when imported
    try:
        proto.ParseFromString(model.read_bytes())
    except Exception as error:  # protobuf's own kind, which differs from release to release
        raise _unusable(model, str(error)) from error
    if not proto.pieces:
        raise _unusable(model, "one without pieces")
    return proto


def _tokenizer(proto: Any, model: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer, models

    spec = proto.trainer_spec
    if spec.model_type == _UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        core: Any = models.Unigram(scores, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
    elif spec.model_type == _BPE:
        vocabulary = {piece.piece: id for id, piece in enumerate(proto.pieces)}
        core = models.BPE(
            vocabulary,
            _merges(proto),
            unk_token=proto.pieces[spec.unk_id].piece,
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
        )
    else:
        raise _unusable(model, "a model of words or characters")
    tokenizer = Tokenizer(core)
    tokenizer.normalizer, tokenizer.decoder = _normalizer(proto), _decoder(proto)
    marks = [piece for piece in proto.pieces if piece.type in (_CONTROL, _USER_DEFINED)]
    tokenizer.add_tokens(
        [AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL) for piece in marks]
    )
    return tokenizer


def _merges(proto: Any) -> list[tuple[str, str]]:
    """Pairs of pieces that make a third, the best piece first: sentencepiece keeps the pieces alone."""
    scores = {piece.piece: piece.score for piece in proto.pieces}
    pairs = [
        (piece[:cut], piece[cut:])
        for piece in scores
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    return sorted(pairs, key=lambda pair: -scores["".join(pair)])


def _normalizer(proto: Any) -> Any:
    from tokenizers import Regex, normalizers

    spec = proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _decoder(proto: Any) -> Any:
    from tokenizers import decoders

    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps)


def _unusable(model: Path, given: str) -> CheckpointError:
    return CheckpointError(
        str(model),
        required="a sentencepiece model of kind unigram or bpe",
        given=given,
        fix="give the tokenizer's folder, with its tokenizer.json or tokenizer_config.json",
    )
