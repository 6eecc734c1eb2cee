"""The authors' three files: names, shapes, both pad-token situations, and everything that can be wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_release import TINY, TinyRelease, change_pickle, make_release, write_llama_config
from torch import Tensor
from torch.nn import functional as F

from lynx_engine.config import LynxConfig
from lynx_engine.errors import LynxError
from lynx_engine.weights import Release, load_release, read_settings
from lynx_engine.weights.eva import vision_config
from lynx_engine.weights.files import TensorFile


@pytest.fixture
def release(tmp_path: Path, tokenizer_model: bytes) -> TinyRelease:
    return make_release(tmp_path, tokenizer_model)


def assert_same_tensors(got: Release, wanted: dict[str, Tensor]) -> None:
    tensors = dict(got.tensors())
    assert set(tensors) == set(wanted)
    for name, tensor in wanted.items():
        assert tensors[name].dtype == torch.float32
        assert torch.equal(tensors[name], tensor), name


def load_t4(fixtures_dir: Path) -> Release:
    data = fixtures_dir / "T4" / "data"
    return load_release(
        data / "eva_vit_g.pth",
        data / "vicuna-7b",
        data / "finetune_lynx.pt",
        config=fixtures_dir / "T4" / "lynx_config.json",
        overrides=["vit_num_heads=4"],
    )


def test_every_tensor_of_t4_has_the_digest_of_the_authors_loader(fixtures_dir: Path) -> None:
    wanted = json.loads((fixtures_dir / "T4" / "state_digest.json").read_text())
    got = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in load_t4(fixtures_dir).tensors()}
    assert got == {name: entry["sha256_f32"] for name, entry in wanted.items() if "inv_freq" not in name}


def test_t4_leaves_the_same_tensors_at_their_initial_values(fixtures_dir: Path) -> None:
    log = json.loads((fixtures_dir / "T4" / "load_log.json").read_text())
    report = load_t4(fixtures_dir).report
    assert list(report.initialised) == log["init_params_after_load"]
    assert {"eva_vit_g.pth: mask_token", "finetune_lynx.pt: model.unexpected.weight"} <= set(report.ignored)
    assert report.overridden == ()


@pytest.mark.parametrize("layout", ["pytorch_model, sharded", "pytorch_model", "model", "model, sharded"])
def test_llama_folder_in_every_layout(tmp_path: Path, tokenizer_model: bytes, layout: str) -> None:
    release = make_release(tmp_path, tokenizer_model, layout=layout)
    loaded = load_release(**release.files)
    assert loaded.config == TINY
    assert_same_tensors(loaded, release.tensors)


def test_a_defined_pad_token_adds_no_row(tmp_path: Path, tokenizer_model: bytes) -> None:
    config = TINY.replace(llm={"vocab_size": 300, "pad_token_id": 0})
    release = make_release(tmp_path, tokenizer_model, config, pad_token="<unk>")
    loaded = load_release(**release.files)
    assert loaded.config == config
    assert_same_tensors(loaded, release.tensors)


def test_tokenizer_and_vocabulary_must_agree(release: TinyRelease) -> None:
    write_llama_config(release.llm, TINY, vocab_size=290)
    with pytest.raises(LynxError, match=r"tokenizer has 301 tokens.*vocab_size 290"):
        load_release(**release.files)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("prefix", ["", "model.", "model.model."])
def test_checkpoint_wrapped_or_bare_with_any_prefix(
    tmp_path: Path, tokenizer_model: bytes, wrapped: bool, prefix: str
) -> None:
    release = make_release(tmp_path, tokenizer_model, wrapped=wrapped, prefix=prefix)
    assert_same_tensors(load_release(**release.files), release.tensors)


def test_prefixes_are_stripped_by_characters_only_on_request(release: TinyRelease) -> None:
    change_pickle(release.checkpoint, {"demo.bridge.norm.bias": torch.full((48,), 9.0)})
    assert_same_tensors(load_release(**release.files), release.tensors)
    compat = dict(load_release(**release.files, release_compat=True).tensors())
    assert torch.equal(compat["bridge.norm.bias"], torch.full((48,), 9.0))


def test_position_embedding_is_resized_in_float32(release: TinyRelease) -> None:
    release.settings["image_res"] = 70
    positions = release.tensors["vision_encoder.pos_embed"]
    square = positions[0, 1:].T.reshape(1, 32, 2, 2)
    resized = F.interpolate(square, size=(5, 5), mode="bicubic", align_corners=False)[0].flatten(1).T
    release.tensors["vision_encoder.pos_embed"] = torch.cat((positions[0, :1], resized))[None]
    loaded = load_release(**release.files)
    assert loaded.config.vision.image_size == 70
    assert_same_tensors(loaded, release.tensors)


def test_image_size_goes_before_the_configuration(release: TinyRelease) -> None:
    assert load_release(**release.files, image_size=56).config.vision.image_size == 56
    del release.settings["image_res"]
    assert load_release(**release.files).config.vision.image_size == 28


def test_depth_is_one_less_than_a_complete_eva_file(release: TinyRelease) -> None:
    assert load_release(**release.files).config.vision.num_layers == 2
    assert load_release(**release.files, overrides=["vit_depth=1"]).config.vision.num_layers == 1
    assert load_release(**release.files, overrides=["vit_depth=3"]).config.vision.num_layers == 3
    change_pickle(release.vision, {"norm.weight": None, "norm.bias": None, "head.weight": None})
    assert load_release(**release.files).config.vision.num_layers == 3


@pytest.mark.parametrize("output_stage", [True, False])
def test_vit_g_needs_no_settings(tmp_path: Path, output_stage: bool) -> None:
    shapes = {"patch_embed.proj.weight": (1408, 3, 14, 14), "pos_embed": (1, 257, 1408)}
    shapes |= {f"blocks.{i}.mlp.fc1.weight": (6144, 1408) for i in range(40)}
    shapes |= {"norm.weight": (1408,)} if output_stage else {}
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}, tmp_path / "eva_vit_g.pth")
    assert vision_config(TensorFile(tmp_path / "eva_vit_g.pth"), read_settings(None)) == LynxConfig().vision


def test_heads_of_a_small_encoder_must_be_given(release: TinyRelease) -> None:
    del release.settings["vit_num_heads"]
    with pytest.raises(LynxError, match=r"width 32 .* --set vit_num_heads=N"):
        load_release(**release.files)


def test_structure_comes_from_the_weights_where_settings_are_silent(release: TinyRelease) -> None:
    config = load_release(**release.files).config
    assert (config.bridge, config.adapter_freq, config.num_frames) == (TINY.bridge, 2, 3)
    change_pickle(release.checkpoint, {name: None for name in stored_names(release) if "output_adapter" in name})
    assert load_release(**release.files).config.adapter_freq is None


def stored_names(release: TinyRelease) -> list[str]:
    return list(torch.load(release.checkpoint, weights_only=True)["model"])


def test_use_adapter_false_ignores_adapters(release: TinyRelease) -> None:
    loaded = load_release(**release.files, overrides=["use_adapter=false"])
    assert loaded.config.adapter_freq is None
    assert "finetune_lynx.pt: model.LLM.model.layers.0.output_adapter.scaling" in loaded.report.ignored


@pytest.mark.parametrize("override", ["video_encoding=''", "video_encoding=null"])
def test_no_video_encoding_means_images_only(release: TinyRelease, override: str) -> None:
    loaded = load_release(**release.files, overrides=[override])
    assert loaded.config.num_frames is None
    assert "absolute_frame_pos_embed" not in dict(loaded.tensors())


def test_without_frame_positions_zeros_are_added(release: TinyRelease) -> None:
    release.tensors["absolute_frame_pos_embed"] = torch.zeros(1, 3, 1, 32)
    assert_same_tensors(load_release(**release.files, overrides=["add_frame_pos=false"]), release.tensors)


def test_checkpoint_overrides_frozen_tensors(release: TinyRelease) -> None:
    embedding = torch.randn(301, 48)
    change_pickle(release.checkpoint, {"model.LLM.model.embed_tokens.weight": embedding})
    release.tensors["LLM.model.embed_tokens.weight"] = embedding
    loaded = load_release(**release.files)
    assert loaded.report.overridden == ("LLM.model.embed_tokens.weight",)
    assert_same_tensors(loaded, release.tensors)


def test_missing_trained_tensors_keep_the_same_initial_values(release: TinyRelease) -> None:
    names = ["bridge.latents", "bridge.norm.weight", "bridge.layers.1.0.to_q.weight"]
    change_pickle(release.checkpoint, {"model." + name: None for name in names})
    first, second = (load_release(**release.files) for _ in range(2))
    assert sorted(first.report.initialised) == sorted(names)
    tensors, again = dict(first.tensors()), dict(second.tensors())
    assert all(torch.equal(tensors[name], again[name]) for name in names)
    assert torch.equal(tensors["bridge.norm.weight"], torch.ones(48))
    assert 0.8 < tensors["bridge.latents"].std() < 1.2
    bound = 48**-0.5
    assert 0.9 * bound < tensors["bridge.layers.1.0.to_q.weight"].abs().max() <= bound


def test_without_a_checkpoint_training_starts_anew(release: TinyRelease) -> None:
    files = release.files | {"checkpoint": None}
    overrides = ["bridge_depth=2", "num_bridge_tokens=3", "adapter_freq=2", "data.num_frames=3"]
    loaded = load_release(**files, overrides=overrides)
    assert loaded.config == TINY.replace(name="lynx")
    tensors = dict(loaded.tensors())
    assert torch.equal(tensors["LLM.model.layers.2.output_adapter.scaling"], torch.ones(1))
    assert 0.015 < tensors["LLM.model.layers.2.output_adapter.adapter_up.weight"].std() < 0.025
    assert torch.equal(tensors["LLM.lm_head.weight"], release.tensors["LLM.lm_head.weight"])


@pytest.mark.parametrize("override", ["bridge_depth=3", "adapter_freq=1"])
def test_a_part_of_which_the_checkpoint_holds_nothing_is_a_conflict(release: TinyRelease, override: str) -> None:
    with pytest.raises(LynxError, match=r"(bridge\.layers\.2|layers\.1\.output_adapter)\.\* is missing altogether"):
        load_release(**release.files, overrides=[override])


def test_every_misfit_of_all_files_is_in_one_error(release: TinyRelease) -> None:
    change_pickle(release.vision, {"blocks.1.mlp.fc2.bias": None, "cls_token": torch.zeros(1, 1, 31)})
    change_pickle(release.llm / "pytorch_model-00002-of-00002.bin", {"model.norm.weight": torch.zeros(47)})
    change_pickle(release.checkpoint, {"model.bridge.norm.bias": torch.zeros(2)})
    with pytest.raises(LynxError) as caught:
        load_release(**release.files, overrides=["data.num_frames=4"])
    for line in (
        "5 tensor(s)",
        "vision_encoder.blocks.1.mlp.fc2.bias is missing, wanted [32]",
        "vision_encoder.cls_token (eva_vit_g.pth: cls_token): got [1, 1, 31], wanted [1, 1, 32]",
        "LLM.model.norm.weight (pytorch_model-00002-of-00002.bin: model.norm.weight): got [47], wanted [48]",
        "bridge.norm.bias (finetune_lynx.pt: model.bridge.norm.bias): got [2], wanted [48]",
        "got [1, 3, 1, 32], wanted [1, 4, 1, 32]",
    ):
        assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["eva_vit_g.pth", "finetune_lynx.pt", "vicuna-7b/config.json", "vicuna-7b/pytorch_model-00002-of-00002.bin"]
)
def test_a_missing_file_is_named(tmp_path: Path, release: TinyRelease, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(LynxError, match=Path(name).name):
        load_release(**release.files)


def test_a_folder_without_weights_or_no_folder(release: TinyRelease) -> None:
    with pytest.raises(LynxError, match="nowhere: no such folder"):
        load_release(**release.files | {"llm": release.llm / "nowhere"})
    for path in release.llm.glob("pytorch_model*"):
        path.unlink()
    with pytest.raises(LynxError, match="no weights; wanted one of model.safetensors"):
        load_release(**release.files)


class Attack:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, release: TinyRelease, zipped: bool) -> None:
    target = tmp_path / "attacked"
    if zipped:
        torch.save({"model": Attack(target)}, release.checkpoint)
    else:
        release.checkpoint.write_bytes(pickle.dumps({"model": Attack(target)}, protocol=4))
    with pytest.raises(LynxError, match=r"finetune_lynx.pt: .*refused"):
        load_release(**release.files)
    assert not target.exists()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x93garbage" * 50}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "garbage"])
@pytest.mark.parametrize("name", ["eva_vit_g.pth", "finetune_lynx.pt", "vicuna-7b/model.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, tokenizer_model: bytes, name: str, how: str) -> None:
    release = make_release(tmp_path, tokenizer_model, layout="model")
    damage(tmp_path / name, how)
    with pytest.raises(LynxError, match=Path(name).name) as caught:
        load_release(**release.files)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_is_no_dict_of_tensors(release: TinyRelease) -> None:
    torch.save([torch.zeros(3)], release.checkpoint)
    with pytest.raises(LynxError, match="wanted a dict of tensors, got list"):
        load_release(**release.files)


@pytest.mark.parametrize("axes", [(), (0,), (3, 0), (2, 3, 4, 5)])
@pytest.mark.parametrize(
    "name",
    "pos_embed patch_embed.proj.weight blocks.0.mlp.fc1.weight bridge.latents absolute_frame_pos_embed "
    "bridge.layers.0.0.to_q.weight bridge.layers.0.1.1.weight LLM.lm_head.weight".split(),
)
def test_tensors_of_absurd_shape(release: TinyRelease, name: str, axes: tuple[int, ...]) -> None:
    learnt = name.startswith(("bridge", "absolute", "LLM"))
    change_pickle(release.checkpoint if learnt else release.vision, {name: torch.zeros(axes)})
    with pytest.raises(LynxError) as caught:
        load_release(**release.files)
    assert "\n" not in str(caught.value)


def test_a_gap_in_the_blocks_ends_the_encoder(release: TinyRelease) -> None:
    change_pickle(release.vision, {"blocks.900000.norm1.bias": torch.zeros(32)})
    assert_same_tensors(load_release(**release.files), release.tensors)


def test_a_vision_file_that_is_not_flat(release: TinyRelease) -> None:
    torch.save({"model": torch.load(release.vision, weights_only=True)}, release.vision)
    with pytest.raises(LynxError, match="EVA's flat dict of tensors, got model"):
        load_release(**release.files)


def test_files_of_old_torch_that_cannot_be_mapped(release: TinyRelease) -> None:
    for path in (release.vision, release.checkpoint):
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    assert_same_tensors(load_release(**release.files), release.tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2': only 'llama'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads 1: only 2"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"hidden_size": "48"}, "hidden_size: wanted an integer, got '48'"),
        ({"hidden_size": 47}, "hidden_size 47 is not a multiple of num_heads 2"),
    ],
)
def test_a_llama_that_is_not_lynx_s(release: TinyRelease, change: dict[str, Any], message: str) -> None:
    write_llama_config(release.llm, TINY, vocab_size=300, **change)
    with pytest.raises(LynxError, match=message):
        load_release(**release.files)


def test_an_index_may_not_lead_out_of_its_folder(release: TinyRelease) -> None:
    index = release.llm / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../finetune_lynx.pt"}}))
    with pytest.raises(LynxError, match="must name files in this folder"):
        load_release(**release.files)


@pytest.mark.parametrize("stored", [torch.zeros(48, dtype=torch.int8), torch.zeros(48).to_sparse()])
def test_weights_that_are_not_dense_floats(release: TinyRelease, stored: Tensor) -> None:
    change_pickle(release.checkpoint, {"model.bridge.norm.bias": stored})
    loaded = load_release(**release.files)
    with pytest.raises(LynxError, match=r"model\.bridge\.norm\.bias: wanted float64, .* got (int8|float32, sparse)"):
        dict(loaded.tensors())


def test_what_is_not_a_named_tensor_is_passed_over(release: TinyRelease) -> None:
    change_pickle(release.checkpoint, {"step": torch.tensor(5)})
    content = torch.load(release.checkpoint, weights_only=True)
    content["model"] |= {7: torch.zeros(3), "note": "text"}
    torch.save(content, release.checkpoint)
    assert_same_tensors(load_release(**release.files), release.tensors)


def test_tied_embeddings_serve_as_the_head(release: TinyRelease) -> None:
    write_llama_config(release.llm, TINY, vocab_size=300, tie_word_embeddings=True)
    change_pickle(release.llm / "pytorch_model-00002-of-00002.bin", {"lm_head.weight": None})
    release.tensors["LLM.lm_head.weight"] = release.tensors["LLM.model.embed_tokens.weight"]
    assert_same_tensors(load_release(**release.files), release.tensors)


def test_bos_is_the_generation_configuration_s(release: TinyRelease) -> None:
    assert load_release(**release.files).config.llm.bos_token_id == 1
    (release.llm / "generation_config.json").unlink()
    assert load_release(**release.files).config.llm.bos_token_id == 0


def test_another_bridge_is_refused(release: TinyRelease) -> None:
    with pytest.raises(LynxError, match="bridge: only 'resampler' is supported, got 'mlp'"):
        load_release(**release.files, overrides=["bridge=mlp"])


def test_the_prompt_and_its_limits_come_along(release: TinyRelease) -> None:
    overrides = ["prompt='Q: {question}'", "lower_text=false", "max_input_tokens=7", "prefix_attention=bidirectional"]
    wanted: LynxConfig = TINY.replace(
        prompt="Q: {question}", lower_text=False, max_input_tokens=7, prefix_attention="bidirectional"
    )
    assert load_release(**release.files, overrides=overrides).config == wanted
