"""Judge the policy on real days, `python -m policy.bench --days`: sessions of frames with boxes, venue after venue."""
