"""How command lines end."""

from __future__ import annotations

import signal

import pytest

from nemo_pi.cli.ends import INTERRUPTED, USER_ERROR, reports_errors
from nemo_pi.errors import ConfigError, NemoPiError


def test_a_users_mistake_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_errors
    def main() -> None:
        raise ConfigError("model.x", required="1", given=2, fix="write 1")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == USER_ERROR == 2
    output = capsys.readouterr()
    assert output.err == "ConfigError: model.x: required 1; given 2. To fix: write 1\n"
    assert output.out == ""


def test_ctrl_c_is_a_word_and_the_status_of_shells(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_errors
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == INTERRUPTED == 128 + signal.SIGINT
    assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"


def test_other_errors_keep_their_traceback() -> None:
    @reports_errors
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_results_and_arguments_pass_through() -> None:
    @reports_errors
    def add(a: int, *, b: int) -> int:
        """Adds."""
        return a + b

    assert add(1, b=2) == 3
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert issubclass(ConfigError, NemoPiError)
