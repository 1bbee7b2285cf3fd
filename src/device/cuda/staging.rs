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
    /// The stream has done what it does with the slot.
    done: Option<CudaEvent>,
}

impl Slot {
    fn new(cuda: &Arc<Cuda>, bytes: usize) -> Result<Self, CudaError> {
        let memory = Pinned::new(cuda, bytes)?;
        Ok(Self { memory, done: None })
    }

    /// The stream has everything of this slot before it now.
    fn mark(&mut self) -> Result<(), CudaError> {
        let cuda = &self.memory.cuda;
        let event = cuda.stream().record_event(None);
        self.done = Some(cuda.check("mark a copy", event)?);
        Ok(())
    }

    /// Waits until the stream has done with the slot.
    fn wait(&mut self) -> Result<(), CudaError> {
        match self.done.take() {
            Some(done) => {
                let waited = done.synchronize();
                self.memory.cuda.check("run kernels", waited)
            }
            None => Ok(()),
        }
    }
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
        Ok(Self {
            cuda: cuda.clone(),
            slots: [Slot::new(cuda, bytes)?, Slot::new(cuda, bytes)?],
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
        slot.wait()?;
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
            // SAFETY: inside both; the slot is not written again before it is done.
            let copied = unsafe {
                result::memcpy_htod_async(buffer.pointer() + to as u64, from, stream.cu_stream())
            };
            self.cuda.check("copy an input", copied)?;
        }
        slot.mark()?;
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

/// Results on their way from the device: copied by the stream into page-locked slots, and read when the
/// host needs them, which may be a step later.
pub struct Returns {
    cuda: Arc<Cuda>,
    /// Position in the device's buffer and size of each result.
    pieces: Vec<[usize; 2]>,
    slots: [Slot; 2],
    next: usize,
}

impl Returns {
    /// Room for two sets of `pieces`, each `[position in the device's buffer, bytes]`.
    ///
    /// # Errors
    /// The driver's.
    pub fn new(cuda: &Arc<Cuda>, pieces: Vec<[usize; 2]>) -> Result<Self, CudaError> {
        let bytes = pieces.iter().map(|p| p[1]).sum();
        Ok(Self {
            cuda: cuda.clone(),
            pieces,
            slots: [Slot::new(cuda, bytes)?, Slot::new(cuda, bytes)?],
            next: 0,
        })
    }

    /// Queues the copy of all pieces; they take the place of the set before the last.
    ///
    /// # Errors
    /// The driver's.
    pub fn fetch(&mut self, buffer: &DeviceBuffer) -> Result<(), CudaError> {
        self.cuda.bind()?;
        let stream = self.cuda.stream();
        let slot = &mut self.slots[self.next % 2];
        slot.wait()?;
        let mut rest = slot.memory.as_mut_slice();
        for &[from, bytes] in &self.pieces {
            assert!(from + bytes <= buffer.bytes(), "result past the end");
            let (to, more) = rest.split_at_mut(bytes);
            rest = more;
            // SAFETY: inside both; the slot is not read before it is done.
            let copied = unsafe {
                result::memcpy_dtoh_async(to, buffer.pointer() + from as u64, stream.cu_stream())
            };
            self.cuda.check("copy a result", copied)?;
        }
        slot.mark()?;
        self.next += 1;
        Ok(())
    }

    /// The pieces of the set fetched `age` sets before the last (0 or 1), one after the other.
    ///
    /// # Errors
    /// What a kernel did wrong.
    pub fn get(&mut self, age: usize) -> Result<&[u8], CudaError> {
        let slot = &mut self.slots[(self.next + 1 - age) % 2];
        slot.wait()?;
        Ok(slot.memory.as_slice())
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        let _ = self.cuda.synchronize();
    }
}
