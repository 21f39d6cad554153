from .annotators import PromptAnnotator as PromptAnnotator
from .campaign import AnnotationLoop as AnnotationLoop
from .campaign_history import campaign_history as campaign_history
from .candidates import candidate_pairs as candidate_pairs
from .criteria import (
    CRITERIA as CRITERIA,
)
from .criteria import (
    Criterion as Criterion,
)
from .criteria import (
    GreedyD as GreedyD,
)
from .criteria import (
    GreedyV as GreedyV,
)
from .criteria import (
    PastAwareD as PastAwareD,
)
from .criteria import (
    PosteriorVariance as PosteriorVariance,
)
from .criteria import (
    PublishedD as PublishedD,
)
from .criteria import (
    RandomPairs as RandomPairs,
)
from .k_centre import SITE_CRITERIA as SITE_CRITERIA
from .k_centre import KCentre as KCentre
from .label_store import Ask as Ask
from .label_store import Label as Label
from .label_store import LabelConflictError as LabelConflictError
from .label_store import LabelStore as LabelStore
from .label_store import Proposal as Proposal
from .label_store import Round as Round
from .pool import PairCandidates as PairCandidates
from .prequential import Prequential as Prequential
from .prequential import prequential as prequential
from .selection import Selection as Selection
from .selection import select as select
from .selection import select_pairs as select_pairs
from .site_selection import select_sites as select_sites
from .sites import SiteCandidates as SiteCandidates
from .stopping import stopping_curve as stopping_curve
from .studies import (
    LearningCurve as LearningCurve,
)
from .studies import (
    compare_designs as compare_designs,
)
from .studies import (
    learning_curve as learning_curve,
)
from .studies import (
    paired_differences as paired_differences,
)
