"""`ebbflow pack`: a folder of pictures, or parquet, as tar shards."""

from __future__ import annotations

from ebbflow.cli.common import print_json
from ebbflow.cli.progress import shown
from ebbflow.requests.tools import PackRequest


def pack(request: PackRequest) -> None:
    """Write a folder of pictures, or parquet, as tar shards with an index beside each, which training reads on demand.

    Any reader of the WebDataset format opens them. `ebbflow train --data 'OUT/*.tar'` trains on them, whatever their
    number, in the memory of a few batches.
    """
    from ebbflow.data.shards import pack as work_of

    work = work_of(request.folder, request.into, shard_mb=request.shard_mb, skip_bad=request.skip_bad)
    found = shown(work, "stopped; finished shards stay.", unit="image")
    if request.json:
        print_json(vars(found))
        return
    for name, reason in found.left_out.items():
        print(f"left out: {name}: {reason}")
    some = f", {len(found.left_out)} left out" if found.left_out else ""
    print(f"{found.num:,} images{some} in {len(found.shards)} shards of {found.bytes / 1e6:,.1f} MB in all")
    print(f"use them with: ebbflow train --data '{request.into}/*.tar'")
