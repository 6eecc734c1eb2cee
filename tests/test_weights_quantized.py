"""Models with linears of 8 and 4 bits: converted, mapped, quantised while loading, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_release import TinyRelease, make_release, train_tokenizer

from lynx_engine import Lynx, ops
from lynx_engine.cli import main
from lynx_engine.errors import LynxError
from lynx_engine.info import describe, render
from lynx_engine.model.linear import Linear
from lynx_engine.weights import Quantization, convert, load_folder, read_quantization, save_model
from lynx_engine.weights.quantized import linears

FORMATS = [("int8", None), ("int8", 32), ("int4", None), ("int4", 128)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> TinyRelease:
    return make_release(tmp_path_factory.mktemp("release"), train_tokenizer())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, release: TinyRelease) -> Path:
    return convert(**release.files, out=tmp_path_factory.mktemp("plain") / "model").folder


def logits(lynx: Lynx) -> torch.Tensor:
    config = lynx.config.vision
    images = torch.rand(2, 3, config.image_size, config.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return lynx(torch.tensor([[1, 5, 9, 4], [1, 7, 3, 8]]), images=images).logits


@pytest.mark.parametrize(("format", "group"), FORMATS)
def test_a_converted_folder_is_the_model_quantised_while_loading(
    tmp_path: Path, release: TinyRelease, plain: Path, format: str, group: int | None
) -> None:
    quantization = Quantization(format, group)
    folder = convert(**release.files, out=tmp_path / "model", quantization=quantization).folder
    assert read_quantization(folder) == quantization and read_quantization(plain) is None
    stored, loaded = Lynx.load(folder), Lynx.load(plain, dtype=format, group_size=group)
    assert torch.equal(logits(stored), logits(loaded))
    assert torch.equal(logits(Lynx.load(folder, dtype=format, group_size=group)), logits(stored))
    state, truth = load_folder(folder).state_dict(), load_folder(plain)
    for name, linear in linears(truth):
        expected = ops.quantize_linear(linear.weight.detach(), format, group)
        assert f"{name}.weight" not in state
        assert torch.equal(state[f"{name}.codes"], expected.codes)
        assert torch.equal(state[f"{name}.scales"], expected.scales)


def test_what_is_quantised(plain: Path) -> None:
    """Every Linear of the model but the head; adapters are none of them."""
    model = Lynx.load(plain, dtype="int4").model
    found = {name for name, module in model.named_modules() if isinstance(module, Linear) and module.quantized}
    assert found == {name for name, module in model.named_modules() if isinstance(module, Linear)} - {"LLM.lm_head"}
    assert {name.split(".")[0] for name in found} == {"LLM", "vision_encoder", "bridge"}
    assert not any("adapter" in name for name in found)


def test_numbers_stay_near_those_of_the_whole_model(plain: Path) -> None:
    truth = logits(Lynx.load(plain)).log_softmax(-1)
    for format, allowed in (("int8", 0.1), ("int4", 0.6)):
        off = logits(Lynx.load(plain, dtype=format)).log_softmax(-1) - truth
        assert 0 < off.norm() / truth.norm() < allowed


def test_codes_and_scales_outlive_conversions(plain: Path) -> None:
    model = Lynx.load(plain, dtype="int4").model
    before = {name: tensor for name, tensor in model.state_dict().items() if name.endswith((".codes", ".scales"))}
    model = model.to(torch.bfloat16).to(torch.float32)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert {t.dtype for t in before.values()} == {torch.uint8, torch.bfloat16}


def test_adapters_train_around_codes(plain: Path) -> None:
    """The gradient goes through quantised linears to an adapter below them."""
    lynx = Lynx.load(plain, dtype="int8")
    out = lynx(torch.tensor([[1, 5, 9, 4]]), labels=torch.tensor([[1, 5, 9, 4]]))
    assert out.loss is not None
    out.loss.backward()
    adapters = [p for name, p in lynx.model.named_parameters() if ".output_adapter." in name]
    assert adapters and all(p.grad is not None and p.grad.isfinite().all() for p in adapters)
    assert any(bool(p.grad.any()) for p in adapters if p.grad is not None)


def test_info_and_the_command(tmp_path: Path, release: TinyRelease, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--vision", release.vision, "--llm", release.llm, "--checkpoint", release.checkpoint]
    files = [*map(str, files), *(f"--set={name}={value}" for name, value in release.settings.items())]
    out = tmp_path / "model"
    assert main(["convert", *files, "--out", str(out), "--quantize", "int4", "--group-size", "128"]) == 0
    assert capsys.readouterr().out.strip().endswith("float32, linears int4, groups of 128")
    assert "stored as float32, linears int4, groups of 128" in render(describe(model=out))
    assert main(["convert", *files, "--out", str(out), "--group-size", "32"]) == 2
    assert capsys.readouterr().err == "lynx-engine: --group-size 32 wants --quantize int8 or int4\n"
    assert main(["convert", *files, "--out", str(out), "--quantize", "int4", "--group-size", "64"]) == 2
    assert "int4 with groups of 64" in capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, release: TinyRelease, plain: Path) -> None:
    folder = convert(**release.files, out=tmp_path / "model", quantization=Quantization("int8")).folder
    with pytest.raises(LynxError, match="is stored as int8, one scale a row; int4, groups of 32 must be made of"):
        Lynx.load(folder, dtype="int4")
    with pytest.raises(LynxError, match="group_size is for dtype int8 or int4, got group_size 32"):
        Lynx.load(plain, group_size=32)
    with pytest.raises(LynxError, match="wanted int8 .* or int4 .*, got int4 with groups of 16"):
        Lynx.load(plain, dtype="int4", group_size=16)
    with pytest.raises(LynxError, match="dtype must be float32 or bfloat16"):
        Lynx.load(plain, dtype="int3")
    with pytest.raises(LynxError, match="a quantised model cannot be saved"):
        save_model(load_folder(folder), tmp_path / "again", tokenizer_folder=plain)
