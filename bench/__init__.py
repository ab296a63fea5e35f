"""Benchmarks of svdprune_ext: one file per question it answers."""
