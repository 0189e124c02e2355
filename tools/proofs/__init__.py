"""Proofs that the notebooks work where runners open them, with the real programs and not with stand-ins.

``python -m tools.proofs`` (or ``make proofs``) runs them all; ``alone``, ``lab``, ``hub`` or ``versions`` runs one.
``tests/test_runners.py`` runs the short ones in every test run.
"""
