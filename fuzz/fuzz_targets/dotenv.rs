//! Any text as an environment file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rcompose::stack::{parse_env_file, parse_raw_env_file};

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name.len() % 2 == 0).then(|| "v".to_owned());
    if let Ok(found) = parse_env_file(text, &lookup, &mut |_| {}) {
        assert!(found.keys().all(|name| !name.contains(char::is_whitespace)));
    }
    parse_raw_env_file(text, &lookup);
});
