//! What the fuzz targets of images do with some bytes: plain functions, which a
//! test of the main crate calls too.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rcompose::image::reference::{Reference, Source};
use rcompose::image::unpack::{Limits, unpack};
use rcompose::image::{check_config, check_manifest};

// Each says whether its input was taken, so that a test can see that good input
// gets to the end of the code.

/// Unpacks an archive into `at/layer`; nothing beside it may change, and it may
/// not take more than its limits. `at` is an empty folder, and is empty again.
pub fn tar(data: &[u8], at: &Path) -> bool {
    let (layer, beside) = (at.join("layer"), at.join("beside"));
    fs::create_dir(&layer).expect("a folder is made");
    fs::write(&beside, "untouched").expect("a file is written");
    let folder = OwnedFd::from(File::open(&layer).expect("the folder opens"));
    let limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    let done = unpack(data, &folder, limits);
    if let Ok(done) = &done {
        assert!(done.bytes <= limits.bytes && done.entries <= limits.entries);
    }
    assert_eq!(fs::read(&beside).expect("the file is there"), b"untouched");
    let names = fs::read_dir(at).expect("the folder is read").count();
    assert_eq!(names, 2, "something lies beside the layer");
    fs::remove_file(&beside).expect("the file is removed");
    fs::remove_dir_all(&layer).expect("the layer is removed");
    done.is_ok()
}

/// Reads a manifest or index.
pub fn manifest(data: &[u8]) -> bool {
    check_manifest(data).is_ok()
}

/// Reads a configuration.
pub fn config(data: &[u8]) -> bool {
    check_config(data).is_ok()
}

/// Reads a reference; what is printed of it reads as the same.
pub fn reference(text: &str) -> bool {
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
        assert_eq!(
            Reference::parse(&reference.familiar()).as_ref(),
            Ok(&reference),
            "{text:?}"
        );
    }
    let source = Source::parse(text);
    if let Ok(source) = &source {
        assert_eq!(
            Source::parse(&source.to_string()).as_ref(),
            Ok(source),
            "{text:?}"
        );
    }
    source.is_ok()
}
