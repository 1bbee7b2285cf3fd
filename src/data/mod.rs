//! Pictures and their attributes: where they come from, how they are packed, how a step gets them.

pub mod attributes;
pub mod faces;
