from .abilities import plot_abilities as plot_abilities
from .calibration import plot_calibration as plot_calibration
from .learning import plot_learning_curve as plot_learning_curve
