"""A folder of colour pictures to try things on: circles, squares and triangles on soft backgrounds, with captions.

python examples/make_pictures.py my_pictures [NUM] [SIDE]
"""

import json
import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

COLOURS = {"red": "#d7263d", "orange": "#f46036", "yellow": "#f2c14e", "green": "#2e933c", "blue": "#2274a5"}
CORNERS = {"circle": 40, "square": 4, "triangle": 3}
SKIES = ("#dfe7fd", "#fde2e4", "#e2ece9", "#fff1e6", "#343a52")

folder = Path(sys.argv[1])
num, side = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((2, 200), (3, 64)))
draw_from, big, rows = random.Random(0), 4 * side, []  # drawn four times as large, for smooth edges
folder.mkdir(parents=True, exist_ok=True)
for i in range(num):
    kind = list(CORNERS)[i % 3]
    colour, sky = draw_from.choice(list(COLOURS)), draw_from.sample(SKIES, 2)
    ramp = Image.linear_gradient("L").resize((big, big)).rotate(draw_from.choice((0, 90, 180, 270)))
    picture = Image.composite(Image.new("RGB", (big, big), sky[0]), Image.new("RGB", (big, big), sky[1]), ramp)
    radius, x, y = (draw_from.uniform(low, high) * big for low, high in ((0.2, 0.34), (0.38, 0.62), (0.38, 0.62)))
    turn, corners = draw_from.uniform(-0.05, 0.05) + 0.5 / CORNERS[kind], CORNERS[kind]
    angles = [2 * math.pi * (turn + k / corners) + math.pi / 2 for k in range(corners)]
    shape = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
    shade = Image.new("L", (big, big))
    ImageDraw.Draw(shade).polygon([(a + big / 32, b + big / 32) for a, b in shape], fill=90)
    picture.paste("black", mask=shade.filter(ImageFilter.GaussianBlur(big / 40)))
    ImageDraw.Draw(picture).polygon(shape, fill=COLOURS[colour])
    picture.resize((side, side), Image.Resampling.LANCZOS).save(folder / f"{i:04d}.png")
    rows.append({"file_name": f"{i:04d}.png", "label": kind, "text": f"a {colour} {kind}"})
(folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
print(f"{num} pictures of {side}x{side} in {folder}")
