//! System calls: the only place where unsafe code may stand.

pub mod netlink;
pub mod netns;
