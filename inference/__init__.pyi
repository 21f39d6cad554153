from .abilities import ability_table as ability_table
from .fisher import comparison_information as comparison_information, fisher_information as fisher_information
from .laplace_approximation import LaplaceOptions as LaplaceOptions, laplace as laplace
from .posterior import (
    GaussianPosterior as GaussianPosterior,
    Posterior as Posterior,
    SampledPosterior as SampledPosterior,
)
from .rewards import (
    Moments as Moments,
    reward as reward,
    reward_difference as reward_difference,
    win_probability as win_probability,
)
from .sampling import nuts as nuts, svi as svi
from .scores import (
    Calibration as Calibration,
    accuracy as accuracy,
    brier as brier,
    calibration_curve as calibration_curve,
    log_loss as log_loss,
    simultaneous_bound as simultaneous_bound,
    spearman as spearman,
)
from .storage import load as load
