"""LLaMA's tokenizer on plain sentencepiece, with the ids of the authors' stack (slow LlamaTokenizer of HF 4.28.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import sentencepiece
import torch

from ..errors import LynxError
from .padding import pad_rows
from .special_tokens import SpecialToken, SpecialTokens, read_special_tokens

PAD_TOKEN = "[PAD]"
_MARKER = re.compile(r"[<\[{].+[>\]}]")
_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer:
    """Text to ids and back.

    `model`: a sentencepiece model, as bytes or as the path of its file.
    `pad_token`: the pad token's text. None: the one in `special`, else "[PAD]", appended after the sentencepiece
    vocabulary (REFERENCE.md section 6.3).
    Special tokens never come out of `encode` for user text, except with `release_compat=True`.
    Raises LynxError when the model cannot be read.
    """

    def __init__(
        self, model: bytes | str | Path, *, pad_token: str | None = None, special: SpecialTokens | None = None
    ) -> None:
        self._sp = _load_model(model)
        special = special or SpecialTokens.default()
        self._added: dict[str, int] = {}
        self._append_listed(special.added_ids)
        self._append_missing(special)
        if pad_token is not None:
            known = {token.content: token for token in special.ordered()}
            special = special.with_pad(known.get(pad_token, SpecialToken(pad_token)))
        elif "pad_token" not in special.roles:
            # The authors add it as a plain string, which Hugging Face lets swallow the spaces around it.
            special = special.with_pad(SpecialToken(PAD_TOKEN, lstrip=True, rstrip=True))
        self._append_missing(special)
        self.special = special
        self._added_text = {index: content for content, index in self._added.items()}
        self.bos_token_id, self.eos_token_id, self.unk_token_id, self.pad_token_id = (
            self._token_id(special.roles[role].content) for role in ("bos_token", "eos_token", "unk_token", "pad_token")
        )
        self._special_text = {self._token_id(token.content): token.content for token in special.ordered()}
        pieces = self._sp.id_to_piece(list(range(self._sp.get_piece_size())))
        self._byte_values = {
            i: int(piece[3:5], 16) for i, piece in enumerate(pieces) if piece[:3] == "<0x" and self._sp.is_byte(i)
        }
        self._byte_ids = {value: i for i, value in self._byte_values.items()}
        self._reserved = self._find_reserved(pieces)
        self._split_pattern, self._strip_rules = self._compile_splitter()

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a Hugging Face LLaMA folder: `tokenizer.model`, and the three JSON files if present."""
        folder = Path(folder)
        return cls(folder / "tokenizer.model", special=read_special_tokens(folder))

    def save(self, folder: str | Path) -> None:
        """Write files from which `from_folder` makes an equal tokenizer."""
        folder = Path(folder)
        roles = {role: asdict(token) for role, token in self.special.roles.items()}
        additional = [asdict(token) for token in self.special.additional]
        (folder / "tokenizer.model").write_bytes(self._sp.serialized_model_proto())
        _write_json(folder / "special_tokens_map.json", {**roles, "additional_special_tokens": additional})
        _write_json(folder / "tokenizer_config.json", {"clean_up_tokenization_spaces": self.special.clean_up_spaces})
        _write_json(folder / "added_tokens.json", self._added)

    def __len__(self) -> int:
        """Number of ids, the appended tokens included."""
        return self._sp.get_piece_size() + len(self._added)

    @property
    def num_added_tokens(self) -> int:
        """Number of ids after the sentencepiece vocabulary."""
        return len(self._added)

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out."""
        return frozenset(self._special_text)

    def byte_value(self, token_id: int) -> int | None:
        """The byte that a byte-fallback token stands for, None for any other token."""
        return self._byte_values.get(token_id)

    def encode(
        self, text: str, *, add_bos: bool = True, max_tokens: int = 0, release_compat: bool = False
    ) -> list[int]:
        """[BOS] + ids of `text`; of more than `max_tokens` (if positive) ids the last are kept, and BOS with them.

        release_compat=True does what the authors' code does: "<s>" and the like in the text become special tokens, and
        the cut takes BOS off with the rest (REFERENCE.md sections 8.2, 8.3).
        """
        self._check_text(text)
        ids = self._encode_with_specials(text) if release_compat else self._encode_plain(text)
        bos = [self.bos_token_id] if add_bos else []
        if release_compat:
            ids, bos = bos + ids, []
        if max_tokens > 0 and len(bos) + len(ids) > max_tokens:
            ids = ids[len(ids) - (max_tokens - len(bos)) :]
        return bos + ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; special tokens go before pieces are joined, bytes that are not UTF-8 become U+FFFD each.

        skip_special_tokens=False shows them, with Hugging Face's spacing around them (REFERENCE.md section 8.6).
        """
        parts: list[str] = []
        run: list[int] = []
        for token_id in map(int, ids):
            if skip_special_tokens and token_id in self._special_text:
                continue
            if token_id in self._added_text:
                if run:
                    parts.append(self._join_run(run))
                parts.append(self._added_text[token_id])
                run = []
            else:
                run.append(token_id)
        if run:
            parts.append(self._join_run(run))
        text = " ".join(parts)
        if self.special.clean_up_spaces:
            for spaced in _SPACED:
                text = text.replace(spaced, spaced.strip())
        return text

    def pad(self, rows: Sequence[Sequence[int]], side: str = "left") -> tuple[torch.Tensor, torch.Tensor]:
        """Stack rows of unequal length: (input_ids, attention_mask), int64 [len(rows), longest], mask 0 on pads."""
        return pad_rows(rows, self.pad_token_id, side)

    def _encode_plain(self, text: str) -> list[int]:
        """Ids of `text` in which no id is a control token: such pieces are spelled out."""
        ids: list[int] = []
        for token_id in self._sp.encode(text):
            ids.extend(self._reserved.get(token_id, (token_id,)))
        return ids

    def _encode_with_specials(self, text: str) -> list[int]:
        """Split at special tokens; every segment is encoded alone and gets its own dummy prefix."""
        parts = self._split_pattern.split(text)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if i % 2:
                ids.append(self._token_id(part))
                continue
            if i > 0 and self._strip_rules[parts[i - 1]].rstrip:
                part = part.lstrip()
            if i + 1 < len(parts) and self._strip_rules[parts[i + 1]].lstrip:
                part = part.rstrip()
            ids.extend(self._sp.encode(part) if part else ())
        return ids

    def _join_run(self, ids: list[int]) -> str:
        """Join pieces; pieces that end at a special token start with a space."""
        text = ""
        pieces: list[int] = []
        for token_id in ids:
            if token_id in self._special_text:
                text += (" " if pieces else "") + self._decode_pieces(pieces) + self._special_text[token_id]
                pieces = []
            else:
                pieces.append(token_id)
        return text + self._decode_pieces(pieces)

    def _decode_pieces(self, ids: list[int]) -> str:
        size = self._sp.get_piece_size()
        for token_id in ids:
            if not 0 <= token_id < size:
                raise LynxError(f"token id {token_id} is outside the vocabulary of {len(self)}")
        return str(self._sp.decode(ids)) if ids else ""

    def _check_text(self, text: str) -> None:
        if not isinstance(text, str):
            raise LynxError(f"text to encode: wanted str, got {type(text).__name__}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise LynxError(f"text to encode: character {error.start} is a lone surrogate, not text") from error

    def _token_id(self, content: str) -> int:
        return self._added[content] if content in self._added else int(self._sp.piece_to_id(content))

    def _in_model(self, content: str) -> bool:
        token_id = self._sp.piece_to_id(content)
        return bool(token_id != self._sp.unk_id() or content == self._sp.id_to_piece(token_id))

    def _append_listed(self, listed: Sequence[tuple[str, int]]) -> None:
        """Append the tokens of added_tokens.json, less those that the model has; their ids must follow each other."""
        start = len(self)
        for position, (content, index) in enumerate(listed):
            if self._in_model(content):
                continue
            if index not in (len(self), start + position):
                raise LynxError(f"added_tokens.json: {content!r} has id {index}, the next free id is {len(self)}")
            self._added[content] = len(self)

    def _append_missing(self, special: SpecialTokens) -> None:
        """Append the special tokens that neither the model nor the list has."""
        for token in special.ordered():
            if token.content not in self._added and not self._in_model(token.content):
                self._added[token.content] = len(self)

    def _find_reserved(self, pieces: list[str]) -> dict[int, tuple[int, ...]]:
        """Pieces that text must not become, each with the ids that spell it instead.

        sentencepiece never matches its control symbols in text, but it does match user-defined symbols. Reserved are
        those with a special role and those that look like markup, "<image>". (A user-defined symbol has score 0, which
        among learnt pieces only the first one has.)
        """
        scores = self._sp.get_score(list(range(len(pieces))))
        marked = {i for i, piece in enumerate(pieces) if scores[i] == 0 and _MARKER.fullmatch(piece)}
        return {
            i: self._spell(pieces[i])
            for i in marked | self._special_text.keys() - self._added_text.keys()
            if not (self._sp.is_control(i) or self._sp.is_unknown(i) or self._sp.is_byte(i))
        }

    def _spell(self, piece: str) -> tuple[int, ...]:
        """`piece` as byte tokens, or as one-character pieces where the model has no byte fallback."""
        if self._byte_ids:
            return tuple(self._byte_ids[value] for value in piece.replace("\u2581", " ").encode())
        ids = (int(self._sp.piece_to_id(character)) for character in piece)
        return tuple(self._sp.unk_id() if i in self._special_text else i for i in ids)

    def _compile_splitter(self) -> tuple[re.Pattern[str], dict[str, SpecialToken]]:
        """Pattern that captures the strings Hugging Face does not split, longest first, and how each strips."""
        rules = {content: SpecialToken(content, lstrip=True, rstrip=True) for content in self._added}
        rules.update({token.content: token for token in self.special.ordered()})
        longest_first = sorted(rules, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")"), rules


def _load_model(model: bytes | str | Path) -> sentencepiece.SentencePieceProcessor:
    where = "tokenizer model" if isinstance(model, bytes) else str(model)
    try:
        proto = model if isinstance(model, bytes) else Path(model).read_bytes()
    except OSError as error:
        raise LynxError(f"{where}: tokenizer model cannot be read: {error.strerror or error}") from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = bool(proto) and processor.LoadFromSerializedProto(proto)
    except RuntimeError as error:
        raise LynxError(f"{where}: not a sentencepiece model ({error})") from error
    if not loaded or processor.get_piece_size() == 0:
        raise LynxError(f"{where}: not a sentencepiece model ({len(proto)} bytes)")
    return processor


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
