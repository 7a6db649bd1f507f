"""What many small pictures take of memory and time, by where they lie: `python -m benchmarks.data_memory`.

Makes PNG of 32 x 32 in a folder, packs them, writes them as parquet, and trains a small MLP on each. The memory is the
largest sum of the proportional set sizes of the training and its readers (Linux); the time is that of one core that
reads batches in the order of a training.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ebbflow.data import load_dataset
from ebbflow.data.shards import pack
from ebbflow.progress import finish
from ebbflow.runs.build import DatasetLoader

GROUP = 100  # rows of a row group, as the hub has them of pictures
BATCHES = 60
WAYS = {
    "folder in memory": ["{}/folder"],
    "folder on demand": ["{}/folder", "--set", "data.on_demand=true"],
    "tar shards": ["{}/shards/*.tar"],
    "parquet": ["{}/parquet"],
}
TRAIN = "--batch-size 32 --max-steps 60 --set net.kind=mlp --set train.sample_every=0 --set train.held_out_size=32"


def make(root: Path, num: int) -> None:
    """The pictures, three times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, rows = np.random.default_rng(0), []
    for name in ("folder", "parquet"):
        (root / name).mkdir()
    for i in range(num):
        small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((32, 32), Image.Resampling.BICUBIC).save(file, "png")
        (root / "folder" / f"{i:06d}.png").write_bytes(file.getvalue())
        rows.append({"bytes": file.getvalue(), "path": f"{i:06d}.png"})
    pq.write_table(pa.table({"image": rows}), root / "parquet" / "all.parquet", row_group_size=GROUP)
    finish(pack(root / "folder", root / "shards", shard_mb=16))


def memory_of(process: int) -> int:
    """Bytes of a process and its children, what they share dealt out among them."""
    total = 0
    for task in (process, *children_of(process)):
        try:
            lines = Path(f"/proc/{task}/smaps_rollup").read_text().splitlines()
        except OSError:  # it ended meanwhile
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def children_of(process: int) -> list[int]:
    """Processes below a process."""
    try:
        own = [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *(below for one in own for below in children_of(one))]


def speed_of(data: list[str]) -> float:
    """Pictures a second of one core's time, in batches of 32."""
    found = load_dataset(data[0], size=32, on_demand=len(data) > 1).train
    loader = DatasetLoader(dataset=found, cond=None, batch_size=32, seed=0)
    loader.batch(0)
    began = time.process_time()
    for step in range(1, BATCHES):
        loader.batch(step)
    return 32 * (BATCHES - 1) / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--only", default=",".join(WAYS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, asked.num)
        for way in asked.only.split(","):
            data = [part.format(root) for part in WAYS[way]]
            command = [sys.executable, "-m", "ebbflow", "train", "--data", *data, *TRAIN.split()]
            run = subprocess.Popen(
                [*command, "--img-size", "32", "--save-dir", str(root / "runs" / way)],
                stdout=subprocess.DEVNULL,
            )
            most = 0
            while run.poll() is None:
                most = max(most, memory_of(run.pid))
                time.sleep(0.1)
            failed = "" if run.returncode == 0 else ", FAILED"
            speed = f"{speed_of(data):,.0f} pictures/s of a core"
            print(f"{asked.num:,} pictures, {way}: {most / 1e6:,.0f} MB, {speed}{failed}", flush=True)


if __name__ == "__main__":
    main()
