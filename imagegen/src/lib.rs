pub mod cache;
pub mod progress;
pub mod tool;
pub mod tree;
pub mod pki;
pub mod plan;
pub mod topology;
