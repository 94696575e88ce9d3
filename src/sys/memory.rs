//! The memory of this process.
#![allow(unsafe_code)]

use std::fs;

/// Gives the clean file pages of this process's mappings back: code and
/// constants that are not in use now stay in the page cache, and come back when
/// they are touched. Mappings that hold anything of our own, such as constants
/// that the linker's relocations have written, are left alone.
///
/// For a process that waits most of its life: what it ran through at its start
/// would stay in its resident set.
pub fn drop_clean_pages() {
    let Ok(text) = fs::read_to_string("/proc/self/smaps") else {
        return;
    };
    for (start, length) in clean_mappings(&text) {
        // SAFETY: the range is a private, read-only mapping of a file in which no
        // page is ours alone: dropping its pages changes no content, they are
        // read from the file again. A range that is none any more is an error
        // that changes nothing.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// The read-only file mappings without a page of our own in a text of
/// `/proc/self/smaps`: address and length.
fn clean_mappings(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at: Option<(usize, usize)> = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        if let Some((start, end)) = first.split_once('-') {
            let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
            // Offset, device, inode: no inode is no file.
            let file = words.nth(2).is_some_and(|inode| inode != "0");
            at = match (hexadecimal(start), hexadecimal(end)) {
                (Some(start), Some(end)) if file && matches!(second, "r-xp" | "r--p") => {
                    Some((start, end.saturating_sub(start)))
                }
                _ => None,
            };
        } else if matches!(first, "Anonymous:" | "Swap:" | "Private_Dirty:") && second != "0" {
            at = None;
        } else if first == "VmFlags:" {
            found.extend(at.take());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_file_has_is_dropped() {
        let text = "\
00400000-00500000 r--p 00000000 08:01 42 /bin/x
Anonymous:             0 kB
VmFlags: rd mr
00500000-00900000 r-xp 00100000 08:01 42 /bin/x
Private_Dirty:         0 kB
Anonymous:             0 kB
VmFlags: rd ex
00900000-00910000 r--p 00500000 08:01 42 /bin/x
Private_Dirty:         8 kB
Anonymous:             8 kB
VmFlags: rd mr
00910000-00920000 rw-p 00510000 08:01 42 /bin/x
Anonymous:             0 kB
VmFlags: rd wr
7f000000-7f001000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
VmFlags: rd
";
        assert_eq!(
            clean_mappings(text),
            [(0x40_0000, 0x10_0000), (0x50_0000, 0x40_0000)]
        );
    }

    #[test]
    fn the_process_goes_on() {
        drop_clean_pages();
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
