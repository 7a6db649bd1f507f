"""Score pictures made by anything, in a folder or an .npz file, against a data set.

python examples/evaluate_folder.py PICTURES [DATA]
"""

import sys

import ebbflow as ef

pictures, data = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "digits"
scores = ef.evaluate_images(pictures, data=data)
for name in ("frechet", "kid", "precision", "recall"):
    print(f"{name:10} {scores[name]:.3f}")
