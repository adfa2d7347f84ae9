"""Models, data sets, one run or many at once, and the coordinate check: what trains. Knows no table and no page."""
