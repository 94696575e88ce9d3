//! One process a stack: the loop, health, restarts, names, ports, watching.
