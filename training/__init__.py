"""How the tiny model in `cli/embedded` came to be: its stories, its tokenizer, its training."""
