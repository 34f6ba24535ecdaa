from __future__ import annotations

import numpy as np
import pytest

from accel.faces.find import FaceModels, find_faces
from tests.faces.film import portrait


@pytest.fixture(scope="session")
def models() -> FaceModels:
    return FaceModels()


@pytest.fixture(scope="session")
def astronaut(models) -> np.ndarray:
    """Landmarks of the portrait itself, [468, 3]."""
    (face,) = find_faces(portrait(), models=models)
    return face.landmarks.astype(np.float64)
