//! Errors and warnings with their position in the text.

pub(crate) mod diagnostic;
pub(crate) mod failure;
pub(crate) mod region;
pub(crate) mod spans;
