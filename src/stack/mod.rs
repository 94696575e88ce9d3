//! Stack files to one merged document; every value knows its origin.
