"""The demonstration behind ``svdprune demo``: one photograph through one model, measured and checked.

The way of the data: ``settings`` (checked) -> ``photo`` -> ``random_llava`` or ``checkpoint`` -> ``measure``
(both runs) -> ``agreement`` (against the float64 oracle) -> ``result`` -> ``tables``, ``figure`` and JSON.
Importing this package imports none of them, so it needs no extra.
"""
