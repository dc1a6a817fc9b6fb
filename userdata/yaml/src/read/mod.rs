//! Reads a text into a typed value: events to a tree, the tree to the type, recovery after errors.

mod access;
pub(crate) mod de;
mod input;
mod key;
mod marks;
mod node;
pub(crate) mod recover;
pub(crate) mod scalar;
pub(crate) mod tree;
