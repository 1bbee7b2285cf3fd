//! Modules, functions, launches, occupancy.

use super::memory::stream;
use super::{driver, put, string, take};
use crate::decode::Loaded;
use crate::driver::{Driver, Function, code, with};
use crate::machine::Shape;
use crate::sass;
use crate::stream::Work;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

fn load_text(d: &mut Driver, module: *mut u64, text: &str) -> Result<(), u32> {
    d.forbid_in_capture()?;
    let loaded = d.machine.load(text).map_err(|e| {
        eprintln!("vgpu: PTX: {e}");
        code::INVALID_PTX
    })?;
    if d.config.stats.is_some() {
        analyse(&loaded);
    }
    let handle = d.handle();
    d.modules.insert(handle, Arc::new(loaded));
    put(module, handle)
}

/// Registers and SASS of a module, where the tools are there; once.
fn analyse(module: &Loaded) {
    module.sass.get_or_init(|| {
        sass::analyse(module.text.all(), &module.target).unwrap_or_else(|e| {
            eprintln!("vgpu: no SASS counts: {e}");
            Default::default()
        })
    });
}

/// The text of an image: PTX ends with a zero byte.
fn image(at: *const c_void) -> Result<String, u32> {
    if take(at.cast::<[u8; 4]>())? == *b"\x7fELF" {
        return Err(code::NO_BINARY);
    }
    string(at.cast())
}

/// The parameters' bytes from an array of pointers.
fn gather(function: &Function, params: *mut *mut c_void) -> Result<Vec<u8>, u32> {
    let kernel = function.kernel()?;
    let mut bytes = vec![0; kernel.param_bytes as usize];
    for (n, p) in kernel.params.iter().enumerate() {
        let from = take(params.wrapping_add(n).cast_const())?;
        if from.is_null() {
            return Err(code::INVALID_VALUE);
        }
        let to = &mut bytes[p.offset as usize..(p.offset + p.size) as usize];
        // SAFETY: the caller's pointers lead to as many bytes as the kernel's parameters have.
        unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.as_mut_ptr(), to.len()) };
    }
    Ok(bytes)
}

/// Parameters as one packed buffer: `{1, pointer, 2, &size, 0}`.
fn packed(function: &Function, extra: *mut *mut c_void) -> Result<Vec<u8>, u32> {
    let (mut at, mut size) = (std::ptr::null::<u8>(), 0usize);
    let mut n = 0;
    loop {
        let key = take(extra.wrapping_add(n).cast_const())? as usize;
        if key == 0 {
            break;
        }
        let value = take(extra.wrapping_add(n + 1).cast_const())?;
        match key {
            1 => at = value.cast(),
            2 => size = take(value.cast::<usize>())?,
            _ => return Err(code::INVALID_VALUE),
        }
        n += 2;
    }
    let mut bytes = vec![0; function.kernel()?.param_bytes as usize];
    let n = size.min(bytes.len());
    // SAFETY: the caller's buffer has as many bytes as it says.
    unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), n) };
    Ok(bytes)
}

/// A launch as a piece of work, checked against the limits.
///
/// # Errors
///
/// A bad handle, parameters that are missing, or limits that are exceeded.
pub(crate) fn kernel_work(
    d: &Driver,
    f: u64,
    shape: Shape,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Work, u32> {
    let function = d.functions.get(&f).ok_or(code::INVALID_HANDLE)?.clone();
    d.check_shape(&function, &shape)?;
    let bytes = if !params.is_null() || extra.is_null() {
        gather(&function, params)?
    } else {
        packed(&function, extra)?
    };
    Ok(Work::Kernel {
        function,
        shape,
        params: bytes,
    })
}

fn launch(
    f: u64,
    shape: Shape,
    on: u64,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<(), u32> {
    with(|d| {
        let work = kernel_work(d, f, shape, params, extra)?;
        d.submit(stream(on), work)
    })
}

/// `CUlaunchConfig` as far as it is read here.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: u64,
    attributes: *const [u8; 72],
    count: c_uint,
}

/// A function's attribute by its number in `CUfunction_attribute`.
fn function_attribute(d: &mut Driver, f: u64, number: c_int) -> Result<c_int, u32> {
    let function = d.functions.get(&f).ok_or(code::INVALID_HANDLE)?.clone();
    let kernel = function.kernel()?;
    Ok(match number {
        0 => kernel.maxntid.map_or(1024, |m| m.iter().product::<u32>()) as c_int,
        1 => kernel.shared_bytes as c_int,
        3 => kernel.local_bytes as c_int,
        4 => {
            if sass::tool("ptxas").is_some() {
                analyse(&function.module);
            }
            function
                .module
                .sass
                .get()
                .and_then(|s| s.get(&function.name))
                .map_or(0, |k| k.registers as c_int)
        }
        5 | 6 => (d.device.capability[0] * 10 + d.device.capability[1]) as c_int,
        8 => function.dynamic as c_int,
        _ => 0,
    })
}

fn resident(d: &mut Driver, f: u64, threads: c_int, shared: usize) -> Result<u32, u32> {
    let registers = function_attribute(d, f, 4)? as u32;
    let own = d
        .functions
        .get(&f)
        .ok_or(code::INVALID_HANDLE)?
        .kernel()?
        .shared_bytes;
    Ok(d.device
        .resident(threads.max(1) as u32, registers, own + shared as u32)
        .0)
}

driver! {
    fn cuModuleLoadData(module: *mut u64, at: *const c_void) {
        let text = image(at)?;
        with(|d| load_text(d, module, &text))
    }

    fn cuModuleLoadDataEx(module: *mut u64, at: *const c_void, _n: c_uint, _options: *const c_int, _values: *const *const c_void) {
        let text = image(at)?;
        with(|d| load_text(d, module, &text))
    }

    fn cuModuleLoad(module: *mut u64, path: *const c_char) {
        let text = std::fs::read_to_string(string(path)?).map_err(|_| 301u32)?;
        with(|d| load_text(d, module, &text))
    }

    fn cuModuleUnload(module: u64) {
        with(|d| {
            d.synchronise(None)?;
            let loaded = d.modules.remove(&module).ok_or(code::INVALID_HANDLE)?;
            for (address, _) in loaded.globals.values() {
                d.machine.memory.free(*address);
            }
            Ok(())
        })
    }

    fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char) {
        let name = string(name)?;
        with(|d| {
            let loaded = d.modules.get(&module).ok_or(code::INVALID_HANDLE)?.clone();
            match loaded.kernels.get(&name) {
                None => return Err(code::NOT_FOUND),
                Some(Err(e)) => {
                    eprintln!("vgpu: {e}");
                    return Err(code::INVALID_PTX);
                }
                Some(Ok(_)) => {}
            }
            let handle = d.handle();
            d.functions.insert(handle, Function { module: loaded, name, dynamic: 0 });
            put(function, handle)
        })
    }

    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: u64, name: *const c_char) {
        let name = string(name)?;
        with(|d| {
            let loaded = d.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
            let (at, size) = *loaded.globals.get(&name).ok_or(code::NOT_FOUND)?;
            if !address.is_null() { put(address, at)?; }
            if bytes.is_null() { Ok(()) } else { put(bytes, size as usize) }
        })
    }

    fn cuFuncGetAttribute(value: *mut c_int, number: c_int, f: u64) {
        with(|d| { let v = function_attribute(d, f, number)?; put(value, v) })
    }

    fn cuFuncSetAttribute(f: u64, number: c_int, value: c_int) {
        with(|d| {
            let most = d.device.shared_per_block;
            let function = d.functions.get_mut(&f).ok_or(code::INVALID_HANDLE)?;
            if number == 8 {
                if value < 0 || value as u32 + function.kernel()?.shared_bytes > most { return Err(code::INVALID_VALUE); }
                function.dynamic = value as u32;
            }
            Ok(())
        })
    }

    fn cuFuncSetCacheConfig(_f: u64, _config: c_int) {
        with(|_| Ok(()))
    }

    fn cuLaunchKernel(
        f: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, on: u64,
        params: *mut *mut c_void, extra: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic: shared, cooperative: false };
        launch(f, shape, on, params, extra)
    }

    fn cuLaunchCooperativeKernel(
        f: u64, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint, on: u64,
        params: *mut *mut c_void,
    ) {
        let shape = Shape { grid: [gx, gy, gz], block: [bx, by, bz], dynamic: shared, cooperative: true };
        launch(f, shape, on, params, std::ptr::null_mut())
    }

    fn cuLaunchKernelEx(config: *const LaunchConfig, f: u64, params: *mut *mut c_void, extra: *mut *mut c_void) {
        let c = take(config)?;
        let shape = Shape { grid: c.grid, block: c.block, dynamic: c.shared, cooperative: false };
        launch(f, shape, c.stream, params, extra)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, f: u64, threads: c_int, shared: usize) {
        with(|d| { let n = resident(d, f, threads, shared)?; put(blocks, n as c_int) })
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: *mut c_int, f: u64, threads: c_int, shared: usize, _flags: c_uint) {
        with(|d| { let n = resident(d, f, threads, shared)?; put(blocks, n as c_int) })
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, f: u64, dynamic_of: Option<unsafe extern "C" fn(c_int) -> usize>, shared: usize, limit: c_int,
    ) {
        let most = if limit > 0 { limit } else { 1024 };
        let mut best = (0, 0, 0);
        for n in (1..=most / 32).rev() {
            let threads = 32 * n;
            // SAFETY: the caller's function for just this question.
            let bytes = dynamic_of.map_or(shared, |f| unsafe { f(threads) });
            let n = with(|d| resident(d, f, threads, bytes))?;
            if n * threads as u32 > best.0 {
                best = (n * threads as u32, n, threads);
            }
        }
        put(grid, (best.1 * with(|d| Ok(d.device.sms))?) as c_int)?;
        put(block, best.2)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: *mut usize, f: u64, blocks: c_int, _threads: c_int) {
        with(|d| {
            let own = d.functions.get(&f).ok_or(code::INVALID_HANDLE)?.kernel()?.shared_bytes;
            let share = (d.device.shared_per_sm / blocks.max(1) as u32).saturating_sub(1024).min(d.device.shared_per_block);
            put(bytes, share.saturating_sub(own) as usize)
        })
    }
}
