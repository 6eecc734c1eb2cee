"""When a call needs nothing of torch's dispatcher: plain tensors in CPU memory, and nobody watching.

The way through the dispatcher and back into Python costs 2.5 us (Zen 5), which a decode step of a small model pays for
every op; these questions cost 0.5 us. Whatever changes what a call means (compiling, exporting, tracing, fake or meta
tensors, dispatch modes, vmap, forward-mode derivatives, a profiler) gets the op of torch as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

# The types of arguments that hide nothing; a subclass of Tensor is none of them.
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, type(None), bool, int, float, str})


def needs_no_dispatcher(args: tuple[Any, ...]) -> bool:
    """Whether an op's implementation may be called as it is; args[0] is a tensor."""
    return (
        not torch.compiler.is_compiling()
        and _PLAIN.issuperset(map(type, args))
        and args[0].is_cpu
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and forward_ad._current_level < 0
        and not torch._C._autograd._profiler_enabled()
    )


def eager(op: Callable[..., Any], implementation: Callable[..., Any], *, mutates: bool) -> Callable[..., Any]:
    """`op`, but straight to its implementation where that is the same.

    mutates: it writes into its arguments, which torch counts for autograd's sake; only inference mode does without.
    """

    def call(*args: Any) -> Any:
        if needs_no_dispatcher(args) and (not mutates or torch.is_inference_mode_enabled()):
            return implementation(*args)
        return op(*args)

    return call
