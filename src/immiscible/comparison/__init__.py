"""Comparing couplings: trained alike, scored alike, reported on one page that claims no more than its figures."""
