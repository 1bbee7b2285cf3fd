//! What a PTX module says: variables, functions, statements, operands.

use super::types::{Space, Ty};
use std::collections::HashMap;

/// A parsed module.
#[derive(Debug, Default)]
pub struct Module<'a> {
    /// `.target`'s first word, such as `sm_80`.
    pub target: &'a str,
    /// Variables of the module in `.global`, `.const` and `.shared`.
    pub vars: Vec<Var<'a>>,
    /// Kernels and device functions, in order.
    pub funcs: Vec<Func<'a>>,
    /// Source files by number.
    pub files: HashMap<u64, &'a str>,
}

/// A variable or parameter.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Var<'a> {
    pub name: &'a str,
    pub space: Space,
    pub ty: Ty,
    pub align: u32,
    /// Bytes; 0 for `x[]`.
    pub size: u64,
    pub external: bool,
    pub init: Vec<Init<'a>>,
}

/// One element of an initialiser.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Init<'a> {
    Bits(u64),
    Symbol(&'a str, i64),
}

/// A kernel or a device function.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Func<'a> {
    pub name: &'a str,
    pub entry: bool,
    pub params: Vec<Var<'a>>,
    pub rets: Vec<Var<'a>>,
    /// `None` for a prototype.
    pub body: Option<Vec<Stmt<'a>>>,
    pub maxntid: Option<[u32; 3]>,
    pub reqntid: Option<[u32; 3]>,
}

/// A statement and where it stands.
#[derive(Debug)]
pub struct Stmt<'a> {
    /// The PTX line, from 1.
    pub line: u32,
    /// Source file's number and line from `.loc`, or zeros.
    pub loc: (u32, u32),
    /// What it is.
    pub what: What<'a>,
}

/// Kinds of statement.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum What<'a> {
    Open,
    Close,
    Label(&'a str),
    /// Registers `(prefix or name, Some(count))`.
    Reg(Ty, Vec<(&'a str, Option<u32>)>),
    Var(Var<'a>),
    Targets(Vec<&'a str>),
    Inst(Ins<'a>),
}

/// An instruction.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Ins<'a> {
    pub guard: Option<(&'a str, bool)>,
    pub op: &'a str,
    pub args: Vec<Arg<'a>>,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Arg<'a> {
    Name(&'a str),
    /// A name and an offset in bytes.
    Plus(&'a str, i64),
    Not(&'a str),
    Int(u64),
    F32(u32),
    F64(u64),
    /// `{a, b}`.
    Vec(Vec<Arg<'a>>),
    /// `(a, b)`.
    List(Vec<Arg<'a>>),
    /// `[base+offset]`.
    Mem(Option<&'a str>, i64),
    /// `[base, {a, b}]`.
    Box(&'a str, Vec<Arg<'a>>),
    /// `a|b`.
    Pair(&'a str, &'a str),
}
