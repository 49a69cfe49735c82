"""Many trials: Optuna study, Ray Tune driver, ASHA, resources, resume.

``driver.run_search`` is the way in; only the modules named ``ray_*`` touch Ray.
"""
