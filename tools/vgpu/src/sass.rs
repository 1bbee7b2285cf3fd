//! What ptxas makes of a module: registers, spills, and which SASS stands behind each line of PTX.

use crate::count::Counts;
use crate::decode::kernel::Kernel;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One kernel's machine code in numbers.
#[derive(Clone, Debug, Default)]
pub struct KernelSass {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes spilled, stores and loads together.
    pub spills: u32,
    /// Opcodes by the PTX line that they come from, with their number there.
    pub lines: HashMap<u32, Vec<(String, u64)>>,
    /// Instructions that no line was given for.
    pub unplaced: u64,
}

impl KernelSass {
    /// Executed instructions by opcode: each line's, as often as the line ran.
    pub fn executed(&self, kernel: &Kernel, counts: &Counts) -> BTreeMap<String, u64> {
        let mut runs: HashMap<u32, u64> = HashMap::new();
        for (source, line) in kernel.source.iter().zip(&counts.lines) {
            let entry = runs.entry(source.ptx).or_default();
            *entry = (*entry).max(line.runs);
        }
        let mut out = BTreeMap::new();
        for (line, ops) in &self.lines {
            for (op, count) in ops {
                *out.entry(op.clone()).or_default() += count * runs.get(line).copied().unwrap_or(0);
            }
        }
        out
    }
}

/// A tool of the CUDA toolkit: in `VGPU_CUDA_BIN`, beside NVRTC's wheel, in `CUDA_HOME`, or on `PATH`.
pub fn tool(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for var in ["VGPU_CUDA_BIN", "CUDA_HOME", "CUDA_PATH"] {
        if let Some(dir) = std::env::var_os(var) {
            folders.extend([PathBuf::from(&dir), Path::new(&dir).join("bin")]);
        }
    }
    if let Some(nvrtc) = std::env::var_os("GMMK_NVRTC") {
        let at = PathBuf::from(nvrtc);
        folders.extend(at.ancestors().take(3).map(|p| p.join("bin")));
    }
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    folders.push(PathBuf::from("/usr/local/cuda/bin"));
    folders
        .into_iter()
        .map(|d| d.join(name))
        .find(|p| p.is_file())
}

/// Every kernel of a module, by name.
///
/// # Errors
///
/// No ptxas or nvdisasm, or what they said.
pub fn analyse(ptx: &str, target: &str) -> Result<HashMap<String, KernelSass>, String> {
    let (Some(ptxas), Some(nvdisasm)) = (tool("ptxas"), tool("nvdisasm")) else {
        return Err(
            "no ptxas or nvdisasm (pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm)".to_owned(),
        );
    };
    let dir = std::env::temp_dir().join(format!("vgpu-{}-{:x}", std::process::id(), hash(ptx)));
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let result = in_folder(&dir, ptx, target, &ptxas, &nvdisasm);
    let _ = std::fs::remove_dir_all(&dir);
    result
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn in_folder(
    dir: &Path,
    ptx: &str,
    target: &str,
    ptxas: &Path,
    nvdisasm: &Path,
) -> Result<HashMap<String, KernelSass>, String> {
    let write = |name: &str, text: &str| {
        std::fs::write(dir.join(name), text).map_err(|e| format!("{name}: {e}"))
    };
    write("k.ptx", ptx)?;
    let plain = run(Command::new(ptxas).current_dir(dir).args([
        "-v",
        &format!("-arch={target}"),
        "k.ptx",
        "-o",
        "plain.cubin",
    ]))?;
    let mut kernels = resources(&plain);
    // Lines may change the schedule: registers come from the build without them.
    write("lines.ptx", &with_lines(ptx))?;
    run(Command::new(ptxas).current_dir(dir).args([
        "-lineinfo",
        &format!("-arch={target}"),
        "lines.ptx",
        "-o",
        "lines.cubin",
    ]))?;
    let text = run(Command::new(nvdisasm)
        .current_dir(dir)
        .args(["-c", "-g", "lines.cubin"]))?;
    place(&text, &mut kernels);
    Ok(kernels)
}

fn run(command: &mut Command) -> Result<String, String> {
    let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    if out.status.success() {
        Ok(text)
    } else {
        Err(format!("{command:?}: {text}"))
    }
}

/// The module with its own line numbers before every statement, and without others.
fn with_lines(ptx: &str) -> String {
    let mut out = String::new();
    let mut section = false;
    let (mut depth, mut placed) = (0i32, false);
    for (n, line) in ptx.lines().enumerate() {
        let t = line.trim_start();
        if t.starts_with(".section") {
            section = true;
        }
        if section || t.starts_with(".loc") || t.starts_with(".file") {
            section = section && !t.starts_with('}');
            out.push('\n');
            continue;
        }
        if t.starts_with(".target") {
            // Debug targets carry sections that are left out here.
            out += &line.replace(", debug", "");
            out.push('\n');
            continue;
        }
        if t.starts_with(".address_size") && !placed {
            placed = true;
            out += line;
            out += "\n.file 1 \"k.ptx\"\n";
            continue;
        }
        let statement =
            depth > 0 && (t.starts_with(|c: char| c.is_ascii_alphabetic()) || t.starts_with('@'));
        if statement && !t.contains(": ") && !t.ends_with(':') && !t.starts_with("$") {
            out += &format!(".loc 1 {} 0\n", n + 1);
        }
        depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
        out += line;
        out.push('\n');
    }
    out
}

/// Registers and spills from `ptxas -v`.
fn resources(text: &str) -> HashMap<String, KernelSass> {
    let mut kernels: HashMap<String, KernelSass> = HashMap::new();
    let mut name = String::new();
    let number = |line: &str, word: &str| -> Option<u32> {
        let before = line.split(word).next()?;
        before
            .trim_end()
            .rsplit(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    for line in text.lines() {
        if let Some(quoted) = line.split('\'').nth(1)
            && line.contains("Compiling entry function")
        {
            name = quoted.to_owned();
            kernels.entry(name.clone()).or_default();
        }
        let Some(kernel) = kernels.get_mut(&name) else {
            continue;
        };
        if line.contains("bytes spill stores") {
            kernel.spills = number(line, " bytes spill stores").unwrap_or(0)
                + number(line, " bytes spill loads").unwrap_or(0);
        }
        if let Some(r) = line
            .contains(" registers")
            .then(|| number(line, " registers"))
            .flatten()
        {
            kernel.registers = r;
        }
    }
    kernels
}

/// Gives every instruction of a disassembly to the PTX line before it.
fn place(text: &str, kernels: &mut HashMap<String, KernelSass>) {
    let (mut name, mut at) = (String::new(), None);
    for line in text.lines() {
        let t = line.trim();
        if let Some(section) = t.strip_prefix(".section").map(str::trim) {
            if let Some(rest) = section.strip_prefix(".text.") {
                name = rest.split([',', ' ', '\t']).next().unwrap_or("").to_owned();
                at = None;
            }
            continue;
        }
        if t.starts_with("//##") {
            at = t
                .split("line ")
                .nth(1)
                .and_then(|s| s.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
            continue;
        }
        let Some(kernel) = kernels.get_mut(&name) else {
            continue;
        };
        // /*0010*/   @!P0 IMAD.MOV R1, ... ;
        let Some(rest) = t
            .strip_prefix("/*")
            .and_then(|s| s.split_once("*/"))
            .map(|s| s.1.trim())
        else {
            continue;
        };
        let op = rest
            .split_whitespace()
            .find(|w| !w.starts_with('@'))
            .unwrap_or("")
            .trim_end_matches(';');
        let op = op.split('.').next().unwrap_or("");
        if op.is_empty()
            || !op
                .bytes()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            || op == "NOP"
        {
            continue;
        }
        let Some(line) = at else {
            kernel.unplaced += 1;
            continue;
        };
        let ops = kernel.lines.entry(line).or_default();
        match ops.iter_mut().find(|(o, _)| o == op) {
            Some((_, n)) => *n += 1,
            None => ops.push((op.to_owned(), 1)),
        }
    }
}
