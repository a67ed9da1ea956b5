"""Print an sbatch script for your cluster; without options, the reference file beside this one.

python examples/slurm/render.py --nodes 4 --partition gpu --container-image /images/nemo_pi.sqsh \\
    --argument model=llama-7b > job.sbatch
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from nemo_pi.cli.ends import reports_errors
from nemo_pi.cli.parser import Parser
from nemo_pi.errors import ConfigError
from nemo_pi.launch import SlurmJob, render_sbatch

# Options that may be given several times, and the field that collects them.
REPEATED = {"--container-mount": "container_mounts", "--argument": "arguments"}


def parse(arguments: Sequence[str] | None = None) -> SlurmJob:
    """A SlurmJob from the command line: one option for every field, with its default."""
    parser = Parser(description="Print an sbatch script that trains in a container.")
    for option, name in REPEATED.items():
        parser.add_argument(option, dest=name, action="append", help="may be given several times")
    for field in dataclasses.fields(SlurmJob):
        option = "--" + field.name.replace("_", "-")
        text = f"default: {field.default}".replace("%", "%%")  # argparse expands %
        if isinstance(field.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=text)
        elif field.name not in REPEATED.values():
            kind = int if isinstance(field.default, int) or field.name == "cpus_per_node" else str
            parser.add_argument(option, type=kind, help=text)
    given: dict[str, Any] = {}
    for name, value in vars(parser.parse_args(arguments)).items():
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    try:
        return SlurmJob(**given)
    except ConfigError as error:
        names = {field.name: "--" + field.name.replace("_", "-") for field in dataclasses.fields(SlurmJob)}
        names |= {name: option for option, name in REPEATED.items()}
        name = error.field.removeprefix("SlurmJob.")
        fix = f"correct {names[name]}"
        raise ConfigError(names[name], required=error.required, given=error.given, fix=fix) from error


@reports_errors
def main() -> None:
    """Prints the script."""
    print(render_sbatch(parse()), end="")


if __name__ == "__main__":
    main()
