"""What `check_gradients` returns."""

from typing import NamedTuple

from handgrad.showing import as_table

# Where the bins of errors, each divided by its tolerance, end: an entry without error is in the first, one beyond its
# tolerance in one more.
ERROR_EDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
UNDECIDED = (
    "undecided: rounding may be as large as the gradient there, or the dtype cannot hold the numbers. tamed: of a few "
    "rows, parameters scaled down, and moved, to logits of about 1."
)


class GradientCheck(NamedTuple):
    """One parameter's gradient in one dtype against one reference.

    Attributes:
      dtype: in which the gradient was computed by hand.
      parameter: "W" or "b"; of a network "W1", "b1" and so on, from its input to its output.
      reference: "autograd" or "differences", both in float64; "autograd, tamed" at tamer parameters.
      entries: how many entries were compared.
      max_absolute_error: largest |by hand − reference|.
      max_relative_error: that, divided by the largest |reference|; 0 where both are 0.
      error_over_tolerance: the largest of the entries' errors, each divided by the tolerance of that entry.
      verdict: "FAILED" where error_over_tolerance is above 1; "passed"; or "undecided", where the tolerances are so
        large beside the gradient that a wrong one could hide in them.
      error_counts: how many entries' errors, divided by their tolerances, are 0, at most 1e-5, 1e-4, 1e-3, 1e-2, 1e-1,
        and 1, and above 1; empty where there was nothing to compare.

    Example:
      >>> params = handgrad.Params(W=np.eye(2, 3), b=np.zeros((1, 3)))
      >>> X, t = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 3.0]]), np.array([0, 2, 1])
      >>> check = handgrad.check_gradients(params, X, t, dtypes=("float64",)).checks[0]
      >>> check.parameter, check.reference, check.entries, check.verdict
      ('W', 'autograd', 6, 'passed')
    """

    dtype: str
    parameter: str
    reference: str
    entries: int
    max_absolute_error: float
    max_relative_error: float
    error_over_tolerance: float
    verdict: str
    error_counts: tuple[int, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the verdict is "passed"."""
        return self.verdict == "passed"


class GradientReport(NamedTuple):
    """What `check_gradients` returns; prints as a table, and the diagnosis below it.

    Attributes:
      checks: one for each dtype, parameter and reference.
      passed: whether none failed, and each parameter passed in each dtype, if only at tamer parameters.
      diagnosis: what is wrong and what to do, where something is; else "".

    Example:
      >>> params = handgrad.Params(W=np.eye(2, 3), b=np.zeros((1, 3)))
      >>> X, t = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 3.0]]), np.array([0, 2, 1])
      >>> report = handgrad.check_gradients(params, X, t, dtypes=("float64",))
      >>> report.passed, report.diagnosis
      (True, '')
    """

    checks: tuple[GradientCheck, ...]
    passed: bool
    diagnosis: str = ""

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        numeric = range(3, 7)
        lines = [
            "  ".join(
                cell.rjust(width) if column in numeric else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self._below()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_table(self._rows(), *self._below())

    def _rows(self) -> list[tuple[str, ...]]:
        head = ("dtype", "gradient of", "against", "entries", "max abs error", "max rel error", "error/tolerance", "")
        rows: list[tuple[str, ...]] = [head]
        for check in self.checks:
            numbers = (
                f"{check.max_absolute_error:.1e}",
                f"{check.max_relative_error:.1e}",
                f"{check.error_over_tolerance:.2g}",
            )
            rows.append((check.dtype, check.parameter, check.reference, str(check.entries), *numbers, check.verdict))
        return rows

    def _below(self) -> list[str]:
        undecided = [UNDECIDED] if any(check.verdict == "undecided" for check in self.checks) else []
        return [*undecided, *self.diagnosis.splitlines()]
