"""What tests share: quiet, offline, one thread a process; a port; a world of one rank; who runs where."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests import ports

# Before anything imports torch. One thread each: two workers, and the ranks that tests start, share few
# cores. A test that reaches for the network fails here as it would on a machine without one.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "MPLBACKEND": "Agg",
    # Backends as they are listed, not as they race on a busy machine; and nothing in the user's cache folder.
    "NEMO_PI_RACE": "0",
    "NEMO_PI_CACHE": "0",
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

# What is ignored when a run begins stays ignored, and nohup and `&` ignore these.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests stay together on one worker of pytest-xdist.

    Integration tests start ranks of their own and run one after another, in one world; the tests of a unit
    file share its fixtures, which are made once. By names: xdist_group has no effect under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            inside = file.split("/")[1]
            return inside if inside in ("integration", "gpu") else file

    return ByPlace(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and leave out attacks that take minutes."""
    if not os.environ.get("NEMO_PI_ATTACK"):
        items[:] = [item for item in items if not item.get_closest_marker("attack")]
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _has_cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What libraries set for the whole process (levels, handlers, switches) ends with the test.

    Else a test's caplog would depend on which tests ran before it.
    """
    loggers = [logging.getLogger(), *_known_loggers()]
    before = [(one, one.level, one.disabled, one.propagate, list(one.handlers)) for one in loggers]
    disabled = logging.root.manager.disable
    # Hydra switches off all loggers that there are when it begins, also in a fixture of a whole file.
    logging.disable(logging.NOTSET)
    for one in loggers:
        if one.name.startswith("nemo_pi"):
            one.disabled, one.propagate = False, True
    yield
    _forget_absl()
    logging.disable(disabled)
    for one, level, off, propagate, handlers in before:
        one.setLevel(level)
        one.disabled, one.propagate, one.handlers = off, propagate, handlers


def _forget_absl() -> None:
    """Hides absl's handlers from what sets logging up anew, and closes all handlers first.

    They hold what was stderr when absl was imported (rouge-score does so), and close it unless it still is: a
    file of pytest's own, without which no further test runs.
    """
    for reference in list(logging._handlerList):  # type: ignore[attr-defined]
        if type(reference()).__module__.startswith("absl"):
            logging._removeHandlerRef(reference)  # type: ignore[attr-defined]


def _known_loggers() -> list[logging.Logger]:
    return [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]


@pytest.fixture
def free_port() -> int:
    """A TCP port on this host that nobody listens on (for a rendezvous that this test starts)."""
    return ports.free_port()


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """A world of one rank, taken down after the file, so that no other file finds it up."""
    from nemo_pi.parallel import groups
    from nemo_pi.parallel.layout import ParallelLayout

    groups.ensure_process_group()
    groups.initialize(ParallelLayout(), seed=1234)
    yield
    groups.destroy()
