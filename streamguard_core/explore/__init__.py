"""The explorer: drives the real protocol object through every interleaving of its inputs."""

from streamguard_core.explore.exploration import Exploration, explore
from streamguard_core.explore.inputs import Bound
from streamguard_core.explore.search import Violation
from streamguard_core.explore.world import Driven

__all__ = ["Bound", "Driven", "Exploration", "Violation", "explore"]
