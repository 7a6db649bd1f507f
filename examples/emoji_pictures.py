"""A folder of emoji out of the unpacked npm package emoji-datasource-google: name as caption, category as label.

Flags and the parts that emoji are put together of are left out.

npm pack emoji-datasource-google && tar xzf emoji-datasource-google-*.tgz
python examples/emoji_pictures.py package emoji
"""

import json
import shutil
import sys
from pathlib import Path

package, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
rows = []
for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
    drawn = package / "img" / "google" / "64" / emoji["image"]
    if emoji["category"] not in ("Flags", "Component") and drawn.is_file():
        shutil.copyfile(drawn, folder / emoji["image"])
        rows.append({"file_name": emoji["image"], "label": emoji["category"], "text": emoji["name"].lower()})
(folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
print(f"{len(rows)} emoji in {folder}")
