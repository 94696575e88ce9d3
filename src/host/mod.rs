//! Observes this machine and performs one action at a time.
