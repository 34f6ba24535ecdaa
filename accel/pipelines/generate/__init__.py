"""Pictures from prompts: one engine behind `accel generate`, `accel.generate` and the server."""

from accel.pipelines.generate.controls import Control as Control
from accel.pipelines.generate.job import generate as generate
from accel.pipelines.generate.model import Model as Model
from accel.pipelines.generate.model import load as load
from accel.pipelines.generate.options import Options as Options
from accel.pipelines.generate.sampler import Picture as Picture
from accel.pipelines.generate.sampler import Sampler as Sampler
