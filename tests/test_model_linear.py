"""Linears that may be packed: the same numbers and names, whatever is packed, loaded, moved or trained."""

from __future__ import annotations

import copy

import pytest
import torch
from small import SMALL, small_model
from torch import Tensor, nn
from torch.nn import functional as F

from lynx_engine import Lynx, LynxError
from lynx_engine.model import LynxModel
from lynx_engine.model.linear import Joint, Linear

# widths of which the strips are padded, too
ODD = SMALL.replace(
    vision={"hidden_size": 22, "intermediate_size": 39},
    llm={"hidden_size": 36, "intermediate_size": 45, "vocab_size": 51},
)
IDS = torch.tensor([[1, 5, 6, 9]])


def outputs(model: LynxModel) -> tuple[Tensor, Tensor]:
    """Vision tokens and logits."""
    pixels = torch.arange(3 * 28 * 28).view(1, 3, 28, 28).to(model.dtype).sin()
    with torch.no_grad():
        vision = model.encode_images(pixels)
        return vision, model(IDS, vision=vision).logits


def assert_same(model: LynxModel, wanted: tuple[Tensor, Tensor]) -> None:
    """Vision tokens to the bit; logits but for gate and up of a packed SwiGLU, which are not rounded on the way."""
    vision, logits = outputs(model)
    assert torch.equal(vision, wanted[0])
    tolerance = 1e-5 if logits.dtype == torch.float32 else 5e-3
    torch.testing.assert_close(logits, wanted[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["whole strips", "padded strips"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_changes_nothing_but_layout(config, dtype) -> None:
    model = small_model(config).to(dtype)
    wanted, state = outputs(model), {name: t.clone() for name, t in model.state_dict().items()}
    shapes = {name: p.shape for name, p in model.named_parameters()}
    model.pack()
    assert model.LLM.lm_head.packed and model.vision_encoder.blocks[0].attn.q_proj.packed
    assert_same(model, wanted)
    packed_state = model.state_dict()
    assert list(packed_state) == list(state)
    assert all(torch.equal(packed_state[name], tensor) for name, tensor in state.items())
    model.unpack()
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert_same(model, wanted)


def test_what_trains_stays_as_it_is() -> None:
    model = small_model().pack()
    assert not any(module.packed for module in model.bridge.modules() if isinstance(module, Linear))
    model.freeze(llm=False)
    trained = model.LLM.model.layers[0].mlp.gate_proj
    assert not trained.packed and trained.weight.requires_grad
    assert model.vision_encoder.blocks[0].mlp.fc1.packed
    model(IDS, labels=IDS).loss.backward()
    assert trained.weight.grad is not None


def test_a_packed_weight_that_shall_train_says_what_to_do() -> None:
    model = small_model().pack().requires_grad_(True)
    with pytest.raises(LynxError, match="a packed weight has no gradient"):
        model(IDS, labels=IDS).loss.backward()


def test_loading_moving_and_copying_packed_weights() -> None:
    model, other = small_model().pack(), small_model(seed=1)
    wanted = outputs(other)
    assert_same(copy.deepcopy(model), outputs(model))
    model.load_state_dict(other.state_dict())
    assert_same(model, wanted)
    model.pack().to(torch.float64).to(torch.float32)
    assert model.LLM.lm_head.packed
    assert_same(model, wanted)


def test_gradients_through_packed_weights() -> None:
    plain, packed = small_model(), small_model().pack()
    for model in (plain, packed):
        model(IDS, images=torch.ones(1, 3, 28, 28), labels=IDS).loss.backward()
    for (name, p), q in zip(plain.named_parameters(), packed.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad, msg=name)


def test_a_joint_forgets_its_strips_when_a_part_changes() -> None:
    first, second = Linear(8, 16, bias=False), Linear(8, 16)
    for linear in (first, second):
        linear.requires_grad_(False)
    joint, x = Joint(first, second), torch.randn(3, 8)
    wanted = joint(x)
    joint.pack()
    assert first.packed and second.packed
    for got, want in zip(joint(x), wanted, strict=True):
        assert torch.equal(got, want)
    second.load_state_dict({"weight": torch.zeros(16, 8), "bias": torch.ones(16)})
    assert torch.equal(joint(x)[0], wanted[0])
    assert torch.equal(joint(x)[1], torch.ones(3, 16))


FORMATS = [None, ("int8", None), ("int8", 32), ("int4", 32), ("int4", 128)]


def frozen(*sizes: tuple[int, int, bool], format: tuple[str, int | None] | None) -> list[Linear]:
    """Linears of (in, out, bias), to be packed or quantised."""
    linears = [Linear(k, n, bias=bias).requires_grad_(False) for k, n, bias in sizes]
    for linear in linears if format else []:
        linear.quantize(*format)
    return linears


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_joint_gives_the_bits_of_its_parts(any_backend, format, dtype) -> None:
    """Parts of any widths, with a bias or without, rows few or many; and SwiGLU as the op has it of gate and up."""
    if dtype == torch.float32 and any_backend in ("cpu_avx512_bf16", "cpu_amx"):
        pytest.skip("no such backend for float32")
    torch.manual_seed(0)
    parts = [linear.to(dtype) for linear in frozen((70, 32, True), (70, 7, False), (70, 40, True), format=format)]
    even = [linear.to(dtype) for linear in frozen((70, 32, False), (70, 32, True), format=format)]
    pair = [linear.to(dtype) for linear in frozen((70, 45, False), (70, 45, False), format=format)]
    joints = Joint(*parts), Joint(*even), Joint(*pair, gated=True)
    norm = nn.LayerNorm(70, dtype=dtype)
    for rows in (1, 5, 40):
        x = torch.randn(2, rows, 70).to(dtype)
        with torch.no_grad():
            wanted = [linear(x, norm=norm) for linear in parts + even]
            rounded = F.silu(pair[0](x)) * pair[1](x)
            for joint in joints:
                joint.pack()
            got = [*joints[0](x, norm=norm), *(y.flatten(2) for y in joints[1].heads(x, 2, norm=norm))]
            gated = joints[2].swiglu(x)
        assert all(joint.strips() is not None for joint in joints)
        for a, b in zip(got, wanted, strict=True):
            exact = any_backend != "reference" or format is not None  # torch's product of floats depends on its width
            assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=1e-5, atol=1e-5)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(gated, rounded, rtol=tolerance, atol=tolerance)


def test_quantised_linears_that_differ_stay_apart() -> None:
    first, second = frozen((64, 16, False), (64, 16, False), format=("int8", None))
    third = Linear(64, 16).requires_grad_(False)
    third.quantize("int8", 32)
    x = torch.randn(3, 64)
    for linears in ((first, third), (first, Linear(64, 16).requires_grad_(False))):
        wanted = [linear(x) for linear in linears]
        joint = Joint(*linears)
        joint.pack()
        assert joint.strips() is None
        assert all(torch.equal(a, b) for a, b in zip(joint(x), wanted, strict=True))
    joint = Joint(first, second)
    joint.pack()
    weight = joint.strips()
    joint.pack()
    assert weight is not None and joint.strips() is weight


def test_a_joint_of_codes_forgets_them_when_a_part_changes() -> None:
    parts, others = (frozen((40, 32, True), (40, 16, True), format=("int4", 32)) for _ in range(2))
    joint, x = Joint(*parts), torch.randn(3, 40)
    for change in ("load", "assign", "convert", "copy"):
        joint.pack()
        wanted = [part(x) for part in parts]
        assert joint.strips() is not None
        if change == "copy":
            joint = copy.deepcopy(joint)
            assert joint.strips() is not None
        elif change == "convert":
            for part in parts:
                part.to(torch.float64).to(torch.float32)
        else:
            state = {name: tensor.clone() for name, tensor in others[0].state_dict().items()}
            parts[0].load_state_dict(state, assign=change == "assign")
            wanted[0] = others[0](x)
            assert joint.strips() is None
        assert all(torch.equal(a, b) for a, b in zip(joint(x), wanted, strict=True))


def test_loading_a_part_of_a_state_dict_leaves_other_codes_alone() -> None:
    parts = frozen((40, 32, True), (40, 16, True), format=("int8", None))
    joint, x = Joint(*parts), torch.randn(3, 40)
    joint.pack()
    before = joint(x)
    for state in ({}, {"bias": torch.zeros(32)}):
        parts[0].load_state_dict(state, strict=False)
        wanted = parts[0](x)
        assert torch.equal(joint(x)[0], wanted) and torch.equal(joint(x)[1], before[1])
    assert not torch.equal(wanted, before[0])


@pytest.mark.parametrize("options", [{}, {"activation": "gelu"}, {"activation": "silu"}])
def test_a_linear_that_trains_computes_as_torch_does(options) -> None:
    linear, norm = Linear(8, 16), nn.LayerNorm(8)
    x, residual = torch.randn(3, 8), torch.randn(3, 16)
    trained = linear(x, norm=norm, residual=residual, **options)
    with torch.no_grad():
        frozen = linear(x, norm=norm, residual=residual, **options)
    torch.testing.assert_close(trained, frozen)


def test_lynx_packs_the_model_it_gets() -> None:
    assert Lynx(small_model()).model.LLM.lm_head.packed
