"""Which strings a tokenizer folder treats as special tokens, read the way Hugging Face 4.28.1 reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import LynxError

# Hugging Face's order, in which missing tokens are appended to the vocabulary.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LLAMA_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
DEFAULTS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class SpecialToken:
    """One special string; `lstrip` / `rstrip`: it swallows the whitespace on its left / right in the text."""

    content: str
    lstrip: bool = False
    rstrip: bool = False


@dataclass(frozen=True)
class SpecialTokens:
    """Roles of the special tokens, and what else a tokenizer folder adds to its sentencepiece model.

    `added_ids`: the strings of added_tokens.json with their ids, in the order of the ids.
    `roles` maps bos_token, eos_token, unk_token and possibly others to a token; pad_token may be missing.
    `clean_up_spaces` is tokenizer_config.json's clean_up_tokenization_spaces: decoding pulls punctuation to its word.
    """

    roles: Mapping[str, SpecialToken]
    additional: tuple[SpecialToken, ...] = ()
    added_ids: tuple[tuple[str, int], ...] = ()
    clean_up_spaces: bool = False

    @classmethod
    def default(cls) -> SpecialTokens:
        return cls({role: SpecialToken(content) for role, content in DEFAULTS.items()})

    def with_pad(self, token: SpecialToken) -> SpecialTokens:
        return replace(self, roles={**self.roles, "pad_token": token})

    def ordered(self) -> tuple[SpecialToken, ...]:
        """Every special token once, in the order in which missing ones are appended."""
        named = [self.roles[role] for role in ROLES if role in self.roles]
        return tuple({token.content: token for token in (*named, *self.additional)}.values())


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Read tokenizer_config.json, special_tokens_map.json (which wins) and added_tokens.json; each may be missing.

    Raises LynxError naming the file and the key for anything that is not a token.
    """
    config = _read_json_object(folder / "tokenizer_config.json")
    overrides = _read_json_object(folder / "special_tokens_map.json")
    found: dict[str, tuple[SpecialToken, bool]] = {}
    additional: list[tuple[SpecialToken, bool]] = []
    for source, values in (("tokenizer_config.json", config), ("special_tokens_map.json", overrides)):
        # LlamaTokenizer wraps its own four string arguments, so that they strip nothing; other plain strings strip.
        wrapped = LLAMA_ROLES if source == "tokenizer_config.json" else ()
        for role in ROLES:
            if role in values:
                found.pop(role, None)
                token = _token(values[role], f"{folder / source}: {role}", strips=role not in wrapped)
                if token is not None:
                    found[role] = token
        if "additional_special_tokens" in values:
            additional = _token_list(values["additional_special_tokens"], folder / source)
    for role, content in DEFAULTS.items():
        found.setdefault(role, (SpecialToken(content), True))
    return _merge(found, additional, _read_added(folder / "added_tokens.json"), config)


def _merge(
    found: dict[str, tuple[SpecialToken, bool]],
    additional: list[tuple[SpecialToken, bool]],
    added: tuple[tuple[str, int], ...],
    config: Mapping[str, Any],
) -> SpecialTokens:
    """One stripping rule for each string: where roles share it, the first one written with explicit rules wins."""
    ordered = [found[role] for role in ROLES if role in found] + additional
    rules = {token.content: token for token, explicit in ordered if not explicit}
    rules.update({token.content: token for token, explicit in reversed(ordered) if explicit})
    return SpecialTokens(
        roles={role: rules[token.content] for role, (token, _) in found.items()},
        additional=tuple(rules[token.content] for token, _ in additional),
        added_ids=added,
        clean_up_spaces=config.get("clean_up_tokenization_spaces") is True,
    )


def _token(value: Any, where: str, *, strips: bool) -> tuple[SpecialToken, bool] | None:
    """A token and whether its stripping rule is explicit; None and "" (old LLaMA conversions) mean: not given."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return SpecialToken(value, lstrip=strips, rstrip=strips), not strips
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        if not value["content"]:
            return None
        return SpecialToken(value["content"], bool(value.get("lstrip")), bool(value.get("rstrip"))), True
    raise LynxError(f'{where}: wanted a string or an object with "content", got {value!r:.80}')


def _token_list(values: Any, path: Path) -> list[tuple[SpecialToken, bool]]:
    if values is None:
        return []
    if not isinstance(values, list):
        raise LynxError(f"{path}: additional_special_tokens: wanted a list, got {values!r:.80}")
    tokens = [_token(value, f"{path}: additional_special_tokens[{i}]", strips=True) for i, value in enumerate(values)]
    return [token for token in tokens if token is not None]


def _read_added(path: Path) -> tuple[tuple[str, int], ...]:
    values = _read_json_object(path)
    for content, index in values.items():
        if not content or isinstance(index, bool) or not isinstance(index, int):
            raise LynxError(f"{path}: {content!r}: wanted a token with its id, got {index!r:.80}")
    return tuple(sorted(values.items(), key=lambda item: item[1]))


def _read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} when the file is missing."""
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LynxError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise LynxError(f"{path}: wanted a JSON object, got {type(values).__name__}")
    return values
