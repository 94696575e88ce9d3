//! Any text as a template.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use rcompose::stack::substitute;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name.len() % 2 == 0).then_some(Cow::Borrowed("v"));
    let _ = substitute(text, &lookup, &mut |_| {});
    let escaped = text.replace('$', "$$");
    let same = substitute(&escaped, &lookup, &mut |_| {}).expect("escaped text is a template");
    assert_eq!(same, text);
});
