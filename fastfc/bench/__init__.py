"""Measure fastfc against the machine and against its rivals: ``python -m fastfc bench``.

===============  ==================================================================================
module           knows
===============  ==================================================================================
``cases``        what is measured: shapes, batches, kinds of work, and the data they run on
``rivals``       how each library computes a case: one adapter a rival, one statement a kind
``steps``        a training step in each library, and in float64
``check``        whether an answer is right: float64 reference, bounds relative to the sum of moduli
``measure``      how time is taken: short bursts in turn, minimum over the rounds
``limits``       what the machine can do at all, measured in the same rounds
``report``       what the times mean: ratios, fractions of the roofline, tables, JSON, comparison
``picture``      the roofline as a PNG
``digits``       the main job: train a small network on real data, then use it
``cli``          options, budget, progress
===============  ==================================================================================

Nothing here is imported by ``import fastfc``; scipy, scikit-learn, matplotlib, torch and the other rivals are
imported when used and are all optional.
"""
