//! Any text as a reference.
#![no_main]

#[path = "../images.rs"]
#[allow(dead_code, reason = "each target calls one of them")]
mod images;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    images::reference(text);
});
