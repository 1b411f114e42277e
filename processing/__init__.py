"""Rows and images in, tensors out."""

import os

# Threads that wait for each other spin for long by default, on a core that another program may need: beside one busy
# process two threads train at a tenth of their speed. With a short spin it is nearly half, for 5 % less alone
# (docs/speed.md). libgomp reads this when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
