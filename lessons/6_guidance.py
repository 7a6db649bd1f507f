# %% [markdown]
# # 6. Guidance: classifier-free, and by a classifier
#
# A note: *in training the prompt is left out with p = 0.1; in sampling*
#
# $$\varepsilon = \varepsilon_\varnothing + w\,(\varepsilon_c - \varepsilon_\varnothing) ,$$
#
# *where w > 1 strengthens the condition for better results, 7.5 by default.* The formula is right. Its program has the
# two halves of the batch swapped, so that it guides *away* from the prompt; it leaves the prompt out for a whole batch
# or not at all; and 7.5 is a number of Stable Diffusion. Better, at what price?

# %%
import kit
import matplotlib.pyplot as plt
import torch
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = kit.digits()
NONE = 10  # the label of no label: it has a vector of its own, which is learned

# %% [markdown]
# ## One net for both
#
# Lesson 5, and one line more: each *row* of a batch loses its label with probability 0.1, on its own (`random.random()
# < 0.1` once a call would take it from all or none). What it gets instead is learned like any label. Beside it grows a
# small classifier of *noisy* pictures, which a second method will need.

# %%
net, steps = kit.Net(), kit.few(400)
judge = torch.nn.ModuleList([torch.nn.Conv2d(1, 32, 4, 4), kit.Block(32, 32), torch.nn.Linear(1152, 10), kit.Told()])

def log_p(x, t):  # of every label given x_t, shape (B, 10)
    first, block, last, told = judge
    return last(block(first(x), told(t, torch.full((len(x),), NONE))).flatten(1)).log_softmax(1)

optimiser = torch.optim.Adam([*net.parameters(), *judge.parameters()], lr=6e-3, betas=(0.9, 0.99))
for step in range(steps):
    rows, t = torch.randint(len(images), (64,)), torch.sigmoid(torch.randn(64))
    x0, eps, s = images[rows], torch.randn(64, 1, 24, 24), t.view(-1, 1, 1, 1)
    x_t, shown = (1 - s) * x0 + s * eps, torch.where(torch.rand(64) < 0.1, NONE, labels[rows])
    loss = (net(x_t, t, shown) - (eps - x0)).square().mean() + 0.1 * F.nll_loss(log_p(x_t, t), labels[rows])
    kit.descend(optimiser, loss, step / steps)

# %% [markdown]
# ## Classifier-free
#
# Both answers in one call, without and with the label, in the *same order* in `cat` and in `chunk`. With this rule **w
# = 1 is the conditional model and w = 0 the unconditional one**. (Others write $(1 + w)\,c - w\,u$ and call our 3 a 2.
# Ask which.) In the place of "none" may stand a label that one does *not* want: the negative prompt.

# %%
wanted, noise = torch.arange(10).repeat(2), torch.randn(20, 1, 24, 24)

@torch.no_grad()
def free(x, t, w, nothing=NONE):
    both = net(torch.cat([x, x]), torch.full((40,), t), torch.cat([torch.full((20,), nothing), wanted]))
    without, given = both.chunk(2)
    return without + w * (given - without)

def sample(velocity, num=16):  # Euler's steps from t = 1 to t = 0
    x = noise
    for i in range(num, 0, -1):
        x = x - velocity(x, i / num) / num
    return x

# %% [markdown]
# ## By a classifier
#
# Bayes: $\nabla\log p(x|y) = \nabla\log p(x) + \nabla\log p(y|x)$. So take the net *without* label, and add the slope
# of a classifier that knows noise. In the velocity of the straight path it weighs $-\gamma\,\frac{t}{1-t}$. (Any loss
# may stand there with a minus: one note forgets the minus, and multiplies by $\sqrt{\bar\alpha}$, near 0 early and near
# 1 late, so it steers texture; for shape it would have to be $\sqrt{1-\bar\alpha}$.) At t = 1 there is nothing to
# classify yet.

# %%
def by_classifier(x, t, scale):
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(log_p(x, torch.full((20,), t))[range(20), wanted].sum(), x)
    return free(x, t, 0) - (scale * t / (1 - t) * slope if t < 1 else 0)

found = {f"w = {w}": sample(lambda x, t, w=w: free(x, t, w)) for w in (0, 1, 2, 4, 7.5)}
found["swapped, w = 2"] = sample(lambda x, t: free(x, t, 1 - 2))  # u and c exchanged: c + 2 (u - c) = u - (c - u)
found["classifier, γ = 4"] = sample(lambda x, t: by_classifier(x, t, 4.0))

# %% [markdown]
# ## Better at what price?
#
# Each row's share of right labels (our own judge's; it guided the last row itself, so there it praises its own work)
# and how far the pictures leave the range [-1, 1] of data: guided velocities overshoot, and at 7.5 that is plain to
# see. For a number to trust, measure diversity too: `ebbflow evaluate --guidance 2` finds recall falling while accuracy
# rises. And what guided samples follow is *not* $p(x)^{1-w}\,p(x|c)^w$, though one reads that often
# ([concepts](../docs/concepts.md)).

# %%
rows = {}
for name, x in found.items():
    with torch.no_grad():
        right = (log_p(x, torch.zeros(20)).argmax(1) == wanted).double().mean()
    rows[f"{name}\n{right:.0%} right, {(x.abs() > 1.2).double().mean():.0%} outside"] = x
    print(*list(rows)[-1].split("\n"), sep=": ")
figure, axes = plt.subplots(len(rows), 1, figsize=(8, 5.8), layout="constrained")
for axis, (name, x) in zip(axes, rows.items(), strict=True):
    kit.strip(axis, x[:10], name)
kit.save(figure, "6_guidance")

# %% The library says the same
import ebbflow as ef
from ebbflow.methods.guidance import ClassifierGuidance

told = {"path": ef.PATHS["flow"](), "scale": "none", "clock": "time", "make_null": lambda num: torch.full((num,), NONE)}
model = ef.NetDenoiser(net=lambda x, clock, label: net(x, clock / 1000, label), **told)
times = torch.linspace(1, 0, 17, dtype=torch.float64)
*_, step = ef.SAMPLERS["euler"](ef.classifier_free(model, guidance=2.0).given(wanted), noise, times)
torch.testing.assert_close(step.x, found["w = 2"], rtol=1e-3, atol=1e-3)
classifier = lambda x, t, _: log_p(x, t.float().expand(20))
e = ClassifierGuidance(inner=model, classifier=classifier, labels=wanted, scale=4.0)(noise, 0.5)
torch.testing.assert_close(e.eps - e.x0, by_classifier(noise, 0.5, 4.0), rtol=1e-3, atol=1e-3)
