r"""The non-linearities f of y = f(XW + b), each with its first two derivatives beside it.

All that backpropagation needs of f are two products with its Jacobian J = dA/dZ, A = f(Z), row by row:

    backward:            J G, what a gradient G = dL/dA becomes as it passes: dL/dZ. J is symmetric for every f
                         here, so the same product takes a change Ż forward: Ȧ = J Ż.
    backward_derivative: J̇ G, how that changes as Z changes by Ż; the curvature needs it.

Where f acts entry by entry, J is diagonal and they are f′(Z) ∘ G and f″(Z) ∘ Ż ∘ G. At a kink the convention is that of
`jax.nn`: relu has f′(0) = 0, leaky_relu f′(0) = 1, and f″ is 0 there and everywhere else.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from handgrad.formulas.softmax import shifted_exponentials, softmax_derivative

LEAKY_SLOPE = 0.01  # of leaky_relu where Z < 0


class Activation(NamedTuple):
    """A non-linearity and its derivatives; see the module. `xp` is the namespace of the arrays.

    Attributes:
      function: (xp, Z) to A.
      backward: (xp, Z, A, G) to J G.
      backward_derivative: (xp, Z, A, G, dZ) to J̇ G.
      gain: the standard deviation of initial weights is gain·√(1/P), or Glorot's √(2/(P + C)) where it is None.
    """

    function: Callable[..., Any]
    backward: Callable[..., Any]
    backward_derivative: Callable[..., Any]
    gain: float | None


def _elementwise(
    function: Callable[..., Any], slope: Callable[..., Any], curvature: Callable[..., Any], gain: float | None
) -> Activation:
    """An activation from f(Z), f′ and f″, these two as functions of Z and A."""
    return Activation(
        function=function,
        backward=lambda xp, Z, A, G: slope(xp, Z, A) * G,
        backward_derivative=lambda xp, Z, A, G, dZ: curvature(xp, Z, A) * dZ * G,
        gain=gain,
    )


def _zero(_xp: Any, _Z: Any, _A: Any) -> float:
    return 0.0


def _sigmoid(xp: Any, Z: Any) -> Any:
    # Of −|Z|, so that neither tail is lost, and smooth at 0 also where it is differentiated once more.
    e = xp.exp(xp.where(Z >= 0, -Z, Z))
    return xp.where(Z >= 0, 1 / (1 + e), e / (1 + e))


# Φ and φ: the distribution function of the standard normal distribution, and its density.


def _normal_density(xp: Any, Z: Any) -> Any:
    return xp.exp(-0.5 * Z * Z) / math.sqrt(2 * math.pi)


def _normal_distribution(xp: Any, Z: Any) -> Any:
    # The array API has no erf. For z ≥ 0, erfc(z) = t·exp(−z² + g(t)) with t = 2/(2 + z), and g is smooth on (0, 1]:
    # Chebyshev's series of it, summed by Clenshaw's recurrence, is exact to rounding with 28 terms in float64 and with
    # 14 in float32. Φ(Z) = erfc(−Z/√2)/2.
    z = xp.abs(Z) / math.sqrt(2)
    t = 2 / (2 + z)
    twice = 4 * t - 2
    later, latest = xp.zeros_like(Z), xp.zeros_like(Z)
    for coefficient in reversed(_ERFC[1 : 28 if xp.finfo(Z.dtype).bits == 64 else 14]):
        later, latest = latest, coefficient + twice * latest - later
    upper_tail = 0.5 * t * xp.exp(-z * z + 0.5 * (_ERFC[0] + twice * latest) - later)
    return xp.where(Z > 0, 1 - upper_tail, upper_tail)


_ERFC = (
    -1.30265371978170943,
    6.4196979235649026e-1,
    1.94764732041858363e-2,
    -9.56151478680863164e-3,
    -9.46595344482036866e-4,
    3.66839497852761452e-4,
    4.25233248069077716e-5,
    -2.02785781125342432e-5,
    -1.62429000464702551e-6,
    1.3036558355805232e-6,
    1.56264417220661432e-8,
    -8.52380959149265425e-8,
    6.5290544390988515e-9,
    5.05934349555146894e-9,
    -9.91364156493033087e-10,
    -2.27365122293183586e-10,
    9.6467911020155268e-11,
    2.39403808303911474e-12,
    -6.8860275264975534e-12,
    8.94487927309072572e-13,
    3.13092139934295808e-13,
    -1.12708223613672524e-13,
    3.81090525518923206e-16,
    7.10609761360923699e-15,
    -1.5230282014571043e-15,
    -9.457494571291234e-17,
    1.21023718922427899e-16,
    -2.81666308774717697e-17,
)


# gelu_tanh is Z/2·(1 + tanh u) with u = √(2/π)(Z + 0.044715 Z³); here are tanh u, u′ and u″.
def _tanh_argument(xp: Any, Z: Any) -> tuple[Any, Any, Any]:
    scale = math.sqrt(2 / math.pi)
    return (
        xp.tanh(scale * (Z + 0.044715 * Z * Z * Z)),
        scale * (1 + 3 * 0.044715 * Z * Z),
        scale * 6 * 0.044715 * Z,
    )


def _gelu_tanh_slope(xp: Any, Z: Any, _A: Any) -> Any:
    # (1 + tanh u)/2 + Z/2·(1 − tanh² u) u′
    tanh, du, _ = _tanh_argument(xp, Z)
    return 0.5 * (1 + tanh) + 0.5 * Z * (1 - tanh * tanh) * du


def _gelu_tanh_curvature(xp: Any, Z: Any, _A: Any) -> Any:
    # (1 − tanh² u)(u′ + Z/2·u″ − Z·tanh u·u′²)
    tanh, du, ddu = _tanh_argument(xp, Z)
    return (1 - tanh * tanh) * (du + 0.5 * Z * ddu - Z * tanh * du * du)


def _silu_slope(xp: Any, Z: Any, _A: Any) -> Any:
    s = _sigmoid(xp, Z)
    return s * (1 + Z * (1 - s))


def _silu_curvature(xp: Any, Z: Any, _A: Any) -> Any:
    s = _sigmoid(xp, Z)
    return s * (1 - s) * (2 + Z * (1 - 2 * s))


# The Jacobian of softmax is no diagonal but diag(A) − AAᵀ in each row, and
#
#     J G = A ∘ (G − ⟨A, G⟩)        J̇ G = Ȧ ∘ (G − ⟨A, G⟩) − A ∘ ⟨Ȧ, G⟩  with  Ȧ = J Ż


def _softmax_function(xp: Any, Z: Any) -> Any:
    _, exponentials, total = shifted_exponentials(xp, Z)
    return exponentials / total


def _softmax_backward(xp: Any, _Z: Any, A: Any, G: Any) -> Any:
    return softmax_derivative(xp, A, G)


def _softmax_backward_derivative(xp: Any, _Z: Any, A: Any, G: Any, dZ: Any) -> Any:
    dA = softmax_derivative(xp, A, dZ)
    return dA * (G - xp.sum(A * G, axis=1, keepdims=True)) - A * xp.sum(dA * G, axis=1, keepdims=True)


_HE = math.sqrt(2)  # half of the inputs are cut off: He, Zhang, Ren and Sun, *Delving deep into rectifiers* (2015)
_LECUN = 1.0  # LeCun, Bottou, Orr and Müller, *Efficient BackProp* (1998)
_GLOROT = None  # Glorot and Bengio, *Understanding the difficulty of training deep feedforward networks* (2010)

ACTIVATIONS: dict[str, Activation] = {
    # name: f(Z), f′, f″
    "identity": _elementwise(
        lambda xp, Z: Z,
        lambda xp, Z, A: 1.0,
        _zero,
        _LECUN,
    ),
    "relu": _elementwise(
        lambda xp, Z: xp.where(Z <= 0, 0.0, Z),  # a NaN stays one
        lambda xp, Z, A: xp.where(A <= 0, 0.0, xp.ones_like(A)),
        _zero,
        _HE,
    ),
    "leaky_relu": _elementwise(
        lambda xp, Z: xp.where(Z >= 0, Z, LEAKY_SLOPE * Z),
        lambda xp, Z, A: xp.where(A >= 0, xp.ones_like(A), LEAKY_SLOPE),
        _zero,
        math.sqrt(2 / (1 + LEAKY_SLOPE**2)),
    ),
    "tanh": _elementwise(
        lambda xp, Z: xp.tanh(Z),
        lambda xp, Z, A: 1 - A * A,
        lambda xp, Z, A: -2 * A * (1 - A * A),
        _GLOROT,
    ),
    "sigmoid": _elementwise(
        _sigmoid,
        lambda xp, Z, A: A * (1 - A),
        lambda xp, Z, A: A * (1 - A) * (1 - 2 * A),
        _GLOROT,
    ),
    "softplus": _elementwise(
        lambda xp, Z: xp.logaddexp(Z, xp.zeros_like(Z)),
        lambda xp, Z, A: _sigmoid(xp, Z),
        lambda xp, Z, A: _sigmoid(xp, Z) * _sigmoid(xp, -Z),
        _LECUN,
    ),
    "gelu": _elementwise(
        lambda xp, Z: Z * _normal_distribution(xp, Z),
        lambda xp, Z, A: _normal_distribution(xp, Z) + Z * _normal_density(xp, Z),
        lambda xp, Z, A: (2 - Z * Z) * _normal_density(xp, Z),
        _HE,
    ),
    "gelu_tanh": _elementwise(
        lambda xp, Z: 0.5 * Z * (1 + _tanh_argument(xp, Z)[0]),
        _gelu_tanh_slope,
        _gelu_tanh_curvature,
        _HE,
    ),
    "silu": _elementwise(
        lambda xp, Z: Z * _sigmoid(xp, Z),
        _silu_slope,
        _silu_curvature,
        _HE,
    ),
    "softmax": Activation(
        _softmax_function,
        _softmax_backward,
        _softmax_backward_derivative,
        _GLOROT,
    ),
}
