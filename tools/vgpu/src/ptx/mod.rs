//! The text side: tokens, statements and types of a PTX module.

pub mod lex;
pub mod parse;
pub mod types;
