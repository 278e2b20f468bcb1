"""From curves to findings: emergence, phases, convergence, alerts. No torch."""
