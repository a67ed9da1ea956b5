"""Wrong inputs of every command, and what each must be told: run by test_mistakes.py, listed in the docs.

python -m tests.reliability.mistakes  # writes docs/mistakes.md
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "mistakes.md"
LONG = "x" * 300
BYTES = "--input  {files}/file  --tokenizer-library  byte  --output-prefix"
GENERATE = "--model  {model}  --prompt  x  --max-new-tokens  1"


@dataclass(frozen=True)
class Mistake:
    """One wrong input."""

    command: str
    """Which of COMMANDS gets it."""
    words: tuple[str, ...]
    """Its words; {files} stands for the folder with the files below."""
    says: tuple[str, ...]
    """What the message must contain, whatever its case."""
    files: tuple[tuple[str, str | bytes], ...] = ()
    """Files to write first: name and content."""


def mistake(command: str, words: str, says: str, **files: str | bytes) -> Mistake:
    """A mistake, its words and what it must be told separated by two blanks."""
    named = tuple((name.replace("__", "."), content) for name, content in files.items())
    return Mistake(command, tuple(words.split("  ")) if words else (), tuple(says.split("  ")), named)


def run_(words: str, says: str) -> Mistake:
    """A mistake in the keys of a run."""
    return mistake("run", words, says)


def yaml_(content: str | bytes, says: str, words: str = "") -> Mistake:
    """A mistake in a YAML file."""
    given = f"--config-path  {{files}}  --config-name  main{'  ' + words if words else ''}"
    return mistake("extend_context", given, says, main__yaml=content)


def source_(says: str, **changes: Any) -> Mistake:
    """A mistake in a config.json."""
    return mistake("source", "", says, config__json=json.dumps(changes))


def document_(content: str | bytes, says: str) -> Mistake:
    """A mistake in a line of text."""
    return mistake("documents", "{files}/a.jsonl", says, a__jsonl=content)


MISTAKES: tuple[Mistake, ...] = (
    # --- windows and methods ---
    run_("model.max_position_embeddings=0", "max_position_embeddings  at least 1"),
    run_("model.max_position_embeddings=-5", "max_position_embeddings  at least 1"),
    run_("model.max_position_embeddings=4k", "max_position_embeddings  whole number"),
    run_("model.max_position_embeddings=1e30", "max_position_embeddings  2^63"),
    run_("model.max_position_embeddings=64", "max_position_embeddings  512"),
    run_("model.pos_scaling_factor=0.5", "pos_scaling_factor  0.5"),
    run_("model.pos_scaling_factor=nan", "pos_scaling_factor  nan"),
    run_("model.pos_scaling_factor=inf", "pos_scaling_factor  finite"),
    run_("model.pos_scaling_factor='8x'", "pos_scaling_factor  without quotes"),
    run_("model.pos_scaling_factor=true", "pos_scaling_factor  number"),
    run_("model.pos_scaling_factor=3", "pos_scaling_factor  8"),
    run_("model.pos_scaling_type=yarm", "pos_scaling_type  yarn"),
    run_("model.pos_scaling_type=''", "pos_scaling_type  text"),
    run_("model.pos_scaling_type=yarn  model.pos_scaling_extra_args={beta_fst: 3}", "beta_fst  beta_fast"),
    run_("model.pos_scaling_type=yarn  model.pos_scaling_extra_args=[1]", "pos_scaling_extra_args  section"),
    run_(
        "model.pos_scaling_type=yarn  model.pos_scaling_extra_args={attention_factor: 1e300}",
        "attention_factor  at most 1000",
    ),
    run_(
        "model.pos_scaling_type=longrope  model.pos_scaling_extra_args={long_factor: [1], short_factor: [1]}",
        "factor  32 numbers",
    ),
    run_("model.pos_scaling_type=abf", "base"),
    run_("model.rotary_base=5", "rotary_base  10000"),
    run_("model.rotary_percentage=50", "rotary_percentage"),
    run_("model.encoder_seq_length=8192", "encoder_seq_length  4096"),
    run_("model.encoder_seq_length=0", "encoder_seq_length"),
    run_("model.seq_len_interpolation_factor=2", "seq_len_interpolation_factor  pos_scaling_factor"),
    # --- keys and types ---
    run_("model.max_position_embedings=9", "did you mean model.max_position_embeddings"),
    run_("max_position_embeddings=9", "model.max_position_embeddings"),
    run_("model.sed=1  trainer.max_step=3", "model.sed  trainer.max_step  did you mean trainer.max_steps"),
    run_("model.optim.lr=fast", "model.optim.lr  number"),
    run_("model.optim.lr=0", "model.optim.lr  more than 0"),
    run_("model.optim.betas=[0.9]", "betas  2 values"),
    run_("model.optim.betas=[0.9,1.5]", "betas[1]"),
    run_("model.optim.name=adamax", "optim.name  adam"),
    run_("model.optim.sched.name=cosin", "sched.name  cosine"),
    run_("model.optim.sched.warmup_steps=-1", "warmup_steps"),
    run_("model.optim.sched.min_lr=1", "min_lr"),
    run_("model.optim=null", "model.optim  section"),
    run_("model=null", "model=NAME"),
    run_("model.data=null", "model.data  section"),
    run_("model.seed=-1", "model.seed"),
    run_("model.seed=1.5", "model.seed  whole number"),
    run_("model.init_method_std=0", "init_method_std"),
    run_("model.hidden_dropout=0.1", "hidden_dropout"),
    run_("model.family=lama", "model.family  llama"),
    run_("model.num_layers=5", "num_layers  4"),
    run_("model.num_layers=10000000", "num_layers"),
    run_("model.optim._target_=os.system", "_target_  never code"),
    run_("model.normalization=batchnorm", "normalization"),
    run_("model.loss=cheap", "model.loss"),
    run_("model.attention_backend=nativ", "attention_backend  native"),
    run_("model.rotary_kernel=warp", "rotary_kernel"),
    # --- the trainer, which is Lightning's ---
    run_("trainer=null", "trainer  section"),
    run_("trainer=[1]", "trainer  section"),
    run_("trainer.max_steps=0", "trainer.max_steps"),
    run_("trainer.max_steps=1e30", "trainer.max_steps"),
    run_("trainer.max_steps=many", "trainer.max_steps  whole number"),
    run_("trainer.max_epochs=0", "trainer.max_epochs  max_steps"),
    run_("trainer.devices=0", "trainer.devices"),
    run_("trainer.devices=two", "trainer.devices"),
    run_("trainer.num_nodes=0", "trainer.num_nodes"),
    run_("trainer.precision=fp8", "trainer.precision"),
    run_("trainer.accelerator=tpu", "trainer.accelerator"),
    run_("trainer.profiler=fast", "trainer.profiler  simple"),
    run_("trainer.deterministic=maybe", "trainer.deterministic  warn"),
    run_("trainer.inference_mode=5", "trainer.inference_mode  true or false"),
    run_("trainer.sync_batchnorm=yes_please", "trainer.sync_batchnorm  true or false"),
    run_("trainer.check_val_every_n_epoch=0.5", "check_val_every_n_epoch  whole number"),
    run_("trainer.min_epochs=-2", "trainer.min_epochs"),
    run_("trainer.limit_test_batches=-1", "limit_test_batches"),
    run_("trainer.limit_predict_batches=lots", "limit_predict_batches"),
    run_("trainer.limit_val_batches=0.5", "limit_val_batches  whole number"),
    run_("trainer.val_check_interval=0", "val_check_interval"),
    run_("trainer.log_every_n_steps=0", "log_every_n_steps"),
    run_("trainer.reload_dataloaders_every_n_epochs=2", "reload_dataloaders_every_n_epochs"),
    run_("trainer.default_root_dir=5", "default_root_dir  text"),
    run_("trainer.strategy=ddp", "trainer.strategy"),
    run_("trainer.callbacks=[x]", "trainer.callbacks"),
    run_("trainer.logger=true", "trainer.logger"),
    run_("trainer.fast_dev_run=true", "fast_dev_run"),
    run_("trainer.accumulate_grad_batches=4", "accumulate_grad_batches  global_batch_size"),
    run_("trainer.gradient_clip_val=-1", "gradient_clip_val"),
    run_("trainer.gradient_clip_val=lots", "gradient_clip_val"),
    run_("trainer.max_time=90", "trainer.max_time  dd:hh:mm:ss"),
    # --- exp_manager, which is NeMo's ---
    run_("exp_manager.create_wandb_logger=true", "wandb"),
    run_("exp_manager.create_mlflow_logger=true", "create_mlflow_logger  mlflow  not installed"),
    run_("exp_manager.create_clearml_logger=true", "create_clearml_logger  clearml"),
    run_("exp_manager.create_neptune_logger=true", "create_neptune_logger  neptune"),
    run_("exp_manager.create_straggler_detection_callback=true", "nvidia_resiliency_ext"),
    run_("exp_manager.summary_writer_kwargs={log_dirr: /tmp}", "summary_writer_kwargs.log_dirr"),
    run_("exp_manager.exp_dirr=/tmp", "did you mean exp_manager.exp_dir"),
    run_("exp_manager.exp_dir=5", "exp_manager.exp_dir  text"),
    run_("exp_manager.exp_dir=''", "exp_manager.exp_dir  folder"),
    run_("exp_manager.explicit_log_dir=''", "explicit_log_dir"),
    run_("exp_manager.version=../elsewhere", "exp_manager.version  below exp_manager.exp_dir"),
    run_("exp_manager.max_time_per_run=tomorrow", "max_time_per_run  dd:hh:mm:ss"),
    run_("exp_manager.ema.enable=true", "ema.enable"),
    run_("exp_manager.checkpoint_callback_params.save_top_k=-2", "save_top_k"),
    run_("exp_manager.checkpoint_callback_params.every_n_train_steps=-1", "every_n_train_steps"),
    run_("exp_manager.checkpoint_callback_params=5", "checkpoint_callback_params  section"),
    # --- paths ---
    run_("name=../escape", "name  below exp_manager.exp_dir"),
    run_("name=/etc/run", "name  below exp_manager.exp_dir"),
    run_("name=''", "name  text"),
    run_(f"name={LONG}", "more than 255 bytes"),
    run_("exp_manager.exp_dir=/proc/runs", "exp_dir  takes no files"),
    run_("exp_manager.exp_dir=/sys", "exp_dir  takes no files"),
    run_("exp_manager.exp_dir={files}/file", "exp_dir  is a file"),
    run_("exp_manager.checkpoint_callback_params.dirpath=/proc/x", "dirpath  takes no files"),
    run_("model.export.hf_path={files}/file/export", "hf_path  is a file"),
    run_("model.export.hf_path=''", "hf_path  text"),
    run_(f"model.export.hf_path={{files}}/{LONG}", "hf_path"),
    run_("model.export.hf_path={files}", "new folder"),
    run_("model.export.dtype=int8  model.export.hf_path={files}/new", "export.dtype"),
    run_("restore_from_path=/nowhere/llama", "/nowhere/llama  no such path"),
    run_("restore_from_path=''", "restore_from_path"),
    run_(f"restore_from_path=/{LONG}", "no such path"),
    run_("restore_from_path={files}/file", "a file"),
    run_("restore_from_path={files}", "neither"),
    run_("restore_from_path=???", "restore_from_path"),
    run_("model.tokenizer.library=spacy", "tokenizer.library"),
    run_("model.tokenizer={library: sentencepiece}", "tokenizer.model"),
    run_("model.tokenizer.model=/nowhere", "tokenizer.model  /nowhere"),
    # --- data ---
    run_("model.data.splits_string=980", "splits_string"),
    run_("model.data.splits_string='1,2,3,4'", "splits_string  three"),
    run_("model.data.splits_string='a,b'", "splits_string"),
    run_("model.data.data_prefix=[{files}/tokens]  model.data.splits_string='0,0,1'", "splits_string  train"),
    run_("model.data.data_prefix=[/nowhere/tokens]", "/nowhere/tokens"),
    run_("model.data.data_prefix=['']", "data_prefix"),
    run_("model.data.data_prefix=[0.5,/a,0.5]", "data_prefix  weights and paths"),
    run_("model.data.data_prefix=[-1,/a]", "data_prefix  above 0"),
    run_("model.data.data_prefix=5", "data_prefix"),
    run_("model.data.data_prefix={trian: [/a]}", "data_prefix  train"),
    run_(f"model.data.data_prefix=[/{LONG}]", "data_prefix  no file"),
    run_("model.data.data_prefix=[{files}/tokens.bin]", "without .bin"),
    run_("model.data.num_workers=-1", "num_workers"),
    run_("model.data.num_workers=100000", "num_workers  at most 256"),
    run_("model.data.seed=-3", "data.seed"),
    run_("model.data.pose={sampler: papr}", "pose.sampler  paper"),
    run_("model.data.pose={chunks: 1}", "pose.chunks"),
    # --- layout and batches ---
    run_("model.micro_batch_size=0", "micro_batch_size"),
    run_("model.global_batch_size=0", "global_batch_size"),
    run_("model.micro_batch_size=2  model.global_batch_size=3", "global_batch_size  multiple of"),
    run_("model.tensor_model_parallel_size=0", "tensor_model_parallel_size"),
    run_("model.tensor_model_parallel_size=3", "tensor_model_parallel_size  divisor"),
    run_("model.pipeline_model_parallel_size=3", "pipeline_model_parallel_size"),
    run_("model.context_parallel_size=2", "world size 1"),
    run_("model.sequence_parallel=true", "sequence_parallel"),
    # --- YAML files ---
    yaml_("a: 1\n\tb: 2\n", "main.yaml  line 2  tab"),
    yaml_("model: [\n", "main.yaml  line 2"),
    yaml_("name: 'x\n", "main.yaml  line 2"),
    yaml_("- a\n- b\n", "main.yaml  key: value"),
    yaml_("only text\n", "main.yaml  key: value"),
    yaml_("name: a: b\n", "main.yaml  line 1"),
    yaml_("näme: x\n".encode("latin-1"), "main.yaml  UTF-8"),
    yaml_("name: x\n".encode("utf-16"), "main.yaml  UTF-8"),
    yaml_("name: x\nname: y\n", "main.yaml  duplicate"),
    yaml_("name: ${nothing}\n", "name  nothing"),
    yaml_("name: ${name}\n", "name  back to itself"),
    yaml_("a: &a [*a]\n", "main.yaml  alias"),
    yaml_("made: !!python/object/apply:os.system ['true']\n", "main.yaml  line 1"),
    yaml_("nme: x\nmodl: {}\ntrainr: {}\n", "nme  modl  trainr  did you mean"),
    yaml_("model: 5\n", "model  section"),
    yaml_("\ufeffnmae: x\n", "did you mean name"),
    yaml_("name: x\n", "model  section", "+model=nothing"),
    mistake("extend_context", "--config-name  nothing", "--config-name  one that exists"),
    mistake("extend_context", "--config-path  /nowhere/conf", "/nowhere/conf"),
    mistake("extend_context", "model=dem", "did you mean demo"),
    mistake("extend_context", "seed", "seed"),
    mistake("extend_context", "model.seed=[1,", "model.seed"),
    mistake("extend_context", "model.seed=1,2", "--multirun"),
    mistake("extend_context", "--multirun  model.seed=range(1,1000000)", "--multirun  1,000 runs"),
    mistake("extend_context", "hydra.callbacks={a: {_target_: os.system}}", "hydra.callbacks"),
    # --- models in folders ---
    source_("model_type", model_type="gpt2"),
    source_("num_hidden_layers", num_hidden_layers=10_000_000),
    source_("num_hidden_layers", num_hidden_layers="4"),
    source_("num_hidden_layers", num_hidden_layers=None),
    source_("hidden_size", hidden_size=-64),
    source_("num_key_value_heads", num_key_value_heads=3),
    source_("tie_word_embeddings", tie_word_embeddings="false"),
    source_("rms_norm_eps", rms_norm_eps=0),
    source_("rope", rope_parameters={"rope_type": "warp", "rope_theta": 1e4}, rope_scaling=None),
    source_("rope", rope_parameters={"rope_type": "linear", "rope_theta": "big"}, rope_scaling=None),
    source_("quantization_config", quantization_config={"bits": 4}),
    source_("architectures", architectures=["LlamaForSequenceClassification"]),
    mistake("summary", "{files}", "config.json  JSON", config__json="{"),
    mistake("summary", "{files}", "config.json  object", config__json="[]"),
    mistake(
        "summary", "{files}", "config.json  nested", config__json='{"a": ' + "[" * 5000 + "]" * 5000 + "}"
    ),
    mistake("summary", "{files}", "nemo_pi.json  format", nemo_pi__json="{}"),
    mistake("summary", "{files}", "adapter  merge", adapter_config__json="{}"),
    # --- text ---
    document_("null\n", "a.jsonl, line 1  object"),
    document_("5\n", "a.jsonl, line 1  object"),
    document_("{}\n", "a.jsonl, line 1  'text'"),
    document_('{"text": null}\n', "a.jsonl, line 1  string"),
    document_('{"text": 5}\n', "a.jsonl, line 1  string"),
    document_('{"text": "a"}\n{"text": \n', "a.jsonl, line 2"),
    document_('{"text": "\\ud800"}\n', "a.jsonl, line 1  UTF-8"),
    document_(b'{"text": "\xff"}\n', "a.jsonl, line 1"),
    document_("[" * 100_000 + "\n", "a.jsonl, line 1  nested"),
    document_("", "some text"),
    mistake("documents", "{files}/a.jsonl.gz", "a.jsonl.gz", a__jsonl__gz=b"no gzip"),
    mistake("documents", "{files}/a.jsonl.zst", ".zst  unpack", a__jsonl__zst=b"x"),
    mistake("documents", "/nowhere", "no such file"),
    mistake("preprocess", f"{BYTES}  ", "--output-prefix"),
    mistake("preprocess", f"{BYTES}  {{files}}", "a folder"),
    mistake("preprocess", f"{BYTES}  /proc/x", "no files"),
    mistake(
        "preprocess",
        f"{BYTES}  {{files}}/file/x",
        "a file",
    ),
    mistake(
        "preprocess",
        f"{BYTES}  {LONG}",
        "--output-prefix  longer",
    ),
    mistake(
        "preprocess",
        f"{BYTES}  {{files}}/a  --json-keys  ../b",
        "--json-keys",
    ),
    mistake(
        "preprocess",
        f"{BYTES}  {{files}}/a  --workers  0",
        "--workers",
    ),
    mistake(
        "preprocess",
        "--input  {files}/file  --tokenizer-library  huggingface  --output-prefix  {files}/a",
        "tokenizer.model",
    ),
    # --- evaluation and generation ---
    mistake("evaluate", "", "models  at least one"),
    mistake("evaluate", "/nowhere/model", "/nowhere/model"),
    mistake("evaluate", "{model}  tasks.perplexity.strid=3", "strid  did you mean tasks.perplexity.stride"),
    mistake("evaluate", "{model}  tasks=[perplexty]", "perplexity"),
    mistake("evaluate", "{model}  tasks=[]", "tasks  at least one"),
    mistake("evaluate", "{model}  batch_tokens=0", "batch_tokens"),
    mistake("evaluate", "{model}  target_window=-1", "target_window"),
    mistake("evaluate", "{model}  target_window=many", "target_window  whole number"),
    mistake("evaluate", "{model}  dtype=int8", "dtype"),
    mistake("evaluate", "{model}  results=''", "results"),
    mistake("evaluate", "{model}  results=/proc/x  tasks.perplexity=false", "results  no files"),
    mistake("evaluate", "{model}  documents=/nowhere.jsonl", "/nowhere.jsonl"),
    mistake("evaluate", "{model}  tasks.passkey.trials=1000000000", "trials"),
    mistake("evaluate", "{model}  tasks.passkey.num_lengths=0  tasks.perplexity=false", "num_lengths"),
    mistake("evaluate", "{model}  tasks.passkey.seed=-1", "seed"),
    mistake("evaluate", "{model}  tasks.passkey.depths=[2.0]  tasks.perplexity=false", "depth"),
    mistake("evaluate", "{model}  tensor_model_parallel_size=0  backend=megatron", "tensor"),
    mistake("generate", "--model  /nowhere  --prompt  x  --max-new-tokens  1", "/nowhere"),
    mistake("generate", f"{GENERATE}  --temperature  -1", "temperature"),
    mistake("generate", f"{GENERATE}  --temperature  nan", "temperature"),
    mistake("generate", f"{GENERATE}  --temperature  1e-300", "temperature"),
    mistake("generate", f"{GENERATE}  --top-p  1.5", "top_p"),
    mistake("generate", f"{GENERATE}  --top-k  0", "top_k"),
    mistake("generate", f"{GENERATE}  --seed  -1", "seed"),
    mistake("generate", f"{GENERATE}  --seed  99999999999999999999", "seed"),
    mistake("generate", "--model  {model}  --prompt-file  /nowhere  --max-new-tokens  1", "/nowhere"),
    # --- the other commands ---
    mistake("pose_coverage", "--original-window  0  --target-window  64", "--original-window"),
    mistake("pose_coverage", "--original-window  64  --target-window  32", "target window"),
    mistake("pose_coverage", "--original-window  64  --target-window  128  --sampler  papr", "paper"),
    mistake("render", "--nodes  0", "--nodes"),
    mistake("render", "--time  soon", "--time"),
    mistake("render", "--partition  a b", "--partition"),
    mistake("render", "--container-mount  nothing", "--container-mount"),
    mistake("render", "--argument  model llama", "--argument"),
    mistake("render", "--signal-lead-seconds  -1", "--signal-lead-seconds"),
    mistake("render", "--nods  2", "--nodes"),
    mistake("verify", "/nowhere", "/nowhere"),
    mistake("verify", "{model}  --layouts  tp0", "--layouts"),
    mistake("verify", "{model}  --layouts  tp3", "divisor"),
    mistake("verify", "{model}  --tokens  0", "tokens"),
    mistake("verify", "{model}  --results  /proc/x/y.json", "--results"),
    mistake("convert", "/nowhere  {files}/new", "/nowhere"),
    mistake("convert", "{model}  {model}", "another folder"),
    mistake("convert", "{model}  {files}", "does not exist yet"),
    mistake("convert", "{model}  {files}/file/new", "file"),
)


# ---- how each command is given its words --------------------------------------------------------


@cache
def _base() -> Any:
    """conf/extend_context.yaml with the demo's model, as a dry run."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return hydra.compose("extend_context", overrides=["model=demo", "dry_run=true", "trainer.devices=1"])


def _run(words: list[str]) -> None:
    from copy import deepcopy

    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    from nemo_pi.config.overrides import as_hydra
    from nemo_pi.nemo.run import run

    cfg = deepcopy(_base())
    cfg.restore_from_path = cfg.model.tokenizer.model = str(ROOT / "demo" / "model")
    words = [as_hydra(word) for word in words]
    with open_dict(cfg):
        for word in OverridesParser.create().parse_overrides(words):
            OmegaConf.update(cfg, word.key_or_group, word.value(), merge=False, force_add=True)
    if OmegaConf.is_missing(cfg, "restore_from_path"):
        cfg.dry_run = False
    run(cfg)


def _extend_context(words: list[str]) -> None:
    from omegaconf import OmegaConf

    from nemo_pi.cli.runner import hydra_runner
    from nemo_pi.nemo.run import run

    @hydra_runner(config_path=str(ROOT / "conf"), config_name="extend_context")
    def main(cfg: Any) -> None:
        OmegaConf.update(cfg, "dry_run", True, force_add=True)
        run(cfg)

    sys.argv = ["extend_context.py", *words]
    main()


def _source(words: list[str]) -> None:
    from nemo_pi.checkpoint.summary import read_summary

    folder = Path(os.environ["MISTAKE_FILES"])
    given = json.loads((folder / "config.json").read_text())
    for path in (ROOT / "demo" / "model").iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    values = json.loads((ROOT / "demo" / "model" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **given}))
    read_summary(folder)


def _summary(words: list[str]) -> None:
    from nemo_pi.checkpoint.summary import read_summary

    read_summary(words[0])


def _documents(words: list[str]) -> None:
    out = str(Path(os.environ["MISTAKE_FILES"]) / "out")
    _preprocess(["--input", words[0], "--tokenizer-library", "byte", "--output-prefix", out])


def _preprocess(words: list[str]) -> None:
    from nemo_pi.cli.preprocess import main

    sys.exit(main(words))


def _evaluate(words: list[str]) -> None:
    from nemo_pi.cli.ends import reports_errors
    from nemo_pi.cli.evaluate import run

    reports_errors(run)(None, words)


def _generate(words: list[str]) -> None:
    from nemo_pi.cli.ends import reports_errors
    from nemo_pi.cli.generate import run

    reports_errors(run)(None, words)


def _verify(words: list[str]) -> None:
    from nemo_pi.cli.ends import reports_errors
    from nemo_pi.cli.verify import run

    reports_errors(run)(None, words)


def _script(name: str) -> Callable[[list[str]], None]:
    def call(words: list[str]) -> None:
        import runpy

        sys.argv = [f"{name}.py", *words]
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")

    return call


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    "extend_context": _extend_context,
    "source": _source,
    "summary": _summary,
    "documents": _documents,
    "preprocess": _preprocess,
    "evaluate": _evaluate,
    "generate": _generate,
    "verify": _verify,
    "pose_coverage": _script("pose_coverage"),
    "render": _script("slurm/render"),
    "convert": _script("convert_checkpoint"),
}


@contextlib.contextmanager
def _files(given: Mistake, folder: Path) -> Iterator[None]:
    """The files of a mistake, a plain one and a pair of tokens in a folder, which is the working one."""
    from nemo_pi.data.indexed import write_index

    (folder / "file").write_text('{"text": "a"}\n')
    write_index(folder / "tokens.idx", np.uint16, [5000] * 4)
    (folder / "tokens.bin").write_bytes(bytes(40_000))
    for name, content in given.files:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before, arguments = os.getcwd(), sys.argv
    environment = {name: os.environ.get(name) for name in ("MISTAKE_FILES", "HYDRA_FULL_ERROR")}
    os.environ["MISTAKE_FILES"] = str(folder)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = arguments
        for name, value in environment.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def answer(given: Mistake, folder: Path) -> str:
    """What the command says: the message alone, without paths of this machine.

    Raises:
        AssertionError: it ended in another way than with a message of ours.
    """
    from nemo_pi.errors import NemoPiError

    words = [
        word.replace("{files}", str(folder)).replace("{model}", str(ROOT / "demo/model"))
        for word in given.words
    ]
    out, err = io.StringIO(), io.StringIO()
    with _files(given, folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            COMMANDS[given.command](words)
        except NemoPiError as error:
            said = f"{type(error).__name__}: {error}"
        except SystemExit as ended:
            assert ended.code == 2, f"{given}: status {ended.code}"
            said = err.getvalue()
        else:
            raise AssertionError(f"{given} was accepted: {out.getvalue()[-300:]}")
    found = re.search(r"(\w+Errors?|error): .*", said, re.DOTALL)
    assert found, said
    text = found[0].strip().replace(str(folder), "FOLDER").replace(str(ROOT), "…")
    return re.sub(r"/tmp/[\w./-]+", "FOLDER", text)


def table() -> str:
    """docs/mistakes.md."""
    lines = [
        "# Mistakes, and what they are told",
        "",
        f"For those who look for a message: {len(MISTAKES)} wrong inputs and what each is told. Nothing has",
        "been allocated, written or replaced by then, and the command ends with status 2. Tests run them;",
        "`python -m tests.reliability.mistakes` writes this page.",
        "",
        "| given | told |",
        "| --- | --- |",
    ]
    for given in MISTAKES:
        with tempfile.TemporaryDirectory() as folder:
            said = answer(given, Path(folder))
        words = " ".join(given.words) or "(nothing)"
        content = "".join(f" {name}: {text[:60]!r}" for name, text in given.files)
        lines.append(f"| {_cell(f'{given.command} {words}{content}')} | {_cell(said, 500)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str, most: int = 150) -> str:
    text = " ".join(text.split()).replace("|", "\\|").replace("`", "'")
    return f"`{text if len(text) <= most else text[: most - 1] + '…'}`"


if __name__ == "__main__":
    DOCS.write_text(table(), encoding="utf-8")
