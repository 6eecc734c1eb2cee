"""`lynx-engine ask | chat | predict | convert | info | train | eval`: arguments in, one function of the library each.

Wrong input ends with exit code 2 and one line on standard error. Heavy imports happen when a command runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, subcommand

from .errors import LynxError

if TYPE_CHECKING:
    from .generate import GenerationConfig
    from .lynx import Generation, Lynx
    from .text import Tokenizer

Preset = Literal["greedy", "open-vqa", "open-vqa-video", "describe", "demo", "round-0", "release"]


@dataclass
class ModelOptions:
    """What every command that runs a model takes."""

    model: Path | None = None
    """Folder written by `lynx-engine convert`; without it the demo model that ships with the package."""
    threads: int | None = None
    """CPU threads; without it all cores that this process may use."""
    preset: Preset = "greedy"
    """Generation settings: a row of the paper's Table 6, or greedy."""
    seed: int = 42
    """Seed of sampled answers."""

    @property
    def folder(self) -> Path:
        if self.model is not None:
            return self.model
        from .demo import weights_folder

        return weights_folder()

    def generation(self) -> GenerationConfig:
        from .generate import GenerationConfig

        return GenerationConfig.preset(self.preset).replace(seed=self.seed)

    def load(self) -> Lynx:
        from . import Lynx, set_num_threads

        if self.threads is not None:
            set_num_threads(self.threads)
        return Lynx.load(self.folder)


@dataclass
class Ask(ModelOptions):
    """Answer a question about a picture or a clip.

    Several pictures are the frames of one clip.
    """

    inputs: Positional[tuple[str, ...]] = ()
    """IMAGE_OR_VIDEO [IMAGE ...] QUESTION"""
    json: bool = False
    """Print answer, token ids, timings in seconds, model and backends as one JSON object."""

    def run(self) -> None:
        *sources, question = self.inputs or ("",)
        if not sources:
            raise LynxError('ask wants IMAGE_OR_VIDEO and QUESTION, as in: lynx-engine ask photo.jpg "what is this?"')
        started = time.perf_counter()
        lynx = self.load()
        load_seconds = time.perf_counter() - started
        vision = lynx.open(sources)
        generation = lynx.generate(
            images=None if isinstance(vision, list) else [vision],
            videos=[vision] if isinstance(vision, list) else None,
            prompts=[lynx.prompt(question)],
            config=self.generation(),
        )
        print(_answer_json(lynx, generation, load_seconds) if self.json else generation[0].text)


@dataclass
class Chat(ModelOptions):
    """Talk about a picture: questions from standard input, one a line, answers streamed."""

    inputs: Positional[tuple[str, ...]] = ()
    """IMAGE_OR_VIDEO [IMAGE ...]"""
    describe_first: bool = False
    """Let the model describe the picture in detail before the first question (LYNX.md section 4)."""

    def run(self) -> None:
        from .chat import Conversation

        if not self.inputs:
            raise LynxError("chat wants IMAGE_OR_VIDEO, as in: lynx-engine chat photo.jpg")
        lynx = self.load()
        conversation = Conversation(lynx, lynx.open(self.inputs), self.generation().replace(num_beams=1))
        if self.describe_first:
            _print_pieces(conversation.describe())
        interactive = sys.stdin.isatty()
        while (question := _read_question(interactive)) is not None:
            if question:
                _print_pieces(conversation.ask(question))


@dataclass
class Predict(ModelOptions):
    """Answer a file of questions in the authors' evaluation format; a killed run continues where it stopped."""

    file: Positional[Path] = Path()
    """JSON lines with `index`, the prompt's fields (`question`) and `image` or `video`."""
    out: Path | None = None
    """Result file: {"index", "text_output"} lines. Required."""
    config: Path | None = None
    """The authors' configuration (YAML or JSON): prompt, generation, data and batch keys."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """key=value: override one key of the configuration, as in `--set num_beams=1`."""
    release_compat: bool = False
    """Reproduce the authors' code in every quirk (REFERENCE.md)."""
    image_root: Path | None = None
    """Folder of relative picture paths; FILE's folder if not given, the current one with --release-compat."""

    def run(self) -> None:
        from .eval import EvalConfig, predict
        from .weights import read_settings, read_settings_of

        if self.out is None:
            raise LynxError("predict wants --out: where to write the answers")
        if not self.file.is_file():
            raise LynxError(f"{self.file}: no such file of questions")
        lynx = self.load()
        settings = read_settings(self.config or read_settings_of(self.folder), self.set)
        config = EvalConfig.from_authors(settings, lynx.config, seed=self.seed, release_compat=self.release_compat)
        with _progress("answering") as report:
            count = predict(lynx, self.file, self.out, config, image_root=self.image_root, progress=report)
        print(f"{count} answers in {self.out}")


@dataclass
class Convert:
    """Turn the three files of the authors' release into one folder that loads memory-mapped."""

    vision: Path
    """eva_vit_g.pth"""
    llm: Path
    """Hugging Face LLaMA folder (vicuna-7b/): config.json, tokenizer.model, weights."""
    checkpoint: Path
    """finetune_lynx.pt"""
    out: Path
    """Folder to write."""
    config: Path | None = None
    """The authors' configuration (YAML or JSON)."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """key=value: override one key, or say what weights cannot tell, as in `--set vit_num_heads=4`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the stored weights."""
    quantize: Literal["int8", "int4"] | None = None
    """Store the linears of the LLM, the vision encoder and the bridge in 8 or 4 bits a weight."""
    group_size: int | None = None
    """Weights that share a scale: 32 or 128. Without it a row for int8, 32 for int4."""
    release_compat: bool = False
    """Reproduce the authors' loading in every quirk (REFERENCE.md section 6)."""

    def run(self) -> None:
        from .weights import Quantization, convert

        if self.group_size is not None and self.quantize is None:
            raise LynxError(f"--group-size {self.group_size} wants --quantize int8 or int4")
        quantization = None if self.quantize is None else Quantization(self.quantize, self.group_size)
        with _progress("converting") as report:
            conversion = convert(
                vision=self.vision,
                llm=self.llm,
                checkpoint=self.checkpoint,
                out=self.out,
                config=self.config,
                overrides=self.set,
                dtype=self.dtype,
                quantization=quantization,
                release_compat=self.release_compat,
                progress=lambda name, done, total: report(done, total),
            )
        for line in conversion.report.lines():
            print(line, file=sys.stderr)
        linears = "" if quantization is None else f", linears {quantization}"
        print(f"{conversion.folder}: {conversion.config.name}, {self.dtype}{linears}")


@dataclass
class Info:
    """Machine, backends of every op with reasons, versions; with --model or --preset the parts of a model."""

    model: Path | None = None
    """Folder written by `lynx-engine convert`."""
    preset: str | None = None
    """Named configuration, as lynx_8b; nothing is allocated."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        from .info import describe, render

        report = describe(model=self.model, preset=self.preset)
        print(json.dumps(report, indent=2) if self.json else render(report))


@dataclass
class Train:
    """Train the demo model from nothing: language model, vision encoder, then bridge and adapters in two stages."""

    what: Positional[Literal["demo"]] = "demo"
    """What to train."""
    out: Path = Path("runs/demo")
    """Folder of the run: checkpoints, loss logs, and the finished model in `model/`. A run found there is continued."""
    threads: int | None = None
    """CPU threads; without it all cores that this process may use."""
    scale: float = 1.0
    """Steps of every phase, as a fraction of the full recipe's."""

    def run(self) -> None:
        import torch

        from . import set_num_threads
        from .demo import new_model, phases
        from .train import FitConfig, fit
        from .weights import save_model

        if self.threads is not None:
            set_num_threads(self.threads)
        # Lets torch take oneDNN for float32 products (in bfloat16 where AMX multiplies it): MKL's, its default, are
        # four times slower on AMD processors (57 against 217 GFLOP/s a core on a Zen 5).
        torch.set_float32_matmul_precision("medium")
        model, tokenizer = new_model(), _run_tokenizer(self.out / "tokenizer")
        for phase in phases(model, tokenizer, self.scale):
            config = FitConfig(phase.steps, phase.peak_lr, phase.start_lr, betas=phase.betas)
            before = {name: weight.detach().clone() for name, weight in phase.trained().items()}
            fit(phase.module, phase.batch, phase.loss, config, self.out, name=phase.name)
            phase.blend(before)
        print(save_model(model, self.out / "model", tokenizer_folder=self.out / "tokenizer", dtype="bfloat16"))


@dataclass
class Eval(ModelOptions):
    """Measure the demo model on unseen generated questions: exact answers, by kind of question."""

    what: Positional[Literal["demo"]] = "demo"
    """What to measure."""
    images: int = 500
    """Picture questions."""
    clips: int = 200
    """Clip questions."""

    def run(self) -> None:
        from .demo import evaluate

        print(evaluate(self.load(), images=self.images, clips=self.clips))


Command = (
    Annotated[Ask, subcommand("ask")]
    | Annotated[Chat, subcommand("chat")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Eval, subcommand("eval")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0, or 2 for wrong input, 130 when interrupted."""
    try:
        _parse(arguments).run()
    except LynxError as error:
        print(f"lynx-engine: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lynx-engine: interrupted", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str] | None) -> Command:
    """The command, or a LynxError with tyro's explanation folded to one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(Command, prog="lynx-engine", args=arguments, config=(OmitArgPrefixes,))
    except SystemExit as end:
        if not end.code:
            raise
        raise LynxError(re.sub(r"[╭╮╰╯│─]+", " ", errors.getvalue())) from None


def _run_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a training run: trained when the run starts, read when it continues."""
    from .demo import train_tokenizer
    from .text import Tokenizer

    if not (folder / "added_tokens.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        Tokenizer(train_tokenizer()).save(folder)
    return Tokenizer.from_folder(folder)


def _answer_json(lynx: Lynx, generation: Generation, load_seconds: float) -> str:
    from . import registry

    answer = generation[0]
    return json.dumps(
        {
            "answer": answer.text,
            "token_ids": answer.token_ids,
            "prompt_tokens": generation.prompt_tokens[0],
            "timings": {"load": load_seconds, **generation.timings},
            "model": lynx.config.name,
            "backends": {name: op.last_used for name, op in registry.ops().items() if op.last_used},
        }
    )


def _print_pieces(pieces: Iterator[str]) -> None:
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def _read_question(interactive: bool) -> str | None:
    """The next line of standard input, None at its end."""
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, told (done, total); it appears with the first report."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if bar.live.is_started:
            bar.stop()
