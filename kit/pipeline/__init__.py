"""Blocks that train at the same time, in one process each: `launch(config, num_stages=2)`."""

from kit.pipeline.exceptions import PipelineFailed as PipelineFailed
from kit.pipeline.launch import launch as launch
