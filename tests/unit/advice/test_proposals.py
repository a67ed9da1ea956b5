"""What is tried: every method's candidates, through the same door as a run's YAML."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nemo_pi.advice.proposals import Asked, Proposal, base_extension, propose
from nemo_pi.checkpoint.summary import CheckpointSummary
from nemo_pi.config.load import resolve
from nemo_pi.errors import ConfigError
from nemo_pi.rope.methods import registry
from nemo_pi.rope.methods.base import ScalingMethod
from nemo_pi.rope.methods.candidates import Candidate
from nemo_pi.rope.methods.linear import Linear
from nemo_pi.rope.spec import ContextExtension
from nemo_pi.rope.tables import attention_factor, inverse_frequencies
from tests.unit.config.builders import summary_of
from tests.unit.config.test_conf import AUTO, composed
from tests.unit.rope.peers import make_spec

ASKED = Asked(target_window=4096)


def proposals(summary: CheckpointSummary | None = None, asked: Asked = ASKED) -> list[Proposal]:
    return propose(summary or summary_of(), asked)[0]


def test_every_method_is_tried_and_its_first_choice_before_any_second_one() -> None:
    found = proposals()
    assert {proposal.method for proposal in found} == set(registry.BUILT_IN)
    first = [proposal.method for proposal in found[: len(registry.BUILT_IN)]]
    assert first == list(registry.BUILT_IN)


def test_no_two_have_the_same_name_or_the_same_positions() -> None:
    found = proposals()
    assert len({proposal.label for proposal in found}) == len(found)
    seen = {
        (
            tuple(inverse_frequencies(e, 512).tolist()),
            tuple(inverse_frequencies(e, 4096).tolist()),
            attention_factor(e),
        )
        for e in (proposal.extension for proposal in found)
    }
    assert len(seen) == len(found)


def test_factors_at_and_above_the_ratio_bases_and_ramps_are_among_them() -> None:
    found = proposals()
    ntk = {proposal.extension.factor for proposal in found if proposal.method == "ntk"}
    assert min(ntk) == 8.0 and max(ntk) > 8.0
    bases = [proposal.extension.extra_args["base"] for proposal in found if proposal.method == "abf"]
    assert min(bases) >= 0.0424 * 4096**1.628
    ramps = {
        proposal.extension.extra_args.get("beta_fast") for proposal in found if proposal.method == "yarn"
    }
    assert {None, 4.0} <= ramps


def test_a_base_that_reaches_the_bound_is_raised_all_the_same() -> None:
    summary = summary_of(extension=ContextExtension.unscaled(512, 64, base=1e8))
    (only,) = (p for p in proposals(summary) if p.method == "abf")
    assert only.extension.extra_args == {"base": 4e8}


@pytest.mark.parametrize("method", [*registry.BUILT_IN])
def test_the_printed_overrides_resolve_to_what_was_measured(method: str) -> None:
    """As a shell splits the line and Hydra reads it, in a run of examples/extend_context.py."""
    summary = summary_of()
    for proposal in proposals(summary, Asked(4096, methods=[method])):
        words = shlex.split(" ".join(proposal.overrides))
        run = resolve(composed(*AUTO, *words), world_size=1, summary=summary)
        assert run.extension == proposal.extension, proposal.label


def test_the_printed_yaml_says_the_same(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    for proposal in proposals():
        read = OmegaConf.to_container(OmegaConf.create(proposal.yaml))
        assert read == {"model": dict(proposal.keys)}


def test_a_window_that_extends_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--target-window.*512.*To fix: --target-window 4096"):
        base_extension(summary_of(), Asked(512))


def test_a_scaled_checkpoint_is_refused_unless_it_may_be_rescaled() -> None:
    summary = summary_of(extension=make_spec("yarn"))
    with pytest.raises(ConfigError, match="--allow-rescaling"):
        base_extension(summary, Asked(8192))
    asked = Asked(8192, allow_rescaling=True)
    assert base_extension(summary, asked) == summary.extension
    for proposal in proposals(summary, asked):
        assert "model.allow_rescaling=true" in proposal.overrides
        assert proposal.extension.original_window == 512  # never on top
        words = shlex.split(" ".join(proposal.overrides))
        assert resolve(composed(*AUTO, *words), world_size=1, summary=summary).extension == proposal.extension


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'yarn'"):
        propose(summary_of(), Asked(4096, methods=["yran"]))


@dataclass(frozen=True)
class Softened(ScalingMethod):
    """Another package's."""

    name = "softened"
    training = "none yet"
    gain: float = 1.0

    @classmethod
    def candidates(cls, rope):  # type: ignore[no-untyped-def]
        return Candidate({"gain": 1.5}), Candidate({"gain": 2.0}), Candidate({"gian": 2.0})

    def inverse_frequencies(self, rope, seq_len):  # type: ignore[no-untyped-def]
        return Linear().inverse_frequencies(rope, seq_len) / self.gain


@pytest.fixture
def softened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BUILT_IN, "softened", Softened)
    yield


@pytest.mark.usefixtures("softened")
def test_another_method_offers_its_own_candidates_and_a_wrong_one_is_named() -> None:
    found, left_out = propose(summary_of(), Asked(4096, methods=["softened"]))
    assert [proposal.label for proposal in found] == ["softened, gain 1.5", "softened, gain 2"]
    assert [proposal.training for proposal in found] == ["none yet"] * 2
    assert "gian" in left_out[0]
