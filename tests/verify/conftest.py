"""Pairs of checkpoints of the same model, the second made without the converter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_convert.convert.formats import open_checkpoint
from llama_convert.convert.tokenizers.sentencepiece import read_sentencepiece
from llama_convert.convert.tokenizers.special_tokens import special_tokens
from llama_convert.convert.tokenizers.tiktoken import read_tiktoken
from llama_convert.convert.tokenizers.tokenizer_json import write_tokenizer_json
from llama_convert.convert.versions import VERSIONS
from tests.checkpoints import Case, MetaModel, write_meta
from tests.test_reference_agreement import Config, Mistake, Weights, to_transformers, write_transformers
from tests.verify.quantised_files import quantisable_model, write_quantised


def _no_mistake(weights: Weights, config: Config, model: MetaModel) -> None:
    pass


def write_huggingface(folder: Path, meta: Path, model: MetaModel, mistake: Mistake = _no_mistake) -> Path:
    """The model in Hugging Face's format, with the mistake made on the way."""
    weights, config = to_transformers(model)
    config["max_position_embeddings"] = VERSIONS[model.version].context
    if model.tied:
        del weights["lm_head.weight"]
        config["tie_word_embeddings"] = True
    mistake(weights, config, model)
    write_transformers(folder, weights, config)
    read = read_tiktoken if model.tokenizer == "tiktoken" else read_sentencepiece
    special = special_tokens(model.version) if model.tokenizer == "tiktoken" else ()
    write_tokenizer_json(folder / "tokenizer.json", read(meta / "tokenizer.model"), special)
    return folder


@pytest.fixture
def make_pair(meta_checkpoint: Callable[[Case], Path], tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """(case, mistake) -> Meta's folder, shared and read only, and Hugging Face's."""

    def made(case: Case, mistake: Mistake = _no_mistake) -> tuple[Path, Path]:
        meta = meta_checkpoint(case)
        return meta, write_huggingface(tmp_path / "huggingface", meta, case.model(), mistake)

    return made


@pytest.fixture
def open_pair(make_pair: Callable[..., tuple[Path, Path]]) -> Callable[..., tuple[Any, Any]]:
    """The same, opened."""

    def opened(case: Case, mistake: Mistake = _no_mistake) -> tuple[Any, Any]:
        meta, huggingface = make_pair(case, mistake)
        return open_checkpoint(meta, case.version), open_checkpoint(huggingface)

    return opened


@pytest.fixture(scope="session")
def unquantised(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The source of what `stored` gives."""
    return open_checkpoint(write_meta(quantisable_model(), tmp_path_factory.mktemp("unquantised") / "meta"), "3")


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Any]:
    """(type, change, change of the bytes) -> a quantised file of the same model, opened."""

    def made(kind: Any, *how: Any, **more: Any) -> Any:
        return open_checkpoint(write_quantised(tmp_path / f"{kind.name}.gguf", kind, *how, **more), "3")

    return made
