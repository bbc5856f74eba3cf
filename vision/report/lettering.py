"""Text on images: the font, and texts that are cut or broken so that they fit."""

from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont


def font(size: int, *, bold: bool = False) -> Font:
    """DejaVu Sans, which is part of matplotlib and, unlike Pillow's font, has arrows and most alphabets."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size)


def cut(text: str, font: Font, width: float, *, front: bool = False) -> str:
    """The text, or as much of its start (or at the ``front`` of its end) as fits ``width`` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[1:] if front else text[:-1]
    return f"…{text.lstrip()}" if front else f"{text.rstrip()}…"


def broken(text: str, font: Font, width: float, max_lines: int) -> list[str]:
    """At most ``max_lines`` lines of at most ``width`` pixels, broken at spaces; what does not fit is cut."""
    lines = [""]
    words = text.split()
    for i, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < max_lines:
            lines.append(word)
        else:
            lines[-1] = " ".join([lines[-1], *words[i:]])
            break
    return [cut(line, font, width) for line in lines]
