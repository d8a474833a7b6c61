"""A pad token beside Meta's real tokenizer, in the hands of Meta's own class, the book's and transformers."""

from __future__ import annotations

import json
from pathlib import Path

from llama_convert.convert import open_checkpoint
from llama_convert.convert.vocabulary import NewToken
from tests.checkpoints import random_model, write_meta
from tests.convert.support import converted
from tests.tokenizers.changed import PAD, changed, widened, written


def test_real_llama_3(meta_path: Path, tmp_path: Path, hard_strings: list[str]) -> None:
    """Meta's own tokenizer: its class, the book's and `tokenizers` on the same texts, before and after."""
    from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer
    from llms_from_scratch.llama3 import Llama3Tokenizer
    from transformers import AutoTokenizer

    model = random_model("3", vocab=128256, dim=16, heads=2, kv_heads=1, layers=1)
    meta = write_meta(model, tmp_path / "meta", tokenizer=meta_path)
    hf = widened(converted(meta, tmp_path / "hf", "hf", "3"), 128320)
    out = written(
        changed(open_checkpoint(hf), [NewToken(id=128256, text=PAD, special=True)], 128256), tmp_path / "out", "hf"
    )
    back = written(open_checkpoint(out), tmp_path / "back", "meta")
    ours, theirs, book = (
        AutoTokenizer.from_pretrained(out),
        MetaTokenizer(back / "tokenizer.model"),
        Llama3Tokenizer(str(back / "tokenizer.model")),
    )
    assert (len(ours), ours.pad_token, ours.pad_token_id) == (128257, PAD, 128256)
    assert (ours(PAD)["input_ids"], ours.decode([128256])) == ([128000, 128256], PAD)
    assert json.loads((back / "special_tokens.json").read_text())[256] == PAD
    for text in hard_strings:
        ids = theirs.encode(text, bos=True, eos=False)
        assert ours(text)["input_ids"] == ids, text
        assert book.encode(text, bos=True) == ids, text
    assert ours(f"a{PAD}b")["input_ids"] == [*ours("a")["input_ids"], 128256, *theirs.encode("b", bos=False, eos=False)]
    assert len(AutoTokenizer.from_pretrained(hf)(PAD)["input_ids"]) > 2  # control
