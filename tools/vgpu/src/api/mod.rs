//! The driver's functions, under the names and with the arguments of CUDA's.

pub mod error;
pub mod extra;
pub mod graph;
pub mod info;
pub mod memory;
pub mod module;
pub mod stream;
pub mod tensor_map;

use crate::driver::code;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a function's body; a panic becomes an error code.
pub(crate) fn guarded(body: impl FnOnce() -> Result<(), u32>) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => code::UNKNOWN,
    }
}

/// Writes a result.
///
/// # Errors
///
/// A null pointer.
pub(crate) fn put<T>(at: *mut T, value: T) -> Result<(), u32> {
    if at.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller of a driver function gives it a place for its result.
    unsafe { at.write(value) };
    Ok(())
}

/// Reads an argument behind a pointer.
///
/// # Errors
///
/// A null pointer.
pub(crate) fn take<T: Copy>(at: *const T) -> Result<T, u32> {
    if at.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller of a driver function gives it readable arguments.
    Ok(unsafe { at.read_unaligned() })
}

/// A string behind a pointer.
///
/// # Errors
///
/// A null pointer.
pub(crate) fn string(at: *const std::ffi::c_char) -> Result<String, u32> {
    if at.is_null() {
        return Err(code::INVALID_VALUE);
    }
    // SAFETY: the caller of a driver function gives it a string that ends.
    Ok(unsafe { std::ffi::CStr::from_ptr(at) }
        .to_string_lossy()
        .into_owned())
}

/// Writes a string into a buffer of `len` bytes.
///
/// # Errors
///
/// A null pointer.
pub(crate) fn put_string(at: *mut std::ffi::c_char, len: usize, text: &str) -> Result<(), u32> {
    if at.is_null() || len == 0 {
        return Err(code::INVALID_VALUE);
    }
    let n = text.len().min(len - 1);
    // SAFETY: the caller of a driver function gives it this many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), at, n);
        at.add(n).write(0);
    }
    Ok(())
}

/// Exports functions of the driver.
macro_rules! driver {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => { $(
        /// The CUDA driver's function of this name.
        ///
        /// # Safety
        ///
        /// What the CUDA driver API asks of its callers.
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            $crate::api::guarded(move || $body)
        }
    )* };
}
pub(crate) use driver;
