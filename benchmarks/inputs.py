"""The small pictures of a set, as `diffsr bench` makes them: what another program is to enlarge.

    python benchmarks/inputs.py bench scikit-photos LR [--degradation peers] [--data DIR]

See benchmarks/teacher.py for what follows.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from upscale import write
from upscale.bench import testsets
from upscale.bench.columns import DEGRADATIONS
from upscale.bench.protocol import open_pair

SCALE = 4


def of_bench(name: str, folder: Path, degradation: str, data: Path | None) -> int:
    """Writes them as PNG and returns how many there are."""
    pairs = testsets.pairs_of(testsets.find(name, data)[1], SCALE)
    for pair in pairs:
        small, _ = open_pair(pair, SCALE, degradation)
        write(small, folder / f"{pair.hr.stem}.png", overwrite=True)
    return len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    bench = kinds.add_parser("bench", help="of a set of `diffsr bench`")
    bench.add_argument("dataset", help="a folder, or the name of a set in --data")
    bench.add_argument("folder", type=Path)
    bench.add_argument("--degradation", choices=DEGRADATIONS, default="none")
    bench.add_argument("--data", type=Path, default=os.environ.get(testsets.VARIABLE))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = Path(options.data) if options.data else None
    made = of_bench(options.dataset, options.folder, options.degradation, data)
    print(f"{made} small pictures in {options.folder}")


if __name__ == "__main__":
    main()
