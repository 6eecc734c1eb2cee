"""How far y = x W^T is off in each 8 and 4-bit format, ours beside llama.cpp's: python -m bench.quantization_error

llama.cpp's formats come from its own Python package (`pip install gguf`), which quantises to Q8_0 and Q4_0; it reads
Q4_K but cannot write it. Weights are normal or heavy-tailed (Student's t, 3 degrees of freedom), x is normal.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
from torch import Tensor

from lynx_engine import ops

FORMATS = {"int8": (None, 128, 32), "int4": (32, 128)}


def relative(y: Tensor, truth: Tensor) -> float:
    return float((y.double() - truth).norm() / truth.norm())


def as_gguf(x: Tensor, name: str) -> Tensor:
    """x as llama.cpp's format `name` has it."""
    import gguf

    kind = gguf.GGMLQuantizationType[name]
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(x.numpy(), kind), kind))


def rows(weight: Tensor, x: Tensor) -> list[tuple[str, float, float, float]]:
    """Format, bits a weight, error with x as it is, error with x rounded as the format's own product rounds it."""
    N, K = weight.shape
    truth = x.double() @ weight.double().T
    found = [("bfloat16", 16.0, relative(x @ weight.bfloat16().float().T, truth), math.nan)]
    for name, bits in (("Q8_0", 8.5), ("Q4_0", 4.5)):
        numbers = as_gguf(weight, name).double()
        rounded = as_gguf(x, "Q8_0").double()  # llama.cpp rounds x so for both
        errors = [relative(a @ numbers.T, truth) for a in (x.double(), rounded)]
        found.append((f"llama.cpp {name}", bits, errors[0], errors[1]))
    for format, groups in FORMATS.items():
        for group in groups:
            quantized = ops.quantize_linear(weight, format, group)
            bits = 8 * sum(t.numel() * t.element_size() for t in quantized) / (N * K)
            errors = [
                relative(product(x, *quantized, out_features=N), truth)
                for product in (ops.weight_only_linear, ops.quantized_linear)
            ]
            found.append((f"{format}, {f'groups of {group}' if group else 'a row'}", bits, errors[0], errors[1]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="rows and columns of the weight")
    size = parser.parse_args().size
    torch.manual_seed(0)
    draws = {"normal": torch.randn(size, size), "Student t, 3": torch.distributions.StudentT(3.0).sample((size, size))}
    print("| weights | format | bits | error | x rounded too |\n|---|---|---:|---:|---:|")
    for name, weight in draws.items():
        for format, bits, error, rounded in rows(weight * size**-0.5, torch.randn(64, size)):
            both = "" if math.isnan(rounded) else f"{rounded:.2%}"
            print(f"| {name} | {format} | {bits:.2f} | {error:.2%} | {both} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
