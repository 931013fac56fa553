"""Texts that tokenizers disagree about: seeded, the same on every machine."""
import random

WORDS = ["Hello", "world", "don't", "I'LL", "naïve", "Straße", "İstanbul", "ﬁnancial", "日本語", "한국어", "العربية",
         "हिन्दी", "ไทย", "Ελληνικά", "русский", "x²", "½", "Ⅷ", "١٢٣", "e\u0301", "\u00e9",
         "\U0001d573\U0001d58a"]
EMOJI = ["🙂", "👩‍👩‍👧‍👦", "👋🏽", "🏳️‍🌈", "🇩🇪", "❤️", "1️⃣", "🧑🏿‍🚀"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085", "\ufeff", "\u1680"]
CONTROLS = ["\x00", "\x01", "\x07", "\x08", "\x1b[31m", "\x7f", "\x9f", "\u200e", "\u202e", "\u2066", "\ufffd",
            "\uffff", "\U0010ffff", "\ue000"]
COMBINING = ["\u0301", "\u0308", "\u0327", "\u20e3", "\ufe0f", "\u200d", "\u093f", "\u0e31"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start", "im_end|>", "<|IM_END|>",
           "< |im_end|>", "<|im_end|", "<repo_name>", "<file_sep>", "<issue_start>", "<jupyter_code>",
           "<empty_output>", "<|im_\u200bend|>", "<s>", "</s>", "[INST]", "Ġ", "Ċ", "▁", "<0x0A>"]
PUNCTUATION = ["...", "!!!", "'s", "'S", "’s", "—", "$1,234.56", "a/b\\c", "{}[]()",
               "https://ex.am/p?q=1&r=%20", "```", "==>", "'", "\"\"\"", "#", "_"]
DIGITS = ["0", "7", "42", "007", "1234567890", "3.14159", "1e-10", "12:34", "٣", "९", "𝟘",
          "99999999999999999999", "1 000"]
KINDS = [WORDS, EMOJI, SPACES, CONTROLS, COMBINING, SPECIAL, PUNCTUATION, DIGITS]


def _edges():
    yield from ["", " ", "\n", "\x00", "\ufeff", "<|im_end|>", " <|im_end|> ", "\n\n\n   \n", " " * 300, "\t" * 77,
                "a" * 5000, "0" * 1000, "é" * 700, "e\u0301" * 700, "🙂" * 300, "👩‍👩‍👧‍👦" * 50, "\u0301" * 100,
                "日" * 1000, "aB" * 1500, "-" * 999, "<|im_end|>" * 40, "<|" * 200, "Donaudampfschifffahrt" * 40,
                "x" + "\u0308\u0327" * 200]
    yield "".join(chr(code) for code in range(0x20))
    yield "".join(chr(code) for code in range(0x20, 0x180))
    yield " ".join(SPECIAL)
    yield "".join(SPECIAL)
    for kind in KINDS:
        yield "".join(kind)


def _any_character(rng):
    return chr(rng.choice([rng.randrange(0x80), rng.randrange(0x800), rng.randrange(0xd800),
                           rng.randrange(0xe000, 0x110000)]))


def hostile_texts(count, seed):
    """`count` texts: fixed edges first, then mixtures of all kinds and runs of arbitrary characters."""
    rng = random.Random(seed)
    texts = list(_edges())
    while len(texts) < count:
        if len(texts) % 4 == 0:
            texts.append("".join(_any_character(rng) for _ in range(rng.randrange(1, 120))))
            continue
        pieces = (rng.choice(rng.choice(KINDS)) * (1 if rng.random() < 0.8 else rng.randrange(2, 9))
                  for _ in range(rng.randrange(1, 40)))
        texts.append("".join(piece + rng.choice(["", " "]) for piece in pieces))
    return texts[:count]
