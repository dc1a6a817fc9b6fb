//! The output folder: results appear complete or not at all, and only in a folder that imagegen
//! owns.
//!
//! [`Change`] writes everything to a staging folder inside it, syncs, and then moves each result to
//! its place in one step: a folder by exchange, a file by rename. After a kill at any moment every
//! result in place is complete, and the next run removes the staging folder. [`manifest`] records
//! the digests; this module does not know what the results are.

pub mod beneath;
mod change;
mod folder;
pub mod manifest;
mod tree;

pub use self::change::Change;
pub use self::folder::Folder;
pub use self::tree::Tree;
