//! File system events to one debounced change.
