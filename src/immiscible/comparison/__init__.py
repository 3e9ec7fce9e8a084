"""Comparing couplings: trained alike, scored alike, told in one page that claims no more than its figures."""
