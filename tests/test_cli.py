"""The command line on a small release: answers, JSON, resumable predictions, and one line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_release import make_release

from lynx_engine import Lynx
from lynx_engine.cli import main

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def release(tmp_path_factory, tokenizer_model):
    return make_release(tmp_path_factory.mktemp("release"), tokenizer_model)


@pytest.fixture(scope="module")
def model(tmp_path_factory, release) -> Path:
    """The release, converted by the command."""
    folder = tmp_path_factory.mktemp("model") / "lynx"
    files = ["--vision", release.vision, "--llm", release.llm, "--checkpoint", release.checkpoint, "--out", folder]
    settings = ["--set", "vit_num_heads=4", "--set", "image_res=28", "--set", "data.num_frames=3"]
    assert main(["convert", *map(str, files), *settings]) == 0
    return folder


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def questions(folder: Path, picture: Path, count: int) -> Path:
    path = folder / "questions.jsonl"
    lines = [{"index": i, "question": f"what is it {i}?", "image": picture.name} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_ask_prints_one_answer(model, picture, capsys):
    assert main(["ask", str(picture), "what is this?", "--model", str(model)]) == 0
    first = capsys.readouterr().out
    assert main(["ask", str(picture), "what is this?", "--model", str(model), "--json", "--threads", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answer"] == first.strip()
    assert set(report) == {"answer", "token_ids", "prompt_tokens", "timings", "model", "backends"}
    assert set(report["timings"]) == {"load", "encode", "prefill", "decode"}
    assert all(seconds >= 0 for seconds in report["timings"].values())
    assert {"adapter_mlp", "prefix_attention", "patch_embed"} <= set(report["backends"])


def test_several_pictures_are_one_clip(model, picture, capsys):
    assert main(["ask", *[str(picture)] * 3, "what is this?", "--model", str(model)]) == 0
    lynx = Lynx.load(model)
    assert isinstance(lynx.open([picture]), Image.Image)
    assert [frame.size for frame in lynx.open([picture] * 4)] == [(40, 30)] * 3


def test_chat_answers_each_line(model, picture, capsys, monkeypatch):
    lines = iter(["what is this?", "", "and now?"])

    def read(prompt: str = "") -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", str(picture), "--model", str(model), "--describe-first"]) == 0
    assert capsys.readouterr().out.count("\n") >= 3


def test_predict_writes_the_authors_format(model, picture, tmp_path):
    file, out = questions(tmp_path, picture, 5), tmp_path / "out.jsonl"
    arguments = ["predict", str(file), "--out", str(out), "--model", str(model), "--set", "num_beams=2"]
    assert main([*arguments, "--set", "max_new_tokens=6", "--set", "batch_size_test=2"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(5))
    assert all(set(line) == {"index", "text_output"} for line in lines)
    assert not list(tmp_path.glob("*.partial"))


def test_killed_prediction_continues(model, picture, tmp_path):
    """SIGKILL after the first batch; the second run writes what an undisturbed one writes."""
    file, out, whole = questions(tmp_path, picture, 6), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    settings = ["--model", str(model), "--set", "batch_size_test=2", "--set", "max_new_tokens=5"]
    assert main(["predict", str(file), "--out", str(whole), *settings]) == 0
    script = (
        "import os, signal, sys\n"
        "from lynx_engine.eval.results import ResultFile\n"
        "from lynx_engine.cli import main\n"
        "append = ResultFile.append\n"
        "def killing(self, results):\n"
        "    append(self, results)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "ResultFile.append = killing\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["predict", str(file), "--out", str(out), *settings]
    root = Path(__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", script, *arguments], cwd=root, env=os.environ, check=False)
    assert killed.returncode == -9
    partial = tmp_path / "out.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 3
    partial.write_text(partial.read_text() + '{"index": 2, "text_ou')
    assert main(arguments) == 0
    assert out.read_text() == whole.read_text()
    assert not partial.exists()


def test_interrupted_run_of_other_settings_is_refused(model, picture, tmp_path, capsys):
    file, out = questions(tmp_path, picture, 1), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.partial").write_text('{"run": {"other": 1}}\n')
    assert main(["predict", str(file), "--out", str(out), "--model", str(model)]) == 2
    assert "other settings" in capsys.readouterr().err


def test_info_counts_lynx_8b(capsys):
    assert main(["info", "--preset", "lynx_8b", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["model"]["total"] == 8_413_655_312
    assert report["ops"]["adapter_mlp"]["reference"] == []
    assert main(["info", "--preset", "lynx_8b"]) == 0
    assert "8,413,655,312" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask"], "ask wants IMAGE_OR_VIDEO and QUESTION"),
        (["ask", "only-a-question"], "ask wants IMAGE_OR_VIDEO and QUESTION"),
        (["ask", "missing.png", "what?", "--model", "MODEL"], "missing.png: no such file"),
        (["ask", "x.png", "what?", "--model", "nowhere"], "nowhere: no such folder"),
        (["ask", "x.png", "what?", "--preset", "bogus"], "bogus"),
        (["ask", "x.png", "what?", "--threads", "0", "--model", "MODEL"], "set_num_threads"),
        (["chat"], "chat wants IMAGE_OR_VIDEO"),
        (["predict", "missing.jsonl", "--out", "o", "--model", "MODEL"], "missing.jsonl: no such file"),
        (["predict", "missing.jsonl"], "predict wants --out"),
        (["info", "--preset", "lynx_9b"], "unknown preset 'lynx_9b'"),
        (["convert", "--vision", "v", "--llm", "l", "--checkpoint", "c", "--out", "o"], "v: no such file"),
        (["bogus"], "bogus"),
        ([], "subcommand"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments, message, model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("lynx-engine: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "questions.jsonl:1: not a JSON line"),
        ("[]", "questions.jsonl:1: wanted a JSON object, got list"),
        ('{"question": "a"}', "no `index`"),
        ('{"index": 1, "image": "red.png"}', "placeholder {question}"),
        ('{"index": 1, "question": "a", "image": 3}', "questions.jsonl:1: image: wanted a path"),
        ('{"index": 1, "question": "a", "image": "gone.png"}', "gone.png"),
    ],
)
def test_bad_questions_name_file_and_line(line, message, model, picture, tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    file.write_text(line + "\n")
    assert main(["predict", str(file), "--out", str(tmp_path / "out"), "--model", str(model)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
