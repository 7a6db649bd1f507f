"""Somebody else's pipeline, walked by our samplers: a saved folder or a name on the hub.

python examples/diffusers_pipeline.py FOLDER_OR_NAME [PROMPT]
"""

import sys

import ebbflow as ef

model = ef.load_diffusers(sys.argv[1])
print(model)
asked = {"prompts": [sys.argv[2]]} if len(sys.argv) > 2 else {}
for sampler, steps in (("ddim", 10), ("dpmpp_2m", 5)):
    samples = model.sample(num=2, sampler=sampler, steps=steps, seed=7, **asked)
    print(samples.save(f"{sampler}_{steps}.png"))
