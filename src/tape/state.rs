//! State that outlives steps: weights, gradients, moments, average, counters; on the host, and on the
//! device that works with it.

use super::executable::{DeviceError, OutOfMemory};
use super::{ARENAS, Arena};
use crate::device::cuda::{Cuda, DeviceBuffer};
use crate::device::memory::Buffer;
use std::sync::Arc;

/// Flat buffers, one for each [`Arena`] in use.
#[derive(Default)]
pub struct State {
    buffers: [Option<Buffer>; ARENAS],
    device: Option<DeviceState>,
    /// The device has changed what the host has not fetched.
    behind: bool,
    /// The host has changed what the device has not got.
    ahead: bool,
}

/// The arenas on a CUDA device.
pub struct DeviceState {
    cuda: Arc<Cuda>,
    buffers: [Option<DeviceBuffer>; ARENAS],
    /// bf16 copies of the weights and of their average, and whether they are up to date.
    halves: [Option<DeviceBuffer>; 2],
    fresh: [bool; 2],
}

impl State {
    /// Adds a zeroed buffer of `elements` 4-byte numbers.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn allocate(&mut self, arena: Arena, elements: usize) -> Result<(), DeviceError> {
        let bytes = elements * 4;
        let buffer = Buffer::new(bytes).ok_or(OutOfMemory {
            what: "the parameter arenas",
            bytes,
        })?;
        self.buffers[arena as usize] = Some(buffer);
        self.device = None;
        Ok(())
    }

    /// The numbers of `arena`; empty if it was never allocated.
    ///
    /// # Panics
    /// If a device has changed them since the last [`State::fetch`].
    pub fn get<T: bytemuck::Pod>(&self, arena: Arena) -> &[T] {
        assert!(!self.behind, "state was read before it was fetched");
        self.buffers[arena as usize]
            .as_ref()
            .map_or(&[], Buffer::as_slice)
    }

    /// The numbers of `arena`; empty if it was never allocated.
    ///
    /// # Panics
    /// As for [`State::get`].
    pub fn get_mut<T: bytemuck::Pod>(&mut self, arena: Arena) -> &mut [T] {
        assert!(!self.behind, "state was changed before it was fetched");
        self.ahead = true;
        self.buffers[arena as usize]
            .as_mut()
            .map_or(&mut [], Buffer::as_mut_slice)
    }

    /// Copies to the host what the device has changed.
    ///
    /// # Errors
    /// The device's.
    pub fn fetch(&mut self) -> Result<(), DeviceError> {
        if let (true, Some(device)) = (self.behind, &self.device) {
            for (host, buffer) in self.buffers.iter_mut().zip(&device.buffers) {
                if let (Some(host), Some(buffer)) = (host, buffer) {
                    buffer.download(&device.cuda, 0, host.as_mut_slice::<u8>())?;
                }
            }
        }
        self.behind = false;
        Ok(())
    }

    /// The host's buffer of arena number `arena`.
    pub(super) fn host(&self, arena: usize) -> Option<&Buffer> {
        self.buffers[arena].as_ref()
    }

    /// The host takes part in the next step: what it has must be up to date, and will be newer.
    pub(super) fn use_host(&mut self) {
        assert!(!self.behind, "state was used before it was fetched");
        self.ahead = true;
    }

    /// The arenas on `cuda`, up to date; with room for bf16 copies if `half`.
    pub(super) fn on_device(
        &mut self,
        cuda: &Arc<Cuda>,
        half: bool,
    ) -> Result<&mut DeviceState, DeviceError> {
        let here = self
            .device
            .as_ref()
            .is_some_and(|d| Arc::ptr_eq(&d.cuda, cuda));
        if !here {
            self.fetch()?;
            self.device = None;
            self.ahead = true;
        }
        let device = match self.device.take() {
            Some(device) => device,
            None => DeviceState::new(cuda, &self.buffers)?,
        };
        let device = self.device.insert(device);
        if std::mem::take(&mut self.ahead) {
            device.upload(&self.buffers)?;
        }
        if half {
            device.make_halves()?;
        }
        Ok(device)
    }

    /// What lies on the device from byte `offset` of `arena` on.
    pub(super) fn peek(
        &self,
        arena: Arena,
        offset: usize,
        out: &mut [u8],
    ) -> Result<(), DeviceError> {
        if let Some(device) = &self.device
            && let Some(buffer) = &device.buffers[arena as usize]
        {
            buffer.download(&device.cuda, offset, out)?;
        }
        Ok(())
    }

    /// The device has run something that changes state.
    pub(super) fn changed_on_device(&mut self) {
        self.behind = true;
    }
}

impl DeviceState {
    fn new(cuda: &Arc<Cuda>, host: &[Option<Buffer>; ARENAS]) -> Result<Self, DeviceError> {
        let mut buffers: [Option<DeviceBuffer>; ARENAS] = Default::default();
        for (buffer, host) in buffers.iter_mut().zip(host) {
            if let Some(host) = host {
                let what = "the parameter arenas";
                *buffer = Some(DeviceBuffer::new(cuda, host.bytes(), what)?);
            }
        }
        Ok(Self {
            cuda: cuda.clone(),
            buffers,
            halves: [None, None],
            fresh: [false; 2],
        })
    }

    fn upload(&mut self, host: &[Option<Buffer>; ARENAS]) -> Result<(), DeviceError> {
        self.fresh = [false; 2];
        for (buffer, host) in self.buffers.iter().zip(host) {
            if let (Some(buffer), Some(host)) = (buffer, host) {
                buffer.upload(&self.cuda, 0, host.as_slice::<u8>())?;
            }
        }
        Ok(())
    }

    fn make_halves(&mut self) -> Result<(), DeviceError> {
        for (half, arena) in self.halves.iter_mut().zip([Arena::Params, Arena::Ema]) {
            if let (None, Some(whole)) = (&half, &self.buffers[arena as usize]) {
                let what = "bf16 copies of the weights";
                *half = Some(DeviceBuffer::new(&self.cuda, whole.bytes() / 2, what)?);
            }
        }
        Ok(())
    }

    /// Address and bytes of arena number `arena`; zeros if there is none.
    pub(super) fn arena(&self, arena: usize) -> (u64, usize) {
        let buffer = self.buffers[arena].as_ref();
        buffer.map_or((0, 0), |b| (b.pointer(), b.bytes()))
    }

    /// Address of the bf16 copy of `weights`, 0 if there is none, and whether it is up to date.
    pub(super) fn half(&self, weights: Arena) -> (u64, bool) {
        let i = half_index(weights);
        let pointer = self.halves[i].as_ref().map_or(0, DeviceBuffer::pointer);
        (pointer, self.fresh[i])
    }

    /// Notes whether the bf16 copy of `weights` is up to date.
    pub(super) fn set_fresh(&mut self, weights: Arena, fresh: bool) {
        self.fresh[half_index(weights)] = fresh;
    }
}

fn half_index(weights: Arena) -> usize {
    usize::from(weights == Arena::Ema)
}
