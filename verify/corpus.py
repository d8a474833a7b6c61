"""Strings on which two tokenizers differ when one of them is wrong."""
# ruff: noqa: RUF001 (the strings are meant to be hard)

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

HARD_STRINGS = (
    "",
    " ",
    "  ",
    "   a",
    "a   ",
    " leading",
    "trailing ",
    "  two  inside  ",
    " " * 200,
    "a" + " " * 77 + "b",
    "x" * 300,
    "\n",
    "\n\n\n",
    "\r\n\r\n",
    "a\r\nb\rc\nd",
    " \n \n\n \t\t \n   ",
    "\t\tindented\n\t\t\tmore",
    "\u00a0\u2003\u3000 unusual \u200b spaces\ufeff",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\ufffd\ufffe\uffff \U0010ffff \ue000",
    "It's I'm we'll they've you'd he'S WE'RE 'tis ''s '",
    "0 1 12 123 1234 12345 123456789 3.14159 1e-10 0x7fff ½ ٣٤٥ ९८ Ⅷ",
    "def f(x):\n    return {k: [v] for k, v in x.items()}  # done\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] >> 2; }\n\n}}}));",
    '<div class="a">&nbsp;</div><!-- x -->',
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\Windows\\x",
    "!!!??? ... --- ### ***bold*** ~~~ $$$ %%% @@@ ^^^ &&& ||| \\\\ ``` ''' \"\"\"",
    "camelCase snake_case kebab-case SCREAMING_CASE ABCabcABC",
    "it 's , and that 's not . clean ( up ) ?",
    "<0x0A> <unknown> [INST] <<SYS>> < s >",
    "\u2581\u2581 \u2581already \u2581 here",
    "Ġ Ċ literal byte characters Ã©",
    "The quick brown fox jumps over the lazy dog. " * 20,
    "l'été d'où qu’il “quoted” ‘single’ … – —",
    "ÀÉÎõü ßẞ ıİ ŀ ñandú smörgåsbord",
    "e\u0301 n\u0303 Z\u0351\u036b\u0343\u036a\u0302 a\u0327\u0301",
    " việc",  # a token that merges do not reach: it must be looked up whole
    "việc nghiên cứu khoa học",
    "Жизнь прожить — не поле перейти",
    "Η ζωή εν τάφω ΑΣ ας",
    "ქართული Հայերեն አማርኛ",
    "שָׁלוֹם עולם",
    "مرحبا بالعالم ۱۲۳ لا",
    "नमस्ते दुनिया क्षत्रिय বাংলা ਪੰਜਾਬੀ",
    "தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල",
    "สวัสดีชาวโลก ๑๒๓ ລາວ ខ្មែរ ကမ္ဘာ့ကုလသမဂ္ဂ བོད་སྐད",
    "ありがとうございます、カタカナ。漢字かな交じり文",
    "你好，世界！繁體字與简体字",
    "안녕하세요 ㄱㄴㄷ 한글",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ∑∫∂√∞≈≠≤≥ αβγ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀𓂀 𠜎𠜱 🄰🅱",
    "🙂 👍🏽 👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇩🇪🇫🇷 ❤\ufe0f 1\ufe0f\u20e3",
    "\u202eright to left\u202c \u2066x\u2069",
    "co\u00adop\u00aderate a\u2028b\u2029c\u0085d\x0be\x0cf \u2060g\u180eh",  # unseen hyphens, lines that end otherwise
    "ＡＢＣ１２３ ﬁﬂ ™ ① ㍿ ｶﾞ カ\u3099 Å \u212b ſ",  # what a compatibility normal form would change
    "\u0344 \u0958 \ufb1d Ω \u2126 K \u212a",  # what even a canonical one would
    "ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ ⵜⵉⴼⵉⵏⴰⵖ ߒߞߏ ꦗꦮ ᐃᓄᒃᑎᑐᑦ ꯃꯤꯇꯩ ગુજરાતી ଓଡ଼ିଆ ܣܘܪܝܝܐ ދިވެހި",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f 👨🏿\u200d🦰 🧑\u200d⚕\ufe0f ☺\ufe0e #\ufe0f 🫨",
    "!\n?\n\n;\r\n);\n}\n\n  // 'S'T'LL'VE\n",
)

MIXTURES = 2000  # of each kind
_LENGTH = 8
_SHORT = 3


def corpus(words: Sequence[str]) -> Iterator[str]:
    """Hard strings, then every word of a vocabulary, then words strung together; the same on every run.

    A word by itself shows tokens that merges do not reach; words strung together, long ones and short ones
    without the spaces that keep them apart, show in which order merges are made.
    """
    yield from HARD_STRINGS
    yield from words
    short = [word.strip() for word in words if 0 < len(word.strip()) <= _SHORT and word.strip().isalpha()]
    source = random.Random(0)
    for kind in (words, short):
        for _ in range(MIXTURES if kind else 0):
            yield "".join(source.choices(kind, k=_LENGTH))
