from .baseball import american_league_1987 as american_league_1987
from .simulated import SimulatedPreferences as SimulatedPreferences
from .simulated import simulated_preferences as simulated_preferences
from .words import RatedItems as RatedItems
from .words import word_valence as word_valence
