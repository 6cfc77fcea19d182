r"""What a penalty of handgrad's is called elsewhere.

handgrad minimises the mean cross-entropy + (l2/2)‖W‖², a column of W for each class, the bias not penalised. Others
minimise a sum, or for two classes penalise one vector, the difference w = w₂ − w₁; at the optimum w₁ = −w₂, so that
(l2/2)‖W‖² = (l2/4)‖w‖². With N rows, or the sum of their weights, and k = 2 for two classes, 1 for more,

    scikit-learn's LogisticRegression, ½‖W‖² + C·Σ loss                     C = k/(l2·N)
    cuML's LogisticRegression, which is as scikit-learn's                   C = k/(l2·N)
    torch.optim.SGD on the mean loss, all classes' columns                  weight_decay = l2, of W alone
    scikit-learn's SGDClassifier(loss="log_loss"), mean loss + (α/2)‖w‖²    alpha = l2/k
    scikit-learn's Ridge, Σ squares + α‖w‖², of a mean of halved squares    alpha = l2·N

SGDClassifier fits more than two classes one against the rest, and Ridge another loss: there the penalty is as strong
beside the loss, and the optimum is another.
"""

from typing import NamedTuple


class Penalty(NamedTuple):
    """A penalty under another name: of what, what it is called, its value, by which formula, and whether the optimum is
    the same.
    """

    of: str
    name: str
    value: float
    formula: str
    same_optimum: bool


def translate(l2: float, rows: float, num_classes: int) -> tuple[Penalty, ...]:
    """What l2 > 0 is elsewhere, for so many rows (the sum of their weights) and classes.

    Example:
      >>> [(each.name, each.value) for each in translate(0.01, 500, 2)[:2]]
      [('C', 0.4), ('weight_decay', 0.01)]
    """
    k, of_two = (2, "2" if num_classes == 2 else "1") if num_classes == 2 else (1, "1")
    return (
        Penalty("scikit-learn LogisticRegression", "C", k / (l2 * rows), f"{of_two}/(l2·rows)", True),
        Penalty("torch.optim.SGD, of W and the mean loss", "weight_decay", l2, "l2", True),
        Penalty(
            "scikit-learn SGDClassifier(loss='log_loss')",
            "alpha",
            l2 / k,
            "l2/2" if k == 2 else "l2, one class against the rest",
            k == 2,
        ),
        Penalty("scikit-learn Ridge", "alpha", l2 * rows, "l2·rows, of squares", False),
    )
