# %% [markdown]
# # 3. DDIM: fewer steps, and the way back
#
# A note says of DDIM: *a Markov chain is needed for the random process only, and DDIM has no randomness. It is faster,
# because it may skip steps. Below 500 steps DDIM is better, above 500 DDPM. It walks forward and back
# deterministically, and so reconstructs a picture nearly perfectly.* One sentence of these is right as it stands.
# Which?

# %%
from itertools import pairwise

import kit
import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
images, labels = kit.digits()
T = 1000
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64), dim=0)
net, steps = kit.Net(), kit.few(420)
optimiser = torch.optim.Adam(net.parameters(), lr=6e-3, betas=(0.9, 0.99))
for step in range(steps):  # the training of lesson 2, to the letter
    rows, k = torch.randint(len(images), (64,)), torch.randint(T, (64,))
    a, eps = alpha_bar[k].view(-1, 1, 1, 1).float(), torch.randn(64, 1, 24, 24)
    loss = (net(a.sqrt() * images[rows] + (1 - a).sqrt() * eps, (k + 1) / T, labels[rows]) - eps).square().mean()
    kit.descend(optimiser, loss, step / steps)

# %% [markdown]
# ## The step
#
# The net's ε splits $x_t$ into the two parts it was mixed of. So mix them again, with less noise:
#
# $$x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\varepsilon}{\sqrt{\bar\alpha_t}} , \qquad
# x_s = \sqrt{\bar\alpha_s}\; x_0 + \sqrt{1-\bar\alpha_s - \eta^2 q}\;\varepsilon + \eta\sqrt{q}\;z .$$
#
# Nothing ties s to t - 1. With $\eta = 1$ and q the variance of Bayes' step from t to s, this is DDPM; with $\eta = 0$
# nothing is drawn (Song et al., 2020, eq. 12, arXiv 2010.02502). So "DDIM has no randomness" is true of $\eta = 0$, and
# what made skipping possible is not that: the loss knows only $q(x_t|x_0)$, so any process with these marginals will
# do, with or without randomness, Markov or not. DDPM may skip as well.

# %%
def bar(k: int) -> float:
    return float(alpha_bar[k - 1]) if k else 1.0  # of the picture itself

@torch.no_grad()
def ddim(x, times, label, eta=0.0):
    """From the state at times[0] to the one at the last; up or down."""
    for t, s in pairwise(times):
        eps, a, b = net(x, torch.full((len(x),), t / T), label), bar(t), bar(s)
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        q = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        x = b**0.5 * x0 + (1 - b - q) ** 0.5 * eps + (q**0.5 * torch.randn_like(x) if q else 0)
    return x

# %% [markdown]
# ## Skipping steps
#
# A note's `ddim_sample(n_steps=50)` loops over `reversed(range(50))`: the *last* fifty of the thousand steps, from pure
# noise, though at step 50 a picture is nearly clean, $\bar\alpha_{50} = 0.971$. That skips nothing, it leaves out the
# beginning. A sub-sequence begins at T, and strides: 1000, 980, ..., 20, 0.

# %%
strided = lambda num: [T * i // num for i in range(num, -1, -1)]
wanted, noise = torch.arange(8), torch.randn(8, 1, 24, 24)
assert abs(bar(50) - 0.971) < 5e-4 and strided(50)[:2] == [1000, 980] and strided(50)[-1] == 0
samples = {
    "range(50), as the note has it": ddim(noise, [*range(50, -1, -1)], wanted),
    "50 of 1000, η = 0": ddim(noise, strided(50), wanted),
    "10 of 1000, η = 0": ddim(noise, strided(10), wanted),
    "10 of 1000, η = 1": ddim(noise, strided(10), wanted, eta=1.0),
}

# %% [markdown]
# Is there a law of 500 steps? No: which of the two is better depends on data, net and grid. On a well-trained net for
# these digits the library measured DDPM ahead at 10, 20 and 50 steps ([claims](../docs/claims.md)). Measure your own.
#
# ## The way back
#
# The step has no direction: with s > t it adds the noise that the net sees already, instead of fresh one. That leads
# from a picture to *its* noise, and the same grid downwards leads home (the step from the picture itself is left out,
# since there is no noise to be seen in it). This is the note's right sentence, almost: "nearly" depends on the number
# of steps, for ε at t stands in for ε on the whole way from t to s. And coming back is no proof that the noise *is*
# noise: a net of one minute errs, and the digits can still be made out in it. *In the picture, left: samples, then test
# digits, the noise they come from and the digits it leads back to; right: how near.*

# %%
held_out, their = (part[:8] for part in kit.digits("t10k"))
counts, decibels = [10, 20, 50, 100], []
for num in counts:
    found = ddim(held_out, strided(num)[-2::-1], their)
    back = ddim(found, strided(num), their)
    decibels.append(float(10 * torch.log10(4 / (back - held_out).square().flatten(1).mean(1)).mean()))
    print(f"{num:4} steps up and down: {decibels[-1]:.1f} dB")

# %%
figure = plt.figure(figsize=(10, 6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[3, 1.3])
axes = left.subplots(7, 1)
rows = {**samples, "test digits": held_out, "their noise": found, "and back, 100 steps": back}
for axis, (name, row) in zip(axes, rows.items(), strict=True):
    kit.strip(axis, row, name)
axis = right.subplots()
axis.plot(counts, decibels, "o-", color="C0"), axis.set_xscale("log"), axis.set_xticks(counts, counts)
axis.set(title="there and back", xlabel="steps", ylabel="PSNR, dB"), axis.minorticks_off()
kit.save(figure, "3_ddim_and_inversion")

# %% The library says the same
import ebbflow as ef
from ebbflow.methods.editing import invert

told = {"path": ef.PATHS["vp_discrete"](), "prediction": "eps", "scale": "none", "clock": "time"}
model = ef.NetDenoiser(net=lambda x, clock, _: net(x, clock / 1000, wanted), **told)
times = [k / T for k in strided(10)]
*_, step = ef.SAMPLERS["ddim"](model, noise, times)
torch.testing.assert_close(step.x, samples["10 of 1000, η = 0"], rtol=1e-3, atol=1e-3)
*_, step = invert(model, held_out, times)
torch.testing.assert_close(step.x, ddim(held_out, strided(10)[-2::-1], wanted), rtol=1e-3, atol=1e-3)
