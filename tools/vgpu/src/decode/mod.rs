//! From statements to instructions ready to run.

pub mod bulk;
pub mod compare;
pub mod cvt;
pub mod float;
pub mod flow;
pub mod int;
pub mod kernel;
pub mod matrix;
pub mod mbarrier;
pub mod memory;
pub mod moves;
pub mod op;
pub mod wgmma;
pub mod wmma;

use crate::exec::cx::NONE;
use crate::exec::memory::Memory;
use crate::ptx::parse::{Func, Init, Ins, Module, Stmt, Var, What, parse};
use crate::ptx::types::Space;
use kernel::{Builder, Kernel, Names, Param, Source, Symbol};
use op::Op;
use std::collections::HashMap;

/// A module's text, for messages.
#[derive(Debug, Default)]
pub struct ModuleText {
    text: String,
    starts: Vec<usize>,
    files: HashMap<u64, String>,
}

impl ModuleText {
    fn new(text: &str) -> ModuleText {
        let mut starts = vec![0];
        starts.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, c)| *c == b'\n')
                .map(|(n, _)| n + 1),
        );
        ModuleText {
            text: text.to_owned(),
            starts,
            files: HashMap::new(),
        }
    }

    /// Line `n`, from 1.
    pub fn line(&self, n: u32) -> &str {
        let Some(from) = self.starts.get((n as usize).wrapping_sub(1)) else {
            return "";
        };
        self.text[*from..].lines().next().unwrap_or("").trim()
    }

    /// A source file's name.
    pub fn file(&self, n: u32) -> &str {
        self.files.get(&u64::from(n)).map_or("", |s| s)
    }

    /// All of it.
    pub fn all(&self) -> &str {
        &self.text
    }
}

/// A loaded module.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Loaded {
    pub text: ModuleText,
    /// Kernels, or why they cannot run.
    pub kernels: HashMap<String, Result<Kernel, String>>,
    /// Variables in global memory: address and bytes.
    pub globals: HashMap<String, (u64, u64)>,
    /// `.target`.
    pub target: String,
    /// Machine code in numbers, once it was asked for.
    pub sass: std::sync::OnceLock<HashMap<String, crate::sass::KernelSass>>,
}

/// Loads PTX text: places its variables in memory and decodes its kernels.
///
/// # Errors
///
/// Text that is no PTX, or variables that do not fit.
pub fn load(text: &str, memory: &mut Memory) -> Result<Loaded, String> {
    let module = parse(text)?;
    let mut names = Names {
        vars: HashMap::new(),
        funcs: HashMap::new(),
    };
    let mut loaded = Loaded {
        text: ModuleText::new(text),
        kernels: HashMap::new(),
        globals: HashMap::new(),
        target: module.target.trim_end_matches(',').to_owned(),
        sass: Default::default(),
    };
    loaded.text.files = module
        .files
        .iter()
        .map(|(n, s)| (*n, (*s).to_owned()))
        .collect();
    place(&module, &mut names, &mut loaded, memory)?;
    let mut dynamic = Vec::new();
    for var in module.vars.iter().filter(|v| v.space == Space::Shared) {
        dynamic.push(var);
    }
    for func in module.funcs.iter().filter(|f| f.body.is_some()) {
        names.funcs.insert(func.name, func);
    }
    for func in module.funcs.iter().filter(|f| f.entry && f.body.is_some()) {
        let kernel =
            kernel(func, &names, &dynamic).map_err(|e| format!("kernel {}: {e}", func.name));
        loaded.kernels.insert(func.name.to_owned(), kernel);
    }
    Ok(loaded)
}

/// Gives the module's `.global` and `.const` variables addresses and contents.
fn place<'a>(
    module: &Module<'a>,
    names: &mut Names<'_, 'a>,
    loaded: &mut Loaded,
    memory: &mut Memory,
) -> Result<(), String> {
    let own = |v: &&Var<'a>| matches!(v.space, Space::Global | Space::Const);
    for var in module.vars.iter().filter(own) {
        let address = memory
            .alloc(var.size.max(1))
            .ok_or_else(|| format!("no room for {}", var.name))?;
        names.vars.insert(var.name, (Space::Global, address));
        loaded
            .globals
            .insert(var.name.to_owned(), (address, var.size));
    }
    for var in module.vars.iter().filter(own) {
        let (_, address) = names.vars[var.name];
        // Variables without initialiser are zero.
        let mut bytes = vec![0; var.size as usize];
        let width = var.ty.size() as usize;
        for (n, init) in var.init.iter().enumerate() {
            let value = match init {
                Init::Bits(bits) => *bits,
                Init::Symbol(name, offset) => {
                    let (_, base) = names
                        .vars
                        .get(name)
                        .ok_or_else(|| format!("unknown name {name}"))?;
                    base.wrapping_add(*offset as u64)
                }
            };
            if let Some(out) = bytes.get_mut(n * width..(n + 1) * width) {
                out.copy_from_slice(&value.to_le_bytes()[..width.min(8)]);
            }
        }
        memory.write(address, &bytes);
    }
    Ok(())
}

/// Decodes one kernel.
fn kernel<'a>(
    func: &Func<'a>,
    names: &Names<'_, 'a>,
    shared: &[&Var<'a>],
) -> Result<Kernel, String> {
    let mut b = Builder::new(func.name, names);
    (b.kernel.maxntid, b.kernel.reqntid) = (func.maxntid, func.reqntid);
    let mut known = Vec::new();
    for var in &func.params {
        let offset = b.kernel.param_bytes.next_multiple_of(var.align.max(1));
        let size = var.size as u32;
        b.kernel.params.push(Param { offset, size });
        b.kernel.param_bytes = offset + size;
        known.push((var.name, Symbol::Var(Space::Param, u64::from(offset))));
    }
    // Static shared variables first, `x[]` behind all of them.
    let uses = |name: &str| mentions(func, names, name);
    for var in shared.iter().filter(|v| v.size > 0 && uses(v.name)) {
        let symbol = allocate(&mut b, var);
        b.define(var.name, symbol);
    }
    for var in function_vars(func).filter(|v| v.space == Space::Shared) {
        let symbol = allocate(&mut b, var);
        known.push((var.name, symbol));
    }
    for var in shared.iter().filter(|v| v.size == 0) {
        let at = b.kernel.shared_bytes.next_multiple_of(var.align.max(1));
        if uses(var.name) {
            b.kernel.shared_bytes = at;
        }
        b.define(var.name, Symbol::Var(Space::Shared, u64::from(at)));
    }
    function(&mut b, func, &known)?;
    let exit = b.inst(crate::exec::control::exit);
    b.emit(exit);
    resolve(&mut b)?;
    Ok(b.kernel)
}

/// Whether a kernel, or a function it may call, names something.
fn mentions(func: &Func<'_>, names: &Names<'_, '_>, name: &str) -> bool {
    let in_body = |f: &Func<'_>| {
        f.body.iter().flatten().any(|s| match &s.what {
            What::Inst(ins) => ins
                .args
                .iter()
                .any(|a| format!("{a:?}").contains(&format!("\"{name}\""))),
            _ => false,
        })
    };
    in_body(func) || names.funcs.values().any(|f| !f.entry && in_body(f))
}

/// The variables declared in a function.
fn function_vars<'f, 'a>(func: &'f Func<'a>) -> impl Iterator<Item = &'f Var<'a>> {
    func.body.iter().flatten().filter_map(|s| {
        if let What::Var(v) = &s.what {
            Some(v)
        } else {
            None
        }
    })
}

/// Room for a variable in shared or local memory.
fn allocate(b: &mut Builder<'_, '_>, var: &Var<'_>) -> Symbol {
    let (space, at) = match var.space {
        Space::Shared => (Space::Shared, &mut b.kernel.shared_bytes),
        _ => (Space::Local, &mut b.kernel.local_bytes),
    };
    let offset = at.next_multiple_of(var.align.max(1));
    *at = offset + var.size as u32;
    if space == Space::Local {
        *at = at.next_multiple_of(16);
    }
    Symbol::Var(space, u64::from(offset))
}

/// Decodes a function's body with what is known of its parameters.
///
/// # Errors
///
/// The first statement that cannot be decoded, with its line.
pub fn function<'a>(
    b: &mut Builder<'_, 'a>,
    func: &Func<'a>,
    known: &[(&'a str, Symbol)],
) -> Result<(), String> {
    let outer = b.scopes.split_off(1);
    open(b, func.body.as_deref().unwrap_or(&[]));
    for (name, symbol) in known {
        b.define(name, *symbol);
    }
    let body = func.body.as_deref().unwrap_or(&[]);
    for (n, stmt) in body.iter().enumerate() {
        b.at = Source {
            ptx: stmt.line,
            file: stmt.loc.0,
            line: stmt.loc.1,
        };
        statement(b, stmt, &body[n + 1..]).map_err(|e| format!("line {}: {e}", stmt.line))?;
    }
    b.scopes.truncate(1);
    b.scopes.extend(outer);
    Ok(())
}

/// Opens a scope and declares its labels.
fn open<'a>(b: &mut Builder<'_, 'a>, body: &[Stmt<'a>]) {
    b.scopes.push(kernel::Scope::default());
    let mut depth = 0;
    for stmt in body {
        match stmt.what {
            What::Open => depth += 1,
            What::Close if depth == 0 => break,
            What::Close => depth -= 1,
            What::Label(name) if depth == 0 => {
                let label = b.label();
                b.define(name, Symbol::Label(label));
            }
            _ => {}
        }
    }
}

fn statement<'a>(
    b: &mut Builder<'_, 'a>,
    stmt: &Stmt<'a>,
    rest: &[Stmt<'a>],
) -> Result<(), String> {
    match &stmt.what {
        What::Open => open(b, rest),
        What::Close => {
            b.scopes.pop();
        }
        What::Label(name) => {
            b.last_label = name;
            if let Some(Symbol::Label(label)) = b.find(name) {
                b.place(label);
            }
        }
        What::Reg(ty, names) => {
            for (name, count) in names {
                b.declare(*ty, name, *count)?;
            }
        }
        What::Var(var) if var.space == Space::Shared => {
            // A kernel's are laid out before its body, a called function's here.
            if b.find(var.name).is_none() {
                let symbol = allocate(b, var);
                b.define(var.name, symbol);
            }
        }
        What::Var(var) => {
            let symbol = allocate(b, var);
            b.define(var.name, symbol);
        }
        What::Targets(names) => table(b, names),
        What::Inst(ins) => {
            b.guard = (NONE, 0);
            if let Some((name, not)) = ins.guard {
                match b.find(name) {
                    Some(Symbol::Pred(row)) => b.guard = (row, if not { u32::MAX } else { 0 }),
                    _ => return Err(format!("{name} is no predicate")),
                }
            }
            instruction(b, ins)?;
        }
    }
    Ok(())
}

/// A list of labels belongs to the label before it.
fn table<'a>(b: &mut Builder<'_, 'a>, names: &[&'a str]) {
    b.tables.push(names.to_vec());
    let number = b.tables.len() as u32 - 1;
    b.define(b.last_label, Symbol::Table(number));
}

/// Decodes one instruction.
fn instruction<'a>(b: &mut Builder<'_, 'a>, ins: &Ins<'a>) -> Result<(), String> {
    let op = Op::new(ins.op);
    let decoders = [
        moves::decode,
        int::decode,
        float::decode,
        cvt::decode,
        mbarrier::decode,
        wmma::decode,
        wgmma_or_bulk,
        memory::decode,
        flow::decode,
    ];
    for decode in decoders {
        match decode(b, &op, ins) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(e) => return Err(format!("{}: {e}", ins.op)),
        }
    }
    Err(format!("unknown instruction {}", ins.op))
}

/// What came with sm_90.
fn wgmma_or_bulk<'a>(b: &mut Builder<'_, 'a>, op: &Op<'a>, ins: &Ins<'a>) -> Result<bool, String> {
    match op.base {
        "wgmma" => wgmma::decode(b, op, ins),
        "cp" if op.has("bulk") && op.has("tensor") => bulk::decode(b, op, ins),
        _ => Ok(false),
    }
}

/// Puts the places of labels into branches.
fn resolve(b: &mut Builder<'_, '_>) -> Result<(), String> {
    for (at, label) in std::mem::take(&mut b.fixups) {
        let to = b.labels[label as usize];
        if to == NONE {
            return Err("a branch to a label without a place".to_owned());
        }
        b.kernel.code[at].imm = u64::from(to);
    }
    for (at, label) in std::mem::take(&mut b.list_fixups) {
        b.kernel.lists[at] = b.labels[label as usize];
    }
    Ok(())
}
