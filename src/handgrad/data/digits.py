"""The digits that come with the package."""

import importlib.resources

import numpy as np

from handgrad.data.tables import Table


def load_digits() -> Table:
    """1,797 handwritten digits, 8×8 pixels of 0 to 16, each class about equally often.

    They are the test part of *Optical Recognition of Handwritten Digits*, which 13 people wrote, in scikit-learn's
    order. The rows of one writer stand together, so a split must be drawn at random.

    Attribution: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0. Here as unsigned bytes, otherwise unchanged.

    Example:
      >>> digits = load_digits()
      >>> digits.X.shape, digits.image_shape, digits.class_names[:3]
      ((1797, 64), (8, 8), (0, 1, 2))
    """
    with (importlib.resources.files("handgrad.data") / "digits.npz").open("rb") as file, np.load(file) as archive:
        X, y = archive["X"], archive["y"]
    return Table(X=X.reshape(len(X), -1), labels=y.astype(np.int32), class_names=tuple(range(10)), image_shape=(8, 8))
