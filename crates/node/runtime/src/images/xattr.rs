//! Extended attributes by descriptor.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets an attribute of an open file; a descriptor that only names one is reached through `/proc`.
pub(crate) fn set(fd: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = CString::new(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
    // SAFETY: both strings and the value outlive the call, which only reads them; the value's length is passed.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets an attribute that an image names. What the overlay itself lives by is not an image's to set: it could make any
/// file of the host appear (CVE-2023-0386 and its kin). What the file system cannot keep is left out, as elsewhere.
pub(crate) fn set_named(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an attribute that images may not set"));
    }
    match set(fd, &CString::new(name)?, value) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other,
    }
}
