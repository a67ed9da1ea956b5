"""What installed packages add to nemo_pi: methods, families, tasks and backends, found by name.

A package registers an object under an entry point group of ours, by the name that the object itself has. It
is imported when a YAML or a checkpoint asks for that name, never to list it, and a package that is broken
stops only those who ask for it. A name selects what somebody has installed: no file that is read can name a
module or a class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from nemo_pi.errors import ConfigError, NemoPiError, quoted

T = TypeVar("T")


class PlugIns(Generic[T]):
    """What packages register under one entry point group.

    Args:
        group: the entry point group.
        kind: what messages call one of them.
        expected: what each must be a subclass of (class_named), or of this type (object_named).
        built_in: names of ours, which no package may take.
        error: what is raised.
    """

    def __init__(
        self,
        group: str,
        *,
        kind: str,
        expected: type[T],
        built_in: Collection[str],
        error: type[NemoPiError] = ConfigError,
    ) -> None:
        self.group, self.kind, self.expected, self.error = group, kind, expected, error
        self.built_in = frozenset(built_in)
        # Looking through what is installed takes milliseconds; a model asks for its method many times.
        self._loaded: dict[str, Any] = {}

    def names(self) -> tuple[str, ...]:
        """Names that packages register, ours left out; nothing is imported for it."""
        return tuple(sorted({entry.name for entry in entry_points(group=self.group)} - self.built_in))

    def class_named(self, name: str, field: str | None = None) -> type[T] | None:
        """The class that a package registers by this name; None where nobody does.

        Args:
            name: as the YAML or a checkpoint writes it.
            field: what messages call the place where it is written; None: the kind and the name.

        Raises:
            NemoPiError: of the kind `error`: the package is broken, or another has the name as well.
        """
        if name not in self._loaded:
            entry = self._sole_entry(name, field)
            if entry is None:
                return None
            required = f"a subclass of {self.expected.__name__} whose name is {name!r}"
            loaded = self._imported(entry, required, field)
            if not (isinstance(loaded, type) and issubclass(loaded, self.expected)):
                raise self._broken(entry, required, repr(loaded), field)
            self._keep(entry, loaded, loaded.__name__, required, field)
        found: type[T] = self._loaded[name]
        return found

    def object_named(self, name: str, field: str | None = None) -> T | None:
        """The object that a package registers by this name; as class_named otherwise."""
        if name not in self._loaded:
            entry = self._sole_entry(name, field)
            if entry is None:
                return None
            required = f"a {self.expected.__name__} whose name is {name!r}"
            loaded = self._imported(entry, required, field)
            if not isinstance(loaded, self.expected):
                raise self._broken(entry, required, repr(loaded), field)
            self._keep(entry, loaded, f"a {type(loaded).__name__}", required, field)
        found: T = self._loaded[name]
        return found

    def check_claims(self, name: str, field: str | None = None) -> None:
        """Refuses a name of a user's YAML that two have: it would not say whose is meant.

        Raises:
            NemoPiError: of the kind `error`, naming both.
        """
        self._sole_entry(name, field)

    def provider(self, name: str) -> str | None:
        """Name and version of the package that registers a name, for a checkpoint to record; None: ours."""
        entries = () if name in self.built_in else tuple(entry_points(group=self.group, name=name))
        return _package_of(entries[0]) if entries else None

    def how_to_get(self, package: object = None) -> str:
        """The fix where a name is asked for that nobody registers here.

        Args:
            package: who did when the checkpoint was written, if it says.
        """
        did = f" ({package!r} did)" if package else ""
        return f"install the package that registers it under the entry point group {self.group}{did}"

    def broken(
        self, name: str, required: str, given: str | BaseException, field: str | None = None
    ) -> NemoPiError:
        """The error for a package whose object, once loaded, does not keep what its kind promises.

        Args:
            name: of the object.
            required: what it promises.
            given: what it did instead, or raised.
            field: as for class_named.
        """
        return self._broken(next(iter(entry_points(group=self.group, name=name))), required, given, field)

    @contextmanager
    def blamed(self, name: str, required: str, field: str | None = None) -> Iterator[None]:
        """Turns whatever a package's code raises inside into the error of `broken`."""
        try:
            yield
        except (Exception, SystemExit) as error:
            raise self.broken(name, required, error, field) from error

    def _sole_entry(self, name: str, field: str | None) -> EntryPoint | None:
        # By value: a package may be found twice, in its sources and where it is installed.
        entries = list({e.value: e for e in entry_points(group=self.group, name=name)}.values())
        owners = ["nemo_pi"] if name in self.built_in else []
        owners += [_package_of(entry) for entry in entries]
        if len(owners) > 1:
            raise self.error(
                field or f"{self.kind} {name}",
                required=f"a name of its own for each entry point of {self.group}",
                given=f"{name!r} from {owners[-1]}, which {owners[0]} has already",
                fix=f"rename it in {owners[-1]}, or uninstall that package",
            )
        return entries[0] if entries else None

    def _imported(self, entry: EntryPoint, required: str, field: str | None) -> Any:
        try:
            return entry.load()
        except (Exception, SystemExit) as error:  # whatever a foreign module raises while it is imported
            raise self._broken(entry, required, error, field) from error

    def _keep(self, entry: EntryPoint, loaded: Any, what: str, required: str, field: str | None) -> None:
        own_name = getattr(loaded, "name", None)
        if own_name != entry.name:  # checkpoints would record the one and look for the other
            raise self._broken(entry, required, f"{what} with the name {own_name!r}", field)
        self._loaded[entry.name] = loaded

    def _broken(
        self, entry: EntryPoint, required: str, given: str | BaseException, field: str | None
    ) -> NemoPiError:
        if isinstance(given, BaseException):
            given = f"{type(given).__name__}: {quoted(given)}"
        package = _package_of(entry)
        return self.error(
            field or f"{self.kind} {entry.name}",
            required=f"{required} ({entry.value}, registered by {package})",
            given=given,
            fix=f"update or uninstall {package}, or name another {self.kind}",
        )


def _package_of(entry: EntryPoint) -> str:
    """Name and version of the distribution behind an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
