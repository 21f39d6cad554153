from .abilities import ability_table as ability_table
from .arviz_adapter import summary as summary
from .baselines import noise_floor as noise_floor
from .baselines import persistence as persistence
from .baselines import trajectory_table as trajectory_table
from .baselines import transport_midpoint as transport_midpoint
from .best_of_n import BestOfN as BestOfN
from .best_of_n import PromptRanking as PromptRanking
from .best_of_n import best_of_n as best_of_n
from .best_of_n import spearman_within_prompts as spearman_within_prompts
from .block_bootstrap import SamplingVariability as SamplingVariability
from .block_bootstrap import sampling_variability as sampling_variability
from .bridge_paths import Bands as Bands
from .bridge_paths import MultimarginalBridge as MultimarginalBridge
from .bridges import BridgeObjective as BridgeObjective
from .bridges import bridge_objective as bridge_objective
from .bridges import brownian_epsilon as brownian_epsilon
from .bridges import multimarginal_bridge as multimarginal_bridge
from .bridges import sinkhorn_bridge as sinkhorn_bridge
from .choosing import ReferenceChoice as ReferenceChoice
from .choosing import choose_reference as choose_reference
from .conditioning import conditioned_moments as conditioned_moments
from .conditioning import conditioned_paths as conditioned_paths
from .couplings import Bridge as Bridge
from .density_ratio import weighted_holdout_risk as weighted_holdout_risk
from .distances import TransportPlan as TransportPlan
from .distances import mmd_squared as mmd_squared
from .distances import sliced_wasserstein as sliced_wasserstein
from .distances import transport_plan as transport_plan
from .distances import wasserstein as wasserstein
from .ensembles import ensemble as ensemble
from .fill_distance import fill_distance as fill_distance
from .fisher import comparison_information as comparison_information
from .fisher import fisher_information as fisher_information
from .forecasts import Forecast as Forecast
from .forecasts import forecast as forecast
from .forecasts import linear_noise_check as linear_noise_check
from .guidance import GuidedPaths as GuidedPaths
from .guidance import guided_paths as guided_paths
from .infill import InfillCheck as InfillCheck
from .infill import infill_check as infill_check
from .influence import OrderInfluence as OrderInfluence
from .influence import order_influence as order_influence
from .laplace_approximation import LaplaceOptions as LaplaceOptions
from .laplace_approximation import laplace as laplace
from .local_regression import LocalPrediction as LocalPrediction
from .local_regression import LocalRegression as LocalRegression
from .local_regression import geographically_weighted_regression as geographically_weighted_regression
from .model_comparison import compare_models as compare_models
from .neighbours import Neighbours as Neighbours
from .pointwise_reward import PointwiseReward as PointwiseReward
from .pointwise_reward import fit_pointwise as fit_pointwise
from .posterior import (
    GaussianPosterior as GaussianPosterior,
)
from .posterior import (
    Posterior as Posterior,
)
from .posterior import (
    SampledPosterior as SampledPosterior,
)
from .references import ReferenceMode as ReferenceMode
from .references import fit_reference as fit_reference
from .references import reference_mode as reference_mode
from .refinement import Refinement as Refinement
from .refinement import refine_reference as refine_reference
from .reward_calibration import RewardCalibration as RewardCalibration
from .reward_calibration import calibrate_rewards as calibrate_rewards
from .rewards import (
    Moments as Moments,
)
from .rewards import (
    reward as reward,
)
from .rewards import (
    reward_difference as reward_difference,
)
from .rewards import (
    win_probability as win_probability,
)
from .risk import Risk as Risk
from .risk import pointwise_losses as pointwise_losses
from .risk_comparison import compare_risks as compare_risks
from .sampling import nuts as nuts
from .sampling import svi as svi
from .scores import (
    Calibration as Calibration,
)
from .scores import (
    accuracy as accuracy,
)
from .scores import (
    brier as brier,
)
from .scores import (
    calibration_curve as calibration_curve,
)
from .scores import (
    log_loss as log_loss,
)
from .scores import (
    simultaneous_bound as simultaneous_bound,
)
from .scores import (
    spearman as spearman,
)
from .selection_score import selection_score as selection_score
from .spatial_risk import holdout_risk as holdout_risk
from .spatial_risk import nearest_neighbour_risk as nearest_neighbour_risk
from .spatial_risk import snn_risk as snn_risk
from .splitters import BufferedLeaveOneOut as BufferedLeaveOneOut
from .splitters import NearestNeighbourMatching as NearestNeighbourMatching
from .splitters import SpatialBlocks as SpatialBlocks
from .storage import load as load
from .surface_risk import SurfaceRisk as SurfaceRisk
from .surface_risk import expected_losses as expected_losses
from .surface_risk import lipschitz_constant as lipschitz_constant
from .surface_risk import surface_risk as surface_risk
from .telling_apart import Identifiability as Identifiability
from .telling_apart import drift_or_diffusion as drift_or_diffusion
from .training import Training as Training
from .training import TrainingOptions as TrainingOptions
from .training import train as train
