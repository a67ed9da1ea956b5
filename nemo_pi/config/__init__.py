"""From YAML to a validated run: schema, merge, checks, the printed plan."""
