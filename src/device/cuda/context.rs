//! A CUDA device: its context and stream, its limits, its compiled kernels.

use super::cache::Cache;
use super::error::{CudaError, describe};
use super::kernel::{Kernel, Launch};
use super::nvrtc::{Image, Nvrtc, Source};
use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUfunction, CUfunction_attribute,
};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Names and texts of the files in `kernels/`.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// What a device can hold and do at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Streaming multiprocessors.
    pub sms: usize,
    /// Compute capability: 89 is 8.9.
    pub capability: u32,
    /// Shared memory that a block may have, bytes.
    pub shared_per_block: usize,
    /// Device memory, bytes.
    pub memory: usize,
    /// Nominal clock, Hz.
    pub clock: f64,
}

/// A kernel that the driver has loaded.
#[derive(Clone, Copy, Debug)]
struct Function(CUfunction);

// SAFETY: a handle that the driver allows every thread to launch.
unsafe impl Send for Function {}

/// An open CUDA device.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    limits: Limits,
    /// A kernel is launched before the one ahead of it has ended altogether, and waits by itself
    /// (`grid_begin` of the kernels).
    early: bool,
    nvrtc: Nvrtc,
    cache: Option<Cache>,
    functions: Mutex<BTreeMap<Kernel, Function>>,
    /// Bytes of all buffers there are.
    held: Arc<AtomicUsize>,
}

/// Devices that the driver shows, without opening one: names and compute capabilities.
///
/// # Errors
/// No driver, or none that works.
pub fn probe() -> Result<Vec<(String, u32)>, CudaError> {
    // SAFETY: looks for the library, and panics on nothing.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        let text = "no driver library (libcuda.so.1) is installed";
        return Err(CudaError::NoDevice(text.to_string()));
    }
    let failed = |e: DriverError| CudaError::NoDevice(describe(e));
    result::init().map_err(failed)?;
    (0..result::device::get_count().map_err(failed)?)
        .map(|i| {
            let device = result::device::get(i)?;
            // SAFETY: a device that the driver just named.
            let attribute = |a| unsafe { result::device::get_attribute(device, a) };
            let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
            let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
            Ok((
                result::device::get_name(device)?,
                (10 * major + minor) as u32,
            ))
        })
        .collect::<Result<_, DriverError>>()
        .map_err(failed)
}

impl Cuda {
    /// Opens device number `ordinal`; compiled kernels are kept in `cache` if one is given.
    ///
    /// # Errors
    /// No such device; no NVRTC.
    pub fn open(ordinal: usize, cache: Option<&Path>) -> Result<Arc<Self>, CudaError> {
        let found = probe()?;
        let Some((name, capability)) = found.get(ordinal).cloned() else {
            let text = format!(
                "device {ordinal} is asked for, the driver shows {}",
                found.len()
            );
            return Err(CudaError::NoDevice(text));
        };
        let nvrtc = Nvrtc::find()?;
        let failed = |e: DriverError| CudaError::Driver {
            device: name.clone(),
            what: "open the device".to_string(),
            code: describe(e),
        };
        let context = CudaContext::new(ordinal).map_err(failed)?;
        // SAFETY: cudarc's own buffers are not used, so nothing waits for its events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed)?;
        let attribute = |a| context.attribute(a).map(|x| x as usize).map_err(failed);
        let limits = Limits {
            sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            capability,
            shared_per_block: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            memory: context.total_mem().map_err(failed)?,
            clock: 1e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? as f64,
        };
        // CUDA graphs keep such launches from 12.3 on.
        let early = capability >= 90 && driver_version().map_err(failed)? >= 12_030;
        Ok(Arc::new(Self {
            context,
            stream,
            name,
            limits,
            early,
            nvrtc,
            cache: cache.map(Cache::new),
            functions: Mutex::default(),
            held: Arc::default(),
        }))
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it can hold and do at once.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The architecture that kernels are compiled for.
    pub fn arch(&self) -> String {
        architecture(self.limits.capability)
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The stream that everything runs on.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Makes the device the calling thread's.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.check("select the device", self.context.bind_to_thread())
    }

    /// Names the device and what was asked for in a driver's error.
    pub(super) fn check<T>(&self, what: &str, r: Result<T, DriverError>) -> Result<T, CudaError> {
        r.map_err(|e| CudaError::Driver {
            device: self.name.clone(),
            what: what.to_string(),
            code: describe(e),
        })
    }

    /// Waits until the device has done all that it was asked for.
    ///
    /// # Errors
    /// What a kernel did wrong since the last time.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        self.check("run kernels", self.stream.synchronize())
    }

    /// Free and total device memory, bytes.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.bind()?;
        self.check("ask for free memory", result::mem_get_info())
    }

    /// Bytes of device memory in this program's buffers.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The count behind [`Cuda::held`], for buffers to keep.
    pub(super) fn count(&self) -> &Arc<AtomicUsize> {
        &self.held
    }

    /// Compiles and loads those of `kernels` that are not loaded yet, on all processors; `done` hears how
    /// many of how many are ready.
    ///
    /// # Errors
    /// The first kernel that does not compile or load.
    pub fn prepare(
        &self,
        kernels: &BTreeSet<Kernel>,
        done: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<(), CudaError> {
        let missing: Vec<&Kernel> = {
            let known = self
                .functions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            kernels.iter().filter(|k| !known.contains_key(*k)).collect()
        };
        let ready = AtomicUsize::new(0);
        let images: Vec<Result<Image, CudaError>> = missing
            .par_iter()
            .map(|kernel| {
                let image = self.image(kernel);
                let n = ready.fetch_add(1, Ordering::Relaxed) + 1;
                done(n, missing.len());
                image
            })
            .collect();
        self.bind()?;
        for (kernel, image) in missing.into_iter().zip(images) {
            let function = self.load(kernel, &image?)?;
            self.functions
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(kernel.clone(), function);
        }
        Ok(())
    }

    /// The compiled kernel, from the cache or anew.
    fn image(&self, kernel: &Kernel) -> Result<Image, CudaError> {
        let arch = self.arch();
        let file = format!("{}.cu", kernel.file);
        let headers = headers()?;
        let text = source(&file)?;
        let options = options(kernel);
        let key = self.cache.as_ref().map(|_| {
            let mut hash = blake3::Hasher::new();
            let version = format!("{:?}", self.nvrtc.version);
            let parts = [&*text, &arch, &version, kernel.entry];
            let parts = parts.into_iter().chain(options.iter().map(String::as_str));
            let texts = headers.iter().flat_map(|(name, text)| [*name, &**text]);
            for part in parts.chain(texts) {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
            hash.finalize().to_hex().to_string()
        });
        let cache = self.cache.as_ref().zip(key);
        if let Some(image) = cache.as_ref().and_then(|(cache, key)| cache.get(key)) {
            return Ok(image);
        }
        let source = Source {
            name: &file,
            text: &text,
            headers: &headers,
            options: &options,
        };
        let image = self.nvrtc.compile(source, &arch).map_err(|e| match e {
            CudaError::Compile { arch, log, .. } => CudaError::Compile {
                kernel: format!("{kernel:?}"),
                arch,
                log,
            },
            e => e,
        })?;
        if let Some((cache, key)) = cache {
            cache.put(&key, &image);
        }
        Ok(image)
    }

    /// Offers the driver the machine code and, if it refuses it, the PTX of the same compilation.
    fn load(&self, kernel: &Kernel, image: &Image) -> Result<Function, CudaError> {
        let load = |bytes: &[u8]| {
            // SAFETY: an ELF file or a text that ends in a zero byte, as NVRTC made it.
            unsafe { result::module::load_data(bytes.as_ptr().cast()) }
        };
        let module = match image.cubin.is_empty() {
            false => load(&image.cubin).or_else(|_| load(&image.ptx)),
            true => load(&image.ptx),
        };
        let what = format!("load kernel {kernel:?}");
        let module = self.check(&what, module)?;
        let name = CString::new(kernel.entry).unwrap_or_default();
        // SAFETY: a module just loaded, never unloaded: the function lives as long as the context.
        let function = self.check(&what, unsafe { result::module::get_function(module, name) })?;
        // Blocks may use all the shared memory that the device allows; a kernel's own static part counts too.
        // SAFETY: a function just loaded.
        let fixed = unsafe {
            result::function::get_function_attribute(
                function,
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            )
        };
        let most = self.limits.shared_per_block as i32 - self.check(&what, fixed)?;
        // SAFETY: as above.
        let allowed = unsafe {
            result::function::set_function_attribute(
                function,
                CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                most,
            )
        };
        self.check(&what, allowed)?;
        Ok(Function(function))
    }

    /// Queues one launch.
    ///
    /// # Errors
    /// The driver's; a kernel that [`Cuda::prepare`] was not given.
    pub(super) fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        let function = {
            let known = self
                .functions
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known.get(&launch.kernel).copied()
        };
        let missing = || CudaError::Driver {
            device: self.name.clone(),
            what: format!("launch {:?}", launch.kernel),
            code: "the kernel was not prepared".to_string(),
        };
        let function = function.ok_or_else(missing)?;
        let mut args: Vec<*mut c_void> = Vec::with_capacity(launch.args.count());
        args.extend(launch.args.pointers());
        let [x, y, z] = launch.grid;
        // SAFETY: the arguments are those that the op's launch code states for this kernel; the buffers
        // they point to live as long as the program that holds the launch.
        let result = unsafe {
            if self.early {
                launch_early(function.0, launch, self.stream.cu_stream(), &mut args)
            } else {
                result::launch_kernel(
                    function.0,
                    (x, y, z),
                    (launch.threads, 1, 1),
                    launch.shared as u32,
                    self.stream.cu_stream(),
                    &mut args,
                )
            }
        };
        self.check(&format!("launch {:?}", launch.kernel), result)
    }
}

/// A launch that does not wait for the end of the kernel ahead of it.
///
/// # Safety
/// As of `cuLaunchKernel`; and the kernel waits by itself.
unsafe fn launch_early(
    function: CUfunction,
    launch: &Launch,
    stream: sys::CUstream,
    args: &mut [*mut c_void],
) -> Result<(), DriverError> {
    let mut early = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue {
            programmaticStreamSerializationAllowed: 1,
        },
    };
    let [x, y, z] = launch.grid;
    let config = sys::CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: launch.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.shared as u32,
        hStream: stream,
        attrs: &mut early,
        numAttrs: 1,
    };
    // SAFETY: the caller's promise.
    unsafe { sys::cuLaunchKernelEx(&config, function, args.as_mut_ptr(), std::ptr::null_mut()) }
        .result()
}

/// The newest CUDA that the driver knows: 12030 is 12.3.
fn driver_version() -> Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: a place for the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// NVRTC's name of the architecture; 9.0 and 10.0 with the instructions that only they have.
pub fn architecture(capability: u32) -> String {
    let suffix = if matches!(capability, 90 | 100) {
        "a"
    } else {
        ""
    };
    format!("sm_{capability}{suffix}")
}

/// Options that a kernel is compiled with, but for the architecture.
fn options(kernel: &Kernel) -> Vec<String> {
    let defines = kernel.defines.iter().map(|(n, v)| format!("-D{n}={v}"));
    ["-std=c++17", "-default-device", "-lineinfo"]
        .map(str::to_string)
        .into_iter()
        .chain(defines)
        .collect()
}

/// The text of a file: the embedded one, or that in the folder `GMMK_KERNELS`, for work on kernels
/// without building anew.
fn source(name: &str) -> Result<Cow<'static, str>, CudaError> {
    let wrong = |log: String| CudaError::Compile {
        kernel: name.to_string(),
        arch: "every device".to_string(),
        log,
    };
    if let Some(folder) = std::env::var_os("GMMK_KERNELS") {
        let path = Path::new(&folder).join(name);
        return std::fs::read_to_string(&path)
            .map(Cow::Owned)
            .map_err(|e| wrong(format!("GMMK_KERNELS: {}: {e}", path.display())));
    }
    FILES
        .iter()
        .find(|f| f.0 == name)
        .map(|f| Cow::Borrowed(f.1))
        .ok_or_else(|| wrong("no such file in kernels/".to_string()))
}

/// Everything that kernels include.
fn headers() -> Result<Vec<(&'static str, Cow<'static, str>)>, CudaError> {
    FILES
        .iter()
        .filter(|f| f.0.ends_with(".cuh"))
        .map(|f| Ok((f.0, source(f.0)?)))
        .collect()
}
