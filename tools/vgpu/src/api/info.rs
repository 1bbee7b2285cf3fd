//! Initialisation, devices, contexts.

use super::{driver, put, put_string};
use crate::driver::{Driver, code, init, with};
use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

thread_local! {
    static CONTEXT: Cell<u64> = const { Cell::new(0) };
}

/// A device's context: its number, and one more so that it is not null.
const CONTEXTS: u64 = 0x100;

fn context(device: c_int) -> u64 {
    CONTEXTS + device as u64
}

fn device_exists(d: &Driver, device: c_int) -> Result<(), u32> {
    if device >= 0 && (device as u32) < d.config.devices {
        Ok(())
    } else {
        Err(code::INVALID_DEVICE)
    }
}

/// A device attribute by its number in `CUdevice_attribute`.
fn attribute(d: &Driver, number: c_int) -> Option<c_int> {
    let v = &d.device;
    let hopper = c_int::from(v.capability[0] >= 9);
    Some(match number {
        1..=3 => {
            if number == 3 {
                64
            } else {
                1024
            }
        }
        4 => 1024,
        5 => i32::MAX,
        6 | 7 => 65_535,
        8 => 49_152,
        9 => 65_536,
        10 => 32,
        11 => i32::MAX,
        12 | 82 => v.registers as c_int,
        13 => (v.clock_ghz * 1e6) as c_int,
        14 => 512,
        15 | 31 | 41 | 83 | 95 => 1,
        16 => v.sms as c_int,
        17 | 18 | 19 | 32 | 33 | 34 | 35 | 20 => 0,
        // kHz: two transfers a clock over the bus below.
        36 => (v.dram_gb_per_s * 8e6 / (2.0 * 384.0)) as c_int,
        37 => 384,
        38 => v.l2_bytes as c_int,
        39 => (v.warps * 32) as c_int,
        40 => 2,
        50 => 0,
        75 => v.capability[0] as c_int,
        76 => v.capability[1] as c_int,
        78..=80 => 1,
        81 => v.shared_per_sm as c_int,
        97 => v.shared_per_block as c_int,
        106 => v.blocks as c_int,
        111 => 1024,
        115 => 1,
        120 => hopper,
        _ => return None,
    })
}

driver! {
    fn cuInit(_flags: c_uint) {
        init()
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, 13_000)
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        with(|d| device_exists(d, ordinal).and_then(|()| put(device, ordinal)))
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        with(|d| put(count, d.config.devices as c_int))
    }

    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        with(|d| {
            device_exists(d, device)?;
            let [major, minor] = d.device.capability;
            put_string(name, len as usize, &format!("vgpu {} (sm_{major}{minor}, modelled)", d.device.name))
        })
    }

    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) {
        with(|d| device_exists(d, device).and_then(|()| {
            let mut id = *b"vgpu-device-----";
            id[15] = device as u8;
            put(uuid, id)
        }))
    }

    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        // SAFETY: the same promise.
        match unsafe { cuDeviceGetUuid_v2(uuid, device) } { 0 => Ok(()), e => Err(e) }
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        with(|d| device_exists(d, device).and_then(|()| put(bytes, d.machine.memory.total as usize)))
    }

    fn cuDeviceGetAttribute(value: *mut c_int, number: c_int, device: c_int) {
        with(|d| {
            device_exists(d, device)?;
            static ASKED: Mutex<Option<HashSet<c_int>>> = Mutex::new(None);
            let found = attribute(d, number);
            if found.is_none() && crate::check::lock(&ASKED).get_or_insert_default().insert(number) {
                eprintln!("vgpu: device attribute {number} is not modelled: 0");
            }
            put(value, found.unwrap_or(0))
        })
    }

    fn cuDevicePrimaryCtxRetain(ctx: *mut u64, device: c_int) {
        with(|d| device_exists(d, device).and_then(|()| put(ctx, context(device))))
    }

    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        with(|d| device_exists(d, device))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, _flags: c_uint) {
        with(|d| device_exists(d, device))
    }

    fn cuCtxGetCurrent(ctx: *mut u64) {
        put(ctx, CONTEXT.get())
    }

    fn cuCtxSetCurrent(ctx: u64) {
        with(|d| {
            if ctx != 0 && (ctx < CONTEXTS || ctx >= CONTEXTS + u64::from(d.config.devices)) {
                return Err(code::INVALID_CONTEXT);
            }
            CONTEXT.set(ctx);
            Ok(())
        })
    }

    fn cuCtxGetDevice(device: *mut c_int) {
        if CONTEXT.get() == 0 { Err(code::INVALID_CONTEXT) } else { put(device, (CONTEXT.get() - CONTEXTS) as c_int) }
    }

    fn cuCtxSynchronize() {
        with(|d| d.synchronise(None))
    }

    fn cuCtxSetFlags(_flags: c_uint) {
        with(|_| Ok(()))
    }

    fn cuCtxGetLimit(value: *mut usize, limit: c_int) {
        put(value, if limit == 0 { 1024 } else { 8 << 20 })
    }

    fn cuCtxSetLimit(_limit: c_int, _value: usize) {
        with(|_| Ok(()))
    }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        if !least.is_null() { put(least, 0)?; }
        if greatest.is_null() { Ok(()) } else { put(greatest, -5) }
    }

    fn cuPointerGetAttribute(value: *mut c_void, attribute: c_int, address: u64) {
        with(|d| {
            let region = d.machine.memory.find(address);
            match (attribute, region) {
                // CONTEXT, MEMORY_TYPE (device), DEVICE_POINTER, DEVICE_ORDINAL, RANGE_START_ADDR, RANGE_SIZE
                (1, Some(_)) => put(value.cast(), context(0)),
                (2, Some(_)) => put(value.cast(), 2u32),
                (3, Some(_)) => put(value.cast(), address),
                (9, Some(_)) => put(value.cast(), 0i32),
                (11, Some(r)) => put(value.cast(), r.base),
                (12, Some(r)) => put(value.cast(), r.end - r.base),
                (2, None) if d.pinned.contains_key(&address) => put(value.cast(), 1u32),
                _ => Err(code::INVALID_VALUE),
            }
        })
    }
}
