from .data import Comparisons as Comparisons
from .data import Items as Items
from .data import Sites as Sites
from .data import Snapshots as Snapshots
from .data import project as project
from .preferences import (
    BradleyTerry as BradleyTerry,
)
from .preferences import (
    ComparisonModel as ComparisonModel,
)
from .preferences import (
    Davidson as Davidson,
)
from .preferences import (
    Thurstone as Thurstone,
)
from .projection import Projection as Projection
from .reward_heads import AbilityHead as AbilityHead
from .reward_heads import Head as Head
from .reward_heads import LinearHead as LinearHead
