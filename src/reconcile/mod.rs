//! Walks a plan with all the parallelism it has.
