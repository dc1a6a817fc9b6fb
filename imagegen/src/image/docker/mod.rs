//! Container images as docker stores them, so that first boot imports nothing.

mod group;
pub mod store;

pub(super) use self::group::add as add_group;
