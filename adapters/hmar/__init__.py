"""HMAR: next-scale prediction with mask refinement and no cache."""
