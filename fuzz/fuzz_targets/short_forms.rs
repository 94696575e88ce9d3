//! Any text as each of the short forms.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rcompose::stack::{
    clean_path, format_duration, parse_amount, parse_duration, parse_mount, parse_port_range, parse_ports,
    split_words,
};

fuzz_target!(|text: &str| {
    let _ = parse_amount(text);
    let _ = parse_mount(text);
    let _ = parse_port_range(text);
    let _ = split_words(text);
    if let Ok(ports) = parse_ports(text) {
        assert!(!ports.is_empty() && ports.iter().all(|port| port.target > 0));
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
    let clean = clean_path(text);
    assert_eq!(clean_path(&clean), clean);
});
