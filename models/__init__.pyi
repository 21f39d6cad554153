from .data import Comparisons as Comparisons, Items as Items, Sites as Sites, Snapshots as Snapshots, project as project
from .preferences import (
    BradleyTerry as BradleyTerry,
    ComparisonModel as ComparisonModel,
    Davidson as Davidson,
    Thurstone as Thurstone,
)
from .projection import Projection as Projection
from .reward_heads import AbilityHead as AbilityHead, Head as Head, LinearHead as LinearHead
