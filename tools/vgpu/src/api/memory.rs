//! Memory, copies, fills.

use super::{driver, put};
use crate::driver::{code, with};
use crate::stream::Work;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{c_uint, c_void};

/// A stream's handle: legacy and per-thread names mean the default one.
pub(crate) fn stream(handle: u64) -> u64 {
    if handle <= 2 { 0 } else { handle }
}

/// A copy or fill on the default stream that is done when the function returns.
fn now(work: Work) -> Result<(), u32> {
    with(|d| {
        d.forbid_in_capture()?;
        d.synchronise(None)?;
        d.perform(work)
    })
}

fn later(on: u64, work: Work) -> Result<(), u32> {
    with(|d| d.submit(stream(on), work))
}

driver! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        with(|d| {
            d.forbid_in_capture()?;
            d.healthy()?;
            if bytes == 0 { return Err(code::INVALID_VALUE); }
            put(address, d.machine.memory.alloc(bytes as u64).ok_or(code::OUT_OF_MEMORY)?)
        })
    }

    fn cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: u64) {
        with(|d| {
            // Inside a capture this would be a node of its own; such graphs are not supported.
            d.forbid_in_capture()?;
            d.healthy()?;
            if bytes == 0 { return Err(code::INVALID_VALUE); }
            put(address, d.machine.memory.alloc(bytes as u64).ok_or(code::OUT_OF_MEMORY)?)
        })
    }

    fn cuMemFree_v2(address: u64) {
        with(|d| {
            if address == 0 { return Ok(()); }
            d.synchronise(None)?;
            if d.machine.memory.free(address) { Ok(()) } else { Err(code::INVALID_VALUE) }
        })
    }

    fn cuMemFreeAsync(address: u64, on: u64) {
        later(on, Work::Free { address })
    }

    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        with(|d| {
            let m = &d.machine.memory;
            put(free, (m.total - m.used()) as usize)?;
            put(total, m.total as usize)
        })
    }

    fn cuMemHostAlloc(at: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        with(|d| {
            let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| code::INVALID_VALUE)?;
            // SAFETY: the layout has a size.
            let memory = unsafe { alloc_zeroed(layout) };
            if memory.is_null() { return Err(code::OUT_OF_MEMORY); }
            d.pinned.insert(memory as u64, layout.size());
            put(at, memory.cast())
        })
    }

    fn cuMemFreeHost(at: *mut c_void) {
        with(|d| {
            let size = d.pinned.remove(&(at as u64)).ok_or(code::INVALID_VALUE)?;
            d.synchronise(None)?;
            if let Some(address) = d.mapped.remove(&(at as u64)) {
                d.machine.memory.free(address);
            }
            let layout = Layout::from_size_align(size, 4096).map_err(|_| code::INVALID_VALUE)?;
            // SAFETY: allocated with this layout by `cuMemHostAlloc`, and not freed since.
            unsafe { dealloc(at.cast(), layout) };
            Ok(())
        })
    }

    fn cuMemHostGetDevicePointer_v2(address: *mut u64, at: *mut c_void, _flags: c_uint) {
        with(|d| {
            let size = *d.pinned.get(&(at as u64)).ok_or(code::INVALID_VALUE)?;
            if let Some(known) = d.mapped.get(&(at as u64)) {
                return put(address, *known);
            }
            let mapped = d.machine.memory.map(at.cast(), size as u64).ok_or(code::OUT_OF_MEMORY)?;
            d.mapped.insert(at as u64, mapped);
            put(address, mapped)
        })
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        now(Work::ToDevice { to, from: from as u64, len: bytes as u64 })
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        now(Work::ToHost { to: to as u64, from, len: bytes as u64 })
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        now(Work::Within { to, from, len: bytes as u64 })
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, on: u64) {
        later(on, Work::ToDevice { to, from: from as u64, len: bytes as u64 })
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, on: u64) {
        later(on, Work::ToHost { to: to as u64, from, len: bytes as u64 })
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, on: u64) {
        later(on, Work::Within { to, from, len: bytes as u64 })
    }

    fn cuMemcpyPeerAsync(to: u64, _to_ctx: u64, from: u64, _from_ctx: u64, bytes: usize, on: u64) {
        later(on, Work::Within { to, from, len: bytes as u64 })
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        now(Work::Fill { to, value: value.into(), width: 1, count: count as u64 })
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, on: u64) {
        later(on, Work::Fill { to, value: value.into(), width: 1, count: count as u64 })
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        now(Work::Fill { to, value, width: 4, count: count as u64 })
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, on: u64) {
        later(on, Work::Fill { to, value, width: 4, count: count as u64 })
    }
}
