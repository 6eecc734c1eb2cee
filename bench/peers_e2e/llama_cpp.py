"""llama.cpp by the C interface of llama-cpp-python: the decoder as a GGUF file that is written for the run.

Vision tokens go in as embeddings, new tokens as ids; the rows of a batch are sequences of one cache and share the
prompt's part of it. 8 and 4 bits are made by llama.cpp's own quantiser, as in the files that its users load (the head
of a Q4_0 file is Q6_K). Files lie where `tempfile` puts them (TMPDIR) until llama.cpp has mapped them.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import llama_cpp as api
import numpy as np
import torch
from torch import Tensor

from bench.parts.subject import DTYPES, require_memory
from bench.peers_e2e import MIN_COSINE
from bench.peers_e2e.gguf_file import write_gguf
from lynx_engine import get_num_threads
from lynx_engine.errors import LynxError
from lynx_engine.generate import search
from lynx_engine.weights import count_parameters

if TYPE_CHECKING:
    from bench.parts.subject import Subject
    from bench.peers_e2e import Run
    from lynx_engine.generate import GenerationConfig


_ERROR = 4  # GGML_LOG_LEVEL_ERROR


class _Format(NamedTuple):
    """A quantised file: its type, bits a weight, and how like ours its logits must be."""

    file_type: int
    bits: float
    min_cosine: float


_FORMATS = {
    "q8_0": _Format(api.LLAMA_FTYPE_MOSTLY_Q8_0, 8.5, 0.99),
    "q4_0": _Format(api.LLAMA_FTYPE_MOSTLY_Q4_0, 4.5, 0.9),
}


class LlamaCpp:
    """A loaded file, under llama.cpp's own settings.

    But a float32 model has a float32 cache, and no flash attention, which sums in float16: the demo model's logits were
    4e-2 off with it, 6e-5 without.
    """

    def __init__(self, model: Any, subject: Subject, min_cosine: float) -> None:
        self.model = model
        self.config = subject.config.llm
        self.exact = subject.dtype == "float32"
        self.min_cosine = min_cosine
        weakref.finalize(self, api.llama_model_free, model)

    def prefill(self, embeds: Tensor) -> Run:
        return _Session(self, embeds, 1, 0).prefill

    def decode(self, embeds: Tensor, token_ids: Tensor) -> Run:
        tokens = token_ids[:, 0]
        session = _Session(self, embeds, len(tokens), 1)
        session.prefill()
        session.step(tokens, torch.zeros_like(tokens))

        def run() -> Tensor:
            session.wind_back()
            return session.step(tokens, None)

        return run

    def answer(self, embeds: Tensor, generation: GenerationConfig) -> Run:
        """llama.cpp's decoder under our beam search."""
        special = {name: getattr(self.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        session = _Session(self, embeds, generation.num_beams, generation.max_new_tokens)
        return lambda: torch.tensor(search(session, generation, **special).token_ids)


class _Session:
    """One prompt [1, S, H] being continued in up to `rows` rows, as `lynx_engine.generate` asks of a session."""

    batch_size = 1

    def __init__(self, peer: LlamaCpp, embeds: Tensor, rows: int, new_tokens: int) -> None:
        self.peer = peer  # its model outlives this context
        self.prompt_length = self.length = embeds.shape[1]
        self.rows = [0]  # of each row its sequence
        self.spare = range(rows, 2 * rows)
        params = api.llama_context_default_params()
        params.n_ctx = self.prompt_length + rows * new_tokens
        params.n_seq_max = 2 * rows
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = get_num_threads()
        if peer.exact:
            params.type_k = params.type_v = api.GGML_TYPE_F32
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = api.llama_init_from_model(peer.model, params)
        if not self.context:
            raise LynxError(f"llama.cpp made no context of {params.n_ctx} positions; its own message is above")
        weakref.finalize(self, api.llama_free, self.context)
        self.memory = api.llama_get_memory(self.context)
        self.prompt = _Batch(self.prompt_length, embeds=embeds[0])
        for position in range(self.prompt_length):
            self.prompt.place(position, position, sequence=0, wanted=position + 1 == self.prompt_length)

    def prefill(self) -> Tensor:
        api.llama_memory_clear(self.memory, False)
        self.length, self.rows = self.prompt_length, [0]
        return self._logits(self.prompt, 1)

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            self._move(parents.tolist())
        batch = _Batch(len(tokens), tokens=tokens)
        for row, sequence in enumerate(self.rows):
            batch.place(row, self.length, sequence, wanted=True)
        self.length += 1
        return self._logits(batch, len(tokens))

    def wind_back(self) -> None:
        """Forget what follows the prompt."""
        for sequence in self.rows:
            api.llama_memory_seq_rm(self.memory, sequence, self.prompt_length, -1)
        self.length = self.prompt_length

    def _move(self, parents: list[int]) -> None:
        """Row i becomes what row parents[i] was: sequences are marks on the cache's cells, nothing is copied."""
        if parents == list(range(len(self.rows))):
            return
        width = len(self.spare)
        spare = range(width) if self.rows[0] >= width else self.spare
        for parent, sequence in zip(parents, spare, strict=False):
            api.llama_memory_seq_cp(self.memory, self.rows[parent], sequence, -1, -1)
        for sequence in self.rows:
            api.llama_memory_seq_rm(self.memory, sequence, -1, -1)
        self.rows = list(spare[: len(parents)])

    def _logits(self, batch: _Batch, rows: int) -> Tensor:
        if code := api.llama_decode(self.context, batch.batch):
            raise LynxError(f"llama.cpp: llama_decode ended with code {code}")
        logits = api.llama_get_logits(self.context)
        return torch.from_numpy(np.ctypeslib.as_array(logits, (rows, self.peer.config.vocab_size)).copy())


class _Batch:
    """What `llama_decode` takes: positions of sequences, with token ids or with embeddings [n, H]."""

    def __init__(self, count: int, *, tokens: Tensor | None = None, embeds: Tensor | None = None) -> None:
        self.batch = api.llama_batch_init(count, 0 if embeds is None else embeds.shape[-1], 1)
        weakref.finalize(self, api.llama_batch_free, self.batch)
        self.batch.n_tokens = count
        if embeds is not None:
            rows = embeds.detach().float().contiguous()
            ctypes.memmove(self.batch.embd, rows.data_ptr(), rows.nbytes)
        if tokens is not None:
            for index, token in enumerate(tokens.tolist()):
                self.batch.token[index] = token

    def place(self, index: int, position: int, sequence: int, *, wanted: bool) -> None:
        """Where token `index` stands, and whether its logits are wanted."""
        self.batch.pos[index] = position
        self.batch.n_seq_id[index] = 1
        self.batch.seq_id[index][0] = sequence
        self.batch.logits[index] = wanted


def _say_errors(level: int, text: bytes, data: Any) -> None:
    """The library tells of every tensor, and llama-cpp-python's own filter takes its warnings for errors."""
    if level == _ERROR:
        sys.stderr.write(text.decode(errors="replace"))


_LOG = api.llama_log_callback(_say_errors)  # kept: C calls it


def load(subject: Subject, form: str | None = None) -> LlamaCpp:
    """The decoder of `subject` in its dtype, or as `form` "q8_0" or "q4_0"."""
    if subject.device != "cpu":
        raise LynxError(f"peer llama_cpp runs on the cpu only, not on {subject.device}")
    if subject.config.adapter_layers:
        raise LynxError("peer llama_cpp has no place for Lynx's adapters: measure both without them (--no-adapters)")
    api.llama_log_set(_LOG, None)
    with tempfile.TemporaryDirectory(prefix="lynx-gguf-") as folder:
        path = _file(Path(folder), subject, form)
        model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    if not model:
        raise LynxError("llama.cpp did not load the file that was written for it; its own message is above")
    return LlamaCpp(model, subject, _FORMATS[form].min_cosine if form else MIN_COSINE)


def _file(folder: Path, subject: Subject, form: str | None) -> Path:
    """The GGUF file of `form` in `folder`. LynxError where memory or disk is too small for it."""
    numbers, dtype = count_parameters(subject.config).parts["LLM"], DTYPES[subject.dtype]
    plain, quantised = folder / "plain.gguf", folder / f"{form}.gguf"
    sizes = [numbers * dtype.itemsize, int(numbers * _FORMATS[form].bits / 8) if form else 0]
    in_memory = 2 * sizes[1] or sizes[0]  # what is quantised is mapped, and packed anew
    require_memory(
        in_memory, "cpu", "peer llama_cpp beside ours", "a part of the depth (as lynx_8b/8), or another peer"
    )
    if shutil.disk_usage(folder).free < sum(sizes):
        raise LynxError(f"peer llama_cpp needs {sum(sizes) / 2**30:.1f} GiB in {folder.parent}: set TMPDIR to another")
    write_gguf(plain, subject.model.LLM, subject.config.llm, dtype)
    if form is None:
        return plain
    params = api.llama_model_quantize_default_params()
    params.nthread, params.ftype = get_num_threads(), _FORMATS[form].file_type
    if api.llama_model_quantize(str(plain).encode(), str(quantised).encode(), params):
        raise LynxError(f"llama.cpp did not quantise to {form}; its own message is above")
    plain.unlink()
    return quantised
