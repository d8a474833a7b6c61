"""`generate` as people use it: prompts from everywhere, answers as they come, and what is refused before loading."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_convert.cli import main
from llama_convert.cli.demo import EMBEDDED
from llama_convert.verify import llama, memory
from tests.cli.commands import Result
from tests.cli.conftest import check_refusal

Run = Callable[..., Result]
PROMPT = "One clear night, Luna the llama"
SENTENCE = " could not sleep, so she went outside to count the stars."
SHORT = ("--max-new-tokens", 8)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """What stands on standard input, which is no terminal."""

    def given(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return given


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name of a format -> the embedded model in it; read only."""
    place = tmp_path_factory.mktemp("written")

    def made(name: str) -> Path:
        folder: Path = place / name
        if not folder.exists():
            handler = signal.getsignal(signal.SIGTERM)
            assert main(["convert", str(EMBEDDED), str(folder), "--to", name, "--quiet"]) == 0
            signal.signal(signal.SIGTERM, handler)
        return folder

    return made


def test_an_answer_and_its_figures(run: Run) -> None:
    done = run("generate", EMBEDDED, "--prompt", PROMPT, "--stop", ' "')
    assert (done.status, done.out) == (0, SENTENCE + "\n")
    loaded, last = done.err.splitlines()
    assert "loaded in" in loaded
    assert "tokens per second, first token after" in last
    assert "memory" in last
    assert last.endswith("ended by a stop text")
    assert run("generate", EMBEDDED, "--prompt", PROMPT, "--stop", ' "', "-q") == Result(0, SENTENCE + "\n", "")


def test_at_a_terminal_the_answer_stands_behind_its_prompt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = run("generate", EMBEDDED, "--prompt", PROMPT, "--stop", ' "')
    assert done.out == SENTENCE + "\n"
    assert f"\n{PROMPT}" in done.err
    assert PROMPT not in run("generate", EMBEDDED, "--prompt", PROMPT, *SHORT, "--json").err


@pytest.mark.parametrize("name", ["mlx", "hf", "gguf", "litgpt", "torchtune", "scratch"])
def test_every_format_says_the_same_sentence(run: Run, written: Callable[[str], Path], name: str) -> None:
    assert run("generate", written(name), "--prompt", PROMPT, "--stop", ' "', "-q") == Result(0, SENTENCE + "\n", "")


def test_it_ends_where_the_model_ends_or_where_it_is_told(run: Run) -> None:
    done = run("generate", EMBEDDED, "--prompt", PROMPT, "--json", "--dtype", "float32").json
    (answer,) = done["answers"]
    assert (answer["ended"], answer["ids"][-1]) == ("end token", 769)
    assert answer["text"].endswith("said Luna.")
    assert answer["prompt"] == PROMPT
    assert answer["tokens_per_second"] > 0
    assert 0 < answer["first_token_seconds"] < answer["seconds"]
    assert done["peak_memory_bytes"] > done["weights_bytes"] > 10**6
    end = answer["ids"][5]
    for name in (str(end), " so"):
        (cut,) = run("generate", EMBEDDED, "--prompt", PROMPT, "--json", "--eos", name, "--dtype", "float32").json[
            "answers"
        ]
        assert cut["ended"] == "end token"
        assert cut["ids"] == answer["ids"][: len(cut["ids"])]
        assert len(cut["ids"]) <= 6


def test_prompts_come_from_everywhere(run: Run, stdin: Callable[[bytes], None], tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("Once\nupon größe a time\n".encode())
    stdin(b"The llama\r\n")
    found = run(
        "generate",
        "--model-path",
        EMBEDDED,
        "--prompt",
        "One",
        "--prompt-file",
        file,
        "--prompt",
        "-",
        *SHORT,
        "--json",
    ).json["answers"]
    assert [one["prompt"] for one in found] == ["One", "The llama", "Once\nupon größe a time"]
    stdin(b"Once")
    alone = run("generate", EMBEDDED, *SHORT, "-q")
    assert alone.out == run("generate", EMBEDDED, "--prompt", "Once", *SHORT, "-q").out


def test_several_answers_are_labelled(run: Run) -> None:
    sampled = ("--seed", 4, "--temperatures", "0.1,1,3.2", "--num-return-sequences", 2)
    done = run("generate", EMBEDDED, "--prompt", "One", "--prompt", "The", *sampled, *SHORT, "--batch-size", 3)
    lines = done.out.splitlines()
    labels = [line for line in lines if line.startswith("--- ")]
    assert len(labels) == 12
    assert labels[0] == "--- temperature 0.1, prompt 1, answer 1"
    assert labels[-1] == "--- temperature 3.2, prompt 2, answer 2"
    assert lines[1].startswith("One")
    assert "12 answers" in done.err
    # The same seed at one of these temperatures draws the same.
    alone = run("generate", EMBEDDED, "--prompt", "One", "--prompt", "The", *sampled[:2], "--temperature", 1,
                "--num-return-sequences", 2, *SHORT, "--json").json["answers"]  # fmt: skip
    for one in alone:
        assert one["prompt"] + one["text"] in done.out


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "bfloat16", "float32"])
def test_weights_are_held_as_is_wanted(run: Run, written: Callable[[str], Path], kind: str) -> None:
    done = run("generate", written("hf"), "--prompt", PROMPT, "--quantization-encoding", kind, *SHORT, "--json").json
    assert done["dtype"] == ("float32" if kind == "float32" else "bfloat16")
    assert done["answers"][0]["text"].startswith(" could not")
    # Per value: codes and, for 32 of them, two numbers of two bytes.
    per_value = {"q4_0": 0.625, "q8_0": 1.25, "bfloat16": 2, "float32": 4}[kind]
    norms = 13 * 128 * (4 if kind == "float32" else 2)
    assert done["weights_bytes"] == 1_458_176 * per_value + norms


def test_a_tokenizer_from_elsewhere(run: Run, written: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in EMBEDDED.iterdir():
        if path.name not in ("tokenizer.model", "checklist.chk"):
            (source / path.name).symlink_to(path)
    bare = run("generate", source, "--prompt", PROMPT, *SHORT)
    check_refusal(bare, 3)
    assert "--tokenizer-path" in bare.err
    (gguf,) = written("gguf").glob("*.gguf")
    for path in (EMBEDDED / "tokenizer.model", written("hf") / "tokenizer.json", gguf):
        done = run("generate", source, "--tokenizer-path", path, "--prompt", PROMPT, "--stop", ' "', "-q")
        assert done == Result(0, SENTENCE + "\n", "")


REFUSED = [
    (["--device", "tpu"], 2, "No device is called 'tpu'"),
    (["--dtype", "int3"], 2, "Nothing computes in 'int3'"),
    (["--greedy", "--temperature", "1"], 2, "--greedy and --temperature"),
    (["--temperatures", "1,x"], 2, "no list of numbers"),
    (["--temperatures", "1,2", "--temperature", "1"], 2, "--temperatures and --temperature 1"),
    (["--temperatures", "1,-2"], 2, "temperature -2"),
    (["--temperatures", "0,1", "--num-return-sequences", "2"], 2, "would all be the same"),
    (["--num-return-sequences", "2"], 2, "would all be the same"),
    (["--top-p", "2", "--min-p", "3"], 2, "top-p 2"),
    (["--stop", ""], 2, "empty stop text"),
    (["--eos", "<nothing>"], 2, "'<nothing>' is no token"),
    (["--eos", "1024"], 2, "1024 is no token"),
    (["--max-new-tokens", "0"], 2, "--max-new-tokens"),
    (["--prompt-file", "nowhere.txt"], 2, "nowhere.txt"),
    (["--prompt-file", str(EMBEDDED / "consolidated.00.pth")], 2, "no text in UTF-8"),
    (["--model-path", "elsewhere"], 2, "which one?"),
    (["--quantization-encoding", "q9"], 2, "there is no such"),
    (["--quantization-encoding", "q4_0", "--dtype", "float32"], 2, "multiplied in bfloat16"),
    (["--quantization-encoding", "float32", "--dtype", "bfloat16"], 2, "which one?"),
    (["--tokenizer-path", str(EMBEDDED / "params.json")], 3, "params.json"),
    (["--tokenizer-path", str(EMBEDDED / "checklist.chk")], 3, "not a tokenizer"),
    (["--tokenizer-path", "nowhere"], 2, "nowhere"),
    (["--prompt", "a llama " * 9000], 2, "leave no room in a context of 8,192"),
]


@pytest.mark.parametrize(("options", "status", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_is_refused_before_anything_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], status: int, words: str
) -> None:
    monkeypatch.setattr(llama, "load_model", None)
    result = run("generate", EMBEDDED, "--prompt", "Hi", *options)
    check_refusal(result, status)
    assert words in result.err


def test_too_little_memory_is_said_before_loading(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "load_model", None)
    monkeypatch.setattr(memory, "available", lambda device: 3_000_000)
    for options in (["--dtype", "float32"], ["--max-new-tokens", 8000], ["--num-return-sequences", 50, "--seed", 1,
                    "--batch-size", 50]):  # fmt: skip
        result = run("generate", EMBEDDED, "--prompt", "Hi", *options)
        check_refusal(result, 5)
        assert "of memory are needed on cpu" in result.err


def test_no_prompt_at_a_terminal_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    check_refusal(run("generate", EMBEDDED), 2)
    check_refusal(run("generate", "--prompt", "Hi"), 2)


def test_a_refusal_is_json_too(run: Run) -> None:
    result = run("generate", EMBEDDED, "--prompt", "Hi", "--device", "tpu", "--json")
    assert result.json["status"] == result.status == 2
