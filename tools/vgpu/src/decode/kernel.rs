//! A decoded kernel, and the builder that lays out its registers and variables.

use crate::count::Class;
use crate::exec::control;
use crate::exec::cx::{FULL, Inst, NONE, Run};
use crate::exec::nan::Floats;
use crate::exec::warp::Special;
use crate::ptx::parse::{Arg, Func, Ins};
use crate::ptx::types::{Space, Ty};
use std::collections::HashMap;

/// Where an instruction comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    /// The PTX line, from 1.
    pub ptx: u32,
    /// The source file's number, or 0.
    pub file: u32,
    /// The source line, or 0.
    pub line: u32,
}

/// A kernel's parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Bytes from the start of the parameters.
    pub offset: u32,
    /// Its bytes.
    pub size: u32,
}

/// A kernel ready to run.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Kernel {
    pub name: String,
    pub code: Vec<Inst>,
    /// Operand lists of instructions with many.
    pub lists: Vec<u32>,
    pub source: Vec<Source>,
    pub rows32: u32,
    pub rows64: u32,
    pub preds: u32,
    /// Constants' rows.
    pub init32: Vec<(u32, u32)>,
    pub init64: Vec<(u32, u64)>,
    pub specials: Vec<(u32, Special)>,
    pub specials64: Vec<(u32, Special)>,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    pub shared_bytes: u32,
    /// Local memory of one lane.
    pub local_bytes: u32,
    /// log2 of the smallest access to shared memory.
    pub granule: u32,
    pub maxntid: Option<[u32; 3]>,
    pub reqntid: Option<[u32; 3]>,
    /// Format strings and messages of built-in calls.
    pub texts: Vec<String>,
}

/// What a name means.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Symbol {
    R32(u32),
    R64(u32),
    Pred(u32),
    /// A variable's address in its space.
    Var(Space, u64),
    Label(u32),
    /// A list of labels.
    Table(u32),
}

/// Names of the module: variables and functions.
pub struct Names<'m, 'a> {
    /// Variables by name.
    pub vars: HashMap<&'a str, (Space, u64)>,
    /// Device functions by name.
    pub funcs: HashMap<&'a str, &'m Func<'a>>,
}

/// One level of `{ }`.
#[derive(Default)]
pub struct Scope<'a> {
    names: HashMap<&'a str, Symbol>,
    ranges: HashMap<&'a str, (Symbol, u32)>,
}

/// Builds one kernel.
pub struct Builder<'m, 'a> {
    /// The kernel so far.
    pub kernel: Kernel,
    /// Names of the module.
    pub names: &'m Names<'m, 'a>,
    /// Open scopes, innermost last.
    pub scopes: Vec<Scope<'a>>,
    /// Instructions by label.
    pub labels: Vec<u32>,
    /// Branches to resolve: instruction and label.
    pub fixups: Vec<(usize, u32)>,
    /// Lists of labels to resolve: positions in `lists`.
    pub list_fixups: Vec<(usize, u32)>,
    /// Lists of labels by number.
    pub tables: Vec<Vec<&'a str>>,
    /// The statement's source.
    pub at: Source,
    /// The statement's guard.
    pub guard: (u32, u32),
    /// Label behind an inlined function, innermost last.
    pub returns: Vec<u32>,
    /// The label before this statement.
    pub last_label: &'a str,
    /// Rows of 16-bit registers.
    pub narrow: Vec<std::ops::Range<u32>>,
    /// Functions being inlined.
    pub inlining: Vec<&'a str>,
    const32: HashMap<u32, u32>,
    const64: HashMap<u64, u32>,
    special_rows: HashMap<(Special, bool), u32>,
}

impl<'a> Scope<'a> {
    /// Gives a name a meaning.
    pub fn define(&mut self, name: &'a str, symbol: Symbol) {
        self.names.insert(name, symbol);
    }
}

impl<'m, 'a> Builder<'m, 'a> {
    /// An empty kernel.
    pub fn new(name: &str, names: &'m Names<'m, 'a>) -> Self {
        Builder {
            kernel: Kernel {
                name: name.to_owned(),
                granule: 4,
                ..Kernel::default()
            },
            names,
            scopes: vec![Scope::default()],
            labels: Vec::new(),
            fixups: Vec::new(),
            list_fixups: Vec::new(),
            tables: Vec::new(),
            at: Source::default(),
            guard: (NONE, 0),
            returns: Vec::new(),
            last_label: "",
            narrow: Vec::new(),
            inlining: Vec::new(),
            const32: HashMap::new(),
            const64: HashMap::new(),
            special_rows: HashMap::new(),
        }
    }

    /// Gives a name a meaning in the innermost scope.
    pub fn define(&mut self, name: &'a str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name, symbol);
        }
    }

    /// Declares one register, or `count` with numbers behind the name.
    pub fn declare(&mut self, ty: Ty, name: &'a str, count: Option<u32>) -> Result<(), String> {
        let n = count.unwrap_or(1);
        let first = match ty {
            Ty::Pred => {
                self.kernel.preds += n;
                Symbol::Pred(self.kernel.preds - n)
            }
            Ty::B128 => return Err("registers of 128 bits are not supported".to_owned()),
            _ if ty.size() == 8 => Symbol::R64(self.rows64(n)),
            _ => {
                let first = self.rows32(n);
                if ty.size() == 2 {
                    self.narrow.push(first..first + n);
                }
                Symbol::R32(first)
            }
        };
        if let Some(scope) = self.scopes.last_mut() {
            match count {
                Some(n) => {
                    scope.ranges.insert(name, (first, n));
                }
                None => {
                    scope.names.insert(name, first);
                }
            }
        }
        Ok(())
    }

    /// New 32-bit rows.
    pub fn rows32(&mut self, n: u32) -> u32 {
        self.kernel.rows32 += n;
        self.kernel.rows32 - n
    }

    /// New 64-bit rows.
    pub fn rows64(&mut self, n: u32) -> u32 {
        self.kernel.rows64 += n;
        self.kernel.rows64 - n
    }

    /// A new label, yet without a place.
    pub fn label(&mut self) -> u32 {
        self.labels.push(NONE);
        self.labels.len() as u32 - 1
    }

    /// Puts a label before the next instruction.
    pub fn place(&mut self, label: u32) {
        self.labels[label as usize] = self.kernel.code.len() as u32;
    }

    /// What a name means, if anything.
    pub fn find(&self, name: &str) -> Option<Symbol> {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[stem.len()..].parse::<u32>().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some(*symbol);
            }
            if let (Some(n), Some((first, count))) = (number, scope.ranges.get(stem))
                && n < *count
            {
                return Some(match *first {
                    Symbol::R32(r) => Symbol::R32(r + n),
                    Symbol::R64(r) => Symbol::R64(r + n),
                    Symbol::Pred(r) => Symbol::Pred(r + n),
                    other => other,
                });
            }
        }
        self.names
            .vars
            .get(name)
            .map(|&(space, address)| Symbol::Var(space, address))
    }

    /// The row of a 32-bit constant.
    pub fn const32(&mut self, value: u32) -> u32 {
        if let Some(row) = self.const32.get(&value) {
            return *row;
        }
        let row = self.rows32(1);
        self.kernel.init32.push((row, value));
        self.const32.insert(value, row);
        row
    }

    /// The row of a 64-bit constant.
    pub fn const64(&mut self, value: u64) -> u32 {
        if let Some(row) = self.const64.get(&value) {
            return *row;
        }
        let row = self.rows64(1);
        self.kernel.init64.push((row, value));
        self.const64.insert(value, row);
        row
    }

    fn special(&mut self, special: Special, wide: bool) -> u32 {
        if let Some(row) = self.special_rows.get(&(special, wide)) {
            return *row;
        }
        let row = if wide { self.rows64(1) } else { self.rows32(1) };
        let list = if wide {
            &mut self.kernel.specials64
        } else {
            &mut self.kernel.specials
        };
        list.push((row, special));
        self.special_rows.insert((special, wide), row);
        row
    }

    /// A constant of a type, as the bits that its register holds.
    fn constant(arg: &Arg<'_>, ty: Ty) -> Option<u64> {
        let bits = match (arg.clone(), ty) {
            (Arg::Int(v), Ty::F32) => u64::from((v as i64 as f32).to_bits()),
            (Arg::Int(v), Ty::F64) => (v as i64 as f64).to_bits(),
            (Arg::Int(v), _) => v,
            (Arg::F32(v), Ty::F64) => f64::from(f32::from_bits(v)).to_bits(),
            (Arg::F32(v), _) => u64::from(v),
            (Arg::F64(v), Ty::F64 | Ty::B64 | Ty::U64 | Ty::S64) => v,
            (Arg::F64(v), _) => u64::from((f64::from_bits(v) as f32).to_bits()),
            _ => return None,
        };
        Some(match ty.size() {
            1 => bits & 0xff,
            2 => bits & 0xffff,
            4 => bits & 0xffff_ffff,
            _ => bits,
        })
    }

    /// A variable's address as it appears in a register: in its own space.
    pub fn address(&self, name: &str) -> Option<u64> {
        match self.find(name) {
            Some(Symbol::Var(_, address)) => Some(address),
            _ => None,
        }
    }

    /// The row that an operand of a type is read from: registers, constants, special registers, addresses.
    pub fn src(&mut self, arg: &Arg<'a>, ty: Ty) -> Result<u32, String> {
        let wide = ty.size() == 8;
        if let Some(bits) = Self::constant(arg, ty) {
            return Ok(if wide {
                self.const64(bits)
            } else {
                self.const32(bits as u32)
            });
        }
        let (name, offset) = match *arg {
            Arg::Name(name) => (name, 0),
            Arg::Plus(name, offset) => (name, offset),
            _ => return Err(format!("unexpected operand {arg:?}")),
        };
        match self.find(name) {
            Some(Symbol::R32(row)) if !wide => Ok(row),
            Some(Symbol::R64(row)) if wide => Ok(row),
            Some(Symbol::Var(_, address)) => {
                let address = address.wrapping_add(offset as u64);
                Ok(if wide {
                    self.const64(address)
                } else {
                    self.const32(address as u32)
                })
            }
            Some(symbol) => Err(format!(
                "{name} is {symbol:?}, but the operand has type {ty:?}"
            )),
            None if name == "WARP_SZ" => Ok(if wide {
                self.const64(32)
            } else {
                self.const32(32)
            }),
            None => match Special::named(name) {
                Some(special) => Ok(self.special(special, wide)),
                None => Err(format!("unknown name {name}")),
            },
        }
    }

    /// The row that a result of a type is written to; `_` is a row nobody reads.
    pub fn dst(&mut self, arg: &Arg<'a>, ty: Ty) -> Result<u32, String> {
        let wide = ty.size() == 8;
        let Arg::Name(name) = *arg else {
            return Err(format!("unexpected result {arg:?}"));
        };
        match self.find(name) {
            Some(Symbol::R32(row)) if !wide => Ok(row),
            Some(Symbol::R64(row)) if wide => Ok(row),
            None if name == "_" => Ok(if wide { self.rows64(1) } else { self.rows32(1) }),
            found => Err(format!(
                "{name} is {found:?}, but the result has type {ty:?}"
            )),
        }
    }

    /// Whether an operand is a 64-bit register.
    pub fn is_wide(&self, arg: &Arg<'a>) -> bool {
        matches!(arg, Arg::Name(name) if matches!(self.find(name), Some(Symbol::R64(_))))
    }

    /// Whether an operand is a 16-bit register.
    pub fn is_narrow(&self, arg: &Arg<'a>) -> bool {
        let Arg::Name(name) = arg else { return false };
        matches!(self.find(name), Some(Symbol::R32(row)) if self.narrow.iter().any(|r| r.contains(&row)))
    }

    /// Notes an access to shared memory (or to an address that may lie there) of so many bytes.
    pub fn shared_access(&mut self, bytes: u32) {
        self.kernel.granule = self.kernel.granule.min(bytes.trailing_zeros());
    }

    /// A predicate's row and whether it is negated; `_` is `NONE`.
    pub fn pred(&self, arg: &Arg<'a>) -> Result<(u32, bool), String> {
        let (name, not) = match *arg {
            Arg::Name("_") => return Ok((NONE, false)),
            Arg::Name(name) => (name, false),
            Arg::Not(name) => (name, true),
            _ => return Err(format!("{arg:?} is no predicate")),
        };
        match self.find(name) {
            Some(Symbol::Pred(row)) => Ok((row, not)),
            found => Err(format!("{name} is {found:?}, not a predicate")),
        }
    }

    /// A predicate source, constants allowed: a new predicate holds them.
    pub fn pred_src(&mut self, arg: &Arg<'a>) -> Result<(u32, bool), String> {
        if let Arg::Int(v) = arg {
            let row = self.kernel.preds;
            self.kernel.preds += 1;
            let mut inst = self.inst(control::set_pred);
            (inst.d, inst.imm) = (row, if *v == 0 { 0 } else { u64::from(FULL) });
            inst.guard = NONE;
            self.emit(inst);
            return Ok((row, false));
        }
        self.pred(arg)
    }

    /// An instruction with the statement's guard and nothing else.
    pub fn inst(&self, run: Run) -> Inst {
        Inst {
            run,
            d: NONE,
            a: 0,
            b: 0,
            c: 0,
            list: NONE,
            imm: 0,
            guard: self.guard.0,
            flip: self.guard.1,
            class: Class::Other,
            floats: Floats::default(),
        }
    }

    /// Appends an instruction.
    pub fn emit(&mut self, inst: Inst) {
        self.kernel.code.push(inst);
        self.kernel.source.push(self.at);
    }

    /// Appends an operand list.
    pub fn list(&mut self, items: &[u32]) -> u32 {
        self.kernel.lists.extend_from_slice(items);
        (self.kernel.lists.len() - items.len()) as u32
    }

    /// `op d, a, b, c`: the first operand is the result, all others have one type.
    pub fn plain(
        &mut self,
        ins: &Ins<'a>,
        run: Run,
        ty: Ty,
        class: Class,
        imm: u64,
    ) -> Result<(), String> {
        let types = [ty; 3];
        self.typed(
            ins,
            run,
            ty,
            &types[..ins.args.len().saturating_sub(1).min(3)],
            class,
            imm,
        )
    }

    /// `op d, a, b, c` with a type for each.
    pub fn typed(
        &mut self,
        ins: &Ins<'a>,
        run: Run,
        d: Ty,
        types: &[Ty],
        class: Class,
        imm: u64,
    ) -> Result<(), String> {
        if ins.args.len() != types.len() + 1 {
            return Err(format!(
                "{} operands, expected {}",
                ins.args.len(),
                types.len() + 1
            ));
        }
        let mut inst = self.inst(run);
        let mut rows = [0; 3];
        for (n, ty) in types.iter().enumerate() {
            rows[n] = self.src(&ins.args[n + 1], *ty)?;
        }
        (inst.a, inst.b, inst.c) = (rows[0], rows[1], rows[2]);
        inst.d = self.dst(&ins.args[0], d)?;
        (inst.class, inst.imm) = (class, imm);
        inst.floats = Floats::of(d, types);
        self.emit(inst);
        Ok(())
    }

    /// As `typed`, with the operands in a list.
    pub fn typed_list(
        &mut self,
        ins: &Ins<'a>,
        run: Run,
        d: Ty,
        types: &[Ty],
        class: Class,
    ) -> Result<(), String> {
        if ins.args.len() != types.len() + 1 {
            return Err(format!(
                "{} operands, expected {}",
                ins.args.len(),
                types.len() + 1
            ));
        }
        let mut rows = Vec::new();
        for (arg, ty) in ins.args[1..].iter().zip(types) {
            rows.push(self.src(arg, *ty)?);
        }
        let mut inst = self.inst(run);
        inst.d = self.dst(&ins.args[0], d)?;
        inst.list = self.list(&rows);
        inst.class = class;
        self.emit(inst);
        Ok(())
    }
}
