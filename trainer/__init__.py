"""One trial: base model, data, adapter, Trainer run, result. Nothing here knows of Ray.

Import from the modules: ``config``, ``result`` and ``folder`` are light and need no torch;
``run`` and what it stands on load it.
"""
