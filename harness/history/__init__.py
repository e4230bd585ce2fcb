"""History of numbers over commits: series, change points, and the anchors of the gate."""
