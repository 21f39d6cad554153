"""The posterior contract and the methods that know no domain: mode, evidence, chains, storage, ArviZ."""
