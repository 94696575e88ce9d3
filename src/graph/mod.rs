//! Project to dependency graph.
