//! Reads a text into a typed value: events to a tree, the tree to the type, recovery after errors.

mod access;
pub(crate) mod de;
mod key;
mod marks;
pub(crate) mod recover;
pub(crate) mod scalar;
pub(crate) mod tree;
