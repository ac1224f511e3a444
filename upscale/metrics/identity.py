"""Whether a face is still the same person's, by dlib's face recognition (King 2017)."""

from __future__ import annotations

import math

import numpy as np

from upscale.image import faces
from upscale.image.picture import quantised

_SMALLEST = 40  # pixels: dlib's detector finds no smaller face, enlarged twice


class Identity:
    """Distance between faces. Raises WeightsError if its packages are not installed."""

    def __init__(self) -> None:
        dlib, models = faces.packages()
        self.find_faces, self.landmarks = faces.detector(), faces.landmarks()
        self.describe = dlib.face_recognition_model_v1(
            str(models / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def distance(self, sr: np.ndarray, hr: np.ndarray) -> float:
        """Euclidean distance between the descriptors of the largest face in two (H,W,3) in [0,1];
        below 0.6 dlib takes them for one person. nan where the original shows no face.

        The face is found and turned upright in the original, and the same place is taken from
        the result, so that a badly drawn face does not move the window."""
        sr, hr = quantised(sr, 8), quantised(hr, 8)
        if min(hr.shape[:2]) < _SMALLEST:
            return math.nan
        found = self.find_faces(hr, 1)  # enlarged once: small faces too
        if not found:
            return math.nan
        shape = self.landmarks(hr, max(found, key=lambda face: face.area()))
        made, real = (np.array(self.describe.compute_face_descriptor(x, shape)) for x in (sr, hr))
        return float(np.linalg.norm(made - real))
