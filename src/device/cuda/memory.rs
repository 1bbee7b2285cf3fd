//! Device memory, and host memory that the device copies from at full speed.

use super::context::Cuda;
use super::error::CudaError;
use cudarc::driver::{CudaContext, result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A buffer on the device, filled with zeros at first.
pub struct DeviceBuffer {
    pointer: u64,
    bytes: usize,
    context: Arc<CudaContext>,
    /// Bytes of all buffers of the device.
    held: Arc<AtomicUsize>,
}

impl DeviceBuffer {
    /// `bytes` zeroed bytes for `what`.
    ///
    /// # Errors
    /// The device has not so much memory.
    pub fn new(cuda: &Cuda, bytes: usize, what: &'static str) -> Result<Self, CudaError> {
        cuda.bind()?;
        // The driver refuses empty buffers.
        let size = bytes.max(1);
        // SAFETY: freed once, in `drop`.
        let pointer = unsafe { result::malloc_sync(size) }.map_err(|_| CudaError::Memory {
            device: cuda.name().to_string(),
            what,
            bytes,
            free: result::mem_get_info().map_or(0, |m| m.0),
        })?;
        let buffer = Self {
            pointer,
            bytes,
            context: cuda.context().clone(),
            held: cuda.count().clone(),
        };
        buffer.held.fetch_add(bytes, Ordering::Relaxed);
        // SAFETY: the whole of this buffer.
        cuda.check("clear memory", unsafe {
            result::memset_d8_sync(pointer, 0, size)
        })?;
        Ok(buffer)
    }

    /// First byte on the device.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `data` to byte `offset`, after everything that was asked of the device before.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn upload<T: bytemuck::Pod>(
        &self,
        cuda: &Cuda,
        offset: usize,
        data: &[T],
    ) -> Result<(), CudaError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        assert!(offset + bytes.len() <= self.bytes, "upload past the end");
        if bytes.is_empty() {
            return Ok(());
        }
        cuda.synchronize()?;
        // SAFETY: inside the buffer, checked above; the stream is idle.
        cuda.check("copy to the device", unsafe {
            result::memcpy_htod_sync(self.pointer + offset as u64, bytes)
        })
    }

    /// Copies from byte `offset` on into `data`, after everything that was asked of the device before.
    ///
    /// # Errors
    /// The driver's, and what a kernel did wrong before.
    ///
    /// # Panics
    /// If there is not so much.
    pub fn download<T: bytemuck::Pod>(
        &self,
        cuda: &Cuda,
        offset: usize,
        data: &mut [T],
    ) -> Result<(), CudaError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(data);
        assert!(offset + bytes.len() <= self.bytes, "download past the end");
        if bytes.is_empty() {
            return Ok(());
        }
        cuda.synchronize()?;
        // SAFETY: inside the buffer, checked above; the stream is idle.
        cuda.check("copy from the device", unsafe {
            result::memcpy_dtoh_sync(bytes, self.pointer + offset as u64)
        })
    }

    /// Fills it with `byte`.
    ///
    /// # Errors
    /// The driver's.
    pub fn fill(&self, cuda: &Cuda, byte: u8) -> Result<(), CudaError> {
        cuda.synchronize()?;
        // SAFETY: the whole of this buffer.
        cuda.check("fill memory", unsafe {
            result::memset_d8_sync(self.pointer, byte, self.bytes.max(1))
        })
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated in `new`; the driver waits for work that uses it. Nobody is left to hear of
            // a failure.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}
