# %% [markdown]
# # 1. Noising, and the closed form
#
# A study note begins: *a clean picture gets a little noise, step by step, until only noise is left. A known β from
# 0.0001 to 0.002 is the share of noise, α = 1 - β is the share of the original picture that is kept,*
#
# $$x_t = \sqrt{\alpha_t}\, x_{t-1} + \sqrt{\beta_t z_t} \quad\Rightarrow\quad
# x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, z .$$
#
# *And what is this last formula good for?*, it asks. That is this lesson: what the two lines mean, which of them has
# slips, and why everything after it stands on the second one.

# %%
import kit
import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
images, labels = kit.digits()
x0 = images[: 20 * kit.few(20)]

# %% [markdown]
# ## One step
#
# A step keeps a bit less of the picture and adds a bit of fresh standard normal noise $z_t$:
#
# $$x_t = \sqrt{1 - \beta_t}\; x_{t-1} + \sqrt{\beta_t}\; z_t , \qquad t = 1, \ldots, T .$$
#
# The root is over β alone. The note draws it over $\beta_t z_t$, where it would have no value for every second pixel,
# because $z$ is negative as often as not. Another note has the noise "scaled by β"; then its variance would be β², and
# after a thousand steps hardly any noise would be there. Why these two factors? Their squares add up to one, so if
# $x_{t-1}$ has variance 1, $x_t$ has variance 1 too: the picture is *exchanged* for noise, not buried under it.

# %%
T = 1000
beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
x, chain = x0, {0: x0}
for t in range(1, T + 1):
    b = float(beta[t - 1])
    x = (1 - b) ** 0.5 * x + b**0.5 * torch.randn_like(x)
    chain[t] = x
variance = 0.0
for b in beta.tolist():  # of the noise alone, had it been scaled by beta
    variance = (1 - b) * variance + b**2
print(f"variance at the end: {float(x.var()):.3f}; with noise scaled by beta it would be {variance:.3f}")
assert abs(float(x.var()) - 1) < 0.05 and variance < 0.02

# %% [markdown]
# ## All steps at once
#
# Put the first step into the second:
# $x_2 = \sqrt{\alpha_2\alpha_1}\,x_0 + \sqrt{\alpha_2\beta_1}\,z_1 + \sqrt{\beta_2}\,z_2$ with $\alpha = 1 - \beta$.
# Two independent normal draws add up to one whose variance is the sum,
# $\alpha_2\beta_1 + \beta_2 = 1 - \alpha_2\alpha_1$. So by induction, with
#
# $$\bar\alpha_t = \prod_{s=1}^{t} (1 - \beta_s), \qquad
# x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1 - \bar\alpha_t}\; \varepsilon , \qquad \varepsilon \sim N(0, I).$$
#
# So not α but $\bar\alpha_t$ says what is left of the original, and the product ends at t, not at T. The *variance* of
# $q(x_t|x_0)$ is $1 - \bar\alpha_t$; a note that writes $\sqrt{1 - \bar\alpha_t}$ there has written the standard
# deviation. (And $q(x_2|x_1)\,q(x_1|x_0)$, which a note calls $q(x_2|x_0)$, is the law of both states together; the
# marginal integrates over $x_1$, and that is what adding the variances did.) Noise of a thousand steps and noise of one
# are not the same numbers, but they have the same law:

# %%
alpha_bar = torch.cumprod(1 - beta, dim=0)
for t in (1, 200, 1000):
    kept = float((chain[t] * x0).sum() / x0.square().sum())  # how much of x0 is in x_t, by least squares
    noise = float((chain[t] - kept * x0).std())
    a = float(alpha_bar[t - 1])
    print(f"t = {t:4}: of x0 {kept:.3f}, closed form {a**0.5:.3f}; of noise {noise:.3f}, {(1 - a) ** 0.5:.3f}")
    assert abs(kept - a**0.5) < 0.05 and abs(noise - (1 - a) ** 0.5) < 0.05

# %% [markdown]
# ## How far must it go?
#
# Sampling will start from pure noise, so $x_T$ has to *be* pure noise. With the note's 0.002 as the last β,
# $\bar\alpha_T = 0.35$: more than half of the amplitude of the picture ($\sqrt{0.35} = 0.59$) is still there, and a net
# that is shown pure noise at the start would be shown something it never met. DDPM's last β is **0.02**, which leaves
# 4.0e-5. (The first is 1e-4. A third note begins at 0.001; its first step is ten times too coarse.)

# %%
short = torch.cumprod(1 - torch.linspace(1e-4, 0.002, T, dtype=torch.float64), dim=0)
print(f"alpha-bar at the end: {float(alpha_bar[-1]):.1e}; with beta up to 0.002: {float(short[-1]):.2f}")
assert abs(float(alpha_bar[-1]) - 4.0e-5) < 5e-7 and abs(float(short[-1]) - 0.35) < 5e-3
marks = [0, 50, 100, 200, 400, 700, 1000]
eps = torch.randn_like(x0[:1])
at = [torch.cat([torch.ones(1, dtype=torch.float64), a])[marks].view(-1, 1, 1, 1).float() for a in (alpha_bar, short)]
once, weak = (a.sqrt() * x0[:1] + (1 - a).sqrt() * eps for a in at)

# %% [markdown]
# **So this is what the formula is good for:** training needs $x_t$ for a random t, and gets it in one line instead of t
# steps. Nothing but the pair $(\sqrt{\bar\alpha_t}, \sqrt{1-\bar\alpha_t})$ is left of the chain; we call it (alpha,
# sigma) from now on, and the time k/T. Other models are other pairs. ("Linear, cosine, VP" are not three of them,
# though a note has it so: VP says that the squares add up to one, and so they do in the first two.) *In the picture:
# two rows that differ in their noise and not in their law; in the third, with β up to 0.002, the 5 never goes away.*

# %%
figure, axes = plt.subplots(4, 1, figsize=(8, 6.6), height_ratios=[1, 1, 1, 1.7], layout="constrained")
kit.strip(axes[0], torch.cat([chain[t][:1] for t in marks]), "step by step", [f"t = {t}" for t in marks])
kit.strip(axes[1], once, "in one go")
kit.strip(axes[2], weak, "β up to 0.002")
for a, style in ((alpha_bar, "-"), (short, ":")):
    axes[3].plot(a.sqrt(), style, color="C0"), axes[3].plot((1 - a).sqrt(), style, color="C3")
axes[3].text(640, 0.16, r"of the picture, $\sqrt{\bar\alpha_t}$", color="C0")
axes[3].text(660, 0.96, r"of noise, $\sqrt{1-\bar\alpha_t}$", color="C3", va="top")
axes[3].text(990, 0.5, "β up to 0.002", color="C0", ha="right"), axes[3].text(250, 0.17, "β up to 0.002", color="C3")
axes[3].set(xlabel="t", xlim=(0, T), ylim=(0, 1.03))
kit.save(figure, "1_noising")

# %% The library says the same
import ebbflow as ef

path, t = ef.PATHS["vp_discrete"](), torch.tensor([1, 200, 1000])
torch.testing.assert_close(path.alpha_bars, alpha_bar)
a = alpha_bar[t - 1].view(-1, 1, 1, 1).float()
torch.testing.assert_close(path.mix(x0[:3], eps, t / 1000).float(), a.sqrt() * x0[:3] + (1 - a).sqrt() * eps)
