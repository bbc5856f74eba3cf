"""The tables of an ablation as Markdown, CSV and LaTeX (booktabs), and the notes below them."""

import csv
import io
import math
import statistics as numbers
from collections.abc import Mapping, Sequence

from vision.ablation.plan import written
from vision.ablation.results import Results, Row
from vision.ablation.statistics import Difference, Summary

HEAD = ("point", "n", "mean", "sd", "95 % interval", "difference", "95 % interval of the difference")
MARK = "*"
NOTHING = "-"

CSV_HEAD = (
    "point",
    "changes",
    "n",
    "mean",
    "sd",
    "low",
    "high",
    "pairs",
    "difference",
    "difference_sd",
    "difference_low",
    "difference_high",
    "excludes_zero",
    "p",
    "p_holm",
)

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def decimals(rows: Sequence[Row]) -> tuple[int, int]:
    """Digits after the point for the values of a table and for its differences, which pairing makes more precise.

    Two digits of a typical standard deviation; four of the largest number if there is none, as with one seed.
    """
    found = [row.summary for row in rows if row.summary is not None]
    differences = [row.difference for row in rows if row.difference is not None]
    values = _decimals(found)
    return values, _decimals(differences) if any(each.sd for each in differences) else values


def _decimals(found: Sequence[Summary] | Sequence[Difference]) -> int:
    spreads = [each.sd for each in found if each.sd]
    sizes = [abs(each.mean) for each in found if math.isfinite(each.mean)]
    if spreads:
        size, digits = numbers.median(spreads), 2
    elif max(sizes, default=0) > 0:
        size, digits = max(sizes), 4
    else:
        return 2
    return min(12, max(0, digits - 1 - math.floor(math.log10(size))))


def cells(row: Row, places: tuple[int, int]) -> tuple[str, ...]:
    """The row of a table, as plain text in the order of ``HEAD``; ``places`` as of :func:`decimals`."""
    name, found, difference, (own_places, places_between) = row.point.name, row.summary, row.difference, places
    if found is None:
        return (name, "0", *[NOTHING] * 5)
    own = (
        name,
        str(found.n),
        _fixed(found.mean, own_places),
        NOTHING if found.sd is None else _fixed(found.sd, own_places),
        _interval(found, own_places),
    )
    if difference is None:
        return (*own, NOTHING, NOTHING)
    mark = MARK if difference.excludes_zero else ""
    pairs = "" if difference.n == found.n else f" ({difference.n} pair{'s' if difference.n > 1 else ''})"
    shown = f"{_fixed(difference.mean, places_between, sign=True)}{mark}{pairs}"
    return (*own, shown, _interval(difference, places_between, sign=True))


def _fixed(number: float, places: int, *, sign: bool = False) -> str:
    if not math.isfinite(number):
        return str(number)
    text = f"{number:+.{places}f}" if sign else f"{number:.{places}f}"
    # a difference that rounds to zero has no direction to show
    return text.lstrip("+-") if float(text) == 0 else text


def _interval(found: Summary | Difference, places: int, *, sign: bool = False) -> str:
    """``[0.941, 0.958]``, or why there is none: never an interval of zero width."""
    if found.interval is not None:
        return f"[{', '.join(_fixed(end, places, sign=sign) for end in found.interval)}]"
    if found.n == 1:
        return "none (n = 1)"
    if found.sd is None:
        return "none (not finite)"
    return "none (equal in all seeds)"


def caption(results: Results, metric: str, rows: Sequence[Row], *, comparisons: Mapping[str, int]) -> str:
    """Notes on a table: its contents and limitations.

    Args:
      results: for missing trials.
      metric: the metric of the table.
      rows: its rows.
      comparisons: intervals of differences in every table, by metric.
    """
    budgets = {row.point.budget for row in rows}
    when = f"after {budgets.pop():,} images" if len(budgets) == 1 else "at the end of each point's budget of images"
    sentences = [
        f"{metric} {when}: mean, standard deviation (n - 1) and 95 % t interval over n seeds, and the difference to "
        "the baseline over the same seeds with its 95 % t interval (paired)."
    ]
    own, everything = comparisons[metric], sum(comparisons.values())
    if own:
        sentences.append(
            f"{MARK} marks differences whose interval excludes 0. There are {_counted(own, 'comparison')} in this "
            f"table and {everything} in all tables of the study; intervals are not corrected for multiple comparisons. "
            "P-values of the paired t-tests, adjusted by Holm's method within this table, are in its CSV file."
        )
    if any(row.summary is not None and row.summary.n == 1 for row in rows):
        sentences.append("One seed has no standard deviation and no interval.")
    states = [status.state for status in results.statuses]
    missing = [
        f"{count} {what}"
        for count, what in (
            (states.count("failed"), "failed"),
            (len(states) - states.count("failed") - states.count("finished"), "not finished"),
        )
        if count
    ]
    if missing:
        sentences.append(f"Of {_counted(len(states), 'trial')}, {' and '.join(missing)}: these do not count.")
    return " ".join(sentences)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def markdown(rows: Sequence[Row], text: str) -> str:
    """A GitHub table with ``text`` below it."""
    places = decimals(rows)
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1))]
    lines += [(f"`{name}`", *rest) for name, *rest in (cells(row, places) for row in rows)]
    shielded = [[cell.replace("|", "\\|").replace(MARK, f"\\{MARK}") for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in shielded)
    note = text.replace(MARK, f"\\{MARK}")
    return f"{table}\n\n{note}\n"


def latex(rows: Sequence[Row], text: str, *, label: str) -> str:
    """A ``table`` with booktabs rules; everything in it is escaped."""
    places = decimals(rows)
    head = ["$n$" if name == "n" else escaped(name) for name in HEAD]
    body = []
    for row in rows:
        name, *rest = cells(row, places)
        body.append([rf"\texttt{{{escaped(name)}}}", rest[0], *map(_mathematical, rest[1:])])
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(text)}}}",
        rf"  \label{{tab:{''.join(c if c.isalnum() else '-' for c in label)}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(HEAD) - 1)}}}",
        r"    \toprule",
        f"    {' & '.join(head)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(line)} \\\\" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return ("\n".join(lines) + "\n").replace(r" \%", r"\,\%")


def escaped(text: str) -> str:
    """Plain text for LaTeX, with special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in text)


def _mathematical(cell: str) -> str:
    """A cell with numbers in math mode, for proper minus signs; words and dashes stay text."""
    number, space, words = cell.partition(" (")
    if number == NOTHING:
        return "--"
    if number.startswith("none"):
        return escaped(cell)
    mark = MARK if number.endswith(MARK) else ""
    inside = number.removesuffix(MARK).replace("nan", r"\mathrm{nan}").replace("inf", r"\infty")
    return f"${inside}{'^{*}' if mark else ''}${escaped(space + words)}"


def table_csv(rows: Sequence[Row]) -> str:
    """All numbers with all digits; empty cells for missing ones."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for row in rows:
        found, difference = row.summary, row.difference
        changes = "; ".join(f"{field}={written(value)}" for field, value in row.point.changes.items())
        own: list[object] = [None] * 4
        if found is not None:
            own = [found.mean, found.sd, *(found.interval or (None, None))]
        other: list[object] = [None] * 8
        if difference is not None:
            ends = difference.interval or (None, None)
            zero = None if difference.interval is None else str(difference.excludes_zero).lower()
            other = [difference.n, difference.mean, difference.sd, *ends, zero, difference.p, row.p_holm]
        writer.writerow([row.point.name, changes, len(row.values), *map(_exact, own), *map(_exact, other)])
    return out.getvalue()


def values_csv(results: Results) -> str:
    """Every final number of every seed, one per line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("metric", "point", "seed", "value"))
    for metric in results.metrics:
        for name, seeds in results.runs.items():
            for seed, run in sorted(seeds.items()):
                if metric in run.final:
                    writer.writerow((metric, name, seed, repr(run.final[metric])))
    return out.getvalue()


def _exact(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
