//! Inputs on their way to the device: written into one of two page-locked slots, copied by the stream
//! while the host fills the other.

use super::context::Cuda;
use super::error::CudaError;
use super::memory::DeviceBuffer;
use cudarc::driver::{CudaEvent, result};
use std::sync::Arc;

/// Host memory that the device copies from at full speed, without the host's waiting.
struct Pinned {
    pointer: *mut u8,
    bytes: usize,
    cuda: Arc<Cuda>,
}

// SAFETY: plain memory, owned.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(cuda: &Arc<Cuda>, bytes: usize) -> Result<Self, CudaError> {
        cuda.bind()?;
        // SAFETY: freed once, in `drop`.
        let pointer = unsafe { result::malloc_host(bytes.max(1), 0) };
        let pointer: *mut u8 = cuda.check("page-locked memory", pointer)?.cast();
        // SAFETY: as many bytes as were just allocated.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Self {
            pointer,
            bytes,
            cuda: cuda.clone(),
        })
    }

    fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated with this size and initialised; &self keeps writers away.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.cuda.bind().is_ok() {
            // SAFETY: allocated in `new`; the stream was waited for by the owner.
            let _ = unsafe { result::free_host(self.pointer.cast()) };
        }
    }
}

struct Slot {
    memory: Pinned,
    /// The stream has read the slot.
    read: Option<CudaEvent>,
}

/// The two slots.
pub struct Staging {
    cuda: Arc<Cuda>,
    slots: [Slot; 2],
    current: usize,
    /// What the current slot holds: position in it, in the device's buffer, and size.
    waiting: Vec<[usize; 3]>,
}

impl Staging {
    /// Slots of `bytes` bytes.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(cuda: &Arc<Cuda>, bytes: usize) -> Result<Self, CudaError> {
        let slot = || -> Result<Slot, CudaError> {
            let memory = Pinned::new(cuda, bytes)?;
            Ok(Slot { memory, read: None })
        };
        Ok(Self {
            cuda: cuda.clone(),
            slots: [slot()?, slot()?],
            current: 0,
            waiting: Vec::new(),
        })
    }

    /// Keeps `bytes` for byte `to` of the device's buffer; they take the slot's bytes from `at` on.
    ///
    /// # Errors
    /// The driver's.
    pub fn write(&mut self, at: usize, to: usize, bytes: &[u8]) -> Result<(), CudaError> {
        let slot = &mut self.slots[self.current];
        if let Some(read) = slot.read.take() {
            self.cuda.check("wait for a copy", read.synchronize())?;
        }
        slot.memory.as_mut_slice()[at..at + bytes.len()].copy_from_slice(bytes);
        self.waiting.retain(|w| w[0] != at);
        self.waiting.push([at, to, bytes.len()]);
        Ok(())
    }

    /// Queues the copies of what was written, and turns to the other slot.
    ///
    /// # Errors
    /// The driver's.
    pub fn send(&mut self, buffer: &DeviceBuffer) -> Result<(), CudaError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.cuda.bind()?;
        let stream = self.cuda.stream();
        let slot = &mut self.slots[self.current];
        for [at, to, bytes] in self.waiting.drain(..) {
            assert!(to + bytes <= buffer.bytes(), "input past the end");
            let from = &slot.memory.as_slice()[at..at + bytes];
            // SAFETY: inside both; the slot is not written again before `read` has happened.
            let copied = unsafe {
                result::memcpy_htod_async(buffer.pointer() + to as u64, from, stream.cu_stream())
            };
            self.cuda.check("copy an input", copied)?;
        }
        let read = self.cuda.check("mark a copy", stream.record_event(None))?;
        slot.read = Some(read);
        self.current ^= 1;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // The slots' memory goes next: nothing may still be reading it.
        let _ = self.cuda.synchronize();
    }
}
