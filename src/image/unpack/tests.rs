//! Archives made by hand: hostile ones, odd ones, and what GNU tar makes.
//!
//! They need root (owners, devices, trusted attributes) and say so when they
//! are skipped.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// An archive in the making.
#[derive(Default)]
struct Tape(Vec<u8>);

impl Tape {
    fn header(&mut self, kind: u8, name: &[u8], link: &[u8], size: u64, change: impl Fn(&mut [u8; 512])) {
        let mut block = [0u8; 512];
        block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"14525073300\0");
        block[156] = kind;
        block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        change(&mut block);
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
    }

    fn entry(&mut self, kind: u8, name: &str, link: &str, data: &[u8]) -> &mut Self {
        self.header(kind, name.as_bytes(), link.as_bytes(), data.len() as u64, |_| {});
        self.data(data)
    }

    fn data(&mut self, data: &[u8]) -> &mut Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(&mut self, name: &str, data: &[u8]) -> &mut Self {
        self.entry(b'0', name, "", data)
    }

    fn folder(&mut self, name: &str) -> &mut Self {
        self.header(b'5', name.as_bytes(), b"", 0, |block| {
            block[100..108].copy_from_slice(b"0000755\0")
        });
        self
    }

    fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(b'2', name, target, b"")
    }

    fn hard_link(&mut self, name: &str, target: &str) -> &mut Self {
        self.entry(b'1', name, target, b"")
    }

    fn pax(&mut self, kind: u8, records: &[(&str, &[u8])]) -> &mut Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend(format!("{length} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.entry(kind, "pax", "", &data)
    }

    fn end(&self) -> Vec<u8> {
        [&self.0[..], &[0; 1024]].concat()
    }
}

/// A folder to unpack into, with a neighbour that nothing may touch.
struct Place {
    _temporary: tempfile::TempDir,
    layer: PathBuf,
    outside: PathBuf,
    before: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let outside = temporary.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        let layer = temporary.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let before = listing(temporary.path());
        Self {
            _temporary: temporary,
            layer,
            outside,
            before,
        }
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, UnpackError> {
        self.unpack_within(
            archive,
            Limits {
                bytes: 1 << 24,
                entries: 1000,
            },
        )
    }

    fn unpack_within(&self, archive: &[u8], limits: Limits) -> Result<Unpacked, UnpackError> {
        let folder = fs::File::open(&self.layer).unwrap().into();
        let result = unpack(archive, &folder, limits);
        let mut after = listing(self._temporary.path());
        after.retain(|line| !line.starts_with("layer/"));
        let mut before = self.before.clone();
        // The layer's own folder may change, of course.
        after.retain(|line| !line.starts_with("layer "));
        before.retain(|line| !line.starts_with("layer "));
        assert_eq!(after, before, "something outside was touched");
        result
    }

    fn at(&self, name: &str) -> PathBuf {
        self.layer.join(name)
    }
}

/// Everything below a folder, one line each, with all that an archive decides.
fn listing(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            let content = if found.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if found.is_file() {
                Digest::of(&fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            lines.push(format!(
                "{} {:o} {}:{} {}.{} {} {} {content}",
                path.strip_prefix(folder).unwrap().display(),
                found.mode(),
                found.uid(),
                found.gid(),
                found.mtime(),
                found.mtime_nsec(),
                found.rdev(),
                if found.is_dir() { 0 } else { found.nlink() },
            ));
            if found.is_dir() {
                pending.push(path);
            }
        }
    }
    lines.sort();
    lines
}

use crate::image::Digest;

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0; 256];
    let count = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    Some(value[..count].to_vec())
}

/// Ends a chain of entries.
fn done(_: &mut Tape) {}

/// Every way to leave the layer that is known, and every way to break the
/// reader: each must be refused (or be harmless), and nothing outside touched.
#[test]
fn hostile_archives_do_not_leave_the_layer() {
    if !root() {
        return;
    }
    let outside_link = |tape: &mut Tape| {
        tape.symlink("exit", "../outside");
    };
    type Make = Box<dyn Fn(&Place, &mut Tape)>;
    let refused: Vec<(&str, Make)> = vec![
        (
            "parent in the path",
            Box::new(|_, t| done(t.file("../outside/victim", b"x"))),
        ),
        (
            "parent inside the path",
            Box::new(|_, t| done(t.file("a/../../outside/victim", b"x"))),
        ),
        ("parent at the end", Box::new(|_, t| done(t.folder("a/..")))),
        (
            "file through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.file("exit/victim", b"x");
            }),
        ),
        (
            "file through an absolute link",
            Box::new(|place, t| {
                t.symlink("exit", place.outside.to_str().unwrap());
                t.file("exit/victim", b"x");
            }),
        ),
        (
            "folder through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.folder("exit/new");
            }),
        ),
        (
            "link through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.symlink("exit/new", "x");
            }),
        ),
        (
            "device through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.entry(b'3', "exit/new", "", b"");
            }),
        ),
        (
            "pipe through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.entry(b'6', "exit/new", "", b"");
            }),
        ),
        (
            "whiteout through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.file("exit/.wh.victim", b"");
            }),
        ),
        (
            "opaque mark through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.file("exit/.wh..wh..opq", b"");
            }),
        ),
        (
            "hard link to the outside",
            Box::new(|_, t| done(t.hard_link("new", "../outside/victim"))),
        ),
        (
            "hard link by an absolute path",
            Box::new(|place, t| {
                t.hard_link("new", place.outside.join("victim").to_str().unwrap());
            }),
        ),
        (
            "hard link through a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.hard_link("new", "exit/victim");
            }),
        ),
        (
            "hard link into a link",
            Box::new(move |_, t| {
                outside_link(t);
                t.file("a", b"x").hard_link("exit/new", "a");
            }),
        ),
        (
            "a chain of links",
            Box::new(|_, t| {
                t.symlink("one", "..")
                    .symlink("two", "one/outside")
                    .file("two/victim", b"x");
            }),
        ),
        (
            "a link to itself",
            Box::new(|_, t| done(t.symlink("loop", "loop").file("loop/x", b"x"))),
        ),
        (
            "through a file",
            Box::new(|_, t| done(t.file("a", b"x").file("a/b", b"x"))),
        ),
        (
            "through /proc",
            Box::new(|_, t| {
                t.symlink("self", "/proc/self/root").file("self/tmp/x", b"x");
            }),
        ),
        (
            "pax path with a parent",
            Box::new(|_, t| {
                t.pax(b'x', &[("path", b"../outside/victim")]).file("ok", b"x");
            }),
        ),
        (
            "pax link with a parent",
            Box::new(|_, t| {
                t.pax(b'x', &[("linkpath", b"../outside/victim")])
                    .hard_link("new", "ok");
            }),
        ),
        (
            "global pax path with a parent",
            Box::new(|_, t| {
                t.pax(b'g', &[("path", b"../outside/victim")]).file("ok", b"x");
            }),
        ),
        (
            "GNU long name with a parent",
            Box::new(|_, t| {
                t.entry(b'L', "././@LongLink", "", b"../outside/victim\0")
                    .file("ok", b"x");
            }),
        ),
        (
            "GNU sparse name with a parent",
            Box::new(|_, t| {
                t.pax(b'x', &[("GNU.sparse.name", b"../outside/victim")])
                    .file("ok", b"x");
            }),
        ),
        (
            "NUL in a pax path",
            Box::new(|_, t| done(t.pax(b'x', &[("path", b"a\0b")]).file("ok", b"x"))),
        ),
        (
            "a name too long",
            Box::new(|_, t| {
                t.pax(b'x', &[("path", &[b'a'; 256])]).file("ok", b"x");
            }),
        ),
        (
            "a path too long",
            Box::new(|_, t| {
                t.pax(b'x', &[("path", "abcdefg/".repeat(600).as_bytes())])
                    .file("ok", b"x");
            }),
        ),
        (
            "a path too deep",
            Box::new(|_, t| {
                t.pax(b'x', &[("path", "a/".repeat(300).as_bytes())])
                    .file("ok", b"x");
            }),
        ),
        (
            "the layer as a file",
            Box::new(|_, t| done(t.file("./", b"").file(".", b"x"))),
        ),
        (
            "the layer as a link",
            Box::new(|_, t| done(t.symlink(".", "../outside"))),
        ),
        (
            "whiteout of the parent",
            Box::new(|_, t| done(t.file("a/.wh...", b""))),
        ),
        ("whiteout of nothing", Box::new(|_, t| done(t.file(".wh.", b"")))),
        ("whiteout of here", Box::new(|_, t| done(t.file(".wh..", b"")))),
        (
            "hard link to a folder",
            Box::new(|_, t| done(t.folder("d").hard_link("new", "d"))),
        ),
        (
            "hard link to nothing",
            Box::new(|_, t| done(t.hard_link("new", "missing"))),
        ),
        (
            "hard link to the layer",
            Box::new(|_, t| done(t.hard_link("new", "/"))),
        ),
        (
            "hard link over its target's folder",
            Box::new(|_, t| {
                t.folder("d").file("d/a", b"x").hard_link("d", "d/a");
            }),
        ),
        ("an empty link", Box::new(|_, t| done(t.symlink("a", "")))),
        (
            "an unknown type",
            Box::new(|_, t| done(t.entry(b'Z', "a", "", b""))),
        ),
        (
            "a wrong checksum",
            Box::new(|_, t| {
                t.file("a", b"x");
                t.0[0] = b'b';
            }),
        ),
        (
            "a size that is cut off",
            Box::new(|_, t| {
                t.header(b'0', b"a", b"", 1 << 20, |_| {});
            }),
        ),
        (
            "a negative size",
            Box::new(|_, t| {
                t.header(b'0', b"a", b"", 0, |block| {
                    block[124..136].copy_from_slice(&[0xff; 12])
                });
            }),
        ),
        (
            "an enormous size",
            Box::new(|_, t| {
                t.header(b'0', b"a", b"", 0, |block| {
                    block[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff");
                });
            }),
        ),
        (
            "an enormous extended header",
            Box::new(|_, t| {
                t.header(b'x', b"pax", b"", 1 << 30, |_| {});
            }),
        ),
        (
            "an owner out of range",
            Box::new(|_, t| done(t.pax(b'x', &[("uid", b"4294967295")]).file("a", b""))),
        ),
        (
            "overlapping sparse segments",
            Box::new(|_, t| {
                t.pax(
                    b'x',
                    &[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,5,4,5")],
                )
                .file("a", &[1; 10]);
            }),
        ),
        (
            "a sparse segment past the end",
            Box::new(|_, t| {
                t.pax(b'x', &[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"99,5")])
                    .file("a", &[1; 5]);
            }),
        ),
        (
            "a sparse file that overflows",
            Box::new(|_, t| {
                t.pax(
                    b'x',
                    &[
                        ("GNU.sparse.size", b"18446744073709551615"),
                        ("GNU.sparse.map", b"18446744073709551610,5"),
                    ],
                )
                .file("a", &[1; 5]);
            }),
        ),
        (
            "a header after a block of zeros",
            Box::new(|_, t| {
                t.data(&[0; 512]).file("a", b"x");
            }),
        ),
        (
            "a header that belongs to nothing",
            Box::new(|_, t| done(t.pax(b'x', &[("path", b"a")]))),
        ),
        (
            "too many bytes",
            Box::new(|_, t| done(t.file("a", &vec![0; (1 << 24) + 1]))),
        ),
        (
            "too many entries",
            Box::new(|_, t| {
                for at in 0..1001 {
                    t.file(&format!("f{at}"), b"");
                }
            }),
        ),
        (
            "too many folders of few entries",
            Box::new(|_, t| {
                for at in 0..10 {
                    t.pax(b'x', &[("path", format!("{at}/{}", "a/".repeat(150)).as_bytes())])
                        .file("a", b"");
                }
            }),
        ),
    ];
    assert!(refused.len() >= 25);
    for (what, make) in refused {
        let place = Place::new();
        let mut tape = Tape::default();
        make(&place, &mut tape);
        let result = place.unpack(&tape.end());
        assert!(
            result.is_err(),
            "{what} was accepted: {:?}",
            listing(&place.layer)
        );
    }
}

#[test]
fn odd_archives_are_harmless() {
    if !root() {
        return;
    }
    let place = Place::new();
    let mut tape = Tape::default();
    // An absolute path is one inside the layer; so is the target of a link, for
    // whoever looks at it from inside.
    tape.file("/etc/shadow", b"mine")
        .symlink("abs", "/etc/passwd")
        .symlink("up", "../../../etc/passwd")
        .file("./a//b/./c", b"deep")
        // A file over a link replaces the link, not what it points to.
        .symlink("swap", "../outside/victim")
        .file("swap", b"new")
        .symlink("swapped-folder", "../outside")
        .folder("swapped-folder")
        .file("swapped-folder/x", b"x")
        // Writing over a hard link must not write through it.
        .file("one", b"first")
        .hard_link("two", "one")
        .file("one", b"second")
        .hard_link("two", "two")
        // A folder over a file, a file over a folder with content.
        .file("turn", b"x")
        .folder("turn")
        .file("turn/y", b"y")
        .file("turn", b"z")
        .entry(b'0', "v7-folder/", "", b"")
        .file(".wh..wh.plnk", b"")
        .entry(b'7', "contiguous", "", b"c");
    let unpacked = place.unpack(&tape.end()).unwrap();
    let read = |name: &str| fs::read_to_string(place.at(name)).unwrap();
    assert_eq!(read("etc/shadow"), "mine");
    assert_eq!(
        fs::read_link(place.at("up")).unwrap(),
        Path::new("../../../etc/passwd")
    );
    assert_eq!(read("a/b/c"), "deep");
    assert_eq!(read("swap"), "new");
    assert!(fs::symlink_metadata(place.at("swapped-folder")).unwrap().is_dir());
    assert_eq!((read("one").as_str(), read("two").as_str()), ("second", "first"));
    assert_eq!(read("turn"), "z");
    assert!(place.at("v7-folder").is_dir());
    assert_eq!(read("contiguous"), "c");
    assert!(!place.at(".wh..wh.plnk").exists());
    assert_eq!(
        unpacked.unlisted,
        [b"a".to_vec(), b"a/b".to_vec(), b"etc".to_vec()]
    );
}

#[test]
fn whiteouts_become_what_overlayfs_knows() {
    if !root() {
        return;
    }
    let place = Place::new();
    let mut tape = Tape::default();
    tape.folder("d")
        .file("d/.wh.gone", b"")
        .file("d/.wh..wh..opq", b"")
        // Removed below and made anew: nothing of the old may show.
        .file(".wh.before", b"")
        .folder("before")
        .folder("after")
        .file(".wh.after", b"")
        .file(".wh.through", b"")
        .file("through/file", b"x")
        // The new file hides the old one anyhow.
        .file("file", b"x")
        .file(".wh.file", b"")
        .file(".wh.other", b"")
        .file("other", b"y")
        .folder("plain");
    place.unpack(&tape.end()).unwrap();
    let gone = fs::symlink_metadata(place.at("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for name in ["d", "before", "after", "through"] {
        assert_eq!(
            attribute(&place.at(name), "trusted.overlay.opaque").as_deref(),
            Some(&b"y"[..]),
            "{name}"
        );
        assert!(is_opaque(&fs::File::open(place.at(name)).unwrap().into()).unwrap());
    }
    assert_eq!(attribute(&place.at("plain"), "trusted.overlay.opaque"), None);
    assert!(!is_opaque(&fs::File::open(place.at("plain")).unwrap().into()).unwrap());
    assert_eq!(fs::read(place.at("file")).unwrap(), b"x");
    assert_eq!(fs::read(place.at("other")).unwrap(), b"y");
}

#[test]
fn attributes_owners_devices_and_times() {
    if !root() {
        return;
    }
    let place = Place::new();
    let mut tape = Tape::default();
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    tape.pax(
        b'x',
        &[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"a=b\nc"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/elsewhere"),
            ("uid", b"70000"),
            ("mtime", b"1500000000.123456789"),
        ],
    );
    tape.header(b'0', b"ping", b"", 1, |block| {
        block[100..108].copy_from_slice(b"0006755\0")
    });
    tape.data(b"x");
    tape.header(b'3', b"null", b"", 0, |block| {
        block[329..337].copy_from_slice(b"0000001\0");
        block[337..345].copy_from_slice(b"0000003\0");
    });
    tape.pax(b'x', &[("SCHILY.xattr.trusted.note", b"t"), ("gid", b"5")])
        .symlink("link", "nowhere");
    tape.entry(b'6', "pipe", "", b"");
    tape.header(b'5', b"sticky", b"", 0, |block| {
        block[100..108].copy_from_slice(b"0001777\0")
    });
    tape.file("sticky/later", b"changes the time of its folder");
    // Base 256, negative: before the epoch.
    tape.header(b'0', b"old", b"", 0, |block| {
        block[136..148].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6");
        block[108..116].copy_from_slice(b"\x80\0\0\0\0\x01\x11\x70");
    });
    place.unpack(&tape.end()).unwrap();
    let at = |name: &str| fs::symlink_metadata(place.at(name)).unwrap();
    assert_eq!((at("ping").mode() & 0o7777, at("ping").uid()), (0o6755, 70000));
    assert_eq!(
        (at("ping").mtime(), at("ping").mtime_nsec()),
        (1_500_000_000, 123_456_789)
    );
    assert_eq!(
        attribute(&place.at("ping"), "security.capability").as_deref(),
        Some(&capability[..])
    );
    assert_eq!(
        attribute(&place.at("ping"), "user.note").as_deref(),
        Some(&b"a=b\nc"[..])
    );
    assert_eq!(attribute(&place.at("ping"), "trusted.overlay.redirect"), None);
    assert_eq!(
        attribute(&place.at("ping"), "trusted.overlay.overlay.redirect").as_deref(),
        Some(&b"/elsewhere"[..])
    );
    assert_eq!(at("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(
        attribute(&place.at("link"), "trusted.note").as_deref(),
        Some(&b"t"[..])
    );
    assert_eq!(at("link").gid(), 5);
    assert!(at("pipe").file_type().is_fifo());
    assert_eq!(
        (at("sticky").mode() & 0o7777, at("sticky").mtime()),
        (0o1777, 0o14525073300)
    );
    assert_eq!((at("old").mtime(), at("old").uid()), (-10, 70000));
}

#[test]
fn layers_without_folder_entries_take_them_from_below() {
    if !root() {
        return;
    }
    let lower = Place::new();
    let mut tape = Tape::default();
    tape.header(b'5', b"tmp", b"", 0, |block| {
        block[100..108].copy_from_slice(b"0001777\0");
        block[108..116].copy_from_slice(b"0000007\0");
    });
    tape.symlink("lib", "usr/lib")
        .folder("hidden")
        .folder("hidden/deep");
    lower.unpack(&tape.end()).unwrap();
    let middle = Place::new();
    let mut tape = Tape::default();
    tape.folder("hidden").file("hidden/.wh..wh..opq", b"");
    middle.unpack(&tape.end()).unwrap();
    let below: Vec<OwnedFd> = [&middle.layer, &lower.layer]
        .iter()
        .map(|path| fs::File::open(path).unwrap().into())
        .collect();

    let place = Place::new();
    let mut tape = Tape::default();
    tape.file("tmp/a", b"")
        .file("new/b", b"")
        .file("hidden/deep/c", b"");
    let unpacked = place.unpack(&tape.end()).unwrap();
    let folder = fs::File::open(&place.layer).unwrap().into();
    adopt(&folder, &unpacked.unlisted, &below).unwrap();
    let at = |name: &str| fs::metadata(place.at(name)).unwrap();
    assert_eq!((at("tmp").mode() & 0o7777, at("tmp").uid()), (0o1777, 7));
    assert_eq!((at("new").mode() & 0o7777, at("new").uid()), (0o755, 0));
    assert_eq!(at("hidden/deep").uid(), 0);

    let place = Place::new();
    let mut tape = Tape::default();
    tape.file("lib/a", b"");
    let unpacked = place.unpack(&tape.end()).unwrap();
    let folder = fs::File::open(&place.layer).unwrap().into();
    let error = adopt(&folder, &unpacked.unlisted, &below).unwrap_err();
    assert!(
        error.to_string().contains("symbolic link in a layer below"),
        "{error}"
    );
}

/// A tree of every kind of thing, by GNU tar in each of its formats, compared
/// with what GNU tar makes of it.
#[test]
fn what_gnu_tar_writes_is_unpacked_as_gnu_tar_does() {
    if !root() {
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let tree = temporary.path().join("tree");
    let script = r#"
        mkdir -p tree/dir/sub tree/empty && cd tree
        echo a > dir/a; ln dir/a dir/hard; ln -s ../dir/a dir/sub/soft; mkfifo pipe; mknod null c 1 3
        chmod 4755 dir/a; chown 12:34 dir/sub; chmod 2750 empty
        long=$(printf 'l%.0s' $(seq 90)); mkdir -p $long/$long; echo b > $long/$long/$long; ln -s $long/$long/$long/$long long
        truncate -s 3M sparse; printf x | dd of=sparse bs=1 seek=1000000 conv=notrunc status=none
        truncate -s 1M hole; head -c 300000 /dev/urandom > random; touch -d '1960-01-01 UTC' old
        touch -d @1234567890 dir/sub dir empty .
    "#;
    run(Command::new("sh")
        .args(["-ec", script])
        .current_dir(temporary.path()));
    for (format, more) in [
        ("gnu", &["--sparse"][..]),
        ("gnu", &[]),
        ("pax", &["--sparse", "--sparse-version=1.0", "--xattrs"]),
        ("pax", &["--sparse", "--sparse-version=0.1"]),
        ("pax", &["--sparse", "--sparse-version=0.0"]),
        ("pax", &[]),
    ] {
        let archive = temporary.path().join("archive.tar");
        run(Command::new("tar")
            .arg(format!("--format={format}"))
            .args(more)
            .args([
                "--numeric-owner".as_ref(),
                "-C".as_ref(),
                tree.as_os_str(),
                "-cf".as_ref(),
                archive.as_os_str(),
                ".".as_ref(),
            ]));
        let expected = temporary.path().join("expected");
        fs::create_dir(&expected).unwrap();
        run(Command::new("tar")
            .args(["--numeric-owner", "-p", "-C"])
            .arg(&expected)
            .arg("-xf")
            .arg(&archive));
        let place = Place::new();
        let unpacked = place.unpack(&fs::read(&archive).unwrap()).unwrap();
        assert_eq!(listing(&place.layer), listing(&expected), "{format} {more:?}");
        assert!(unpacked.unlisted.is_empty());
        let holes = |path: &Path| fs::metadata(path.join("sparse")).unwrap().blocks() * 512;
        if more.contains(&"--sparse") {
            assert!(
                holes(&place.layer) < 1 << 20,
                "{format} {more:?}: the holes are filled"
            );
        }
        fs::remove_dir_all(&expected).unwrap();
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
    std::io::stdout().flush().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Mixtures of names that meet each other in every way.
    #[test]
    fn no_mixture_leaves_the_layer(
        entries in prop::collection::vec(
            (
                prop::sample::select(&b"0125367"[..]),
                "(/|\\.|\\.\\./)?[ab](/[ab.]{1,2}){0,2}|(a/)?\\.wh\\.(a|b|\\.wh\\.\\.opq)",
                "(\\.\\./){0,2}[ab](/[ab])?|/|\\.\\./outside|/tmp",
            ),
            1..24,
        )
    ) {
        if rustix::process::geteuid().is_root() {
            let place = Place::new();
            let mut tape = Tape::default();
            for (kind, name, link) in &entries {
                let data: &[u8] = if matches!(kind, b'0' | b'7') { b"data" } else { b"" };
                tape.entry(*kind, name, link, data);
            }
            // Whether it is refused does not matter here: `unpack` checks the neighbourhood.
            let _ = place.unpack(&tape.end());
        }
    }
}
