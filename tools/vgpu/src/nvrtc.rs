//! NVRTC, found and opened by its real path.

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// The compiler's library.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    /// The file.
    pub path: PathBuf,
}

/// What to do where NVRTC is missing.
pub const ADVICE: &str = "NVRTC is not found: run tools/test, or `pip install nvidia-cuda-nvrtc`, or point GMMK_NVRTC at libnvrtc.so";

/// Names of the library, newest first.
const NAMES: [&str; 4] = [
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so",
    "libnvrtc.so.11.2",
];

fn in_folder(dir: &Path) -> Option<PathBuf> {
    NAMES.iter().map(|n| dir.join(n)).find(|p| p.is_file())
}

/// Site-packages under a prefix: the folders of NVIDIA's wheels.
fn wheels(prefix: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(prefix.join("lib")) else {
        return Vec::new();
    };
    let pythons = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.to_string_lossy().contains("python3"));
    pythons
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
    if let Ok(entries) = std::fs::read_dir("/usr/local") {
        let cuda = entries.flatten().map(|e| e.path()).filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("cuda"))
        });
        out.extend(cuda.map(|p| p.join("lib64")));
    }
    let mut prefixes: Vec<PathBuf> = [var("VIRTUAL_ENV"), var("CONDA_PREFIX")]
        .into_iter()
        .flatten()
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let python = std::env::split_paths(&path).find(|d| d.join("python3").is_file());
    prefixes.extend(python.and_then(|d| d.parent().map(Path::to_path_buf)));
    prefixes.extend(var("HOME").map(|h| h.join(".local")));
    out.extend(prefixes.iter().flat_map(|p| wheels(p)));
    out
}

type Program = *mut c_void;

impl Nvrtc {
    /// Finds and opens it: `GMMK_NVRTC` (a file or a folder), toolkits, the loader's path, Python's wheels.
    ///
    /// # Errors
    ///
    /// One line that says how to get it.
    pub fn find() -> Result<Nvrtc, String> {
        if let Some(given) = std::env::var_os("GMMK_NVRTC").map(PathBuf::from) {
            let file = if given.is_dir() {
                in_folder(&given)
            } else {
                Some(given.clone()).filter(|p| p.is_file())
            };
            return Nvrtc::open(
                &file.ok_or_else(|| format!("GMMK_NVRTC={}: no NVRTC there", given.display()))?,
            );
        }
        if let Some(file) = folders().iter().find_map(|d| in_folder(d)) {
            return Nvrtc::open(&file);
        }
        // What the loader finds by itself.
        let found = NAMES.iter().find_map(|n| {
            // SAFETY: loading NVRTC runs its initialisers, which need nothing.
            unsafe { Library::new(*n) }.ok().map(|library| Nvrtc {
                library,
                path: n.into(),
            })
        });
        found.ok_or_else(|| ADVICE.to_owned())
    }

    /// Opens a file by its real path: its companions are looked for beside it.
    fn open(path: &Path) -> Result<Nvrtc, String> {
        let real = path
            .canonicalize()
            .map_err(|e| format!("{}: {e}", path.display()))?;
        // SAFETY: as above.
        let library =
            unsafe { Library::new(&real) }.map_err(|e| format!("{}: {e}", real.display()))?;
        Ok(Nvrtc {
            library,
            path: real,
        })
    }

    /// Compiles CUDA source to PTX.
    ///
    /// # Errors
    ///
    /// The compiler's log.
    pub fn ptx(&self, source: &str, name: &str, options: &[&str]) -> Result<String, String> {
        let mut bytes =
            self.compile(source, name, options, [b"nvrtcGetPTXSize", b"nvrtcGetPTX"])?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Compiles CUDA source to machine code; `-arch=sm_XX` says whose.
    ///
    /// # Errors
    ///
    /// The compiler's log.
    pub fn cubin(&self, source: &str, name: &str, options: &[&str]) -> Result<Vec<u8>, String> {
        self.compile(
            source,
            name,
            options,
            [b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN"],
        )
    }

    fn compile(
        &self,
        source: &str,
        name: &str,
        options: &[&str],
        [size_of, get]: [&[u8]; 2],
    ) -> Result<Vec<u8>, String> {
        let text = |s: &str| CString::new(s).map_err(|_| format!("{name}: a zero byte"));
        let (source, file) = (text(source)?, text(name)?);
        let options: Vec<CString> = options.iter().map(|o| text(o)).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: NVRTC's functions with the arguments that it documents.
        unsafe {
            let mut program: Program = std::ptr::null_mut();
            type Create = unsafe extern "C" fn(
                *mut Program,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> u32;
            let create = self.get::<Create>(b"nvrtcCreateProgram")?;
            self.check(create(
                &mut program,
                source.as_ptr(),
                file.as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            ))?;
            let compile = self
                .get::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> u32>(
                    b"nvrtcCompileProgram",
                )?;
            let code = compile(program, pointers.len() as c_int, pointers.as_ptr());
            let result = if code == 0 {
                self.output(program, size_of, get)
            } else {
                let log = self.output(program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog")?;
                Err(String::from_utf8_lossy(&log)
                    .trim_end_matches('\0')
                    .to_owned())
            };
            let destroy =
                self.get::<unsafe extern "C" fn(*mut Program) -> u32>(b"nvrtcDestroyProgram")?;
            destroy(&mut program);
            result
        }
    }

    unsafe fn get<T>(&self, name: &[u8]) -> Result<libloading::Symbol<'_, T>, String> {
        // SAFETY: the caller gives the symbol's own type.
        unsafe { self.library.get::<T>(name) }.map_err(|e| format!("{}: {e}", self.path.display()))
    }

    fn check(&self, code: u32) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: returns a string that stays.
        let words = unsafe {
            let get =
                self.get::<unsafe extern "C" fn(u32) -> *const c_char>(b"nvrtcGetErrorString")?;
            CStr::from_ptr(get(code)).to_string_lossy().into_owned()
        };
        Err(format!("NVRTC: {words}"))
    }

    unsafe fn output(
        &self,
        program: Program,
        size_of: &[u8],
        get: &[u8],
    ) -> Result<Vec<u8>, String> {
        let mut size = 0usize;
        // SAFETY: NVRTC's functions with the arguments that it documents.
        unsafe {
            self.check(self
                .get::<unsafe extern "C" fn(Program, *mut usize) -> u32>(size_of)?(
                program, &mut size,
            ))?;
            let mut bytes = vec![0u8; size];
            self.check(self
                .get::<unsafe extern "C" fn(Program, *mut c_char) -> u32>(get)?(
                program,
                bytes.as_mut_ptr().cast(),
            ))?;
            Ok(bytes)
        }
    }
}
