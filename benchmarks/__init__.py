"""The benchmarks: ``python -m benchmarks``; README.md says what is measured and how."""
