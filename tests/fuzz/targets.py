"""Every fuzz target by its name."""

from tests.fuzz.files import FILES
from tests.fuzz.images import IMAGES
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {target.name: target for target in (*IMAGES, *FILES)}
