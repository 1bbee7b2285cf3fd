//! Ranges that NVIDIA's profilers show: the name of the network's part around its launches.

use super::error::CudaError;
use libloading::Library;
use std::ffi::{CString, c_char, c_int};

/// Names of the library, newest first. It comes with the CUDA toolkit.
const NAMES: [&str; 2] = ["libnvToolsExt.so.1", "libnvToolsExt.so"];

/// The tools extension.
#[derive(Debug)]
pub struct Nvtx {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
    _library: Library,
}

impl Nvtx {
    /// Finds and opens it.
    ///
    /// # Errors
    /// It is not there: the message names the file.
    pub fn open() -> Result<Self, CudaError> {
        let missing = |e: libloading::Error| {
            let text = format!(
                "NVTX ranges need {}, which comes with the CUDA toolkit: {e}",
                NAMES[0]
            );
            CudaError::NoCompiler(text)
        };
        // SAFETY: its initialisers need nothing.
        let open = |name: &str| unsafe { Library::new(name) };
        let library = open(NAMES[0])
            .or_else(|_| open(NAMES[1]))
            .map_err(missing)?;
        // SAFETY: the types that NVTX declares; the library lives as long as the functions.
        let (push, pop) = unsafe {
            let push =
                library.get::<unsafe extern "C" fn(*const c_char) -> c_int>(b"nvtxRangePushA\0");
            let pop = library.get::<unsafe extern "C" fn() -> c_int>(b"nvtxRangePop\0");
            (*push.map_err(missing)?, *pop.map_err(missing)?)
        };
        Ok(Self {
            push,
            pop,
            _library: library,
        })
    }

    /// Runs `work` inside a range called `name`.
    pub fn range<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let text = CString::new(name).unwrap_or_default();
        // SAFETY: a string that NVTX copies.
        unsafe { (self.push)(text.as_ptr()) };
        let result = work();
        // SAFETY: closes the range just opened.
        unsafe { (self.pop)() };
        result
    }
}
