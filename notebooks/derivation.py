# %% [markdown]
# # The derivation in forty cells
#
# From scores to probabilities, to a loss, to its gradient, to weights that are proved to be the best there are. Each
# step is a formula, a few lines that compute it, and a picture. Run the cells one after another. Then go back and
# change something: the weights of the guess, a label, the rate.
#
# ```sh
# pip install 'handgrad[app]' matplotlib
# ```

# %%
import textwrap

import matplotlib.pyplot as plt
import numpy as np

import handgrad
from handgrad import Layer, Params, formulas

np.set_printoptions(precision=4, suppress=True)
plt.rcParams |= {"figure.figsize": (6.4, 3.2), "figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False}
blue, orange, green, purple = "#2f86d1", "#d9660a", "#1a9e77", "#b0689c"

# %% [markdown]
# ## Four pieces of fruit
#
# $N = 4$ samples, $P = 2$ features (size in decimetres, redness), $C = 3$ classes. The labels $t$ count from 0.

# %%
fruit, classes = ("banana", "green apple", "red apple", "cherry"), ("apple", "banana", "cherry")
X = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
t = np.array([1, 0, 0, 2])
T = np.eye(3)[t]
of_class = np.array([green, orange, purple])

_, axes = plt.subplots(figsize=(5, 2.6))
axes.scatter(*X.T, s=120, c=of_class[t])
for place, name in zip(X, fruit, strict=True):
    axes.annotate(name, place, xytext=(0, 10), textcoords="offset points", ha="center")
axes.set(xlabel="size, dm", ylabel="redness", xlim=(-0.5, 2.5), ylim=(-0.4, 1.5))
plt.show()

# %% [markdown]
# ## Logits
#
# $$Z = XW + b$$
#
# A number for each class, made of the features by weights $W$, $P \times C$, and a bias $b$, $1 \times C$. We begin
# with a bad guess: what is red is a cherry, what is not is a banana. Size is not looked at. The factor $\log 2$ makes
# all exponentials powers of two.

# %%
guess = Params(W=np.log(2) * np.array([[0, 0, 0], [0, -1.0, 1]]), b=np.log(2) * np.array([[0, 1.0, 0]]))
Z = X @ guess.W + guess.b
print(Z / np.log(2))
print([classes[c] for c in Z.argmax(axis=1)])

# %% [markdown]
# ## Softmax
#
# $$Y_{ic} = \frac{e^{Z_{ic}}}{\sum_j e^{Z_{ij}}}$$
#
# Positive, and each row sums to 1. The ratio of two probabilities is $e$ to the difference of their logits, so
# differences are all that counts: add 1000 to `Z` below, and nothing changes.

# %%
Y = formulas.softmax(Z)
print(Y)

# %%
temperatures = np.geomspace(0.05, 20, 100)
by_temperature = np.stack([formulas.softmax(Z[:1] / tau)[0] for tau in temperatures])
for c in range(3):
    plt.semilogx(temperatures, by_temperature[:, c], "-" if c < 2 else "--", color=of_class[c], lw=2, label=classes[c])
plt.xlabel("temperature: Z is divided by it")
plt.ylabel("the banana's probabilities")
plt.legend()
plt.show()

# %% [markdown]
# ## Cross-entropy
#
# $$L = -\frac{1}{N} \sum_i \log Y_{i,t_i}$$
#
# What it costs to be told the truth, in the mean, if the code was made for $Y$: a class of probability 1/2 costs one
# bit, one of 1/4 two. With the natural logarithm the unit is the nat, 1.44 bits.

# %%
bits = -np.log2(Y[np.arange(4), t])
print(dict(zip(fruit, bits.tolist(), strict=True)))
print(
    f"mean {bits.mean()} bits; {formulas.cross_entropy(Z, t, base=2):.4f} bits, {formulas.cross_entropy(Z, t):.4f} nats"
)

# %%
p = np.linspace(0.01, 1, 200)
plt.plot(p, -np.log2(p), color=blue, lw=2)
plt.plot(Y[np.arange(4), t], bits, "o", color=orange, ms=9)
plt.xlabel("probability that the model gave to what came true")
plt.ylabel("cost, bits")
plt.show()

# %% [markdown]
# ## Why this loss
#
# $$H(T, Y) = H(T) + \mathrm{KL}(T \| Y)$$
#
# Three people look at the green apple and one calls it a banana: $T = (2/3, 1/3, 0)$. Even who knows that pays the
# entropy $H(T)$. The rest, the divergence, is waste. It is 0 where $Y = T$ and positive elsewhere, so to lower the
# loss is to waste fewer bits.

# %%
soft = np.array([[2 / 3, 1 / 3, 0.0]])
predictions = {
    "T itself": soft[0],
    "nearly": [0.5, 0.4, 0.1],
    "no idea": [1 / 3] * 3,
    "the guess": Y[1],
    "wrong": [0.1, 0.2, 0.7],
}
least = formulas.entropy(soft, base=2)
waste = [formulas.kl_divergence(soft, np.array([y], np.float64), base=2) for y in predictions.values()]
plt.bar(predictions.keys(), [least] * 5, color=blue, label="entropy")
plt.bar(predictions.keys(), waste, bottom=least, color=orange, label="divergence")
plt.ylabel("bits")
plt.legend()
plt.show()
print(f"{least:.4f} + {waste[3]:.4f} = {formulas.cross_entropy(Z[1:2], soft, base=2):.4f}")

# %% [markdown]
# ## The line that everything follows from
#
# $\log Y_{ic} = Z_{ic} - \log\sum_j e^{Z_{ij}}$, and a row of $T$ sums to 1, so the loss of a row is
#
# $$\ell_i = \log \sum_j e^{Z_{ij}} - \sum_c T_{ic} Z_{ic}$$
#
# The first term has the derivative softmax, the second $T$. There is nothing else:
#
# $$\frac{\partial L}{\partial Z} = \frac{1}{N} (Y - T)$$

# %%
D = (Y - T) / 4
print(4 * D)

up, down = Z.copy(), Z.copy()
up[1, 0] += 1e-6
down[1, 0] -= 1e-6
slope = (formulas.cross_entropy(up, t) - formulas.cross_entropy(down, t)) / 2e-6
print(f"the green apple's apple logit: {slope:.6f} by differences, {D[1, 0]:.6f} by hand")

# %% [markdown]
# In the triangle of all probabilities, $T - Y$ is the arrow from what the model says to the corner of what is true.

# %%
corners = np.array([[0.5, np.sqrt(3) / 2], [0, 0], [1, 0]])
_, axes = plt.subplots(figsize=(4.6, 4))
axes.fill(*corners.T, facecolor="#eeeeee", edgecolor="grey")
for y, truth in zip(Y, t, strict=True):
    start, end = y @ corners, corners[truth]
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": of_class[truth], "lw": 2})
    axes.plot(*start, "o", color="grey")
for corner, name, color in zip(corners, classes, of_class, strict=True):
    axes.annotate(
        name, corner, xytext=(0, 8 if corner[1] else -16), textcoords="offset points", ha="center", color=color
    )
axes.set(aspect="equal", ylim=(-0.12, 1))
axes.set_axis_off()
plt.show()

# %% [markdown]
# ## Back to the weights
#
# $W_{pc}$ is in every $Z_{ic}$ with the factor $X_{ip}$. Its derivative adds up over the samples, which is a product:
#
# $$\frac{\partial L}{\partial W} = \frac{1}{N} X^{\top} (Y - T) \qquad
# \frac{\partial L}{\partial b} = \frac{1}{N} \mathbf{1}^{\top} (Y - T)$$

# %%
gradient = formulas.gradient(guess, X, t)
print(16 * gradient.W)
print(np.array_equal(gradient.W, X.T @ D), np.array_equal(gradient.b[0], D.sum(axis=0)))

# %% [markdown]
# Do not take anybody's word for a gradient. `check_gradients` compares each entry with autograd and with differences
# of the loss, ours or yours, and says what is wrong with it. Break `mine` in a way of your own.


# %%
def mine(params, X, targets):
    Y = formulas.softmax(X @ params.W + params.b)
    D = np.eye(3)[targets] - Y
    return X.T @ D, D.sum(axis=0)


for own in (None, mine):
    report = handgrad.check_gradients(guess, X, t, gradient=own, dtypes=["float64"])
    print(report.passed, textwrap.fill(report.diagnosis, 88))

# %% [markdown]
# ## Gradient descent
#
# $$W \leftarrow W - \eta \frac{\partial L}{\partial W} \qquad b \leftarrow b - \eta \frac{\partial L}{\partial b}$$

# %%
params, history = [guess], []
for _ in range(100):
    loss, gradient = formulas.value_and_gradient(params[-1], X, t)
    history.append(float(loss))
    params.append(formulas.sgd_step(params[-1], gradient, learning_rate=1.0))
right = next(step for step, own in enumerate(params) if (formulas.predict(own, X) == t).all())
print(f"all four are right at step {right}; the loss after 100 steps is {formulas.loss(params[-1], X, t):.4f} nats")

# %%
grid = np.stack(np.meshgrid(np.linspace(-0.5, 2.5, 150), np.linspace(-0.5, 1.5, 100)), axis=-1).reshape(-1, 2)
_, all_axes = plt.subplots(1, 4, figsize=(9, 2.2), sharey=True)
for axes, step in zip(all_axes, (0, 1, 3, 10), strict=True):
    says = formulas.predict(params[step], grid).reshape(100, 150)
    colors = np.array([[0.55, 0.81, 0.73], [0.93, 0.7, 0.52], [0.85, 0.71, 0.81]])
    axes.imshow(colors[says], origin="lower", extent=(-0.5, 2.5, -0.5, 1.5), aspect="auto")
    axes.scatter(*X.T, s=70, c=of_class[t], edgecolors="white")
    axes.set(title=f"step {step}: {history[step]:.2f} nats", xlabel="size, dm")
plt.show()

# %% [markdown]
# How large may a step be? The loss curves by no more than $\lambda/2$, $\lambda$ being the largest eigenvalue of the
# mean of $x x^{\top}$ with a 1 for the bias in $x$. A rate of $2/\lambda$ goes down at every step. Far beyond it, the
# loss jumps.

# %%
x = np.column_stack([X, np.ones(4)])
suitable = 2 / np.linalg.eigvalsh(x.T @ x / 4)[-1]
for rate, color in ((suitable / 10, green), (suitable, blue), (6 * suitable, orange)):
    own, losses = guess, []
    for _ in range(30):
        loss, gradient = formulas.value_and_gradient(own, X, t)
        losses.append(loss)
        own = formulas.sgd_step(own, gradient, rate)
    plt.plot(losses, color=color, lw=2, label=f"rate {rate:.2f}")
plt.xlabel("step")
plt.ylabel("loss, nats")
plt.legend()
plt.show()

# %% [markdown]
# ## Hidden layers
#
# A layer before the last, $A = f(XW_1 + b_1)$, bends the borders. Its gradient needs one more line. With $\delta_2 =
# (Y - T)/N$,
#
# $$\delta_1 = (\delta_2 W_2^{\top}) \circ f'(Z_1) \qquad \frac{\partial L}{\partial W_1} = X^{\top} \delta_1$$
#
# Rings are what no straight line divides:

# %%
rng = np.random.default_rng(0)
radius, angle = np.repeat([0.4, 1.0, 1.6], 60) + 0.12 * rng.normal(size=180), rng.uniform(0, 2 * np.pi, 180)
rings, ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), np.repeat([0, 1, 2], 60)


def layer(inputs, outputs):
    return Params(W=rng.normal(size=(inputs, outputs)) / np.sqrt(inputs), b=np.zeros((1, outputs)))


network = (Layer(layer(2, 16), "tanh"), Layer(layer(16, 3), "softmax"))
Z_1 = rings @ network[0].params.W + network[0].params.b
A = np.tanh(Z_1)
D_2 = (formulas.softmax(A @ network[1].params.W + network[1].params.b) - np.eye(3)[ring]) / len(rings)
D_1 = (D_2 @ network[1].params.W.T) * (1 - A**2)
print(np.allclose(rings.T @ D_1, formulas.gradient(network, rings, ring)[0].params.W))

# %%
straight, bent = layer(2, 3), network
for _ in range(1000):
    straight = formulas.sgd_step(straight, formulas.gradient(straight, rings, ring), 0.5)
    bent = formulas.sgd_step(bent, formulas.gradient(bent, rings, ring), 0.5)
side = np.linspace(-2, 2, 120)
plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
_, all_axes = plt.subplots(1, 2, figsize=(7, 3.4))
for axes, model, name in zip(all_axes, (straight, bent), ("no hidden layer", "one of 16 units"), strict=True):
    axes.imshow(colors[formulas.predict(model, plane).reshape(120, 120)], origin="lower", extent=(-2, 2, -2, 2))
    axes.scatter(*rings.T, s=12, c=of_class[ring], edgecolors="white", linewidths=0.4)
    axes.set(title=f"{name}: {np.mean(formulas.predict(model, rings) == ring):.0%} right", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Curvature
#
# Along a direction the logits change with $\dot Z = X\dot W + \dot b$ and the probabilities with $\dot Y = Y \circ
# (\dot Z - \langle Y, \dot Z\rangle)$. The targets stay, so the gradient changes with
#
# $$H(\dot W, \dot b) = \left(\tfrac{1}{N} X^{\top}\dot Y, \; \tfrac{1}{N}\mathbf{1}^{\top}\dot Y\right)$$
#
# A product with the Hessian, for the price of a gradient.


# %%
def hessian(params, X):
    P, C = params.W.shape
    units = (Params(unit.reshape(P, C), np.zeros((1, C))) for unit in np.eye(P * C))
    return np.stack([formulas.hessian_vector_product(params, X, unit).W.ravel() for unit in units])


H = hessian(guess, X)
step = 1e-6 * rng.normal(size=(2, 3))
change = formulas.gradient(guess._replace(W=guess.W + step), X, t).W - formulas.gradient(guess, X, t).W
print(
    np.allclose(H @ step.ravel(), change.ravel(), rtol=1e-4, atol=1e-12),
    "eigenvalues",
    np.linalg.eigvalsh(H).round(4) + 0.0,
)

# %% [markdown]
# No eigenvalue is below 0: the loss is convex, and has no false valleys. And $H$ is nearly a product of two small
# matrices, what is known of the features and what is known of the classes: $H \approx A \otimes G$. In these two
# pictures each of the 2 × 2 blocks is one number times the same 3 × 3 matrix on the right, and nearly so on the left.

# %%
G = (np.diag(Y.sum(axis=0)) - Y.T @ Y) / 4
_, all_axes = plt.subplots(1, 2, figsize=(6.4, 3))
for axes, matrix, name in zip(all_axes, (H, np.kron(X.T @ X / 4, G)), ("H", "A ⊗ G"), strict=True):
    axes.imshow(matrix, cmap="PuOr_r", vmin=-0.35, vmax=0.35)
    axes.set(title=name, xticks=[], yticks=[])
plt.show()
print(f"they differ by {np.linalg.norm(H - np.kron(X.T @ X / 4, G)) / np.linalg.norm(H):.1%} of H")

# %% [markdown]
# ## The certificate
#
# With a price on long weights, $F = L + \frac{l_2}{2}\|W\|^2$, the surface lies above its tangent plus a parabola.
# The lowest point of that is a floor for the minimum, from the gradient alone (at the best bias):
#
# $$F - \min F \le \frac{\|\nabla_W F\|^2}{2 l_2}$$
#
# `fit` goes on until this *gap* is small, and hands it to you, proved of the very numbers that it returns.

# %%
result = handgrad.fit(X, t, l2=0.1)
print(result.params.W.round(3) + 0.0)
print(f"loss {result.loss:.4f} nats, certified to a hundred-thousandth of it: {result.gap <= 1e-5 * result.loss}")

# %%
F, gaps = [], []


def watch(iteration, loss, gap):
    F.append(loss)
    gaps.append(gap)


handgrad.fit(X, t, l2=0.001, tol=1e-4, callback=watch)
plt.semilogy(gaps, "-o", color=blue, label="gap, what is known at that moment")
plt.semilogy(np.array(F[:-1]) - F[-1], "--s", color=orange, label="what was still to be gained")
plt.xlabel("iteration")
plt.ylabel("nats")
plt.legend()
plt.show()

# %% [markdown]
# ## The sweep
#
# Loss and gradient are sums over rows. As soon as a block of rows has its logits, it has its gradient, so that the
# logits can be forgotten before the next block begins. Change the blocks: the sums stay.

# %%
loss, dW = 0.0, np.zeros((2, 3))
for block in (slice(0, 1), slice(1, 4)):
    Z_block = X[block] @ guess.W + guess.b
    loss += formulas.cross_entropy(Z_block, t[block]) * len(X[block]) / 4
    dW += X[block].T @ (formulas.softmax(Z_block) - T[block]) / 4
print(f"{loss:.4f} {formulas.loss(guess, X, t):.4f}", np.allclose(dW, formulas.gradient(guess, X, t).W))

# %% [markdown]
# ## Your turn
#
# That is all there is to it. `handgrad.value_and_gradient`, `handgrad.fit` and `handgrad.linear_cross_entropy` are
# these lines, compiled, for a million rows or a hundred thousand classes. The other notebook reads handwritten digits
# with them.
