"""As which class of transformers a model is exported."""

from __future__ import annotations

from dataclasses import dataclass

from nemo_pi.errors import ConfigError, NemoPiError, nearest
from nemo_pi.families.base import Family
from nemo_pi.families.registry import family_of
from nemo_pi.families.shape import ModelShape
from nemo_pi.rope.spec import ContextExtension

AUTO = "auto"
"""The family's own class where transformers has it and it can compute the positions, else another one."""


@dataclass(frozen=True)
class ExportForm:
    """What an export is written as."""

    shape: ModelShape
    """The model as the family of that class has it."""
    why: str
    """Why that class was taken; empty where it is the family's own and nobody asked."""

    def describe(self) -> str:
        """The class and why, in one line."""
        return f"as {self.family.architecture}: {self.why}" if self.why else f"as {self.family.architecture}"

    @property
    def family(self) -> Family:
        """Whose class it is."""
        return family_of(self.shape)


def export_form(shape: ModelShape, extension: ContextExtension, architecture: str = AUTO) -> ExportForm:
    """Chooses the class, the family's own or one that computes the same function.

    Args:
        shape, extension: of the model.
        architecture: AUTO or the name of a class.

    Raises:
        ConfigError: a class that is not known, or that computes another function.
        CheckpointError: no class can compute these positions, or the one that is asked for cannot.
    """
    own = family_of(shape)
    forms = (shape, *own.same_function(shape))
    if architecture != AUTO:
        chosen = _named(forms, architecture)
        family_of(chosen).check_export_of(chosen, extension)
        return ExportForm(chosen, "as asked for")
    obstacles = [_obstacle(form, extension) for form in forms]
    if obstacles[0] is None and not own.remote_code:
        return ExportForm(shape, "")
    for form, obstacle in zip(forms[1:], obstacles[1:], strict=True):
        if obstacle is None:
            lacks = f"transformers has no {own.architecture}"
            cannot = f"{own.architecture} cannot compute these positions"
            return ExportForm(form, f"the same function; {lacks if own.remote_code else cannot}")
    if obstacles[0] is not None:
        raise obstacles[0]
    return ExportForm(shape, "")


def _obstacle(shape: ModelShape, extension: ContextExtension) -> NemoPiError | None:
    """Why a class cannot compute the positions."""
    try:
        family_of(shape).check_export_of(shape, extension)
    except NemoPiError as error:
        return error
    return None


def _named(forms: tuple[ModelShape, ...], architecture: str) -> ModelShape:
    by_class = {family_of(form).architecture: form for form in forms}
    if architecture in by_class:
        return by_class[architecture]
    found = nearest(architecture, (*by_class, AUTO))
    raise ConfigError(
        "model.export.architecture",
        required=f"{AUTO}, or a class that computes what the model does: {', '.join(by_class)}",
        given=repr(architecture),
        fix=f"model.export.architecture={found or AUTO}",
    )
