//! The fuzz targets of images without a fuzzer: seeded mutations of valid input
//! for a few seconds. `IMAGE_FUZZ_SECONDS` makes it longer, `IMAGE_FUZZ_SEED`
//! starts elsewhere.

// Clippy takes only functions marked as tests for tests.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    unreachable_pub
)]

#[path = "../fuzz/images.rs"]
mod images;

use std::time::{Duration, Instant};

/// xorshift64: the same numbers from the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % below.max(1)
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Changes input as a fuzzer would: bits, bytes, runs, pieces of other inputs.
fn mutate(numbers: &mut Numbers, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[numbers.next(seeds.len())].clone();
    for _ in 0..=numbers.next(6) {
        let at = numbers.next(data.len());
        match numbers.next(7) {
            _ if data.is_empty() => data.push(0),
            0 => data[at] ^= 1 << numbers.next(8),
            1 => data[at] = numbers.next(256) as u8,
            2 => data.truncate(at),
            3 => {
                let other = &seeds[numbers.next(seeds.len())];
                let from = numbers.next(other.len());
                let length = numbers.next((other.len() - from).min(600) + 1);
                data.splice(at..at, other[from..from + length].iter().copied());
            }
            4 => {
                let end = (at + numbers.next(600)).min(data.len());
                data.drain(at..end);
            }
            5 => {
                const WORDS: [&[u8]; 12] = [
                    b"../",
                    b"/",
                    b".wh.",
                    b".wh..wh..opq",
                    b"777777777777",
                    b"-1",
                    b"\0",
                    b"x",
                    b"1",
                    b"L",
                    b"\xff\xff\xff\xff",
                    b"99999999999999999999",
                ];
                let word = WORDS[numbers.next(WORDS.len())];
                let end = (at + word.len()).min(data.len());
                data.splice(at..end, word.iter().copied());
            }
            _ => {
                let end = (at + numbers.next(64)).min(data.len());
                let run = data[at..end].to_vec();
                data.splice(at..at, run);
            }
        }
    }
    data
}

fn fuzz(seeds: &[Vec<u8>], mut body: impl FnMut(&[u8])) {
    let seed = variable("IMAGE_FUZZ_SEED", 0x9e37_79b9_7f4a_7c15);
    let time = Duration::from_secs(variable("IMAGE_FUZZ_SECONDS", 4));
    let mut numbers = Numbers(seed | 1);
    let (start, mut count) = (Instant::now(), 0u64);
    for seed in seeds {
        body(seed);
    }
    while start.elapsed() < time {
        let data = mutate(&mut numbers, seeds);
        let before = Instant::now();
        body(&data);
        assert!(
            before.elapsed() < Duration::from_secs(10),
            "a single input takes too long: {data:?}"
        );
        count += 1;
    }
    println!("{count} inputs");
    assert!(count > 10, "the machine is too slow for this to say anything");
}

/// A header with a right checksum is what gets past the first check.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    data
}

#[test]
fn archives() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut seeds = Vec::new();
    for gnu in [true, false] {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "folder/".repeat(30) + "file";
        for (name, kind, link, data) in [
            ("etc/", tar::EntryType::Directory, "", &b""[..]),
            ("etc/passwd", tar::EntryType::Regular, "", b"root"),
            ("etc/link", tar::EntryType::Symlink, "../../beside", b""),
            ("etc/hard", tar::EntryType::Link, "etc/passwd", b""),
            ("etc/.wh.shadow", tar::EntryType::Regular, "", b""),
            ("opt/.wh..wh..opq", tar::EntryType::Regular, "", b""),
            ("dev/null", tar::EntryType::Char, "", b""),
            ("pipe", tar::EntryType::Fifo, "", b""),
            (&long, tar::EntryType::Regular, "", b"data of a file"),
        ] {
            let mut header = if gnu {
                tar::Header::new_gnu()
            } else {
                tar::Header::new_ustar()
            };
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(data.len() as u64);
            if matches!(kind, tar::EntryType::Char) {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            }
            if link.is_empty() {
                let _ = builder.append_data(&mut header, name, data);
            } else {
                builder.append_link(&mut header, name, link).unwrap();
            }
        }
        let pax = [
            ("path", &b"pax/name"[..]),
            ("SCHILY.xattr.user.x", b"y"),
            ("mtime", b"1.5"),
        ];
        builder.append_pax_extensions(pax).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        builder.append_data(&mut header, "short", &b"abc"[..]).unwrap();
        seeds.push(builder.into_inner().unwrap());
    }
    let at = tempfile::tempdir().unwrap();
    for seed in &seeds {
        assert!(
            images::tar(seed, at.path()),
            "a seed does not get to the end of the code"
        );
    }
    fuzz(&seeds, |data| {
        images::tar(data, at.path());
        images::tar(&with_checksums(data), at.path());
    });
}

#[test]
fn manifests_and_configurations() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let seeds: Vec<Vec<u8>> = [
        format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":1}},"layers":[{{"digest":"{digest}","size":2}}]}}"#),
        format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"amd64","variant":"v8"}},"annotations":{{"a":"b"}}}}]}}"#),
        format!(r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Cmd":null,"Volumes":{{"/x":{{}}}},"Healthcheck":{{"Test":["CMD"],"Interval":1}}}},"rootfs":{{"diff_ids":["{digest}"]}}}}"#),
    ]
    .map(String::into_bytes)
    .to_vec();
    assert!(images::manifest(&seeds[0]) && images::config(&seeds[2]));
    // The second one is for another machine, and says so.
    let reason = rcompose::image::check_manifest(&seeds[1]);
    assert!(
        reason.is_ok() || reason.unwrap_err().contains("linux/"),
        "an index is read"
    );
    fuzz(&seeds, |data| {
        images::manifest(data);
        images::config(data);
    });
}

#[test]
fn references() {
    let seeds = [
        "nginx",
        "a/b:1.2@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "localhost:5000/x_y/z--a.b:T-1",
        "[::1]:80/x",
        "docker.io/library/x",
        "index.docker.io/x",
        "oci:/a/b:c",
        "oci-archive:x.tar",
        "docker-archive:/x.tar:a:b",
        "rootfs:/",
    ]
    .map(|text| text.as_bytes().to_vec());
    for seed in &seeds {
        let text = String::from_utf8_lossy(seed);
        assert!(images::reference(&text), "{text}");
    }
    fuzz(&seeds, |data| {
        images::reference(&String::from_utf8_lossy(data));
    });
}
