"""WebDataset: tar files of at most 1,000 samples, of each the picture, its caption and its row.

A sample `000000042` is `000000042.jpg` (or `.png` …), `.txt` with the first captioner's sentence
where there is one, and `.json` with the row; vectors and keys are not in it.

Source: https://github.com/webdataset/webdataset, "The WebDataset format".
"""

import io
import tarfile
from contextlib import closing
from pathlib import Path

from jobs.exporting.selection import Selection, as_json
from operators.images import name_ending

SHARD_SAMPLES = 1_000
SHARD_BYTES = 1_000_000_000


def write(selection: Selection, folder: Path) -> int:
    """Writes `shard-000000.tar` and so on."""
    captions = selection.roles.captions[:1]
    written = 0
    with closing(_Shards(folder)) as shards:
        for rows, images in selection.with_pictures(selection.plain_columns):
            for row, image in zip(rows.to_pylist(), images, strict=True):
                encoded = image.encoded or b""
                sample = {name_ending(encoded): encoded, ".json": as_json(row).encode()}
                if captions and row[captions[0]] is not None:
                    sample[".txt"] = row[captions[0]].encode()
                shards.add(f"{written:09d}", sample)
                written += 1
    return written


class _Shards:
    """Tar files, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.samples = self.size = 0
        self.open = self._next()

    def add(self, key: str, sample: dict[str, bytes]) -> None:
        size = sum(map(len, sample.values()))
        is_full = self.samples == SHARD_SAMPLES or self.size + size > SHARD_BYTES
        if is_full and self.samples:
            self.open.close()
            self.open = self._next()
        for ending, data in sample.items():
            entry = tarfile.TarInfo(key + ending)
            entry.size, entry.mode = len(data), 0o644
            self.open.addfile(entry, io.BytesIO(data))
        self.samples, self.size = self.samples + 1, self.size + size

    def close(self) -> None:
        self.open.close()

    def _next(self) -> tarfile.TarFile:
        path = self.folder / f"shard-{self.count:06d}.tar"
        self.count, self.samples, self.size = self.count + 1, 0, 0
        return tarfile.open(path, "w")
