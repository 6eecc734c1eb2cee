"""prefix_attention in Triton: launches of the kernels of triton_forward.py and triton_backward.py.

Not yet run on hardware: proven by Triton's interpreter, compiled for sm_80 and sm_90 (bench/gpu_static.json).
Bounds of packed sequences are not looked at by the host, which would wait for the device: where they do not rise from 0
to the number of rows, no memory beyond the tensors is touched, and rows may be left unwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from lynx_engine.cases import StaticCase
from lynx_engine.cuda import TritonKernel, interprets

from .op import check_shapes, check_varlen_shapes
from .triton_backward import attention_backward_kv, attention_backward_q, attention_delta
from .triton_forward import attention_forward

MAX_HEAD_DIM = 128


@dataclass(frozen=True)
class Call:
    """What a launch needs to know of one call, dense or packed."""

    q: Tensor
    k: Tensor
    v: Tensor
    bounds: tuple[Tensor, Tensor] | None  # cu_seqlens_q and cu_seqlens_k where packed
    prefix_lens: Tensor | None
    kv_mask: Tensor | None
    causal: bool
    scale: float

    @property
    def num_sequences(self) -> int:
        return self.q.shape[0] if self.bounds is None else self.bounds[0].shape[0] - 1

    def grid(self, of: Tensor, block: int) -> tuple[int, int]:
        """(tiles of a head's rows, programs): every packed sequence may end in a tile that is not full."""
        tiles = triton.cdiv(of.shape[-3], block)
        if self.bounds is not None:
            tiles = tiles + self.num_sequences if tiles else 0
            return tiles, tiles * of.shape[-2]
        return tiles, tiles * of.shape[-2] * of.shape[0]

    def options(self) -> dict[str, Any]:
        return {
            "CAUSAL": self.causal,
            "PREFIX": self.causal and self.prefix_lens is not None,
            "MASK": self.kv_mask is not None,
            "PACKED": self.bounds is not None,
        }

    def masks(self) -> tuple[Tensor, ...]:
        """cu_seqlens_q, cu_seqlens_k, prefix_lens, kv_mask; a tensor that no kernel reads for those that are not."""
        bounds = (self.q, self.q) if self.bounds is None else self.bounds
        return (*bounds, *(self.q if x is None else x for x in (self.prefix_lens, self.kv_mask)))

    def sizes(self) -> tuple[Any, ...]:
        """mask_b, scale, B, H, Sq, Sk, D."""
        mask_b = 0 if self.kv_mask is None else self.kv_mask.stride(0)
        Sq, H, D = self.q.shape[-3:]
        return mask_b, self.scale, self.num_sequences, H, Sq, self.k.shape[-3], D


def forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> None:
    """The compiled function's arguments: q, k, v, prefix_lens, kv_mask, causal, scale, o, stats."""
    prefix_lens, kv_mask, causal, scale, o, stats = rest
    check_shapes(q, k, v, prefix_lens, kv_mask)
    _forward(Call(q, k, v, None, prefix_lens, kv_mask, causal, scale), o, stats)


def varlen_forward(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> None:
    """q, k, v, cu_seqlens_q, cu_seqlens_k, prefix_lens, causal, scale, o, stats."""
    bounds_q, bounds_k, prefix_lens, causal, scale, o, stats = rest
    check_varlen_shapes(q, k, v, bounds_q, bounds_k, prefix_lens)
    _forward(Call(q, k, v, (bounds_q, bounds_k), prefix_lens, None, causal, scale), o, stats)


def backward(d_o: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, stats: Tensor, *rest: Any) -> None:
    """d_o, q, k, v, o, stats, prefix_lens, kv_mask, causal, scale, d_q, d_k, d_v."""
    prefix_lens, kv_mask, causal, scale, *gradients = rest
    check_shapes(q, k, v, prefix_lens, kv_mask)
    _backward(Call(q, k, v, None, prefix_lens, kv_mask, causal, scale), d_o, o, stats, *gradients)


def varlen_backward(d_o: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, stats: Tensor, *rest: Any) -> None:
    """d_o, q, k, v, o, stats, cu_seqlens_q, cu_seqlens_k, prefix_lens, causal, scale, d_q, d_k, d_v."""
    bounds_q, bounds_k, prefix_lens, causal, scale, *gradients = rest
    check_varlen_shapes(q, k, v, bounds_q, bounds_k, prefix_lens)
    _backward(Call(q, k, v, (bounds_q, bounds_k), prefix_lens, None, causal, scale), d_o, o, stats, *gradients)


def _forward(call: Call, o: Tensor, stats: Tensor) -> None:
    tile = forward_tile(call.q.shape[-3], call.q.shape[-1], _arch())
    tiles, programs = call.grid(call.q, tile["BLOCK_M"])
    if programs:
        strides = _strides(call.q, call.k, call.v)
        attention_forward[(programs,)](
            *(call.q, call.k, call.v, o, stats, *call.masks(), *strides, *call.sizes(), tiles), **call.options(), **tile
        )


def _backward(call: Call, d_o: Tensor, o: Tensor, stats: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> None:
    q, k, v = call.q, call.k, call.v
    tiles_of = backward_q_tile(q.shape[-1]), backward_kv_tile(q.shape[-1], _arch())
    delta = torch.empty(stats.shape[:-1], dtype=torch.float32, device=stats.device)
    rows = delta_tile(q.shape[-1])
    tiles = triton.cdiv(q.shape[-3], rows["BLOCK_M"])
    if q.numel():
        sizes = (q.shape[-2], q.shape[-3], q.shape[-1], tiles)
        attention_delta[(tiles * q.numel() // (q.shape[-3] * q.shape[-1]),)](
            *(d_o, o, delta, *_strides(d_o, o), *sizes), **rows
        )
    strides = _strides(d_o, q, k, v)
    for kernel, of, block, outputs, tile in (
        (attention_backward_q, q, "BLOCK_M", (d_q,), tiles_of[0]),
        (attention_backward_kv, k, "BLOCK_N", (d_k, d_v), tiles_of[1]),
    ):
        tiles, programs = call.grid(of, tile[block])
        if programs:
            kernel[(programs,)](
                *(d_o, q, k, v, stats, delta, *outputs, *call.masks(), *strides, *call.sizes(), tiles),
                **call.options(),
                **tile,
            )


def forward_tile(Sq: int, D: int, arch: int) -> dict[str, Any]:
    """Few queries (decoding) do not fill 128 rows; 16 is the least that tensor cores take.

    On sm_80, whose products read registers, 128 rows spill where D > 64.
    """
    most = 128 if arch >= 90 or D <= 64 else 64
    rows = 16 if Sq <= 16 else 64 if Sq <= 64 else most
    warps = 8 if rows == 128 or (rows > 16 and arch < 90) else 4
    return {"BLOCK_M": rows, "BLOCK_N": 64, "BLOCK_D": _block_d(D), "num_warps": warps, **_PIPELINE}


def delta_tile(D: int) -> dict[str, Any]:
    return {"BLOCK_M": 64, "BLOCK_D": _block_d(D), "num_warps": 4, "enable_fp_fusion": True}


def backward_q_tile(D: int) -> dict[str, Any]:
    return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_D": _block_d(D), "num_warps": 8 if D > 64 else 4, **_PIPELINE}


def backward_kv_tile(D: int, arch: int) -> dict[str, Any]:
    """Two sums of keys x D beside S and d_P of keys x queries: with D = 128, 64 queries spill (sm_90: 88 bytes)."""
    queries = 32 if D > 64 or arch < 90 else 64
    keys = 128 if D > 64 and arch >= 90 else 64
    warps = 8 if D > 64 or arch < 90 else 4
    return {"BLOCK_M": queries, "BLOCK_N": keys, "BLOCK_D": _block_d(D), "num_warps": warps, **_PIPELINE}


_PIPELINE = {"num_stages": 2, "enable_fp_fusion": True}


def _arch() -> int:
    """The current device's compute capability; the interpreter goes the way of sm_90."""
    major, minor = (9, 0) if interprets() else torch.cuda.get_device_capability()
    return major * 10 + minor


def _block_d(D: int) -> int:
    """The head in a power of two: 88 numbers take 128, whose rest is zeros."""
    return max(16, triton.next_power_of_2(D))


def _strides(*tensors: Tensor) -> tuple[int, ...]:
    """Of batch, token and head of each; packed rows have no batch."""
    return tuple(stride for x in tensors for stride in (0, *x.stride())[-4:-1])


def _refusals(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Sequence[str]:
    D = q.shape[-1]
    reasons = [] if D <= MAX_HEAD_DIM else [f"needs head_dim <= {MAX_HEAD_DIM} (got {D})"]
    if any(x.dim() > 2 and x.shape[-3] * x.stride(-3) >= 2**31 for x in (q, k, v)):
        reasons.append("needs fewer than 2^31 numbers from a sequence's first to its last")
    return reasons


def _backward_refusals(d_o: Tensor, *args: Any) -> Sequence[str]:
    return _refusals(*args)


KERNELS = {
    "prefix_attention": TritonKernel(forward, _refusals),
    "prefix_attention_varlen": TritonKernel(varlen_forward, _refusals),
    "prefix_attention_backward": TritonKernel(backward, _backward_refusals),
    "prefix_attention_varlen_backward": TritonKernel(varlen_backward, _backward_refusals),
}

_HALF = {"q", "k", "v", "o", "d_o", "d_q", "d_k", "d_v"}
_OTHER = {"stats": "*fp32", "delta": "*fp32", "kv_mask": "*i1", "scale": "fp32"} | dict.fromkeys(
    ("cu_seqlens_q", "cu_seqlens_k", "prefix_lens"), "*i32"
)


def _static_case(kernel: triton.JITFunction, D: int, arch: int, what: str, tile: dict[str, Any]) -> StaticCase:
    """A kernel in bfloat16; what: words of "causal", "prefix", "mask", "packed"."""
    constants: dict[str, Any] = {word: word.lower() in what for word in ("CAUSAL", "PREFIX", "MASK", "PACKED")}
    options: dict[str, Any] = {
        name: tile[name] for name in ("num_warps", "num_stages", "enable_fp_fusion") if name in tile
    }
    constants |= {"D": D} | {name: value for name, value in tile.items() if name.startswith("BLOCK")}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {
        name: "*bf16" if name in _HALF else _OTHER.get(name, "i32")
        for name in kernel.arg_names
        if name not in constants
    }
    rows = tile["BLOCK_N" if kernel is attention_backward_kv else "BLOCK_M"]  # wgmma takes no fewer than 64
    products = "HGMMA" if arch == 90 and rows >= 64 else "HMMA"
    return StaticCase(
        name=" ".join(filter(None, (kernel.__name__, f"D={D}", what, f"sm_{arch}"))),
        kernel=kernel,
        signature=signature,
        constants=constants,
        divisible_by_16=tuple(name for name in signature if name[-2:] in {"_b", "_s", "_h"}),
        options=options,
        sass=("LDG.128",) if kernel is attention_delta else (products, "LDGSTS.128", "MUFU.EX2"),
        arch=arch,
    )


STATIC_CASES = tuple(
    _static_case(kernel, D, arch, what, tile)
    for arch in (80, 90)
    for kernel, D, what, tile in (
        (attention_forward, 128, "causal prefix mask", forward_tile(1056, 128, arch)),
        (attention_forward, 128, "causal prefix packed", forward_tile(1056, 128, arch)),
        (attention_forward, 128, "causal mask decode", forward_tile(1, 128, arch)),
        (attention_forward, 88, "vision", forward_tile(901, 88, arch)),
        (attention_forward, 64, "resampler", forward_tile(32, 64, arch)),
        (attention_delta, 128, "", delta_tile(128)),
        (attention_backward_q, 128, "causal prefix mask", backward_q_tile(128)),
        (attention_backward_kv, 128, "causal prefix packed", backward_kv_tile(128, arch)),
        (attention_backward_kv, 64, "causal prefix mask", backward_kv_tile(64, arch)),
    )
)
