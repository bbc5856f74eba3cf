"""Readable numbers: ``12.3k`` images, ``1h02m`` left, a loss of ``0.1235``."""

import math

_THOUSANDS = ("", "k", "M", "G", "T")


def count(number: float) -> str:
    """A count in three significant digits with a decimal prefix: 999, 12.3k, 1.20M, 50.0G.

    Whole numbers below 1,000 are printed in full; other numbers below 1,000 keep three significant digits.
    """
    if not math.isfinite(number):
        return str(number)
    if abs(number) < 1000 and number == int(number):
        return str(int(number))
    power, scaled = 0, float(number)
    # The comparison is on the rounded number, or 999,950 would read "1000k".
    while power < len(_THOUSANDS) - 1 and float(f"{abs(scaled):.3g}") >= 1000:
        power, scaled = power + 1, scaled / 1000
    rounded = abs(float(f"{scaled:.3g}"))
    decimals = 0 if rounded >= 100 else 1 if rounded >= 10 else 2
    return f"{scaled:.{decimals}f}{_THOUSANDS[power]}"


def duration(seconds: float) -> str:
    """A span of time in two units: 45s, 2m05s, 1h02m, 3d04h; ``?`` for a negative or non-finite one."""
    if not math.isfinite(seconds) or seconds < 0:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def value(number: float) -> str:
    """A measured value in four significant digits: 0.1235, 23.46, 1.2e-05, nan."""
    return f"{number:.4g}"
