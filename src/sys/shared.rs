//! Memory that processes share, or that outlives the one that has filled it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU64};

use rustix::fs::{MemfdFlags, SealFlags};

/// A number shared with processes that are forked from this one.
#[derive(Debug)]
pub struct SharedNumber(std::ptr::NonNull<AtomicI32>);

impl SharedNumber {
    /// Maps a page for it: mmap(2).
    ///
    /// # Errors
    /// What the call returns.
    pub fn new(value: i32) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping, at a place the kernel chooses.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicI32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let number = Self(std::ptr::NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?);
        number.get().store(value, std::sync::atomic::Ordering::SeqCst);
        Ok(number)
    }

    /// The number.
    pub fn get(&self) -> &AtomicI32 {
        // SAFETY: mapped, page-aligned and zeroed in `new`, unmapped in `drop`.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedNumber {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing borrows any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<AtomicI32>()) };
    }
}

/// How many numbers are at the beginning of [`SharedBytes`].
pub const WORDS: usize = 64;

/// The page that the numbers are in.
const PAGE: usize = 4096;

/// Memory that outlives this process: numbers and bytes in a memory file, for
/// whoever has that file when this process has been killed.
#[derive(Debug)]
pub struct SharedBytes {
    file: OwnedFd,
    start: std::ptr::NonNull<u8>,
    length: usize,
}

impl SharedBytes {
    /// Makes a memory file with [`WORDS`] numbers and so many bytes, all 0.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) and mmap(2) return.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("rcompose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let length = PAGE.saturating_add(bytes);
        rustix::fs::ftruncate(&file, u64::try_from(length).unwrap_or(u64::MAX))?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
        Self::of(file)
    }

    /// The memory in a file that another process has made, and that has ended
    /// since: two must not use it at the same time.
    ///
    /// # Errors
    /// `EINVAL` for another file, what mmap(2) returns.
    pub fn of(file: OwnedFd) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let length = usize::try_from(rustix::fs::fstat(&file)?.st_size).map_err(|_| invalid())?;
        // One that can shrink could end us.
        if length < PAGE || !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(invalid());
        }
        // SAFETY: a fresh mapping at a place the kernel chooses, no longer than the file,
        // which cannot shrink.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = std::ptr::NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { file, start, length })
    }

    /// The file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The number at that place; the last one for a place behind them.
    pub fn word(&self, place: usize) -> &AtomicU64 {
        let place = place.min(WORDS - 1);
        // SAFETY: within the first page of the mapping, aligned, never borrowed as
        // anything else; the mapping lives as long as `self`.
        unsafe { self.start.cast::<AtomicU64>().add(place).as_ref() }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping without its first page. Nobody else changes it: whoever
        // has the file uses it when this process has ended.
        unsafe { std::slice::from_raw_parts(self.start.add(PAGE).as_ptr(), self.length - PAGE) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `self` is borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(PAGE).as_ptr(), self.length - PAGE) }
    }

    /// Gives back the memory of the first so many bytes, which are 0 afterwards,
    /// and takes all of it off this process for now.
    pub fn give_back(&mut self, bytes: usize) {
        let length = bytes.min(self.length - PAGE) / PAGE * PAGE;
        // SAFETY: ranges of whole pages of our own mapping, which no borrow reaches now:
        // the first is zeroed, as is said; the second only forgets which pages are
        // mapped, they stay in the file.
        unsafe {
            libc::madvise(self.start.add(PAGE).as_ptr().cast(), length, libc::MADV_REMOVE);
            libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_DONTNEED);
        }
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        // SAFETY: the mapping of `of`, which nothing borrows any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_is_in_it_is_there_for_the_next() {
        let mut memory = SharedBytes::new(100_000).unwrap();
        memory.word(3).store(7, Ordering::SeqCst);
        memory.bytes_mut()[..3].copy_from_slice(b"abc");
        memory.bytes_mut()[50_000] = 1;
        let file = memory.file().try_clone_to_owned().unwrap();
        drop(memory);
        let mut memory = SharedBytes::of(file).unwrap();
        assert_eq!(memory.word(3).load(Ordering::SeqCst), 7);
        assert_eq!(
            (&memory.bytes()[..3], memory.bytes().len()),
            (&b"abc"[..], 100_000)
        );
        memory.give_back(8192);
        assert_eq!(memory.word(3).load(Ordering::SeqCst), 7);
        assert_eq!((memory.bytes()[0], memory.bytes()[50_000]), (0, 1));
    }

    #[test]
    fn a_file_that_can_shrink_is_not_mapped() {
        let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        assert!(SharedBytes::of(file).is_err());
        assert!(SharedBytes::of(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
