"""The model against the authors' recorded activations, logits, losses and gradients (T1-T4).

Tolerances are the manifest's: activations max 2e-4 and mean 1e-5, logits max 5e-4, gradients relative l2 1e-4.
Every test runs on each CPU backend of this machine and on the plain-torch reference.
"""

from __future__ import annotations

import re

import pytest
import torch
from reference_cases import Case, build_model, case
from torch import Tensor, nn

from lynx_engine.model import LynxModel

CASES = ("T1", "T2", "T3", "T4")


def module_of(model: LynxModel, name: str) -> nn.Module | None:
    """The module whose output the authors' recording calls `name`; None for names that are no module's output."""
    llm = model.LLM.model
    patterns = {
        r"vit\.block(\d+)\.attn": lambda i: model.vision_encoder.blocks[i].attn,
        r"vit\.block(\d+)": lambda i: model.vision_encoder.blocks[i],
        r"vit\.out": lambda: model.vision_encoder,
        r"bridge\.layer(\d+)\.attn": lambda i: model.bridge.layers[i][0],
        r"bridge\.layer(\d+)\.ff": lambda i: model.bridge.layers[i][1],
        r"bridge\.out": lambda: model.bridge,
        r"llm\.layer(\d+)\.self_attn": lambda i: llm.layers[i].self_attn,
        r"llm\.layer(\d+)\.mlp": lambda i: llm.layers[i].mlp,
        r"llm\.layer(\d+)": lambda i: llm.layers[i],
        r"llm\.norm": lambda: llm.norm,
        r"llm\.logits": lambda: model.LLM.lm_head,
    }
    for pattern, find in patterns.items():
        if match := re.fullmatch(pattern, name):
            return find(*map(int, match.groups()))
    return None


def record(model: LynxModel, names: list[str], run) -> dict[str, Tensor]:
    """What the modules behind `names` compute while `run()` runs, without the residual that they add to it."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for name in names:
        module = module_of(model, name)
        if module is not None:

            def keep(_module, _inputs, options, out, name=name):
                seen[name] = out if options.get("residual") is None else out - options["residual"]

            hooks.append(module.register_forward_hook(keep, with_kwargs=True))
    run()
    for hook in hooks:
        hook.remove()
    return seen


def prefill(model: LynxModel, acts: dict[str, Tensor], *, position_ids: Tensor | None) -> Tensor:
    vision = None
    if "vision" in acts:
        pixels = acts["vision"].to(model.dtype)
        vision = model.encode_videos(pixels) if pixels.ndim == 5 else model.encode_images(pixels)
    embeds = model.embed(acts["input_ids"], vision)
    return model.logits(model.decode(embeds, acts["attention_mask"], position_ids))


ACTIVATIONS = [
    *[(name, f"act_{inputs}") for name in CASES for inputs in ("image1", "batch3")],
    *[(name, "act_video") for name in ("T1", "T2")],
    ("T1", "act_text"),
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(("name", "inputs"), ACTIVATIONS)
def test_activations(fixtures_dir, float32_backend, name, inputs, packed):
    recorded_case = case(fixtures_dir / name)
    model = build_model(recorded_case, packed=packed)
    acts = recorded_case.tensors(inputs)
    with torch.no_grad():
        seen = record(model, list(acts), lambda: prefill(model, acts, position_ids=acts["position_ids"]))
    real = acts["attention_mask"].bool()
    assert {"llm.logits", "llm.norm", "llm.layer0"} <= set(seen)
    for module, got in seen.items():
        want = acts[module]
        difference = (got.reshape(want.shape) - want).abs()
        if module.startswith("llm."):
            difference = difference[real]  # rows of pads mean nothing (manifest, conventions)
        assert difference.max() <= (5e-4 if module == "llm.logits" else 2e-4), f"{module}: {difference.max()}"
        assert difference.mean() <= 1e-5 or module == "llm.logits", f"{module}: mean {difference.mean()}"


@pytest.mark.parametrize("name", CASES)
def test_positions_that_count_pads(fixtures_dir, float32_backend, name):
    """Without position_ids a forward counts pads: the training-time convention (REFERENCE.md section 5.6)."""
    recorded_case = case(fixtures_dir / name)
    model = build_model(recorded_case)
    acts = recorded_case.tensors("act_batch3")
    with torch.no_grad():
        logits = model(acts["input_ids"], acts["input_atts"], images=acts["vision"].float()).logits
    want = acts["plain_forward.logits_last8"]
    assert (logits[:, -8:] - want).abs().max() <= 5e-4


# what is recorded of training: (case, batch, path of the vision tokens, label smoothing)
MIXED, DIRECT = "get_mixed_v2t_feats", "direct"
TRAINING = [
    *[(name, "image_leftpad", MIXED, smoothing) for name in CASES for smoothing in (0.0, 0.1)],
    *[("T1", "image_rightpad", MIXED, smoothing) for smoothing in (0.0, 0.1)],
    *[(name, "video", path, 0.0) for name in ("T1", "T2") for path in (MIXED, DIRECT)],
]
# whole gradients were recorded for these paths; of the others their norms
RECORDED_PATH = {"image_leftpad": MIXED, "video": DIRECT}


def training_loss(recorded_case: Case, model: LynxModel, batch: str, path: str, fused: bool, **loss_options) -> Tensor:
    tensors = recorded_case.tensors("train")
    videos = images = None
    if batch == "video":
        videos = recorded_case.tensors("act_video")["vision"].float()
    else:
        images = recorded_case.tensors("act_batch3")["vision"].float()
    vision = model.encode_mixed(images, videos, release_compat=path == MIXED)
    inputs = [tensors[f"{batch}.{name}"] for name in ("input_ids", "input_atts")]
    function = model.loss if fused else model
    output = function(*inputs, vision=vision, labels=tensors[f"{batch}.labels"], **loss_options)
    return output if fused else output.loss


@pytest.mark.parametrize(("fused", "packed"), [(False, False), (True, True)], ids=["forward", "loss, packed"])
@pytest.mark.parametrize(("name", "batch", "path", "smoothing"), TRAINING)
def test_losses_and_gradients(fixtures_dir, float32_backend, name, batch, path, smoothing, fused, packed):
    recorded_case = case(fixtures_dir / name)
    model = build_model(recorded_case, packed=packed)
    run = f"{batch}.{path}.ls{smoothing}"
    expected = recorded_case.json("train")[run]
    loss = training_loss(recorded_case, model, batch, path, fused, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    losses = training_loss(recorded_case, model, batch, path, False, label_smoothing=smoothing, reduction="none")
    want = recorded_case.tensors("train")[f"{run}.loss_none"]
    assert (losses.detach().view_as(want) - want).abs().max() <= 5e-4

    loss.backward()
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert sorted(key for key, p in trained.items() if p.grad is None) == sorted(expected["grad_none"])
    for key, statistics in expected["grad_stats"].items():
        assert trained[key].grad.norm().item() == pytest.approx(statistics["l2"], rel=1e-4, abs=1e-7), key
    full = recorded_case.tensors("grads") if (recorded_case.folder / "grads.safetensors").exists() else {}
    if smoothing == 0.0 and path == RECORDED_PATH.get(batch):
        for key, want in full.items():
            group, _, parameter = key.partition(".grad.")
            if group == batch:
                error = (trained[parameter].grad - want).norm() / want.norm()
                assert error <= 1e-4, f"{key}: relative l2 {error}"


@pytest.mark.parametrize("name", ["T1", "T2"])
def test_mixed_batch_puts_videos_first(fixtures_dir, float32_backend, name):
    recorded_case = case(fixtures_dir / name)
    model = build_model(recorded_case)
    tensors = recorded_case.tensors("train")
    images = recorded_case.tensors("act_batch3")["vision"][:2].float()
    videos = recorded_case.tensors("act_video")["vision"].float()
    with torch.no_grad():
        got = model.encode_mixed(images, videos)
    assert (got - tensors["mixed.v2t_feats"]).abs().max() <= 2e-4


def test_bfloat16(fixtures_dir, backend):
    """bf16 logits within the stated mean 0.03 of the authors' bf16 run."""
    recorded_case = case(fixtures_dir / "T1")
    model = build_model(recorded_case).to(torch.bfloat16)
    acts = recorded_case.tensors("act_batch3")
    want = recorded_case.tensors("act_bf16")["llm.logits"].float()
    with torch.no_grad():
        got = prefill(model, acts, position_ids=acts["position_ids"]).float()
    difference = (got - want).abs()[acts["attention_mask"].bool()]
    assert difference.mean() <= 0.03, difference.mean()
    assert difference.max() <= 0.5, difference.max()
