"""Who answers the requests of a synthesis: servers, batch files, a model in this process; `base` is their interface."""
