"""Squares cut at random out of photographs, ten of each: few photographs become a folder to train on.

python examples/cut_squares.py squares photographs/*.jpg
"""

import random
import sys
from pathlib import Path

from PIL import Image

SIDE = 256
folder, files = Path(sys.argv[1]), sys.argv[2:]
folder.mkdir(parents=True, exist_ok=True)
draw_from = random.Random(0)
for i, file in enumerate(files):
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    for k in range(10):
        length = round(min(picture.size) * draw_from.uniform(0.45, 0.9))
        left, top = (draw_from.randint(0, room - length) for room in picture.size)
        square = picture.crop((left, top, left + length, top + length))
        square.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(folder / f"{i:04d}_{k}.jpg", quality=92)
print(f"{10 * len(files)} squares of {SIDE}x{SIDE} out of {len(files)} photographs in {folder}")
