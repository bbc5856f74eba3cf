"""A vocabulary of CLIP's kind that fits on a page: all bytes, all bytes at a word's end, a few merges, two marks."""


def byte_letters():
    """The letter that stands for each byte, in the order of byte-level vocabularies (Radford et al. 2019)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + index) for index in range(len(others)))]


MERGES = ("r e", "re d</w>", "s t", "a r</w>", "st ar</w>", "c a", "ca t</w>", "Ã ©</w>", "' s</w>")
_LETTERS = byte_letters()
_TOKENS = (
    *_LETTERS,
    *(f"{letter}</w>" for letter in _LETTERS),
    *(merge.replace(" ", "") for merge in MERGES),
    *("<|startoftext|>", "<|endoftext|>"),
)
VOCABULARY = {token: number for number, token in enumerate(_TOKENS)}
TEXTS = [
    *("a red star", "RED   Stars\n!!", "", "café 42", "the cat's red cat and a red star"),
    *("日本", "cat <|endoftext|> red"),
]
