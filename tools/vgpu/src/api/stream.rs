//! Streams and events.

use super::memory::stream;
use super::{driver, put};
use crate::driver::{code, with};
use crate::stream::{Event, Stream, Work};
use std::ffi::{c_int, c_uint, c_void};

fn create(at: *mut u64) -> Result<(), u32> {
    with(|d| {
        let handle = d.handle();
        d.streams.insert(handle, Stream::default());
        put(at, handle)
    })
}

fn elapsed(ms: *mut f32, start: u64, end: u64) -> Result<(), u32> {
    with(|d| {
        let time = |e: u64| d.events.get(&e).ok_or(code::INVALID_HANDLE);
        let (a, b) = (time(start)?, time(end)?);
        match (a.time, b.time) {
            (Some(x), Some(y)) => put(ms, ((y - x) * 1e3) as f32),
            _ if a.asked > a.done || b.asked > b.done => Err(code::NOT_READY),
            _ => Err(code::INVALID_HANDLE),
        }
    })
}

driver! {
    fn cuStreamCreate(at: *mut u64, _flags: c_uint) {
        create(at)
    }

    fn cuStreamCreateWithPriority(at: *mut u64, _flags: c_uint, _priority: c_int) {
        create(at)
    }

    fn cuStreamDestroy_v2(on: u64) {
        with(|d| {
            if !d.streams.contains_key(&on) || on == 0 { return Err(code::INVALID_HANDLE); }
            if d.config.late { d.synchronise(Some(on))?; }
            d.streams.remove(&on);
            Ok(())
        })
    }

    fn cuStreamSynchronize(on: u64) {
        with(|d| {
            if !d.streams.contains_key(&stream(on)) { return Err(code::INVALID_HANDLE); }
            d.synchronise(Some(stream(on)))
        })
    }

    fn cuStreamQuery(on: u64) {
        with(|d| {
            d.forbid_in_capture()?;
            d.healthy()?;
            let s = d.streams.get(&stream(on)).ok_or(code::INVALID_HANDLE)?;
            if s.queue.is_empty() { Ok(()) } else { d.synchronise(Some(stream(on))).and(Err(code::NOT_READY)) }
        })
    }

    fn cuStreamWaitEvent(on: u64, event: u64, _flags: c_uint) {
        with(|d| d.wait(stream(on), event))
    }

    fn cuLaunchHostFunc(on: u64, function: usize, data: *mut c_void) {
        with(|d| d.submit(stream(on), Work::Host { function, data: data as usize }))
    }

    fn cuEventCreate(event: *mut u64, _flags: c_uint) {
        with(|d| {
            let handle = d.handle();
            d.events.insert(handle, Event::default());
            put(event, handle)
        })
    }

    fn cuEventRecord(event: u64, on: u64) {
        with(|d| d.record(event, stream(on)))
    }

    fn cuEventQuery(event: u64) {
        with(|d| {
            let e = d.events.get(&event).ok_or(code::INVALID_HANDLE)?;
            if e.done >= e.asked { return d.healthy(); }
            d.synchronise(None).and(Err(code::NOT_READY))
        })
    }

    fn cuEventSynchronize(event: u64) {
        with(|d| {
            if !d.events.contains_key(&event) { return Err(code::INVALID_HANDLE); }
            d.synchronise(None)
        })
    }

    fn cuEventDestroy_v2(event: u64) {
        with(|d| d.events.remove(&event).map(|_| ()).ok_or(code::INVALID_HANDLE))
    }

    fn cuEventElapsedTime(ms: *mut f32, start: u64, end: u64) {
        elapsed(ms, start, end)
    }

    fn cuEventElapsedTime_v2(ms: *mut f32, start: u64, end: u64) {
        elapsed(ms, start, end)
    }
}
