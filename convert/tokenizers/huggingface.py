"""The small JSON files beside tokenizer.json, as every transformers from 4.40 to 5 reads them right."""

from __future__ import annotations

from collections.abc import Sequence

from llama_convert.convert.tokenizers.added import AddedToken

Json = dict[str, object]


def tokenizer_config(
    added: Sequence[AddedToken],
    *,
    begin: int | None,
    end: int | None,
    pad: int | None,
    context: int,
    chat_template: str | None,
) -> Json:
    """What tokenizer_config.json says.

    added: the special tokens, as `added_tokens` gives them. begin, end, pad: ids. context: positions, the
    model's longest text.
    The class is PreTrainedTokenizerFast, which takes tokenizer.json as it is: transformers 5's LlamaTokenizer
    builds its own tokenizer and loses leading spaces, and its TokenizersBackend does not load in 4.x.
    No clean-up of spaces: it would turn "it 's" into "it's" on decoding. `add_bos_token` is for readers that
    do not run tokenizer.json's template (litgpt, llama.cpp).
    """
    config: Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(token.id): token.properties() for token in added},
        **special_tokens_map(added, begin=begin, end=end, pad=pad),
        "add_bos_token": True,
        "add_eos_token": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    return config if chat_template is None else config | {"chat_template": chat_template}


def special_tokens_map(
    added: Sequence[AddedToken], *, begin: int | None, end: int | None, pad: int | None
) -> dict[str, str]:
    """What special_tokens_map.json says: the tokens with a task, of those that the vocabulary has."""
    texts = {token.id: token.text for token in added}
    unknown = next((token.id for token in added if token.text == "<unk>"), None)
    tasks = {"bos_token": begin, "eos_token": end, "unk_token": unknown, "pad_token": pad}
    return {task: texts[number] for task, number in tasks.items() if number in texts}
