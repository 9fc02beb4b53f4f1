"""What an adversary sees: facts, threat models, captured records, observations."""
