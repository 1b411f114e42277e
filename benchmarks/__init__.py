"""Speed and memory against the plain recipe, as ratios measured in one run."""
