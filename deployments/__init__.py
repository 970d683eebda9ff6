"""Where the project meets its surroundings: settings, deployment definitions, servers for demos."""
