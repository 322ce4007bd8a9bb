"""Extraction: what can an attacker who may query a language model make it say of the forgotten?

``plan_extraction`` draws prompts, prefixes and alternatives of identifiers once, ``ExtractionPlan.attack`` asks one
model; ``extraction_attack`` does both. The same plan for the original, the unlearned and the retrained models makes
their figures comparable: each was asked the same.
"""
