//! Any bytes as an image's tar.
#![no_main]

#[path = "../images.rs"]
#[allow(dead_code, reason = "each target calls one of them")]
mod images;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let at = tempfile::tempdir().expect("a folder is made");
    images::tar(data, at.path());
});
