# %% [markdown]
# # 7. Inside the net: U-Net, DiT, cross-attention
#
# One note draws a U-Net with "256 + 128, 128 + 64, 64 + in_channels" channels on the way up. One explains why *time is
# added and context is multiplied*. One says how a condition gets in: *the picture's tokens h, (B, N1, d), are the
# queries; the condition's tokens c, (B, N2, d), are keys and values; so each place of h gathers from c what concerns
# it.* The first does not run, the second is a choice and no law, the third is right, and at the end one can watch it
# happen.

# %%
import kit
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = kit.digits()

# %% [markdown]
# ## The U-Net
#
# It halves the picture a few times, so that far apart becomes near, and comes back up; on the way each resolution meets
# its own features of the way down, the *skips*, or all detail would be lost. A skip holds what a block **gave**, so the
# widths to add are 256, 128, 64 and not the next ones. The note's net never resizes, either. And 28 pixels can be
# halved twice, not three times: pad to 32, or cut to 24, as here. `kit.Net`, the net of lessons 2 to 6, does it right.
# Its blocks are *scaled and shifted* by clock and label; others add the clock and scale by context. All of them work.

# %%
width = 256
for written, gives, skip in ((256 + 128, 128, 256), (128 + 64, 64, 128), (64 + 1, 1, 64)):
    print(f"the note's block expects {written:3} channels and is handed {width} + {skip} = {width + skip}")
    width = gives

# %% [markdown]
# ## Attention, and the DiT
#
# $$\mathrm{softmax}(q k^\top / \sqrt d)\, v, \qquad q = W_q h, \; k, v = W_{kv} h \;\text{ or }\; W_{kv} c .$$
#
# With keys and values from h itself the places of a picture talk to each other; with those from c they read the
# condition. A **DiT** cuts the picture into patches, calls them tokens and uses nothing else (Peebles & Xie, 2022,
# arXiv 2212.09748). Here it is the *clock* that multiplies; gates that start at 0 let each block begin as the identity.

# %%
class Attention(nn.Module):
    def __init__(self, dim, **parts):
        super().__init__()
        self._modules.update({name: nn.Linear(dim, width) for name, width in parts.items()})

    def forward(self, h, c=None):
        q, k, v = self.qkv(h).chunk(3, 2) if c is None else (self.q(h), *self.kv(c).chunk(2, 2))
        q, k, v = (x.unflatten(2, (4, -1)).transpose(1, 2) for x in (q, k, v))  # (B, 4 heads, N, dim / 4)
        self.seen = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)  # (B, 4, N1, N2), to look at
        return self.out((self.seen @ v).transpose(1, 2).flatten(2))

class DiTBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attention, self.cross = Attention(dim, qkv=3 * dim, out=dim), Attention(dim, q=dim, kv=2 * dim, out=dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))
        self.norm_cross, self.modulation = nn.LayerNorm(dim), nn.Linear(dim, 6 * dim)
        for parameter in (*self.modulation.parameters(), *self.cross.out.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, h, clock, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(clock)[:, None].chunk(6, dim=2)
        h = h + gate1 * self.attention(F.layer_norm(h, h.shape[2:]) * (1 + scale1) + shift1)
        h = h + self.cross(self.norm_cross(h), c)
        return h + gate2 * self.mlp(F.layer_norm(h, h.shape[2:]) * (1 + scale2) + shift2)

class DiT(nn.Module):  # pictures (B, 1, 12, 24) of two digits as 4 x 8 tokens; the condition is two words, (B, 2)
    def __init__(self, dim=96, depth=3):
        super().__init__()
        self.told, self.clock, self.words = kit.Told(), nn.Linear(128, dim), nn.Embedding(10, dim)
        self.embed, self.out, self.keep = nn.Linear(9, dim), nn.Linear(dim, 9), nn.Linear(dim, 1)
        self.places, self.order = (nn.Parameter(torch.randn(num, dim) * 0.3) for num in (32, 2))
        self.blocks = nn.ModuleList(DiTBlock(dim) for _ in range(depth))

    def forward(self, x, t, words):
        clock = F.silu(self.clock(self.told(t, torch.full((len(x),), 10))))
        h, c = self.embed(F.unfold(x, 3, stride=3).transpose(1, 2)) + self.places, self.words(words) + self.order
        for block in self.blocks:
            h = block(h, clock, c)
        return F.fold(self.out(h).transpose(1, 2), (12, 24), 3, stride=3) + self.keep(clock)[:, :, None, None] * x

# %% [markdown]
# ## Who looks at which word?
#
# Two digits side by side; the condition is a sentence of two words. Nobody tells the net that the first word is about
# the left half. It is trained as in lesson 5, and finds out. *In the picture: samples for four sentences, and below how
# much each place looked at the second word (red) and at the first (blue), over all steps and blocks.*

# %%
small, net, steps = F.avg_pool2d(images, 2), DiT(), kit.few(420)
optimiser = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.9, 0.99))
for step in range(steps):
    rows, t = torch.randint(len(small), (2, 64)), torch.sigmoid(torch.randn(64))
    x0, eps, w = torch.cat([small[rows[0]], small[rows[1]]], 3), torch.randn(64, 1, 12, 24), t.view(-1, 1, 1, 1)
    loss = (net((1 - w) * x0 + w * eps, t, labels[rows].T) - (eps - x0)).square().mean()
    kit.descend(optimiser, loss, step / steps)
words, x, seen = torch.tensor([[4, 2], [2, 4], [0, 1], [7, 7]]), torch.randn(4, 1, 12, 24), 0
for t in torch.linspace(1, 1 / 16, 16).tolist():
    x = (x - net(x, torch.full((4,), t), words) / 16).detach()
    seen += sum(block.cross.seen[..., 1].mean(1).detach() for block in net.blocks) / (16 * len(net.blocks))  # (4, 32)
figure, axes = plt.subplots(2, 4, figsize=(9, 2.8), layout="constrained")
for i, (above, below) in enumerate(axes.T):
    kit.strip(above, x[i : i + 1], heads=[" ".join(map(str, words[i].tolist()))])
    shown = below.imshow(seen.view(4, 4, 8)[i], cmap="coolwarm", vmin=0.3, vmax=0.7)
    below.set_axis_off()
figure.colorbar(shown, ax=axes[1], shrink=0.9, label="looks at word 2")
kit.save(figure, "7_unet_dit_cross_attention")

# %% The library says the same, weight by weight
from ebbflow.nets import Context, dit

ours, theirs = net.blocks[0], dit.DiTBlock(dit.DiTOptions(dim=96, num_heads=4), tokens_dim=96)
theirs.load_state_dict(ours.state_dict())
h, clock, c = torch.randn(2, 32, 96), torch.randn(2, 96), torch.randn(2, 2, 96)
torch.testing.assert_close(theirs(h, clock, Context(tokens=c)), ours(h, clock, c), rtol=1e-4, atol=1e-4)
