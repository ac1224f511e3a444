"""Several pictures on one, for looking at them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from upscale.image.picture import Picture

GAP = 2  # white pixels between pictures


def sheet(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size, row by row, as many across as down."""
    height, width = pictures[0].size
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    whole = np.ones(((height + GAP) * rows - GAP, (width + GAP) * columns - GAP, 3), np.float32)
    for index, picture in enumerate(pictures):
        top, left = (height + GAP) * (index // columns), (width + GAP) * (index % columns)
        whole[top : top + height, left : left + width] = picture.rgb
    return Picture(whole)
