"""Write a prepared data set again with augmented views of each frame, to study clips of more frames than the data has.

    python scripts/tools/augmented_views.py PREPARED OUT --views 6

Each frame of a clip is followed by its views: flipped at random, turned by up to 10 degrees, moved by up to 3 % of the
crop, scaled by up to 7 %, brighter or darker, each drawn on its own. Stills are copied as they are. `data.max_frames`
then takes evenly spaced frames, so that each frame of the data keeps about the same number of views.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torchvision.transforms import v2

from facereel.data.crop_store import open_block
from facereel.data.crop_table import read_prepared

VIEW = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(10, (0.03, 0.03), (0.93, 1.07), interpolation=v2.InterpolationMode.BILINEAR),
        v2.ColorJitter(0.2, 0.2),
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path, help="folder that facereel prepare wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--views", type=int, default=6, help="images of a frame, with the frame itself")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists: choose another folder")
    torch.manual_seed(arguments.seed)
    manifest, about = read_prepared(arguments.prepared)
    (arguments.out / about["crops"]).mkdir(parents=True)

    counts = np.where(manifest.is_still(), 1, arguments.views)
    rows = np.repeat(np.arange(len(manifest)), counts)
    view = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    block, place = (manifest.table[name].to_numpy()[rows] for name in ("block", "place"))
    place = place.copy()
    for b, name in enumerate(about["blocks"]):
        tensors = open_block(arguments.prepared / about["crops"] / name)
        added = np.flatnonzero((block == b) & (view > 0))
        origin = torch.from_numpy(place[added].astype(np.int64))
        place[added] = len(tensors["crops"]) + np.arange(len(added))
        new = {key: torch.cat([tensor, tensor[origin]]) for key, tensor in tensors.items()}
        if len(added):
            new["crops"] = torch.cat([tensors["crops"], *(VIEW(crop)[None] for crop in tensors["crops"][origin])])
        save_file(new, arguments.out / about["crops"] / name)

    written = manifest.take(rows)
    keys = [f"{key} view {v}" if v else key for key, v in zip(written.table["key"].to_pylist(), view, strict=True)]
    written = written.with_columns({"key": pa.array(keys), "place": pa.array(place)})
    written.save(arguments.out / "manifest.parquet")
    (arguments.out / "split.json").write_bytes((arguments.prepared / "split.json").read_bytes())
    print(f"{len(written)} crops, {int(np.sum(view > 0))} of them augmented views")


if __name__ == "__main__":
    main()
