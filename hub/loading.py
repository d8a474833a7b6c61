"""How a model in a repository is loaded, for each format, by the program that the format is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# The library that reads a format, by the Hub's name where it has one: else a config.json would pass for transformers'.
# Formats that are not here are state dicts of PyTorch.
LIBRARIES = {
    "hf": "transformers",
    "mlx": "mlx",
    "gguf": "gguf",
    "litgpt": "litgpt",
    "torchtune": "torchtune",
    "llama2c": "llama2.c",
}


def how_to_load(form: str, repository: str, files: Sequence[str]) -> str:
    """Markdown for the format's name; a format that an installed package adds has only its download."""
    return _HOW.get(form, _any)(repository, files)


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _download(repository: str) -> str:
    return f"hf download {repository} --local-dir {_folder(repository)}"


def _folder(repository: str) -> str:
    return repository.rsplit("/", maxsplit=1)[-1]


def _first(files: Sequence[str], suffix: str) -> str:
    """The weight file, the first where there are several."""
    return min((name for name in files if name.endswith(suffix)), default=f"*{suffix}")


def _transformers(repository: str, files: Sequence[str]) -> str:
    del files
    return "With transformers:\n\n" + _code(
        "python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{repository}", dtype="auto")',
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")',
    )


def _llama_cpp(repository: str, files: Sequence[str]) -> str:
    return "With llama.cpp:\n\n" + _code(
        "", f"llama-cli --hf-repo {repository} --hf-file {_first(files, '.gguf')} -p 'Once upon a time'"
    )


def _mlx(repository: str, files: Sequence[str]) -> str:
    del files
    return "With mlx-lm:\n\n" + _code("", f"mlx_lm.generate --model {repository} --prompt 'Once upon a time'")


def _book(repository: str, files: Sequence[str]) -> str:
    folder = _folder(repository)
    config, weights = _first(files, "config.json"), _first(files, ".pth")
    return "With the classes of the book *Build a Large Language Model (From Scratch)*:\n\n" + _code(
        "python",
        "import json",
        "import torch",
        "from llms_from_scratch.llama3 import Llama3Model",
        "",
        f"# {_download(repository)}",
        f'config = json.load(open("{folder}/{config}")) | {{"dtype": torch.bfloat16}}',
        "model = Llama3Model(config)",
        f'model.load_state_dict(torch.load("{folder}/{weights}", weights_only=True))',
    )


def _litgpt(repository: str, files: Sequence[str]) -> str:
    del files
    return "With litgpt:\n\n" + _code("", _download(repository), f"litgpt generate {_folder(repository)}")


def _torchtune(repository: str, files: Sequence[str]) -> str:
    folder, weights = _folder(repository), _first(files, ".pth")
    return "With torchtune, whose recipes name the files:\n\n" + _code(
        "yaml",
        f"# {_download(repository)}",
        "checkpointer:",
        "  _component_: torchtune.training.FullModelTorchTuneCheckpointer",
        f"  checkpoint_dir: {folder}",
        f"  checkpoint_files: [{weights}]",
        "  model_type: LLAMA3",
        "  output_dir: output",
    )


def _llama2c(repository: str, files: Sequence[str]) -> str:
    folder = _folder(repository)
    weights = min((name for name in files if name.endswith(".bin") and name != "tokenizer.bin"), default="model.bin")
    return "With llama2.c:\n\n" + _code(
        "", _download(repository), f"./run {folder}/{weights} -z {folder}/tokenizer.bin -i 'Once upon a time'"
    )


def _meta(repository: str, files: Sequence[str]) -> str:
    del files
    return "With Meta's own code, which takes the folder as its checkpoint directory:\n\n" + _code(
        "", _download(repository)
    )


def _any(repository: str, files: Sequence[str]) -> str:
    del files
    return _code("", _download(repository))


_HOW: dict[str, Callable[[str, Sequence[str]], str]] = {
    "hf": _transformers,
    "gguf": _llama_cpp,
    "mlx": _mlx,
    "scratch": _book,
    "litgpt": _litgpt,
    "torchtune": _torchtune,
    "llama2c": _llama2c,
    "meta": _meta,
}
