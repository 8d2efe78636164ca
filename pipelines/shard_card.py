"""The README.md of a folder of shards: declares the features, so that `datasets` need not guess them from the first samples.

It would guess wrongly: where the first five samples have no regions, their type is "null" and the sixth breaks the load.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.durable import files, open_read, replace
from pipelines.shard_format import MAX_JSON_BYTES

LOOKED_AT = 8
"""Shards whose first sample is looked at for the names of stages."""

TEXT = """# Training shards

Pictures with captions, regions and hard negatives, as plain WebDataset tars in the `fineloom/1` shard format: each sample is
`<uid>.jpg`, the picture's bytes as they were downloaded, and `<uid>.json`, everything known of it.

```python
datasets.load_dataset("path/of/this/folder")
webdataset.WebDataset("00000.tar").decode("pil").to_tuple("jpg", "json")
```
"""


def write_card(folder: Path, scores: Sequence[str]) -> None:
    """Write `folder`/README.md for the tars in it, atomically."""
    front = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
        "dataset_info": {"features": features(scores, _stages(folder))},
    }
    # Copied by way of JSON: YAML would write the features that occur twice as references, which `datasets` does not read.
    header = yaml.safe_dump(json.loads(json.dumps(front)), sort_keys=False, allow_unicode=True)
    replace(folder / "README.md", f"---\n{header}---\n\n{TEXT}".encode())


def features(scores: Sequence[str], stages: Sequence[str]) -> list[dict[str, Any]]:
    """`dataset_info.features` in the YAML form of `datasets`."""
    text = _struct(text="string", language="string", length="string", origin="string", by="string")
    span = {"list": "int32", "length": 2}
    negative = _struct(text="string", family="string", span=span, original="string", origin="string", flags={"list": "string"})
    region = _struct(
        box={"list": "float32", "length": 4},
        score="float32",
        language="string",
        short="string",
        long="string",
        origin="string",
        negatives={"list": negative},
        positives={"list": _struct(text="string", origin="string")},
    )
    stage = {"struct": _struct(operators={"list": "string"}, prompt="string", model="string", fingerprint="string")}
    record = _struct(
        **dict.fromkeys(("format", "uid", "source", "license", "url", "sha256", "image_format"), "string"),
        width="int32",
        height="int32",
        texts={"list": text},
        regions={"list": region},
        long_negatives={"list": _struct(text="string", language="string", original="string", span=span, family="string")},
        scores={"struct": _struct(**dict.fromkeys(scores, "float64"))},
        provenance={"struct": _struct(**dict.fromkeys(stages, stage))},
    )
    return _struct(jpg="image", json={"struct": record}, __key__="string", __url__="string")


def _struct(**kinds: Any) -> list[dict[str, Any]]:
    return [{"name": name, **({"dtype": kind} if isinstance(kind, str) else kind)} for name, kind in kinds.items()]


def _stages(folder: Path) -> list[str]:
    """Stages named by the provenance of the first sample of some shards, in the order in which they were met."""
    tars = [path for path in files(folder) if path.suffix == ".tar"]
    step = max(1, len(tars) // LOOKED_AT)
    names: dict[str, None] = {}
    for tar in tars[::step][:LOOKED_AT]:
        with open_read(tar) as file, tarfile.open(fileobj=file) as archive:
            for member in archive:
                if member.name.endswith(".json") and member.size <= MAX_JSON_BYTES:
                    content = archive.extractfile(member)
                    assert content is not None
                    names.update(dict.fromkeys(json.load(content)["provenance"]))
                    break
    return list(names)
