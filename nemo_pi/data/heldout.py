"""Held-out texts to evaluate on, read and tokenized as training text is."""

from __future__ import annotations

from pathlib import Path

from nemo_pi.data.encoding import Encoder, EncodingRules
from nemo_pi.data.jsonl import find_files, read_lines
from nemo_pi.data.tokenizer import Tokenizer
from nemo_pi.errors import DataError
from nemo_pi.units import plural


def read_documents(
    path: Path, tokenizer: Tokenizer, longer_than: int, *, window: str = "target_window"
) -> list[list[int]]:
    """Token ids of the documents that exceed the longest window.

    Args:
        path: whatever preprocess_data.py reads: JSON lines, also compressed, or a folder of them.
        tokenizer: that of the model.
        longer_than: tokens of the longest window.
        window: key or flag that sets it, for the message.

    Raises:
        DataError: no such document, a file that cannot be read, or a line that is not what it should be.
    """
    encode = Encoder(EncodingRules(tokenizer={}, keys_option=None), tokenizer)
    documents: list[list[int]] = []
    try:
        files = find_files(path)
    except DataError as error:
        raise error.respelled({"--input": "documents"}) from error
    for line in read_lines(files):
        try:
            ((ids,),) = encode([line])
        except DataError as error:
            place = f"{line.path}:{line.number}"
            raise DataError(place, required=error.required, given=error.given, fix=error.fix) from error
        documents.append(ids.tolist())
    long_enough = [document for document in documents if len(document) > longer_than]
    if not long_enough:
        longest = max(map(len, documents), default=0)
        raise DataError(
            str(path),
            required=f"a document of more than {plural(longer_than, 'token')}",
            given=f"{plural(len(documents), 'document')}, the longest of {plural(longest, 'token')}",
            fix=f"give longer documents, or a smaller {window}",
        )
    return long_enough
