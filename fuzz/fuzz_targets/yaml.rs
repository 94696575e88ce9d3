//! Any text as a stack file: loading must not panic, hang or grow without
//! bound, and what `config` prints of a stack must load as the same stack.
#![no_main]

use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rcompose::project::{LoadRequest, config, load};
use rcompose::stack::{FileKind, Files};

/// No files but the one on standard input.
struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn kind(&self, _: &Path) -> Option<FileKind> {
        None
    }
}

fuzz_target!(|text: &str| {
    let request = |text: &str| LoadRequest {
        cwd: "/p".into(),
        files: vec!["-".into()],
        stdin: Some(text.to_owned()),
        ..LoadRequest::default()
    };
    if let Ok(loaded) = load(&request(text), &Nothing) {
        let printed = config::yaml(&loaded.model).expect("config is printed");
        let again = load(&request(&printed), &Nothing).expect("config is a stack");
        assert_eq!(again.project.services, loaded.project.services);
    }
});
