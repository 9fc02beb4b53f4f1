"""Files and identities: whole writes, retries, content hashes, provenance."""
