"""Do the tensors at hand fit the model? Every name and shape that does not is listed in one error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import LynxConfig
from ..errors import LynxError
from ..model import LynxModel

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What a configuration's state dict holds: shapes by name, and which of the names are trained."""

    shapes: Mapping[str, Shape]
    trained: frozenset[str]

    @classmethod
    def of(cls, config: LynxConfig) -> Plan:
        """Read off the model itself, built without memory."""
        model = meta_model(config)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        return cls(shapes, frozenset(name for name, p in model.named_parameters() if p.requires_grad))


def meta_model(config: LynxConfig) -> LynxModel:
    """The model on torch's meta device: shapes, no numbers, no memory."""
    with torch.device("meta"):
        return LynxModel(config)


def misfits(wanted: Mapping[str, Shape], got: Mapping[str, Shape], origin: Mapping[str, str]) -> list[str]:
    """One line for each wanted name that is missing and each shape that differs; `origin` says where it is from."""
    lines = [f"{name} is missing, wanted {list(shape)}" for name, shape in wanted.items() if name not in got]
    for name, shape in wanted.items():
        if name in got and got[name] != shape:
            whence = f" ({origin[name]})" if name in origin else ""
            lines.append(f"{name}{whence}: got {list(got[name])}, wanted {list(shape)}")
    return lines


def raise_misfits(where: str, lines: Iterable[str]) -> None:
    """LynxError with every line, if there is one."""
    lines = list(lines)
    if lines:
        raise LynxError(f"{where}: {len(lines)} tensor(s) do not fit: {'; '.join(lines)}")


def is_buffer(name: str) -> bool:
    """RoPE's frequencies, which old checkpoints store and the model computes."""
    return name.endswith("rotary_emb.inv_freq")


def load_tensors_into(
    model: LynxModel,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = torch.float32,
    where: str = "tensors",
) -> LynxModel:
    """Give `model` (built on the meta device, or not) the tensors as its parameters, and return it.

    A tensor of `dtype` (None: of its own) is shared, not copied, so that memory-mapped ones stay in their file; others
    are converted one by one. Names as in REFERENCE.md section 2; `inv_freq` buffers are dropped. Raises LynxError
    listing every missing, unknown and misshapen tensor.
    """
    given = {name: tensor for name, tensor in tensors.items() if not is_buffer(name)}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    lines = misfits(wanted, {name: tuple(tensor.shape) for name, tensor in given.items()}, {})
    lines += [f"{name} is not a tensor of this model" for name in given if name not in wanted]
    raise_misfits(where, lines)
    for name in given:
        if not name.endswith((".codes", ".scales")):  # of a quantised linear: in their own dtypes always
            given[name] = given[name].to(dtype=dtype)
    model.load_state_dict(given, assign=True)
    return model
