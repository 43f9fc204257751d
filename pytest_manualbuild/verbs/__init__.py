"""The verbs of ``manualbuild``, by subject: arguments in, one call, its answer printed."""
