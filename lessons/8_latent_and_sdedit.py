# %% [markdown]
# # 8. Latent diffusion, and SDEdit
#
# A note gives these two a heading and a line: *latent diffusion models, also known as Stable Diffusion*, and "sedit".
# The second is called **SDEdit**, and the two names of the first are not one thing: Stable Diffusion is *a* latent
# diffusion model, with a text encoder and hundreds of millions of pictures. The idea fits into a minute: squeeze
# pictures into a small code first, and diffuse codes. Then lesson 1 run half-way, and lesson 5 run back from there,
# edits a picture.

# %%
import kit
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = kit.digits()

# %% [markdown]
# ## A code for pictures
#
# An autoencoder of a few convolutions: 24 x 24 pixels to 4 x 6 x 6 numbers and back, a quarter as many. It is trained
# to reproduce (Rombach et al., 2021, arXiv 2112.10752). A little noise on the code, here of 0.1 times its size, makes
# neighbouring codes mean neighbouring pictures, so that a code which is not quite right decodes to a picture which is
# nearly right. (In earnest one adds a loss that compares features, and one that asks a critic, so that decodings are
# sharp.)

# %%
def conv(channels_in, channels, stride=1):
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, stride, 1), nn.GroupNorm(8, channels), nn.SiLU())

halve, double = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
encoder = nn.Sequential(halve, conv(4, 32), conv(32, 64, 2), conv(64, 64), nn.Conv2d(64, 4, 1))
decoder = nn.Sequential(conv(4, 64), conv(64, 128), double, conv(32, 32), nn.Conv2d(32, 4, 1), double)
optimiser, steps = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 4e-3), kit.few(300)
for step in range(steps):
    x = images[torch.randint(len(images), (64,))]
    code = encoder(x)
    error = F.mse_loss(decoder(code + 0.1 * code.detach().std() * torch.randn_like(code)), x)
    kit.descend(optimiser, error, step / steps)
print(f"error of a pixel {error.item() ** 0.5:.3f}, in [-1, 1]")

# %% [markdown]
# ## Diffusing codes
#
# Everything of the lessons before applies, to codes. One step is easily forgotten: those schedules assume data of about
# **unit variance**, and a code has whatever scale it pleases. So measure mean and standard deviation once, channel by
# channel, and walk in $z = (\mathrm{code} - \mu)/\varsigma$. (Stable Diffusion's "scaling factor" 0.18215 is this.) The
# net sees all of a 6 x 6 code at once, so a few blocks without a U-Net do.

# %%
with torch.no_grad():
    codes = torch.cat([encoder(part) for part in images.split(500)])
mean, std = codes.mean((0, 2, 3), keepdim=True), codes.std((0, 2, 3), keepdim=True, correction=0)
latents = (codes - mean) / std

class Net(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.stem, self.out = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.blocks = nn.ModuleList(kit.Block(width, width) for _ in range(4))
        self.told, self.keep = kit.Told(), nn.Linear(128, 1)

    def forward(self, z, t, label):
        told, h = self.told(t, label), self.stem(z)
        for block in self.blocks:
            h = block(h, told)
        return self.out(h) + self.keep(told)[:, :, None, None] * z

net, steps = Net(), kit.few(600)
optimiser = torch.optim.Adam(net.parameters(), 4e-3, betas=(0.9, 0.99))
for step in range(steps):
    rows, t, eps = torch.randint(len(images), (64,)), torch.sigmoid(torch.randn(64)), torch.randn(64, 4, 6, 6)
    z, s = latents[rows], t.view(-1, 1, 1, 1)
    loss = F.mse_loss(net((1 - s) * z + s * eps, t, labels[rows]), eps - z)
    kit.descend(optimiser, loss, step / steps)
print(f"loss {loss.item():.3f}")

# %% [markdown]
# ## SDEdit
#
# Noise a picture to the time t = strength, then sample from *there*, with another wish (Meng et al., 2021, arXiv
# 2108.01073). What is coarse outlives much noise, what is fine does not: at a small strength little changes, at
# strength 1 nothing of the picture is left. Between them lies a window, where an 8 is written as this hand wrote its 3.
# *In the picture: digits, what is left of them after encoding and decoding, samples, and a 3 on its way to an 8.*

# %%
@torch.no_grad()
def walk(z, label, strength=1.0):  # Euler from t = strength to 0, on a grid of 20 steps for the whole way
    for i in range(round(strength * 20), 0, -1):
        z = z - net(z, torch.full((len(z),), i / 20), label) / 20
    return decoder(z * std + mean)

noise, strengths = torch.randn(8, 4, 6, 6), (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95)
made, three = walk(noise, torch.arange(8)), (labels == 3).nonzero()[4]
eight = torch.tensor([8])
edited = torch.cat([walk((1 - s) * latents[three] + s * noise[:1], eight, s) for s in strengths])

# %%
figure, axes = plt.subplots(4, 1, figsize=(8, 5), layout="constrained")
kit.strip(axes[0], images[:8], "digits")
kit.strip(axes[1], walk(latents[:8], None, 0), "decoded")
kit.strip(axes[2], made, "sampled")
kit.strip(axes[3], torch.cat([images[three], edited]), "SDEdit to 8", ["a 3", *map(str, strengths)])
kit.save(figure, "8_latent_and_sdedit")

# %% The library says the same
import ebbflow as ef
from ebbflow.methods.editing import sdedit

codec = nn.ModuleDict({"encoder": encoder, "decoder": decoder})  # the library wants a mean and a log-variance
codec.encode, codec.decode = lambda x: (encoder(x), torch.zeros(())), decoder.forward
space = ef.LatentSpace(codec, (1, 24, 24))
space.measure(images.split(500))
torch.testing.assert_close(space.encode(images[:8]), latents[:8], rtol=1e-3, atol=1e-3)
told = {"path": ef.PATHS["flow"](), "scale": "none", "clock": "time"}
model = ef.NetDenoiser(net=lambda z, clock, _: net(z, clock / 1000, eight), **told)
*_, step = sdedit(model, latents[three], kit.Replay([noise[:1]]), strength=0.6, sampler="euler", num_steps=20)
torch.testing.assert_close(space.decode(step.x), edited[3:4], rtol=1e-3, atol=1e-3)
