"""Views of the evidence: one file each. The truth they show is ``evidence.json``."""
