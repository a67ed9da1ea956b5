"""LongPPL against the authors' package on the bundled model, and loss by position against a plain loop."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from nemo_pi.data.tokenizer import Tokenizer, build_tokenizer
from nemo_pi.errors import ConfigError, DataError
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.evaluation.tasks.base import TaskContext
from nemo_pi.evaluation.tasks.longppl import LongPpl, LongPplResult
from nemo_pi.evaluation.tasks.position_loss import PositionLoss, PositionLossResult

ROOT = Path(__file__).resolve().parents[4]
BUNDLED = ROOT / "demo" / "model"
WINDOW = 480


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer("huggingface", str(BUNDLED))


@pytest.fixture(scope="module")
def texts(tokenizer: Tokenizer) -> list[str]:
    """Held-out prose that is WINDOW tokens long, again when it is encoded."""
    with lzma.open(ROOT / "demo" / "text" / "heldout.jsonl.xz", "rt", encoding="utf-8") as file:
        first = json.loads(file.readline())["text"]
    ids = tokenizer.encode(first)
    pieces = (tokenizer.decode(ids[start : start + WINDOW]) for start in range(0, 20 * WINDOW, WINDOW))
    return [piece for piece in pieces if len(tokenizer.encode(piece)) == WINDOW][:2]


def test_longppl_equals_the_authors_package(tokenizer: Tokenizer, texts: list[str]) -> None:
    """The same key tokens of the same text, the model judging itself."""
    package = pytest.importorskip("longppl.longppl", reason="compares with longppl: pip install -e '.[dev]'")
    hf, model = AutoTokenizer.from_pretrained(BUNDLED), AutoModelForCausalLM.from_pretrained(BUNDLED)
    task = LongPpl(short=64, stride=32, alpha=0.2, beta=5.0)
    scorer = HuggingFaceScorer(BUNDLED, device="cpu")
    assert len(texts) == 2
    for text in texts:
        plan = task.plan(TaskContext(tokenizer, [tokenizer.encode(text)], 480, WINDOW))
        calls: list[tuple[int, int]] = []
        result = task.run(scorer, plan, lambda what, done, total, calls=calls: calls.append((done, total)))
        assert calls[-1] == (plan.cost.tokens, plan.cost.tokens) and len(calls) == plan.cost.batches
        # Their package takes β with the other sign.
        theirs = package.compute_longppl(
            text, model, model, hf, hf, trunc_len=64, sliding_window=32, alpha=0.2, beta=-5.0
        )
        assert 5 < result.num_key_tokens < 200 and result.num_tokens == WINDOW - 64
        # Theirs finds key tokens again by their place in the text, and may take a neighbour with them.
        assert result.num_key_tokens == pytest.approx(theirs["n_key_token"], abs=2)
        assert result.longppl == pytest.approx(float(theirs["longppl"]), rel=0.03)


def test_both_are_sums_over_a_plain_loop(tokenizer: Tokenizer, texts: list[str]) -> None:
    documents = [tokenizer.encode(text) for text in texts]
    context = TaskContext(tokenizer, documents, 256, WINDOW - 1)
    scorer = HuggingFaceScorer(BUNDLED, device="cpu")
    model = AutoModelForCausalLM.from_pretrained(BUNDLED)
    with torch.no_grad():
        ids = torch.tensor(documents)
        loss = cross_entropy(model(ids[:, :-1]).logits.transpose(1, 2).double(), ids[:, 1:], reduction="none")
        short = cross_entropy(
            model(ids[:, : 64 + 32]).logits[:, 63:-1].transpose(1, 2).double(),
            ids[:, 64 : 64 + 32],
            reduction="none",
        )
    task = PositionLoss(stretch=100)
    plan = task.plan(context)
    result = task.run(scorer, plan, lambda *_: None)
    assert list(result.by_end) == [100, 200, 300, 400, 479]
    for start, end in ((0, 100), (400, 479)):
        assert result.by_end[end] == pytest.approx(float(loss[:, start:end].mean()), rel=1e-5)
    assert plan.cost.tokens == 2 * 479
    assert PositionLossResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    # Of one short context: the first 96 tokens, whose last 32 are compared.
    first = TaskContext(tokenizer, [document[:96] for document in documents], 80, 96)
    ours = LongPpl(short=64, stride=32, alpha=-9.0, beta=99.0)
    found = ours.run(scorer, ours.plan(first), lambda *_: None)
    assert found.num_key_tokens == found.num_tokens == 64
    assert found.longppl == pytest.approx(float(loss[:, 63:95].mean().exp()), rel=1e-5) == found.perplexity
    helps = short - loss[:, 63:95]
    assert helps.abs().max() < 1e-3, "a context as short as the whole text cannot help"
    none = LongPpl(short=64, stride=32, alpha=50.0)
    empty = none.run(scorer, none.plan(first), lambda *_: None)
    assert empty.longppl is None and empty.num_key_tokens == 0
    assert LongPplResult.from_json(json.loads(json.dumps(empty.to_json()))) == empty


def test_what_cannot_be_is_refused(tokenizer: Tokenizer) -> None:
    context = TaskContext(tokenizer, [list(range(100))], 256, WINDOW)
    with pytest.raises(ConfigError, match="short: required below the target window"):
        LongPpl().plan(context)
    with pytest.raises(DataError, match="documents"):
        LongPpl(short=200).plan(context)
    with pytest.raises(DataError, match="documents"):
        PositionLoss().plan(context)
    with pytest.raises(ConfigError, match="stretch"):
        PositionLoss(stretch=481).plan(context)
    for kind, field in ((LongPpl, "stride"), (LongPpl, "max_documents"), (PositionLoss, "stretch")):
        with pytest.raises(ConfigError, match=field):
            kind(**{field: 0})
