//! NVRTC, the run-time compiler of CUDA C++: found among toolkits and Python's wheels, opened by its real
//! path (its companion library is looked for beside it), used through eleven of its functions.

use super::error::CudaError;
use libloading::{Library, Symbol};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// How to get it.
pub const ADVICE: &str = "NVRTC, which compiles the kernels, is not found: `pip install nvidia-cuda-nvrtc`, or install the CUDA toolkit, or point GMMK_NVRTC at libnvrtc.so";

/// Names of the library, newest first.
const NAMES: [&str; 4] = [
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so",
    "libnvrtc.so.11.2",
];

/// The compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    /// The file.
    pub path: PathBuf,
    /// Major and minor version.
    pub version: [i32; 2],
}

/// One compilation's results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Machine code for the architecture asked for.
    pub cubin: Vec<u8>,
    /// The intermediate code, for drivers that refuse the machine code; ends in a zero byte.
    pub ptx: Vec<u8>,
}

/// A program to compile.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name in messages.
    pub name: &'a str,
    /// The text.
    pub text: &'a str,
    /// Names and texts that `#include` finds.
    pub headers: &'a [(&'static str, std::borrow::Cow<'static, str>)],
    /// Options, such as "-DBM=128".
    pub options: &'a [String],
}

type Program = *mut c_void;

impl Nvrtc {
    /// Finds and opens it: `GMMK_NVRTC` (a file or a folder), toolkits, the loader's path, Python's wheels.
    ///
    /// # Errors
    /// One line that says how to get it.
    pub fn find() -> Result<Self, CudaError> {
        let missing = |text: String| CudaError::NoCompiler(text);
        if let Some(given) = std::env::var_os("GMMK_NVRTC").map(PathBuf::from) {
            let file = if given.is_dir() {
                in_folder(&given)
            } else {
                Some(given.clone()).filter(|p| p.is_file())
            };
            let none = || missing(format!("GMMK_NVRTC={}: no NVRTC there", given.display()));
            return Self::open(&file.ok_or_else(none)?);
        }
        if let Some(file) = folders().iter().find_map(|d| in_folder(d)) {
            return Self::open(&file);
        }
        for name in NAMES {
            // SAFETY: NVRTC's initialisers need nothing.
            if let Ok(library) = unsafe { Library::new(name) } {
                return Self::from_library(library, name.into());
            }
        }
        Err(missing(ADVICE.to_string()))
    }

    fn open(path: &Path) -> Result<Self, CudaError> {
        let wrong = |e: String| CudaError::NoCompiler(format!("{}: {e}", path.display()));
        let real = path.canonicalize().map_err(|e| wrong(e.to_string()))?;
        // SAFETY: as above.
        let library = unsafe { Library::new(&real) }.map_err(|e| wrong(e.to_string()))?;
        Self::from_library(library, real)
    }

    fn from_library(library: Library, path: PathBuf) -> Result<Self, CudaError> {
        let mut nvrtc = Self {
            library,
            path,
            version: [0; 2],
        };
        let [mut major, mut minor] = [0, 0];
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
        let version: Symbol<'_, Version> = nvrtc.symbol(b"nvrtcVersion\0")?;
        // SAFETY: two pointers to integers, as declared by NVRTC.
        unsafe { version(&mut major, &mut minor) };
        nvrtc.version = [major, minor];
        Ok(nvrtc)
    }

    fn symbol<T>(&self, name: &'static [u8]) -> Result<Symbol<'_, T>, CudaError> {
        // SAFETY: every caller names the type that NVRTC declares.
        unsafe { self.library.get(name) }
            .map_err(|e| CudaError::NoCompiler(format!("{}: {e}", self.path.display())))
    }

    /// Compiles `source` for `arch` (such as "sm_89") to machine code and PTX.
    ///
    /// # Errors
    /// The compiler's log.
    pub fn compile(&self, source: Source<'_>, arch: &str) -> Result<Image, CudaError> {
        let wrong = |log: String| CudaError::Compile {
            kernel: source.name.to_string(),
            arch: arch.to_string(),
            log,
        };
        let program = self.create(source, &wrong)?;
        let mut options = source.options.to_vec();
        options.push(format!("-arch={arch}"));
        let result = self.run(program, &options, &wrong);
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        let destroy: Symbol<'_, Destroy> = self.symbol(b"nvrtcDestroyProgram\0")?;
        let mut program = program;
        // SAFETY: made by `create`, used by nobody else.
        unsafe { destroy(&mut program) };
        result
    }

    fn create(
        &self,
        source: Source<'_>,
        wrong: &dyn Fn(String) -> CudaError,
    ) -> Result<Program, CudaError> {
        let text = |s: &str| CString::new(s).map_err(|e| wrong(e.to_string()));
        let (body, name) = (text(source.text)?, text(source.name)?);
        let mut names = Vec::new();
        let mut headers = Vec::new();
        for (name, body) in source.headers {
            names.push(text(name)?);
            headers.push(text(body)?);
        }
        let pointers = |v: &[CString]| v.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (name_ptrs, header_ptrs) = (pointers(&names), pointers(&headers));
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let create: Symbol<'_, Create> = self.symbol(b"nvrtcCreateProgram\0")?;
        let mut program = std::ptr::null_mut();
        // SAFETY: the strings outlive the call, which copies them; both lists have this length.
        let code = unsafe {
            create(
                &mut program,
                body.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                header_ptrs.as_ptr(),
                name_ptrs.as_ptr(),
            )
        };
        match code {
            0 => Ok(program),
            _ => Err(wrong(self.text(code))),
        }
    }

    fn run(
        &self,
        program: Program,
        options: &[String],
        wrong: &dyn Fn(String) -> CudaError,
    ) -> Result<Image, CudaError> {
        let options: Vec<CString> = options
            .iter()
            .map(|o| CString::new(o.as_str()).map_err(|e| wrong(e.to_string())))
            .collect::<Result<_, _>>()?;
        let pointers: Vec<_> = options.iter().map(|o| o.as_ptr()).collect();
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        let compile: Symbol<'_, Compile> = self.symbol(b"nvrtcCompileProgram\0")?;
        // SAFETY: a live program, and as many options as said.
        let code = unsafe { compile(program, pointers.len() as c_int, pointers.as_ptr()) };
        if code != 0 {
            let log = self.bytes(
                program,
                b"nvrtcGetProgramLogSize\0",
                b"nvrtcGetProgramLog\0",
            )?;
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0').trim();
            return Err(wrong(format!("{}\n{log}", self.text(code))));
        }
        Ok(Image {
            cubin: self.bytes(program, b"nvrtcGetCUBINSize\0", b"nvrtcGetCUBIN\0")?,
            ptx: self.bytes(program, b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0")?,
        })
    }

    fn bytes(
        &self,
        program: Program,
        size: &'static [u8],
        get: &'static [u8],
    ) -> Result<Vec<u8>, CudaError> {
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let size: Symbol<'_, Size> = self.symbol(size)?;
        let get: Symbol<'_, Get> = self.symbol(get)?;
        let mut length = 0;
        // SAFETY: a live program and a place for the size.
        unsafe { size(program, &mut length) };
        let mut out = vec![0_u8; length];
        // SAFETY: as many bytes as NVRTC said it writes.
        unsafe { get(program, out.as_mut_ptr().cast()) };
        Ok(out)
    }

    fn text(&self, code: c_int) -> String {
        type Text = unsafe extern "C" fn(c_int) -> *const c_char;
        let Ok(text) = self.symbol::<Text>(b"nvrtcGetErrorString\0") else {
            return format!("NVRTC error {code}");
        };
        // SAFETY: NVRTC returns a constant string for every number.
        unsafe { CStr::from_ptr(text(code)) }
            .to_string_lossy()
            .into_owned()
    }
}

fn in_folder(dir: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|n| dir.join(n)).find(|p| p.is_file())
}

/// Site-packages under a prefix, newest Python first: the folders of NVIDIA's wheels.
fn wheels(prefix: &Path) -> Vec<PathBuf> {
    let mut pythons: Vec<PathBuf> = std::fs::read_dir(prefix.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().contains("python3"))
        .collect();
    pythons.sort();
    pythons
        .iter()
        .rev()
        .flat_map(|p| {
            ["cu13/lib", "cuda_nvrtc/lib"].map(|d| p.join("site-packages/nvidia").join(d))
        })
        .collect()
}

/// Folders in which it may be, in the order of precedence.
fn folders() -> Vec<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut out = Vec::new();
    for home in [var("CUDA_HOME"), var("CUDA_PATH")].into_iter().flatten() {
        out.extend(["lib64", "lib", "targets/x86_64-linux/lib"].map(|d| home.join(d)));
    }
    if let Some(path) = var("LD_LIBRARY_PATH") {
        out.extend(std::env::split_paths(&path));
    }
    let mut toolkits: Vec<PathBuf> = std::fs::read_dir("/usr/local")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("cuda"))
        .map(|e| e.path().join("lib64"))
        .collect();
    toolkits.sort();
    out.extend(toolkits.into_iter().rev());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let python = std::env::split_paths(&path).find(|d| d.join("python3").is_file());
    let prefixes = [
        var("VIRTUAL_ENV"),
        var("CONDA_PREFIX"),
        python.and_then(|d| d.parent().map(Path::to_path_buf)),
        var("HOME").map(|h| h.join(".local")),
    ];
    out.extend(prefixes.into_iter().flatten().flat_map(|p| wheels(&p)));
    out
}
