from .candidates import candidate_pairs as candidate_pairs
from .criteria import (
    CRITERIA as CRITERIA,
    Criterion as Criterion,
    GreedyD as GreedyD,
    GreedyV as GreedyV,
    PastAwareD as PastAwareD,
    PosteriorVariance as PosteriorVariance,
    PublishedD as PublishedD,
    RandomPairs as RandomPairs,
)
from .pool import PairCandidates as PairCandidates
from .selection import Selection as Selection, select as select, select_pairs as select_pairs
from .studies import (
    LearningCurve as LearningCurve,
    compare_designs as compare_designs,
    learning_curve as learning_curve,
    paired_differences as paired_differences,
)
