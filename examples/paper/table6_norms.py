"""Other norms and radii: the same hardened model against linf and l2 attacks.

    python examples/paper/table6_norms.py CASES.toml --results DIR [--factors 0.5,1,2]

The radii are multiples of the model's own (`eps`, and `eps_l2` where it has one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cells import Bench, Variation
from common import Case, make_parser, read, run
from words import show_cells

from lipcompile.auditing.budget import Budget, Norm, parse_eps
from lipcompile.cli.options import parse_numbers


def budgets(case: Case, factors: Sequence[float]) -> Iterator[tuple[Norm, str]]:
    """Norm and radius; the factor 1 keeps the radius as it is written."""
    norms: tuple[tuple[Norm, str | None], ...] = (("linf", case.eps), ("l2", case.eps_l2))
    for norm, eps in norms:
        if eps is None:
            continue
        for factor in factors:
            yield norm, eps if factor == 1 else repr(factor * parse_eps(eps))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cr", default="2^-6")
    parser.add_argument("--form", default="smooth", choices=("smooth", "hard", "soft"))
    parser.add_argument("--factors", default="0.5,1,2")
    given = parser.parse_args(arguments)
    cases, options = read(given)
    factors = parse_numbers("factors", given.factors) or ()
    variation = Variation("", given.cr, given.form)
    cells = []
    for case in cases:
        bench = Bench.open(case, options)
        for norm, eps in budgets(case, factors):
            label = str(Budget(parse_eps(eps), norm))
            cells.append(bench.cell(replace(variation, label=label), eps, norm))
    show_cells(options, f"Norms and radii, {given.form} at c_r = {given.cr}", cells)


if __name__ == "__main__":
    run(main)
