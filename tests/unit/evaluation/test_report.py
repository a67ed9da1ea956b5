from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_pi.errors import DataError
from nemo_pi.evaluation.passkey_result import PasskeyGrid, PasskeyResult
from nemo_pi.evaluation.perplexity import PerplexityResult
from nemo_pi.evaluation.report import (
    build_tables,
    describe_protocols,
    describe_windows,
    render_markdown,
    render_text,
    write_report,
)
from nemo_pi.evaluation.results import ModelResults, read_results

WINDOWS = (2048, 4096, 8192, 16384, 32768)
LENGTHS = tuple(range(1024, 32769, 1024))
GRID = PasskeyGrid(LENGTHS, (0.0, 1.0), 10, tuple((10, 10) for _ in LENGTHS))


def perplexity(by_length: dict[int, float]) -> PerplexityResult:
    return PerplexityResult({"summary": "word " * 60}, by_length)


ROWS = [
    ModelResults(
        "base", 2048, 32768, {"perplexity": perplexity({2**i: 10.0 ** (i - 10) for i in range(11, 16)})}
    ),
    ModelResults(
        "a long name " * 10,
        2048,
        32768,
        {
            "perplexity": perplexity(dict.fromkeys(WINDOWS, 7.1)),
            "passkey": PasskeyResult({"summary": "five digits"}, GRID),
        },
    ),
    ModelResults("a|b", 2048, 32768, {"perplexity": perplexity({2048: math.nan, 32768: math.inf})}),
]


def test_the_text_fits_a_hundred_columns_and_is_aligned() -> None:
    text = render_text(ROWS)
    assert text.endswith("five digits\n")
    assert max(map(len, text.splitlines())) <= 100
    header, rule, *lines = text.split("\n\n")[1].splitlines()[1:]
    assert header.split() == ["model", "2,048", "4,096", "8,192", "16,384", "32,768"]
    assert set(rule) == {"─"}
    assert {len(line) for line in (header, rule, *lines)} == {len(header)}
    assert lines[0].split() == ["base", "10.00", "100.0", "1,000", "10,000", "1.0e+05"]
    assert lines[2].split() == ["a|b", "nan", "–", "–", "–", "inf"]
    assert lines[1].startswith("a long name a long") and "…  " in lines[1]


def test_markdown_has_whole_tables_and_pictures_beside_it() -> None:
    text = render_markdown(ROWS, "Results", [Path("/elsewhere/perplexity.png")])
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables[0] == "| model | 2,048 | 4,096 | 8,192 | 16,384 | 32,768 |"
    assert tables[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert tables[2] == "| base | 10.00 | 100.0 | 1,000 | 10,000 | 1.0e+05 |"
    assert tables[4].startswith(r"| a\|b | nan |")
    assert "](perplexity.png)" in text and text.startswith("# Results\n")


def test_what_all_models_share_stands_once() -> None:
    def facts(second: str) -> list[str]:
        origins = ({"a": "1", "b": "2"}, {"a": "1", "b": second})
        rows = [replace(row, origin={"Facts": own}) for row, own in zip(ROWS, origins, strict=False)]
        lines = render_markdown(rows, "x").splitlines()
        return [line for line in lines if line.split("|")[1:2] in (["  "], [" a "], [" b "])]

    name = ROWS[1].name
    assert facts("2") == ["|  | all models |", "| a | 1 |", "| b | 2 |"]
    assert facts("3") == [f"|  | base | {name} |", "| a | 1 | ″ |", "| b | 2 | 3 |"]


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    files = write_report(ROWS, tmp_path / "new" / "folder", title="Mine")
    assert files.folder == tmp_path / "new" / "folder"
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "passkey.png",
        "perplexity.png",
        "report.html",
        "report.md",
        "results.json",
    ]
    assert [path.read_bytes()[:8] for path in files.plots] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert read_results(files.results)[1] == ROWS[1]
    assert files.summary.read_text() == render_markdown(ROWS, "Mine", files.plots)


def test_plots_can_be_left_out_and_need_something_to_show(tmp_path: Path) -> None:
    assert write_report(ROWS, tmp_path / "none", plots=False).plots == ()
    bare = write_report(
        [ModelResults("diverged", 64, 64, {"perplexity": perplexity({64: math.nan})})], tmp_path / "diverged"
    )
    assert bare.plots == ()
    only = write_report(
        [ModelResults("one", 64, 64, {"perplexity": perplexity({64: 3.0})})], tmp_path / "only"
    )
    assert [path.name for path in only.plots] == ["perplexity.png"]


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="models"):
        render_text([])
    with pytest.raises(DataError, match="models"):
        render_markdown([], "x")
    with pytest.raises(DataError, match="models"):
        write_report([], tmp_path / "x")
    assert not (tmp_path / "x").exists()


# ---- tables and words for several models

SMALL_GRID = PasskeyGrid((512, 1024), (0.0, 1.0), 10, ((10, 9), (2, 0)))


def model(
    name: str, target: int, by_length: dict[int, float], passkey: bool = False, summary: str = "so"
) -> ModelResults:
    perplexity = PerplexityResult({"summary": summary}, by_length)
    return ModelResults(
        name,
        512,
        target,
        {"perplexity": perplexity}
        | ({"passkey": PasskeyResult({"summary": "keys"}, SMALL_GRID)} if passkey else {}),
    )


BASE = model("base", 1024, {512: 20.5, 1024: 1530.2}, passkey=True)
OTHER = model("other", 1024, {512: 21.0})


def test_missing_results_are_marked() -> None:
    perplexity, passkey = build_tables([BASE, OTHER])
    assert perplexity.header == ("model", "512", "1,024")
    assert perplexity.lines == (("base", "20.50", "1,530"), ("other", "21.00", "–"))
    assert passkey.header == ("model", "512", "1,024", "k_max")
    assert passkey.lines == (("base", "95%", "10%", "1,024"), ("other", "–", "–", "–"))


def test_a_measurement_nobody_made_has_no_table() -> None:
    assert [table.header[-1] for table in build_tables([OTHER])] == ["512"]
    assert build_tables([ModelResults("bare", 1, 1)]) == []


def test_what_all_rows_share_is_said_once() -> None:
    assert describe_windows([BASE, OTHER]) == "Original window 512 tokens, evaluated up to 1,024"
    assert describe_protocols([BASE, OTHER]) == ["Perplexity: so", "Passkey: keys"]


def test_what_rows_do_not_share_is_said_of_each() -> None:
    longer = model("longer", 4096, {}, summary="otherwise")
    assert describe_windows([BASE, longer]) == "base: 512 → 1,024 tokens; longer: 512 → 4,096 tokens"
    assert describe_protocols([BASE, longer]) == [
        "Perplexity of base: so",
        "Perplexity of longer: otherwise",
        "Passkey: keys",
    ]
