//! What the building machine needs besides imagegen's own work: programs from pinned Debian trees, a cache of slow
//! results, subprocesses with readable errors, and progress output. Knows nothing of clusters, packages or images.

pub mod cache;
pub mod debian_tree;
pub mod process;
pub mod progress;
