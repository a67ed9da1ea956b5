"""The papers' headline results in small: a row a claim, each with a measurement and a criterion."""
