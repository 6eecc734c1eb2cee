"""What is profiled: an op at its cases, or one whole answer of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.parts.subject import load_subject
from lynx_engine import GenerationConfig, Lynx, demo, ops, registry
from lynx_engine.cases import Case, Suite
from lynx_engine.errors import LynxError
from lynx_engine.lynx import Prompt
from lynx_engine.yardstick import named_outputs

from .ranges import name_parts

QUESTION = "what color is the circle?"
MODES = {"forward": ("forward",), "backward": ("backward",), "both": ("forward", "backward")}
_PROMPT_TOKENS = 40  # with the 32 vision tokens 72 positions, as the decoder's cases have
_PARTS = ("vision_encoder", "bridge", "LLM.model", "LLM.lm_head")


@dataclass(frozen=True)
class Work:
    """Calls to repeat, by the names of their ranges; `name` begins the names of the files; `parts`: inner ranges."""

    name: str
    calls: dict[str, Callable[[], object]]
    parts: tuple[str, ...] = ()


def op_work(op: str, case: str, backend: str, mode: str, dtype: str, device: str) -> Work:
    """Every case of `op` whose name contains `case`; those of the benchmarks if any does, else those of the tests.

    LynxError names what there is where op, case, backend or dtype is unknown.
    """
    suites = [suite for suite in ops.suites() if suite.op == op]
    if not suites:
        known = ", ".join(dict.fromkeys(suite.op for suite in ops.suites()))
        raise LynxError(f"unknown op {op!r}; ops: {known}")
    registry.ops()[op].candidates(backend)
    matching = [(suite, c) for suite in suites for c in suite.cases if case in c.name]
    chosen = [(suite, c) for suite, c in matching if device in c.bench] or matching
    if not chosen:
        known = "; ".join(c.name for suite in suites for c in suite.cases)
        raise LynxError(f"{op}: no case contains {case!r}; cases: {known}")
    calls: dict[str, Callable[[], object]] = {}
    for suite, one in chosen:
        for which in MODES[mode]:
            calls[f"{op} {one.name} {which}"] = _call(suite, one, backend, which, dtype, device)
    return Work(f"{op}-{mode}", calls)


def _call(suite: Suite, case: Case, backend: str, mode: str, dtype: str, device: str) -> Callable[[], object]:
    dtypes = {str(known).removeprefix("torch."): known for known in suite.dtypes}
    if dtype not in dtypes:
        raise LynxError(f"{suite.op}: unknown dtype {dtype!r}; dtypes: {', '.join(dtypes)}")
    arguments = case.make(torch.Generator().manual_seed(0), dtypes[dtype])
    arguments = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in arguments.items()}
    if mode == "backward":
        return _backward(suite, {**arguments, "backend": backend})

    def forward() -> object:
        with torch.no_grad():
            return suite.function(**arguments, backend=backend)

    return forward


def _backward(suite: Suite, arguments: dict[str, Any]) -> Callable[[], object]:
    """The gradients alone: forward has run, its graph is kept."""
    leaves = {name: arguments[name].detach().requires_grad_() for name in suite.differentiable}
    if not leaves:
        raise LynxError(f"{suite.op}: has no gradients; mode: forward")
    outputs = list(named_outputs(suite.function(**{**arguments, **leaves})).values())
    dy = [torch.ones_like(output) for output in outputs]
    return lambda: torch.autograd.grad(outputs, list(leaves.values()), dy, retain_graph=True)


def model_work(preset: str, dtype: str, device: str) -> Work:
    """One answer, its parts as ranges: of the demo model what `ask` does, of others 8 tokens with random weights."""
    picture: object = Path(demo.__file__).parent / "assets" / "sample.png"
    if preset == "demo":
        lynx, config = Lynx.load(demo.weights_folder()), GenerationConfig()
        prompt: Prompt = lynx.prompt(QUESTION)
        lynx.model.to(device)
    else:
        subject = load_subject(preset, dtype, device, ())
        lynx, config = Lynx(subject.model), GenerationConfig(max_new_tokens=8)
        prompt, picture = subject.token_ids(1, _PROMPT_TOKENS)[0].tolist(), subject.picture()
    name_parts(lynx.model, *_PARTS)
    name = f"e2e-{preset.replace('/', '-')}"
    return Work(name, {"ask": lambda: lynx.generate(images=[picture], prompts=[prompt], config=config)}, _PARTS)
