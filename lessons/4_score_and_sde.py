# %% [markdown]
# # 4. The score, the SDE and the ODE
#
# A note offers three equal views, noise, score and ODE, and sums them up in one line:
# $u = -\sigma^2 s = (\alpha x_0 - x) / \sigma$. Its program for the SDE walks with the drift $-\frac12\sigma^2 s$. Both
# lead astray, and it takes a case where everything is known to see it: the handwritten 0 and 1, each reduced to a
# single number, x. That is still real data, but on a line, where the density at every noise level can be *drawn*, and
# its score written down without any net.

# %%
from itertools import pairwise

import kit
import matplotlib.pyplot as plt
import torch

images, labels = kit.digits()
zeros, ones = (images[labels == k][:400].double() for k in (0, 1))
direction = (ones.mean(0) - zeros.mean(0)).flatten()
data = torch.cat([zeros, ones]).flatten(1) @ direction
data = (data - data.mean()) / data.std()  # 800 numbers with mean 0 and variance 1; zeros on the left

def at(t):  # alpha, sigma and beta = g^2 of the variance-preserving SDE: beta rises from 0.1 to 20
    total = 0.1 * t + 19.9 * t**2 / 2
    return torch.exp(-total / 2), (-torch.expm1(-total)).sqrt(), 0.1 + 19.9 * t

# %% [markdown]
# ## The score
#
# Noised data has the density $p_t(x) = \frac1n\sum_i N(x;\, \alpha x_i,\, \sigma^2)$, and its **score** is the slope of
# the logarithm. With $r_i$, how probable it is that x came from $x_i$,
#
# $$s(x, t) = \nabla \log p_t(x) = \sum_i r_i\, \frac{\alpha x_i - x}{\sigma^2} = \frac{\alpha\, E[x_0|x] - x}{\sigma^2}
# = -\frac{E[\varepsilon|x]}{\sigma} .$$
#
# So a net that predicts noise knows the score: they differ by $-\sigma$. Note the *expectations*: the note has $x_0$
# itself there. It regresses on $-\varepsilon/\sigma$ without a weight, too. That target has variance $1/\sigma^2$,
# 10,000 at σ = 0.01: the loss would be about the last, cleanest steps and nothing else. The weight $\sigma^2$ mends it,
# and what comes out is DDPM's loss, letter for letter.

# %%
def score(x, t):
    alpha, sigma, _ = at(t)
    r = torch.softmax(-((x[:, None] - alpha * data) ** 2) / (2 * sigma**2), dim=1)
    return (alpha * (r @ data) - x) / sigma**2

# %% [markdown]
# ## The way back
#
# Forward, $dx = f x\,dt + g\,dW$ with $f = \alpha'/\alpha = -\beta/2$ and $g^2 = \beta$. Anderson (1982) reversed it,
# and Song et al. (2020, arXiv 2011.13456) found the ODE with the same densities:
#
# $$dx = [f x - g^2 s]dt + g\,d\bar W \qquad\text{and}\qquad dx = [f x - \tfrac12 g^2 s]dt ,$$
#
# both with t *falling* from 1 to 0. In the note's program t rises, so its drift pushes away from the data, and it flies
# off to a variance of millions. Turn it round, and still its half belongs to the ODE, where no noise is added. (And g²
# is the *rate* of noise, not the variance σ² that has piled up; only where α = 1 is f = 0 and
# $dx = -\frac12 g^2 s\,dt$.) All that lies between the two is right:
# $[f x - \frac{1+w}{2} g^2 s]\,dt + \sqrt{w}\,g\,d\bar W$ keeps $p_t$ for $w \ge 0$.

# %%
times, _ = torch.linspace(1, 0, 301, dtype=torch.float64), torch.manual_seed(0)
start, draws = torch.randn(600, dtype=torch.float64), torch.randn(300, 600, dtype=torch.float64)

def walk(share, wiggle):
    x = [start]  # the drift is f x - share g^2 s, the noise wiggle g dW, and the last step jumps to E[x0 | x]
    for z, (t, s) in zip(draws, pairwise(times), strict=True):
        (alpha, sigma, beta), now = at(t), score(x[-1], t)
        moved = x[-1] + (t - s) * beta * (x[-1] / 2 + share * now) + wiggle * ((t - s) * beta).sqrt() * z
        x.append(moved if s > 0 else (x[-1] + sigma**2 * now) / alpha)
    return torch.stack(x)

sde, ode, half = walk(1.0, 1.0), walk(0.5, 0.0), walk(0.5, 1.0)
note = start
for t, z in zip(times.flip(0)[1:-1], draws, strict=False):  # as the note has it
    note = note - 0.5 * at(t)[2] * score(note, t) / 300 + (at(t)[2] / 300).sqrt() * z
print("variance, of data 1:", *(f"{float(x.var()):.2f}" for x in (sde[-1], ode[-1], half[-2], note)))
assert max(abs(way[-1].var() - 1) for way in (sde, ode)) < 0.1 and half[-2].var() > 1.6 and note.var() > 1e6

# %% [markdown]
# ## Velocity and score
#
# The ODE's right side is what a flow model learns, its velocity u. So here is the note's last line as it should be:
# $u = \frac{\alpha'}{\alpha}x - \frac12 g^2 s$ with $g^2 = 2\sigma(\sigma' - \frac{\alpha'}{\alpha}\sigma)$. On the
# straight path of lesson 5, α = 1 - t and σ = t, that is $u = -(x + t s)/(1 - t)$; where α = 1 and σ = t,
# $u = -\sigma s$. Nowhere is it $-\sigma^2 s$.
#
# *In the picture: the density from noise (left) to digits, three ways of the SDE (red) and of the ODE (white) from the
# same starts; right, the ends of 600, the data in grey, and the digits that lie there.*

# %%
grid, columns = torch.linspace(-3.2, 3.2, 240, dtype=torch.float64), []
for alpha, sigma, _ in map(at, torch.linspace(1, 0.002, 200, dtype=torch.float64)):
    p = torch.exp(-((grid[:, None] - alpha * data) ** 2) / (2 * (sigma**2 + 0.01))).mean(1)
    columns.append(p / p.max())
figure, (field, ends) = plt.subplots(1, 2, figsize=(10, 4.6), width_ratios=[3, 1], layout="constrained", sharey=True)
field.imshow(torch.stack(columns, 1), extent=(0, 1, -3.2, 3.2), aspect="auto", origin="lower", cmap="magma")
for way in start.sort().indices[[60, 300, 520]]:
    field.plot(1 - times, sde[:, way], color="C3", lw=0.8), field.plot(1 - times, ode[:, way], color="w", lw=1.6)
field.set(xlabel="1 - t", ylabel="x", ylim=(-3.2, 3.2))
shapes = {"range": (-3.2, 3.2), "density": True, "orientation": "horizontal", "lw": 1.5}
ends.hist(data, 40, color="0.75", label="data", **shapes)
for name, found, color in (("SDE", sde[-1], "C3"), ("ODE", ode[-1], "k"), ("SDE with half", half[-2], "C0")):
    ends.hist(found, 40, color=color, label=name, histtype="step", **shapes)
for digits, y in ((zeros, 0.26), (ones, 0.74)):
    inset = ends.inset_axes((0.6, y, 0.38, 0.17))
    inset.imshow(digits[0, 0], cmap=kit.INK), inset.axis("off")
ends.legend(frameon=False, loc="lower right"), ends.set_xticks([])
kit.save(figure, "4_score_and_sde")

# %% The library says the same
import ebbflow as ef

path = ef.PATHS["vp"]()
model = ef.oracles.FiniteData(data[:, None], path)
replay = kit.Replay([z[:, None] for z in draws])
*_, step = ef.SAMPLERS["sde"](model, start[:, None], times, noise=replay, diffusion="forward")
torch.testing.assert_close(step.x[:, 0], sde[-1], rtol=1e-6, atol=1e-6)
*_, step = ef.SAMPLERS["euler"](model, start[:, None], times)
torch.testing.assert_close(step.x[:, 0], ode[-1], rtol=1e-6, atol=1e-6)
