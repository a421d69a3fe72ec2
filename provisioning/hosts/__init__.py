"""From an artefact to a running machine: which hosts, how to reach them, what they are."""
