"""How a model is looked at: sites, one captured pass, isolation, and the interface of signals."""
