//! What fuzz targets do with an input: `fuzz/` calls these, and so does
//! `tests/fuzz.rs`.

use std::path::Path;

use super::{From, LONGEST_PIECE, Reader, Stream, Writer};
use crate::runtime::{LogFormat, LogPlan};

/// Any bytes as a log: it is read to its end, from everywhere.
pub fn read(folder: &Path, bytes: &[u8]) {
    let path = folder.join("log");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    for from in [
        From::Start,
        From::Last(3),
        From::Offset(7),
        From::Since(1_000_000_000),
    ] {
        if let Ok(Some(mut reader)) = Reader::open(&path, from) {
            while let Ok(Some(entry)) = reader.next() {
                assert!(!entry.text.contains(&b'\n') || bytes.contains(&b'{'), "{entry:?}");
            }
        }
    }
}

/// Any bytes as the output of a container, in reads of any length, over
/// rotations: what is read back is what was written. The first byte chooses
/// lengths and format.
pub fn write(folder: &Path, bytes: &[u8]) {
    let Some((dice, output)) = bytes.split_first() else {
        return;
    };
    let path = folder.join("log");
    let old: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    for file in old {
        let _ = std::fs::remove_file(file.path());
    }
    let json = dice % 2 == 1 && std::str::from_utf8(output).is_ok();
    let plan = LogPlan {
        format: if json { LogFormat::Json } else { LogFormat::Text },
        max_size: Some(200 + u64::from(*dice)),
        max_files: 1000,
        ..LogPlan::default()
    };
    let Ok(mut writer) = Writer::open(&path, plan) else {
        return;
    };
    let step = usize::from(dice / 4) + 1;
    for (number, chunk) in output.chunks(step).enumerate() {
        writer.feed(Stream::Stdout, chunk, u64::try_from(number).unwrap_or(0));
    }
    writer.release_tails(None, 0);
    let mut found = Vec::new();
    let Ok(Some(mut reader)) = Reader::open(&path, From::Start) else {
        assert!(output.is_empty(), "no log");
        return;
    };
    while let Ok(Some(entry)) = reader.next() {
        assert!(entry.text.len() <= LONGEST_PIECE, "a long piece");
        found.extend(entry.text);
        if !entry.partial {
            found.push(b'\n');
        }
    }
    assert!(found == output, "{found:?} is read, {output:?} was written");
}
