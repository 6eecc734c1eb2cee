"""The tokenizer against ids and texts recorded from the authors' stack, and what it refuses to let through."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from lynx_engine.errors import LynxError
from lynx_engine.text import SpecialToken, SpecialTokens, Tokenizer, render

DATA = Path(__file__).parent / "data"
MODEL = DATA / "tok300.model"
CASES = json.loads((DATA / "tok300_cases.json").read_text())
FOLDERS = json.loads((DATA / "tokenizer_folders.json").read_text())
ADDED = {"__type": "AddedToken", "lstrip": False, "rstrip": False, "normalized": True, "single_word": False}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(MODEL)


def make_folder(folder: Path, **files: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(MODEL.read_bytes())
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def train_model(**options: Any) -> bytes:
    model = io.BytesIO()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "while", "mugs", "stand", "on", "tables"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:] + words[:i]) for i in range(len(words))] * 3),
        model_writer=model, model_type="bpe", normalization_rule_name="identity", minloglevel=2, **options,
    )  # fmt: skip
    return model.getvalue()


@pytest.mark.parametrize("case", CASES["encode"], ids=lambda case: repr(case["question"][:12]))
def test_recorded_ids(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    text = render(case["prompt"], case, case["lower_text"], release_compat=True)
    assert tokenizer.encode(text, max_tokens=case["max_input_tokens"], release_compat=True) == case["input_ids"]


@pytest.mark.parametrize("case", CASES["decode"], ids=lambda case: repr(case["skip_special"][:12]))
def test_recorded_texts(tokenizer: Tokenizer, case: dict[str, Any]) -> None:
    assert tokenizer.decode(case["ids"]) == case["skip_special"]
    assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["keep_special"]


def test_every_recorded_string_of_the_fixture(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "tokenizer_tok300"
    tokenizer = Tokenizer.from_folder(folder)
    *variants, right_padded = json.loads((folder / "encode.json").read_text())
    for variant in variants:
        settings = variant["variant"]
        for case in variant["cases"]:
            text = render(settings["prompt"], case, settings["lower_text"], release_compat=True)
            assert text == case["text_input"]
            ids = tokenizer.encode(text, max_tokens=settings["max_input_tokens"], release_compat=True)
            assert ids == case["input_ids"]
        assert_padded(tokenizer, variant["cases"][:5], variant["batch_first5"], "left")
    assert_padded(tokenizer, variants[-1]["cases"][:5], right_padded["batch_first5"], "right")
    for case in json.loads((folder / "decode.json").read_text()):
        assert tokenizer.decode(case["ids"]) == case["skip_special"]
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["keep_special"]


def test_input_ids_of_the_end_to_end_runs(fixtures_dir: Path) -> None:
    folder = fixtures_dir / "T4"
    tokenizer = Tokenizer.from_folder(folder / "data" / "vicuna-7b")
    config = json.loads((folder / "lynx_config.json").read_text())
    for run in json.loads((folder / "e2e.json").read_text()):
        settings = {**config, **run["overrides"]}
        rows = [json.loads(line) for line in (folder / run["test_file"]).read_text().splitlines()]
        texts = [render(settings["prompt"], row, settings["lower_text"], release_compat=True) for row in rows]
        ids = [tokenizer.encode(text, max_tokens=settings["max_input_tokens"], release_compat=True) for text in texts]
        assert ids == run["input_ids"]


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("case", FOLDERS, ids=lambda case: case["name"])
def test_folders_as_hugging_face_reads_them(tmp_path: Path, case: dict[str, Any], saved: bool) -> None:
    """Recorded from LlamaTokenizer 4.28.1 and add_special_tokens({"pad_token": "[PAD]"}) where there is none."""
    tokenizer = Tokenizer.from_folder(make_folder(tmp_path, **case["files"]))
    if saved:
        tokenizer.save(tmp_path)
        tokenizer = Tokenizer.from_folder(tmp_path)
    ids = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id]
    assert (len(tokenizer), ids) == (case["len"], case["ids"])
    for text, expected in case["encode"]:
        assert tokenizer.encode(text, release_compat=True) == expected
        assert not tokenizer.special_token_ids & set(tokenizer.encode(text)[1:])
    for given, skipped, kept in case["decode"]:
        assert tokenizer.decode(given) == skipped
        assert tokenizer.decode(given, skip_special_tokens=False) == kept


def assert_padded(tokenizer: Tokenizer, cases: list[dict[str, Any]], expected: dict[str, Any], side: str) -> None:
    input_ids, attention_mask = tokenizer.pad([case["input_ids"] for case in cases], side)
    assert input_ids.tolist() == expected["input_ids"]
    assert attention_mask.tolist() == expected["input_atts"]


def test_padding(tokenizer: Tokenizer) -> None:
    input_ids, attention_mask = tokenizer.pad([[5, 6, 7], [], [8]])
    assert input_ids.tolist() == [[5, 6, 7], [300, 300, 300], [300, 300, 8]]
    assert attention_mask.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 1]]
    assert tokenizer.pad([[5], [6, 7]], side="right")[0].tolist() == [[5, 300], [6, 7]]
    assert tokenizer.pad([])[0].shape == (0, 0)
    with pytest.raises(LynxError, match="'left' or 'right', got 'middle'"):
        tokenizer.pad([[1]], side="middle")


def test_pad_token_missing_from_the_files_is_appended(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(make_folder(tmp_path))
    assert (len(tokenizer), tokenizer.num_added_tokens, tokenizer.pad_token_id) == (301, 1, 300)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map": {"pad_token": "<unk>"}},
        {"special_tokens_map": {"pad_token": {"content": "<unk>"}}},
        {"tokenizer_config": {"pad_token": "<unk>", "unk_token": "<unk>"}},
        {"tokenizer_config": {"pad_token": {**ADDED, "content": "<unk>"}}},
        {"tokenizer_config": {"pad_token": "</s>"}, "special_tokens_map": {"pad_token": "<unk>"}},
    ],
)
def test_pad_token_defined_by_the_files(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_folder(make_folder(tmp_path, **files))
    assert (len(tokenizer), tokenizer.pad_token_id) == (300, 0)
    assert tokenizer.decode([1, 259, 0, 0]) == "t"
    assert tokenizer.pad([[1], [1, 5]])[0].tolist() == [[0, 1], [1, 5]]


def test_pad_token_of_the_special_tokens_map_takes_the_next_id(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, special_tokens_map={"pad_token": "<pad>", "bos_token": None, "eos_token": ""})
    tokenizer = Tokenizer.from_folder(folder)
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (301, 300, 1, 2)


def test_added_tokens_file(tmp_path: Path) -> None:
    added = {"[PAD]": 300, "<image>": 301}
    folder = make_folder(tmp_path, added_tokens=added, special_tokens_map={"pad_token": "[PAD]"})
    tokenizer = Tokenizer.from_folder(folder)
    assert (len(tokenizer), tokenizer.pad_token_id) == (302, 300)
    assert tokenizer.encode("the <image> is", release_compat=True) == [1, 261, 301, 262, 271]
    assert tokenizer.decode([1, 261, 301, 262, 271]) == "the <image> is"
    make_folder(folder, added_tokens={"[PAD]": 300, "<image>": 305})
    with pytest.raises(LynxError, match="'<image>' has id 305, the next free id is 301"):
        Tokenizer.from_folder(folder)


def test_plain_strings_of_the_map_swallow_spaces_and_objects_do_not(tmp_path: Path) -> None:
    text = "the </s> the"
    as_object = make_folder(tmp_path, special_tokens_map={"eos_token": {"content": "</s>"}})
    assert Tokenizer.from_folder(as_object).encode(text, release_compat=True) == [1, 261, 266, 2, 266, 261]
    as_string = make_folder(tmp_path, special_tokens_map={"eos_token": "</s>"})
    assert Tokenizer.from_folder(as_string).encode(text, release_compat=True) == [1, 261, 2, 261]
    in_config = make_folder(tmp_path, special_tokens_map={}, tokenizer_config={"eos_token": "</s>"})
    assert Tokenizer.from_folder(in_config).encode(text, release_compat=True) == [1, 261, 266, 2, 266, 261]


def test_saved_tokenizer_is_equal(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    text = "a [PAD] b </s> c"
    assert again.encode(text, release_compat=True) == tokenizer.encode(text, release_compat=True)
    assert (len(again), again.pad_token_id, again.special_token_ids) == (301, 300, tokenizer.special_token_ids)


def test_clean_up_of_spaces_follows_the_configuration(tmp_path: Path, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("it 's the mug , i do n't .")
    assert tokenizer.decode(ids) == "it 's the mug , i do n't ."
    folder = make_folder(tmp_path, tokenizer_config={"clean_up_tokenization_spaces": True})
    assert Tokenizer.from_folder(folder).decode(ids) == "it's the mug, i don't."


@pytest.mark.parametrize(
    "text",
    ["<s>", "</s>", "<unk>", "[PAD]", "<S> </S>".lower(), "a</s>b<s>", "<s><s>", "[PAD][PAD]", "<0x02>", "\u2581<s>"],
)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[0] == 1 and not tokenizer.special_token_ids & set(ids[1:])
    assert tokenizer.decode(ids) == text.replace("\u2581", " ")


def test_ordinary_text_gives_the_ids_of_the_authors(tokenizer: Tokenizer) -> None:
    ordinary = [case for case in CASES["encode"] if case["max_input_tokens"] == 40 and case["input_ids"][0] == 1]
    checked = 0
    for case in ordinary:
        text = render(case["prompt"], case, case["lower_text"])
        if "</s>" not in text and "[PAD]" not in text and "<s>" not in text:
            assert tokenizer.encode(text, max_tokens=40) == case["input_ids"]
            checked += 1
    assert checked >= 12


def test_text_never_becomes_a_special_token_whatever_is_glued_together(tokenizer: Tokenizer) -> None:
    draw = random.Random(0)
    atoms = ["<s>", "</s>", "<unk>", "[PAD]", "<", "s", ">", "/", " ", "\u2581", "\n", "<0x01>", "the", "é", "\0"]
    for _ in range(300):
        text = "".join(draw.choices(atoms, k=draw.randrange(1, 12)))
        ids = tokenizer.encode(text)
        assert not tokenizer.special_token_ids & set(ids[1:]), text
        assert tokenizer.decode(ids) == text.replace("\u2581", " ")


@pytest.mark.parametrize("byte_fallback", [True, False])
def test_user_defined_symbols_with_a_role_or_looking_like_markup_are_spelled_out(byte_fallback: bool) -> None:
    model = train_model(
        vocab_size=330 if byte_fallback else 80, byte_fallback=byte_fallback,
        user_defined_symbols=["<image>", "[PAD]", "fox"], required_chars="<>[]/PADimage",
    )  # fmt: skip
    raw = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert {raw.piece_to_id("<image>"), raw.piece_to_id("[PAD]")} <= set(raw.encode("the <image> and [PAD]"))
    tokenizer = Tokenizer(model)
    assert tokenizer.num_added_tokens == 0 and tokenizer.pad_token_id == raw.piece_to_id("[PAD]")
    ids = tokenizer.encode("the <image> and [PAD] fox")
    assert not {raw.piece_to_id("<image>"), raw.piece_to_id("[PAD]")} & set(ids)
    assert raw.piece_to_id("fox") in ids
    assert tokenizer.decode(ids) == "the <image> and [PAD] fox"


def test_cutting_keeps_bos(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the quick brown fox")
    assert tokenizer.encode("the quick brown fox", max_tokens=5) == [1, *ids[-4:]]
    assert tokenizer.encode("the quick brown fox", max_tokens=5, release_compat=True) == ids[-5:]
    assert tokenizer.encode("the quick brown fox", max_tokens=1) == [1]
    assert tokenizer.encode("the", max_tokens=2) == [1, 261]
    assert tokenizer.encode("the", max_tokens=0) == tokenizer.encode("the", max_tokens=-3) == [1, 261]
    assert tokenizer.encode("the", add_bos=False) == [261]


def test_given_pad_token() -> None:
    assert Tokenizer(MODEL.read_bytes(), pad_token="</s>").pad_token_id == 2
    special = SpecialTokens.default().with_pad(SpecialToken("<p>"))
    assert Tokenizer(MODEL, special=special).pad_token_id == 300


def test_a_model_trained_here_loads_from_bytes() -> None:
    tokenizer = Tokenizer(train_model(vocab_size=300, byte_fallback=True))
    assert len(tokenizer) == 301
    assert tokenizer.decode(tokenizer.encode("the lazy fox \N{FOX FACE}")) == "the lazy fox \N{FOX FACE}"


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 64, b"\xff" * 300, b'{"model": 1}'])
def test_broken_models(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(LynxError, match=r"tokenizer\.model: not a sentencepiece model"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(LynxError, match="not a sentencepiece model"):
        Tokenizer(content)


def test_truncated_model(tmp_path: Path) -> None:
    with pytest.raises(LynxError, match="not a sentencepiece model"):
        Tokenizer(MODEL.read_bytes()[:2000])


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LynxError, match=r"tokenizer\.model: tokenizer model cannot be read: No such file"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"special_tokens_map": "{"}, "special_tokens_map.json: cannot be read as JSON"),
        ({"special_tokens_map": "[" * 100_000}, "special_tokens_map.json: cannot be read as JSON"),
        ({"special_tokens_map": []}, "special_tokens_map.json: wanted a JSON object, got list"),
        ({"special_tokens_map": {"pad_token": 3}}, "special_tokens_map.json: pad_token: wanted a string"),
        ({"tokenizer_config": {"bos_token": {"text": "<s>"}}}, "tokenizer_config.json: bos_token: wanted a string"),
        ({"tokenizer_config": {"additional_special_tokens": "x"}}, "additional_special_tokens: wanted a list"),
        ({"added_tokens": {"[PAD]": "300"}}, r"added_tokens.json: '\[PAD\]': wanted a token with its id"),
    ],
)
def test_broken_json_files(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(LynxError, match=message):
        Tokenizer.from_folder(make_folder(tmp_path, **files))


def test_ids_and_texts_that_do_not_exist(tokenizer: Tokenizer) -> None:
    for wrong in (301, -1, 10**12):
        with pytest.raises(LynxError, match=f"token id {wrong} is outside the vocabulary of 301"):
            tokenizer.decode([1, wrong])
    with pytest.raises(LynxError, match="character 2 is a lone surrogate"):
        tokenizer.encode("ab\ud83d")
    with pytest.raises(LynxError, match="wanted str, got int"):
        tokenizer.encode(3)  # type: ignore[arg-type]
