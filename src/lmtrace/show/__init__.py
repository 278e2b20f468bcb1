"""How a run is looked at: tables, the self-contained report, the live dashboard. No torch in this room."""
