# %% [markdown]
# # 5. Rectified flow: a straight path, a curved one, and noise if you like
#
# Two notes love flow matching. *It walks in a straight line and generates in one step; it has no schedule of a thousand
# steps; everything in it is deterministic, so nothing is modelled by probabilities; the target of every step is the
# same constant $x_1 - x_0$; the same noise always gives the same picture.* The praise is deserved, and half of the
# reasons are wrong. The clock here: t = 0 is data and t = 1 is noise. (Some codebases count the other way. Look before
# you copy.)

# %%
import kit
import matplotlib.pyplot as plt
import torch

torch.manual_seed(0)
images, labels = kit.digits()

# %% [markdown]
# ## Training
#
# Data and noise are joined by a line, and the net learns the velocity along it (Liu et al., 2022, arXiv 2209.03003;
# Lipman et al., 2022, arXiv 2210.02747):
#
# $$x_t = (1 - t)\,x_0 + t\,\varepsilon , \qquad \frac{dx_t}{dt} = \varepsilon - x_0 , \qquad
# L = E\,\| u_\theta(x_t, t) - (\varepsilon - x_0) \|^2 .$$
#
# For one pair the velocity is constant, true. But *which* pair? Many lines run through one point $x_t$, and the net
# hears of none of them; it can learn only their mean, $u = E[\varepsilon - x_0 \mid x_t]$. So there is probability in
# it after all, and the mean turns as one walks: the lines are straight, the flow is curved. (It is a velocity, too, not
# the "acceleration" of the note.) The times are drawn as sigmoid(z), z normal: more in the middle, where it is hard.
# One note draws such times and then uses others to look them up; net and mixture must be told *the same t*. (And a note
# has this loss equal to the noise loss "up to a constant": it is the noise loss over $(1-t)^2$, a function of t.)

# %%
net, steps = kit.Net(), kit.few(480)
optimiser = torch.optim.Adam(net.parameters(), lr=6e-3, betas=(0.9, 0.99))
for step in range(steps):
    rows, t = torch.randint(len(images), (64,)), torch.sigmoid(torch.randn(64))
    x0, eps, w = images[rows], torch.randn(64, 1, 24, 24), t.view(-1, 1, 1, 1)
    loss = (net((1 - w) * x0 + w * eps, t, labels[rows]) - (eps - x0)).square().mean()
    kit.descend(optimiser, loss, step / steps)
print(f"loss {loss.item():.3f}")

# %% [markdown]
# ## Sampling: the ODE
#
# The note's loop has N times for N steps, which asks for one that is not there; its times rise from 0 to 1, although it
# starts from noise; and it never calls the net. N steps have N + 1 times, they fall, and each asks for a velocity:

# %%
wanted, noise = torch.arange(8), torch.randn(8, 1, 24, 24)

@torch.no_grad()
def euler(num):
    x = noise
    for i in range(num, 0, -1):
        x = x - net(x, torch.full((8,), i / num), wanted) / num
    return x

counts, fine = [1, 2, 4, 8, 16], euler(64)
ends = {num: euler(num) for num in counts}
errors = [float((x - fine).square().mean().sqrt()) for x in ends.values()]
print("distance from where 64 steps lead:", dict(zip(counts, errors, strict=True)))

# %% [markdown]
# **One step does not generate.** At t = 1 the point is pure noise and knows nothing of $x_0$, so the best velocity is ε
# minus the *mean* of the data, and a single step of length 1 ends in that mean: the average digit of the class,
# whatever the noise. Four or eight steps are needed to follow the curve; that is few, and the praise was for this.
# (There are ways to one step: straighten by training on one's own pairs, or teach a net to jump; see [few
# steps](../docs/few_steps.md).)

# %%
means = torch.stack([images[labels == k].mean(0) for k in range(8)])
print(f"one step is {float((ends[1] - means).square().mean().sqrt()):.3f} from the mean of its class")

# %% [markdown]
# ## Sampling: an SDE
#
# A to-do of the notes. The same net gives the score, for ε is in the velocity: $E[\varepsilon|x_t] = x_t + (1-t)\,u$,
# and $s = -E[\varepsilon|x_t]/t$. Lesson 4 allows any noise g if the drift makes up for it:
# $dx = (u - \frac12 g^2 s)\,dt + g\,d\bar W$. Take $g^2 = 2t$, which vanishes at the data, and the drift is simply
# $u + E[\varepsilon|x_t]$. So "flow is deterministic, diffusion random" is no property of what was *trained*: the
# sampler decides. And for the ODE, the same noise gives the same picture for the same grid, solver and precision. *In
# the picture all rows start from the same eight noises: the ODE by 1 to 64 steps, which differ by the grid alone, and
# the SDE, twice.*

# %%
@torch.no_grad()
def sde(num, draws):
    x = noise
    for i, z in zip(range(num, 0, -1), draws, strict=True):
        t, u = i / num, net(x, torch.full((8,), i / num), wanted)
        x = x - (u + x + (1 - t) * u) / num + (2 * t / num) ** 0.5 * z if i > 1 else x - t * u  # at the end x0
    return x

draws = torch.randn(2, 32, 8, 1, 24, 24)
random = [sde(32, part) for part in draws]

# %%
figure = plt.figure(figsize=(9.6, 5.6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[2.3, 1.2])
rows = [*((f"ODE, {num}", x) for num, x in {**ends, 64: fine}.items()), *(("SDE, 32", x) for x in random)]
for axis, (name, row) in zip(left.subplots(8, 1), rows, strict=True):
    kit.strip(axis, row, name)
axis = right.subplots()
axis.loglog(counts, errors, "o-", base=2), axis.spines[["top", "right"]].set_visible(False)
axis.set(xlabel="steps of the ODE", ylabel="distance from 64 steps", xticks=counts, xticklabels=counts)
kit.save(figure, "5_rectified_flow")

# %% The library says the same
import ebbflow as ef

told = {"path": ef.PATHS["flow"](), "scale": "none", "clock": "time"}
model = ef.NetDenoiser(net=lambda x, clock, _: net(x, clock / 1000, wanted), **told)
*_, step = ef.SAMPLERS["euler"](model, noise, torch.linspace(1, 0, 9, dtype=torch.float64))
torch.testing.assert_close(step.x, ends[8], rtol=1e-3, atol=1e-3)
*_, step = ef.SAMPLERS["sde"](model, noise, torch.linspace(1, 0, 33, dtype=torch.float64), noise=kit.Replay(draws[0]))
torch.testing.assert_close(step.x, random[0], rtol=1e-3, atol=1e-3)
