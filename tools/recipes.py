"""What the recipes of CONTRIBUTING.md touch: files of nemo_pi, and files beside it.

A test compares each with the recipe's own words and with the door's test, which follows the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One way to add something."""

    adds: str
    """As in CONTRIBUTING's heading: "Add a …"."""
    door: str
    """Test that follows it."""
    library: tuple[str, ...]
    """Files of nemo_pi that it writes or edits."""
    beside: tuple[str, ...]
    """YAMLs, pages and tests."""
    modules: int
    """Modules of a package of one's own, with an entry point, that do the same; 0: it has to be here."""
    mentions: tuple[str, ...]
    """Files that its text names and leaves alone."""
    example: str
    """One that there is already: how many files name it shows what it costs."""
    before: str
    """Files of nemo_pi that it took at BEFORE, counted by hand."""


BEFORE = "98ef9a2"
"""The commit before the doors were made."""

RECIPES = (
    Recipe(
        "method",
        "tests/integration/doors/test_method.py",
        ("nemo_pi/rope/methods/softened.py", "nemo_pi/rope/methods/registry.py"),
        ("conf/rope/softened.yaml", "docs/methods.md", "tests/unit/rope/peers.py"),
        1,
        ("base.py",),
        "longrope",
        "9",
    ),
    Recipe(
        "family",
        "tests/integration/doors/test_family.py",
        ("nemo_pi/families/acme.py", "nemo_pi/families/registry.py"),
        ("docs/families.md", "tests/unit/families/test_parity.py"),
        1,
        ("base.py",),
        "mistral",
        "11–15",
    ),
    Recipe(
        "task",
        "tests/integration/doors/test_task.py",
        ("nemo_pi/evaluation/tasks/<name>.py", "nemo_pi/evaluation/tasks/registry.py"),
        ("conf/evaluate.yaml",),
        1,
        ("examples/evaluate.py", "tests/integration/doors/test_task.py"),
        "passkey",
        "7–10",
    ),
    Recipe(
        "backend",
        "tests/integration/doors/test_backend.py",
        ("nemo_pi/kernels/exact_attention.py", "nemo_pi/kernels/backends.py"),
        (),
        2,
        ("exact_backend.py",),
        "apex",
        "12",
    ),
    Recipe(
        "key",
        "tests/integration/doors/test_key.py",
        ("nemo_pi/config/schema.py",),
        ("conf/model/base.yaml",),
        0,
        (
            "sections.py",
            "load.py",
            "nemo_pi/config/loss_choice.py",
            "nemo_pi/model/options.py",
            "tests/integration/doors/test_key.py",
        ),
        "init_method_std",
        "7",
    ),
)
