"""A program that fills a store, to be killed: ``python crash_writer.py ROOT LOG [SECONDS_PER_BLOCK]``.

It appends the number of every block that it computes to LOG, and says on stdout how far it is.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from toys import array_key, features_of, pass_key, toy_split

from featstore import create_store

N, BLOCK_ROWS = 1000, 25


def main(root: Path, log: Path, seconds_per_block: float) -> None:
    """Fill the store, or go on with it."""
    split = toy_split(N)
    key = pass_key(split)
    arrays = [array_key(key, "stem", 33, "float16"), array_key(key, "neck", (3, 2, 2)), array_key(key, "body", 700)]
    truth = {a: features_of(a, N) for a in arrays}
    truth[arrays[0]][: 2 * BLOCK_ROWS] = 0  # blocks of zeros are blocks, too
    with create_store(root).writing(key, split, {"units": ["stem", "neck", "body"]}) as session:
        session.begin(arrays, BLOCK_ROWS)
        print("begun", flush=True)
        for block in session.missing_blocks():
            time.sleep(seconds_per_block)
            with log.open("a") as file:
                file.write(f"{block.index}\n")
            session.write(block, {a: np.array(truth[a][block.start : block.stop]) for a in session.arrays}, wait=False)
        print("committing", flush=True)
        session.commit()
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
