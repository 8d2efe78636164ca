"""Train stage 2 on FineHARD as it was published: its JSON files and the pictures of GRIT, taken into shards first.

    python docs/examples/train_on_finehard.py FineHARD/jsonfiles data/grit-12m runs/finehard model.start=qihoo360/fg-clip2-base

Further arguments are settings of the trainer. Called again, it goes on where it was. On eight GPUs, put the last call behind
`torchrun --nproc-per-node 8`.
"""

import subprocess
import sys
from pathlib import Path


def main(annotations: str, pictures: str, out: str, *settings: str) -> None:
    shards = Path(out) / "shards"
    take_in = ["fineloom", "import", annotations, "--layout", "finehard", "--pictures", pictures, "--out", str(shards)]
    fineloom = [str(Path(sys.executable).with_name(take_in[0])), *take_in[1:]]
    subprocess.run(fineloom, check=True)
    train = ["-m", "fgclip2_train", "train", "stage=2", f"data.shards={shards}/*.tar", f"out={out}/stage2", *settings]
    subprocess.run([sys.executable, *train], check=True)
    print(f"checkpoint: {out}/stage2/checkpoints/last")


if __name__ == "__main__":
    main(*sys.argv[1:])
