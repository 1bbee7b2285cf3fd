//! The text side: tokens, statements and types of a PTX module.

pub mod ast;
pub mod lex;
pub mod parse;
pub mod types;
