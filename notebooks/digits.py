# %% [markdown]
# # Digits, from zero to a report
#
# 1,797 handwritten digits come with handgrad. In this notebook you look at them, learn them by a gradient that you
# write yourself, find the very best weights and a proof of it, choose how simple they are to be, keep the model, and
# get a page to show to somebody else.
#
# ```sh
# pip install 'handgrad[app]' matplotlib
# ```

# %%
import json
import pathlib
import subprocess
import sys
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import handgrad
from handgrad import Params, formulas
from handgrad.data import load_digits, split_and_scale

np.set_printoptions(precision=4, suppress=True)
plt.rcParams |= {"figure.figsize": (6.4, 3.2), "figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False}
blue, orange = "#2f86d1", "#d9660a"

# %% [markdown]
# ## Look first
#
# 8 × 8 pixels, each from 0 to 16, so $P = 64$ features and $C = 10$ classes.

# %%
table = load_digits()
print(table.X.shape, np.bincount(table.labels))

_, all_axes = plt.subplots(3, 10, figsize=(7, 2.3))
for axes, image in zip(all_axes.flat, table.X, strict=False):
    axes.imshow(image.reshape(8, 8), cmap="Greys")
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Put a fifth away
#
# What is to be believed about a model is how it does on rows that it has never seen. `split_and_scale` holds out a
# fifth of each class and scales the pixels by what it sees in the rest.

# %%
digits = split_and_scale(table)
X, t = digits.train.X.astype(np.float64), digits.train.labels
X_test, t_test = digits.test.X.astype(np.float64), digits.test.labels
print(X.shape, X_test.shape)

# %% [markdown]
# ## What knowing nothing costs
#
# Weights of 0 give every digit a tenth. That costs $\log 10 = 2.30$ nats, or 3.32 bits, and every model has to do
# better.

# %%
zero = Params(W=np.zeros((64, 10)), b=np.zeros((1, 10)))
print(f"{formulas.loss(zero, X, t):.4f} nats")

# %% [markdown]
# ## Your own gradient
#
# $$\frac{\partial L}{\partial W} = \frac{1}{N} X^{\top} (Y - T) \qquad
# \frac{\partial L}{\partial b} = \frac{1}{N} \mathbf{1}^{\top} (Y - T)$$
#
# Write it down, and have it checked: each entry against autograd, and some against differences of the loss.


# %%
def gradient(params, X, targets):
    Z = X @ params.W + params.b
    E = np.exp(Z - Z.max(axis=1, keepdims=True))
    D = (E / E.sum(axis=1, keepdims=True) - np.eye(10)[targets]) / len(X)
    return Params(X.T @ D, D.sum(axis=0, keepdims=True))


report = handgrad.check_gradients(zero, X[:200], t[:200], gradient=gradient, dtypes=["float64"])
print(report.passed)

# %% [markdown]
# ## Learn
#
# Two hundred steps of gradient descent, over all rows each time.

# %%
params, losses, accuracies = zero, [], []
for _ in range(200):
    losses.append(formulas.loss(params, X, t))
    accuracies.append(np.mean(formulas.predict(params, X_test) == t_test))
    step = gradient(params, X, t)
    params = Params(params.W - 0.5 * step.W, params.b - 0.5 * step.b)

figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8))
left.plot(losses, color=blue)
left.set(xlabel="step", ylabel="loss of the training rows, nats", ylim=(0, None))
right.plot(accuracies, color=orange)
right.set(xlabel="step", ylabel="right, of the test rows", ylim=(0, 1.02))
figure.tight_layout()
plt.show()
print(f"{accuracies[-1]:.1%} of the test rows right")

# %% [markdown]
# ## What it has learnt
#
# The weights of a digit are an image too. Where it is purple, ink speaks for the digit, where it
# is orange against it.

# %%
_, all_axes = plt.subplots(2, 5, figsize=(6.4, 2.8))
for digit, axes in enumerate(all_axes.flat):
    axes.imshow(params.W[:, digit].reshape(8, 8), cmap="PuOr", vmin=-0.8, vmax=0.8)
    axes.set(title=digit, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## The best there is
#
# Gradient descent would go on for a long time. `fit` goes to the optimum of the loss with a small price on long
# weights, and proves how near it is.

# %%
result = handgrad.fit(digits.train.X, t, l2=1e-3)
print(f"loss {result.loss:.4f} nats; proved to a hundred-thousandth of it: {result.gap <= 1e-5 * result.loss}")
print(f"{np.mean(handgrad.predict(result.params, digits.test.X) == t_test):.1%} of the test rows right")

# %% [markdown]
# ## How simple is it to be?
#
# The larger the price, `l2`, the shorter the weights. Too small, and the model learns its rows by heart; too large,
# and it learns nothing. `fit_path` fits many prices side by side, each in five folds, and tells which does best on
# rows that were not fitted.

# %%
path = handgrad.fit_path(digits.train.X, t, l2s=np.logspace(-6, 0, 13), validation=5)
plt.loglog(path.l2s, path.validation_loss, "-o", color=orange, label="rows not fitted, five folds")
trained = [handgrad.loss(Params(W, b), digits.train.X, t) for W, b in zip(*path.params, strict=True)]
plt.loglog(path.l2s, trained, "-s", color=blue, label="rows fitted")
plt.xlabel("l2")
plt.ylabel("cross-entropy, nats")
plt.legend()
plt.show()
print(f"the best is l2 = {path.l2s[path.best]:.4g}")

# %% [markdown]
# ## Look at what it gets wrong
#
# The price was chosen without the test rows, so that what they say is to be believed.

# %%
Y = np.asarray(handgrad.predict_proba(path.best_params, digits.test.X))
says = Y.argmax(axis=1)
wrong = np.flatnonzero(says != t_test)
print(f"{len(wrong)} of {len(t_test)} are wrong")

_, all_axes = plt.subplots(1, 6, figsize=(7, 1.8))
for axes, row in zip(all_axes, wrong[np.argsort(-Y[wrong].max(axis=1))], strict=False):
    axes.imshow(X_test[row].reshape(8, 8), cmap="Greys")
    axes.set(title=f"a {t_test[row]}: says {says[row]}", xticks=[], yticks=[])
    axes.set_xlabel(f"{Y[row, says[row]]:.0%} sure")
    axes.title.set_fontsize(9)
for axes in all_axes[len(wrong) :]:
    axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Keep it
#
# One file, with the names of the classes and the scaling of the pixels in it, so that it takes raw images.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
handgrad.save(path, folder / "model", class_names=table.class_names, encoding=digits.encoding)
model = handgrad.load(folder / "model")
print(model.predict(table)[:10], table.labels[:10])

# %% [markdown]
# ## The report
#
# All of the above is one command, here on the digits, on a table of yours as `handgrad fit flowers.csv --target
# species`. It chooses the price, fits, proves, checks the gradient, looks at the test rows once, and writes a page
# with pictures: `report.html`, which opens without a network.

# %%
command = [sys.executable, "-m", "handgrad", "fit", "--out", str(folder / "run")]
subprocess.run(command, check=True, capture_output=True)
metrics = json.loads((folder / "run" / "metrics.json").read_text())
print(sorted(file.name for file in (folder / "run").iterdir()))
low, high = metrics["test_accuracy_interval"]
print(f"{metrics['test_right']} of {metrics['test_rows']} right; the true share is {low:.1%} to {high:.1%}, 95 % sure")
print(f"test loss {metrics['test_loss']:.3f} nats, without the pixels {metrics['baseline_loss']:.3f}")

# %% [markdown]
# Copy the report to where you are, and open it:

# %%
page = pathlib.Path("digits.html")
page.write_text((folder / "run" / "report.html").read_text())
print(f"{page} is {page.stat().st_size > 20_000 and 'there'}")
