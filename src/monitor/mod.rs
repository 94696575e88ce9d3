//! The process that holds one container's stdio, log and exit status.
