//! A word in memory that two processes share.
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::AtomicI32;

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
