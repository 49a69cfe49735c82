"""Many trials: Optuna study, Ray Tune driver, ASHA, resources, resume.

``driver.run_search`` is the way in; only ``ray_tune`` and ``ray_worker`` touch Ray.
"""
