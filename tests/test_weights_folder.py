"""The engine's own folder: exact, memory-mapped, streamed, all or nothing, and clear about damage."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_release import TINY, TinyRelease, make_release, random_state, train_tokenizer
from torch import Tensor

from lynx_engine.config import LynxConfig
from lynx_engine.errors import LynxError
from lynx_engine.model import LynxModel
from lynx_engine.text import Tokenizer
from lynx_engine.weights import (
    Conversion,
    convert,
    load_folder,
    load_tensors_into,
    read_config,
    read_settings_of,
    save_folder,
    save_model,
)

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> TinyRelease:
    return make_release(tmp_path_factory.mktemp("release"), train_tokenizer())


@pytest.fixture
def folder(tmp_path: Path, release: TinyRelease) -> Path:
    return convert(**release.files, out=tmp_path / "model", max_shard_bytes=2**18).folder


def meta_model(config: LynxConfig = TINY) -> LynxModel:
    with torch.device("meta"):
        return LynxModel(config)


def test_conversion_keeps_every_number(release: TinyRelease, folder: Path) -> None:
    state = load_folder(folder).state_dict()
    assert read_config(folder) == TINY
    assert set(state) == set(release.tensors)
    assert all(torch.equal(state[name], tensor) for name, tensor in release.tensors.items())
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def test_bfloat16_is_each_float32_rounded_once(tmp_path: Path, release: TinyRelease) -> None:
    folder = convert(**release.files, out=tmp_path / "model", dtype="bfloat16").folder
    state = load_folder(folder).state_dict()
    assert all(torch.equal(state[name], tensor.bfloat16()) for name, tensor in release.tensors.items())
    widened = load_folder(folder, torch.float32).state_dict()
    assert all(torch.equal(widened[name], tensor.bfloat16().float()) for name, tensor in release.tensors.items())


def convert_t4(case: Path, out: Path, dtype: str) -> Conversion:
    return convert(
        vision=case / "data" / "eva_vit_g.pth",
        llm=case / "data" / "vicuna-7b",
        checkpoint=case / "data" / "finetune_lynx.pt",
        out=out,
        config=case / "lynx_config.json",
        overrides=["vit_num_heads=4"],
        dtype=dtype,
    )


def test_t4_converted_and_loaded(tmp_path: Path, fixtures_dir: Path) -> None:
    case = fixtures_dir / "T4"
    done = convert_t4(case, tmp_path / "t4", "float32")
    resized = load_file(case / "pos_embed.safetensors")["vision_encoder.pos_embed"]
    assert torch.equal(load_folder(done.folder).vision_encoder.pos_embed, resized)
    assert done.config.vision.num_layers == 2
    assert len(Tokenizer.from_folder(done.folder)) == done.config.llm.vocab_size == 301
    assert read_settings_of(done.folder)["num_beams"] == 5


@pytest.mark.parametrize(("dtype", "mean", "most"), [("float32", 1e-5, 5e-4), ("bfloat16", 0.03, 0.5)])
def test_t4_answers_as_the_authors_code(
    tmp_path: Path, fixtures_dir: Path, dtype: str, mean: float, most: float
) -> None:
    case = fixtures_dir / "T4"
    model = load_folder(convert_t4(case, tmp_path / "t4", dtype).folder)
    wanted = load_file(case / "act_batch3.safetensors")
    with torch.inference_mode():
        vision = model.encode_images(wanted["vision"].float())
        hidden = model.decode(
            model.embed(wanted["input_ids"], vision), wanted["attention_mask"], wanted["position_ids"]
        )
        error = (model.logits(hidden).float() - wanted["llm.logits"])[wanted["attention_mask"] == 1].abs()
    assert error.mean() < mean
    assert error.max() < most


def test_parameters_lie_in_the_mapped_shards(folder: Path) -> None:
    model = load_folder(folder)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    mapped = mapped_ranges()
    for name, tensor in model.state_dict().items():
        file = next(path for begin, end, path in mapped if begin <= tensor.data_ptr() < end)
        assert Path(file).name == weight_map[name]
        if tensor.nbytes % 64 == 0:
            assert tensor.data_ptr() % 64 == 0


def mapped_ranges() -> list[tuple[int, int, str]]:
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *_, path = line.split(maxsplit=5)
        begin, end = (int(x, 16) for x in addresses.split("-"))
        found.append((begin, end, path))
    return found


def test_training_may_write_to_mapped_parameters(folder: Path) -> None:
    before = read_all(folder)
    model = load_folder(folder)
    with torch.no_grad():
        model.bridge.latents.add_(1)
    assert model.bridge.latents.requires_grad
    assert not model.LLM.lm_head.weight.requires_grad
    assert torch.equal(read_all(folder)["bridge.latents"], before["bridge.latents"])


def read_all(folder: Path) -> dict[str, Tensor]:
    """Every tensor by safetensors' own reader."""
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


def test_the_safetensors_library_reads_the_shards(release: TinyRelease, folder: Path) -> None:
    stored = read_all(folder)
    assert set(stored) == set(release.tensors)
    assert all(torch.equal(stored[name], tensor) for name, tensor in release.tensors.items())


def test_conversion_holds_one_tensor_and_no_copy_of_the_model(tmp_path: Path, release: TinyRelease) -> None:
    wide = TINY.replace(llm={"hidden_size": 512, "intermediate_size": 2048, "num_layers": 8, "num_heads": 8})
    files = make_release(tmp_path / "wide", (release.llm / "tokenizer.model").read_bytes(), wide).files
    base, peak, total = anonymous_bytes(), 0, 0

    def watch(name: str, done: int, all_bytes: int) -> None:
        nonlocal peak, total
        peak, total = max(peak, anonymous_bytes()), all_bytes

    convert(**files, out=tmp_path / "model", progress=watch)
    assert total > 120 * 2**20
    assert peak - base < total / 4


def anonymous_bytes() -> int:
    """Memory of this process that is not a file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def test_tensors_are_freed_while_they_are_written(tmp_path: Path, release: TinyRelease) -> None:
    state = random_state(TINY)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def fresh() -> Iterator[tuple[str, Tensor]]:
        nonlocal most
        for name, tensor in state.items():
            copy = tensor.clone()
            alive.append(weakref.ref(copy))
            yield name, copy
            del copy
            most = max(most, sum(ref() is not None for ref in alive))

    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    save_folder(tmp_path / "model", TINY, shapes, fresh(), tokenizer_folder=release.llm)
    assert most <= 1


def test_progress_counts_every_byte(tmp_path: Path, release: TinyRelease) -> None:
    calls: list[tuple[str, int, int]] = []
    convert(**release.files, out=tmp_path / "model", progress=lambda *call: calls.append(call))
    total = sum(tensor.nbytes for tensor in release.tensors.values())
    assert {name for name, _, _ in calls} == set(release.tensors)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1][1:] == (total, total)


def test_a_model_in_memory_is_saved_and_comes_back(tmp_path: Path, release: TinyRelease) -> None:
    model = load_tensors_into(meta_model(), release.tensors)
    folder = save_model(model, tmp_path / "model", tokenizer_folder=release.llm)
    state = load_folder(folder).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in release.tensors.items())


def test_our_own_folder_is_replaced_and_stale_shards_go(folder: Path, release: TinyRelease) -> None:
    convert(**release.files, out=folder, dtype="bfloat16")
    assert [path.name for path in folder.glob("*.safetensors")] == ["model-00001-of-00001.safetensors"]
    assert load_folder(folder).dtype == torch.bfloat16


def test_foreign_folders_are_left_alone(tmp_path: Path, folder: Path, release: TinyRelease) -> None:
    notes = folder / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(LynxError, match=r"holds notes\.txt beside a model; nothing was written"):
        convert(**release.files, out=folder)
    assert load_folder(folder).dtype == torch.float32
    before = {path: path.read_bytes() for path in release.llm.iterdir()}
    with pytest.raises(LynxError, match="holds no lynx_engine model; nothing was written"):
        convert(**release.files, out=release.llm)
    assert {path: path.read_bytes() for path in release.llm.iterdir()} == before
    with pytest.raises(LynxError, match=r"notes\.txt: is a file"):
        convert(**release.files, out=notes)


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, release: TinyRelease) -> None:
    def fail(name: str, done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(**release.files, out=tmp_path / "model", progress=fail)
    assert not (tmp_path / "model").exists()


def test_a_failed_replacement_keeps_the_old_model(folder: Path, release: TinyRelease) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(**release.files, out=folder, progress=fail)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_leftovers_of_a_killed_conversion_go(tmp_path: Path, release: TinyRelease) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "model-00001-of-00009.safetensors.partial").write_bytes(b"half")
    (out / "photo.partial").write_bytes(b"mine")
    with pytest.raises(LynxError, match="nothing was written"):
        convert(**release.files, out=out)
    (out / "photo.partial").unlink()
    convert(**release.files, out=out)
    assert not list(out.glob("*.partial"))
    assert load_folder(out).dtype == torch.float32


def test_a_disk_that_cannot_be_written(tmp_path: Path, release: TinyRelease) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LynxError, match="cannot be written"):
        convert(**release.files, out=tmp_path / "file" / "model")


def test_an_unknown_dtype(tmp_path: Path, release: TinyRelease) -> None:
    with pytest.raises(LynxError, match="dtype: wanted one of float32, bfloat16, got 'int8'"):
        convert(**release.files, out=tmp_path / "model", dtype="int8")


def shard(folder: Path, number: int = 0) -> Path:
    return sorted(folder.glob("*.safetensors"))[number]


def test_damaged_shards(folder: Path) -> None:
    path = shard(folder)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:100], b"", b"\xff" * len(whole), whole + b"more"):
        path.write_bytes(content)
        with pytest.raises(LynxError, match=f"{path.name}: not a readable safetensors file"):
            load_folder(folder)
    path.unlink()
    with pytest.raises(LynxError, match=f"lacks {path.name}, which {INDEX} names"):
        load_folder(folder)


def test_shards_with_other_tensors_list_them_all(folder: Path) -> None:
    tensors = load_file(shard(folder))
    first, second = list(tensors)[:2]
    del tensors[first]
    tensors[second] = torch.zeros(2)
    tensors["stray.weight"] = torch.zeros(2)
    save_file(tensors, shard(folder))
    with pytest.raises(LynxError) as caught:
        load_folder(folder)
    for line in ("3 tensor(s)", f"{first} is missing", f"{second}: got [2]", "stray.weight is not a tensor of"):
        assert line in str(caught.value)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    name, tensor = next(iter(load_file(shard(folder, 0)).items()))
    save_file({**load_file(shard(folder, 1)), name: tensor}, shard(folder, 1))
    with pytest.raises(LynxError, match=f"{name} is in two shards"):
        load_folder(folder)


@pytest.mark.parametrize("name", [INDEX, "config.json"])
def test_a_folder_that_is_not_whole(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    with pytest.raises(LynxError, match=f"{name}: cannot be read"):
        load_folder(folder)
    (folder / name).unlink()
    with pytest.raises(LynxError, match=name):
        load_folder(folder)


def test_folders_of_others(tmp_path: Path, release: TinyRelease) -> None:
    with pytest.raises(LynxError, match="nowhere: no such folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(LynxError, match="not a model folder as `lynx-engine convert` writes it"):
        load_folder(release.llm)


def test_tensors_into_a_model_list_all_misfits(release: TinyRelease) -> None:
    tensors = dict(release.tensors)
    del tensors["bridge.norm.bias"]
    tensors |= {"bridge.latents": torch.zeros(3, 47), "extra": torch.zeros(1)}
    with pytest.raises(LynxError) as caught:
        load_tensors_into(meta_model(), tensors)
    for line in ("bridge.norm.bias is missing", "bridge.latents: got [3, 47], wanted [3, 48]", "extra is not a tensor"):
        assert line in str(caught.value)


def test_tensors_into_a_model_are_widened_and_buffers_dropped(release: TinyRelease) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in release.tensors.items()}
    tensors["LLM.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(12)
    state = load_tensors_into(meta_model(), tensors).state_dict()
    assert set(state) == set(release.tensors)
    assert all(torch.equal(state[name], tensor.bfloat16().float()) for name, tensor in release.tensors.items())
