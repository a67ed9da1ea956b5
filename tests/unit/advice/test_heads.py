"""The largest |h_j| against queries and keys that hooks on transformers' projections see.

Shape legend: B rows, S tokens, N query heads, G key/value heads, D channels, F pairs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_pi.advice.heads import Watch, measure_pulls
from nemo_pi.checkpoint.summary import read_summary
from nemo_pi.evaluation.huggingface import HuggingFaceScorer
from nemo_pi.rope.bound import corrected_bound, largest_error, supremum
from tests.unit.families.test_parity import scaled, variants
from tests.unit.model.models import WINDOW, random_tokens, transformers_model


def projected(model: Any, tokens_BS: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(q [B, S, N, D], k [B, S, G, D]) of each layer before they are rotated, norms on them included."""
    seen: dict[str, list[Tensor]] = {"q": [], "k": []}
    width = model.config.head_dim
    for layer in model.model.layers:
        attention = layer.self_attn
        for kind in "qk":
            last = getattr(attention, f"{kind}_norm", getattr(attention, f"{kind}_proj"))

            def keep(module: Any, args: Any, output: Tensor, kind: str = kind) -> None:
                seen[kind].append(output.unflatten(-1, (-1, width)) if output.dim() == 3 else output)

            last.register_forward_hook(keep)
    with torch.no_grad():
        model(tokens_BS, use_cache=False)
    return list(zip(seen["q"], seen["k"], strict=True))


def naive(q_BSND: Tensor, k_BSGD: Tensor) -> float:
    """max |q_j|·|k_j| over pairs of halves, queries and the keys that they see, one by one."""
    half, shared = q_BSND.size(-1) // 2, q_BSND.size(2) // k_BSGD.size(2)
    largest = 0.0
    for b in range(q_BSND.size(0)):
        for n in range(q_BSND.size(2)):
            q, k = q_BSND[b, :, n].tolist(), k_BSGD[b, :, n // shared].tolist()
            for m, query in enumerate(q):
                for key in k[: m + 1]:
                    for j in range(half):
                        pull = math.hypot(query[j], query[j + half]) * math.hypot(key[j], key[j + half])
                        largest = max(largest, pull)
    return largest


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_equals_a_naive_computation(family: str, tmp_path: Path) -> None:
    model = transformers_model(family, **scaled(family, variants(family)["plain"], "none"))
    model.save_pretrained(tmp_path)
    text_BS = random_tokens(2, 13)
    expected = [naive(q, k) for q, k in projected(model, text_BS[:, :-1])]
    extension = read_summary(tmp_path).extension
    scorer = HuggingFaceScorer(tmp_path, device="cpu")
    pulls = measure_pulls(scorer, extension, text_BS, layers=range(99))
    assert pulls is not None
    assert pulls.largest == pytest.approx(max(expected), rel=1e-5)
    assert pulls.layer == expected.index(max(expected))
    alone = measure_pulls(scorer, extension, text_BS, layers=[1])
    assert alone is not None and alone.layer == 1
    assert alone.largest == pytest.approx(expected[1], rel=1e-5)


def test_keys_behind_a_query_do_not_count() -> None:
    """A huge last key is seen by the last query alone."""
    from tests.unit.rope.peers import make_spec

    watch = Watch(make_spec("none", head_dim=4))
    query, key = torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4)
    key[:, :, -1] = 100.0
    query[:, :, -1] = 1e-3
    with watch:
        torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True)
    assert watch.calls[0].max() == pytest.approx(2.0)


def test_interleaved_heads_pair_neighbours() -> None:
    from tests.unit.rope.peers import make_spec

    query = torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 1, 1, 4)
    for interleaved, expected in ((True, [25.0, 0.0]), (False, [9.0, 16.0])):
        watch = Watch(make_spec("none", head_dim=4, interleaved=interleaved))
        with watch:
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
        assert watch.calls[0].tolist() == [pytest.approx(expected)]


def test_an_unwatchable_model_is_none(tmp_path: Path) -> None:
    """GPT-J multiplies queries and keys itself."""
    transformers_model("gptj", **variants("gptj")["plain"]).save_pretrained(tmp_path)
    scorer = HuggingFaceScorer(tmp_path, device="cpu")
    text_BS = random_tokens(1, WINDOW // 2)
    assert measure_pulls(scorer, read_summary(tmp_path).extension, text_BS, range(9)) is None


def test_the_error_of_own_moduli_lies_between_none_and_the_corrected_bound() -> None:
    moduli = [0.5 + 0.1 * j for j in range(32)]
    error = largest_error(moduli, 64, 1e4)
    assert error < max(moduli) * supremum(64, 1e4) < max(moduli) * corrected_bound(64, 1e4)
    assert largest_error([2.0] * 32, 64, 1e4) == pytest.approx(2 * supremum(64, 1e4))
