"""The repository as a whole: what must stand at the top, and words that belong to one machine only."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REQUIRED = [
    ".ci/run",
    ".dockerignore",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "conf",
    "constraints.txt",
    "docs/README.md",
    "docs/design.md",
    "examples/extend_context.py",
    "examples/slurm/extend_context.sbatch",
    "pyproject.toml",
    "setup.py",
]

# Projects whose own trackers may be quoted by number.
NEIGHBOURS = ("Megatron-LM", "Megatron-Bridge", "NeMo", "transformers", "axolotl", "LongLoRA")


def any_of(*patterns: str) -> str:
    """One pattern that matches any of these."""
    return "(?:" + "|".join(patterns) + ")"


# Spelt in pieces, so that this file does not contain what it looks for.
FORBIDDEN = {
    "the host of a package registry": any_of(
        r"pypi" + r"\.org", r"python" + r"hosted\.org", r"download\.py" + r"torch\.org", r"npm" + r"js\.org"
    ),
    "a package source in a requirement": r"--(?:extra-)?index" + r"-url[ =]https?:",
    "a path of one machine": any_of(
        r"/wo" + r"rk/", r"/tm" + r"p/v\b", r"/op" + r"t/(?:wheels|pypi)", r"/ro" + r"ot/"
    ),
    "how the work was organised": any_of(
        r"contract" + r"\.md",
        r"\bsub-?" + r"agents?\b",
        r"\bin this " + r"session\b",
        r"\bAI " + r"assistant",
    ),
    "a number of our own tracker": "".join(f"(?<!{name} )" for name in NEIGHBOURS) + r"\b[Ii]ssue" + r" #?\d",
}
PLANTED = [
    ("the host of a package registry", "https://pypi" + ".org/simple"),
    ("the host of a package registry", "https://download.py" + "torch.org/whl/cpu"),
    ("a package source in a requirement", "--extra-index" + "-url https://host/simple"),
    ("a path of one machine", "cd /wo" + "rk/main"),
    ("a path of one machine", "/tm" + "p/v/venv/bin/python"),
    ("how the work was organised", "see contract" + ".md"),
    ("a number of our own tracker", "see issue" + " 2"),
]


def tracked_files() -> list[Path]:
    """Files that git tracks or would track; in a tree without git, every file outside hidden folders."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True)
    if listing.returncode == 0:
        names = listing.stdout.split("\0")
    else:
        hidden = re.compile(r"(^|/)\.(?!ci/|dockerignore|gitignore|pre-commit)")
        every = (str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file())
        names = [name for name in every if not hidden.search(name)]
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    """Every tracked text file that people write, by path."""
    found = {}
    for path in tracked_files():
        if path.suffix in (".json", ".jsonl", ".txt") and path.stat().st_size > 200_000:
            continue  # tokenizers and corpora: data, not prose
        try:
            found[path] = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
    return found


def test_required_files_exist() -> None:
    assert [name for name in REQUIRED if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("meaning", FORBIDDEN)
def test_no_forbidden_words(meaning: str, texts: dict[Path, str]) -> None:
    pattern = re.compile(FORBIDDEN[meaning])
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path, text in texts.items()
        for match in pattern.finditer(text)
    ]
    assert found == [], f"{meaning} in the repository"


@pytest.mark.parametrize(("meaning", "planted"), PLANTED)
def test_a_planted_word_is_seen(meaning: str, planted: str) -> None:
    assert re.search(FORBIDDEN[meaning], planted)


def test_licence_is_apache_2() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()


def test_constraints_pin_exactly_and_portably() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        # No local versions (+cpu): another machine's package source does not have them.
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", pin), pin
    names = [re.sub(r"[-_.]+", "-", pin.split("==")[0]).lower() for pin in pins]
    assert len(set(names)) == len(names)
    # NVIDIA apex has no distribution; the public package of that name is another project.
    assert "apex" not in names


def test_every_requirement_has_a_tested_pin() -> None:
    setup = (ROOT / "setup.py").read_text()
    # Each requirement is a quoted name, perhaps extras in brackets, and a range.
    declared = set(re.findall(r"[\"']([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?[><]=?\d", setup))
    declared -= {"transformer-engine"}  # follows the CUDA build of torch
    assert {"torch", "megatron-core", "nemo_toolkit", "matplotlib", "pytest"} <= declared
    pins = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for name in declared:
        assert re.search(rf"^{re.escape(name.lower().replace('_', '-'))}==", pins, re.MULTILINE), name


def test_ci_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_versions_agree() -> None:
    import nemo_pi

    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(nemo_pi.__version__)}\b", changelog, re.MULTILINE)
