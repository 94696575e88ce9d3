//! What each fuzz target of the runtime does with an input. The targets call
//! these, and so does `tests/fuzz.rs`, which needs no fuzzer.

use rcompose::monitor::log;
use rcompose::runtime::fuzz;

/// A text as a bundle's configuration.
pub fn oci_config(text: &str) {
    fuzz::specification(text);
}

/// A text as a message between our processes.
pub fn oci_message(text: &str) {
    fuzz::message(text);
}

/// A text as a user, and the container's files.
pub fn oci_user(text: &str) {
    fuzz::user(text);
}

/// A text as a log, and as output that becomes one.
pub fn container_log(text: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    log::fuzz::read(folder.path(), text.as_bytes());
    log::fuzz::write(folder.path(), text.as_bytes());
}
