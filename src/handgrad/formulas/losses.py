"""T from t, the cross-entropy L, its gradient (Y − T)/N, and what cross-entropy is made of."""

import contextlib
import math
from typing import Any

from array_api_compat import array_namespace, device

from handgrad import arguments
from handgrad.formulas.softmax import shifted_exponentials, softmax
from handgrad.precision import distributions, relative_weights, wide_dtype, widen, widen_labels, without_uncounted
from handgrad.shapes import Float, Integer, Shaped

Array = Any

# --- T from t -----------------------------------------------------------------------------------------------------


def one_hot(labels: Integer[Array, " N"], num_classes: int, dtype: Any = None) -> Float[Array, "N C"]:
    """The one-hot rows T of labels t: T_ic = 1 where t_i = c, else 0.

    Args:
      labels: shape (N,), integer dtype, in [0, num_classes).
      num_classes: C.
      dtype: a floating dtype of the labels' library; its default (float32, or float64 in NumPy) if None.

    Returns:
      Array (N, C).

    Raises:
      TypeError: labels or a dtype of the wrong kind.
      ValueError: a label outside [0, C). Under `jit` its row is NaN instead.

    Example:
      >>> one_hot(np.array([2, 0]), 3)
      array([[0., 0., 1.],
             [1., 0., 0.]])
    """
    arguments.check_positive_integer("one_hot", "num_classes", num_classes)
    xp = arguments.check_labels("one_hot", "labels", labels)
    arguments.check_targets("one_hot", labels, labels.shape[0], num_classes)
    if dtype is None:
        dtype = xp.asarray(0.0).dtype
    else:
        is_floating = False
        with contextlib.suppress(TypeError, AttributeError):  # of what is no dtype of the library
            is_floating = xp.isdtype(dtype, "real floating")
        if not is_floating:
            raise TypeError(f"one_hot: dtype must be floating-point; got {dtype}.")
    return _one_hot(xp, labels, num_classes, dtype)


def _one_hot(xp: Any, labels: Integer[Array, " N"], num_classes: int, dtype: Any) -> Float[Array, "N C"]:
    # Compared with 0 … C−1 rather than scattered: a comparison fuses into whatever reads T, so T is never stored.
    labels, valid = widen_labels(xp, labels, num_classes)
    classes = xp.arange(num_classes, dtype=labels.dtype, device=device(labels))
    elsewhere = xp.where(valid, xp.zeros_like(labels, dtype=dtype), math.nan)
    return xp.where(labels[:, None] == classes[None, :], 1.0, elsewhere[:, None])


# --- L = cross-entropy --------------------------------------------------------------------------------------------
#
# Forward:   L = −(1/N) Σ_i Σ_j T_ij log Y_ij, which for one-hot T is −(1/N) Σ_i log Y_{i,t_i}
#
# Backward:  log Y_ij = Z_ij − log Σ_k exp(Z_ik), and log-sum-exp has gradient softmax. Row i of N·L is therefore
#            log Σ_k exp(Z_ik) − Σ_j T_ij Z_ij, using Σ_j T_ij = 1, and its gradient is Y_i − T_i:
#
#     dL/dZ = (Y − T) / N


def cross_entropy(
    Z: Float[Array, "N C"],
    targets: Array,
    weights: Shaped[Array, " N"] | None = None,
    *,
    base: float = math.e,
) -> Float[Array, ""]:
    """The mean cross-entropy of softmax(Z) against the targets: L = −(1/N) ΣΣ T log Y.

    It is the expected number of nats (bits, with base=2) that encode a target when the code is made for Y; the
    entropy of the targets is the least it can be, and what it exceeds that by is the KL divergence:
    H(T, Y) = H(T) + KL(T‖Y).

    Args:
      Z: logits, shape (N, C), floating.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C), whose rows are divided by their sums.
      weights: sample weights (N,), finite, non-negative; the mean becomes sum(w·l)/sum(w). A row of weight 0 does
        not count, whatever is in it, and if every weight is 0 the loss is 0.
      base: of the logarithm; e for nats, 2 for bits.

    Returns:
      Scalar in Z's dtype, or float32 where that is narrower. Infinite where a target has a masked class.

    Raises:
      TypeError: logits that are not floating; targets that are neither labels nor distributions.
      ValueError: shapes that disagree, a label outside [0, C), a row that is no distribution, a negative weight.
        Under `jit` the last three give NaN instead.

    Example:
      >>> print(cross_entropy(np.zeros((1, 4)), np.array([0]), base=2))
      2.0
    """
    xp, Z, weights = _check_loss("cross_entropy", Z, targets, weights)
    return mean_loss(xp, Z, targets, weights) / _log("cross_entropy", base)


def mean_loss(xp: Any, Z: Float[Array, "N C"], targets: Array, weights: Shaped[Array, " N"] | None) -> Float[Array, ""]:
    """`cross_entropy` in nats, its arguments taken as checked."""
    Z = widen(xp, Z)
    maximum, _, total = shifted_exponentials(xp, Z)
    if targets.ndim == 1:
        # −log Y_{i,t_i} = log Σ exp(Z_i − m_i) + m_i − Z_{i,t_i}
        labels, valid = widen_labels(xp, targets, Z.shape[1])
        Z_t = xp.take_along_axis(Z, xp.where(valid, labels, 0)[:, None], axis=1)
        losses = xp.where(valid, (xp.log(total) + (maximum - Z_t))[:, 0], math.nan)
    else:
        # −Σ_j T_ij log Y_ij, with 0 · log 0 = 0: a masked class that is no target costs nothing.
        T = distributions(xp, targets, Z.dtype)
        losses = -xp.sum(xp.where(T == 0, 0.0, T * ((Z - maximum) - xp.log(total))), axis=1)
    return xp.sum(times_weights(xp, losses, weights)) / normaliser(xp, losses, weights)


def logit_gradient(
    Z: Float[Array, "N C"], targets: Array, weights: Shaped[Array, " N"] | None = None
) -> Float[Array, "N C"]:
    r"""Gradient of the mean cross-entropy with respect to the logits: (Y − T) / N.

    log-sum-exp has gradient softmax, and the target's own logit has gradient T, so

        dL/dZ = (softmax(Z) − T) / N

    Args:
      Z: logits, shape (N, C), floating.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      weights: sample weights (N,), finite, non-negative; row i is multiplied by w_i/sum(w) in place of 1/N.

    Returns:
      Array (N, C) in Z's dtype; each row sums to 0.

    Raises:
      TypeError, ValueError: as `cross_entropy`.

    Example:
      >>> print(logit_gradient(np.zeros((1, 4)), np.array([0])))
      [[-0.75  0.25  0.25  0.25]]

    Reference: Bishop, *Pattern Recognition and Machine Learning* (2006), section 4.3.4.
    """
    xp, Z, weights = _check_loss("logit_gradient", Z, targets, weights)
    D = residual(xp, Z, targets, weights)
    return xp.astype(D / normaliser(xp, D, weights), Z.dtype)


def residual(
    xp: Any, Z: Float[Array, "N C"], targets: Array, weights: Shaped[Array, " N"] | None
) -> Float[Array, "N C"]:
    """Y − T, times w where there are weights, in float32 or wider; the arguments are taken as checked."""
    Y = softmax(widen(xp, Z))
    return times_weights(xp, Y - target_distributions(xp, targets, Z.shape[1], Y.dtype), weights)


def target_distributions(xp: Any, targets: Array, num_classes: int, dtype: Any) -> Float[Array, "N C"]:
    """T of either kind of targets, in the dtype, float32 or wider; NaN in a row that has no distribution."""
    if targets.ndim == 1:
        return _one_hot(xp, targets, num_classes, dtype)
    return distributions(xp, targets, dtype)


def times_weights(xp: Any, rows: Float[Array, "N ..."], weights: Shaped[Array, " N"] | None) -> Float[Array, "N ..."]:
    """Each row times its weight. A row of weight 0 is 0 whatever is in it; one of negative weight is NaN."""
    if weights is None:
        return rows
    weights = xp.astype(weights, rows.dtype)
    weights = xp.reshape(xp.where(weights < 0, math.nan, weights), (-1,) + (1,) * (rows.ndim - 1))
    return xp.where(weights == 0, 0.0, weights * rows)


def normaliser(xp: Any, rows: Float[Array, "N ..."], weights: Shaped[Array, " N"] | None) -> Any:
    """What a sum over the rows is divided by to be their mean: N, or sum(w), or 1 where every weight is 0."""
    if weights is None:
        return rows.shape[0]
    total = xp.sum(xp.astype(weights, rows.dtype))
    return xp.where(total == 0, 1.0, total)


def check_relative(
    function: str, rows: Float[Array, "N ..."], weights: Shaped[Array, " N"] | None
) -> Float[Array, " N"] | None:
    """Check the weights of the rows. Returns them over their largest, in the rows' dtype or float32."""
    if weights is None:
        return None
    xp = array_namespace(rows)
    wide = wide_dtype(rows.dtype, xp)
    arguments.check_weights(function, weights, rows.shape[0], dtype=wide)
    return relative_weights(xp, weights, wide)


def _check_loss(function: str, Z: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
    xp = arguments.check_array(function, "Z", Z, "(N, C)")
    arguments.check_targets(function, targets, *Z.shape)
    relative = check_relative(function, Z, weights)
    return xp, without_uncounted(xp, Z, relative), relative


# --- What cross-entropy is made of: H(T, Y) = H(T) + KL(T‖Y) ---------------------------------------------------


def entropy(T: Float[Array, "N C"], base: float = math.e) -> Float[Array, ""]:
    """The mean entropy of the rows of T: H(T) = −(1/N) ΣΣ T log T, with 0 log 0 = 0.

    Args:
      T: distributions, shape (N, C), floating.
      base: of the logarithm; e for nats, 2 for bits.

    Returns:
      Scalar in T's dtype, or float32 where that is narrower; between 0 and log C.

    Raises:
      TypeError, ValueError: T that has no distributions for rows. Under `jit` such a row gives NaN instead.

    Example:
      >>> print(entropy(np.array([[0.25, 0.25, 0.5]]), base=2))
      1.5
    """
    xp = arguments.check_distributions("entropy", "T", T)
    T = distributions(xp, T, widen(xp, T).dtype)
    return -xp.sum(_times_log(xp, T, T)) / T.shape[0] / _log("entropy", base)


def kl_divergence(T: Float[Array, "N C"], Y: Float[Array, "N C"], base: float = math.e) -> Float[Array, ""]:
    """The mean Kullback–Leibler divergence of Y from T: KL(T‖Y) = (1/N) ΣΣ T log(T/Y).

    Args:
      T: distributions, shape (N, C), floating.
      Y: distributions, of T's shape and dtype.
      base: of the logarithm; e for nats, 2 for bits.

    Returns:
      Scalar in T's dtype, or float32 where that is narrower. At least 0 but for rounding; infinite where T has mass
      and Y has none.

    Raises:
      TypeError, ValueError: as `entropy`, or shapes or dtypes that disagree.

    Example:
      >>> print(kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]), base=2))
      1.0
    """
    xp = arguments.check_distributions("kl_divergence", "T", T)
    arguments.check_distributions("kl_divergence", "Y", Y)
    arguments.check_same("kl_divergence", "Y", Y, "T", T)
    T, Y = (distributions(xp, rows, widen(xp, rows).dtype) for rows in (T, Y))
    return xp.sum(_times_log(xp, T, T) - _times_log(xp, T, Y)) / T.shape[0] / _log("kl_divergence", base)


def _times_log(xp: Any, T: Float[Array, "N C"], Y: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """T log Y, 0 where T is 0. The inner `where` keeps NaN out of a derivative taken through it."""
    return xp.where(T == 0, 0.0, T * xp.log(xp.where(T == 0, 1.0, Y)))


def _log(function: str, base: float) -> float:
    number = arguments.check_number(function, "base", base, positive=True)
    if number == 1:
        raise ValueError(
            f"{function}: base must be a finite positive number other than 1; got {base!r}. 2 gives bits, math.e nats."
        )
    return math.log(number)
