# %% [markdown]
# # 2. DDPM
#
# Every note tells it so: *a net learns to predict the noise in $x_t$; then one can go back from $x_t$ to $x_{t-1}$, and
# noise becomes a picture.* The four programs that follow in the notes all fail, each elsewhere. This is the one that
# works, and beside it two that do not.

# %%
import kit
import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
images, labels = kit.digits()
T = 1000
beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
alpha_bar = torch.cumprod(1 - beta, dim=0)

# %% [markdown]
# ## Training
#
# The net is asked for the ε that went into $x_t$ (Ho et al., 2020, algorithm 1, arXiv 2006.11239):
#
# $$L = E_{x_0,\, t,\, \varepsilon}\; \| \varepsilon - \varepsilon_\theta(x_t, t) \|^2 .$$
#
# Look at what is *random* here, for that is where the notes slip: each picture of a batch has its own t (one draws a
# single t for all; one draws 1 to T - 1 and never trains the last step), each has its own ε, and it is the same ε that
# made $x_t$: a note noises the picture inside a function, and asks the net for other noise drawn afterwards, of which
# nobody could know anything. The net hears t. The loss is a mean, a single number. And the loop goes over *batches*.
# (Our net hears the label too, so that it learns within a minute; lesson 6 makes something of that.)

# %%
net, steps = kit.Net(), kit.few(420)
optimiser = torch.optim.Adam(net.parameters(), lr=6e-3, betas=(0.9, 0.99))
for step in range(steps):
    rows, k = torch.randint(len(images), (64,)), torch.randint(T, (64,))
    a = alpha_bar[k].view(-1, 1, 1, 1).float()
    eps = torch.randn(64, 1, 24, 24)
    x_t = a.sqrt() * images[rows] + (1 - a).sqrt() * eps
    loss = (net(x_t, (k + 1) / T, labels[rows]) - eps).square().mean()
    kit.descend(optimiser, loss, step / steps)
print(f"loss {loss.item():.3f}, where always answering 0 has 1")

# %% [markdown]
# ## One step back
#
# If we knew $x_0$, the step back would be the product of two normal densities, and so normal (Bayes):
# $q(x_{t-1}|x_t, x_0) = N(\tilde\mu_t, \tilde\beta_t I)$ with
#
# $$\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\, x_0 +
# \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\, x_t , \qquad
# \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t .$$
#
# We do not know $x_0$, but the net's ε says which one it believes in:
# $x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\varepsilon) / \sqrt{\bar\alpha_t}$. Put in, the mean becomes
# $s_1 (x_t - s_2\,\varepsilon)$ with $s_1 = 1/\sqrt{\alpha_t}$ and $s_2 = \beta_t / \sqrt{1-\bar\alpha_t}$; with
# $s_3 = \sqrt{\tilde\beta_t}$ these are the notes' "three scaling factors". They are computed from β, not "predicted by
# the scheduler", and at the last step no noise is added at all.
#
# One note puts $\bar\alpha_t$ for the first $\bar\alpha_{t-1}$. Another writes α where $\bar\alpha$ belongs, and that
# is no small slip: at t = 900 it keeps 0.018 of $x_t$, where 0.991 should be kept.

# %%
before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])  # alpha-bar of t - 1, and 1 before the first
of_x0 = before.sqrt() * beta / (1 - alpha_bar)
of_x_t = (1 - beta).sqrt() * (1 - before) / (1 - alpha_bar)
variance = beta * (1 - before) / (1 - alpha_bar)
alpha = 1 - beta
slip_x0, slip_x_t = (f / (1 - alpha_bar) for f in (alpha.roll(1).sqrt() * beta, alpha.sqrt() * (1 - alpha.roll(1))))
print(f"of x_t at t = 900: {float(of_x_t[899]):.3f}; as the note writes it: {float(slip_x_t[899]):.3f}")
assert abs(float(of_x_t[899]) - 0.991) < 5e-4 and abs(float(slip_x_t[899]) - 0.018) < 5e-4

# %% [markdown]
# ## From noise to a picture
#
# Three ways from the same noise, with the same net. `right` is the algorithm; `slip` has the note's α; `toy` repeats
# $x \leftarrow x - \varepsilon_\theta(x, t)$, which a note calls the first idea that one has, and a mess. Why is it
# one? ε has the size of *all* noise in $x_t$, and a step should take off what *one* step had put in. *In the picture: a
# 3 and a 7 on their way by each of the three; below, all eight of the right one.*

# %%
wanted, draws = torch.arange(8), []
x = torch.randn(8, 1, 24, 24).repeat(3, 1, 1, 1)
states = [x[:8]]
marks, seen = [1000, 600, 300, 100, 0], []
with torch.no_grad():
    for k in range(T - 1, T - 1 - kit.few(T), -1):
        seen += [x] if k + 1 in marks else []
        eps, c = net(x, torch.full((24,), (k + 1) / T), wanted.repeat(3)), float(alpha_bar[k])
        x0 = ((x - (1 - c) ** 0.5 * eps) / c**0.5).clamp(-1, 1)
        right, slip, _ = x.chunk(3)
        draws.append(torch.randn(8, 1, 24, 24) * (k > 0))
        noise = float(variance[k]) ** 0.5 * draws[-1]
        right = float(of_x0[k]) * x0[:8] + float(of_x_t[k]) * right + noise
        slip = float(slip_x0[k]) * x0[8:16] + float(slip_x_t[k]) * slip + noise
        x = torch.cat([right, slip, x[16:] - eps[16:]])
        states.append(right)
seen.append(x)

# %%
figure, axes = plt.subplots(4, 1, figsize=(8, 4.4), height_ratios=[1, 1, 1, 1.25], layout="constrained")
for axis, first, name in zip(axes, (0, 8, 16), ("right", "α for $\\bar\\alpha$", "x - ε, repeated"), strict=False):
    way = torch.cat([s[first + digit : first + digit + 1] for digit in (3, 7) for s in seen])
    kit.strip(axis, way, name, [f"t = {t}" for t in marks[: len(seen)]] * 2 if first == 0 else ())
kit.strip(axes[3], x[:8], "right, t = 0")
kit.save(figure, "2_ddpm")

# %% The library says the same
import ebbflow as ef
from ebbflow.methods.clipping import Clipped

model = ef.NetDenoiser(
    net=lambda x, clock, _: net(x, clock / 1000, wanted),
    path=ef.PATHS["vp_discrete"](), prediction="eps", scale="none", clock="time",
)
*_, step = ef.SAMPLERS["ddpm"](Clipped(model), states[0], [1, 0.999, 0.998, 0.997], noise=kit.Replay(draws))
torch.testing.assert_close(step.x, states[3], rtol=1e-4, atol=1e-4)
