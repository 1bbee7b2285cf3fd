//! An opcode taken apart.

use crate::exec::half::Round;
use crate::exec::math::flag;
use crate::ptx::types::Ty;

/// `base.mod.mod.type`.
pub struct Op<'a> {
    /// All of it.
    pub full: &'a str,
    /// Before the first dot.
    pub base: &'a str,
    /// The rest, part by part.
    pub mods: Vec<&'a str>,
}

impl<'a> Op<'a> {
    /// Takes an opcode apart.
    pub fn new(full: &'a str) -> Self {
        let mut parts = full.split('.');
        Op {
            full,
            base: parts.next().unwrap_or(""),
            mods: parts.collect(),
        }
    }

    /// Whether a modifier is there.
    pub fn has(&self, name: &str) -> bool {
        self.mods.contains(&name)
    }

    /// The last modifier.
    pub fn last(&self) -> &'a str {
        self.mods.last().unwrap_or(&"")
    }

    /// All types, in order.
    pub fn types(&self) -> Vec<Ty> {
        self.mods.iter().filter_map(|m| Ty::named(m)).collect()
    }

    /// The last type.
    pub fn ty(&self) -> Option<Ty> {
        self.mods.iter().rev().find_map(|m| Ty::named(m))
    }

    /// Rounding and flags as a float instruction's immediate.
    pub fn float_flags(&self) -> u64 {
        let mut imm = 0;
        for m in &self.mods {
            imm |= match *m {
                "rz" | "rzi" => Round::Zero as u64,
                "rm" | "rmi" => Round::Down as u64,
                "rp" | "rpi" => Round::Up as u64,
                "rna" => Round::Away as u64,
                "ftz" => flag::FTZ,
                "sat" => flag::SAT,
                "NaN" => flag::NAN,
                "relu" => flag::RELU,
                _ => 0,
            };
        }
        imm
    }
}
