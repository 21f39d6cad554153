from .abilities import plot_abilities as plot_abilities
from .calibration import plot_calibration as plot_calibration
from .learning import plot_learning_curve as plot_learning_curve
from .trajectories import plot_bands as plot_bands
from .trajectories import plot_paths as plot_paths
