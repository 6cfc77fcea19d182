"""What `fit` and `fit_path` return, and the words for how they ended."""

from typing import Any, NamedTuple

import numpy as np

from handgrad.formulas import Params
from handgrad.formulas.network import layers_of
from handgrad.shapes import Bool, Float, Int
from handgrad.solvers.existence import Verdict
from handgrad.solvers.inference import Coefficients, standard_errors
from handgrad.solvers.lanes import CONVERGED, ITERATIONS, STOPPED
from handgrad.solvers.state import FitState


def describe_sizes(params: Any) -> str:
    """The sizes of a model in words."""
    layers = layers_of(params)
    num_features, num_classes = layers[0].params.W.shape[-2], layers[-1].params.W.shape[-1]
    hidden = "".join(f", a hidden layer of {layer.params.W.shape[1]} ({layer.activation})" for layer in layers[:-1])
    return f"{num_features:,} features, {num_classes:,} classes{hidden}"


class FitResult(NamedTuple):
    """A fitted softmax regression.

    Attributes:
      params: W (P, C) and b (1, C).
      loss: F, the mean cross-entropy + (l2/2)‖W‖², in nats.
      gap: a bound on loss − min F, in nats, proved in float64 of these very params; infinite where l2 is 0.
      gradient_norm: ‖∇F‖, over W and b.
      iterations: steps of L-BFGS.
      passes: how often X was read for a loss and its gradient.
      converged: whether the gap (the gradient, where l2 is 0) is as small as `tol` asked.
      message: how the fit ended, and where it did not converge what to do.
      l2: the penalty.
      target_sums: XᵀT and 1ᵀT with the weights, where l2 is 0: what the fitted XᵀY and 1ᵀY are equal to.
      state: where the fit has ended before its time, by a callback or `max_iterations`, for another to go on from.

    Example:
      >>> X, t = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1])
      >>> result = handgrad.fit(X, t, l2=0.1)
      >>> result.converged, result.params.W.shape, handgrad.predict(result.params, X).tolist()
      (True, (1, 2), [0, 0, 1, 1])
    """

    params: Params
    loss: float
    gap: float
    gradient_norm: float
    iterations: int
    passes: int
    converged: bool
    message: str
    l2: float
    target_sums: Params | None = None
    state: FitState | None = None

    def __repr__(self) -> str:
        """Two lines: what was fitted, and how it ended."""
        how = "converged" if self.converged else "NOT converged"
        return (
            f"FitResult: {describe_sizes(self.params)}, l2 = {self.l2:.4g}; loss {self.loss:.6g} nats, {how} in "
            f"{self.iterations} iterations\n{self.message}"
        )

    def standard_errors(self, X: Any, *, weights: Any = None, base: int = 0, confidence: float = 0.95) -> Coefficients:
        """Coefficients with standard errors, z, p-values and confidence intervals, for a converged fit with l2=0.

        Args:
          X: the data of the fit, shape (N, P).
          weights: the sample weights of the fit (N,), taken as counts.
          base: the class that the log-odds of the others are against.
          confidence: of the intervals.

        Returns:
          Coefficients, whose str is a table.

        Raises:
          ValueError: a penalised fit, whose estimates are biased by design, or one that has not converged; X and
            weights that are not those of the fit.
        """
        if self.l2 > 0 or not self.converged:
            what = f"l2={self.l2:g}" if self.l2 > 0 else f"a fit that has not converged ({self.message})"
            raise ValueError(
                "standard_errors: the inverse Hessian is the covariance of a maximum-likelihood estimate, which needs "
                f"a converged fit with l2=0; got {what}. Penalised? Resample the rows (bootstrap) instead."
            )
        assert self.target_sums is not None  # it is there where l2 is 0
        return standard_errors(self.params, self.target_sums, X, weights=weights, base=base, confidence=confidence)


class PathResult(NamedTuple):
    """Fitted softmax regressions, one for each of J penalties, in the order in which they were given.

    Attributes:
      l2s: the penalties (J,).
      params: W (J, P, C) and b (J, 1, C).
      loss, gap, gradient_norm, iterations, passes, converged: as in `FitResult`, each (J,).
      validation_loss: mean cross-entropy of the rows not trained on, in nats, (J,); None without validation. With
        folds the mean over the folds.
      validation_accuracy: fraction of these rows that is predicted right, (J,); None without validation.
      best: index of the least validation loss; None without validation.

    Example:
      >>> X, t = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1])
      >>> path = handgrad.fit_path(X, t, l2s=[1.0, 0.1], validation=(X, t))
      >>> path.params.W.shape, path.best_params.W.shape, bool(path.validation_loss.argmin() == path.best)
      ((2, 1, 2), (1, 2), True)
    """

    l2s: Float[np.ndarray, " J"]
    params: Params
    loss: Float[np.ndarray, " J"]
    gap: Float[np.ndarray, " J"]
    gradient_norm: Float[np.ndarray, " J"]
    iterations: Int[np.ndarray, " J"]
    passes: Int[np.ndarray, " J"]
    converged: Bool[np.ndarray, " J"]
    validation_loss: Float[np.ndarray, " J"] | None
    validation_accuracy: Float[np.ndarray, " J"] | None
    best: int | None

    def __repr__(self) -> str:
        """Two lines: what was fitted, and the best of it."""
        low, high = self.l2s.min(), self.l2s.max()
        penalties = f"l2 = {low:.4g}" if low == high else f"{len(self.l2s)} penalties, l2 = {low:.4g} to {high:.4g}"
        best = "no validation"
        if self.best is not None and self.validation_loss is not None and self.validation_accuracy is not None:
            best = (
                f"best at l2 = {self.l2s[self.best]:.4g}: validation loss {self.validation_loss[self.best]:.6g} nats, "
                f"accuracy {self.validation_accuracy[self.best]:.2%}"
            )
        return f"PathResult: {describe_sizes(self.params)}; {penalties}, {int(self.converged.sum())} converged\n{best}"

    @property
    def best_params(self) -> Params:
        """The parameters of the least validation loss."""
        if self.best is None:
            raise ValueError("best_params: the path has no validation; pass validation=(X, targets) to fit_path.")
        return Params(W=self.params.W[self.best], b=self.params.b[self.best])


class Ending(NamedTuple):
    """What the words for how a fit ended are made of."""

    status: int
    loss: float
    gap: float
    excess: float
    norm: float
    l2: float
    tol: float
    dtype: Any
    limit: int
    verdict: Verdict | None


def describe(end: Ending) -> str:
    """How a fit ended, in a sentence or two."""
    if end.verdict is not None and end.verdict.exists is False:
        return (
            f"the classes can be separated, {', '.join(map(str, end.verdict.separated))} from the others, so that with "
            "l2=0 the loss has no minimum and the weights grow without end. Take l2 > 0, however small, or fewer "
            "features."
        )
    if end.verdict is not None and end.verdict.exists is None:
        return (
            f"the gradient's norm is {end.norm:.2g}, but whether the loss has a minimum at all with l2=0 is undecided: "
            "the classes may be separable. Take l2 > 0, however small, fewer features, or float64 (jax.enable_x64)."
        )
    if end.l2 > 0:
        relative = end.gap / end.loss if end.loss else 0.0
        state = f"the loss is certified to be within {end.gap:.2g} nats of the optimum, {relative:.2g} of it"
    else:
        state = f"the gradient's norm is {end.norm:.2g}; l2=0 has no certificate"
    if end.status == CONVERGED:
        return state + "."
    wanted = f"tol={end.tol:g} asks for less"
    if end.status == STOPPED:
        return f"the fit was ended before its time: {state}, and {wanted}."
    if end.status == ITERATIONS:
        advice = "Allow more iterations, or a larger tol or l2."
        return f"max_iterations={end.limit} are used up: {state}, and {wanted}. {advice}"
    float64 = "use float64 (jax.enable_x64), " if np.dtype(end.dtype) == np.float32 else ""
    if end.excess > end.tol * end.loss / 4:
        return (
            f"{end.dtype} cannot hold the bias of these features, whose mean is large beside their deviation: rounding "
            f"it costs {end.excess:.2g} nats. {state[0].upper()}{state[1:]}, and {wanted}. Subtract the mean from the "
            f"features, {float64}or allow a larger tol."
        )
    advice = f"{float64}{'or ' if float64 else ''}allow a larger tol or l2; scaled features help too."
    return f"{end.dtype} goes no further: {state}, and {wanted}. {advice[0].upper()}{advice[1:]}"
