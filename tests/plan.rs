//! The planner from outside: stories with their plans written out, and
//! properties of plans for random projects, both on a simulated host.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "plan/properties.rs"]
mod properties;
#[path = "plan/scale.rs"]
mod scale;
#[path = "plan/stack.rs"]
mod stack;
#[path = "plan/stories.rs"]
mod stories;
#[path = "plan/world.rs"]
mod world;
