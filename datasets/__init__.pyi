from .baseball import american_league_1987 as american_league_1987
from .simulated import SimulatedPreferences as SimulatedPreferences, simulated_preferences as simulated_preferences
from .words import RatedItems as RatedItems, word_valence as word_valence
