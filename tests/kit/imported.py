"""An import of foreign files and all that came of it."""

import json
import tarfile

from pipelines.imports import ImportSettings, import_layout
from pipelines.shard_format import validate_shard


def imported(layout, files, pictures, tmp_path, **settings):
    out = tmp_path / "imported"
    found = import_layout(layout, [files], pictures, out, ImportSettings(name="finehard", shard_size=3, **settings))
    tars = sorted(out.glob("*.tar"))
    assert all(validate_shard(tar).ok for tar in tars), [str(e) for tar in tars for e in validate_shard(tar).errors]
    records = []
    for tar in tars:
        with tarfile.open(tar) as archive:
            records += [json.load(archive.extractfile(m)) for m in archive if m.name.endswith(".json")]
    rejects = [json.loads(line) for file in sorted((out / "rejects").iterdir()) for line in file.read_text().splitlines()]
    return found, records, rejects
