"""The analytic attack: layer inputs by linear algebra, then the images whose features they are."""
