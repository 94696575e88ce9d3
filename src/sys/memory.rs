//! The memory of this process.
#![allow(unsafe_code)]

use std::fs;
use std::ops::Range;

use super::process::give_back_memory;

/// Gives back all memory that this process does not need while it waits: what
/// the allocator holds and nobody uses, what is below its stack's end, and the
/// clean file pages of its mappings. Code and constants that are not in use now
/// stay in the page cache, and come back when they are touched; mappings that
/// hold anything of our own, such as constants that the linker's relocations have
/// written, are left alone.
///
/// For a process that waits most of its life: what it ran through at its start
/// would stay in its resident set.
pub fn rest() {
    let mut stack = None;
    if let Ok(text) = fs::read_to_string("/proc/self/smaps") {
        for (start, length) in clean_mappings(&text) {
            // SAFETY: the range is a private, read-only mapping of a file in which no
            // page is ours alone: dropping its pages changes no content, they are
            // read from the file again. A range that is none any more is an error
            // that changes nothing.
            let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
        }
        stack = main_stack(&text);
    }
    // When that text has been freed.
    give_back_memory();
    if let Some(stack) = stack {
        give_back_below(stack);
    }
}

/// Gives back what this thread does not use of its stack, if that is the one
/// mapped there. Not inlined: its own frame is small, and all others that are in
/// use are above it. In the frame of a large caller anything might lie below the
/// local whose address is taken.
#[inline(never)]
fn give_back_below(stack: Range<usize>) {
    let here = 0_u8;
    let here = std::hint::black_box(&raw const here).addr();
    if let Some((start, length)) = below(&stack, here, rustix::param::page_size()) {
        // SAFETY: whole pages of the stack that this thread is on, which end more than
        // a page below this frame: nothing lives there.
        let _ = unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
    }
}

/// The part of a stack that is more than a page below `here`, in whole pages:
/// address and length. The page between is for what is called from `here`, and
/// the red zone below that. `None` when `here` is on another stack.
fn below(stack: &Range<usize>, here: usize, page: usize) -> Option<(usize, usize)> {
    let until = (here / page).saturating_sub(1).saturating_mul(page);
    (stack.contains(&here) && until > stack.start).then(|| (stack.start, until - stack.start))
}

/// Where the stack of the main thread is mapped, in a text of `/proc/self/smaps`.
fn main_stack(text: &str) -> Option<Range<usize>> {
    let line = text.lines().find(|line| line.ends_with("[stack]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
    Some(hexadecimal(start)?..hexadecimal(end)?)
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
    fn what_is_below_the_end_of_the_stack_is_not_in_use() {
        let text = "7ffc81320000-7ffc81345000 rw-p 00000000 00:00 0                  [stack]\n";
        let stack = main_stack(text).unwrap();
        assert_eq!(stack, 0x7ffc_8132_0000..0x7ffc_8134_5000);
        let below = |here, page| below(&stack, here, page);
        assert_eq!(
            below(0x7ffc_8134_1234, 0x1000),
            Some((0x7ffc_8132_0000, 0x2_0000))
        );
        assert_eq!(
            below(0x7ffc_8134_1234, 0x10000),
            Some((0x7ffc_8132_0000, 0x1_0000))
        );
        assert_eq!(below(0x7ffc_8132_1234, 0x1000), None);
        // Another thread.
        assert_eq!(below(0x7f00_0000_1234, 0x1000), None);
        assert_eq!(below(0x7fff_0000_1234, 0x1000), None);
    }

    #[test]
    fn the_process_goes_on() {
        rest();
        assert_eq!(format!("{:?}", [1, 2]), "[1, 2]");
    }
}
