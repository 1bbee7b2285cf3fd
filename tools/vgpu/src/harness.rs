//! For tests: picks the device, opens its driver before the first CUDA call, reads findings.
//!
//! `GMMK_TEST_DEVICE` says which: `real`, `vgpu`, or `auto` (the default): a real device where there is
//! one, else the virtual one. The device's name is printed once.

use libloading::Library;
use std::ffi::{CString, c_char, c_int};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The device that this process's tests run on.
#[derive(Debug)]
pub struct TestDevice {
    /// Its name, as the driver gives it.
    pub name: String,
    /// It is a GPU, not the interpreter.
    pub real: bool,
    /// Compute capability.
    pub capability: [i32; 2],
    library: Library,
}

/// The device, opened at the first call.
///
/// # Panics
///
/// `GMMK_TEST_DEVICE` asks for something that is not there: nothing is skipped.
pub fn device() -> &'static TestDevice {
    static DEVICE: OnceLock<Result<TestDevice, String>> = OnceLock::new();
    let found = DEVICE.get_or_init(|| {
        let device =
            pick(&std::env::var("GMMK_TEST_DEVICE").unwrap_or_else(|_| "auto".to_owned()))?;
        eprintln!("tests run on {}", device.name);
        Ok(device)
    });
    match found {
        Ok(device) => device,
        Err(e) => panic!("{e}"),
    }
}

fn pick(which: &str) -> Result<TestDevice, String> {
    let real = || {
        ["libcuda.so.1", "libcuda.so"].iter().find_map(|name| {
            // SAFETY: loading the CUDA driver runs its initialisers, as any CUDA program does.
            let library = unsafe { Library::new(*name) }.ok()?;
            open(library).ok().filter(|d| d.real)
        })
    };
    match which {
        "real" => real()
            .ok_or("GMMK_TEST_DEVICE=real, but no CUDA driver with a device is found".to_owned()),
        "vgpu" => virtual_device(),
        "auto" | "" => real().map_or_else(virtual_device, Ok),
        other => Err(format!(
            "GMMK_TEST_DEVICE={other}: expected auto, real or vgpu"
        )),
    }
}

/// The interpreter's library: cargo lays it beside the test binary.
pub fn library_path() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
    let found = exe
        .ancestors()
        .skip(1)
        .take(3)
        .flat_map(|d| [d.join("deps/libvgpu.so"), d.join("libvgpu.so")])
        .find(|p| p.is_file());
    found.ok_or_else(|| {
        format!(
            "no libvgpu.so beside {} (cargo builds it with the tests)",
            exe.display()
        )
    })
}

fn virtual_device() -> Result<TestDevice, String> {
    let path = library_path()?;
    // SAFETY: the library is this crate; loading it runs nothing.
    let library = unsafe { Library::new(&path) }.map_err(|e| format!("{}: {e}", path.display()))?;
    let device = open(library)?;
    if device.real {
        return Err(format!(
            "{} answers with the real device {}",
            path.display(),
            device.name
        ));
    }
    // An error in one test is no error of the others.
    device.set("sticky", "thread");
    Ok(device)
}

/// Initialises a driver and asks for its first device.
fn open(library: Library) -> Result<TestDevice, String> {
    let call = |what: &str, code: u32| {
        if code == 0 {
            Ok(())
        } else {
            Err(format!("{what}: CUDA error {code}"))
        }
    };
    let missing = |e: libloading::Error| e.to_string();
    let (mut name, mut count, mut capability) = ([0 as c_char; 256], 0, [0; 2]);
    // SAFETY: these are functions of the CUDA driver API with the arguments that it documents.
    unsafe {
        let init = library
            .get::<unsafe extern "C" fn(u32) -> u32>(b"cuInit")
            .map_err(missing)?;
        call("cuInit", init(0))?;
        let get_count = library
            .get::<unsafe extern "C" fn(*mut c_int) -> u32>(b"cuDeviceGetCount")
            .map_err(missing)?;
        call("cuDeviceGetCount", get_count(&mut count))?;
        if count == 0 {
            return Err("the driver has no device".to_owned());
        }
        let get_name = library
            .get::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> u32>(b"cuDeviceGetName")
            .map_err(missing)?;
        call("cuDeviceGetName", get_name(name.as_mut_ptr(), 256, 0))?;
        let attribute = library
            .get::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> u32>(b"cuDeviceGetAttribute")
            .map_err(missing)?;
        call("cuDeviceGetAttribute", attribute(&mut capability[0], 75, 0))?;
        call("cuDeviceGetAttribute", attribute(&mut capability[1], 76, 0))?;
    }
    let bytes: Vec<u8> = name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    // SAFETY: only asks whether the symbol is there.
    let real = unsafe { library.get::<unsafe extern "C" fn()>(b"vgpu_findings") }.is_err();
    Ok(TestDevice {
        name: String::from_utf8_lossy(&bytes).into_owned(),
        real,
        capability,
        library,
    })
}

impl TestDevice {
    /// What the interpreter found wrong with this thread's kernels; nothing on a real device.
    pub fn findings(&self) -> Vec<String> {
        if self.real {
            return Vec::new();
        }
        let mut text = vec![0 as c_char; 1 << 16];
        // SAFETY: exported by this crate with these arguments.
        unsafe {
            let Ok(get) = self
                .library
                .get::<unsafe extern "C" fn(*mut c_char, usize) -> u32>(b"vgpu_findings_text")
            else {
                return vec!["the library has no vgpu_findings_text".to_owned()];
            };
            get(text.as_mut_ptr(), text.len());
        }
        let bytes: Vec<u8> = text
            .iter()
            .take_while(|c| **c != 0)
            .map(|c| *c as u8)
            .collect();
        String::from_utf8_lossy(&bytes)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Fails if a kernel of this thread did something wrong since the last call.
    ///
    /// # Panics
    ///
    /// It did.
    pub fn assert_clean(&self) {
        let findings = self.findings();
        self.clear();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// Forgets findings and errors.
    pub fn clear(&self) {
        // SAFETY: exported by this crate without arguments; absent on a real device.
        if let Ok(clear) = unsafe {
            self.library
                .get::<unsafe extern "C" fn() -> u32>(b"vgpu_clear")
        } {
            // SAFETY: as above.
            unsafe { clear() };
        }
    }

    /// Tells the interpreter how many FLOPs the next kernel of this thread does for its problem, padding left
    /// out; `false` on a real device.
    pub fn useful_flop(&self, flop: u64) -> bool {
        // SAFETY: exported by this crate with this argument.
        unsafe {
            self.library
                .get::<unsafe extern "C" fn(u64) -> u32>(b"vgpu_useful_flop")
                .is_ok_and(|tell| tell(flop) == 0)
        }
    }

    /// Sets an option of the interpreter; `false` on a real device, or when it does not know it.
    pub fn set(&self, key: &str, value: &str) -> bool {
        let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) else {
            return false;
        };
        // SAFETY: exported by this crate with these arguments.
        unsafe {
            match self
                .library
                .get::<unsafe extern "C" fn(*const c_char, *const c_char) -> u32>(b"vgpu_set")
            {
                Ok(set) => set(key.as_ptr(), value.as_ptr()) == 0,
                Err(_) => false,
            }
        }
    }

    /// Runs kernels with blocks and warps in order, backwards and shuffled, and gives their result. Races
    /// between blocks are looked for meanwhile, so a result that depends on the order comes with the address that
    /// was raced for. `run` makes its own buffers. On a real device: three plain runs.
    ///
    /// # Errors
    ///
    /// What was found, or an order whose result differs from the first one's.
    pub fn same_in_every_order<T: PartialEq>(
        &self,
        mut run: impl FnMut() -> T,
    ) -> Result<T, String> {
        let mut first = None;
        let mut wrong = Vec::new();
        self.set("race", "global");
        for order in ["forward", "reverse", "random:1"] {
            self.set("order", order);
            let result = run();
            wrong.extend(self.findings());
            self.clear();
            match &first {
                None => first = Some(result),
                Some(f) if *f != result => wrong.push(format!("order {order}: another result")),
                Some(_) => {}
            }
        }
        self.set("order", "forward");
        self.set("race", "off");
        match first {
            Some(result) if wrong.is_empty() => Ok(result),
            _ => Err(wrong.join("\n")),
        }
    }

    /// `compute_XY` for NVRTC: the device's own architecture.
    pub fn arch(&self) -> String {
        format!("compute_{}{}", self.capability[0], self.capability[1])
    }
}

/// NVRTC's file, by the rules of [`crate::nvrtc`].
pub fn nvrtc() -> Result<&'static crate::nvrtc::Nvrtc, String> {
    static NVRTC: OnceLock<Result<crate::nvrtc::Nvrtc, String>> = OnceLock::new();
    NVRTC
        .get_or_init(crate::nvrtc::Nvrtc::find)
        .as_ref()
        .map_err(Clone::clone)
}

/// PTX of CUDA source, for a test.
///
/// # Panics
///
/// No NVRTC, or source that does not compile.
pub fn compile(source: &str, name: &str, arch: &str, options: &[&str]) -> String {
    let nvrtc = nvrtc().unwrap_or_else(|e| panic!("{e}"));
    let arch = format!("-arch={arch}");
    let mut all = vec![arch.as_str(), "-lineinfo", "-default-device"];
    all.extend(options);
    nvrtc
        .ptx(source, name, &all)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}
