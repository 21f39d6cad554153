from .data import Comparisons as Comparisons
from .data import Items as Items
from .data import Sites as Sites
from .data import Snapshots as Snapshots
from .data import project as project
from .embeddings import Embeddings as Embeddings
from .embeddings import open_embeddings as open_embeddings
from .frames import Frame as Frame
from .geometry import distances as distances
from .graded_preferences import Graded as Graded
from .graded_preferences import RaoKupper as RaoKupper
from .loss_surfaces import LossSurface as LossSurface
from .mlp_head import HiddenFeatures as HiddenFeatures
from .mlp_head import MLPHead as MLPHead
from .pointwise import PointwiseClassifier as PointwiseClassifier
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
from .projection import FeatureMap as FeatureMap
from .projection import Projection as Projection
from .reference_sdes import Drift as Drift
from .reference_sdes import ReferenceSDE as ReferenceSDE
from .reference_sdes import Volatility as Volatility
from .reference_sdes import constant_volatility as constant_volatility
from .reference_sdes import diagonal_volatility as diagonal_volatility
from .reference_sdes import proportional_volatility as proportional_volatility
from .reward_heads import AbilityHead as AbilityHead
from .reward_heads import Head as Head
from .reward_heads import LinearHead as LinearHead
from .sde_families import big_vortex as big_vortex
from .sde_families import brownian as brownian
from .sde_families import coupled_springs as coupled_springs
from .sde_families import gradient_field as gradient_field
from .sde_families import lamb_oseen as lamb_oseen
from .sde_families import lotka_volterra as lotka_volterra
from .sde_families import ornstein_uhlenbeck as ornstein_uhlenbeck
from .sde_families import repressilator as repressilator
from .simulation import simulate as simulate
from .snapshots import SnapshotModel as SnapshotModel
