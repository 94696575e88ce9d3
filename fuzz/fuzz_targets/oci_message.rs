//! `runtime::oci_message` with whatever the fuzzer finds.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../runtime.rs"]
#[allow(dead_code)]
mod runtime;

fuzz_target!(|text: &str| runtime::oci_message(text));
