//! What the fuzz targets of images do with some bytes: plain functions, which a
//! test of the main crate calls too.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rcompose::image::reference::{Reference, Source};
use rcompose::image::unpack::{Limits, unpack};
use rcompose::image::{check_config, check_manifest};

/// Unpacks an archive into `at/layer`; nothing beside it may change, and it may
/// not take more than its limits. `at` is an empty folder, and is empty again.
pub fn tar(data: &[u8], at: &Path) {
    let (layer, beside) = (at.join("layer"), at.join("beside"));
    fs::create_dir(&layer).expect("a folder is made");
    fs::write(&beside, "untouched").expect("a file is written");
    let folder = OwnedFd::from(File::open(&layer).expect("the folder opens"));
    let limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    if let Ok(done) = unpack(data, &folder, limits) {
        assert!(done.bytes <= limits.bytes && done.entries <= limits.entries);
    }
    assert_eq!(fs::read(&beside).expect("the file is there"), b"untouched");
    let names = fs::read_dir(at).expect("the folder is read").count();
    assert_eq!(names, 2, "something lies beside the layer");
    fs::remove_file(&beside).expect("the file is removed");
    fs::remove_dir_all(&layer).expect("the layer is removed");
}

/// Reads a manifest or index.
pub fn manifest(data: &[u8]) {
    let _ = check_manifest(data);
}

/// Reads a configuration.
pub fn config(data: &[u8]) {
    let _ = check_config(data);
}

/// Reads a reference; what is printed of it reads as the same.
pub fn reference(text: &str) {
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
        assert_eq!(
            Reference::parse(&reference.familiar()).as_ref(),
            Ok(&reference),
            "{text:?}"
        );
    }
    if let Ok(source) = Source::parse(text) {
        assert_eq!(
            Source::parse(&source.to_string()).as_ref(),
            Ok(&source),
            "{text:?}"
        );
    }
}
