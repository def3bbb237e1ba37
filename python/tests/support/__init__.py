"""Code that the tests share; launched ranks find it through `PYTHONPATH` (launches.py)."""
